//! Which key a token names, and whether that key signed it.

use super::tokens::{IDENTITY, SALESFORCE};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::known::{Known, Purpose, Verifier};
use crate::doctor::token::Parts;
use crate::doctor::wording::{difference, listed, printable};

pub fn algorithm(known: &Known<'_>) -> Observations {
    known
        .tokens_for(SALESFORCE)
        .filter_map(|(token, parts, purpose)| {
            let about = &token.about;
            let Some(alg) = parts.header("alg") else {
                // Of an identity token that is another check's.
                return (purpose == Purpose::Assertion)
                    .then(|| Observation::fail(about, "its header names no algorithm (`alg`)"));
            };
            let allowed = match purpose {
                Purpose::Assertion => alg == "RS256",
                Purpose::Identity | Purpose::Hs256(_) => matches!(alg, "RS256" | "RS512"),
            };
            if !allowed {
                let seen = format!("its `alg` is {}; Salesforce takes RS256", printable(alg));
                return Some(Observation::fail(about, seen));
            }
            let verifiers = known.verifiers(purpose, parts);
            let kid = parts.header("kid");
            let named = verifiers.iter().filter(|verifier| kid.is_some() && verifier.kid == kid);
            let other = named.filter_map(|verifier| verifier.algorithm).find(|other| *other != alg);
            Some(match other {
                Some(other) => {
                    let seen = format!("its `alg` is {alg}, and that of its JWK {}", printable(other));
                    Observation::fail(about, seen)
                }
                None => Observation::pass(about, format!("is signed by {alg}")),
            })
        })
        .collect()
}

pub fn kid(known: &Known<'_>) -> Observations {
    let of_tokens = known.tokens_for(IDENTITY).filter_map(|(token, parts, purpose)| {
        let about = &token.about;
        // One that is missing or no text is another check's.
        let kid = parts.header("kid").filter(|kid| !kid.is_empty())?;
        let verifiers = known.verifiers(purpose, parts);
        let kids: Vec<&str> = verifiers.iter().filter_map(|verifier| verifier.kid).collect();
        if let Some(when) = known.retired(kid) {
            let seen = format!("its `kid` is `{}`, a key that was retired {when}", printable(kid));
            return Some(Observation::fail(about, seen).advising(
                "whoever made this token still signs with that key: have them take the one that signs now (`tokenmint keys list`). \
                 Don't upload the retired one again",
            ));
        }
        Some(match kids.as_slice() {
            [] => Observation::not_looked_at(about, "no JWK is known whose id could be its `kid`"),
            kids if kids.contains(&kid) => {
                Observation::pass(about, format!("its key id `{}` is known", printable(kid)))
            }
            kids => {
                let near = kids.iter().find_map(|other| difference(kid, other));
                let names = listed(kids.iter().map(|kid| printable(kid)));
                let why = near.map(|why| format!(": they differ by {why}")).unwrap_or_default();
                let seen = format!("its `kid` is `{}`, and that of the JWK {names}{why}", printable(kid));
                Observation::fail(about, seen)
            }
        })
    });
    of_tokens.chain(super::keys::ids_of_pairs(known)).collect()
}

pub fn signature(known: &Known<'_>) -> Observations {
    known
        .tokens_for(SALESFORCE)
        .map(|(token, parts, purpose)| {
            let about = &token.about;
            if !matches!(parts.header("alg"), Some("RS256" | "RS512")) {
                return Observation::not_looked_at(about, "its algorithm is none that Salesforce takes");
            }
            let verifiers = known.verifiers(purpose, parts);
            if verifiers.is_empty() && !known.given.verifies() && !known.configured.problems.is_empty() {
                let reason = "the configuration doesn't load (`tokenmint check` says why), and no key was given to check its \
                              signature";
                return Observation::not_looked_at(about, reason);
            }
            if verifiers.is_empty() {
                let reason = "no key was there to check its signature: give the file of its key, certificate or JWK, or the address of its \
                              JWK Set (--jwks)";
                return Observation::not_looked_at(about, reason);
            }
            let kid = parts.header("kid");
            let candidates = candidates(&verifiers, kid, purpose);
            if candidates.is_empty() {
                let kid = kid.map(printable).unwrap_or_default();
                let reason = format!("no key with its id `{kid}` is known to check its signature");
                return Observation::not_looked_at(about, reason);
            }
            let keys = candidates.iter().filter_map(|verifier| Some((verifier, verifier.numbers.as_ref()?)));
            let keys: Vec<_> = keys.collect();
            if keys.is_empty() {
                let reason = "the numbers of its JWK can't be read, so its signature can't be checked";
                return Observation::not_looked_at(about, reason);
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
                    .advising("copy the token whole: its end is missing, or too much");
            }
            let names: Vec<&str> = keys.iter().map(|(key, _)| key.about.as_str()).take(3).collect();
            let more = if keys.len() > names.len() { ", …" } else { "" };
            let other = other_signer(known, &verifiers, parts)
                .map(|other| format!("; the key of {other} did, which isn't for this token"))
                .unwrap_or_default();
            let seen = format!("no known key signed it ({}{more}){other}", names.join("; "));
            Observation::fail(about, seen)
        })
        .collect()
}

/// Salesforce finds the key of an identity token by its id, and that of an assertion through the consumer key. What has no
/// id may be any key, where none has the token's.
fn candidates<'a, 'b>(
    verifiers: &'b [Verifier<'a>],
    kid: Option<&str>,
    purpose: Purpose,
) -> Vec<&'b Verifier<'a>> {
    let Some(kid) = kid else { return verifiers.iter().collect() };
    let of_id = |id: Option<&str>| -> Vec<&'b Verifier<'a>> {
        verifiers.iter().filter(|verifier| verifier.kid == id).collect()
    };
    let (named, nameless) = (of_id(Some(kid)), of_id(None));
    match purpose {
        _ if !named.is_empty() => named,
        Purpose::Assertion if nameless.is_empty() => verifiers.iter().collect(),
        _ => nameless,
    }
}

/// Whose key signed, of all that are known.
fn other_signer(known: &Known<'_>, verifiers: &[Verifier<'_>], parts: &Parts) -> Option<String> {
    let given =
        verifiers.iter().filter_map(|verifier| Some((verifier.about.clone(), verifier.numbers.clone()?)));
    let configured = known.configured.keys().map(|(about, _, key)| (about, key.private.public.numbers()));
    given.chain(configured).find(|(_, key)| parts.is_signed_by(key)).map(|(about, _)| about)
}
