//! The log: JSON lines on standard output, or text on a terminal and for `dev`.
//!
//! - Logging never blocks a request. A bounded channel passes the lines to a writer thread.
//! - Lines are dropped and counted while the channel is full, while writing fails (disk full, reader gone), and after
//!   [`Log::finish`] has begun. The thread retries the lines whose write failed, so that none is written in part.
//! - Lines that arrive within `BATCH_DELAY` share one write. Waking the thread for each line would cost as much as parsing
//!   the request.
//! - A write has whole lines only, and at most `ATOMIC_WRITE` bytes unless one line is longer. A pipe accepts up to
//!   `ATOMIC_WRITE` bytes as a whole or not at all. So a process that ends while its reader hangs leaves no partial line,
//!   except of a longer one.
//! - [`Log::finish`] waits until a deadline for the lines in the channel, and reports how many lines were lost since the start,
//!   and why.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Write, stderr, stdout};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::json_lines::JsonLines;
use crate::api::AUDIT_TARGET;

/// The capacity of the channel, in lines.
const BUFFERED_LINES: usize = 16_384;
/// How long the thread sleeps after a write. Lines that arrive meanwhile are written together.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// The largest write, in bytes, except for a single longer line. It is the size that a pipe accepts atomically (`PIPE_BUF`,
/// pipe(7)).
const ATOMIC_WRITE: usize = 4096;
/// The pause between two attempts after a failed write.
const WRITE_RETRY_DELAY: Duration = Duration::from_millis(100);
/// The pause between two attempts while a non-blocking standard output is full. The parent process may have made it
/// non-blocking.
const FULL_PIPE_DELAY: Duration = Duration::from_millis(5);

/// The destination of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogOutput {
    /// For `serve`.
    Stdout,
    /// For `dev`, which prints commands to paste on standard output.
    Stderr,
}

/// The log of this process, with its writer thread.
pub(crate) struct Log {
    lines: SyncSender<Vec<u8>>,
    state: Arc<LogState>,
    ends: Sender<()>,
    ended: Receiver<()>,
}

impl Log {
    /// Starts the log. `filter` is the value of `RUST_LOG`: levels or `target=level`, separated by commas. The default is `info`.
    ///
    /// # Errors
    /// The descriptor can't be duplicated, or the thread can't be started.
    pub(crate) fn start(output: LogOutput, filter: Option<&str>) -> io::Result<Self> {
        // A duplicate of the descriptor avoids the buffer and the lock of the standard library's handle.
        let (descriptor, terminal) = match output {
            LogOutput::Stdout => (stdout().as_fd().try_clone_to_owned()?, stdout().is_terminal()),
            LogOutput::Stderr => (stderr().as_fd().try_clone_to_owned()?, stderr().is_terminal()),
        };
        let state = Arc::new(LogState::default());
        let (lines, waiting) = mpsc::sync_channel(BUFFERED_LINES);
        let (ends, ended) = mpsc::channel();
        let sink =
            LogSink { into: File::from(descriptor), gathered: Vec::new(), count: 0, state: state.clone() };
        let done = ends.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            sink.run(&waiting);
            // Fails if nobody waits any more, which is fine.
            let _ = done.send(());
        })?;
        let asked = filter.unwrap_or_default();
        let (filter, problem) = parse_filter(asked);
        let writer = LogWriter { lines: lines.clone(), state: state.clone() };
        let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(terminal);
        let registry = tracing_subscriber::registry().with(filter);
        // If this process has a log already, for example in tests, that one stays.
        let _ = if terminal || output == LogOutput::Stderr {
            registry.with(layer.with_target(false)).try_init()
        } else {
            registry.with(layer.event_format(JsonLines)).try_init()
        };
        if let Some(problem) = problem {
            tracing::warn!(RUST_LOG = asked, "{problem}: using `info` instead");
        }
        Ok(Self { lines, state, ends, ended })
    }

    /// Whether `filter`, the value of `RUST_LOG`, enables audit lines.
    pub(crate) fn enables_audit(filter: Option<&str>) -> bool {
        parse_filter(filter.unwrap_or_default()).0.would_enable(AUDIT_TARGET, &tracing::Level::INFO)
    }

    /// Returns a function that counts the lines dropped so far. A line is counted before the call that logs it returns.
    pub(crate) fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let state = self.state.clone();
        move || state.dropped.load(Ordering::Acquire)
    }

    /// Returns a function that ends the wait of [`finish`](Self::finish) early.
    pub(crate) fn stop_waiting(&self) -> impl FnOnce() + Send + use<> {
        let ends = self.ends.clone();
        // Fails if the log has already finished, which is fine.
        move || _ = ends.send(())
    }

    /// Waits until all lines are written, at most until 4 × `BATCH_DELAY` after `deadline`. Reports how many lines were lost.
    pub(crate) fn finish(self, deadline: Instant) -> LostLines {
        self.state.finishing.store(true, Ordering::SeqCst);
        // Wakes the thread if it waits for a line. If the channel is full, the thread isn't waiting.
        let _ = self.lines.try_send(Vec::new());
        let _ = self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        // Gives the thread 20 ms more (4 × `BATCH_DELAY`), also after `stop_waiting`. That usually suffices for the lines that
        // it has. The rest counts as lost.
        let _ = self.ended.recv_timeout(4 * BATCH_DELAY);
        let taken = self.state.taken.load(Ordering::Acquire);
        let unwritten = taken.saturating_sub(self.state.written.load(Ordering::Acquire));
        let lines = unwritten + self.state.dropped.load(Ordering::Acquire);
        let why = self.state.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        LostLines { lines, unwritten, why }
    }
}

