//! `GET /.well-known/oauth-authorization-server`: the metadata of the token endpoint (RFC 8414).

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use http::header::{HOST, HeaderMap};
use serde_json::json;

use super::super::{ApiError, SharedState};
use super::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE, TOKEN_PATHS, json_response};
use crate::config::Config;

/// Describes the token endpoint at the address that the client uses: `server.url`, or by default the `Host` of the request.
pub(in super::super) async fn metadata(
    State(state): State<SharedState>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let snapshot = state.snapshot.load();
    let config = &snapshot.config;
    let address = address(config, &headers)?;
    let mut methods = vec!["client_secret_basic", "client_secret_post"];
    // In RFC 8414 the two belong together.
    let mut assertion_algorithms = None;
    let algorithms = accepted_algorithms(config);
    if !algorithms.is_empty() {
        methods.push("private_key_jwt");
        assertion_algorithms = Some(algorithms);
    }
    let mut metadata = json!({
        "issuer": address,
        "token_endpoint": format!("{address}{}", TOKEN_PATHS[0]),
        "jwks_uri": format!("{address}/.well-known/jwks.json"),
        "grant_types_supported": [CLIENT_CREDENTIALS, TOKEN_EXCHANGE],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": methods,
    });
    if let Some(algorithms) = assertion_algorithms {
        metadata["token_endpoint_auth_signing_alg_values_supported"] = json!(algorithms);
    }
    Ok(json_response(&metadata))
}

fn address(config: &Config, headers: &HeaderMap) -> Result<String, ApiError> {
    if let Some(url) = &config.server.url {
        return Ok(url.as_str().trim_end_matches('/').to_owned());
    }
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
    let host = host.ok_or(ApiError::Malformed("send a Host header, or set `url` in [server]"))?;
    Ok(format!("{scheme}://{host}"))
}

/// The signature algorithms of the JWTs by which callers authenticate.
fn accepted_algorithms(config: &Config) -> BTreeSet<String> {
    let jwts = config.callers.values().filter_map(|caller| caller.jwt.as_ref());
    let issuers = jwts.filter_map(|jwt| config.issuers.get(&jwt.issuer));
    issuers.flat_map(|issuer| &issuer.algorithms).map(|algorithm| format!("{algorithm:?}")).collect()
}
