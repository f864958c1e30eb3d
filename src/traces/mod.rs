//! Where a request stands in its caller's trace, as W3C Trace Context (level 1) has it; and, in a build with the feature
//! `otel`, the spans of it, which `otlp` exports.
//!
//! - What a caller sends counts only if it is well-formed to its last byte: 32 hexadecimal digits are all of it that a log
//!   line gets, and two headers of bounded length all that Salesforce gets.
//! - A span can hold a [`Fact`] and nothing else, so no subject, claim, token, key or URL.
//! - Nothing here fails a request or makes it wait. Who sends no `traceparent` pays for a look at the headers.

mod context;
#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod otlp;

use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::clock::Randomness;
use crate::config::{Environment, HttpsUrl, Name, ProfileName};
use context::Context;
#[cfg(not(feature = "otel"))]
pub use off::Export;
#[cfg(not(feature = "otel"))]
use off::Recording;
#[cfg(feature = "otel")]
pub use otlp::Export;
#[cfg(feature = "otel")]
use otlp::Recording;

/// What a span says of itself.
#[derive(Clone, Copy)]
pub enum Fact<'a> {
    Caller(&'a Name),
    Profile(&'a ProfileName),
    /// The status of our answer.
    Answer(u16),
    /// The status of Salesforce's.
    Reply(u16),
    /// What came of an exchange: `success`, or the word that metrics have for its failure.
    Outcome(&'static str),
}

/// A place in a trace, or in none. Cloned cheaply.
#[derive(Clone, Default)]
pub struct Trace {
    context: Option<Arc<Context>>,
    recording: Recording,
}

/// A piece of work, which ends when this is dropped.
#[derive(Default)]
pub struct Span(Trace);

impl Trace {
    /// The place of a request with these headers, at `route`; its own span where spans are recorded.
    pub fn of_request(method: &Method, route: &'static str, headers: &HeaderMap) -> Span {
        let sent = Context::of(headers);
        let (recording, context) = Recording::server(sent.as_ref(), method, route)
            .map_or_else(|| (Recording::default(), sent), |(recording, context)| (recording, Some(context)));
        Span(Self { context: context.map(Arc::new), recording })
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> Option<&str> {
        Some(self.context.as_ref()?.trace_id())
    }

    pub fn note(&self, fact: Fact<'_>) {
        self.recording.note(fact);
    }

    /// A step of the work.
    pub fn step(&self, name: &'static str) -> Span {
        let recording = self.recording.step(name);
        recording.map_or_else(Span::default, |recording| Span(Self { context: None, recording }))
    }

    /// A request to Salesforce: a span of its own, whether or not it is recorded.
    pub fn request_to(&self, address: &HttpsUrl, randomness: &dyn Randomness) -> Span {
        let Some(here) = &self.context else { return Span::default() };
        let (recording, context) = self.recording.client(here, address).map_or_else(
            || (Recording::default(), here.child(randomness)),
            |(recording, context)| (recording, Some(context)),
        );
        Span(Self { context: context.map(Arc::new), recording })
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
        self.0.recording.end();
    }
}

/// Of the variables that OpenTelemetry knows, one that says where spans go; an empty one says nothing.
fn endpoint(environment: &Environment) -> Option<&'static str> {
    let set = |name: &&str| environment.get(*name).is_some_and(|value| !value.is_empty());
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"].into_iter().find(set)
}
