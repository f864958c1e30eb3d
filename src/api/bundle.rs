//! `POST /bundle`: returns all tokens that one page load needs, or an error and none of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::authorization::{AccessRequest, authorize, requested_subject};
use super::mint::no_store_response;
use super::request::{AuthenticatedCaller, RequestFields};
use super::{ApiError, AppState, SharedState};
use crate::callers::{AuthorizedEntry, BundleEntryGrant, RequestedSubject};
use crate::clock::UnixTime;
use crate::config::Name;
use crate::json::Members;
use crate::tokens::{Claims, IdentityProfile, InvalidField, Lifetime, MintError, MintedToken, Subject};

pub(super) async fn bundle(
    State(state): State<SharedState>,
    authenticated: AuthenticatedCaller,
    fields: RequestFields,
) -> Result<Response, ApiError> {
    let mut fields = fields.allow_only(&["sub", "subject_token", "bundle", "claims"])?;
    let requested = requested_subject(&state, &authenticated, &mut fields, "sub").await?;
    let denied = |denied| ApiError::Denied { denied, field: "bundle" };
    let grant = authenticated.caller.bundles.select(fields.string("bundle")?.as_deref()).map_err(denied)?;
    let entries = grant.entries().map_err(denied)?;
    if entries.iter().filter(|(_, entry)| matches!(entry, BundleEntryGrant::Identity(_))).count() > 1 {
        wake_another_thread();
    }
    let claims = claims_per_entry(entries, fields.objects("claims")?)?;
    let request = AccessRequest { grant, subject: Some(("sub", &requested)), mints: true };
    let authorized = authorize(&state, &authenticated, &request)?;
    let entries: Vec<_> = authorized.entries().collect();

    let signing = authenticated.trace().child_span("sign");
    let minted = mint_all(&state, &entries, &requested, claims).await?;
    drop(signing);
    for (minted, (_, entry)) in minted.iter().zip(&entries) {
        let profile = match entry {
            AuthorizedEntry::Identity(authorized) => authorized.name(),
            AuthorizedEntry::Hs256(authorized) => authorized.name(),
        };
        state.audit.log_minted(&authenticated, profile, minted, Some(&requested))?;
    }
    for (_, entry) in &entries {
        match entry {
            AuthorizedEntry::Identity(authorized) => authorized.count_minted(),
            AuthorizedEntry::Hs256(authorized) => authorized.count_minted(),
        }
    }
    Ok(bundle_response(&entries, &minted))
}

/// Validates the extra claims of all entries before anything is signed. Returns them in the order of `entries`.
fn claims_per_entry(
    entries: &[(Name, BundleEntryGrant)],
    mut asked: Vec<(String, Members)>,
) -> Result<Vec<Claims>, InvalidField> {
    if let Some((unknown, _)) =
        asked.iter().find(|(name, _)| !entries.iter().any(|(entry, _)| entry.as_str() == name))
    {
        let names = entries.iter().map(|(entry, _)| entry.as_str()).collect::<Vec<_>>().join(", ");
        return Err(InvalidField::new(
            format!("claims.{unknown}"),
            format!("is not an entry of the bundle; its entries are {names}"),
        ));
    }
    let of_entry = |(name, entry): &(Name, BundleEntryGrant)| {
        let position = asked.iter().position(|(asked, _)| asked == name.as_str());
        let claims = position.map(|position| asked.swap_remove(position).1).unwrap_or_default();
        let chosen = match entry {
            BundleEntryGrant::Identity(grant) => grant.claims(claims),
            BundleEntryGrant::Hs256(grant) => grant.claims(claims),
        };
        chosen.map_err(|invalid_field| {
            let field = invalid_field.field.replacen("claims.", &format!("claims.{name}."), 1);
            InvalidField::new(field, invalid_field.message)
        })
    };
    entries.iter().map(of_entry).collect()
}

/// Wakes a sleeping worker thread by spawning an empty task. Waking takes tens of microseconds, a tenth of a signature, so the
/// thread wakes while this one checks claims and policy.
fn wake_another_thread() {
    drop(tokio::spawn(async {}));
}

/// Mints all entries. Two or more RSA signatures run in separate tasks, so that they can use several cores.
async fn mint_all(
    state: &Arc<AppState>,
    entries: &[(&Name, AuthorizedEntry<'_>)],
    requested: &RequestedSubject,
    claims: Vec<Claims>,
) -> Result<Vec<MintedToken>, ApiError> {
    let now = state.clock.now();
    let mut minted: Vec<Option<MintedToken>> = entries.iter().map(|_| None).collect();
    let mut signed = Vec::new();
    for (position, ((_, entry), claims)) in entries.iter().zip(claims).enumerate() {
        match entry {
            AuthorizedEntry::Hs256(authorized) => {
                let profile = authorized.profile();
                let lifetime = requested.limit_lifetime(profile.default_lifetime(), now)?;
                minted[position] = Some(profile.mint(&requested.subject, lifetime, &claims, now));
            }
            AuthorizedEntry::Identity(authorized) => {
                let profile = authorized.profile().clone();
                let lifetime = requested.limit_lifetime(profile.default_lifetime(), now)?;
                signed.push((position, RequestedToken { profile, lifetime, claims, now }));
            }
        }
    }
    if let [(position, token)] = signed.as_slice() {
        minted[*position] = Some(token.mint(state, &requested.subject).await?);
        return Ok(minted.into_iter().flatten().collect());
    }
    // Every signature gets a task, including the last. tokio keeps the newest task of a thread for that thread, and lets
    // idle threads take only the others.
    let tasks: Vec<_> = signed
        .into_iter()
        .map(|(position, token)| {
            let (state, subject) = (state.clone(), requested.subject.clone());
            (position, tokio::spawn(async move { token.mint(&state, &subject).await }))
        })
        .collect();
    for (position, task) in tasks {
        let ended = task.await.unwrap_or_else(|error| match error.try_into_panic() {
            // Passes the panic on to `CatchPanicLayer` (see `router`), which counts it and answers 500.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(MintError::Overloaded),
        });
        minted[position] = Some(ended?);
    }
    Ok(minted.into_iter().flatten().collect())
}

/// An identity token of a bundle, to be minted at `now`.
struct RequestedToken {
    profile: Arc<IdentityProfile>,
    lifetime: Lifetime,
    claims: Claims,
    now: UnixTime,
}

impl RequestedToken {
    async fn mint(&self, state: &AppState, subject: &Subject) -> Result<MintedToken, MintError> {
        self.profile.mint(subject, self.lifetime, &self.claims, self.now, &state.signer).await
    }
}

#[derive(Serialize)]
struct BundleResponse<'a> {
    tokens: BTreeMap<&'a str, &'a str>,
    /// The earliest of the tokens' times, like the next two fields.
    expires_at: UnixTime,
    expires_in: i64,
    renew_at: UnixTime,
}

fn bundle_response(entries: &[(&Name, AuthorizedEntry<'_>)], minted: &[MintedToken]) -> Response {
    let first =
        |time: fn(&MintedToken) -> UnixTime| minted.iter().map(time).min().expect("a bundle has an entry");
    let body = BundleResponse {
        tokens: entries
            .iter()
            .zip(minted)
            .map(|((name, _), m)| (name.as_str(), m.token.expose_secret()))
            .collect(),
        expires_at: first(|minted| minted.expires_at),
        expires_in: minted.iter().map(MintedToken::expires_in).min().unwrap_or(0),
        renew_at: first(MintedToken::renew_at),
    };
    no_store_response(
        "application/json",
        serde_json::to_vec(&body).expect("strings can be written to memory"),
    )
}
