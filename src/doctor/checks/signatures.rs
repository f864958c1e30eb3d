//! Checks the algorithm, the key id and the signature of a token.

use super::tokens::{IDENTITY_TOKENS, SALESFORCE_TOKENS};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::formatting::{backquoted_list, escape_and_truncate, lookalike_difference};
use crate::doctor::input::{CheckInput, Purpose, VerificationKey};
use crate::doctor::token::{JwtParts, UnverifiedToken};

pub(crate) fn token_algorithm(input: &CheckInput<'_>) -> Observations {
    input
        .tokens_for(SALESFORCE_TOKENS)
        .filter_map(|(token, parts, purpose)| {
            let about = &token.about;
            let Some(alg) = parts.header("alg") else {
                // For identity tokens, the check `token-header` reports a missing `alg`.
                return (purpose == Purpose::Assertion)
                    .then(|| Observation::fail(about, "its header names no algorithm (`alg`)"));
            };
            let allowed = match purpose {
                Purpose::Assertion => alg == "RS256",
                Purpose::Identity | Purpose::Hs256(_) | Purpose::Incoming => matches!(alg, "RS256" | "RS512"),
            };
            if !allowed {
                let seen = format!("its `alg` is {}; Salesforce takes RS256", escape_and_truncate(alg));
                return Some(Observation::fail(about, seen));
            }
            let verification_keys = input.verification_keys(purpose, parts);
            let kid = parts.header("kid");
            let named = verification_keys
                .iter()
                .filter(|verification_key| kid.is_some() && verification_key.kid == kid);
            let other =
                named.filter_map(|verification_key| verification_key.algorithm).find(|other| *other != alg);
            Some(match other {
                Some(other) => {
                    let seen =
                        format!("its `alg` is {alg}, and that of its JWK {}", escape_and_truncate(other));
                    Observation::fail(about, seen)
                }
                None => Observation::pass(about, format!("is signed by {alg}")),
            })
        })
        .collect()
}

pub(crate) fn token_kid(input: &CheckInput<'_>) -> Observations {
    let of_tokens = input.tokens_for(IDENTITY_TOKENS).filter_map(|(token, parts, purpose)| {
        let about = &token.about;
        // The check `token-header` reports a missing `kid`, and one that isn't text.
        let kid = parts.header("kid").filter(|kid| !kid.is_empty())?;
        let verification_keys = input.verification_keys(purpose, parts);
        let kids: Vec<&str> = verification_keys.iter().filter_map(|verification_key| verification_key.kid).collect();
        if let Some(when) = input.retired_at(kid) {
            let seen = format!("its `kid` is `{}`, a key that was retired {when}", escape_and_truncate(kid));
            return Some(Observation::fail(about, seen).with_advice(
                "whoever made this token still signs with that key: have them take the one that signs now (`tokenmint keys list`). \
                 Don't upload the retired one again",
            ));
        }
        Some(match kids.as_slice() {
            [] => Observation::skipped(about, "no JWK is known whose id could be its `kid`"),
            kids if kids.contains(&kid) => {
                Observation::pass(about, format!("its key id `{}` is known", escape_and_truncate(kid)))
            }
            kids => {
                let near = kids.iter().find_map(|other| lookalike_difference(kid, other));
                let names = backquoted_list(kids.iter().map(|kid| escape_and_truncate(kid)));
                let why = near.map(|why| format!(": they differ by {why}")).unwrap_or_default();
                let seen = format!("its `kid` is `{}`, and that of the JWK {names}{why}", escape_and_truncate(kid));
                Observation::fail(about, seen)
            }
        })
    });
    of_tokens.chain(super::keys::pairs_with_another_kid(input)).collect()
}

/// The question and the fix of `token-signature` for an assertion, which Salesforce verifies with the certificate of an app.
const ASSERTION_QUESTION: &str =
    "Is the assertion signed with the private key of the certificate that was uploaded to the app?";
const ASSERTION_FIX: &str = "find out which key signs where the assertion is made, and upload the certificate of that one: Setup > \
                             External Client App Manager > the app > OAuth settings";

pub(crate) fn token_signature(input: &CheckInput<'_>) -> Observations {
    input
        .tokens_for(SALESFORCE_TOKENS)
        .map(|(token, parts, purpose)| match purpose {
            Purpose::Assertion => {
                judge_signature(input, token, parts, purpose).with_question(ASSERTION_QUESTION)
            }
            Purpose::Identity | Purpose::Hs256(_) | Purpose::Incoming => {
                judge_signature(input, token, parts, purpose)
            }
        })
        .collect()
}

