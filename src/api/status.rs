//! `GET /status`: which keys sign and are published, and whether the files' content was in force after the last check. Commands
//! use it to see whether the service has taken over a change.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use serde::Serialize;

use super::{AppState, SharedState};
use crate::clock::UnixTime;
use crate::config::{KeyId, Name, Problem};
use crate::keys::Keyset;

/// The result of a check of the files for changes.
pub(crate) struct ReloadReport {
    /// When the check began; `None` before the first one.
    pub(crate) began_at: Option<UnixTime>,
    /// Whether the files' content at that time is in force. True before the first check.
    pub(crate) in_force: bool,
    /// Why it isn't in force; empty if it is.
    pub(crate) problems: Vec<Problem>,
}

impl Default for ReloadReport {
    fn default() -> Self {
        Self { began_at: None, in_force: true, problems: Vec::new() }
    }
}

#[derive(Serialize)]
struct StatusResponse {
    version: &'static str,
    keysets: BTreeMap<Name, KeysetStatus>,
    reload: ReloadStatus,
}

#[derive(Serialize)]
struct KeysetStatus {
    signing: Option<KeyId>,
    published: Vec<KeyId>,
}

#[derive(Serialize)]
struct ReloadStatus {
    looked_at: Option<UnixTime>,
    in_force: bool,
    problems: Vec<ReportedProblem>,
}

/// A [`Problem`] without the path of its file. Without an ops listener, everybody who reaches the minting listener can read
/// `/status`.
#[derive(Serialize)]
struct ReportedProblem {
    field: String,
    message: String,
}

pub(super) async fn status(State(state): State<SharedState>) -> Response {
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(StatusResponse::of(&state)))
        .into_response()
}

impl StatusResponse {
    fn of(state: &AppState) -> Self {
        let now = state.clock.now();
        let keyset = |keyset: &Keyset| KeysetStatus {
            signing: keyset.signing_position(now).map(|position| keyset.keys[position].kid.clone()),
            published: keyset.published(now).map(|key| key.kid.clone()).collect(),
        };
        let keysets = &state.snapshot.load().ring.keysets;
        let check = state.last_reload_check.load();
        let problem = |problem: &Problem| ReportedProblem {
            field: problem.field.clone(),
            message: problem.message.clone(),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            keysets: keysets.iter().map(|(name, set)| (name.clone(), keyset(set))).collect(),
            reload: ReloadStatus {
                looked_at: check.began_at,
                in_force: check.in_force,
                problems: check.problems.iter().map(problem).collect(),
            },
        }
    }
}
