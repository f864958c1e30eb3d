//! The endpoints that mint one token: `POST /identity-token`, `/oauth-assertion`, `/intercom-user-jwt` and `/hs256-token`.
//!
//! Each handler parses the fields, has the caller authorized, mints, writes the audit line, and responds.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::authorization::{AccessRequest, authorize, requested_subject};
use super::content_negotiation::ResponseFormat;
use super::request::{AuthenticatedCaller, RequestFields};
use super::{ApiError, AppState, SharedState};
use crate::callers::{Grant, RequestedSubject};
use crate::clock::UnixTime;
use crate::config::Hs256Kind;
use crate::tokens::{Assertion, Claims, GRANT_TYPE, IdentityProfile, Lifetime, MintedToken};

pub(super) async fn identity_token(
    State(state): State<SharedState>,
    authenticated: AuthenticatedCaller,
    format: ResponseFormat,
    fields: RequestFields,
) -> Result<Response, ApiError> {
    let mut fields = fields.allow_only(&["sub", "subject_token", "profile", "ttl", "claims"])?;
    let requested = requested_subject(&state, &authenticated, &mut fields, "sub").await?;
    let grant = authenticated.caller.identity.select(fields.string("profile")?.as_deref())?;
    let lifetime = grant.lifetime(fields.seconds("ttl")?)?;
    let claims = grant.claims(fields.object("claims")?)?;
    let subject = ("sub", &requested);
    let minted = mint_identity_token(&state, &authenticated, grant, subject, lifetime, &claims).await?;
    Ok(token_response(format, &minted))
}

/// Has an identity token authorized, mints it, and writes the audit line. `subject` comes with the name of its field.
pub(super) async fn mint_identity_token(
    state: &AppState,
    authenticated: &AuthenticatedCaller,
    grant: &Grant<IdentityProfile>,
    subject: (&'static str, &RequestedSubject),
    lifetime: Lifetime,
    claims: &Claims,
) -> Result<MintedToken, ApiError> {
    let (_, requested) = subject;
    let request = AccessRequest { grant, subject: Some(subject), mints: true };
    let authorized = authorize(state, authenticated, &request)?;
    let now = state.clock.now();
    let lifetime = requested.limit_lifetime(lifetime, now)?;
    let signing = authenticated.trace().child_span("sign");
    let minted = authorized.profile().mint(&requested.subject, lifetime, claims, now, &state.signer).await?;
    drop(signing);
    state.audit.log_minted(authenticated, authorized.name(), &minted, Some(requested))?;
    authorized.count_minted();
    Ok(minted)
}

pub(super) async fn oauth_assertion(
    State(state): State<SharedState>,
    authenticated: AuthenticatedCaller,
    format: ResponseFormat,
    fields: RequestFields,
) -> Result<Response, ApiError> {
    let mut fields = fields.allow_only(&["profile"])?;
    let grant = authenticated.caller.oauth.select(fields.string("profile")?.as_deref())?;
    let authorized = authorize(&state, &authenticated, &AccessRequest { grant, subject: None, mints: true })?;

    let now = state.clock.now();
    let signing = authenticated.trace().child_span("sign");
    let assertion = authorized.profile().mint(now, &*state.randomness, &state.signer).await?;
    drop(signing);
    state.audit.log_minted(&authenticated, authorized.name(), &assertion.minted, None)?;
    authorized.count_minted();
    Ok(assertion_response(format, &assertion))
}

/// Returns the `POST` handler that mints tokens of `kind`.
pub(super) fn hs256_token(kind: Hs256Kind) -> MethodRouter<SharedState> {
    post(
        async move |State(state): State<SharedState>,
                    authenticated: AuthenticatedCaller,
                    format: ResponseFormat,
                    fields: RequestFields| {
            mint_hs256(kind, &state, &authenticated, format, fields).await
        },
    )
}

async fn mint_hs256(
    kind: Hs256Kind,
    state: &AppState,
    authenticated: &AuthenticatedCaller,
    format: ResponseFormat,
    fields: RequestFields,
) -> Result<Response, ApiError> {
    let user = kind.facts().request_field;
    let mut fields = fields.allow_only(&[user, "subject_token", "profile", "ttl", "claims"])?;
    let requested = requested_subject(state, authenticated, &mut fields, user).await?;
    let grant = authenticated.caller.hs256[&kind].select(fields.string("profile")?.as_deref())?;
    let lifetime = grant.lifetime(fields.seconds("ttl")?)?;
    let claims = grant.claims(fields.object("claims")?)?;
    let request = AccessRequest { grant, subject: Some((user, &requested)), mints: true };
    let authorized = authorize(state, authenticated, &request)?;

    let now = state.clock.now();
    let lifetime = requested.limit_lifetime(lifetime, now)?;
    let minted = authorized.profile().mint(&requested.subject, lifetime, &claims, now);
    state.audit.log_minted(authenticated, authorized.name(), &minted, Some(&requested))?;
    authorized.count_minted();
    Ok(token_response(format, &minted))
}

#[derive(Serialize)]
struct TokenResponse<'a> {
    token: &'a str,
    token_type: &'static str,
    /// `null` if the header has no `kid`.
    kid: Option<&'a str>,
    issued_at: UnixTime,
    expires_at: UnixTime,
    expires_in: i64,
    renew_at: UnixTime,
}

fn token_response(format: ResponseFormat, minted: &MintedToken) -> Response {
    format_response(format, minted, || TokenResponse {
        token: minted.token.expose_secret(),
        token_type: "JWT",
        kid: minted.kid.as_deref(),
        issued_at: minted.issued_at,
        expires_at: minted.expires_at,
        expires_in: minted.expires_in(),
        renew_at: minted.renew_at(),
    })
}

#[derive(Serialize)]
struct AssertionResponse<'a> {
    assertion: &'a str,
    grant_type: &'static str,
    token_endpoint: &'a str,
    kid: Option<&'a str>,
    issued_at: UnixTime,
    expires_at: UnixTime,
    expires_in: i64,
}

fn assertion_response(
    format: ResponseFormat,
    Assertion { minted, token_endpoint }: &Assertion<'_>,
) -> Response {
    format_response(format, minted, || AssertionResponse {
        assertion: minted.token.expose_secret(),
        grant_type: GRANT_TYPE,
        token_endpoint,
        kid: minted.kid.as_deref(),
        issued_at: minted.issued_at,
        expires_at: minted.expires_at,
        expires_in: minted.expires_in(),
    })
}

/// Responds with the minted token in the negotiated format.
fn format_response<T: Serialize>(
    format: ResponseFormat,
    minted: &MintedToken,
    json: impl FnOnce() -> T,
) -> Response {
    let (media, body) = match format {
        ResponseFormat::Jwt => ("application/jwt", minted.token.expose_secret().as_bytes().to_vec()),
        ResponseFormat::Json => {
            ("application/json", serde_json::to_vec(&json()).expect("strings can be written to memory"))
        }
    };
    no_store_response(media, body)
}

/// Builds a response that no cache may store (RFC 6749, section 5.1), usually because it contains a token. It has no `ETag`: a page that
/// got 304 would keep using an expired token.
pub(super) fn no_store_response(media: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
