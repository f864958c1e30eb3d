//! The bytes of a connection on their way to hyper and back.
//!
//! - In: hyper takes a bare LF for the end of a line, and `Content-Length` beside `Transfer-Encoding`. A proxy in front may
//!   see another request in those bytes, and so be made to carry one of a stranger's. The byte that tells becomes one
//!   that hyper refuses: 400, and closed.
//! - Out: who doesn't take an answer in time is cut off.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// From the moment at which the client takes no more until all that waits for it is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Wire<S> {
    stream: S,
    heads: Heads,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, heads: Heads::default(), stalled: None }
    }

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
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
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
    use proptest::prelude::*;

    use super::*;

    /// What hyper gets to see of a stream that comes in pieces of that length.
    fn seen(stream: &str, piece: usize) -> String {
        let mut bytes = stream.as_bytes().to_vec();
        let mut heads = Heads::default();
        bytes.chunks_mut(piece).for_each(|piece| heads.look(piece));
        String::from_utf8(bytes).expect("only ASCII is spoilt")
    }

    const PLAIN: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

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
