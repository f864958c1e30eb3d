//! Faulty response bodies (truncated, throttled, endless), and the marker of a connection abort.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Frame;
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval, sleep};

/// The pause before a [`TruncatedBody`] aborts the connection, so that the bytes before it are sent.
const FLUSH_DELAY: Duration = Duration::from_millis(50);

/// A marker that aborts the connection without a response: [`serve`](super::serve) finds it in the extensions of a response. As
/// the error of a body, it aborts a response that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionAbort {
    /// Sends a TCP RST.
    Reset,
    /// Sends a TCP FIN.
    Close,
}

impl ConnectionAbort {
    /// A response that carries the marker. Servers other than `serve` see a body that fails after [`FLUSH_DELAY`], without a byte.
    pub(crate) fn into_marker_response(self) -> Response {
        let mut response = Response::new(Body::new(TruncatedBody::after(Bytes::new())));
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for ConnectionAbort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sandbox aborts the connection on purpose")
    }
}

impl std::error::Error for ConnectionAbort {}

type PolledFrame = Poll<Option<Result<Frame<Bytes>, ConnectionAbort>>>;

/// Sends some bytes, then aborts the connection.
pub(super) struct TruncatedBody {
    first: Bytes,
    pause: Pin<Box<Sleep>>,
}

impl TruncatedBody {
    pub(crate) fn after(first: Bytes) -> Self {
        Self { first, pause: Box::pin(sleep(FLUSH_DELAY)) }
    }
}

impl hyper::body::Body for TruncatedBody {
    type Data = Bytes;
    type Error = ConnectionAbort;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> PolledFrame {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        ready!(self.pause.as_mut().poll(context));
        Poll::Ready(Some(Err(ConnectionAbort::Close)))
    }
}

/// Sends one byte at a time.
pub(super) struct ThrottledBody {
    left: Bytes,
    tick: Interval,
}

impl ThrottledBody {
    pub(crate) fn every(pause: Duration, all: Bytes) -> Self {
        let mut tick = interval(pause.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { left: all, tick }
    }
}

impl hyper::body::Body for ThrottledBody {
    type Data = Bytes;
    type Error = ConnectionAbort;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> PolledFrame {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        ready!(self.tick.poll_tick(context));
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(1)))))
    }
}

/// JSON with a string that is never closed: `left` bytes after [`Self::PREFIX`], or without end if `left` is `None`.
pub(super) struct EndlessBody {
    prefix: Bytes,
    left: Option<u64>,
}

impl EndlessBody {
    pub(crate) const PREFIX: &[u8] = br#"{"access_token":""#;
    const CHUNK: &[u8] = &[b'A'; 16 << 10];

    pub(crate) const fn with_length(left: Option<u64>) -> Self {
        Self { prefix: Bytes::from_static(Self::PREFIX), left }
    }
}

impl hyper::body::Body for EndlessBody {
    type Data = Bytes;
    type Error = ConnectionAbort;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> PolledFrame {
        if !self.prefix.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.prefix)))));
        }
        let chunk = Bytes::from_static(Self::CHUNK);
        let chunk = match &mut self.left {
            None => chunk,
            Some(0) => return Poll::Ready(None),
            Some(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len());
                *left -= length as u64;
                chunk.slice(..length)
            }
        };
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}
