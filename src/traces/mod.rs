//! Where a request stands in its caller's trace, as W3C Trace Context (level 1) has it; and, in a build with the feature
//! `otel`, the spans of it, which `otlp` exports.
//!
//! - What a caller sends counts only if it is well-formed to its last byte: 32 hexadecimal digits are all of it that a log
//!   line gets, and two headers of bounded length all that Salesforce gets.
//! - A span can hold a [`SpanAttribute`] and nothing else, so no subject, claim, token, key or URL.
//! - Nothing here fails a request or makes it wait. Who sends no `traceparent` pays for a look at the headers.

mod context;
#[cfg(not(feature = "otel"))]
mod disabled;
#[cfg(feature = "otel")]
mod otlp;

use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::clock::Randomness;
use crate::config::{Environment, HttpsUrl, Name, ProfileName};
use context::TraceContext;
#[cfg(not(feature = "otel"))]
use disabled::RecordedSpan;
#[cfg(not(feature = "otel"))]
pub use disabled::TraceExporter;
#[cfg(feature = "otel")]
use otlp::RecordedSpan;
#[cfg(feature = "otel")]
pub use otlp::TraceExporter;

/// What a span says of itself.
#[derive(Clone, Copy)]
pub enum SpanAttribute<'a> {
    Caller(&'a Name),
    Profile(&'a ProfileName),
    /// The status of our answer.
    ResponseStatus(u16),
    /// The status of Salesforce's.
    UpstreamStatus(u16),
    /// What came of an exchange: `success`, or the word that metrics have for its failure.
    Outcome(&'static str),
}

/// A place in a trace, or in none. Cloned cheaply.
#[derive(Clone, Default)]
pub struct Trace {
    context: Option<Arc<TraceContext>>,
    span: RecordedSpan,
}

/// A piece of work, which ends when this is dropped.
#[derive(Default)]
pub struct Span(Trace);

impl Trace {
    /// The place of a request with these headers, at `route`; its own span where spans are recorded.
    pub fn server_span(method: &Method, route: &'static str, headers: &HeaderMap) -> Span {
        let sent = TraceContext::of(headers);
        let (span, context) = RecordedSpan::server(sent.as_ref(), method, route)
            .map_or_else(|| (RecordedSpan::default(), sent), |(span, context)| (span, Some(context)));
        Span(Self { context: context.map(Arc::new), span })
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> Option<&str> {
        Some(self.context.as_ref()?.trace_id())
    }

    pub fn set_attribute(&self, attribute: SpanAttribute<'_>) {
        self.span.set_attribute(attribute);
    }

    /// A step of the work.
    pub fn child_span(&self, name: &'static str) -> Span {
        let span = self.span.child_span(name);
        span.map_or_else(Span::default, |span| Span(Self { context: None, span }))
    }

    /// A request to Salesforce: a span of its own, whether or not it is recorded.
    pub fn client_span(&self, address: &HttpsUrl, randomness: &dyn Randomness) -> Span {
        let Some(here) = &self.context else { return Span::default() };
        let (span, context) = self.span.client(here, address).map_or_else(
            || (RecordedSpan::default(), here.child(randomness)),
            |(span, context)| (span, Some(context)),
        );
        Span(Self { context: context.map(Arc::new), span })
    }
}

impl Span {
    pub const fn trace(&self) -> &Trace {
        &self.0
    }

    /// What tells whoever is asked where this span is.
    pub fn headers(&self) -> HeaderMap {
        self.0.context.as_ref().map(|context| context.headers()).unwrap_or_default()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.0.span.end();
    }
}

/// Of the variables that OpenTelemetry knows, one that says where spans go; an empty one says nothing.
fn otlp_endpoint_variable(environment: &Environment) -> Option<&'static str> {
    let set = |name: &&str| environment.get(*name).is_some_and(|value| !value.is_empty());
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"].into_iter().find(set)
}
