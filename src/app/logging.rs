//! The log: JSON lines on standard output, or text where a person watches.
//!
//! Writing never blocks or fails a request: lines go through a bounded buffer to a thread of their own. What nobody reads
//! in time is dropped and counted; so is what comes while the disk is full or the reader gone. The lines at which that
//! began are kept and tried again, so none is ever half written.
//!
//! Lines that come close together go out together: waking the thread for each would cost a token's request as much as all
//! of its parsing. A write holds whole lines, and no more than a pipe takes whole or not at all: a process that ends while
//! its reader hangs leaves no half of a line behind.
//!
//! [`Log::finish`] waits for what is still in the buffer, until a deadline, and says how much was lost, and why.

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

/// Lines that may wait for a slow reader.
const BUFFERED_LINES: usize = 16_384;
/// After a write, lines gather for so long: none waits longer, and where there are many they cost few writes.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// Bytes of one write, but for a line that is longer: what a pipe takes whole (`PIPE_BUF`, pipe(7)).
const ATOMIC_WRITE: usize = 4096;
/// Between two tries to write where it failed.
const WRITE_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Where whoever started us made standard output non-blocking, and it is full.
const FULL_PIPE_DELAY: Duration = Duration::from_millis(5);

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// For `serve`.
    Stdout,
    /// For `dev`, whose standard output is for the person who pastes from it.
    Stderr,
}

/// The log of this process, and its thread.
pub struct Log {
    lines: SyncSender<Vec<u8>>,
    state: Arc<LogState>,
    ends: Sender<()>,
    ended: Receiver<()>,
}

impl Log {
    /// Starts the log of this process. `filter` is that of `RUST_LOG`, a level or `target=level`, several parted by commas;
    /// without it, `info`.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub fn start(output: LogOutput, filter: Option<&str>) -> io::Result<Self> {
        // A descriptor of our own, without the buffer and lock of the standard library's handle.
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
            // Without anybody who waits for it, it ends all the same.
            let _ = done.send(());
        })?;
        let asked = filter.unwrap_or_default();
        let (filter, problem) = parse_filter(asked);
        let writer = LogWriter { lines: lines.clone(), state: state.clone() };
        let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(terminal);
        let registry = tracing_subscriber::registry().with(filter);
        // A second start in one process, as in tests, leaves the first log in place.
        let _ = if terminal || output == LogOutput::Stderr {
            registry.with(layer.with_target(false)).try_init()
        } else {
            registry.with(layer.event_format(JsonLines)).try_init()
        };
        if let Some(problem) = problem {
            tracing::warn!(RUST_LOG = asked, "{problem}: taken for `info`");
        }
        Ok(Self { lines, state, ends, ended })
    }

    /// Whether `filter`, that of `RUST_LOG`, takes audit lines.
    pub fn enables_audit(filter: Option<&str>) -> bool {
        parse_filter(filter.unwrap_or_default()).0.would_enable(AUDIT_TARGET, &tracing::Level::INFO)
    }

    /// Asks how many lines were dropped so far. It counts a line before the call that logs it returns.
    pub fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let state = self.state.clone();
        move || state.dropped.load(Ordering::Acquire)
    }

    /// Ends a [`finish`](Self::finish) early.
    pub fn stop_waiting(&self) -> impl FnOnce() + Send + use<> {
        let ends = self.ends.clone();
        // Where it has ended already there is nobody to tell.
        move || _ = ends.send(())
    }

    /// Waits until all lines are written, at most until `deadline`, and says how many were lost. No line is written in part.
    pub fn finish(self, deadline: Instant) -> LostLines {
        self.state.finishing.store(true, Ordering::SeqCst);
        // Wakes the thread if it sleeps; if there is no room for this, it doesn't.
        let _ = self.lines.try_send(Vec::new());
        let _ = self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        // Whoever is in a hurry still gives the thread the moment that lines gather for.
        let _ = self.ended.recv_timeout(4 * BATCH_DELAY);
        let taken = self.state.taken.load(Ordering::Acquire);
        let unwritten = taken.saturating_sub(self.state.written.load(Ordering::Acquire));
        let lines = unwritten + self.state.dropped.load(Ordering::Acquire);
        let why = self.state.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        LostLines { lines, unwritten, why }
    }
}

