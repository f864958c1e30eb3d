//! Checks of JWKs and JWK Sets, for upload or served by an endpoint, and of how JWKs and tokens were copied.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ProfileKind;

use crate::doctor::finding::{CheckOutcome, Observation, Observations};
use crate::doctor::formatting::{backquoted_list, escape_and_truncate};
use crate::doctor::input::{CheckInput, is_used_by};
use crate::doctor::jwk::{JwkDocument, JwkShape, ParsedJwk, Thumbprint, X5c};
use crate::keys::PublicNumbers;

pub(crate) fn text(input: &CheckInput<'_>) -> Observations {
    let files = input.given.jwks.iter().map(|document| match (&document.shape, &document.surrounding) {
        (JwkShape::NotJson(error), _) => Observation::fail(&document.about, format!("isn't JSON: {error}"))
            .with_advice(
                "fix the text, or take the output of `tokenmint jwk KID`. Quotes must be straight (\"), and there is no comma \
                 after the last member",
            ),
        (_, Some(surrounding)) => Observation::fail(&document.about, *surrounding),
        (_, None) if document.served && !document.is_jwk_set() => {
            Observation::fail(&document.about, "is no JWK Set (`{\"keys\": […]}`), or an empty one")
        }
        (_, None) if document.non_objects > 0 => {
            Observation::fail(&document.about, "has an entry among its keys that is no JWK")
        }
        (_, None) => Observation::pass(&document.about, "is JSON and nothing else"),
    });
    let tokens =
        input.given.tokens.iter().map(|token| match (&token.parts, token.stripped, token.surrounding) {
            (Err(no), ..) => Observation::fail(&token.about, no.why.clone()).with_advice(no.fix),
            (Ok(_), Some(stripped), _) => Observation::fail(&token.about, stripped),
            (Ok(_), None, Some(surrounding)) => Observation::warn(&token.about, surrounding).with_advice(
                "the token was found, and is judged alone: see that nothing else is sent with it",
            ),
            (Ok(_), None, None) => Observation::pass(&token.about, "is a JWT and nothing else"),
        });
    files.chain(tokens).collect()
}

pub(crate) fn jwk_single(input: &CheckInput<'_>) -> Observations {
    input
        .given
        .jwks
        .iter()
        .filter(|document| !document.served)
        .filter_map(|document| match document.shape {
            JwkShape::Single => Some(Observation::pass(&document.about, "is one JWK")),
            JwkShape::Set => Some(Observation::fail(&document.about, "is a set of keys (`keys`)")),
            JwkShape::Array => Some(Observation::fail(&document.about, "is an array of keys")),
            JwkShape::NotJson(_) => None,
        })
        .collect()
}

/// Checks the members that Salesforce requires, except `x5c`, and that the JWK is an RSA key for signatures.
pub(crate) fn jwk_members(input: &CheckInput<'_>) -> Observations {
    input
        .jwks()
        .map(|(_, jwk)| {
            let mut faults: Vec<String> = jwk
                .duplicate_key()
                .into_iter()
                .map(|name| format!("has `{}` twice", escape_and_truncate(&name)))
                .collect();
            let missing: Vec<&str> =
                ["kty", "kid", "alg"].into_iter().filter(|name| !jwk.has(name)).collect();
            if !missing.is_empty() {
                faults.push(format!("lacks {}", backquoted_list(missing)));
            }
            for name in ["kty", "kid", "alg"] {
                faults.extend(jwk.not_text_reason(name).map(|what| format!("its `{name}` {what}")));
            }
            if jwk.text("kty").is_some_and(|kty| !matches!(kty, "" | "RSA")) {
                faults.push("its `kty` isn't RSA".to_owned());
            }
            if jwk.text("alg").is_some_and(|alg| !matches!(alg, "" | "RS256" | "RS512")) {
                faults.push("its `alg` is neither RS256 nor RS512".to_owned());
            }
            if jwk.has("use") && jwk.text("use") != Some("sig") {
                faults.push("its `use` isn't sig".to_owned());
            }
            if jwk.has("key_ops") && !jwk.array_contains("key_ops", "verify") {
                faults.push("its `key_ops` don't list verify".to_owned());
            }
            let is_url = |text: &str| text.starts_with("https://") || text.starts_with("http://");
            if jwk.has("x5u") && !jwk.text("x5u").is_some_and(is_url) {
                faults.push("its `x5u` isn't a URL".to_owned());
            }
            let numbers: Vec<&str> = ["n", "e"].into_iter().filter(|name| !jwk.has(name)).collect();
            let certified = numbers.len() == 2 && jwk.certificate().is_some();
            if !numbers.is_empty() && !certified {
                faults.push(format!("lacks {}", backquoted_list(numbers)));
            }
            let seen = Observation::from_faults(&jwk.about, &faults, "has kty, kid and alg");
            let unquoted: Vec<&str> = ["kty", "kid", "alg"]
                .into_iter()
                .filter(|name| jwk.has(name) && jwk.text(name).is_none())
                .collect();
            // The specific advice doesn't cover the other faults.
            if unquoted.is_empty() || unquoted.len() < faults.len() {
                return seen;
            }
            seen.with_advice(format!("write the value of {} in quotes, as text", backquoted_list(unquoted)))
        })
        .collect()
}

