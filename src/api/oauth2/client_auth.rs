//! Authentication of clients at the token endpoint: an OAuth client is a caller, and its `client_secret` is an API key.
//!
//! A request uses exactly one of these ways (RFC 6749, section 2.3):
//!
//! - `Authorization: Basic`, with the caller's name and an API key,
//! - `client_id` and `client_secret` in the form,
//! - `client_assertion`, the JWT of a caller with `jwt_issuer` (RFC 7523, section 2.2),
//! - what the other endpoints take: `Authorization: Bearer`, a client certificate or a Unix user.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::super::request::AuthenticatedCaller;
use super::super::{ApiError, AppState, SharedState};
use super::form::{self, FormFields};
use crate::callers::Caller;
use crate::tokens::InvalidField;

/// RFC 7523, section 2.2.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Authenticates the client of a request, and takes its credentials out of the form.
///
/// # Errors
/// The credentials are missing or wrong, there are several, or they aren't those of `client_id`.
pub(super) async fn authenticate_client(
    parts: &Parts,
    form: &mut FormFields,
    state: &SharedState,
) -> Result<AuthenticatedCaller, ApiError> {
    let header = parts.headers.get(AUTHORIZATION);
    let methods = [header.is_some(), form.contains("client_secret"), form.contains("client_assertion")];
    if methods.into_iter().filter(|is_used| *is_used).count() > 1 {
        return Err(ApiError::MultipleCredentials);
    }
    let client_id = form.text("client_id");
    let authenticated = if let Some(basic) = header.and_then(BasicCredentials::from_header) {
        let caller = basic?.iter().find_map(|credentials| credentials.find_caller(state));
        AuthenticatedCaller::new(parts, "api_key", caller.ok_or(ApiError::InvalidClient)?)
    } else if let Some(api_key) = form.secret("client_secret") {
        let Some(name) = &client_id else {
            return Err(InvalidField::new("client_id", "is missing: send the caller's name").into());
        };
        let caller = by_api_key(state, name, &api_key).ok_or(ApiError::InvalidClient)?;
        AuthenticatedCaller::new(parts, "api_key", caller)
    } else if let Some(jwt) = form.secret("client_assertion") {
        form.required_one_of("client_assertion_type", &[JWT_BEARER])?;
        AuthenticatedCaller::by_jwt(parts, state, &jwt).await?
    } else {
        AuthenticatedCaller::by_bearer_or_connection(parts, state).await?
    };
    if form.contains("client_assertion_type") {
        return Err(InvalidField::new("client_assertion", "is missing").into());
    }
    if client_id.is_some_and(|client_id| client_id != authenticated.caller.name.as_str()) {
        return Err(ApiError::InvalidClient);
    }
    Ok(authenticated)
}

/// Finds the caller of this name, if the API key is its.
fn by_api_key(state: &AppState, name: &str, api_key: &SecretString) -> Option<Arc<Caller>> {
    let snapshot = state.snapshot.load();
    let caller = snapshot.callers.by_api_key(api_key.expose_secret().as_bytes())?;
    (caller.name.as_str() == name).then(|| caller.clone())
}

/// A caller's name with an API key.
struct BasicCredentials {
    name: String,
    api_key: SecretString,
}

impl BasicCredentials {
    /// The two meanings that `Authorization: Basic` may have: percent-decoded, which RFC 6749, section 2.3.1, asks for, and as it
    /// is, because many clients don't encode it. `None` for another scheme.
    fn from_header(header: &HeaderValue) -> Option<Result<[Self; 2], ApiError>> {
        let (scheme, credentials) = header.as_bytes().split_at_checked(6)?;
        scheme
            .eq_ignore_ascii_case(b"basic ")
            .then(|| Self::decode(credentials).ok_or(ApiError::InvalidClient))
    }

    fn decode(credentials: &[u8]) -> Option<[Self; 2]> {
        let decoded = Zeroizing::new(STANDARD.decode(credentials.trim_ascii()).ok()?);
        let (name, api_key) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        let unescaped = |text: &str| form::decode(text.as_bytes()).unwrap_or_default();
        Some([
            Self { name: unescaped(name), api_key: unescaped(api_key).into() },
            Self { name: name.to_owned(), api_key: api_key.into() },
        ])
    }

    fn find_caller(&self, state: &AppState) -> Option<Arc<Caller>> {
        by_api_key(state, &self.name, &self.api_key)
    }
}
