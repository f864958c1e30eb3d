//! The access-token endpoints: fields into the types of `tokens`, a word with `callers` on every request, and
//! what `exchange` has.

use axum::extract::State;
use axum::response::Response;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::mint::never_stored;
use super::policy::{AccessRequest, authorize};
use super::request::{AuthenticatedCaller, Fields};
use super::{Now, Refusal};
use crate::clock::{Clock, UnixTime};
use crate::exchange::{FetchOptions, ServedToken, TokenMetadata};
use crate::tokens::{Objection, Subject};

pub(super) async fn oauth_access_token(
    State(service): Now,
    asker: AuthenticatedCaller,
    fields: Fields,
) -> Result<Response, Refusal> {
    let mut fields = fields.only(&["profile", "rejected_token"])?;
    let grant = asker.caller.oauth.select(fields.string("profile")?.as_deref())?;
    let rejected = fields.secret("rejected_token")?;
    let authorized = authorize(&service, &asker, &AccessRequest { grant, subject: None, mints: false })?;

    let options =
        FetchOptions { rejected: rejected.as_ref(), deadline: asker.id.deadline(), trace: asker.trace() };
    let served = service.exchanger.oauth_token(authorized.profile(), options).await?;
    service.audit.handed_out(&asker, authorized.name(), &served, None)?;
    Ok(answer(&served, &*service.clock))
}

pub(super) async fn messaging_access_token(
    State(service): Now,
    asker: AuthenticatedCaller,
    fields: Fields,
) -> Result<Response, Refusal> {
    let mut fields = fields.only(&["sub", "profile", "claims", "rejected_token"])?;
    let subject = Subject::parse("sub", fields.required_string("sub")?)?;
    let grant = asker.caller.identity.select(fields.string("profile")?.as_deref())?;
    let claims = grant.claims(fields.object("claims")?)?;
    let rejected = fields.secret("rejected_token")?;
    let request = AccessRequest { grant, subject: Some(("sub", &subject)), mints: false };
    let authorized = authorize(&service, &asker, &request)?;
    if authorized.profile().messaging.is_none() {
        let message = "names a profile without [identity.NAME.messaging], so its tokens can't be exchanged";
        return Err(Objection::new("profile", message).into());
    }

    let options =
        FetchOptions { rejected: rejected.as_ref(), deadline: asker.id.deadline(), trace: asker.trace() };
    let served =
        service.exchanger.messaging_token(authorized.profile(), subject.clone(), claims, options).await?;
    service.audit.handed_out(&asker, authorized.name(), &served, Some(&subject))?;
    Ok(answer(&served, &*service.clock))
}

#[derive(Serialize)]
struct OauthAnswer<'a> {
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
    /// Only where it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rejected_token_kept: bool,
}

#[derive(Serialize)]
struct MessagingAnswer<'a> {
    access_token: &'a str,
    last_event_id: &'a str,
    subject: &'a str,
    /// Always: an unverified session is never handed out.
    verified: bool,
    obtained_at: UnixTime,
    expires_at: UnixTime,
    expires_in: i64,
    cached: bool,
    /// Only where it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rejected_token_kept: bool,
}

fn answer(ServedToken { token, cached, rejected_token_kept }: &ServedToken, clock: &dyn Clock) -> Response {
    let access_token = token.secret.expose_secret();
    let (obtained_at, expires_at) = (token.obtained_at, token.expires_at);
    let (cached, rejected_token_kept) = (*cached, *rejected_token_kept);
    let expires_in = token.expires_in(clock.now(), clock.steady());
    let body = match &token.metadata {
        TokenMetadata::Oauth { instance_url, api_instance_url, token_format, scope, id } => {
            serde_json::to_vec(&OauthAnswer {
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
        TokenMetadata::Messaging { last_event_id, subject } => serde_json::to_vec(&MessagingAnswer {
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
    never_stored("application/json", body.expect("strings can be written to memory"))
}