pub(crate) fn jwk_numbers(input: &CheckInput<'_>) -> Observations {
    input
        .jwks()
        .filter(|(_, jwk)| jwk.has("n") || jwk.has("e"))
        .map(|(_, jwk)| {
            let members = [("n", &jwk.n), ("e", &jwk.e)];
            let faults: Vec<String> = members
                .iter()
                .filter(|(_, number)| !number.faults.is_empty())
                .map(|(name, number)| format!("`{name}` {}", number.faults.join(" and ")))
                .collect();
            Observation::from_faults(&jwk.about, &faults, "`n` and `e` are base64url without padding")
        })
        .collect()
}

pub(crate) fn jwk_x5c(input: &CheckInput<'_>) -> Observations {
    input
        .jwks()
        .map(|(document, jwk)| match &jwk.x5c {
            X5c::Missing if document.served => {
                Observation::warn(&jwk.about, "has no `x5c`. Served sets without it are reported to work")
            }
            X5c::Missing => Observation::fail(&jwk.about, "has no `x5c`"),
            _ => Observation::pass(&jwk.about, "has an `x5c`"),
        })
        .collect()
}

pub(crate) fn jwk_x5c_form(input: &CheckInput<'_>) -> Observations {
    input
        .jwks()
        .filter_map(|(_, jwk)| match &jwk.x5c {
            X5c::Missing | X5c::PrivateKey => None,
            X5c::Chain { faults, .. } => {
                let faults: Vec<String> = faults.iter().map(|fault| format!("`x5c` {fault}")).collect();
                let pass = "`x5c` is plain base64 of a certificate";
                Some(Observation::from_faults(&jwk.about, &faults, pass))
            }
        })
        .collect()
}

/// Checks `x5t` and `x5t#S256` against the certificate (RFC 7517, sections 4.8 and 4.9). Both are optional.
pub(crate) fn jwk_thumbprint(input: &CheckInput<'_>) -> Observations {
    input
        .jwks()
        .filter(|(_, jwk)| jwk.has("x5t") || jwk.has("x5t#S256"))
        .map(|(_, jwk)| {
            let Some(thumbprints) = jwk.thumbprints() else {
                return Observation::skipped(
                    &jwk.about,
                    "it has no certificate for its `x5t` to be compared with",
                );
            };
            let faults: Vec<String> = thumbprints
                .into_iter()
                .filter_map(|(name, thumbprint)| match thumbprint {
                    Thumbprint::Wrong(why) => Some(format!("`{name}` {why}")),
                    Thumbprint::Missing | Thumbprint::Right => None,
                })
                .collect();
            Observation::from_faults(&jwk.about, &faults, "its thumbprints are its certificate's")
        })
        .collect()
}

/// Finds placeholder members. Salesforce's own page asks for them in an upload, so they pass there. In a served set, other
/// verifiers read them too, so the check warns.
pub(crate) fn jwk_placeholders(input: &CheckInput<'_>) -> Observations {
    input.jwks()
        .filter(|(_, jwk)| jwk.private_members().is_empty())
        .map(|(document, jwk)| match jwk.placeholders() {
            names if names.is_empty() => Observation::pass(&jwk.about, "holds no placeholder"),
            names => {
                let names: Vec<String> = names.iter().map(|name| format!("\"{name}\":\"{name}\"")).collect();
                let seen = format!(
                    "holds {}: the placeholders of Salesforce's sample and utility. They are no part of any key, \
                     and nothing has leaked",
                    names.join(", ")
                );
                let outcome = if document.served { CheckOutcome::Warn } else { CheckOutcome::Pass };
                Observation::new(outcome, &jwk.about, seen)
            }
        })
        .collect()
}

