//! The lock of what `tests/schedules` runs in many orders: that test compiles the same files with shuttle's in its place.

pub use std::sync::{Mutex, MutexGuard};
