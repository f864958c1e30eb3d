//! Private keys and certificates.

use super::{Found, configured, dated, jwks, others, signs};
use crate::clock::UnixTime;
use crate::config::Kind;
use crate::doctor::certificate::Certificate;
use crate::doctor::material::Numbers;
use crate::doctor::{Known, Observation};
use crate::keys::{Refused, SHORTEST_LIFE_LEFT, Unreadable, WARN_LIFE_LEFT};

/// An app's upload takes no more.
const LARGEST_UPLOAD: usize = 4 << 10;
/// A certificate that outlives this was made to be forgotten.
const LONG_LIFE: i64 = 20 * 365 * 86_400;

pub fn form(known: &Known<'_>) -> Found {
    let given = known.keys.iter().filter_map(|key| match &key.read {
        Ok(_) if let Some(warning) = key.oddities.warning() => Some(
            Observation::warn(&key.about, warning)
                .advising("for Salesforce's utility and other tools write it as `openssl pkey` does"),
        ),
        Ok(_) => Some(Observation::pass(&key.about, "holds a private RSA key in PEM form")),
        Err(Refused::Unreadable(Unreadable::NotRsa(_) | Unreadable::Pss | Unreadable::MultiPrime)) => None,
        Err(Refused::Unreadable(why)) => Some(Observation::fail(&key.about, why.to_string())),
        Err(_) => None,
    });
    given.chain(configured(known).map(|(about, ..)| Observation::pass(about, "loads"))).collect()
}

pub fn strength(known: &Known<'_>) -> Found {
    let given = known.keys.iter().filter_map(|key| match &key.read {
        Ok(numbers) => Some(Observation::pass(&key.about, format!("RSA, {} bits", numbers.bits()))),
        Err(Refused::Unreadable(
            why @ (Unreadable::NotRsa(_) | Unreadable::Pss | Unreadable::MultiPrime),
        )) => Some(Observation::fail(&key.about, why.to_string())),
        Err(Refused::Unreadable(_)) => None,
        Err(why) => Some(Observation::fail(&key.about, why.to_string())),
    });
    let uploaded = jwks(known).filter_map(|(_, jwk)| {
        let about = &jwk.about;
        let numbers = jwk.numbers()?;
        if jwk.text("kty").is_some_and(|kty| kty != "RSA") {
            return None;
        }
        Some(match numbers.bits() {
            bits if bits < 2048 => {
                Observation::fail(about, format!("an RSA key of {bits} bits; at least 2048 are needed"))
            }
            _ if numbers.e != [1, 0, 1] => Observation::fail(about, "its public exponent isn't 65537"),
            bits => Observation::pass(about, format!("RSA, {bits} bits")),
        })
    });
    let ring = configured(known)
        .map(|(about, _, key)| Observation::pass(about, format!("RSA, {} bits", key.private.public.bits)));
    given.chain(uploaded).chain(ring).collect()
}

pub fn file_mode(known: &Known<'_>) -> Found {
    let exposed = known.keys.iter().filter_map(|key| Some((key, key.exposed.as_ref()?)));
    exposed.map(|(key, why)| Observation::warn(&key.about, why.clone())).collect()
}

/// Each certificate that is known, and what to call it.
fn certificates<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (&'a str, &'a Certificate)> {
    let files = known.certificates.iter();
    let files = files.filter_map(|given| Some((given.about.as_str(), given.read.as_ref().ok()?)));
    let jwks = jwks(known).filter_map(|(_, jwk)| Some((jwk.about.as_str(), jwk.certificate()?)));
    files.chain(jwks)
}

pub fn certificate_dates(known: &Known<'_>) -> Found {
    let now = known.now;
    let given = certificates(known)
        .map(|(about, certificate)| dates(about, certificate.not_before, certificate.not_after, now));
    let ring = configured(known).flat_map(|(about, _, key)| {
        let published = key.certificate(now);
        let ours = (key.given().is_none() || key.given() == Some(&published))
            .then(|| dates(&about, published.not_before, published.not_after, now));
        let given = key.given().filter(|given| **given != published);
        let given = given.map(|given| {
            let file = format!("{}.crt", key.kid);
            let found = dates(&about, given.not_before, given.not_after, now);
            Observation {
                seen: format!("{file} {}; a derived one is published in its place", found.seen),
                ..found
            }
        });
        ours.into_iter().chain(given).collect::<Vec<_>>()
    });
    given.chain(ring).collect()
}

fn dates(about: &str, not_before: UnixTime, not_after: UnixTime, now: UnixTime) -> Observation {
    let left = now.seconds_until(not_after);
    let until = dated(not_after, now);
    match left {
        _ if not_before > now => {
            Observation::fail(about, format!("its certificate isn't valid before {}", dated(not_before, now)))
        }
        ..=0 => Observation::fail(about, format!("its certificate ran out {until}")),
        left if left <= SHORTEST_LIFE_LEFT => Observation::fail(
            about,
            format!("its certificate runs out {until}: fewer than ten days are left"),
        ),
        left if left <= WARN_LIFE_LEFT => {
            Observation::warn(about, format!("its certificate runs out {until}"))
        }
        _ => Observation::pass(about, format!("its certificate is valid until {until}")),
    }
}

