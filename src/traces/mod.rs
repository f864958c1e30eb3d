//! Distributed tracing: propagates W3C Trace Context (level 1) from callers to Salesforce. In a build with the feature
//! `otel`, records spans, which `otlp` exports.
//!
//! - A caller's `traceparent` is used only if it is well-formed. Log lines get only its trace id, 32 hexadecimal digits.
//!   Salesforce gets at most two headers, of bounded length.
//! - A span's attributes are the variants of [`SpanAttribute`], method, route, server address and port, and `error.type`. So
//!   it contains no subject, claim, token, key or URL.
//! - Tracing never fails or delays a request.

mod context;
#[cfg(not(feature = "otel"))]
mod disabled;
#[cfg(feature = "otel")]
mod otlp;

use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::clock::Randomness;
use crate::config::{Environment, HttpsOrLoopbackUrl, Name, ProfileName};
use context::TraceContext;
#[cfg(not(feature = "otel"))]
use disabled::RecordedSpan;
#[cfg(not(feature = "otel"))]
pub(crate) use disabled::TraceExporter;
#[cfg(feature = "otel")]
use otlp::RecordedSpan;
#[cfg(feature = "otel")]
pub(crate) use otlp::TraceExporter;

/// An attribute that is set while a span runs. A failure also sets `error.type`.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "without spans, nothing reads the values"))]
pub(crate) enum SpanAttribute<'a> {
    Caller(&'a Name),
    Profile(&'a ProfileName),
    /// The status of tokenmint's response.
    ResponseStatus(u16),
    /// The status of Salesforce's response.
    UpstreamStatus(u16),
    /// The outcome of an exchange: `success`, or the label of its failure in the metrics.
    Outcome(&'static str),
}

/// The position of a request in its trace, if it has one. Clones are cheap.
#[derive(Clone, Default)]
pub struct Trace {
    context: Option<Arc<TraceContext>>,
    span: RecordedSpan,
}

/// A span, which ends when it is dropped.
#[derive(Default)]
pub(crate) struct Span(Trace);

impl Trace {
    /// Starts the server span of a request. If spans aren't recorded, only takes over the caller's trace context.
    pub(crate) fn server_span(method: &Method, route: &'static str, headers: &HeaderMap) -> Span {
        let sent = TraceContext::from_headers(headers);
        let (span, context) = RecordedSpan::server(sent.as_ref(), method, route)
            .map_or_else(|| (RecordedSpan::default(), sent), |(span, context)| (span, Some(context)));
        Span(Self { context: context.map(Arc::new), span })
    }

    /// The trace id, 32 hexadecimal digits.
    pub(crate) fn trace_id(&self) -> Option<&str> {
        Some(self.context.as_ref()?.trace_id())
    }

    pub(crate) fn set_attribute(&self, attribute: SpanAttribute<'_>) {
        self.span.set_attribute(attribute);
    }

    /// Starts an internal child span.
    pub(crate) fn child_span(&self, name: &'static str) -> Span {
        let span = self.span.child_span(name);
        span.map_or_else(Span::default, |span| Span(Self { context: None, span }))
    }

    /// Starts the client span of a request to Salesforce. If the request belongs to a trace, the span gets its own id even if
    /// spans aren't recorded.
    pub(crate) fn client_span(&self, address: &HttpsOrLoopbackUrl, randomness: &dyn Randomness) -> Span {
        let Some(here) = &self.context else { return Span::default() };
        let (span, context) = self.span.client(here, address).map_or_else(
            || (RecordedSpan::default(), here.child(randomness)),
            |(span, context)| (span, Some(context)),
        );
        Span(Self { context: context.map(Arc::new), span })
    }
}

impl Span {
    pub(crate) const fn trace(&self) -> &Trace {
        &self.0
    }

    /// The headers that propagate this span's context.
    pub(crate) fn headers(&self) -> HeaderMap {
        self.0.context.as_ref().map(|context| context.headers()).unwrap_or_default()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.0.span.end();
    }
}

/// Returns the name of the OpenTelemetry variable that sets the OTLP endpoint, if one is set and not empty.
fn otlp_endpoint_variable(environment: &Environment) -> Option<&'static str> {
    let set = |name: &&str| environment.get(*name).is_some_and(|value| !value.is_empty());
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"].into_iter().find(set)
}
