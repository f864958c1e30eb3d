//! `/__sandbox/`: the control endpoints, where a test reads the counts, sets faults and settings, ends sessions and shifts the
//! clock.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::faults::Fault;
use super::org::Settings;
use super::{Sandbox, json_response};

pub(super) fn router() -> Router<Sandbox> {
    Router::new()
        .route("/state", get(state))
        .route("/reset", post(reset))
        .route("/faults", post(faults))
        .route("/settings", post(settings))
        .route("/expire-sessions", post(expire_sessions))
        .route("/clock-skew", post(clock_skew))
        .fallback(|| async {
            let message = "there is nothing at this path; there are /__sandbox/state, reset, faults, settings, expire-sessions, \
                           clock-skew";
            json_response(StatusCode::NOT_FOUND, &json!({"message": message}))
        })
}

/// Responds with the counts, the reasons of refusals, the remaining faults, the settings, the numbers of sessions and the time.
async fn state(State(sandbox): State<Sandbox>) -> Response {
    let now = sandbox.now();
    let reasons = sandbox.refusal_reasons();
    let state = sandbox.state();
    let seen = json!({
        "counts": state.counts,
        "reasons": reasons,
        "faults": state.faults,
        "settings": state.settings,
        "sessions": {"oauth": state.sessions.len(), "messaging": state.chats.len()},
        "now": now,
    });
    drop(state);
    json_response(StatusCode::OK, &seen)
}

async fn reset(State(sandbox): State<Sandbox>) -> Response {
    sandbox.reset();
    StatusCode::NO_CONTENT.into_response()
}

/// Replaces the list of faults. `[]` removes all.
async fn faults(State(sandbox): State<Sandbox>, body: Bytes) -> Response {
    no_content_or_error(parse_body::<Vec<Fault>>(&body).map(|faults| sandbox.set_faults(faults)))
}

/// Changes the given settings and keeps the others.
async fn settings(State(sandbox): State<Sandbox>, body: Bytes) -> Response {
    let changed = parse_body::<serde_json::Map<String, Value>>(&body).and_then(|changes| {
        let mut all = json!(sandbox.state().settings);
        for (name, value) in changes {
            all[name] = value;
        }
        serde_json::from_value::<Settings>(all).map_err(|error| error.to_string())
    });
    no_content_or_error(changed.map(|changed| sandbox.change_settings(|settings| *settings = changed)))
}

async fn expire_sessions(State(sandbox): State<Sandbox>) -> Response {
    sandbox.expire_sessions();
    StatusCode::NO_CONTENT.into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockSkewBody {
    seconds: i64,
}

async fn clock_skew(State(sandbox): State<Sandbox>, body: Bytes) -> Response {
    no_content_or_error(parse_body(&body).map(|ClockSkewBody { seconds }| sandbox.skew_clock(seconds)))
}

fn parse_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn no_content_or_error(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(message) => json_response(StatusCode::BAD_REQUEST, &json!({"message": message})),
    }
}
