//! `POST /bundle`: all tokens that one page load needs, or none of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::mint::never_stored;
use super::policy::{AccessRequest, authorize};
use super::request::{Asker, Fields};
use super::{Now, Refusal, Service};
use crate::callers::{AuthorizedEntry, Entry};
use crate::clock::UnixTime;
use crate::config::Name;
use crate::json::Members;
use crate::tokens::{Claims, IdentityProfile, MintError, Minted, Objection, Subject};

pub(super) async fn bundle(State(service): Now, asker: Asker, fields: Fields) -> Result<Response, Refusal> {
    let mut fields = fields.only(&["sub", "bundle", "claims"])?;
    let subject = Subject::parse("sub", fields.required_string("sub")?)?;
    let denied = |denied| Refusal::Denied { denied, field: "bundle" };
    let grant = asker.caller.bundles.choose(fields.string("bundle")?.as_deref()).map_err(denied)?;
    let entries = grant.entries().map_err(denied)?;
    if entries.iter().filter(|(_, entry)| matches!(entry, Entry::Identity(_))).count() > 1 {
        wake_another_thread();
    }
    let claims = claims_of(entries, fields.objects("claims")?)?;
    let request = AccessRequest { grant, subject: Some(("sub", &subject)), mints: true };
    let authorized = authorize(&service, &asker, &request)?;
    let entries: Vec<_> = authorized.entries().collect();

    let signing = asker.trace().step("sign");
    let minted = side_by_side(&service, &entries, &subject, claims).await?;
    drop(signing);
    for (minted, (_, entry)) in minted.iter().zip(&entries) {
        let profile = match entry {
            AuthorizedEntry::Identity(authorized) => authorized.name(),
            AuthorizedEntry::Hs256(authorized) => authorized.name(),
        };
        service.audit.minted(&asker, profile, minted, Some(&subject))?;
    }
    for (_, entry) in &entries {
        match entry {
            AuthorizedEntry::Identity(authorized) => authorized.count(),
            AuthorizedEntry::Hs256(authorized) => authorized.count(),
        }
    }
    Ok(answer(&entries, &minted))
}

/// The extra claims of each entry, in their order; every one is checked before anything is signed.
fn claims_of(entries: &[(Name, Entry)], mut asked: Vec<(String, Members)>) -> Result<Vec<Claims>, Objection> {
    if let Some((unknown, _)) =
        asked.iter().find(|(name, _)| !entries.iter().any(|(entry, _)| entry.as_str() == name))
    {
        let names = entries.iter().map(|(entry, _)| entry.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Objection::new(
            format!("claims.{unknown}"),
            format!("is no entry of the bundle; it has {names}"),
        ));
    }
    let of_entry = |(name, entry): &(Name, Entry)| {
        let position = asked.iter().position(|(asked, _)| asked == name.as_str());
        let claims = position.map(|position| asked.swap_remove(position).1).unwrap_or_default();
        let chosen = match entry {
            Entry::Identity(grant) => grant.claims(claims),
            Entry::Hs256(grant) => grant.claims(claims),
        };
        chosen.map_err(|objection| {
            let field = objection.field.replacen("claims.", &format!("claims.{name}."), 1);
            Objection::new(field, objection.message)
        })
    };
    entries.iter().map(of_entry).collect()
}

/// A thread that sleeps takes tens of microseconds to wake, a tenth of a signature: it may as well do so while this one looks
/// at the claims and asks the policy. A new task is what wakes one.
fn wake_another_thread() {
    drop(tokio::spawn(async {}));
}

/// Signs each entry in a task of its own, so that two keys take two cores; a single one here.
async fn side_by_side(
    service: &Arc<Service>,
    entries: &[(&Name, AuthorizedEntry<'_>)],
    subject: &Subject,
    claims: Vec<Claims>,
) -> Result<Vec<Minted>, MintError> {
    let now = service.clock.now();
    let mut minted: Vec<Option<Minted>> = entries.iter().map(|_| None).collect();
    let mut signed = Vec::new();
    for (position, ((_, entry), claims)) in entries.iter().zip(claims).enumerate() {
        match entry {
            AuthorizedEntry::Hs256(authorized) => {
                let profile = authorized.profile();
                let lifetime = profile.default_lifetime();
                minted[position] = Some(profile.mint(subject, lifetime, &claims, now));
            }
            AuthorizedEntry::Identity(authorized) => {
                signed.push((position, authorized.profile().clone(), claims));
            }
        }
    }
    if let [(position, profile, claims)] = signed.as_slice() {
        minted[*position] = Some(mint(service, profile, subject, claims, now).await?);
        return Ok(minted.into_iter().flatten().collect());
    }
    // All of them, also the last: a runtime keeps the newest task of a thread for that thread, and gives only
    // the others to a thread that is idle.
    let tasks: Vec<_> = signed
        .into_iter()
        .map(|(position, profile, claims)| {
            let (service, subject) = (service.clone(), subject.clone());
            (position, tokio::spawn(async move { mint(&service, &profile, &subject, &claims, now).await }))
        })
        .collect();
    for (position, task) in tasks {
        let ended = task.await.unwrap_or_else(|error| match error.try_into_panic() {
            // A bug is a bug in whichever task it shows: the door makes it one 500, and counts it.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(MintError::Overloaded),
        });
        minted[position] = Some(ended?);
    }
    Ok(minted.into_iter().flatten().collect())
}

async fn mint(
    service: &Service,
    profile: &IdentityProfile,
    subject: &Subject,
    claims: &Claims,
    now: UnixTime,
) -> Result<Minted, MintError> {
    profile.mint(subject, profile.default_lifetime(), claims, now, &service.signer).await
}

#[derive(Serialize)]
struct BundleAnswer<'a> {
    tokens: BTreeMap<&'a str, &'a str>,
    /// The first of them to expire, and to be renewed.
    expires_at: UnixTime,
    expires_in: i64,
    renew_at: UnixTime,
}

fn answer(entries: &[(&Name, AuthorizedEntry<'_>)], minted: &[Minted]) -> Response {
    let first = |time: fn(&Minted) -> UnixTime| minted.iter().map(time).min().expect("a bundle has an entry");
    let body = BundleAnswer {
        tokens: entries
            .iter()
            .zip(minted)
            .map(|((name, _), m)| (name.as_str(), m.token.expose_secret()))
            .collect(),
        expires_at: first(|minted| minted.expires_at),
        expires_in: minted.iter().map(Minted::expires_in).min().unwrap_or(0),
        renew_at: first(Minted::renew_at),
    };
    never_stored("application/json", serde_json::to_vec(&body).expect("strings can be written to memory"))
}
