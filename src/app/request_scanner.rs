//! Prevents request smuggling: a stream between socket and hyper that checks each request head and passes on one request at
//! a time.
//!
//! - It buffers bytes until a head is complete. `api::request_head` checks the head and determines the length of the body.
//!   Unless that body is chunked, hyper gets the bytes of that request and none after it. So both agree where the next
//!   request begins.
//! - A rejected head never reaches hyper. hyper gets a synthetic request instead, which the service answers with the error.
//!   The bytes after the rejected head are ignored.
//! - After a request with a chunked body the connection closes, because only hyper finds the end of that body.
//! - A body is read from the socket only after a handler reads it ([`BodyGate`](crate::api::BodyGate)). Bytes that arrive
//!   together with the head are an exception.
//! - A client that is too slow to receive a response (`WRITE_TIMEOUT`) is cut off.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Sleep;

use super::connections::Connection;
use crate::api::{ApiError, BodyFraming, check_head, find_request_id};

/// How long writing may take, counted from the moment at which the socket's buffer is full until everything is flushed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the service reads and discards the client's bytes after the last response.
const LINGER_TIMEOUT: Duration = Duration::from_millis(250);
/// The timeout for shutting down the stream, including TLS's `close_notify`.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);
/// The most bytes that are read at a time.
const READ_CHUNK: usize = 4096;

/// The stream below hyper.
pub(crate) struct ScannedStream<S> {
    stream: S,
    /// Bytes that were received, but not passed to hyper yet.
    pending: Vec<u8>,
    scanner: RequestScanner,
    connection: Arc<Connection>,
    write_timer: Option<Pin<Box<Sleep>>>,
}

/// Finds the boundaries of requests.
struct RequestScanner {
    scan_state: ScanState,
    /// The largest head, in bytes, including its request line and the empty line at its end.
    max_head: usize,
}

/// The kind of bytes that `pending` begins with.
enum ScanState {
    /// The beginning of a head. Its first `seen` bytes contain neither its end nor a bare LF. `has_begun` says whether the time
    /// of its first byte was recorded.
    Head { seen: usize, has_begun: bool },
    /// The rest of a checked request. `remaining` bytes, body included, have not been passed to hyper yet.
    Request { remaining: u64 },
    /// The rest of a request with a chunked body. It is the last request of the connection.
    Chunked,
    /// The synthetic request in place of a rejected one. Nothing more is read.
    Refused,
}

impl ScanState {
    const NEXT: Self = Self::Head { seen: 0, has_begun: false };
}

impl RequestScanner {
    /// Looks for the end of the head at the start of `pending`, and checks the head. Returns `None` while it is incomplete. The
    /// result doesn't depend on how the bytes were split into reads.
    fn scan(&mut self, pending: &mut Vec<u8>) -> Option<Result<BodyFraming, ApiError>> {
        // Skips empty lines before a request (RFC 9112, section 2.2).
        let empty = pending.chunks_exact(2).take_while(|line| *line == b"\r\n").count() * 2;
        if empty > 0 {
            pending.drain(..empty);
            self.scan_state = ScanState::NEXT;
        }
        let ScanState::Head { seen, .. } = &mut self.scan_state else { return None };
        let first = pending.first()?;
        if !(first.is_ascii_alphabetic() || *first == b'\r' && pending.len() == 1) {
            // For example the first bytes of TLS. No known method begins like this, so there is no need to wait for more.
            return Some(Err(ApiError::Malformed("speak plain HTTP/1.1: a request begins with its method")));
        }
        while let Some(next) = pending[*seen..].iter().position(|byte| *byte == b'\n') {
            let end = *seen + next + 1;
            if end > self.max_head {
                break;
            }
            if !pending[..end].ends_with(b"\r\n") {
                return Some(Err(ApiError::Malformed(
                    "end each line of the head with CR LF, not with LF alone",
                )));
            }
            if pending[..end].ends_with(b"\r\n\r\n") {
                let framing = check_head(&pending[..end]);
                self.scan_state = match framing {
                    Ok(BodyFraming::Length(length)) => {
                        ScanState::Request { remaining: length.saturating_add(end as u64) }
                    }
                    _ => ScanState::Chunked,
                };
                return Some(framing);
            }
            *seen = end;
        }
        if pending.len() >= self.max_head {
            return Some(Err(ApiError::HeadTooLarge(self.max_head)));
        }
        None
    }
}

impl<S> ScannedStream<S> {
    pub(crate) const fn new(stream: S, connection: Arc<Connection>, max_head: usize) -> Self {
        let scanner = RequestScanner { scan_state: ScanState::NEXT, max_head };
        Self { stream, pending: Vec::new(), scanner, connection, write_timer: None }
    }

