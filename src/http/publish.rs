//! What everybody may see: the JWK Sets that Salesforce pulls, and the description of the interface.

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};

use super::{Now, OPENAPI, Refusal, Service};
use crate::jwks::{CachedJwks, ClientClass};

pub(super) async fn union(State(service): Now, method: Method, headers: HeaderMap) -> Response {
    set(&service.rooms.load().published.union, &service, &method, &headers)
}

pub(super) async fn keyset(
    State(service): Now,
    name: Result<Path<String>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    // A name that isn't even UTF-8 is just another that doesn't exist.
    let Path(name) = name.map_err(|_| Refusal::NotFound)?;
    let rooms = service.rooms.load();
    let cached = rooms.published.by_keyset.get(name.as_str()).ok_or(Refusal::NotFound)?;
    Ok(set(cached, &service, &method, &headers))
}

fn set(cached: &CachedJwks, service: &Service, method: &Method, headers: &HeaderMap) -> Response {
    let now = service.clock.now();
    let serialized = cached.serialized(now);
    // Who asks by HEAD has not got the keys.
    if method == Method::GET {
        let client = ClientClass::of(headers.get(USER_AGENT).map(HeaderValue::as_bytes));
        cached.record_fetch(&serialized, client, now);
    }
    let caching = [(ETAG, serialized.etag.clone()), (CACHE_CONTROL, cached.cache_control.clone())];
    if matches(headers, &serialized.etag) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (caching, json, serialized.body.clone()).into_response()
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
