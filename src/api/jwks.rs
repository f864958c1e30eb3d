//! The JWK Sets that Salesforce fetches, and `GET /openapi.yaml`. They need no credential.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{ApiError, AppState, OPENAPI, SharedState};
use crate::jwks::{CachedJwks, ClientClass};

pub(super) async fn union(
    State(state): State<SharedState>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    jwks_response(&state.snapshot.load().published.union, &state, &method, &headers)
}

pub(super) async fn keyset(
    State(state): State<SharedState>,
    name: Result<Path<String>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // A name that isn't UTF-8 is the name of no keyset.
    let Path(name) = name.map_err(|_| ApiError::NotFound)?;
    let snapshot = state.snapshot.load();
    let jwks = snapshot.published.by_keyset.get(name.as_str()).ok_or(ApiError::NotFound)?;
    jwks_response(jwks, &state, &method, &headers)
}

/// # Errors
/// A keyset is closed. Verifiers must not learn a set without its keys, because other replicas may sign with them.
fn jwks_response(
    jwks: &CachedJwks,
    state: &AppState,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if jwks.is_closed() {
        return Err(ApiError::KeysetClosed);
    }
    let now = state.clock.now();
    let serialized = jwks.serialized(now);
    // A HEAD request doesn't deliver the keys, so it isn't counted as a fetch.
    if method == Method::GET {
        let client = ClientClass::from_user_agent(headers.get(USER_AGENT).map(HeaderValue::as_bytes));
        jwks.record_fetch(&serialized, client, now);
    }
    let caching = [(ETAG, serialized.etag.clone()), (CACHE_CONTROL, jwks.cache_control.clone())];
    if matches_etag(headers, &serialized.etag) {
        let mut answer = (StatusCode::NOT_MODIFIED, caching).into_response();
        if method == Method::HEAD {
            // axum would add the length of this response's body, 0. It must be the length of the 200 (RFC 9110, section 8.6).
            answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(serialized.body.len()));
        }
        return Ok(answer);
    }
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((caching, json, serialized.body.clone()).into_response())
}

/// Whether `If-None-Match` contains `etag`, by weak comparison (RFC 9110, section 13.1.2).
fn matches_etag(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/yaml"))], OPENAPI).into_response()
}
