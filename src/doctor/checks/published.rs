//! JWKs and JWK Sets: those that go through an upload form, and those that an endpoint serves.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ProfileKind;

use crate::doctor::finding::{Observation, Observations, Outcome};
use crate::doctor::jwk::{Jwk, JwkDocument, Shape, Thumbprint, X5c};
use crate::doctor::known::{Known, signs};
use crate::doctor::wording::{listed, printable};
use crate::keys::Numbers;

pub fn text(known: &Known<'_>) -> Observations {
    let files = known.given.jwks.iter().map(|document| match (&document.shape, &document.around) {
        (Shape::NotJson(error), _) => Observation::fail(&document.about, format!("isn't JSON: {error}"))
            .advising(
                "mend the text, or take `tokenmint jwk KID`. Quotes must be straight (\"), and there is no comma \
                 after the last member",
            ),
        (_, Some(around)) => Observation::fail(&document.about, *around),
        (_, None) if document.served && !document.is_a_set() => {
            Observation::fail(&document.about, "is no JWK Set (`{\"keys\": […]}`), or an empty one")
        }
        (_, None) if document.others > 0 => {
            Observation::fail(&document.about, "has an entry among its keys that is no JWK")
        }
        (_, None) => Observation::pass(&document.about, "is JSON and nothing else"),
    });
    let tokens = known.given.tokens.iter().map(|token| match (&token.parts, token.within, token.around) {
        (Err(no), ..) => Observation::fail(&token.about, no.why.clone()).advising(no.fix),
        (Ok(_), Some(within), _) => Observation::fail(&token.about, within),
        (Ok(_), None, Some(around)) => Observation::warn(&token.about, around)
            .advising("the token was found, and is judged alone: see that nothing else is sent with it"),
        (Ok(_), None, None) => Observation::pass(&token.about, "is a JWT and nothing else"),
    });
    files.chain(tokens).collect()
}

pub fn single(known: &Known<'_>) -> Observations {
    known
        .given
        .jwks
        .iter()
        .filter(|document| !document.served)
        .filter_map(|document| match document.shape {
            Shape::Single => Some(Observation::pass(&document.about, "is one JWK")),
            Shape::Set => Some(Observation::fail(&document.about, "is a set of keys (`keys`)")),
            Shape::Array => Some(Observation::fail(&document.about, "is an array of keys")),
            Shape::NotJson(_) => None,
        })
        .collect()
}

/// What Salesforce lists as required, but for `x5c`, and what an RSA key for signatures is.
pub fn members(known: &Known<'_>) -> Observations {
    known
        .jwks()
        .map(|(_, jwk)| {
            let mut faults: Vec<String> =
                jwk.doubled().into_iter().map(|name| format!("has `{}` twice", printable(&name))).collect();
            let missing: Vec<&str> =
                ["kty", "kid", "alg"].into_iter().filter(|name| !jwk.has(name)).collect();
            if !missing.is_empty() {
                faults.push(format!("lacks {}", listed(missing)));
            }
            for name in ["kty", "kid", "alg"] {
                faults.extend(jwk.no_text(name).map(|what| format!("its `{name}` {what}")));
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
            if jwk.has("key_ops") && !jwk.lists("key_ops", "verify") {
                faults.push("its `key_ops` don't list verify".to_owned());
            }
            let numbers: Vec<&str> = ["n", "e"].into_iter().filter(|name| !jwk.has(name)).collect();
            let certified = numbers.len() == 2 && jwk.certificate().is_some();
            if !numbers.is_empty() && !certified {
                faults.push(format!("lacks {}", listed(numbers)));
            }
            let seen = Observation::of_faults(&jwk.about, &faults, "has kty, kid and alg");
            let unquoted: Vec<&str> = ["kty", "kid", "alg"]
                .into_iter()
                .filter(|name| jwk.has(name) && jwk.text(name).is_none())
                .collect();
            // Another fault needs the general advice.
            if unquoted.is_empty() || unquoted.len() < faults.len() {
                return seen;
            }
            seen.advising(format!("write the value of {} in quotes, as text", listed(unquoted)))
        })
        .collect()
}

pub fn numbers(known: &Known<'_>) -> Observations {
    known
        .jwks()
        .filter(|(_, jwk)| jwk.has("n") || jwk.has("e"))
        .map(|(_, jwk)| {
            let members = [("n", &jwk.n), ("e", &jwk.e)];
            let faults: Vec<String> = members
                .iter()
                .filter(|(_, number)| !number.faults.is_empty())
                .map(|(name, number)| format!("`{name}` {}", number.faults.join(" and ")))
                .collect();
            Observation::of_faults(&jwk.about, &faults, "`n` and `e` are base64url without padding")
        })
        .collect()
}

pub fn x5c_missing(known: &Known<'_>) -> Observations {
    known
        .jwks()
        .map(|(document, jwk)| match &jwk.x5c {
            X5c::Missing if document.served => {
                Observation::warn(&jwk.about, "has no `x5c`. Of a served set that is reported to work")
            }
            X5c::Missing => Observation::fail(&jwk.about, "has no `x5c`"),
            _ => Observation::pass(&jwk.about, "has an `x5c`"),
        })
        .collect()
}

pub fn x5c_form(known: &Known<'_>) -> Observations {
    known
        .jwks()
        .filter_map(|(_, jwk)| match &jwk.x5c {
            X5c::Missing | X5c::PrivateKey => None,
            X5c::Chain { faults, .. } => {
                let faults: Vec<String> = faults.iter().map(|fault| format!("`x5c` {fault}")).collect();
                let pass = "`x5c` is plain base64 of a certificate";
                Some(Observation::of_faults(&jwk.about, &faults, pass))
            }
        })
        .collect()
}

/// What `x5t` and `x5t#S256` say (RFC 7517, sections 4.8 and 4.9). Neither is needed.
pub fn thumbprints(known: &Known<'_>) -> Observations {
    known
        .jwks()
        .filter(|(_, jwk)| jwk.has("x5t") || jwk.has("x5t#S256"))
        .map(|(_, jwk)| {
            let Some(thumbprints) = jwk.thumbprints() else {
                return Observation::not_looked_at(
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
            Observation::of_faults(&jwk.about, &faults, "its thumbprints are its certificate's")
        })
        .collect()
}

/// Salesforce's own page asks for them in what is uploaded; in a set that is served, others read them too.
pub fn placeholders(known: &Known<'_>) -> Observations {
    known.jwks()
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
                let outcome = if document.served { Outcome::Warn } else { Outcome::Pass };
                Observation::new(outcome, &jwk.about, seen)
            }
        })
        .collect()
}

