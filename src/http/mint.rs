//! The minting endpoints: fields into the types of `tokens`, a word with `callers`, and the answer.

use ::http::HeaderValue;
use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::accept::Form;
use super::policy::{self, Wish};
use super::request::{Asker, Fields};
use super::{Now, Refusal, Service};
use crate::callers::TooOften;
use crate::clock::UnixTime;
use crate::config::{KeyId, ProfileName};
use crate::tokens::{Assertion, GRANT_TYPE, Minted, Subject};
use crate::traces::Fact;

pub(super) async fn identity_token(
    State(service): Now,
    asker: Asker,
    form: Form,
    fields: Fields,
) -> Result<Response, Refusal> {
    let mut fields = fields.only(&["sub", "profile", "ttl", "claims"])?;
    let subject = Subject::parse("sub", fields.required_string("sub")?)?;
    let grant = asker.caller.identity.choose(fields.string("profile")?.as_deref())?;
    let lifetime = grant.profile.lifetime(fields.seconds("ttl")?)?;
    let claims = grant.profile.claims(fields.object("claims")?)?;
    let covered = grant.profile.covers(&subject);
    let (profile, allowed) = (&grant.profile.name, grant.allowed);
    policy::admit(&service, &asker, &Wish { profile, allowed, covered, subject: &subject, field: "sub" })?;
    admit(&service, &asker, &grant.profile.name, &subject)?;

    let now = service.clock.now();
    let signing = asker.trace().step("sign");
    let minted = grant.profile.mint(&subject, lifetime, &claims, now, &service.signer).await?;
    drop(signing);
    service.audit.minted(&asker, &grant.profile.name, &minted, Some(&subject))?;
    grant.minted.inc();
    Ok(token_answer(form, &minted))
}

pub(super) async fn oauth_assertion(
    State(service): Now,
    asker: Asker,
    form: Form,
    fields: Fields,
) -> Result<Response, Refusal> {
    let mut fields = fields.only(&["profile"])?;
    let grant = asker.caller.oauth.choose(fields.string("profile")?.as_deref())?;
    asker.trace().note(Fact::Profile(&grant.profile.name));

    let now = service.clock.now();
    let signing = asker.trace().step("sign");
    let assertion = grant.profile.mint(now, &*service.randomness, &service.signer).await?;
    drop(signing);
    service.audit.minted(&asker, &grant.profile.name, &assertion.minted, None)?;
    grant.minted.inc();
    Ok(assertion_answer(form, &assertion))
}

pub(super) async fn intercom_user_jwt(
    State(service): Now,
    asker: Asker,
    form: Form,
    fields: Fields,
) -> Result<Response, Refusal> {
    let mut fields = fields.only(&["user_id", "profile", "ttl", "claims"])?;
    let user_id = Subject::parse("user_id", fields.required_string("user_id")?)?;
    let grant = asker.caller.intercom.choose(fields.string("profile")?.as_deref())?;
    let lifetime = grant.profile.lifetime(fields.seconds("ttl")?)?;
    let claims = grant.profile.claims(fields.object("claims")?)?;
    let (profile, allowed) = (&grant.profile.name, grant.allowed);
    let wish = Wish { profile, allowed, covered: true, subject: &user_id, field: "user_id" };
    policy::admit(&service, &asker, &wish)?;
    admit(&service, &asker, &grant.profile.name, &user_id)?;

    let minted = grant.profile.mint(&user_id, lifetime, &claims, service.clock.now());
    service.audit.minted(&asker, &grant.profile.name, &minted, Some(&user_id))?;
    grant.minted.inc();
    Ok(token_answer(form, &minted))
}

/// Asks the guard; one line in the log for each storm.
pub(super) fn admit(
    service: &Service,
    asker: &Asker,
    profile: &ProfileName,
    subject: &Subject,
) -> Result<(), Refusal> {
    let caller = &asker.caller.name;
    service.guard.admit(caller, profile, subject, service.clock.steady()).map_err(
        |TooOften { retry_after, begins }| {
            service.metrics.remints_refused.with_label_values(&[profile.as_str(), caller.as_str()]).inc();
            if begins {
                let subject = service.audit.hash(subject);
                tracing::warn!(
                    request_id = asker.id.as_str(),
                    trace_id = asker.id.trace_id(),
                    %caller,
                    %profile,
                    subject_hmac = subject,
                    "a page asks for tokens again and again: Salesforce probably refuses them"
                );
            }
            Refusal::RateLimited { retry_after, who: "one subject's page" }
        },
    )
}

#[derive(Serialize)]
struct TokenAnswer<'a> {
    token: &'a str,
    token_type: &'static str,
    /// `null` for Intercom, whose secrets have no id.
    kid: Option<&'a KeyId>,
    issued_at: UnixTime,
    expires_at: UnixTime,
    expires_in: i64,
    renew_at: UnixTime,
}

fn token_answer(form: Form, minted: &Minted) -> Response {
    answer(form, minted, || TokenAnswer {
        token: minted.token.expose_secret(),
        token_type: "JWT",
        kid: minted.kid.as_ref(),
        issued_at: minted.issued_at,
        expires_at: minted.expires_at,
        expires_in: minted.expires_in(),
        renew_at: minted.renew_at(),
    })
}

#[derive(Serialize)]
struct AssertionAnswer<'a> {
    assertion: &'a str,
    grant_type: &'static str,
    token_endpoint: &'a str,
    kid: Option<&'a KeyId>,
    issued_at: UnixTime,
    expires_at: UnixTime,
    expires_in: i64,
}

fn assertion_answer(form: Form, Assertion { minted, token_endpoint }: &Assertion<'_>) -> Response {
    answer(form, minted, || AssertionAnswer {
        assertion: minted.token.expose_secret(),
        grant_type: GRANT_TYPE,
        token_endpoint,
        kid: minted.kid.as_ref(),
        issued_at: minted.issued_at,
        expires_at: minted.expires_at,
        expires_in: minted.expires_in(),
    })
}

/// A token is never stored on its way (RFC 6749, section 5.1), and has no `ETag`: a page that is told its
/// token has not changed would show Salesforce an old one for ever.
fn answer<T: Serialize>(form: Form, minted: &Minted, json: impl FnOnce() -> T) -> Response {
    let (media, body) = match form {
        Form::Jwt => ("application/jwt", minted.token.expose_secret().as_bytes().to_vec()),
        Form::Json => {
            ("application/json", serde_json::to_vec(&json()).expect("strings can be written to memory"))
        }
    };
    never_stored(media, body)
}

/// An answer that holds a secret.
pub(super) fn never_stored(media: &'static str, body: Vec<u8>) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(media)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (PRAGMA, HeaderValue::from_static("no-cache")),
    ];
    (headers, body).into_response()
}
