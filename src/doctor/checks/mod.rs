//! The checks, by what they look at.

pub(super) mod keys;
pub(super) mod online;
pub(super) mod profiles;
pub(super) mod published;
pub(super) mod tokens;

pub use tokens::difference;

use super::jwk::Jwk;
use super::material::Numbers;
use super::{Answer, JwkDocument, Known, Observation, Parts, UnverifiedToken};
use crate::clock::UnixTime;
use crate::config::Kind;
use crate::keys::{Key, Keyset};

type Found = Vec<Observation>;

/// The length of `seconds` in words, as `3 hours`.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    let (count, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7_199 => (seconds / 60, "minute"),
        7_200..=172_799 => (seconds / 3_600, "hour"),
        172_800..=63_071_999 => (seconds / 86_400, "day"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// The keys of the configuration, each with its keyset and what to call it.
fn configured<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (String, &'a Keyset, &'a Key)> {
    let keysets = known.ring.into_iter().flat_map(|ring| ring.keysets.values());
    keysets.flat_map(|keyset| {
        keyset.keys.iter().map(move |key| (format!("keysets.{}, `{}`", keyset.name, key.kid), &**keyset, key))
    })
}

/// Whether a keyset's keys go to Salesforce in a JWK.
fn signs(keyset: &Keyset, kind: Kind) -> bool {
    keyset.used_by.iter().any(|user| user.kind == kind)
}

/// Every JWK of every document, what is served included.
fn jwks<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (&'a JwkDocument, &'a Jwk)> {
    documents(known).flat_map(|document| document.keys.iter().map(move |jwk| (document, jwk)))
}

/// Every JWK but those at our own addresses: that these are the configured keys is for one check to say.
fn others<'a>(known: &'a Known<'_>) -> impl Iterator<Item = &'a Jwk> {
    let fetched = known.answers.iter().filter_map(|answer| match answer {
        Answer::Jwks(fetched) if fetched.expected.is_none() => fetched.document.as_ref(),
        _ => None,
    });
    known.jwks.iter().chain(fetched).flat_map(|document| &document.keys)
}

/// Given documents and fetched ones.
fn documents<'a>(known: &'a Known<'_>) -> impl Iterator<Item = &'a JwkDocument> {
    let fetched = known.answers.iter().filter_map(|answer| match answer {
        Answer::Jwks(fetched) => fetched.document.as_ref(),
        Answer::Exchange { .. } => None,
    });
    known.jwks.iter().chain(fetched)
}

/// The tokens that are JWTs at all.
fn jwts<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (&'a UnverifiedToken, &'a Parts)> {
    known.tokens.iter().filter_map(|token| Some((token, token.parts.as_ref().ok()?)))
}

/// The public keys that are known, each with what to call it and its id.
fn public_keys<'a>(known: &'a Known<'_>) -> Vec<(String, Option<&'a str>, Numbers)> {
    let ring = configured(known)
        .filter(|(_, _, key)| key.life.state(known.now) != crate::keys::State::Gone)
        .map(|(about, _, key)| (about, Some(key.kid.as_str()), Numbers::of(&key.private.public)));
    let jwks = jwks(known).filter_map(|(_, jwk)| Some((jwk.about.clone(), jwk.kid(), jwk.numbers()?)));
    let keys = known
        .keys
        .iter()
        .filter_map(|key| Some((key.about.clone(), key.kid.as_deref(), key.read.as_ref().ok()?.clone())));
    let certificates = known.certificates.iter().filter_map(|certificate| {
        Some((certificate.about.clone(), None, certificate.read.as_ref().ok()?.key.clone()?))
    });
    ring.chain(jwks).chain(keys).chain(certificates).collect()
}

/// `when`, with its distance from now in words.
pub fn dated(when: UnixTime, now: UnixTime) -> String {
    match now.seconds_until(when) {
        ahead @ 0.. => format!("{when}, in {}", span(ahead)),
        past => format!("{when}, {} ago", span(past)),
    }
}
