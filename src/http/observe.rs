//! The door: every request passes here on its way in and every answer on its way out. Gives each a request
//! id, bounds its time, counts it, writes refusals, and says which answers are the last of their connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::header::{CONNECTION, TRANSFER_ENCODING};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prometheus::{Histogram, IntCounter};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{Arrival, ROUTES, Refusal, Shared};
use crate::clock::Randomness;
use crate::metrics::Metrics;
use crate::tokens::MintError;
use crate::traces::{Fact, Span, Trace};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// What is left of a request's time once there is nothing more to wait for.
const TIME_TO_ANSWER: Duration = Duration::from_millis(250);

/// What ties an answer, its log lines and its audit line together.
#[derive(Clone)]
pub(super) struct RequestId {
    id: HeaderValue,
    trace: Trace,
    /// When a request that waits for Salesforce must be answered: a little before it would be cut off as if this service
    /// were overloaded.
    deadline: Instant,
}

impl RequestId {
    /// The client's, if it can do no harm in a log or a header; else a fresh one.
    fn of(headers: &HeaderMap, randomness: &dyn Randomness, trace: Trace, deadline: Instant) -> Self {
        let harmless = |id: &&HeaderValue| {
            (1..=64).contains(&id.len())
                && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
        };
        if let Some(id) = headers.get(X_REQUEST_ID).filter(harmless) {
            return Self { id: id.clone(), trace, deadline };
        }
        let mut bytes = [0; 16];
        // An id that isn't unique is no reason to refuse a request.
        let _ = randomness.fill(&mut bytes);
        let text = URL_SAFE_NO_PAD.encode(bytes);
        let id = HeaderValue::from_str(&text).expect("base64url is visible ASCII");
        Self { id, trace, deadline }
    }

    pub fn as_str(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    pub fn trace_id(&self) -> Option<&str> {
        self.trace.trace_id()
    }
}

/// What is counted of a route. Looked up when it first answers, so that `/metrics` is silent of what never happened.
#[derive(Default)]
struct Tally {
    fine: OnceLock<IntCounter>,
    duration: OnceLock<Histogram>,
}

/// One of each of [`ROUTES`], and the last for whatever else was asked for.
pub struct Tallies(Vec<Tally>);

impl Default for Tallies {
    fn default() -> Self {
        Self((0..=ROUTES.len()).map(|_| Tally::default()).collect())
    }
}

impl Tallies {
    fn count(&self, route: Option<usize>, status: StatusCode, took: Duration, metrics: &Metrics) {
        let name = route.map_or("other", |route| ROUTES[route].path);
        let tally = &self.0[route.unwrap_or(ROUTES.len())];
        let answers = || metrics.requests.with_label_values(&[name, status.as_str()]);
        if status == StatusCode::OK {
            tally.fine.get_or_init(answers).inc();
        } else {
            answers().inc();
        }
        let duration = tally.duration.get_or_init(|| metrics.request_duration.with_label_values(&[name]));
        duration.observe(took.as_secs_f64());
    }
}

/// The door as a layer.
#[derive(Clone)]
pub(super) struct Door(pub Shared);

#[derive(Clone)]
pub(super) struct Observed<S> {
    door: Door,
    inner: S,
}

impl<S> Layer<S> for Door {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { door: self.clone(), inner }
    }
}

impl<S, B> Service<Request> for Observed<S>
where
    S: Service<Request, Response = ::http::Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let service = self.door.0.clone();
        // The one that was polled, and a fresh one for the next request.
        let inner = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, inner);
        let asked =
            move |request| async move { inner.call(request).await.map(|answer| answer.map(Body::new)) };
        Box::pin(async move { Ok(observe(&service, request, asked).await) })
    }
}

async fn observe<F>(
    service: &super::Service,
    mut request: Request,
    inner: impl FnOnce(Request) -> F,
) -> Response
where
    F: Future<Output = Result<Response, Infallible>>,
{
    let arrival = request.extensions().get::<Arrival>();
    let began = arrival.map_or_else(Instant::now, |arrival| arrival.began);
    let (refusal, body) =
        arrival.map_or((None, None), |arrival| (arrival.refusal.clone(), Some(arrival.body.clone())));
    let path = request.extensions().get::<MatchedPath>();
    let route = path.and_then(|path| ROUTES.iter().position(|route| route.path == path.as_str()));
    let span = span(&request, route);
    let limit = service.limits.request_timeout;
    let deadline = began + limit.saturating_sub((limit / 10).min(TIME_TO_ANSWER));
    let id = RequestId::of(request.headers(), &*service.randomness, span.trace().clone(), deadline);
    let chunked = request.headers().contains_key(TRANSFER_ENCODING);

    let is_late = || Instant::now() >= began + limit;
    let refusal =
        refusal.or_else(|| is_late().then_some(Refusal::ArrivedTooSlowly { what: "head", within: limit }));
    let is_refused = refusal.is_some();
    let answer = if let Some(refusal) = refusal {
        refusal.into_response()
    } else {
        request.extensions_mut().insert(id.clone());
        match tokio::time::timeout_at(began + limit, inner(request)).await {
            Ok(Ok(answer)) => answer,
            Err(_) => Refusal::TooSlow.into_response(),
        }
    };
    let mut answer = written(answer, &id, &service.metrics);
    answer.headers_mut().insert(X_REQUEST_ID, id.id);
    // Said aloud: a client that used the connection again would find it closed. Where a chunked body ends is the one thing
    // that `app::request_scanner` leaves to hyper alone, so nothing follows it.
    let is_unread = body.is_some_and(|body| !body.is_read());
    if is_refused || is_unread || chunked || service.draining.load(Ordering::Relaxed) {
        answer.headers_mut().insert(CONNECTION, CLOSE);
    }

    span.trace().note(Fact::Answer(answer.status().as_u16()));
    service.tallies.count(route, answer.status(), began.elapsed(), &service.metrics);
    answer
}

/// Only requests for tokens stand in a trace: a stranger who reads a JWKS has no say in what is recorded.
fn span(request: &Request, route: Option<usize>) -> Span {
    let route =
        route.map(|route| &ROUTES[route]).filter(|route| route.mints() && request.method() == Method::POST);
    route.map_or_else(Span::default, |route| Trace::of_request(&route.method, route.path, request.headers()))
}

/// A refusal is written out here; anything else stays as it is.
fn written(mut answer: Response, id: &RequestId, metrics: &Metrics) -> Response {
    let Some(refusal) = answer.extensions_mut().remove::<Refusal>() else { return answer };
    // Overload is counted; a line for each would make it worse.
    if let Refusal::Mint(error) = &refusal
        && *error != MintError::Overloaded
    {
        tracing::warn!(request_id = id.as_str(), trace_id = id.trace_id(), %error, "no token was minted");
    }
    let verdict = refusal.verdict();
    metrics.refusals.with_label_values(&[verdict.error]).inc();
    tracing::debug!(request_id = id.as_str(), trace_id = id.trace_id(), error = verdict.error, "refused");
    verdict.into_response(answer, id.as_str())
}
