//! What the answers of a few requests say: our own JWKS as the internet sees it, and one exchange a profile.

use std::time::Duration;

use super::Found;
use crate::doctor::{Answer, Fetched, JwkDocument, Known, Observation, printable};
use crate::exchange::ExchangeError;

/// What Nimbus, the library that Salesforce's Java most likely fetches with, allows by default for connecting and
/// for reading, and how much it reads.
const TIME_LIMIT: Duration = Duration::from_millis(500);
const SIZE_LIMIT: usize = 50 << 10;
/// Of Salesforce's three minutes (Salesforce Help, "OAuth 2.0 JWT Bearer Flow").
const WARN_SKEW: f64 = 30.0;
const FAIL_SKEW: f64 = 180.0;

fn fetched<'a>(known: &'a Known<'_>) -> impl Iterator<Item = &'a Fetched> {
    known.answers.iter().filter_map(|answer| match answer {
        Answer::Jwks(fetched) => Some(fetched),
        Answer::Exchange { .. } => None,
    })
}

fn exchanges<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (&'a str, &'a Result<String, ExchangeError>)> {
    known.answers.iter().filter_map(|answer| match answer {
        Answer::Exchange { profile, result, .. } => Some((profile.as_str(), result)),
        Answer::Jwks(_) => None,
    })
}

pub fn reachable(known: &Known<'_>) -> Found {
    fetched(known)
        .map(|fetched| {
            let about = &fetched.url;
            match &fetched.reply {
                Err(why) => Observation::fail(about, why.clone()),
                Ok(reply) if reply.location.is_some() => {
                    let to = printable(reply.location.as_deref().unwrap_or_default());
                    Observation::fail(about, format!("answers {} and sends on to {to}", reply.status))
                }
                Ok(reply) if matches!(reply.status, 401 | 403) => {
                    Observation::fail(about, format!("answers {}: it wants a login", reply.status))
                }
                Ok(reply) if reply.status != 200 => {
                    Observation::fail(about, format!("answers {}", reply.status))
                }
                Ok(_) if !fetched.document.as_ref().is_some_and(JwkDocument::is_a_set) => {
                    Observation::fail(about, "answers 200 with something that is no JWK Set, or an empty one")
                }
                Ok(_) => Observation::pass(about, "answers 200 with a JWK Set, without login or redirect"),
            }
        })
        .collect()
}

fn whole<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (&'a Fetched, &'a super::super::answers::Reply)> {
    fetched(known).filter_map(|fetched| {
        let reply = fetched.reply.as_ref().ok()?;
        fetched.document.as_ref().filter(|document| document.is_a_set())?;
        Some((fetched, reply))
    })
}

pub fn light(known: &Known<'_>) -> Found {
    whole(known)
        .map(|(fetched, reply)| {
            let (took, size) = (reply.took, reply.size);
            let seen = format!("{size} bytes in {} ms", took.as_millis());
            match () {
                () if size > SIZE_LIMIT => {
                    Observation::fail(&fetched.url, format!("{seen}; 50 KiB are the limit"))
                }
                () if took > TIME_LIMIT => {
                    Observation::warn(&fetched.url, format!("{seen}; 500 ms are the limit"))
                }
                () => Observation::pass(&fetched.url, seen),
            }
        })
        .collect()
}

pub fn same(known: &Known<'_>) -> Found {
    whole(known)
        .filter_map(|(fetched, _)| {
            let expected = fetched.expected.as_ref()?;
            Some(if fetched.is_expected() {
                Observation::pass(&fetched.url, "shows the keys that this configuration publishes")
            } else {
                let keys = fetched.document.iter().flat_map(|document| &document.keys);
                let kids = keys.filter_map(|jwk| jwk.kid()).map(printable).collect::<Vec<_>>().join(", ");
                let seen = if kids == expected.kids {
                    format!("shows another key or certificate as {kids} than this configuration publishes")
                } else {
                    format!("shows other keys ({kids}) than this configuration publishes ({})", expected.kids)
                };
                Observation::fail(&fetched.url, seen)
            })
        })
        .collect()
}