    /// Passes pending bytes of the current request to hyper. Returns whether there were any.
    fn fill(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let most = match self.scanner.scan_state {
            ScanState::Head { .. } => return false,
            ScanState::Request { remaining } => usize::try_from(remaining).unwrap_or(usize::MAX),
            ScanState::Chunked | ScanState::Refused => usize::MAX,
        };
        let given = most.min(self.pending.len()).min(buffer.remaining());
        buffer.put_slice(&self.pending[..given]);
        if given == self.pending.len() {
            // Frees the buffer, so that an idle connection has none.
            self.pending = Vec::new();
            self.connection.charge_pending(0);
        } else {
            self.pending.drain(..given);
        }
        if let ScanState::Request { remaining } = &mut self.scanner.scan_state {
            *remaining -= given as u64;
            if *remaining == 0 {
                self.scanner.scan_state = ScanState::NEXT;
            }
        }
        given > 0
    }

    /// Whether the next request may follow: the current one was passed on, and its body was read to its end. If it wasn't, the
    /// response has told the client that the connection closes.
    pub(crate) fn is_reusable(&self) -> bool {
        matches!(self.scanner.scan_state, ScanState::Head { .. }) && self.connection.body_gate.is_consumed()
    }

    /// Replaces the request by a synthetic one with the same request ID, which the service answers with `error`. Then the
    /// connection is closed.
    fn replace_with_error(&mut self, error: ApiError) {
        // HEAD stays HEAD, because its response must have no body.
        let method = if self.pending.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        let id = find_request_id(&self.pending);
        let id = id.map_or_else(String::new, |id| format!("X-Request-Id: {id}\r\n"));
        self.pending =
            format!("{method} / HTTP/1.1\r\nHost: -\r\nConnection: close\r\n{id}\r\n").into_bytes();
        self.scanner.scan_state = ScanState::Refused;
        // Can't fail: a rejected request is the last of its connection, so no error is set yet.
        let _ = self.connection.error.set(Box::new(error));
    }

