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
use http::header::AUTHORIZATION;
use http::request::Parts;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::super::request::{AuthenticatedCaller, credentials_of};
use super::super::{ApiError, AppState, SharedState};
use super::form::{self, FormFields};
use crate::callers::{Caller, Credential};
use crate::tokens::InvalidField;

/// RFC 7523, section 2.2.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Authenticates the client by its `Authorization` header. `None` without one.
///
/// # Errors
/// The credentials are wrong, or there are several headers.
pub(super) async fn authenticate_by_header(
    parts: &Parts,
    state: &SharedState,
) -> Result<Option<AuthenticatedCaller>, ApiError> {
    let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
    let Some(header) = headers.next() else { return Ok(None) };
    if headers.next().is_some() {
        return Err(ApiError::MultipleCredentials);
    }
    let Some(basic) = credentials_of(header, "basic") else {
        return AuthenticatedCaller::by_bearer_or_connection(parts, state).await.map(Some);
    };
    let readings = BasicCredentials::readings(basic).ok_or(ApiError::InvalidClient)?;
    let caller =
        readings.iter().find_map(|BasicCredentials { name, api_key }| by_api_key(state, name, api_key));
    let caller = caller.ok_or(ApiError::InvalidClient)?;
    Ok(Some(AuthenticatedCaller::new(parts, Credential::ApiKey, caller)))
}

/// Authenticates the client of a request, unless its header did, and takes the credentials out of the form.
///
/// # Errors
/// The credentials are missing or wrong, there are several, or they aren't those of `client_id`.
pub(super) async fn authenticate_client(
    by_header: Option<AuthenticatedCaller>,
    parts: &Parts,
    form: &mut FormFields,
    state: &SharedState,
) -> Result<AuthenticatedCaller, ApiError> {
    let methods = [by_header.is_some(), form.contains("client_secret"), form.contains("client_assertion")];
    if methods.into_iter().filter(|is_used| *is_used).count() > 1 {
        return Err(ApiError::MultipleCredentials);
    }
    // A type without an assertion would be a request that means something else than it says.
    if form.contains("client_assertion_type") && !form.contains("client_assertion") {
        return Err(InvalidField::new("client_assertion", "is missing").into());
    }
    let client_id = form.text("client_id");
    let authenticated = if let Some(authenticated) = by_header {
        authenticated
    } else if let Some(api_key) = form.secret("client_secret") {
        let Some(name) = &client_id else {
            return Err(InvalidField::new("client_id", "is missing: send the caller's name").into());
        };
        let caller = by_api_key(state, name, &api_key).ok_or(ApiError::InvalidClient)?;
        AuthenticatedCaller::new(parts, Credential::ApiKey, caller)
    } else if let Some(jwt) = form.secret("client_assertion") {
        form.required_one_of("client_assertion_type", &[JWT_BEARER])?;
        AuthenticatedCaller::by_jwt(parts, state, &jwt).await?
    } else {
        AuthenticatedCaller::by_bearer_or_connection(parts, state).await?
    };
    // They have no value here.
    for name in ["client_secret", "client_assertion", "client_assertion_type"] {
        form.secret(name);
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
    /// Returns the two readings of the credentials of `Authorization: Basic`. The first is as they are, because many clients don't
    /// encode them. The second is percent-decoded, which RFC 6749, section 2.3.1, asks for. `None` if they aren't base64 of a
    /// name, a colon and an API key.
    fn readings(credentials: &[u8]) -> Option<Vec<Self>> {
        let decoded = Zeroizing::new(STANDARD.decode(credentials.trim_ascii()).ok()?);
        let (name, api_key) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        let mut readings = vec![Self { name: name.to_owned(), api_key: api_key.into() }];
        if let (Ok(name), Ok(api_key)) = (form::decode(name.as_bytes()), form::decode(api_key.as_bytes())) {
            readings.push(Self { name: name.as_str().to_owned(), api_key: api_key.as_str().into() });
        }
        Some(readings)
    }
}
