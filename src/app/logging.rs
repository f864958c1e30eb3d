//! The log: JSON lines on standard output, or text where a person watches.
//!
//! Writing never blocks or fails a request: lines go through a bounded buffer to a thread of their own. What nobody reads
//! in time is dropped and counted; so is what comes while the disk is full or the reader gone. The lines at which that
//! began are kept and tried again, so none is ever half written.
//!
//! Lines that come close together go out together: waking the thread for each would cost a token's request as much as all
//! of its parsing.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Write, stderr, stdout};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::json_lines::JsonLines;

/// Lines that may wait for a slow reader.
const BUFFERED_LINES: usize = 16_384;
/// After a write, lines gather for so long: none waits longer, and where there are many they cost few writes.
const GATHER: Duration = Duration::from_millis(5);
/// Gathered bytes that are written at once.
const ENOUGH: usize = 64 * 1024;
/// Between two tries to write where it failed.
const RETRY: Duration = Duration::from_millis(100);
/// Where whoever started us made standard output non-blocking, and it is full.
const FULL_PIPE: Duration = Duration::from_millis(5);

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
    buffer: ErrorCounter,
    outage: Arc<Outage>,
}

impl Log {
    /// Starts the log of this process. `filter` is that of `RUST_LOG`, a level or `target=level`, several parted by commas;
    /// without it, `info`.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub fn start(output: Output, filter: Option<&str>) -> io::Result<Self> {
        // A descriptor of our own, without the buffer and lock of the standard library's handle.
        let (descriptor, terminal) = match output {
            Output::Stdout => (stdout().as_fd().try_clone_to_owned()?, stdout().is_terminal()),
            Output::Stderr => (stderr().as_fd().try_clone_to_owned()?, stderr().is_terminal()),
        };
        let outage = Arc::new(Outage::default());
        let sink = Sink { into: File::from(descriptor), gathered: Vec::new(), outage: outage.clone() };
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(BUFFERED_LINES);
        let (lines, guard) = builder.finish(sink);
        let buffer = lines.error_counter();
        let asked = filter.unwrap_or("info");
        let read = asked.parse::<Targets>();
        let unreadable = read.is_err();
        let filter = read.unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
        let door = Door { lines, outage: outage.clone() };
        let layer = tracing_subscriber::fmt::layer().with_writer(door).with_ansi(terminal);
        let registry = tracing_subscriber::registry().with(filter);
        // A second start in one process, as in tests, leaves the first log in place.
        let _ = if terminal || output == Output::Stderr {
            registry.with(layer.with_target(false)).try_init()
        } else {
            registry.with(layer.event_format(JsonLines)).try_init()
        };
        if unreadable {
            tracing::warn!(
                RUST_LOG = asked,
                "isn't a filter such as `info` or `warn,tokenmint::audit=info`: taken for `info`"
            );
        }
        Ok(Self { _guard: guard, buffer, outage })
    }

    /// Asks how many lines were dropped so far. It counts a line before the call that logs it returns.
    pub fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let (buffer, outage) = (self.buffer.clone(), self.outage.clone());
        move || buffer.dropped_lines() as u64 + outage.dropped.load(Ordering::Acquire)
    }
}

/// Whether lines can be written, and how many were turned away while they couldn't.
#[derive(Default)]
struct Outage {
    lasts: AtomicBool,
    dropped: AtomicU64,
}

/// Where lines come in.
#[derive(Clone)]
struct Door {
    lines: NonBlocking,
    outage: Arc<Outage>,
}

impl<'a> MakeWriter<'a> for Door {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Door {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.outage.lasts.load(Ordering::Acquire) {
            self.outage.dropped.fetch_add(1, Ordering::AcqRel);
            return Ok(line.len());
        }
        self.lines.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where they go out, on the log's own thread: lines are written whole, however long that takes.
struct Sink<W> {
    into: W,
    /// Whole lines.
    gathered: Vec<u8>,
    outage: Arc<Outage>,
}

impl<W: Write> Sink<W> {
    fn pour(&mut self) {
        let mut rest = self.gathered.as_slice();
        while !rest.is_empty() {
            match self.into.write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PIPE),
                Ok(0) | Err(_) => {
                    self.outage.lasts.store(true, Ordering::Release);
                    std::thread::sleep(RETRY);
                }
            }
        }
        self.gathered.clear();
        self.outage.lasts.store(false, Ordering::Release);
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(line);
        if self.gathered.len() >= ENOUGH {
            self.pour();
        }
        Ok(line.len())
    }

    /// Comes whenever no more lines are waiting. While this thread sleeps here, a new one needs not wake it.
    fn flush(&mut self) -> io::Result<()> {
        if !self.gathered.is_empty() {
            self.pour();
            std::thread::sleep(GATHER);
        }
        Ok(())
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
    use std::sync::Mutex;

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

    #[test]
    fn a_line_is_written_whole_once_there_is_room_again() {
        let mut sink = Sink { into: Failing::default(), gathered: Vec::new(), outage: Arc::default() };
        for line in ["one\n", "two too\n"] {
            sink.write_all(line.as_bytes()).expect("in the end");
        }
        sink.flush().expect("in the end");
        assert_eq!(String::from_utf8_lossy(&sink.into.0), "one\ntwo too\n");
        assert!(!sink.outage.lasts.load(Ordering::Acquire));
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
    fn lines_that_wait_together_are_one_write_and_many_are_several() {
        let mut sink = Sink { into: Writes::default(), gathered: Vec::new(), outage: Arc::default() };
        for line in ["one\n", "two\n"] {
            sink.write_all(line.as_bytes()).expect("gathered");
        }
        assert!(sink.into.0.is_empty());
        sink.flush().expect("written");
        sink.flush().expect("nothing to write");
        assert_eq!(sink.into.0, [b"one\ntwo\n"]);
        // Else a reader that is slower than its writers would find ever longer writes.
        sink.write_all(&b"a".repeat(ENOUGH)).expect("written");
        assert_eq!(sink.into.0.len(), 2);
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_logged_by_its_place_and_without_its_words() {
        let kept = Kept::default();
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
