//! Salesforce's side of the exchanges on loopback: for tests, for `tokenmint dev` and for users' own CI.
//!
//! - It is written from what Salesforce documents and what people have seen it do. It shares no code with
//!   `tokens`, `jwks`, `callers` or `http`, or the two would agree on the same mistake.
//! - Where sources disagree, [`Settings`] say which is played; what nobody documents is marked in the code.
//! - [`Fault`]s make it misbehave; `/__sandbox/` is where a test asks for them.
//! - It proves nothing about who calls it, so [`serve`] refuses to listen on anything but loopback.

mod bodies;
mod control;
mod data;
mod faults;
mod jwt;
mod keyset;
mod limits;
mod messaging;
mod middleware;
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

pub use faults::{Fault, FaultKind, FaultTarget};
pub use keyset::upload_key;
pub use org::{ConnectedApp, Deployment, KeySource, OnFailure, Org, Settings};
pub use server::serve;
pub use state::{RequestCounts, Sandbox};

/// Far above any request of ours, and small enough that a mistake shows.
const MAX_REQUEST_BYTES: usize = 256 << 10;

impl Sandbox {
    /// All that it plays. Behind another server than [`serve`], the faults that cut connections end in the
    /// middle of a body instead.
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
            .layer(from_fn_with_state(self.clone(), middleware::inject_faults))
            .with_state(self.clone())
    }
}

/// Answers with tokens, and refusals of them, are stored nowhere (RFC 6749, section 5.1).
const NO_STORE: [(HeaderName, HeaderValue); 2] =
    [(CACHE_CONTROL, HeaderValue::from_static("no-store")), (PRAGMA, HeaderValue::from_static("no-cache"))];

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, NO_STORE, axum::Json(body)).into_response()
}