pub fn clock(known: &Known<'_>) -> Found {
    let skews = known.answers.iter().filter_map(|answer| match answer {
        Answer::Jwks(fetched) => Some((fetched.url.as_str(), fetched.reply.as_ref().ok()?.skew?)),
        Answer::Exchange { profile, skew, .. } => Some((profile.as_str(), (*skew)?)),
    });
    skews
        .map(|(about, skew)| {
            let seen = format!(
                "this host's clock is {:.0} s {}",
                skew.abs(),
                if skew < 0.0 { "behind" } else { "ahead" }
            );
            match skew.abs() {
                skew if skew > FAIL_SKEW => Observation::fail(about, seen),
                skew if skew > WARN_SKEW => Observation::warn(about, seen),
                _ => Observation::pass(about, "this host's clock and theirs agree"),
            }
        })
        .collect()
}

/// The finding that a refusal belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    AuthSchemes,
    Mode,
    Deployment,
    Audience,
    AppNotFound,
    NotApproved,
    Unknown,
    Certificate,
    Other,
}

fn door(error: &ExchangeError) -> Door {
    let ExchangeError::Rejected { upstream, .. } = error else { return Door::Other };
    let words = [&upstream.error, &upstream.error_description].into_iter().flatten();
    let words = words.map(|words| words.to_lowercase()).collect::<Vec<_>>().join(" ");
    let says = |text: &str| words.contains(text);
    match () {
        () if says("authschemes") => Door::AuthSchemes,
        () if says("auth mode") => Door::Mode,
        () if says("deployment") => Door::Deployment,
        () if says("audience") => Door::Audience,
        () if says("app_not_found") => Door::AppNotFound,
        () if says("approved") || says("invalid_app_access") => Door::NotApproved,
        () if says("invalid_client_id") || says("client identifier invalid") => Door::Unknown,
        () if says("invalid assertion") => Door::Certificate,
        () => Door::Other,
    }
}

fn refused(known: &Known<'_>, wanted: Door) -> Found {
    exchanges(known)
        .filter_map(|(profile, result)| Some((profile, result.as_ref().err()?)))
        .filter(|(_, error)| door(error) == wanted)
        .map(|(profile, error)| refusal(profile, error))
        .collect()
}

/// In Salesforce's words, with what `exchange` knows of them.
fn refusal(profile: &str, error: &ExchangeError) -> Observation {
    match error {
        ExchangeError::Rejected { upstream, meaning, asked, .. } => {
            let words = [&upstream.error, &upstream.error_description].into_iter().flatten();
            let words = words.map(|words| printable(words)).collect::<Vec<_>>().join(": ");
            let seen =
                format!("Salesforce answers {} ({words}), {asked}: {}", upstream.status, meaning.cause);
            Observation::fail(profile, seen).advising(meaning.fix)
        }
        ExchangeError::Unverified { meaning } => {
            Observation::fail(profile, meaning.cause).advising(meaning.fix)
        }
        other => Observation::fail(profile, other.to_string()),
    }
}

pub fn auth_schemes(known: &Known<'_>) -> Found {
    refused(known, Door::AuthSchemes)
}

pub fn mode(known: &Known<'_>) -> Found {
    refused(known, Door::Mode)
}

pub(super) fn deployment(known: &Known<'_>) -> Found {
    refused(known, Door::Deployment)
}

pub(super) fn audience(known: &Known<'_>) -> Found {
    refused(known, Door::Audience)
}

pub(super) fn app_not_found(known: &Known<'_>) -> Found {
    refused(known, Door::AppNotFound)
}

pub fn approval(known: &Known<'_>) -> Found {
    refused(known, Door::NotApproved)
}

pub fn propagation(known: &Known<'_>) -> Found {
    refused(known, Door::Unknown)
}

pub fn certificate(known: &Known<'_>) -> Found {
    refused(known, Door::Certificate)
}

pub fn exchange(known: &Known<'_>) -> Found {
    exchanges(known)
        .filter_map(|(profile, result)| match result {
            Ok(seen) => Some(Observation::pass(profile, seen.clone())),
            Err(error) => (door(error) == Door::Other).then(|| refusal(profile, error)),
        })
        .collect()
}
