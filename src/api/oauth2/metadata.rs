//! `GET /.well-known/oauth-authorization-server`: the metadata of the token endpoint (RFC 8414).
//!
//! It doesn't list `private_key_jwt`. RFC 7523, section 3, means a JWT that the client signs itself. Here the client's platform
//! signs it, and no registered method means that.

use axum::extract::State;
use axum::response::Response;
use http::header::{HOST, HeaderMap};
use serde_json::json;
use url::Url;

use super::super::{ApiError, SharedState};
use super::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE, TOKEN_PATHS, json_response};
use crate::config::ServerConfig;

/// Describes the token endpoint at the address that the client uses: `server.url`, or by default the `Host` of the request.
pub(in super::super) async fn metadata(
    State(state): State<SharedState>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let address = address(&state.snapshot.load().config.server, &headers)?;
    Ok(json_response(&json!({
        "issuer": address,
        "token_endpoint": format!("{address}{}", TOKEN_PATHS[0]),
        "jwks_uri": format!("{address}/.well-known/jwks.json"),
        "grant_types_supported": [CLIENT_CREDENTIALS, TOKEN_EXCHANGE],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    })))
}

/// The origin of the listener (RFC 6454), so without a slash at its end.
fn address(server: &ServerConfig, headers: &HeaderMap) -> Result<String, ApiError> {
    if let Some(url) = &server.url {
        return Ok(url.url().origin().ascii_serialization());
    }
    let scheme = if server.tls.is_some() { "https" } else { "http" };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let url = Url::parse(&format!("{scheme}://{host}"));
    let url =
        url.map_err(|_| ApiError::Malformed("send a host in the Host header, or set `url` in [server]"))?;
    Ok(url.origin().ascii_serialization())
}
