//! `GET /status`: which keys are in force, and whether the files that were last looked at are. Commands on this host ask it
//! what the service made of a change.

use std::collections::BTreeMap;

use ::http::HeaderValue;
use ::http::header::CACHE_CONTROL;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::{Now, Service};
use crate::clock::UnixTime;
use crate::config::{KeyId, Name, Problem};
use crate::keys::Keyset;

/// What a look at the files came to.
pub struct LookReport {
    /// `None` before the first look.
    pub began_at: Option<UnixTime>,
    /// Whether the files, as they were then, are in force.
    pub in_force: bool,
    /// Why they aren't.
    pub problems: Vec<Problem>,
}

impl Default for LookReport {
    fn default() -> Self {
        Self { began_at: None, in_force: true, problems: Vec::new() }
    }
}

#[derive(Serialize)]
struct Status {
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
    problems: Vec<FieldProblem>,
}

/// A [`Problem`] without the file's path: where there is no listener for operators, callers can ask too.
#[derive(Serialize)]
struct FieldProblem {
    field: String,
    message: String,
}

pub(super) async fn status(State(service): Now) -> Response {
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(Status::of(&service))).into_response()
}

impl Status {
    fn of(service: &Service) -> Self {
        let now = service.clock.now();
        let keyset = |keyset: &Keyset| KeysetStatus {
            signing: keyset.signing_position(now).map(|position| keyset.keys[position].kid.clone()),
            published: keyset.published(now).map(|key| key.kid.clone()).collect(),
        };
        let keysets = &service.rooms.load().ring.keysets;
        let look = service.last_look.load();
        let problem = |problem: &Problem| FieldProblem {
            field: problem.field.clone(),
            message: problem.message.clone(),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            keysets: keysets.iter().map(|(name, set)| (name.clone(), keyset(set))).collect(),
            reload: ReloadStatus {
                looked_at: look.began_at,
                in_force: look.in_force,
                problems: look.problems.iter().map(problem).collect(),
            },
        }
    }
}
