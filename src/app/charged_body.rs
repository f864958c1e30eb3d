//! Memory accounting of request bodies: a connection is charged for a request only while its handler waits for the client to send more of
//! the body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connections::Connection;
use crate::api::GatedBody;

/// A body, its connection, and how many bytes of the body the handler has.
pub(super) struct ChargedBody {
    body: GatedBody<Incoming>,
    connection: Arc<Connection>,
    received: usize,
}

impl ChargedBody {
    pub(super) const fn new(body: GatedBody<Incoming>, connection: Arc<Connection>) -> Self {
        Self { body, connection, received: 0 }
    }
}

impl Body for ChargedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Pending => self.connection.charge_request(self.received),
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.received += data.map_or(0, Bytes::len);
                self.connection.end_request_charge();
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
