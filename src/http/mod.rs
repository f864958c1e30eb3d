//! Routes, handlers that only translate, and the one place where an error becomes a status.
//!
//! - `POST /identity-token`, `/oauth-assertion`, `/intercom-user-jwt`, `/bundle`,
//!   `/oauth-access-token`, `/messaging-access-token`: for callers with an API key.
//! - `GET /.well-known/jwks.json`, `/keysets/{keyset}/jwks.json`: public; all that the public listener shows.
//! - `GET /livez`, `/readyz`, `/healthz`, `/metrics`, `/status`: on the ops listener, where there is one.
//! - `GET /openapi.yaml`: the description of all this; a test holds it against [`ROUTES`].
//!
//! Every answer carries `X-Request-Id`; every refusal is JSON. No CORS headers: no browser calls
//! tokenmint.

mod accept;
mod audit;
mod body_gate;
mod bundle;
mod exchange;
mod mint;
mod observe;
mod operate;
mod policy;
mod publish;
mod refusal;
mod request;
mod request_head;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::http::Method;
use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::State;
use axum::routing::{MethodRouter, get, post};
use tower_http::catch_panic::CatchPanicLayer;

pub use audit::{Audit, DroppedLines, TARGET as AUDIT_TARGET};
pub use body_gate::{BodyGate, GatedBody};
pub use observe::Tallies;
pub use refusal::Refusal;
pub use request::Arrival;
pub use request_head::{BodyFraming, check as check_head};
pub use status::LookReport;

use crate::callers::{Callers, Guard};
use crate::clock::{Clock, Randomness};
use crate::config::{Config, Hs256Kind, Limits};
use crate::exchange::Exchanger;
use crate::jwks::Published;
use crate::keys::KeyRing;
use crate::metrics::Metrics;
use crate::tokens::{Profiles, Signer};

/// The description of the interface, as it stands at the repository's root.
pub const OPENAPI: &str = include_str!("../../openapi.yaml");

/// What a request walks through; built whole from one configuration.
pub struct Rooms {
    pub config: Arc<Config>,
    pub ring: KeyRing,
    pub profiles: Profiles,
    pub callers: Callers,
    pub published: Published,
}

/// What every handler is given: the rooms as they are now, and what outlives them.
pub struct Service {
    pub rooms: ArcSwap<Rooms>,
    pub signer: Arc<Signer>,
    pub exchanger: Exchanger,
    /// Against pages that ask again and again.
    pub guard: Guard,
    pub clock: Arc<dyn Clock>,
    pub randomness: Arc<dyn Randomness>,
    pub metrics: Arc<Metrics>,
    /// Of `metrics`, what each request counts.
    pub tallies: Tallies,
    pub audit: Audit,
    pub limits: Limits,
    /// Set at the end: no longer ready, though still answering.
    pub draining: AtomicBool,
    /// What the last look at the files came to.
    pub last_look: ArcSwap<LookReport>,
    /// Log lines dropped so far, asked at each scrape.
    pub dropped_lines: DroppedLines,
}

impl Service {
    /// Whether it can mint: whatever Salesforce does.
    pub fn ready(&self) -> bool {
        !self.draining.load(Ordering::Acquire) && self.rooms.load().profiles.ready(self.clock.now())
    }
}

type Shared = Arc<Service>;

/// For whom a route is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// Callers.
    Minting,
    /// The internet.
    Public,
    /// Monitoring.
    Ops,
}

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub kind: ListenerKind,
    handler: fn() -> MethodRouter<Shared>,
}

/// All there is.
pub static ROUTES: &[Route] = &[
    Route::new(Method::POST, "/identity-token", ListenerKind::Minting, || post(mint::identity_token)),
    Route::new(Method::POST, "/oauth-assertion", ListenerKind::Minting, || post(mint::oauth_assertion)),
    Route::new(Method::POST, "/intercom-user-jwt", ListenerKind::Minting, || {
        mint::hs256_token(Hs256Kind::Intercom)
    }),
    Route::new(Method::POST, "/bundle", ListenerKind::Minting, || post(bundle::bundle)),
    Route::new(Method::POST, "/oauth-access-token", ListenerKind::Minting, || {
        post(exchange::oauth_access_token)
    }),
    Route::new(Method::POST, "/messaging-access-token", ListenerKind::Minting, || {
        post(exchange::messaging_access_token)
    }),
    Route::new(Method::GET, "/openapi.yaml", ListenerKind::Minting, || get(publish::openapi)),
    Route::new(Method::GET, "/.well-known/jwks.json", ListenerKind::Public, || get(publish::union)),
    Route::new(Method::GET, "/keysets/{keyset}/jwks.json", ListenerKind::Public, || get(publish::keyset)),
    Route::new(Method::GET, "/livez", ListenerKind::Ops, || get(operate::livez)),
    Route::new(Method::GET, "/readyz", ListenerKind::Ops, || get(operate::readyz)),
    Route::new(Method::GET, "/healthz", ListenerKind::Ops, || get(operate::readyz)),
    Route::new(Method::GET, "/metrics", ListenerKind::Ops, || get(operate::metrics)),
    Route::new(Method::GET, "/status", ListenerKind::Ops, || get(status::status)),
];

impl Route {
    /// Whether it is for callers, with a key.
    fn mints(&self) -> bool {
        self.kind == ListenerKind::Minting && self.method == Method::POST
    }

    const fn new(
        method: Method,
        path: &'static str,
        kind: ListenerKind,
        handler: fn() -> MethodRouter<Shared>,
    ) -> Self {
        Self { method, path, kind, handler }
    }
}

/// The routes of one listener: those of its `kinds`.
pub fn router(service: &Shared, kinds: &[ListenerKind]) -> Router {
    let metrics = service.metrics.clone();
    ROUTES
        .iter()
        .filter(|route| kinds.contains(&route.kind))
        .fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
        .method_not_allowed_fallback(|| async { Refusal::MethodNotAllowed })
        .fallback(|method: Method| async move {
            // No path has TRACE, be it there or not.
            if method == Method::TRACE { Refusal::UnknownMethod } else { Refusal::NotFound }
        })
        .layer((
            observe::Door(service.clone()),
            CatchPanicLayer::custom(move |_| {
                metrics.panics.inc();
                axum::response::IntoResponse::into_response(Refusal::Panicked)
            }),
        ))
        .with_state(service.clone())
}

type Now = State<Shared>;
