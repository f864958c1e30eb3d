//! The middleware of all routes: a tower layer. For each request it
//!
//! - sets the request ID, and starts the trace span of a request for a token,
//! - enforces `request_timeout`,
//! - writes the error response, if the handler returned an error,
//! - updates the metrics,
//! - adds `Connection: close` if the connection can't be reused.
//!
//! A handler's panic doesn't arrive here: `CatchPanicLayer`, the layer inside this one (see [`router`](super::router)), turns it
//! into an error.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use prometheus::{Histogram, IntCounter};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{ApiError, ROUTES, RequestContext, SharedState};
use crate::clock::Randomness;
use crate::metrics::Metrics;
use crate::tokens::MintError;
use crate::traces::{Span, SpanAttribute, Trace};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// The time that is reserved for writing the response: a wait for Salesforce ends this long before `request_timeout`. A tenth of
/// `request_timeout` is reserved instead if that is less.
const RESPONSE_MARGIN: Duration = Duration::from_millis(250);

/// The request ID, the trace and the deadline of a request, as a request extension. Response, log lines and audit line carry
/// the ID.
#[derive(Clone)]
pub(super) struct RequestScope {
    id: HeaderValue,
    trace: Trace,
    /// When a wait for Salesforce must end. It is a little before the request times out, because the timeout answers
    /// `overloaded`, which would blame this service.
    deadline: Instant,
}

impl RequestScope {
    /// Uses the client's `X-Request-Id` if [`is_request_id`]. Otherwise makes a random one.
    fn of(headers: &HeaderMap, randomness: &dyn Randomness, trace: Trace, deadline: Instant) -> Self {
        if let Some(id) = headers.get(X_REQUEST_ID).filter(|id| is_request_id(id.as_bytes())) {
            return Self { id: id.clone(), trace, deadline };
        }
        let mut bytes = [0; 16];
        // Without randomness the ID isn't unique, which is no reason to reject the request.
        let _ = randomness.fill(&mut bytes);
        let text = URL_SAFE_NO_PAD.encode(bytes);
        let id = HeaderValue::from_str(&text).expect("base64url is visible ASCII");
        Self { id, trace, deadline }
    }

    pub(crate) fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) const fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(crate) fn trace_id(&self) -> Option<&str> {
        self.trace.trace_id()
    }
}

/// Whether a request ID of a client is used: 1 to 64 letters, digits and `._-`.
pub(super) fn is_request_id(id: &[u8]) -> bool {
    (1..=64).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

/// The metrics of one route that are looked up once: the count of responses with status 200, and the duration. Each series is
/// created with its first response, so that `/metrics` has no series of routes that nobody requested.
#[derive(Default)]
struct RouteMetrics {
    ok_count: OnceLock<IntCounter>,
    duration: OnceLock<Histogram>,
}

/// The metrics of each of [`ROUTES`], in order. The last entry counts requests without a route.
pub(crate) struct RequestMetrics(Vec<RouteMetrics>);

impl Default for RequestMetrics {
    fn default() -> Self {
        Self((0..=ROUTES.len()).map(|_| RouteMetrics::default()).collect())
    }
}

impl RequestMetrics {
    fn count(&self, route: Option<usize>, status: StatusCode, took: Duration, metrics: &Metrics) {
        let name = route.map_or("other", |route| ROUTES[route].path);
        let route_metrics = &self.0[route.unwrap_or(ROUTES.len())];
        let answers = || metrics.requests.with_label_values(&[name, status.as_str()]);
        if status == StatusCode::OK {
            route_metrics.ok_count.get_or_init(answers).inc();
        } else {
            answers().inc();
        }
        let duration =
            route_metrics.duration.get_or_init(|| metrics.request_duration.with_label_values(&[name]));
        duration.observe(took.as_secs_f64());
    }
}

/// The tower layer that adds [`RequestMiddleware`].
#[derive(Clone)]
pub(super) struct RequestLayer(pub(crate) SharedState);

/// The tower service around the router.
#[derive(Clone)]
pub(super) struct RequestMiddleware<S> {
    layer: RequestLayer,
    inner: S,
}

impl<S> Layer<S> for RequestLayer {
    type Service = RequestMiddleware<S>;

    fn layer(&self, inner: S) -> RequestMiddleware<S> {
        RequestMiddleware { layer: self.clone(), inner }
    }
}

impl<S, B> Service<Request> for RequestMiddleware<S>
where
    S: Service<Request, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
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
        let state = self.layer.0.clone();
        // Takes the service that was polled ready, and leaves a clone for the next request.
        let inner = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, inner);
        let respond =
            move |request| async move { inner.call(request).await.map(|answer| answer.map(Body::new)) };
        Box::pin(async move { Ok(process_request(&state, request, respond).await) })
    }
}

