//! The log: JSON lines on standard output, or text where a person watches.
//!
//! Writing never blocks or fails a request: lines go through a bounded buffer to a thread of their own, and
//! what nobody reads in time is dropped and counted.

use std::io::{IsTerminal as _, stderr, stdout};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::json_lines::JsonLines;

/// Lines that may wait for a slow reader.
const BUFFERED_LINES: usize = 16_384;

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For `serve`.
    Stdout,
    /// For `dev`, whose standard output is for the person who pastes from it.
    Stderr,
}

/// Keeps the log's thread running; what is buffered is written when it is dropped.
pub struct Log {
    _guard: WorkerGuard,
    dropped: ErrorCounter,
}

impl Log {
    /// Starts the log of this process. `filter` is that of `RUST_LOG`; without it, `info`.
    pub fn start(output: Output, filter: Option<&str>) -> Self {
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(BUFFERED_LINES);
        let (writer, guard) = match output {
            Output::Stdout => builder.finish(stdout()),
            Output::Stderr => builder.finish(stderr()),
        };
        let dropped = writer.error_counter();
        let filter = EnvFilter::builder().parse_lossy(filter.unwrap_or("info"));
        let terminal = match output {
            Output::Stdout => stdout().is_terminal(),
            Output::Stderr => stderr().is_terminal(),
        };
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(terminal);
        // A second start in one process, as in tests, leaves the first log in place.
        let _ = if terminal || output == Output::Stderr {
            log.with_target(false).try_init()
        } else {
            log.event_format(JsonLines).try_init()
        };
        Self { _guard: guard, dropped }
    }

    /// Asks how many lines were dropped so far.
    pub fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let dropped = self.dropped.clone();
        move || dropped.dropped_lines() as u64
    }
}

/// A panic is a bug: one line says where, and never what was in hand.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panicked; this is a bug in tokenmint");
    }));
}
