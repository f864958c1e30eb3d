//! No-op implementation of span recording, for a build without the feature `otel`.

#![expect(clippy::missing_const_for_fn, reason = "the recording implementation isn't const either")]

use std::sync::Arc;

use http::Method;

use super::context::TraceContext;
use super::{SpanAttribute, otlp_endpoint_variable};
use crate::clock::Randomness;
use crate::config::{Environment, HttpsOrLoopbackUrl};

/// A span that isn't recorded.
#[derive(Clone, Default)]
pub(super) struct RecordedSpan(());

impl RecordedSpan {
    pub(crate) fn server(
        _: Option<&TraceContext>,
        _: &Method,
        _: &'static str,
    ) -> Option<(Self, TraceContext)> {
        None
    }

    pub(crate) fn child_span(&self, _: &'static str) -> Option<Self> {
        None
    }

    pub(crate) fn client(&self, _: &TraceContext, _: &HttpsOrLoopbackUrl) -> Option<(Self, TraceContext)> {
        None
    }

    pub(crate) fn set_attribute(&self, _: SpanAttribute<'_>) {}

    pub(crate) fn end(&self) {}
}

/// An exporter that exports nothing.
pub(crate) struct TraceExporter;

impl TraceExporter {
    /// Logs a warning if the environment sets an OTLP endpoint.
    pub(crate) fn start(environment: &Environment, _: Arc<dyn Randomness>) -> Self {
        if let Some(variable) = otlp_endpoint_variable(environment) {
            tracing::warn!(
                variable,
                "is set, but this build of tokenmint exports no traces: build it with `--features otel`, or leave the variable out"
            );
        }
        Self
    }

    pub(crate) fn finish(self) {}
}