/// Processes one request, with `inner` as the router.
async fn process_request<F>(
    state: &super::AppState,
    mut request: Request,
    inner: impl FnOnce(Request) -> F,
) -> Response
where
    F: Future<Output = Result<Response, Infallible>>,
{
    let context = request.extensions().get::<RequestContext>();
    let started_at = context.map_or_else(Instant::now, |context| context.started_at);
    let (error, body) =
        context.map_or((None, None), |context| (context.error.clone(), Some(context.body_gate.clone())));
    let path = request.extensions().get::<MatchedPath>();
    let route = path.and_then(|path| ROUTES.iter().position(|route| route.path == path.as_str()));
    let span = request_span(&request, route);
    let limit = state.limits.request_timeout;
    let deadline = started_at + limit.saturating_sub((limit / 10).min(RESPONSE_MARGIN));
    let scope = RequestScope::of(request.headers(), &*state.randomness, span.trace().clone(), deadline);
    let chunked = request.headers().contains_key(TRANSFER_ENCODING);

    let is_late = || Instant::now() >= started_at + limit;
    let error =
        error.or_else(|| is_late().then_some(ApiError::ReceiveTimeout { what: "head", within: limit }));
    let is_refused = error.is_some();
    let answer = if let Some(error) = error {
        error.into_response()
    } else {
        request.extensions_mut().insert(scope.clone());
        match tokio::time::timeout_at(started_at + limit, inner(request)).await {
            Ok(Ok(answer)) => answer,
            Err(_) => ApiError::RequestTimeout.into_response(),
        }
    };
    let is_token_endpoint = route.is_some_and(|route| ROUTES[route].is_token_endpoint());
    let mut answer = render_error(answer, is_token_endpoint, &scope, &state.metrics);
    answer.headers_mut().insert(X_REQUEST_ID, scope.id);
    // Tells the client not to reuse a connection that this service closes. It always closes after a chunked body:
    // `app::request_scanner` doesn't know where such a body ends, so it can't find the next request.
    let is_unread = body.is_some_and(|body| !body.is_consumed());
    if is_refused || is_unread || chunked || state.draining.load(Ordering::Relaxed) {
        answer.headers_mut().insert(CONNECTION, CLOSE);
    }

    // `app::http_server` counts on that.
    debug_assert!(answer.body().size_hint().exact().is_some(), "a response consists of one frame");
    span.trace().set_attribute(SpanAttribute::ResponseStatus(answer.status().as_u16()));
    state.request_metrics.count(route, answer.status(), started_at.elapsed(), &state.metrics);
    answer
}

/// Starts a span for requests to token endpoints only. So a trace header has no effect on routes that need no credential, for
/// example a JWKS.
fn request_span(request: &Request, route: Option<usize>) -> Span {
    let route = route
        .map(|route| &ROUTES[route])
        .filter(|route| route.is_minting() && request.method() == Method::POST);
    route.map_or_else(Span::default, |route| Trace::server_span(&route.method, route.path, request.headers()))
}

/// Replaces `answer` by the error response if the handler returned an error. Also counts and logs the error.
fn render_error(
    mut answer: Response,
    is_token_endpoint: bool,
    scope: &RequestScope,
    metrics: &Metrics,
) -> Response {
    let Some(error) = answer.extensions_mut().remove::<ApiError>() else { return answer };
    // Overload causes no warning: a log line for each rejected request would add load.
    if let ApiError::Mint(error) = &error
        && *error != MintError::Overloaded
    {
        tracing::warn!(request_id = scope.id(), trace_id = scope.trace_id(), %error, "no token was minted");
    }
    let error_response =
        if is_token_endpoint { error.token_endpoint_response() } else { error.error_response() };
    metrics.refusals.with_label_values(&[error_response.error]).inc();
    tracing::debug!(
        request_id = scope.id(),
        trace_id = scope.trace_id(),
        error = error_response.error,
        "refused"
    );
    error_response.into_response(answer, scope.id())
}
