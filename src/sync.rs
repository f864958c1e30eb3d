//! The mutex of the signing queue and of the single-flight. `tests/schedules` compiles both files with shuttle's mutex instead,
//! to explore the orders of their steps.

pub(crate) use std::sync::{Mutex, MutexGuard};
