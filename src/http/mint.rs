//! The minting endpoints: fields into the types of `tokens`, a word with `callers`, and the answer.

use ::http::HeaderValue;
use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::accept::Form;
use super::policy::{AccessRequest, authorize};
use super::request::{Asker, Fields};
use super::{Now, Refusal, Service, Shared};
use crate::clock::UnixTime;
use crate::config::{Hs256Kind, KeyId};
use crate::tokens::{Assertion, GRANT_TYPE, Minted, Subject};

pub(super) async fn identity_token(
    State(service): Now,
    asker: Asker,
    form: Form,
    fields: Fields,
) -> Result<Response, Refusal> {
    let mut fields = fields.only(&["sub", "profile", "ttl", "claims"])?;
    let subject = Subject::parse("sub", fields.required_string("sub")?)?;
    let grant = asker.caller.identity.choose(fields.string("profile")?.as_deref())?;
    let lifetime = grant.lifetime(fields.seconds("ttl")?)?;
    let claims = grant.claims(fields.object("claims")?)?;
    let request = AccessRequest { grant, subject: Some(("sub", &subject)), mints: true };
    let authorized = authorize(&service, &asker, &request)?;

    let now = service.clock.now();
    let signing = asker.trace().step("sign");
    let minted = authorized.profile().mint(&subject, lifetime, &claims, now, &service.signer).await?;
    drop(signing);
    service.audit.minted(&asker, authorized.name(), &minted, Some(&subject))?;
    authorized.count();
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
    let authorized = authorize(&service, &asker, &AccessRequest { grant, subject: None, mints: true })?;

    let now = service.clock.now();
    let signing = asker.trace().step("sign");
    let assertion = authorized.profile().mint(now, &*service.randomness, &service.signer).await?;
    drop(signing);
    service.audit.minted(&asker, authorized.name(), &assertion.minted, None)?;
    authorized.count();
    Ok(assertion_answer(form, &assertion))
}

/// `POST` for a token of that kind.
pub(super) fn hs256_token(kind: Hs256Kind) -> MethodRouter<Shared> {
    post(async move |State(service): Now, asker: Asker, form: Form, fields: Fields| {
        mint_hs256(kind, &service, &asker, form, fields)
    })
}

fn mint_hs256(
    kind: Hs256Kind,
    service: &Service,
    asker: &Asker,
    form: Form,
    fields: Fields,
) -> Result<Response, Refusal> {
    let user = kind.facts().user_claim;
    let mut fields = fields.only(&[user, "profile", "ttl", "claims"])?;
    let user_id = Subject::parse(user, fields.required_string(user)?)?;
    let grant = asker.caller.hs256[&kind].choose(fields.string("profile")?.as_deref())?;
    let lifetime = grant.lifetime(fields.seconds("ttl")?)?;
    let claims = grant.claims(fields.object("claims")?)?;
    let request = AccessRequest { grant, subject: Some((user, &user_id)), mints: true };
    let authorized = authorize(service, asker, &request)?;

    let minted = authorized.profile().mint(&user_id, lifetime, &claims, service.clock.now());
    service.audit.minted(asker, authorized.name(), &minted, Some(&user_id))?;
    authorized.count();
    Ok(token_answer(form, &minted))
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
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
