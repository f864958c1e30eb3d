//! The access-token endpoints: fields into the types of `tokens`, a word with `callers` on every request, and
//! what `exchange` has.

use axum::extract::State;
use axum::response::Response;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::mint::never_stored;
use super::policy::{AccessRequest, authorize};
use super::request::{Asker, Fields};
use super::{Now, Refusal};
use crate::clock::UnixTime;
use crate::exchange::{About, Served};
use crate::tokens::{Objection, Subject};

pub(super) async fn oauth_access_token(
    State(service): Now,
    asker: Asker,
    fields: Fields,
) -> Result<Response, Refusal> {
    let mut fields = fields.only(&["profile", "rejected_token"])?;
    let grant = asker.caller.oauth.choose(fields.string("profile")?.as_deref())?;
    let rejected = fields.secret("rejected_token")?;
    let authorized = authorize(&service, &asker, &AccessRequest { grant, subject: None, mints: false })?;

    let served = service.exchanger.oauth(authorized.profile(), rejected.as_ref(), asker.trace()).await?;
    service.audit.handed_out(&asker, authorized.name(), &served, None)?;
    Ok(answer(&served, service.clock.now()))
}

pub(super) async fn messaging_access_token(
    State(service): Now,
    asker: Asker,
    fields: Fields,
) -> Result<Response, Refusal> {
    let mut fields = fields.only(&["sub", "profile", "claims", "rejected_token"])?;
    let subject = Subject::parse("sub", fields.required_string("sub")?)?;
    let grant = asker.caller.identity.choose(fields.string("profile")?.as_deref())?;
    let claims = grant.claims(fields.object("claims")?)?;
    let rejected = fields.secret("rejected_token")?;
    let request = AccessRequest { grant, subject: Some(("sub", &subject)), mints: false };
    let authorized = authorize(&service, &asker, &request)?;
    if authorized.profile().messaging.is_none() {
        let message = "names a profile without [identity.NAME.messaging], so its tokens can't be exchanged";
        return Err(Objection::new("profile", message).into());
    }

    let exchanger = &service.exchanger;
    let served = exchanger
        .messaging(authorized.profile(), subject.clone(), claims, rejected.as_ref(), asker.trace())
        .await?;
    service.audit.handed_out(&asker, authorized.name(), &served, Some(&subject))?;
    Ok(answer(&served, service.clock.now()))
}

#[derive(Serialize)]
struct OauthAnswer<'a> {
    access_token: &'a str,
    token_type: &'static str,
    instance_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    obtained_at: UnixTime,
    expires_at: UnixTime,
    expires_in: i64,
    cached: bool,
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
}

fn answer(Served { token, cached }: &Served, now: UnixTime) -> Response {
    let access_token = token.secret.expose_secret();
    let (obtained_at, expires_at, cached) = (token.obtained_at, token.expires_at, *cached);
    let expires_in = now.seconds_until(expires_at).max(0);
    let body = match &token.about {
        About::Oauth { instance_url, scope, id } => serde_json::to_vec(&OauthAnswer {
            access_token,
            token_type: "Bearer",
            instance_url,
            scope: scope.as_deref(),
            id: id.as_deref(),
            obtained_at,
            expires_at,
            expires_in,
            cached,
        }),
        About::Messaging { last_event_id, subject } => serde_json::to_vec(&MessagingAnswer {
            access_token,
            last_event_id,
            subject,
            verified: true,
            obtained_at,
            expires_at,
            expires_in,
            cached,
        }),
    };
    never_stored("application/json", body.expect("strings can be written to memory"))
}