pub fn certificate_form(known: &Known<'_>) -> Found {
    let read = known.certificates.iter().map(|given| match &given.read {
        Ok(certificate) if certificate.key.is_none() => {
            Observation::fail(&given.about, "certifies a key that isn't RSA")
        }
        Ok(_) => match given.oddities.warning() {
            Some(warning) => Observation::warn(&given.about, warning)
                .advising("for other tools write it anew: `openssl x509 -in FILE -out NEW`"),
            None => Observation::pass(&given.about, "holds an X.509 certificate of an RSA key"),
        },
        Err(why) => Observation::fail(&given.about, why.clone()),
    });
    read.collect()
}

/// That what is public and what is private are one pair.
pub fn pair(known: &Known<'_>) -> Found {
    let certified = jwks(known).filter_map(|(_, jwk)| {
        let about = &jwk.about;
        let (numbers, certified) = (jwk.numbers()?, jwk.certified()?);
        Some(if numbers == *certified {
            Observation::pass(about, "`n`, `e` and its certificate are one key")
        } else {
            Observation::fail(about, "the certificate in `x5c` is of another key than `n` and `e`")
        })
    });
    let found: Found = certified.collect();
    if found.iter().any(|found| found.outcome != super::super::Outcome::Pass) {
        return found;
    }
    found.into_iter().chain(given_pairs(known)).chain(configured_pairs(known)).collect()
}

/// Private keys that were given beside JWKs and certificates.
fn given_pairs(known: &Known<'_>) -> Found {
    let privates: Vec<(&str, &Numbers)> =
        known.keys.iter().filter_map(|key| Some((key.about.as_str(), key.read.as_ref().ok()?))).collect();
    if privates.is_empty() {
        return Vec::new();
    }
    let names = privates.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
    let jwks = jwks(known).filter_map(|(_, jwk)| Some((jwk.about.as_str(), jwk.numbers()?)));
    let files = known
        .certificates
        .iter()
        .filter_map(|given| Some((given.about.as_str(), given.read.as_ref().ok()?.key.clone()?)));
    jwks.chain(files)
        .map(|(about, numbers)| match privates.iter().find(|(_, private)| **private == numbers) {
            Some((name, _)) => Observation::pass(about, format!("is the public half of {name}")),
            None => Observation::fail(about, format!("isn't the public half of {names}")),
        })
        .collect()
}

/// JWKs that have the id of a configured key.
fn configured_pairs(known: &Known<'_>) -> Found {
    others(known)
        .filter_map(|jwk| {
            let (_, key) = known.ring?.find(jwk.kid()?)?;
            let same = jwk.numbers()? == Numbers::of(&key.private.public);
            Some(if same {
                Observation::pass(&jwk.about, format!("is the public half of `{}`", key.kid))
            } else {
                let seen = format!("has the key id `{}`, but isn't the public half of that key", key.kid);
                Observation::fail(&jwk.about, seen)
            })
        })
        .collect()
}

pub fn app_certificate(known: &Known<'_>) -> Found {
    let files = known.certificates.iter().filter_map(|given| {
        let certificate = given.read.as_ref().ok()?;
        Some((
            given.about.clone(),
            certificate.pem_size,
            certificate.not_before.seconds_until(certificate.not_after),
        ))
    });
    let ring =
        configured(known).filter(|(_, keyset, _)| signs(keyset, Kind::Oauth)).map(|(about, _, key)| {
            let published = key.certificate(known.now);
            (about, published.pem().len(), published.not_before.seconds_until(published.not_after))
        });
    files
        .chain(ring)
        .map(|(about, size, life)| match (size, life) {
            (size, _) if size > LARGEST_UPLOAD => {
                Observation::fail(about, format!("its certificate has {size} bytes; an app takes 4 KB"))
            }
            (_, life) if life > LONG_LIFE => Observation::warn(
                about,
                format!("its certificate is made for {}, so its key will not be changed", super::span(life)),
            )
            .advising("make one for a few years: `tokenmint keys new`, or openssl's -days 1095"),
            _ => Observation::pass(about, "its certificate can be uploaded to an app"),
        })
        .collect()
}

/// One key behind two doors (RFC 8725, section 3.12).
pub fn separate(known: &Known<'_>) -> Found {
    let of =
        |kind: Kind| configured(known).filter(move |(_, keyset, _)| signs(keyset, kind)).collect::<Vec<_>>();
    let oauth = of(Kind::Oauth);
    if oauth.is_empty() {
        return Vec::new();
    }
    of(Kind::Identity)
        .into_iter()
        .map(|(about, _, key)| {
            match oauth.iter().find(|(_, _, other)| other.private.public.n == key.private.public.n) {
                Some((other, ..)) => Observation::warn(
                    about,
                    format!("identity tokens and OAuth assertions are signed by one key ({other})"),
                ),
                None => Observation::pass(about, "signs no OAuth assertions"),
            }
        })
        .collect()
}

pub fn schedule(known: &Known<'_>) -> Found {
    let Some(ring) = known.ring else { return Vec::new() };
    ring.keysets
        .values()
        .map(|keyset| {
            let about = format!("keysets.{}", keyset.name);
            match keyset.signing(known.now).and_then(|at| keyset.keys.get(at)) {
                Some(key) => Observation::pass(about, format!("`{}` signs", key.kid)),
                None => Observation::fail(about, "no key signs now"),
            }
        })
        .collect()
}
