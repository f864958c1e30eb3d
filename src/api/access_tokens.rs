//! The access-token endpoints: `POST /oauth-access-token` and `POST /messaging-access-token`.
//!
//! Each handler parses the fields, has the caller authorized, and requests the access token from `exchange`. A cached token
//! needs the same authorization as a new one.

use axum::extract::State;
use axum::response::Response;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::authorization::{AccessRequest, authorize, requested_subject};
use super::mint::no_store_response;
use super::request::{AuthenticatedCaller, RequestFields};
use super::{ApiError, SharedState};
use crate::clock::{Clock, UnixTime};
use crate::exchange::{FetchOptions, ServedToken, TokenMetadata};
use crate::tokens::InvalidField;

pub(super) async fn oauth_access_token(
    State(state): State<SharedState>,
    authenticated: AuthenticatedCaller,
    fields: RequestFields,
) -> Result<Response, ApiError> {
    let mut fields = fields.allow_only(&["profile", "rejected_token"])?;
    let grant = authenticated.caller.oauth.select(fields.string("profile")?.as_deref())?;
    let rejected = fields.secret("rejected_token")?;
    let authorized =
        authorize(&state, &authenticated, &AccessRequest { grant, subject: None, mints: false })?;

    let options = fetch_options(&authenticated, rejected.as_ref());
    let served = state.exchanger.oauth_token(authorized.profile(), options).await?;
    state.audit.log_access_token(&authenticated, authorized.name(), &served, None)?;
    Ok(access_token_response(&served, &*state.clock))
}

pub(super) async fn messaging_access_token(
    State(state): State<SharedState>,
    authenticated: AuthenticatedCaller,
    fields: RequestFields,
) -> Result<Response, ApiError> {
    let mut fields = fields.allow_only(&["sub", "subject_token", "profile", "claims", "rejected_token"])?;
    let requested = requested_subject(&state, &authenticated, &mut fields, "sub").await?;
    let grant = authenticated.caller.identity.select(fields.string("profile")?.as_deref())?;
    let claims = grant.claims(fields.object("claims")?)?;
    let rejected = fields.secret("rejected_token")?;
    let request = AccessRequest { grant, subject: Some(("sub", &requested)), mints: false };
    let authorized = authorize(&state, &authenticated, &request)?;
    if authorized.profile().messaging.is_none() {
        let message = "names a profile without [identity.NAME.messaging], so its tokens can't be exchanged: add that section, \
                       or name another profile";
        return Err(InvalidField::new("profile", message).into());
    }

    let options = fetch_options(&authenticated, rejected.as_ref());
    let served = state
        .exchanger
        .messaging_token(authorized.profile(), requested.subject.clone(), claims, options)
        .await?;
    state.audit.log_access_token(&authenticated, authorized.name(), &served, Some(&requested))?;
    Ok(access_token_response(&served, &*state.clock))
}

pub(super) const fn fetch_options<'a>(
    authenticated: &'a AuthenticatedCaller,
    rejected: Option<&'a SecretString>,
) -> FetchOptions<'a> {
    FetchOptions { rejected, deadline: authenticated.scope.deadline(), trace: authenticated.trace() }
}

#[derive(Serialize)]
struct OauthTokenResponse<'a> {
    access_token: &'a str,
    token_type: &'static str,
    instance_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_instance_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_format: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    obtained_at: UnixTime,
    expires_at: UnixTime,
    expires_in: i64,
    cached: bool,
    /// Present only if true.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rejected_token_kept: bool,
}

#[derive(Serialize)]
struct MessagingTokenResponse<'a> {
    access_token: &'a str,
    last_event_id: &'a str,
    subject: &'a str,
    /// Always true: an unverified session is an error.
    verified: bool,
    obtained_at: UnixTime,
    expires_at: UnixTime,
    expires_in: i64,
    cached: bool,
    /// Present only if true.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rejected_token_kept: bool,
}

fn access_token_response(
    ServedToken { token, cached, rejected_token_kept }: &ServedToken,
    clock: &dyn Clock,
) -> Response {
    let access_token = token.secret.expose_secret();
    let (obtained_at, expires_at) = (token.obtained_at, token.expires_at);
    let (cached, rejected_token_kept) = (*cached, *rejected_token_kept);
    let expires_in = token.expires_in(clock.now(), clock.monotonic());
    let body = match &token.metadata {
        TokenMetadata::Oauth { instance_url, api_instance_url, token_format, scope, id } => {
            serde_json::to_vec(&OauthTokenResponse {
                access_token,
                token_type: "Bearer",
                instance_url,
                api_instance_url: api_instance_url.as_deref(),
                token_format: token_format.as_deref(),
                scope: scope.as_deref(),
                id: id.as_deref(),
                obtained_at,
                expires_at,
                expires_in,
                cached,
                rejected_token_kept,
            })
        }
        TokenMetadata::Messaging { last_event_id, subject } => serde_json::to_vec(&MessagingTokenResponse {
            access_token,
            last_event_id,
            subject,
            verified: true,
            obtained_at,
            expires_at,
            expires_in,
            cached,
            rejected_token_kept,
        }),
    };
    no_store_response("application/json", body.expect("strings can be written to memory"))
}
