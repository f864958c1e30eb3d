//! The mutex of the files that `tests/schedules` explores. That test compiles the same files with shuttle's mutex instead.

pub(crate) use std::sync::{Mutex, MutexGuard};
