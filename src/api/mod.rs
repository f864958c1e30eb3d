//! The HTTP API: the route table, the handlers, the middleware, and the mapping of errors to statuses.
//!
//! - `POST /identity-token`, `/oauth-assertion`, `/intercom-user-jwt`, `/hs256-token`, `/bundle`, `/oauth-access-token`,
//!   `/messaging-access-token`: for authenticated callers.
//! - `POST /oauth2/token`, also as `/services/oauth2/token`: the OAuth 2.0 token endpoint, for OAuth clients.
//!   `GET /.well-known/oauth-authorization-server` describes it.
//! - `GET /.well-known/jwks.json`, `/keysets/{keyset}/jwks.json`: public, and the only routes of the public listener.
//! - `GET /livez`, `/readyz`, `/healthz`, `/metrics`, `/status`: on the ops listener if there is one, otherwise on the minting
//!   listener.
//! - `GET /openapi.yaml`: the description of the API. A test compares it with [`ROUTES`].
//!
//! `middleware` gives every response an `X-Request-Id`. Every error response is JSON. There are no CORS headers, because
//! browsers don't call tokenmint.

mod access_tokens;
mod audit;
mod authorization;
mod body_gate;
mod bundle;
mod content_negotiation;
mod error;
mod health;
mod jwks;
mod middleware;
mod mint;
mod oauth2;
mod request;
mod request_body;
mod request_context;
mod request_head;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::{MethodRouter, get, post};
use http::Method;
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) use audit::{AUDIT_TARGET, Audit, DroppedLineCounter};
pub(crate) use body_gate::{BodyGate, GatedBody};
pub(crate) use error::ApiError;
pub(crate) use middleware::RequestMetrics;
pub(crate) use request_context::RequestContext;
pub(crate) use request_head::{BodyFraming, check_head, find_request_id};
pub(crate) use status::ReloadReport;

use crate::callers::{Callers, SubjectRateLimiter};
use crate::clock::{Clock, Randomness};
use crate::config::{Config, Hs256Kind, Limits};
use crate::exchange::Exchanger;
use crate::issuers::Issuers;
use crate::jwks::PublishedJwks;
use crate::keys::KeyRing;
use crate::metrics::Metrics;
use crate::tokens::{Profiles, Signer};

/// The API description, `openapi.yaml` at the repository's root.
pub const OPENAPI: &str = include_str!("../../openapi.yaml");

/// The profiles, keys and callers of one configuration. A reload or a retirement replaces it as a whole; a request that has
/// loaded it keeps the old one.
pub struct ConfigSnapshot {
    pub(crate) config: Arc<Config>,
    pub ring: KeyRing,
    pub profiles: Profiles,
    pub callers: Callers,
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) published: PublishedJwks,
}

/// The state that all handlers share: the current [`ConfigSnapshot`], and the parts that outlive a reload.
pub struct AppState {
    pub snapshot: ArcSwap<ConfigSnapshot>,
    pub signer: Arc<Signer>,
    pub exchanger: Exchanger,
    /// Limits how often a caller mints one subject's tokens, against pages that reload in a loop.
    pub(crate) subject_rate_limiter: SubjectRateLimiter,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) randomness: Arc<dyn Randomness>,
    pub metrics: Arc<Metrics>,
    /// The metrics of requests by route, looked up once.
    pub(crate) request_metrics: RequestMetrics,
    pub(crate) audit: Audit,
    pub(crate) limits: Limits,
    /// Set at shutdown: the service still answers, but isn't ready any more.
    pub(crate) draining: AtomicBool,
    /// The result of the last check of the files for changes.
    pub(crate) last_reload_check: ArcSwap<ReloadReport>,
    /// The number of log lines dropped so far, for `/metrics`.
    pub(crate) dropped_lines: DroppedLineCounter,
}

impl AppState {
    /// Whether each profile has a key that signs, and the service isn't shutting down. Whether Salesforce can be reached doesn't
    /// matter.
    pub(crate) fn ready(&self) -> bool {
        !self.draining.load(Ordering::Acquire) && self.snapshot.load().profiles.is_ready(self.clock.now())
    }
}

