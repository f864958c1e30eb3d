//! The bytes of a connection on their way to hyper and back.
//!
//! - In: hyper takes a bare LF for the end of a line, and `Content-Length` beside `Transfer-Encoding`. A proxy in front may
//!   see another request in those bytes, and so be made to carry one of a stranger's. The byte that tells becomes one
//!   that hyper refuses: 400, and closed.
//! - The first request is waited for here, its [head](Wire::head) and its [body](Wire::body): until it is whole, a
//!   connection costs its few bytes, and not what hyper and a request need. So thousands that never send one are cheap.
//! - Whether a connection [idles](Activity::idle) is known here, so that one that does is waited for as at its beginning.
//! - Out: who doesn't take an answer in time is cut off.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// From the moment at which the client takes no more until all that waits for it is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is read at once while a request isn't whole.
const PIECE: usize = 2048;

pub struct Wire<S> {
    stream: S,
    /// What has come and was looked at, and hyper hasn't seen.
    first: Vec<u8>,
    heads: Heads,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether anything was written since the last flush.
    wrote: bool,
    activity: Arc<Activity>,
}

/// What hyper doesn't tell of the connection that it has.
#[derive(Default)]
pub struct Activity {
    reads: AtomicU32,
    /// How many reads there had been when an answer was last written whole.
    answered: AtomicU32,
}

impl Activity {
    /// The number of reads so far, where all that came of them is answered.
    pub fn idle(&self) -> Option<u32> {
        let reads = self.reads.load(Ordering::Relaxed);
        (reads == self.answered.load(Ordering::Relaxed)).then_some(reads)
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    pub fn new(stream: S) -> Self {
        let (heads, activity) = (Heads::default(), Arc::default());
        Self { stream, first: Vec::new(), heads, stalled: None, wrote: false, activity }
    }

    pub fn activity(&self) -> Arc<Activity> {
        self.activity.clone()
    }

    /// Waits until the stream has brought a whole head, or what can't become one, or more than `most` bytes. `false` where
    /// it ends before.
    pub async fn head(&mut self, most: usize) -> io::Result<bool> {
        self.heads.starts_anew();
        loop {
            // With the end of what was there before: an empty line comes in pieces too.
            let unseen = self.first.len().saturating_sub(3);
            if !self.more().await? {
                return Ok(false);
            }
            if self.first.len() > most || self.first[0] == b'\n' || !may_become_a_head(&self.first[unseen..])
            {
                return Ok(true);
            }
        }
    }

    /// Waits for the body that belongs to that head, or for the stream's end. Not for one of more than `most` bytes, which
    /// is refused unread, nor for one that the client sends only when it is told to.
    pub async fn body(&mut self, most: usize) -> io::Result<()> {
        while let Some(1..) = self.heads.lacks().filter(|left| *left <= most as u64) {
            if !self.more().await? {
                break;
            }
        }
        Ok(())
    }

    /// Whether there was more.
    async fn more(&mut self) -> io::Result<bool> {
        let before = self.first.len();
        poll_fn(|cx| read_piece(&mut self.stream, cx, &mut self.first)).await?;
        self.heads.look(&mut self.first[before..]);
        Ok(self.first.len() > before)
    }
}

/// Appends what there is, so that nothing is set aside for a connection that says nothing.
fn read_piece<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    bytes: &mut Vec<u8>,
) -> Poll<io::Result<()>> {
    let mut piece = [MaybeUninit::uninit(); PIECE];
    let mut piece = ReadBuf::uninit(&mut piece);
    ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
    bytes.extend_from_slice(piece.filled());
    Poll::Ready(Ok(()))
}

/// Whether more bytes are needed to tell: neither is a line empty, nor does one end in a bare LF, nor is there a control
/// character, as in the first bytes of TLS.
fn may_become_a_head(bytes: &[u8]) -> bool {
    let empty_line = bytes.windows(4).any(|four| four == b"\r\n\r\n");
    let bare = bytes.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r');
    let control = bytes.iter().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\r' | b'\n' | b'\t'));
    !(empty_line || bare || control)
}

