//! A fake Salesforce server on loopback: for tests, for `tokenmint dev` and for the CI of users.
//!
//! - It follows Salesforce's documentation and reports from live orgs. It shares no code with the modules that mint tokens or
//!   serve requests, because a mistake in shared code would stay hidden.
//! - [`Settings`] choose the behaviour where sources disagree. The code marks undocumented behaviour.
//! - Fault injection: tests set [`Fault`]s at `/__sandbox/`.
//! - Callers aren't authenticated, so [`serve`] listens on loopback only.

mod bodies;
mod control;
mod data;
mod demo_issuer;
mod fault_injection;
mod faults;
mod jwt;
mod keyset;
mod limits;
mod messaging;
mod oauth;
mod org;
mod server;
mod state;
mod tampering;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::{CACHE_CONTROL, PRAGMA};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

pub(crate) use demo_issuer::DemoIssuer;
pub use faults::{Fault, FaultKind, FaultTarget};
pub use keyset::upload_key;
pub use org::{ConnectedApp, Deployment, KeySource, OnFailure, Org, Settings};
pub use server::serve;
pub use state::{RequestCounts, Sandbox};

/// The largest request body. Far more than tokenmint sends, and small enough to reveal a mistake.
const MAX_REQUEST_BYTES: usize = 256 << 10;

impl Sandbox {
    /// The router with all endpoints. With a server other than [`serve`], a connection abort becomes a failing body.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/services/oauth2/token", post(oauth::token))
            .route("/services/oauth2/revoke", post(oauth::revoke))
            .route("/services/oauth2/userinfo", get(oauth::user_info).post(oauth::user_info))
            .route("/id/{org}/{user}", get(oauth::user_info))
            .route("/services/data", get(data::versions))
            .route("/services/data/", get(data::versions))
            .route("/services/data/{version}", get(data::resources))
            .route("/services/data/{version}/", get(data::resources))
            .route("/services/data/{version}/query", get(data::query))
            .route("/services/data/{version}/query/", get(data::query))
            .route("/einstein/ai-agent/v1/agents/{agent}/sessions", post(data::begin_agent_session))
            .route(messaging::ACCESS_TOKEN_PATH, post(messaging::access_token).delete(messaging::revoke))
            .route(messaging::CONTINUATION_PATH, get(messaging::continuation))
            .nest("/__sandbox", control::router())
            .fallback(|| async {
                json_response(
                    StatusCode::NOT_FOUND,
                    &json!([{
                        "errorCode": "NOT_FOUND",
                        "message": "The requested resource does not exist",
                    }]),
                )
            })
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .layer(from_fn_with_state(self.clone(), fault_injection::inject_faults))
            .with_state(self.clone())
    }
}

/// Headers of JSON responses: caches must not store tokens (RFC 6749, section 5.1).
const NO_STORE: [(HeaderName, HeaderValue); 2] =
    [(CACHE_CONTROL, HeaderValue::from_static("no-store")), (PRAGMA, HeaderValue::from_static("no-cache"))];

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, NO_STORE, axum::Json(body)).into_response()
}
