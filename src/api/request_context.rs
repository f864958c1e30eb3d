//! The facts that a listener passes to the API with each request.

use std::sync::Arc;

use tokio::time::Instant;

use super::{ApiError, BodyGate};
use crate::callers::Peer;

/// Facts about a request from its connection. The listener adds them as a request extension.
#[derive(Clone)]
pub(crate) struct RequestContext {
    /// When the first byte of the request arrived.
    pub(crate) started_at: Instant,
    /// Set if the request is rejected before any handler runs.
    pub(crate) error: Option<ApiError>,
    /// The identity of the client by its certificate or its Unix user.
    pub(crate) peer: Option<Arc<Peer>>,
    pub(crate) body_gate: Arc<BodyGate>,
}