impl<S> Wire<S> {
    /// Fails what has been pending for too long.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_pending() {
            let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
            ready!(stalled.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.first.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            self.heads.look(&mut buffer.filled_mut()[before..]);
        } else {
            let taken = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..taken]);
            self.first = self.first.split_off(taken);
        }
        self.activity.reads.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote = true;
        self.in_time(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wrote = true;
        self.in_time(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        ready!(self.in_time(cx, poll))?;
        // All that waited is written: hyper flushes when it has nothing more.
        self.stalled = None;
        if std::mem::take(&mut self.wrote) {
            self.activity.answered.store(self.activity.reads.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.in_time(cx, poll)
    }
}

/// Longer lines are kept to here: only two headers matter, and neither is longer.
const LINE: usize = 64;

/// Where in the stream of requests the next byte stands.
struct Heads {
    part: Part,
    /// The beginning of the line that isn't whole yet.
    line: [u8; LINE],
    length: usize,
    /// Its last byte.
    last: u8,
    /// Whether the request line has been.
    begun: bool,
    body: Option<u64>,
    chunked: bool,
    /// Whether the client sends the body only when it is told to.
    expects: bool,
    /// How many have ended.
    count: u32,
}

enum Part {
    Head,
    /// So many bytes of it to come.
    Body(u64),
    /// Nothing more is looked at: a head was refused, or had a chunked body, and then the connection is closed behind
    /// the answer.
    End,
}

/// hyper must not take this head.
struct Ambiguous;

impl Default for Heads {
    fn default() -> Self {
        Self {
            part: Part::Head,
            line: [0; LINE],
            length: 0,
            last: 0,
            begun: false,
            body: None,
            chunked: false,
            expects: false,
            count: 0,
        }
    }
}

impl Heads {
    const fn starts_anew(&mut self) {
        self.expects = false;
        self.count = 0;
    }

    /// How many bytes there are still to come of the body of the only request so far, if they come by themselves.
    const fn lacks(&self) -> Option<u64> {
        match self.part {
            Part::Body(left) if self.count == 1 && !self.expects => Some(left),
            _ => None,
        }
    }

    /// Looks at the next bytes, and spoils the one that makes a head ambiguous.
    fn look(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.part {
                Part::End => return,
                Part::Body(left) => {
                    let here = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let left = left - here as u64;
                    self.part = if left == 0 { Part::Head } else { Part::Body(left) };
                    rest = &mut rest[here..];
                }
                Part::Head => {
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        return self.keep(rest);
                    };
                    self.keep(&rest[..end]);
                    if self.line_ends().is_err() {
                        rest[end] = 0;
                        self.part = Part::End;
                    }
                    rest = &mut rest[end + 1..];
                }
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let from = self.length.min(LINE);
        let kept = bytes.len().min(LINE - from);
        self.line[from..from + kept].copy_from_slice(&bytes[..kept]);
        self.length += bytes.len();
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    fn line_ends(&mut self) -> Result<(), Ambiguous> {
        let length = std::mem::take(&mut self.length);
        if std::mem::take(&mut self.last) != b'\r' {
            return Err(Ambiguous);
        }
        if length == 1 {
            return self.head_ends();
        }
        if self.begun {
            let line = &self.line[..(length - 1).min(LINE)];
            let mut halves = line.splitn(2, |byte| *byte == b':');
            let name = halves.next().unwrap_or_default();
            if name.eq_ignore_ascii_case(b"transfer-encoding") {
                self.chunked = true;
            } else if name.eq_ignore_ascii_case(b"content-length") {
                let value = std::str::from_utf8(halves.next().unwrap_or_default()).unwrap_or_default();
                // hyper refuses what isn't a number, and two numbers.
                let number = value.trim_matches([' ', '\t']).parse().ok().filter(|_| length <= LINE);
                self.body = Some(number.ok_or(Ambiguous)?);
            } else if name.eq_ignore_ascii_case(b"expect") {
                self.expects = true;
            }
        }
        self.begun = true;
        Ok(())
    }

    fn head_ends(&mut self) -> Result<(), Ambiguous> {
        // Empty lines before a request are no head (RFC 9112, section 2.2).
        if !std::mem::take(&mut self.begun) {
            return Ok(());
        }
        self.count = self.count.saturating_add(1);
        self.part = match (std::mem::take(&mut self.chunked), self.body.take()) {
            (true, Some(_)) => return Err(Ambiguous),
            (true, None) => Part::End,
            (false, Some(length @ 1..)) => Part::Body(length),
            (false, _) => Part::Head,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What hyper gets to see of a stream that comes in pieces of that length.
    fn seen(stream: &str, piece: usize) -> String {
        let mut bytes = stream.as_bytes().to_vec();
        let mut heads = Heads::default();
        bytes.chunks_mut(piece).for_each(|piece| heads.look(piece));
        String::from_utf8(bytes).expect("only ASCII is spoilt")
    }

    const PLAIN: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

    /// Brings its bytes in pieces of that length, and then waits for more.
    struct Pieces<'a>(std::slice::Chunks<'a, u8>);

    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.0.next().map_or(Poll::Pending, |piece| {
                buffer.put_slice(piece);
                Poll::Ready(Ok(()))
            })
        }
    }

    /// What is handed on of a stream; `None` while more is waited for.
    fn handed_on(stream: &str, piece: usize) -> Option<String> {
        let mut wire = Wire::new(Pieces(stream.as_bytes().chunks(piece)));
        let opened = wire.head(60).now_or_never()?;
        assert!(opened.expect("it can be read"), "it has not ended");
        wire.body(20).now_or_never()?.expect("it can be read");
        let mut seen = vec![0; stream.len()];
        let read = wire.read_exact(&mut seen).now_or_never();
        read.map(|read| read.expect("it can be read"));
        Some(String::from_utf8(seen).expect("only ASCII is sent"))
    }

    /// Else a stranger with bytes of TLS, or a bare LF, waits five seconds to hear what is wrong.
    #[test]
    fn a_head_is_waited_for_only_while_it_may_become_one() {
        for piece in [1, 2, 3, 7, 90] {
            let long = format!("GET /{}", "a".repeat(90));
            for stream in [PLAIN, "\nGET", "GET / HTTP/1.1\nHost", "\u{16}\u{3}\u{1}", long.as_str()] {
                assert_eq!(
                    handed_on(stream, piece).as_deref().map(str::len),
                    Some(stream.len()),
                    "{stream:?}"
                );
            }
            for stream in ["", "G", "GET / HTTP/1.1\r\nHost: x\r\n", "\r", "PRI * HTTP/2.0\r\n"] {
                assert_eq!(handed_on(stream, piece), None, "{stream:?}");
            }
        }
    }

    #[test]
    fn what_was_waited_for_is_looked_at_like_the_rest() {
        for piece in [1, 2, 3, 7, 90] {
            assert_eq!(handed_on(PLAIN, piece).as_deref(), Some(PLAIN));
            assert_eq!(handed_on("GET / HTTP/1.1\nHost", piece).as_deref(), Some("GET / HTTP/1.1\0Host"));
        }
    }

    /// Else thousands that send a head and no body cost ten times their bytes. A client that waits for `100 Continue`, or for
    /// the answer to its first request, must not be waited for in turn.
    #[test]
    fn a_body_is_waited_for_if_it_comes_by_itself_and_is_not_too_long() {
        let post = |more: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{more}\r\n");
        let waits = |stream: &str| [1, 2, 3, 7, 90].map(|piece| handed_on(stream, piece).is_none());
        let five = post("content-length: 5\r\n");
        for stream in [five.clone(), format!("{five}abcd")] {
            assert_eq!(waits(&stream), [true; 5], "{stream:?}");
        }
        for stream in [
            format!("{five}abcde"),
            format!("{five}abcde{five}"),
            post("Content-Length: 21\r\n"),
            post("Expect: 100-continue\r\nContent-Length: 5\r\n"),
            post("Transfer-Encoding: chunked\r\n"),
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ] {
            assert_eq!(waits(&stream), [false; 5], "{stream:?}");
        }
    }

    #[tokio::test]
    async fn it_idles_when_all_that_came_is_answered_and_written() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut wire = Wire::new(server);
        let activity = wire.activity();
        for _ in 0..2 {
            let before = activity.idle();
            client.write_all(b"ask").await.expect("written");
            wire.read_exact(&mut [0; 3]).await.expect("read");
            assert_eq!(activity.idle(), None);
            wire.flush().await.expect("flushed");
            assert_eq!(activity.idle(), None, "nothing was answered");
            wire.write_all(b"answer").await.expect("written");
            assert_eq!(activity.idle(), None, "the answer may still wait for the client");
            wire.flush().await.expect("flushed");
            assert!(activity.idle() > before);
        }
    }

    proptest! {
        /// However the bytes are cut, and whatever lines the body seems to have.
        #[test]
        fn a_body_is_never_taken_for_a_head(body in "[a-z:\r\n]{0,40}", piece in 1_usize..90) {
            let request = format!("\r\nPOST /b HTTP/1.1\r\nHost: x\r\ncONTENT-length:  {} \r\n\r\n{body}", body.len());
            let stream = format!("{PLAIN}{request}{request}{PLAIN}");
            prop_assert_eq!(&seen(&stream, piece), &stream);
            let ambiguous = format!("{stream}GET /c HTTP/1.1\nHost: x\r\n\r\n");
            let spoilt = format!("{stream}GET /c HTTP/1.1\0Host: x\r\n\r\n");
            prop_assert_eq!(seen(&ambiguous, piece), spoilt);
        }

        #[test]
        fn two_lengths_of_a_body_are_spoilt_in_either_order(piece in 1_usize..90, swapped: bool) {
            let lines = ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"];
            let [one, two] = if swapped { [lines[1], lines[0]] } else { lines };
            let stream = format!("{PLAIN}POST / HTTP/1.1\r\nHost: x\r\n{one}{two}\r\n0\r\n\r\n{PLAIN}");
            let spoilt = stream.replacen("\r\n0\r\n", "\r\u{0}0\r\n", 1);
            prop_assert_eq!(seen(&stream, piece), spoilt);
        }
    }
}