/// What `filter` lets through: `info` where it is empty, or can't be read, and then why.
fn parse_filter(filter: &str) -> (Targets, Option<String>) {
    let info = Targets::new().with_default(LevelFilter::INFO);
    let words = || filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    if words().next().is_none() {
        return (info, None);
    }
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-:.".contains(&b));
    let is_known = |word: &str| match word.split_once('=') {
        // Alone, a target's name lets all of its lines through; a misspelt level is no such name.
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
pub struct LostLines {
    /// Since the start.
    pub lines: u64,
    /// How many of them were still in the buffer at the end.
    pub unwritten: u64,
    /// The last error of a write; without one, nobody read in time.
    why: Option<io::Error>,
}

impl fmt::Display for LostLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lines, were) = if self.lines == 1 { ("line", "was") } else { ("lines", "were") };
        write!(f, "{} {lines} of the log {were} lost, perhaps audit lines: ", self.lines)?;
        match &self.why {
            None => f.write_str("nobody read them in time"),
            Some(error) => write!(f, "they couldn't be written: {error}"),
        }
    }
}

/// What came in and went out, and whether it can.
#[derive(Default)]
struct LogState {
    /// Lines can't be written at the moment.
    outage: AtomicBool,
    /// No more lines are taken, and the thread ends when the buffer is empty.
    finishing: AtomicBool,
    /// Lines that were turned away.
    dropped: AtomicU64,
    taken: AtomicU64,
    written: AtomicU64,
    /// The error of the last write that failed.
    failure: Mutex<Option<io::Error>>,
}

/// Where lines come in.
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
    /// Takes one line, whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let state = &self.state;
        if state.outage.load(Ordering::Acquire) || state.finishing.load(Ordering::SeqCst) {
            state.dropped.fetch_add(1, Ordering::AcqRel);
            return Ok(line.len());
        }
        // Counted first: else it could be written before it is counted.
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

/// Where they go out, on the log's own thread: lines are written whole, however long that takes.
struct LogSink<W> {
    into: W,
    /// Whole lines, and how many.
    gathered: Vec<u8>,
    count: u64,
    state: Arc<LogState>,
}

impl<W: Write> LogSink<W> {
    /// Until the log is finished and nothing waits any more.
    fn run(mut self, waiting: &Receiver<Vec<u8>>) {
        loop {
            // Before the look: what was taken until then is written.
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
                        // While this thread sleeps here, a new line needs not wake it.
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

    fn gather(&mut self, line: &[u8]) {
        if self.gathered.len() + line.len() > ATOMIC_WRITE {
            self.write_out();
        }
        self.gathered.extend_from_slice(line);
        self.count += u64::from(!line.is_empty());
    }

    fn write_out(&mut self) {
        let mut rest = self.gathered.as_slice();
        while !rest.is_empty() {
            match self.into.write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PIPE_DELAY),
                failed => {
                    *self.state.failure.lock().unwrap_or_else(PoisonError::into_inner) = failed.err();
                    // At the end there is no time left in which that could change.
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

/// A panic is a bug: one line says where, and never what was in hand.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panicked; this is a bug in tokenmint");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes three bytes at a time, and fails each second time.
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

    /// Keeps each write apart.
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

    /// Lines that were not written at the end are lost and counted.
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

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_logged_with_its_location_but_not_its_message() {
        let kept = Captured::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let usual = std::panic::take_hook();
        log_panics();
        let panicked = tracing::subscriber::with_default(log, || {
            std::panic::catch_unwind(|| {
                std::hint::black_box(None::<u8>).expect("canary: a token was in hand")
            })
        });
        std::panic::set_hook(usual);
        assert!(panicked.is_err());
        let said = String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("text");
        assert!(said.contains("logging.rs") && said.contains("a bug in tokenmint"), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}
