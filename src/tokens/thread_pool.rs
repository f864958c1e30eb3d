//! A fixed pool of threads of low priority, for signatures and batches that take too long for the runtime's own threads.
//!
//! It has one thread for each permit of the signing queue, two nice levels below the rest of the process. So the kernel prefers
//! the threads that answer health checks and JWKS requests. The threads start with the first long signature or batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

type Task = Box<dyn FnOnce() + Send>;

/// By how much each thread is nicer than the rest of the process (nice(2)).
const NICE_INCREMENT: i32 = 2;

pub(super) struct ThreadPool {
    threads: usize,
    tasks: OnceLock<Sender<Task>>,
}

impl ThreadPool {
    pub(crate) const fn new(threads: usize) -> Self {
        Self { threads, tasks: OnceLock::new() }
    }

    /// Runs `task` on one of the threads, or on the calling thread if none could be started.
    pub(crate) fn run(&self, task: impl FnOnce() + Send + 'static) {
        let tasks = self.tasks.get_or_init(|| start(self.threads));
        if let Err(mpsc::SendError(task)) = tasks.send(Box::new(task)) {
            task();
        }
    }
}

fn start(threads: usize) -> Sender<Task> {
    let (tasks, waiting) = mpsc::channel();
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..threads.max(1) {
        let waiting = waiting.clone();
        let started =
            std::thread::Builder::new().name("long-signatures".to_owned()).spawn(move || work(&waiting));
        if let Err(error) = started {
            tracing::warn!(
                %error,
                "can't start a thread for slow signatures: they run on the request threads and delay other \
                 answers; raise the limit of threads (ulimit -u, pids.max)"
            );
        }
    }
    tasks
}

/// Runs tasks until the pool is dropped.
fn work(waiting: &Mutex<Receiver<Task>>) {
    // On Linux this affects the calling thread alone (setpriority(2), "C library/kernel differences"). A failure is harmless.
    let _ = rustix::process::nice(NICE_INCREMENT);
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = next else { return };
        // The panic hook logs a panic. The task's dropped sender tells its receiver.
        let _ = catch_unwind(AssertUnwindSafe(task));
    }
}