pub fn private(known: &Known<'_>) -> Observations {
    known
        .jwks()
        .map(|(_, jwk)| {
            let about = &jwk.about;
            match jwk.private_members() {
                _ if matches!(jwk.x5c, X5c::PrivateKey) => {
                    Observation::fail(about, "its `x5c` holds the private key, in place of the certificate")
                }
                names if names.is_empty() => Observation::pass(about, "holds no private member"),
                names => {
                    Observation::fail(about, format!("holds private members of the key: {}", listed(&names)))
                }
            }
        })
        .collect()
}

/// A set that was given as what an endpoint serves, beside the configuration whose keys it is to show.
pub(super) fn lacks_configured(known: &Known<'_>) -> Observations {
    let Some(ring) = known.configured.ring.filter(|_| !known.given.verifies_only) else { return Vec::new() };
    let keysets = ring.keysets.values().filter(|keyset| signs(keyset, ProfileKind::Identity));
    let signers: Vec<(&str, Numbers)> = keysets
        .filter_map(|keyset| keyset.keys.get(keyset.signing(known.now)?))
        .map(|key| (key.kid.as_str(), key.private.public.numbers()))
        .collect();
    let served = known.given.documents().filter(|document| document.served && document.is_a_set());
    served
        .filter(|_| !signers.is_empty())
        .map(|document| {
            let shows = |(kid, numbers): &&(&str, Numbers)| {
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
                        listed(signers.iter().map(|(kid, _)| kid))
                    ),
                ),
            }
        })
        .collect()
}

pub fn distinct(known: &Known<'_>) -> Observations {
    within_sets(known).into_iter().chain(across_documents(known)).collect()
}

/// JWKs of different keys that have one id, though each is alone in its file.
fn across_documents(known: &Known<'_>) -> Observations {
    let mut first: BTreeMap<&str, (&JwkDocument, &Jwk)> = BTreeMap::new();
    let mut found = Vec::new();
    for document in known.given.documents() {
        for jwk in &document.keys {
            let (Some(kid), Some(numbers)) = (jwk.kid(), jwk.numbers()) else { continue };
            let (other_document, other) = *first.entry(kid).or_insert((document, jwk));
            let is_elsewhere = !std::ptr::eq(other_document, document);
            if is_elsewhere && other.numbers().is_some_and(|other| other != numbers) {
                let kid = printable(kid);
                let seen =
                    format!("has the key id `{kid}`, as {} has, which is another key", other_document.about);
                found.push(Observation::fail(&jwk.about, seen));
            }
        }
    }
    found
}

fn within_sets(known: &Known<'_>) -> Observations {
    known
        .documents()
        .filter(|document| document.keys.len() > 1)
        .map(|document| {
            let mut seen = BTreeSet::new();
            match document.keys.iter().filter_map(|jwk| jwk.kid()).find(|kid| !seen.insert(*kid)) {
                Some(kid) => {
                    let kid = printable(kid);
                    Observation::fail(&document.about, format!("has two keys with the id `{kid}`"))
                }
                None => Observation::pass(&document.about, "its key ids differ"),
            }
        })
        .collect()
}