type SharedState = Arc<AppState>;

/// The group of a route. A listener serves one or more groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteGroup {
    /// For callers: on the listener of `[server]`.
    Minting,
    /// For the internet: on the listeners of `[server]` and `[server.public]`.
    Public,
    /// For monitoring and operators: on the listener of `[server.ops]`, or of `[server]` without one.
    Ops,
}

/// A row of the route table.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub(crate) group: RouteGroup,
    handler: fn() -> MethodRouter<SharedState>,
}

/// The route table.
pub static ROUTES: &[Route] = &[
    Route::new(Method::POST, "/identity-token", RouteGroup::Minting, || post(mint::identity_token)),
    Route::new(Method::POST, "/oauth-assertion", RouteGroup::Minting, || post(mint::oauth_assertion)),
    Route::new(Method::POST, "/intercom-user-jwt", RouteGroup::Minting, || {
        mint::hs256_token(Hs256Kind::Intercom)
    }),
    Route::new(Method::POST, "/hs256-token", RouteGroup::Minting, || mint::hs256_token(Hs256Kind::General)),
    Route::new(Method::POST, "/bundle", RouteGroup::Minting, || post(bundle::bundle)),
    Route::new(Method::POST, "/oauth-access-token", RouteGroup::Minting, || {
        post(access_tokens::oauth_access_token)
    }),
    Route::new(Method::POST, "/messaging-access-token", RouteGroup::Minting, || {
        post(access_tokens::messaging_access_token)
    }),
    Route::new(Method::POST, oauth2::TOKEN_PATHS[0], RouteGroup::Minting, || post(oauth2::token)),
    Route::new(Method::POST, oauth2::TOKEN_PATHS[1], RouteGroup::Minting, || post(oauth2::token)),
    Route::new(Method::GET, "/.well-known/oauth-authorization-server", RouteGroup::Minting, || {
        get(oauth2::metadata)
    }),
    Route::new(Method::GET, "/openapi.yaml", RouteGroup::Minting, || get(jwks::openapi)),
    Route::new(Method::GET, "/.well-known/jwks.json", RouteGroup::Public, || get(jwks::union)),
    Route::new(Method::GET, "/keysets/{keyset}/jwks.json", RouteGroup::Public, || get(jwks::keyset)),
    Route::new(Method::GET, "/livez", RouteGroup::Ops, || get(health::livez)),
    Route::new(Method::GET, "/readyz", RouteGroup::Ops, || get(health::readyz)),
    Route::new(Method::GET, "/healthz", RouteGroup::Ops, || get(health::readyz)),
    Route::new(Method::GET, "/metrics", RouteGroup::Ops, || get(health::metrics)),
    Route::new(Method::GET, "/status", RouteGroup::Ops, || get(status::status)),
];

impl Route {
    /// Whether the route requires an authenticated caller.
    fn is_minting(&self) -> bool {
        self.group == RouteGroup::Minting && self.method == Method::POST
    }

    /// Whether errors have the form of RFC 6749, section 5.2.
    fn is_token_endpoint(&self) -> bool {
        oauth2::TOKEN_PATHS.contains(&self.path)
    }

    const fn new(
        method: Method,
        path: &'static str,
        group: RouteGroup,
        handler: fn() -> MethodRouter<SharedState>,
    ) -> Self {
        Self { method, path, group, handler }
    }
}

/// Builds the router of a listener that serves the routes of `groups`.
pub fn router(state: &SharedState, groups: &[RouteGroup]) -> Router {
    let metrics = state.metrics.clone();
    ROUTES
        .iter()
        .filter(|route| groups.contains(&route.group))
        .fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .fallback(|method: Method| async move {
            // No path has TRACE, so 405 is right even for a path that doesn't exist.
            if method == Method::TRACE { ApiError::UnknownMethod } else { ApiError::NotFound }
        })
        .layer((
            middleware::RequestLayer(state.clone()),
            CatchPanicLayer::custom(move |_| {
                metrics.panics.inc();
                axum::response::IntoResponse::into_response(ApiError::Panicked)
            }),
        ))
        .with_state(state.clone())
}
