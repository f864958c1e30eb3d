//! Records spans with the OpenTelemetry SDK and exports them over OTLP/HTTP. A separate thread exports them from a
//! bounded queue. If the collector is too slow, spans are dropped, so minting never waits.
//!
//! The SDK reads its settings from the variables of the OpenTelemetry specification: endpoint, headers, timeout,
//! sampler, batches, service name. Attributes follow the semantic conventions for HTTP, without URLs.
//!
//! The tracer is global and set once, at startup.

use std::fmt;
use std::str::FromStr as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, SdkTracer, SdkTracerProvider};

use super::context::TraceContext;
use super::{SpanAttribute, otlp_endpoint_variable};
use crate::clock::Randomness;
use crate::config::{Environment, HttpsOrLoopbackUrl};

/// How long shutdown waits for the export of queued spans. Process managers commonly kill after ten seconds.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(1500);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The exporter of this process, if the environment sets an endpoint.
pub(crate) struct TraceExporter(Option<SdkTracerProvider>);

impl TraceExporter {
    /// Starts the exporter. Logs a warning if the settings are invalid. Must not be called in an asynchronous runtime.
    pub(crate) fn start(environment: &Environment, randomness: Arc<dyn Randomness>) -> Self {
        let Some(variable) = otlp_endpoint_variable(environment) else { return Self(None) };
        match provider(randomness) {
            Ok(provider) => {
                // A second start in one process, for example in tests, leaves the first tracer in place.
                let _ = TRACER.set(provider.tracer("tokenmint"));
                tracing::info!(variable, "exports traces");
                Self(Some(provider))
            }
            Err(error) => {
                tracing::warn!(variable, %error, "exports no traces");
                Self(None)
            }
        }
    }

    /// Exports the queued spans. Must not be called in an asynchronous runtime.
    pub(crate) fn finish(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT)) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

fn provider(randomness: Arc<dyn Randomness>) -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = SpanExporter::builder().with_http().build()?;
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_id_generator(RandomIds(randomness));
    Ok(provider.with_resource(resource()).build())
}

/// The resource attributes: name and version of the service, unless the environment sets them.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let said = |key: &'static str| detected.get(&Key::new(key)).map(|value| value.to_string());
    let mut ours = Vec::new();
    if said("service.name").is_none_or(|name| name.starts_with("unknown_service")) {
        ours.push(KeyValue::new("service.name", "tokenmint"));
    }
    if said("service.version").is_none() {
        ours.push(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    }
    Resource::builder().with_attributes(ours).build()
}

/// Generates span and trace ids from the injected randomness. If that fails, the id is zero, which the SDK treats as
/// invalid.
struct RandomIds(Arc<dyn Randomness>);

impl RandomIds {
    fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes).map_or([0; N], |()| bytes)
    }
}

impl IdGenerator for RandomIds {
    fn new_trace_id(&self) -> TraceId {
        TraceId::from_bytes(self.bytes())
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from_bytes(self.bytes())
    }
}

impl fmt::Debug for RandomIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RandomIds")
    }
}

/// A recorded span as an OpenTelemetry context, or none.
#[derive(Clone, Default)]
pub(super) struct RecordedSpan(Option<opentelemetry::Context>);

impl RecordedSpan {
    pub(crate) fn server(
        sent: Option<&TraceContext>,
        method: &Method,
        route: &'static str,
    ) -> Option<(Self, TraceContext)> {
        let tracer = TRACER.get()?;
        let root = opentelemetry::Context::new();
        let parent = sent
            .map_or_else(|| root.clone(), |sent| root.with_remote_span_context(remote_span_context(sent)));
        let attributes = [
            KeyValue::new("http.request.method", method.as_str().to_owned()),
            KeyValue::new("http.route", route),
        ];
        let span = SpanBuilder::from_name(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        Self::start_span(tracer, span, &parent, sent)
    }

    pub(crate) fn child_span(&self, name: &'static str) -> Option<Self> {
        let (tracer, parent) = (TRACER.get()?, self.0.as_ref()?);
        let span = tracer.build_with_context(SpanBuilder::from_name(name), parent);
        Some(Self(Some(parent.with_span(span))))
    }

    pub(crate) fn client(
        &self,
        here: &TraceContext,
        address: &HttpsOrLoopbackUrl,
    ) -> Option<(Self, TraceContext)> {
        let (tracer, parent, url) = (TRACER.get()?, self.0.as_ref()?, address.url());
        let attributes = [
            Some(KeyValue::new("http.request.method", "POST")),
            url.host_str().map(|host| KeyValue::new("server.address", host.to_owned())),
            url.port_or_known_default().map(|port| KeyValue::new("server.port", i64::from(port))),
        ];
        let span = SpanBuilder::from_name("POST")
            .with_kind(SpanKind::Client)
            .with_attributes(attributes.into_iter().flatten());
        Self::start_span(tracer, span, parent, Some(here))
    }

    /// Starts a span; `None` if the SDK creates none, for example after its shutdown.
    fn start_span(
        tracer: &SdkTracer,
        span: SpanBuilder,
        parent: &opentelemetry::Context,
        parent_context: Option<&TraceContext>,
    ) -> Option<(Self, TraceContext)> {
        let here = parent.with_span(tracer.build_with_context(span, parent));
        let span = here.span().span_context().clone();
        let context = TraceContext {
            trace_id: span.trace_id().to_string().as_bytes().try_into().ok()?,
            span_id: span.span_id().to_string().as_bytes().try_into().ok()?,
            sampled: span.is_sampled(),
            tracestate: parent_context.and_then(|parent_context| parent_context.tracestate.clone()),
        };
        span.is_valid().then_some((Self(Some(here)), context))
    }

    pub(crate) fn set_attribute(&self, attribute: SpanAttribute<'_>) {
        let Some(here) = &self.0 else { return };
        let span = here.span();
        let fails = |as_what: String| {
            span.set_attribute(KeyValue::new("error.type", as_what));
            span.set_status(Status::error(""));
        };
        match attribute {
            SpanAttribute::Caller(name) => {
                span.set_attribute(KeyValue::new("tokenmint.caller", name.to_string()));
            }
            SpanAttribute::Profile(name) => {
                span.set_attribute(KeyValue::new("tokenmint.profile", name.to_string()));
            }
            SpanAttribute::ResponseStatus(status) => {
                span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
                // A 4xx isn't an error of a server span (OpenTelemetry semantic conventions, HTTP spans, status).
                if status >= 500 {
                    fails(status.to_string());
                }
            }
            SpanAttribute::UpstreamStatus(status) => {
                span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
            }
            SpanAttribute::Outcome(outcome) => {
                span.set_attribute(KeyValue::new("tokenmint.outcome", outcome));
                if outcome != "success" {
                    fails(outcome.to_owned());
                }
            }
        }
    }

    pub(crate) fn end(&self) {
        if let Some(here) = &self.0 {
            here.span().end();
        }
    }
}

fn remote_span_context(sent: &TraceContext) -> SpanContext {
    let flags = if sent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = sent.tracestate.as_ref().and_then(|state| TraceState::from_str(state.to_str().ok()?).ok());
    SpanContext::new(
        TraceId::from_hex(sent.trace_id()).unwrap_or(TraceId::INVALID),
        SpanId::from_hex(sent.span_id()).unwrap_or(SpanId::INVALID),
        flags,
        true,
        state.unwrap_or_default(),
    )
}