pub(crate) fn jwk_private(input: &CheckInput<'_>) -> Observations {
    input
        .jwks()
        .map(|(_, jwk)| {
            let about = &jwk.about;
            match jwk.private_members() {
                _ if matches!(jwk.x5c, X5c::PrivateKey) => {
                    Observation::fail(about, "its `x5c` holds the private key, in place of the certificate")
                }
                names if names.is_empty() => Observation::pass(about, "holds no private member"),
                names => Observation::fail(
                    about,
                    format!("holds private members of the key: {}", backquoted_list(&names)),
                ),
            }
        })
        .collect()
}

/// Checks that each supplied or fetched JWK Set that an endpoint serves contains a configured key that signs identity tokens now.
pub(super) fn lacks_configured(input: &CheckInput<'_>) -> Observations {
    let Some(ring) = input.configured.ring.filter(|_| !input.given.verify_only) else { return Vec::new() };
    let keysets = ring.keysets.values().filter(|keyset| is_used_by(keyset, ProfileKind::Identity));
    let signers: Vec<(&str, PublicNumbers)> = keysets
        .filter_map(|keyset| keyset.keys.get(keyset.signing_position(input.now)?))
        .map(|key| (key.kid.as_str(), key.public().numbers()))
        .collect();
    let served = input.given.jwk_documents().filter(|document| document.served && document.is_jwk_set());
    served
        .filter(|_| !signers.is_empty())
        .map(|document| {
            let shows = |(kid, numbers): &&(&str, PublicNumbers)| {
                document
                    .keys
                    .iter()
                    .any(|jwk| jwk.kid() == Some(kid) && jwk.numbers().as_ref() == Some(numbers))
            };
            match signers.iter().find(shows) {
                Some((kid, _)) => {
                    Observation::pass(&document.about, format!("shows `{kid}`, which signs now"))
                }
                None => Observation::fail(
                    &document.about,
                    format!(
                        "shows none of the keys that sign now: {}",
                        backquoted_list(signers.iter().map(|(kid, _)| kid))
                    ),
                ),
            }
        })
        .collect()
}

pub(crate) fn jwk_distinct(input: &CheckInput<'_>) -> Observations {
    within_sets(input).into_iter().chain(across_documents(input)).collect()
}

/// Finds different keys with the same id in different documents.
fn across_documents(input: &CheckInput<'_>) -> Observations {
    let mut first: BTreeMap<&str, (&JwkDocument, &ParsedJwk)> = BTreeMap::new();
    let mut found = Vec::new();
    for document in input.given.jwk_documents() {
        for jwk in &document.keys {
            let (Some(kid), Some(numbers)) = (jwk.kid(), jwk.numbers()) else { continue };
            let (other_document, other) = *first.entry(kid).or_insert((document, jwk));
            let is_elsewhere = !std::ptr::eq(other_document, document);
            if is_elsewhere && other.numbers().is_some_and(|other| other != numbers) {
                let kid = escape_and_truncate(kid);
                let seen =
                    format!("has the key id `{kid}`, as {} has, which is another key", other_document.about);
                found.push(Observation::fail(&jwk.about, seen));
            }
        }
    }
    found
}

fn within_sets(input: &CheckInput<'_>) -> Observations {
    input
        .jwk_documents()
        .filter(|document| document.keys.len() > 1)
        .map(|document| {
            let mut seen = BTreeSet::new();
            match document.keys.iter().filter_map(|jwk| jwk.kid()).find(|kid| !seen.insert(*kid)) {
                Some(kid) => {
                    let kid = escape_and_truncate(kid);
                    Observation::fail(&document.about, format!("has two keys with the id `{kid}`"))
                }
                None => Observation::pass(&document.about, "its key ids differ"),
            }
        })
        .collect()
}
