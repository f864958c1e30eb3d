//! Holds a request's body back until somebody asks for it, so that a stranger's costs nothing: the answer to a request
//! without a credential is made from its head alone.
//!
//! An answer that is made before the whole body was read ends the connection. Otherwise the rest of that body would have
//! to be read first, or would stand where the next request begins.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use hyper::body::{Body, Frame, SizeHint};

/// Of one connection, for the request that it reads.
#[derive(Default)]
pub struct BodyGate {
    open: AtomicBool,
    read: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl BodyGate {
    /// Closes it, for a request that begins.
    pub fn close(&self, has_body: bool) {
        self.open.store(false, Ordering::Relaxed);
        self.read.store(!has_body, Ordering::Relaxed);
    }

    /// Waits until the body is asked for.
    pub fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
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

    /// Whether nothing is left of the body, or there was none.
    pub fn is_read(&self) -> bool {
        self.read.load(Ordering::Relaxed)
    }
}

/// A body that opens its gate when it is read.
pub struct GatedBody<B> {
    body: B,
    gate: Arc<BodyGate>,
}

impl<B> GatedBody<B> {
    pub const fn new(body: B, gate: Arc<BodyGate>) -> Self {
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
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.gate.read.store(true, Ordering::Relaxed);
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