/// Parses `filter`. Returns `info` if it is empty. If it is invalid, returns `info` and the problem.
fn parse_filter(filter: &str) -> (Targets, Option<String>) {
    // This crate logs each handshake that fails. The service reports the failure itself.
    let info = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("rustls_platform_verifier", LevelFilter::OFF);
    let words = || filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    if words().next().is_none() {
        return (info, None);
    }
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-:.".contains(&b));
    let is_known = |word: &str| match word.split_once('=') {
        // A name without a level enables all lines of that target. Other crates' names are rejected, because such a word is
        // probably a misspelt level.
        None => word.parse::<LevelFilter>().is_ok() || word.starts_with(env!("CARGO_CRATE_NAME")),
        Some((target, level)) => is_name(target) && level.parse::<LevelFilter>().is_ok(),
    };
    if let Some(wrong) = words().find(|word| !is_known(word)) {
        let levels = "a level (off, error, warn, info, debug, trace) or TARGET=LEVEL";
        return (info, Some(format!("`{}` isn't {levels}", wrong.escape_debug())));
    }
    match filter.parse() {
        Ok(targets) => (targets, None),
        Err(error) => {
            (info, Some(format!("isn't a filter such as `info` or `warn,tokenmint::audit=info` ({error})")))
        }
    }
}

/// How many lines of the log were lost, and why.
pub(crate) struct LostLines {
    /// All lines lost since the start.
    pub(crate) lines: u64,
    /// How many of them were accepted, but not written at the end.
    pub(crate) unwritten: u64,
    /// The last error of a write. `None` means that the reader was too slow.
    why: Option<io::Error>,
}

impl fmt::Display for LostLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lines, were) = if self.lines == 1 { ("line", "was") } else { ("lines", "were") };
        write!(f, "{} {lines} of the log {were} lost, perhaps audit lines: ", self.lines)?;
        match &self.why {
            None => f.write_str("the reader was too slow"),
            Some(error) => write!(f, "they couldn't be written: {error}"),
        }
    }
}

/// The counters and flags that the callers and the writer thread share.
#[derive(Default)]
struct LogState {
    /// Writing fails at the moment.
    outage: AtomicBool,
    /// New lines are dropped, and the thread ends when the channel is empty.
    finishing: AtomicBool,
    /// Lines that were dropped.
    dropped: AtomicU64,
    /// Lines that the channel accepted.
    taken: AtomicU64,
    /// Lines that were written.
    written: AtomicU64,
    /// The error of the last write that failed.
    failure: Mutex<Option<io::Error>>,
}

/// The writer for `tracing-subscriber`: sends lines to the thread.
#[derive(Clone)]
struct LogWriter {
    lines: SyncSender<Vec<u8>>,
    state: Arc<LogState>,
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for LogWriter {
    /// Accepts `line`, a whole line, or drops and counts it. Never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let state = &self.state;
        if state.outage.load(Ordering::Acquire) || state.finishing.load(Ordering::SeqCst) {
            state.dropped.fetch_add(1, Ordering::AcqRel);
            return Ok(line.len());
        }
        // Counted before it is sent. Otherwise the thread could write it before it is counted.
        state.taken.fetch_add(1, Ordering::AcqRel);
        if self.lines.try_send(line.to_vec()).is_err() {
            state.taken.fetch_sub(1, Ordering::AcqRel);
            state.dropped.fetch_add(1, Ordering::AcqRel);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writer thread's side of the log. It retries until a line is written as a whole. While the log is finishing, it
/// doesn't retry a failed write.
struct LogSink<W> {
    into: W,
    /// The lines that wait to be written, each of them complete.
    gathered: Vec<u8>,
    /// The number of lines in `gathered`.
    count: u64,
    state: Arc<LogState>,
}

impl<W: Write> LogSink<W> {
    /// Writes lines until the log is finished and the channel is empty.
    fn run(mut self, waiting: &Receiver<Vec<u8>>) {
        loop {
            // Read before the channel, so that all lines that were accepted before `finishing` are written.
            let finishing = self.state.finishing.load(Ordering::SeqCst);
            let line = match waiting.try_recv() {
                Ok(line) => line,
                Err(TryRecvError::Disconnected) => return self.write_out(),
                Err(TryRecvError::Empty) => {
                    let gathered = !self.gathered.is_empty();
                    self.write_out();
                    if finishing {
                        return;
                    }
                    if gathered {
                        // A line that arrives during this sleep doesn't have to wake the thread.
                        std::thread::sleep(BATCH_DELAY);
                        continue;
                    }
                    let Ok(line) = waiting.recv() else { return };
                    line
                }
            };
            self.gather(&line);
        }
    }

    /// Adds a line to the next write. Writes the lines before it first if the write would become too large.
    fn gather(&mut self, line: &[u8]) {
        if self.gathered.len() + line.len() > ATOMIC_WRITE {
            self.write_out();
        }
        self.gathered.extend_from_slice(line);
        self.count += u64::from(!line.is_empty());
    }

    /// Writes all gathered lines, and retries after errors. Gives up only while the log is finishing.
    fn write_out(&mut self) {
        let mut rest = self.gathered.as_slice();
        while !rest.is_empty() {
            match self.into.write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PIPE_DELAY),
                failed => {
                    *self.state.failure.lock().unwrap_or_else(PoisonError::into_inner) = failed.err();
                    // At the end there is no time for a retry.
                    if self.state.finishing.load(Ordering::SeqCst) {
                        break;
                    }
                    self.state.outage.store(true, Ordering::Release);
                    std::thread::sleep(WRITE_RETRY_DELAY);
                }
            }
        }
        if rest.is_empty() {
            self.state.written.fetch_add(self.count, Ordering::AcqRel);
            self.state.outage.store(false, Ordering::Release);
        }
        self.gathered.clear();
        self.count = 0;
    }
}

/// Installs a panic hook that logs the location of a panic, but not its message, which may contain a secret.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panicked; this is a bug in tokenmint");
    }));
}