fn judge_signature(
    input: &CheckInput<'_>,
    token: &UnverifiedToken,
    parts: &JwtParts,
    purpose: Purpose,
) -> Observation {
    let about = &token.about;
    if !matches!(parts.header("alg"), Some("RS256" | "RS512")) {
        return Observation::skipped(about, "its algorithm is none that Salesforce takes");
    }
    let verification_keys = input.verification_keys(purpose, parts);
    if verification_keys.is_empty() {
        return unverifiable(input, about, purpose);
    }
    let kid = parts.header("kid");
    let candidates = candidate_keys(&verification_keys, kid, purpose);
    if candidates.is_empty() {
        let kid = kid.map(escape_and_truncate).unwrap_or_default();
        let reason = format!("no key with its id `{kid}` is known to check its signature");
        return Observation::skipped(about, reason);
    }
    let keys = candidates
        .iter()
        .filter_map(|verification_key| Some((verification_key, verification_key.numbers.as_ref()?)));
    let keys: Vec<_> = keys.collect();
    if keys.is_empty() {
        let reason = "the numbers of its JWK can't be read, so its signature can't be checked";
        return Observation::skipped(about, reason);
    }
    if let Some((signer, _)) = keys.iter().find(|(_, key)| parts.is_signed_by(key)) {
        return Observation::pass(about, format!("is signed by the key of {}", signer.about));
    }
    if !keys.iter().any(|(_, key)| key.n.len() == parts.signature_len()) {
        let seen = format!(
            "its signature has {} octets, and those of the key of {} have {}",
            parts.signature_len(),
            keys[0].0.about,
            keys[0].1.n.len()
        );
        return Observation::fail(about, seen)
            .with_advice("copy the token whole: characters at its end are missing, or were added");
    }
    let names: Vec<&str> = keys.iter().map(|(key, _)| key.about.as_str()).take(3).collect();
    let more = if keys.len() > names.len() { ", …" } else { "" };
    let other = other_signer(input, &verification_keys, parts)
        .map(|other| format!("; the key of {other} did, which isn't for this token"))
        .unwrap_or_default();
    let seen = format!("no known key signed it ({}{more}){other}", names.join("; "));
    let rejected = Observation::fail(about, seen);
    match purpose {
        Purpose::Assertion => rejected.with_advice(ASSERTION_FIX),
        Purpose::Identity | Purpose::Hs256(_) | Purpose::Incoming => rejected,
    }
}

/// The result for a token that no known key may verify. A configuration that loads should have that key.
fn unverifiable(input: &CheckInput<'_>, about: &str, purpose: Purpose) -> Observation {
    let (configured, nothing_given) = (&input.configured, !input.given.has_verification_keys());
    if nothing_given && !configured.problems.is_empty() {
        let reason = "the configuration doesn't load (`tokenmint check` says why), and no key was given to check its \
                      signature";
        return Observation::skipped(about, reason);
    }
    if nothing_given && configured.config.is_some() {
        let profile = if purpose == Purpose::Assertion { "oauth" } else { "identity" };
        let seen = format!("no [{profile}.NAME] of the configuration has a key that could have signed it");
        return Observation::fail(about, seen).with_advice(
            "give the configuration of the service that minted it (--config), or the file of its key, certificate or JWK",
        );
    }
    let reason = "no key was there to check its signature: give the file of its key, certificate or JWK, or the address of its \
                  JWK Set (--jwks)";
    Observation::skipped(about, reason)
}

/// The keys that may verify a token with this `kid`.
///
/// Salesforce finds the key of an identity token by its id, and the key of an assertion through the consumer key. For a token
/// without a `kid`, all keys are candidates. If no key has the id of the token, keys without an id are candidates. If there are
/// none either, all keys are candidates for an assertion.
fn candidate_keys<'a, 'b>(
    verification_keys: &'b [VerificationKey<'a>],
    kid: Option<&str>,
    purpose: Purpose,
) -> Vec<&'b VerificationKey<'a>> {
    let Some(kid) = kid else { return verification_keys.iter().collect() };
    let of_id = |id: Option<&str>| -> Vec<&'b VerificationKey<'a>> {
        verification_keys.iter().filter(|verification_key| verification_key.kid == id).collect()
    };
    let (named, nameless) = (of_id(Some(kid)), of_id(None));
    match purpose {
        _ if !named.is_empty() => named,
        Purpose::Assertion if nameless.is_empty() => verification_keys.iter().collect(),
        _ => nameless,
    }
}

/// The label of the supplied or configured key that signed the token, if any did.
fn other_signer(
    input: &CheckInput<'_>,
    verification_keys: &[VerificationKey<'_>],
    parts: &JwtParts,
) -> Option<String> {
    let given = verification_keys.iter().filter_map(|verification_key| {
        Some((verification_key.about.clone(), verification_key.numbers.clone()?))
    });
    let configured = input.configured.keys().map(|(about, _, key)| (about, key.public().numbers()));
    given.chain(configured).find(|(_, key)| parts.is_signed_by(key)).map(|(about, _)| about)
}