    /// Returns an error instead of `Pending` once writing has taken longer than `WRITE_TIMEOUT`.
    fn with_write_timeout<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_pending() {
            self.connection.charge_response();
            let write_timer =
                self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
            ready!(write_timer.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> ScannedStream<S> {
    /// Waits until a head is complete or rejected. Returns `false` if the stream ends first.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while let ScanState::Head { has_begun, .. } = &mut self.scanner.scan_state {
            if !*has_begun && !self.pending.is_empty() {
                *has_begun = true;
                self.connection.start_request();
            }
            let Some(framing) = self.scanner.scan(&mut self.pending) else {
                if self.pending.is_empty() {
                    // Empty lines take no memory.
                    self.pending = Vec::new();
                    self.connection.charge_pending(0);
                }
                if !ready!(self.poll_chunk(cx))? {
                    return Poll::Ready(Ok(false));
                }
                continue;
            };
            let has_body = matches!(framing, Ok(BodyFraming::Length(1..) | BodyFraming::Chunked));
            self.connection.mark_head_checked(has_body);
            if let Err(error) = framing {
                self.replace_with_error(error);
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Waits for the end of the stream while a request is answered. Bytes of the next request are buffered, about as many as a
    /// head may have, and scanned after the response.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.pending.len() < self.scanner.max_head {
            if !ready!(self.poll_chunk(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Reads up to `READ_CHUNK` bytes through a buffer on the stack, so that a silent connection takes no heap memory. Returns
    /// `false` at the end of the stream.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut piece = [MaybeUninit::uninit(); READ_CHUNK];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        self.pending.extend_from_slice(piece.filled());
        self.connection.charge_pending(self.pending.capacity());
        Poll::Ready(Ok(!piece.filled().is_empty()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ScannedStream<S> {
    /// Shuts down the stream. After a response it then discards what the client still sends, for at most `LINGER_TIMEOUT` (lingering
    /// close). Without this the kernel would reset the connection if the client has sent more than was read, and the client might
    /// lose the response.
    pub(crate) async fn close(mut self, is_answered: bool) {
        // TLS can't be shut down as long as the client doesn't read.
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.stream.shutdown()).await;
        if is_answered {
            let rest =
                async { while self.stream.read(&mut [0; 512]).await.is_ok_and(|length| length > 0) {} };
            let _ = tokio::time::timeout(LINGER_TIMEOUT, rest).await;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ScannedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let ScanState::Head { .. } = self.scanner.scan_state {
                if self.connection.has_checked_head() {
                    // hyper wants more bytes of a complete request, so it has parsed the head differently.
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                if self.connection.is_answering() {
                    return self.poll_end(cx);
                }
                // hyper wants the next request. `http_server` drops this hyper once the response is written, and a new one serves that.
                return Poll::Pending;
            }
            if self.fill(buffer) {
                return Poll::Ready(Ok(()));
            }
            if matches!(self.scanner.scan_state, ScanState::Refused) {
                return Poll::Pending;
            }
            ready!(self.connection.body_gate.poll_open(cx));
            if !ready!(self.poll_chunk(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// The interim response that hyper writes for `Expect: 100-continue` (RFC 9110, section 15.2.1). It isn't the response yet.
const CONTINUE_RESPONSE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl<S: AsyncWrite + Unpin> AsyncWrite for ScannedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !is_interim(parts) {
            self.connection.start_response();
        }
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.with_write_timeout(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        ready!(self.with_write_timeout(cx, poll))?;
        // Everything is written: hyper flushes when it has no more bytes.
        self.write_timer = None;
        self.connection.finish_response();
        Poll::Ready(Ok(()))
    }

    /// Does nothing: [`close`](ScannedStream::close) shuts the stream down.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether these bytes are `CONTINUE_RESPONSE`, or what is left of it.
fn is_interim(parts: &[io::IoSlice<'_>]) -> bool {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let start = CONTINUE_RESPONSE.len().checked_sub(length);
    start.is_some_and(|start| parts.iter().flat_map(|part| part.iter()).eq(&CONTINUE_RESPONSE[start..]))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::super::connections::Connections;
    use super::*;

    const PLAIN: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
    /// The synthetic request in place of a rejected one.
    const ERROR_REQUEST: &str = "GET / HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n";

    /// Sends `stream` in pieces of `piece` bytes, and returns the requests that hyper gets, one string per request.
    fn given(stream: &str, piece: usize, buffer: usize) -> Vec<String> {
        let mut scanned = scanned();
        let mut given = vec![String::new()];
        for piece in stream.as_bytes().chunks(piece) {
            scanned.pending.extend_from_slice(piece);
            loop {
                if let ScanState::Head { .. } = scanned.scanner.scan_state {
                    if !given.last().is_some_and(String::is_empty) {
                        given.push(String::new());
                    }
                    match scanned.scanner.scan(&mut scanned.pending) {
                        None => break,
                        Some(Ok(_)) => {}
                        Some(Err(error)) => scanned.replace_with_error(error),
                    }
                }
                let mut buffer = vec![0; buffer];
                let mut buffer = ReadBuf::new(&mut buffer);
                let some = scanned.fill(&mut buffer);
                let last = given.last_mut().expect("there is one at first");
                last.push_str(std::str::from_utf8(buffer.filled()).expect("ASCII"));
                if !some {
                    break;
                }
            }
            if matches!(scanned.scanner.scan_state, ScanState::Refused) {
                break;
            }
        }
        given.retain(|request| !request.is_empty());
        given
    }

    fn scanned() -> ScannedStream<tokio::io::Empty> {
        let gauge = prometheus::IntGauge::new("open", "open").expect("a gauge");
        let counter = prometheus::IntCounter::new("shed", "shed").expect("a counter");
        let permit =
            Connections::new(1, gauge, counter).acquire_permit().now_or_never().flatten().expect("a permit");
        ScannedStream::new(tokio::io::empty(), permit.connection().clone(), 90)
    }

    proptest! {
        /// The result doesn't depend on how the bytes are split, or on lines inside the body.
        #[test]
        fn hyper_receives_one_request_at_a_time(
            body in "[a-z:\r\n]{0,40}",
            piece in 1_usize..200,
            buffer in 1_usize..200,
        ) {
            let post =
                format!("POST /b HTTP/1.1\r\nHost: x\r\ncONTENT-length:  {} \r\n\r\n{body}", body.len());
            let stream = format!("{PLAIN}\r\n\r\n{post}{post}{PLAIN}");
            prop_assert_eq!(given(&stream, piece, buffer), [PLAIN, &post, &post, PLAIN]);
            // A chunked request is the last one, because only hyper knows where it ends.
            let chunked = format!("POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            let stream = format!("{post}{chunked}{PLAIN}");
            prop_assert_eq!(given(&stream, piece, buffer), [post, format!("{chunked}{PLAIN}")]);
        }

        #[test]
        fn a_rejected_head_and_the_bytes_behind_it_never_reach_hyper(piece in 1_usize..200, buffer in 1_usize..200) {
            let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(90));
            for bad in [
                "GET /c HTTP/1.1\nHost: x\r\n\r\n",
                "GET /c HTTP/1.1\r\nHost: x\r\n\n",
                "\nGET",
                "\u{16}\u{3}\u{1}",
                "GET /c#d HTTP/1.1\r\nHost: x\r\n\r\n",
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
                &long,
                &long[..91],
            ] {
                let stream = format!("{PLAIN}{bad}{PLAIN}");
                prop_assert_eq!(given(&stream, piece, buffer), [PLAIN, ERROR_REQUEST], "{:?}", bad);
            }
        }
    }

    #[test]
    fn an_interim_response_is_told_from_a_response_although_it_is_written_in_parts() {
        let parts = |bytes: &[&'static str]| -> bool {
            let parts: Vec<_> = bytes.iter().map(|part| io::IoSlice::new(part.as_bytes())).collect();
            is_interim(&parts)
        };
        assert!(parts(&["HTTP/1.1 100 Continue\r\n\r\n"]) && parts(&["tinue\r", "\n\r\n"]));
        assert!(
            !parts(&["HTTP/1.1 200 OK\r\n\r\n"])
                && !parts(&["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK"])
        );
    }

    #[test]
    fn an_incomplete_head_is_waited_for() {
        for begun in ["", "\r", "\r\n\r", "G", "GET / HTTP/1.1\r\nHost: x\r\n", "PRI * HTTP/2.0\r\n"] {
            for piece in [1, 2, 3, 90] {
                assert_eq!(given(begun, piece, 90), Vec::<String>::new(), "{begun:?}");
            }
        }
    }
}
