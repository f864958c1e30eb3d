//! The OAuth 2.0 token endpoint: `POST /oauth2/token`, also as `/services/oauth2/token`, and its metadata.
//!
//! Salesforce's client libraries log in at such an endpoint. With tokenmint's address in place of Salesforce's, they all share
//! the cached access token, and need no key.
//!
//! - `client_credentials` (RFC 6749, section 4.4) answers with a cached access token, in the form of Salesforce's answers.
//! - `token-exchange` (RFC 8693) answers with an identity token for the user of a subject token.
//!
//! Errors have the codes of RFC 6749, section 5.2. The authorization, the rate limits and the audit are those of the JSON
//! endpoints.

mod client_auth;
mod form;
mod metadata;

use axum::extract::{Request, State};
use axum::response::Response;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use client_auth::{authenticate_by_header, authenticate_client};
use form::FormFields;
pub(super) use metadata::metadata;

use super::access_tokens::fetch_options;
use super::authorization::{AccessRequest, authorize};
use super::mint::{mint_identity_token, no_store_response};
use super::request::{AuthenticatedCaller, check_rate_limit};
use super::request_body::{FORM, read_body};
use super::{ApiError, AppState, SharedState};
use crate::callers::Denied;
use crate::clock::Clock;
use crate::exchange::{ServedToken, TokenMetadata};
use crate::tokens::MintedToken;

/// The paths of the token endpoint. The second is Salesforce's own, which some clients add to a host name.
pub(super) const TOKEN_PATHS: [&str; 2] = ["/oauth2/token", "/services/oauth2/token"];

const CLIENT_CREDENTIALS: &str = "client_credentials";
/// RFC 8693, section 2.1.
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693, section 3.
const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
const ID_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:id_token";

/// Answers a token request. The body is read before the client is authenticated only if the head has no credentials.
pub(super) async fn token(State(state): State<SharedState>, request: Request) -> Result<Response, ApiError> {
    if request.uri().query().is_some() {
        let message =
            "send the parameters in the body, and none in the URL (RFC 6749, section 3.2): logs contain URLs";
        return Err(ApiError::Malformed(message));
    }
    let (parts, body) = request.into_parts();
    let by_header = authenticate_by_header(&parts, &state).await?;
    let body = read_body(&parts, body, &FORM, &state).await?;
    let mut form = FormFields::parse(&body)?;
    let authenticated = authenticate_client(by_header, &parts, &mut form, &state).await?;
    check_rate_limit(&authenticated.caller, &state)?;
    let grant_type = form.required("grant_type")?;
    match grant_type.expose_secret() {
        CLIENT_CREDENTIALS => client_credentials(&state, &authenticated, form).await,
        TOKEN_EXCHANGE => token_exchange(&state, &authenticated, form).await,
        _ => Err(ApiError::UnsupportedGrantType),
    }
}

async fn client_credentials(
    state: &AppState,
    authenticated: &AuthenticatedCaller,
    form: FormFields,
) -> Result<Response, ApiError> {
    if form.contains("scope") {
        let message =
            "leave `scope` out: the settings of the app in Salesforce decide the scopes of an access token";
        return Err(ApiError::InvalidScope(message));
    }
    let mut form = form.allow_only(&["profile", "rejected_token", "scope"])?;
    let grant = authenticated.caller.oauth.select(form.text("profile").as_deref())?;
    let rejected = form.secret("rejected_token");
    let request = AccessRequest { grant, subject: None, mints: false };
    let authorized = authorize(state, authenticated, &request)?;

    let options = fetch_options(authenticated, rejected.as_ref());
    let served = state.exchanger.oauth_token_of_live_session(authorized.profile(), options).await?;
    state.audit.log_access_token(authenticated, authorized.name(), &served, None)?;
    Ok(salesforce_response(&served, &*state.clock))
}

async fn token_exchange(
    state: &AppState,
    authenticated: &AuthenticatedCaller,
    form: FormFields,
) -> Result<Response, ApiError> {
    if form.contains("scope") {
        return Err(ApiError::InvalidScope("leave `scope` out: an identity token has no scopes"));
    }
    let known = ["subject_token", "subject_token_type", "requested_token_type", "audience", "scope"];
    let mut form = form.allow_only(&known)?;
    let subject_token = form.required("subject_token")?;
    form.required_one_of("subject_token_type", &[JWT_TYPE, ID_TOKEN_TYPE])?;
    form.optional_one_of("requested_token_type", &[JWT_TYPE])?;
    let audience = form.text("audience");
    let clock = &*state.clock;
    let requested =
        authenticated.caller.resolve_subject("subject_token", None, Some(&subject_token), clock).await?;
    let grant = authenticated.caller.identity.select(audience.as_deref()).map_err(|denied| match denied {
        Denied::Ambiguous(_) => ApiError::Denied { denied, field: "audience" },
        denied => ApiError::InvalidTarget(denied),
    })?;
    let (lifetime, claims) = (grant.lifetime(None)?, grant.claims(Vec::new())?);
    let subject = ("subject_token", &requested);
    let minted = mint_identity_token(state, authenticated, grant, subject, lifetime, &claims).await?;
    Ok(token_exchange_response(&minted))
}

/// The answer of Salesforce's own token endpoint (Salesforce Help, "OAuth 2.0 Client Credentials Flow"), with `expires_in`.
/// It lacks `signature`, which only Salesforce can make.
#[derive(Serialize)]
struct SalesforceTokenResponse<'a> {
    access_token: &'a str,
    instance_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_instance_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    token_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_format: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    /// Milliseconds since the Unix epoch, as text: when tokenmint obtained the token.
    issued_at: String,
    expires_in: i64,
}

fn salesforce_response(ServedToken { token, .. }: &ServedToken, clock: &dyn Clock) -> Response {
    let TokenMetadata::Oauth { instance_url, api_instance_url, token_format, scope, id } = &token.metadata
    else {
        unreachable!("an OAuth profile gets the tokens of its own exchange")
    };
    json_response(&SalesforceTokenResponse {
        access_token: token.secret.expose_secret(),
        instance_url,
        api_instance_url: api_instance_url.as_deref(),
        id: id.as_deref(),
        token_type: "Bearer",
        token_format: token_format.as_deref(),
        scope: scope.as_deref(),
        issued_at: token.obtained_at.seconds().saturating_mul(1000).to_string(),
        expires_in: token.expires_in(clock.now(), clock.monotonic()),
    })
}

/// RFC 8693, section 2.2.1.
#[derive(Serialize)]
struct TokenExchangeResponse<'a> {
    access_token: &'a str,
    issued_token_type: &'static str,
    /// `N_A`, because an identity token is no access token.
    token_type: &'static str,
    expires_in: i64,
}

fn token_exchange_response(minted: &MintedToken) -> Response {
    json_response(&TokenExchangeResponse {
        access_token: minted.token.expose_secret(),
        issued_token_type: JWT_TYPE,
        token_type: "N_A",
        expires_in: minted.expires_in(),
    })
}

fn json_response(body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("strings can be written to memory");
    no_store_response("application/json", body)
}
