//! A fixed pool of threads of low priority, for signatures that take so long that nothing may wait behind one.
//!
//! One thread for each core, at nice 2: a thread that answers health or a JWKS takes its core at once when there is
//! something to answer. The threads are there from the first long signature on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

type Task = Box<dyn FnOnce() + Send>;

/// Of each thread's priority (nice(2)); the rest of the process has 0.
const NICE: i32 = 2;

pub(super) struct ThreadPool {
    threads: usize,
    tasks: OnceLock<Sender<Task>>,
}

impl ThreadPool {
    pub const fn new(threads: usize) -> Self {
        Self { threads, tasks: OnceLock::new() }
    }

    /// Runs `task` on one of the threads; here, where the host gives none.
    pub fn run(&self, task: impl FnOnce() + Send + 'static) {
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
            tracing::warn!(%error, "no thread for long signatures: they may hold up other answers");
        }
    }
    tasks
}

/// Until the pool is dropped.
fn work(waiting: &Mutex<Receiver<Task>>) {
    // Of this thread alone (setpriority(2), "C library/kernel differences"). Without it it is only less polite.
    let _ = rustix::process::setpriority_process(None, NICE);
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = next else { return };
        // A panic is logged by its hook, and whoever waits for the task hears that it is lost.
        let _ = catch_unwind(AssertUnwindSafe(task));
    }
}
