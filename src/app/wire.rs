//! The bytes of a connection on their way to hyper and back.
//!
//! - In: hyper takes a bare LF for the end of a line, and `Content-Length` beside `Transfer-Encoding`. A proxy in front may
//!   see another request in those bytes, and so be made to carry one of a stranger's. The byte that tells becomes one
//!   that hyper refuses: 400, and closed.
//! - The first head is waited for [here](Wire::open): until it is whole, a connection costs its few bytes, and not what
//!   hyper and a request need. So thousands that never send one are cheap.
//! - Out: who doesn't take an answer in time is cut off.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// From the moment at which the client takes no more until all that waits for it is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is read at once while the first head isn't whole.
const PIECE: usize = 2048;

pub struct Wire<S> {
    stream: S,
    /// What has come and hyper hasn't seen.
    first: Vec<u8>,
    heads: Heads,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> Wire<S> {
    /// Waits until `stream` has brought a whole head, or what can't become one, or more than `most` bytes. `None` where it
    /// ends before.
    pub async fn open(mut stream: S, most: usize) -> io::Result<Option<Self>> {
        let mut first = Vec::new();
        loop {
            // With the end of what was there before: an empty line comes in pieces too.
            let unseen = first.len().saturating_sub(3);
            if poll_fn(|cx| read_piece(&mut stream, cx, &mut first)).await? == 0 {
                return Ok(None);
            }
            if first.len() > most || first[0] == b'\n' || !may_become_a_head(&first[unseen..]) {
                return Ok(Some(Self { stream, first, heads: Heads::default(), stalled: None }));
            }
        }
    }
}

/// Appends what there is, so that nothing is set aside for a connection that says nothing.
fn read_piece<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    bytes: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    let mut piece = [MaybeUninit::uninit(); PIECE];
    let mut piece = ReadBuf::uninit(&mut piece);
    ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
    bytes.extend_from_slice(piece.filled());
    Poll::Ready(Ok(piece.filled().len()))
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
        } else {
            let taken = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..taken]);
            self.first = self.first.split_off(taken);
        }
        self.heads.look(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
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
        }
    }
}

impl Heads {
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
    use tokio::io::AsyncReadExt as _;

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
        let opened = Wire::open(Pieces(stream.as_bytes().chunks(piece)), 60).now_or_never()?;
        let mut wire = opened.expect("it can be read").expect("it has not ended");
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
