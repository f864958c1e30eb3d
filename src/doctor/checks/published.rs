//! JWKs and JWK Sets: those that go through an upload form, and those that an endpoint serves.

use std::collections::BTreeSet;

use super::{Found, documents, jwks};
use crate::doctor::jwk::{Shape, X5c};
use crate::doctor::{Known, Observation, Outcome};

pub fn text(known: &Known<'_>) -> Found {
    let files = known.jwks.iter().map(|document| match (&document.shape, &document.around) {
        (Shape::NotJson(error), _) => Observation::fail(&document.about, format!("isn't JSON: {error}"))
            .advising(
                "mend the text, or take `tokenmint jwk KID`. Quotes must be straight (\"), and there is no comma \
                 after the last member",
            ),
        (_, Some(around)) => {
            let seen = format!("other text stands around the JSON: `{}`", crate::doctor::printable(around));
            Observation::fail(&document.about, seen)
        }
        (_, None) => Observation::pass(&document.about, "is JSON and nothing else"),
    });
    let tokens = known.tokens.iter().map(|token| match (&token.parts, token.within, token.around) {
        (Err(no), ..) => Observation::fail(&token.about, no.why.clone()).advising(no.fix),
        (Ok(_), Some(within), _) => Observation::fail(&token.about, within),
        (Ok(_), None, Some(around)) => Observation::warn(&token.about, around)
            .advising("the token was found, and is judged alone: see that nothing else is sent with it"),
        (Ok(_), None, None) => Observation::pass(&token.about, "is a JWT and nothing else"),
    });
    files.chain(tokens).collect()
}

pub fn single(known: &Known<'_>) -> Found {
    known
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
pub fn members(known: &Known<'_>) -> Found {
    jwks(known)
        .map(|(_, jwk)| {
            let about = &jwk.about;
            let text = |name: &str| jwk.text(name).filter(|value| !value.is_empty());
            let other =
                ["kty", "kid", "alg"].into_iter().find_map(|name| Some((name, jwk.other_type(name)?)));
            if let Some((name, type_name)) = other {
                return Observation::fail(about, format!("its `{name}` is {type_name}, not text"))
                    .advising(format!("write the value of `{name}` in quotes, as text"));
            }
            let missing: Vec<&str> =
                ["kty", "kid", "alg"].into_iter().filter(|name| text(name).is_none()).collect();
            if !missing.is_empty() {
                return Observation::fail(about, format!("lacks {}", listed(&missing)));
            }
            if let Some(name) = jwk.doubled() {
                return Observation::fail(about, format!("has `{name}` twice"));
            }
            if text("kty") != Some("RSA") {
                return Observation::fail(about, "its `kty` isn't RSA");
            }
            if !matches!(text("alg"), Some("RS256" | "RS512")) {
                return Observation::fail(about, "its `alg` is neither RS256 nor RS512");
            }
            if jwk.has("use") && text("use") != Some("sig") {
                return Observation::fail(about, "its `use` isn't sig");
            }
            let numbers: Vec<&str> = ["n", "e"].into_iter().filter(|name| !jwk.has(name)).collect();
            let certified = numbers.len() == 2 && jwk.certificate().is_some();
            if !numbers.is_empty() && !certified {
                return Observation::fail(about, format!("lacks {}", listed(&numbers)));
            }
            Observation::pass(about, "has kty, kid and alg")
        })
        .collect()
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

pub fn numbers(known: &Known<'_>) -> Found {
    jwks(known)
        .filter(|(_, jwk)| jwk.has("n") || jwk.has("e"))
        .map(|(_, jwk)| {
            let faults = [("n", &jwk.n), ("e", &jwk.e)];
            let fault = faults.iter().find_map(|(name, number)| Some(format!("`{name}` {}", number.fault?)));
            match fault {
                Some(fault) => Observation::fail(&jwk.about, fault),
                None => Observation::pass(&jwk.about, "`n` and `e` are base64url without padding"),
            }
        })
        .collect()
}

pub fn x5c_missing(known: &Known<'_>) -> Found {
    jwks(known)
        .map(|(document, jwk)| match &jwk.x5c {
            X5c::Missing if document.served => {
                Observation::warn(&jwk.about, "has no `x5c`. Of a served set that is reported to work")
            }
            X5c::Missing => Observation::fail(&jwk.about, "has no `x5c`"),
            _ => Observation::pass(&jwk.about, "has an `x5c`"),
        })
        .collect()
}

pub fn x5c_form(known: &Known<'_>) -> Found {
    jwks(known)
        .filter_map(|(_, jwk)| {
            let about = &jwk.about;
            match &jwk.x5c {
                X5c::Missing | X5c::PrivateKey => None,
                X5c::Certificate(_, None) => {
                    Some(Observation::pass(about, "`x5c` is plain base64 of a certificate"))
                }
                X5c::Certificate(_, Some(fault)) | X5c::Other(fault) => {
                    Some(Observation::fail(about, format!("`x5c` {fault}")))
                }
            }
        })
        .collect()
}

/// Salesforce's own page asks for them in what is uploaded; in a set that is served, others read them too.
pub fn placeholders(known: &Known<'_>) -> Found {
    jwks(known)
        .filter(|(_, jwk)| jwk.private_members().is_empty())
        .filter_map(|(document, jwk)| match jwk.placeholders() {
            names if names.is_empty() => None,
            names => {
                let names: Vec<String> = names.iter().map(|name| format!("\"{name}\":\"{name}\"")).collect();
                let seen = format!(
                    "holds {}: the placeholders of Salesforce's sample and utility. They are no part of any key, \
                     and nothing has leaked",
                    names.join(", ")
                );
                let outcome = if document.served { Outcome::Warn } else { Outcome::Pass };
                Some(Observation::new(outcome, &jwk.about, seen))
            }
        })
        .collect()
}

pub fn private(known: &Known<'_>) -> Found {
    jwks(known)
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

pub fn distinct(known: &Known<'_>) -> Found {
    documents(known)
        .filter(|document| document.keys.len() > 1)
        .map(|document| {
            let mut seen = BTreeSet::new();
            match document.keys.iter().filter_map(|jwk| jwk.kid()).find(|kid| !seen.insert(*kid)) {
                Some(kid) => {
                    let kid = crate::doctor::printable(kid);
                    Observation::fail(&document.about, format!("has two keys with the id `{kid}`"))
                }
                None => Observation::pass(&document.about, "its key ids differ"),
            }
        })
        .collect()
}
