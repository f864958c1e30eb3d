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

/// Authenticates the client of a request, and takes its credentials out of the form.
///
/// # Errors
/// The credentials are missing or wrong, there are several, or they aren't those of `client_id`.
pub(super) async fn authenticate_client(
    parts: &Parts,
    form: &mut FormFields,
    state: &SharedState,
) -> Result<AuthenticatedCaller, ApiError> {
    let headers = parts.headers.get_all(AUTHORIZATION).iter().count();
    let in_form =
        ["client_secret", "client_assertion"].into_iter().filter(|name| form.contains(name)).count();
    if headers + in_form > 1 {
        return Err(ApiError::MultipleCredentials);
    }
    // A type without an assertion would be a request that means something else than it says.
    if form.contains("client_assertion_type") && !form.contains("client_assertion") {
        return Err(InvalidField::new("client_assertion", "is missing").into());
    }
    let basic = parts.headers.get(AUTHORIZATION).and_then(|header| credentials_of(header, "basic"));
    let client_id = form.text("client_id");
    let authenticated = if let Some(basic) = basic {
        let readings = BasicCredentials::readings(basic).ok_or(ApiError::InvalidClient)?;
        let caller =
            readings.iter().find_map(|BasicCredentials { name, api_key }| by_api_key(state, name, api_key));
        AuthenticatedCaller::new(parts, Credential::ApiKey, caller.ok_or(ApiError::InvalidClient)?)
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
