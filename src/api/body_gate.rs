//! Backpressure for request bodies: delays reading a body from the socket until a handler reads it. So a request without a valid
//! credential is rejected from its head alone. Only those bytes of its body were read that arrived together with the head. The
//! token endpoint is an exception: it reads the body first, because the form may have the credential.
//!
//! A response that is sent before the whole body was read closes the connection. Otherwise the rest of the body would be
//! parsed as the next request.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use hyper::body::{Body, Frame, SizeHint};

/// Says whether the body of a connection's current request may be read from the socket. One per connection.
#[derive(Default)]
pub(crate) struct BodyGate {
    open: AtomicBool,
    /// Whether the body was read to its end, or there is none.
    is_consumed: AtomicBool,
    /// Whether a handler waits for bytes of the body.
    is_awaited: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl BodyGate {
    /// Closes the gate at the start of a request.
    pub(crate) fn close(&self, has_body: bool) {
        self.open.store(false, Ordering::Relaxed);
        self.is_consumed.store(!has_body, Ordering::Relaxed);
        self.is_awaited.store(false, Ordering::Relaxed);
    }

    /// Waits until a handler reads the body.
    pub(crate) fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.open.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        *waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    fn open(&self) {
        if self.open.load(Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.open.store(true, Ordering::Relaxed);
        if let Some(waiting) = waiting.take() {
            waiting.wake();
        }
    }

    /// Whether a handler waits for bytes of the body. So the client has to act, and not the service.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Relaxed)
    }

    /// Whether the body was read to its end, or there was none.
    pub(crate) fn is_consumed(&self) -> bool {
        self.is_consumed.load(Ordering::Relaxed)
    }
}

/// A body that opens its gate when it is polled, and marks itself as consumed at its end.
pub(crate) struct GatedBody<B> {
    body: B,
    gate: Arc<BodyGate>,
}

impl<B> GatedBody<B> {
    pub(crate) const fn new(body: B, gate: Arc<BodyGate>) -> Self {
        Self { body, gate }
    }
}

impl<B: Body + Unpin> Body for GatedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.gate.open();
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.gate.is_awaited.store(frame.is_pending(), Ordering::Relaxed);
        let frame = ready!(frame);
        if frame.is_none() {
            self.gate.is_consumed.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