#[cfg(test)]
mod tests {
    use super::super::captured_log::CapturedLog;
    use super::*;

    /// Accepts three bytes at a time, and fails every other time.
    #[derive(Default)]
    struct Failing(Vec<u8>, bool);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(3);
            self.0.extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sink<W: Write>(into: W) -> LogSink<W> {
        LogSink { into, gathered: Vec::new(), count: 0, state: Arc::default() }
    }

    #[test]
    fn a_line_is_written_whole_after_a_failed_write() {
        let mut sink = sink(Failing::default());
        for line in ["one\n", "two too\n"] {
            sink.gather(line.as_bytes());
        }
        sink.write_out();
        assert_eq!(String::from_utf8_lossy(&sink.into.0), "one\ntwo too\n");
        assert!(!sink.state.outage.load(Ordering::Acquire));
        assert_eq!(sink.state.written.load(Ordering::Acquire), 2);
    }

    /// Records each write separately.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn waiting_lines_share_one_write_up_to_the_atomic_size_of_a_pipe() {
        let mut sink = sink(Writes::default());
        for line in ["one\n", "two\n"] {
            sink.gather(line.as_bytes());
        }
        assert!(sink.into.0.is_empty());
        sink.write_out();
        sink.write_out();
        assert_eq!(sink.into.0, [b"one\ntwo\n"]);
        for _ in 0..10 {
            sink.gather(&[b"a".repeat(999).as_slice(), b"\n"].concat());
        }
        sink.gather(&b"b".repeat(2 * ATOMIC_WRITE));
        sink.write_out();
        let lengths: Vec<usize> = sink.into.0.iter().map(Vec::len).collect();
        assert_eq!(
            lengths,
            [8, 4000, 4000, 2000, 2 * ATOMIC_WRITE],
            "whole lines, and a longer one by itself"
        );
    }

    #[test]
    fn finish_does_not_wait_when_writes_fail() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (lines, waiting) = mpsc::sync_channel(8);
        let state = Arc::new(LogState { finishing: AtomicBool::new(true), ..LogState::default() });
        for line in ["one\n", "two\n"] {
            lines.send(line.as_bytes().to_vec()).expect("room");
        }
        LogSink { into: Full, gathered: Vec::new(), count: 0, state: state.clone() }.run(&waiting);
        assert_eq!(state.written.load(Ordering::Acquire), 0);
    }

    #[test]
    fn lost_lines_are_reported_in_the_singular_or_the_plural() {
        let said = |lines, why| LostLines { lines, unwritten: lines, why }.to_string();
        assert!(said(1, None).starts_with("1 line of the log was lost"));
        let full = Some(ErrorKind::StorageFull.into());
        assert_eq!(
            said(2, full),
            "2 lines of the log were lost, perhaps audit lines: they couldn't be written: no storage space"
        );
    }

    #[test]
    fn a_panic_is_logged_with_its_location_but_not_its_message() {
        let log = CapturedLog::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let usual = std::panic::take_hook();
        log_panics();
        let panicked = tracing::subscriber::with_default(subscriber, || {
            std::panic::catch_unwind(|| {
                std::hint::black_box(None::<u8>).expect("canary: a token was in hand")
            })
        });
        std::panic::set_hook(usual);
        assert!(panicked.is_err());
        let said = log.text();
        assert!(said.contains("logging.rs") && said.contains("a bug in tokenmint"), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}
