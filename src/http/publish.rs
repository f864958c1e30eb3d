//! What everybody may see: the JWK Sets that Salesforce pulls, and the description of the interface.

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use ::http::{HeaderMap, HeaderValue, StatusCode};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};

use super::{Now, OPENAPI, Refusal};
use crate::jwks::Document;

/// Short beside the lead of a new key (24 h), long enough that a storm of verifiers is served by caches.
const MAX_AGE: HeaderValue = HeaderValue::from_static("public, max-age=300");

pub(super) async fn union(State(service): Now, headers: HeaderMap) -> Response {
    service.metrics.jwks_fetches.with_label_values(&["*"]).inc();
    let rooms = service.rooms.load();
    set(&rooms.published.union.document(service.clock.now()), &headers)
}

pub(super) async fn keyset(
    State(service): Now,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    // A name that isn't even UTF-8 is just another that doesn't exist.
    let Path(name) = name.map_err(|_| Refusal::NotFound)?;
    let rooms = service.rooms.load();
    let (name, face) = rooms.published.by_keyset.get_key_value(name.as_str()).ok_or(Refusal::NotFound)?;
    service.metrics.jwks_fetches.with_label_values(&[name.as_str()]).inc();
    Ok(set(&face.document(service.clock.now()), &headers))
}

fn set(document: &Document, headers: &HeaderMap) -> Response {
    let caching = [(ETAG, document.etag.clone()), (CACHE_CONTROL, MAX_AGE)];
    if matches(headers, &document.etag) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (caching, json, document.body.clone()).into_response()
}

/// `If-None-Match`, by weak comparison (RFC 9110, section 13.1.2).
fn matches(headers: &HeaderMap, etag: &HeaderValue) -> bool {
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
