//! JWTs: identity tokens, assertions of the JWT bearer flow, and Intercom's.

use super::{Found, dated, jwks, jwts, others, public_keys, span};
use crate::clock::UnixTime;
use crate::config::SHORTEST_TTL;
use crate::doctor::material::Numbers;
use crate::doctor::{Known, Observation, Parts, Purpose, UnverifiedToken, printable};
use crate::json::Json;
use crate::tokens::Subject;

/// Browsers' clocks err by minutes.
const SHORT_LIFE: i64 = 300;
/// The channel's default "Authorization Token Expiration Time for Verified Users".
pub(super) const CHANNEL_LIFE: i64 = 3_600;
/// What Salesforce is said to allow between its clock and ours.
const SKEW: i64 = 180;
const YEAR: i64 = 365 * 86_400;

fn of<'a>(
    known: &'a Known<'_>,
    purposes: &'static [Purpose],
) -> impl Iterator<Item = (&'a UnverifiedToken, &'a Parts)> {
    jwts(known).filter(move |(token, _)| purposes.contains(&token.purpose()))
}

/// Those that go to Salesforce.
const SALESFORCE: &[Purpose] = &[Purpose::Identity, Purpose::Assertion];
const ALL: &[Purpose] = &[Purpose::Identity, Purpose::Assertion, Purpose::Intercom];

pub fn header(known: &Known<'_>) -> Found {
    of(known, &[Purpose::Identity])
        .map(|(token, parts)| {
            let about = &token.about;
            if parts.header.member("crit").is_some() {
                return Observation::fail(
                    about,
                    "its header has `crit`, which Salesforce would have to know",
                );
            }
            let names = ["alg", "typ", "kid"];
            let other = names.into_iter().filter_map(|name| Some((name, parts.header.member(name)?)));
            let mut other = other.filter(|(_, value)| !matches!(value, Json::String(_)));
            if let Some((name, value)) = other.next() {
                return Observation::fail(about, format!("its `{name}` is {}, not text", value.type_name()))
                    .advising(format!("write the value of `{name}` in quotes where the token is made, the same text as in the JWK"));
            }
            let missing: Vec<String> = names
                .into_iter()
                .filter(|name| parts.header(name).is_none_or(str::is_empty))
                .map(|name| format!("`{name}`"))
                .collect();
            match missing.as_slice() {
                [] => Observation::pass(about, "its header has alg, typ and kid"),
                // Salesforce's own generator leaves it out.
                [typ] if typ == "`typ`" => Observation::warn(about, "its header lacks `typ`"),
                missing => Observation::fail(about, format!("its header lacks {}", missing.join(", "))),
            }
        })
        .collect()
}

pub fn claims(known: &Known<'_>) -> Found {
    of(known, SALESFORCE)
        .map(|(token, parts)| {
            let about = &token.about;
            if let Some(name) = parts.claims.doubled().or_else(|| parts.header.doubled()) {
                return Observation::fail(about, format!("has `{}` twice", printable(&name)));
            }
            let required: &[&str] = match token.purpose() {
                Purpose::Assertion => &["iss", "sub", "aud", "exp"],
                _ => &["sub", "iss", "exp"],
            };
            let missing: Vec<String> = required
                .iter()
                .filter(|name| !parts.has_claim(name))
                .map(|name| format!("`{name}`"))
                .collect();
            if !missing.is_empty() {
                return Observation::fail(about, format!("its body lacks {}", missing.join(", ")));
            }
            Observation::pass(about, format!("its body has {}", required.join(", ")))
        })
        .collect()
}

pub fn algorithm(known: &Known<'_>) -> Found {
    of(known, SALESFORCE)
        .filter_map(|(token, parts)| {
            let alg = parts.header("alg")?;
            let allowed = match token.purpose() {
                Purpose::Assertion => alg == "RS256",
                _ => matches!(alg, "RS256" | "RS512"),
            };
            if !allowed {
                let seen = format!("its `alg` is {}; Salesforce takes RS256", printable(alg));
                return Some(Observation::fail(&token.about, seen));
            }
            let kid = parts.header("kid");
            let other = jwks(known)
                .filter(|(_, jwk)| jwk.kid().is_some() && jwk.kid() == kid)
                .find_map(|(_, jwk)| jwk.text("alg").filter(|other| *other != alg));
            Some(match other {
                Some(other) => {
                    let seen = format!("its `alg` is {alg}, and that of its JWK {}", printable(other));
                    Observation::fail(&token.about, seen)
                }
                None => Observation::pass(&token.about, format!("is signed by {alg}")),
            })
        })
        .collect()
}

pub fn kid(known: &Known<'_>) -> Found {
    let uploaded: Vec<&str> = jwks(known).filter_map(|(_, jwk)| jwk.kid()).collect();
    let configured = super::configured(known).map(|(_, _, key)| key.kid.as_str());
    let candidates: Vec<&str> = if uploaded.is_empty() { configured.collect() } else { uploaded };
    let of_tokens = of(known, &[Purpose::Identity]).filter_map(|(token, parts)| {
        let kid = parts.header("kid").filter(|kid| !kid.is_empty())?;
        if candidates.is_empty() {
            return None;
        }
        Some(if candidates.contains(&kid) {
            Observation::pass(&token.about, format!("its key id `{}` is known", printable(kid)))
        } else {
            let names = candidates.iter().map(|kid| printable(kid)).collect::<Vec<_>>().join("`, `");
            let seen = format!("its `kid` is `{}`, and that of the JWK `{names}`", printable(kid));
            Observation::fail(&token.about, seen)
        })
    });
    of_tokens.chain(ids_of_pairs(known)).collect()
}

/// A JWK under another id than that of the configured key whose half it is, and under no other key's.
fn ids_of_pairs(known: &Known<'_>) -> Found {
    others(known)
        .filter_map(|jwk| {
            let (kid, numbers) = (jwk.kid()?, jwk.numbers()?);
            let same =
                |(_, _, key): &(String, _, &crate::keys::Key)| Numbers::of(&key.private.public) == numbers;
            let (about, _, key) = super::configured(known).find(same)?;
            let strange = key.kid.as_str() != kid && known.ring?.find(kid).is_none();
            strange.then(|| {
                let seen = format!("is the public half of {about}, under the id `{}`", printable(kid));
                Observation::fail(&jwk.about, seen)
            })
        })
        .collect()
}

pub fn issuer(known: &Known<'_>) -> Found {
    let configured = known.config.into_iter().flat_map(|config| config.identity.values());
    let known_issuers: Vec<&str> =
        configured.map(|profile| profile.issuer.as_str()).chain(known.issuer).collect();
    of(known, &[Purpose::Identity])
        .filter_map(|(token, parts)| {
            let about = &token.about;
            let iss = match parts.claim_value("iss")? {
                Json::String(iss) => iss.as_str(),
                other => {
                    return Some(Observation::fail(about, format!("its `iss` is {}", other.type_name())));
                }
            };
            let shown = printable(iss);
            if known_issuers.is_empty() {
                return Some(odd_issuer(about, iss));
            }
            if known_issuers.contains(&iss) {
                return Some(Observation::pass(about, format!("its issuer `{shown}` is the keyset's")));
            }
            let nearest = known_issuers.iter().find_map(|other| Some((*other, difference(iss, other)?)));
            let seen = match nearest {
                Some((other, why)) => format!("its `iss` is `{shown}`, the keyset's `{other}`: {why}"),
                None => {
                    format!("its `iss` is `{shown}`, and the keyset's `{}`", known_issuers.join("` or `"))
                }
            };
            Some(Observation::fail(about, seen))
        })
        .chain(configured_issuers(known))
        .collect()
}

fn configured_issuers(known: &Known<'_>) -> Found {
    let profiles = known.config.into_iter().flat_map(|config| config.identity.values());
    profiles
        .map(|profile| {
            let about = format!("identity.{}", profile.name);
            match known.issuer.and_then(|setup| Some((setup, difference(profile.issuer.as_str(), setup)?))) {
                Some((setup, why)) => {
                    let seen =
                        format!("`issuer` is `{}`, in Setup `{setup}`: {why}", profile.issuer.as_str());
                    Observation::fail(about, seen)
                }
                None => odd_issuer(&about, profile.issuer.as_str()),
            }
        })
        .collect()
}

/// In what two issuers, or two key ids, differ that a person takes for one; `None` where they are the same, or wholly others.
pub fn difference(one: &str, other: &str) -> Option<&'static str> {
    let bare = |text: &str| {
        let text = text.trim().trim_end_matches('/').to_lowercase();
        text.trim_start_matches("https://").trim_start_matches("http://").to_owned()
    };
    match () {
        () if one == other || bare(one) != bare(other) => None,
        () if one.trim() == other.trim() => Some("white space"),
        () if one.trim_end_matches('/') == other.trim_end_matches('/') => Some("a slash at the end"),
        () if one.eq_ignore_ascii_case(other) => Some("upper and lower case"),
        () => Some("the `https://` before it"),
    }
}

fn odd_issuer(about: &str, iss: &str) -> Observation {
    let host = iss.trim_start_matches("https://").split('/').next().unwrap_or_default();
    let odd = match () {
        () if iss.trim() != iss || iss.is_empty() => "begins or ends with white space, or is empty",
        () if iss.ends_with('/') => "ends with a slash",
        () if host.contains('.') && host.chars().any(char::is_uppercase) => "has capital letters in its host",
        () => return Observation::pass(about, format!("its issuer is `{}`", printable(iss))),
    };
    Observation::warn(about, format!("its issuer `{}` {odd}", printable(iss)))
}

pub fn expiry(known: &Known<'_>) -> Found {
    let now = known.now;
    of(known, ALL)
        .filter_map(|(token, parts)| {
            let about = &token.about;
            let exp = parts.claim_value("exp")?;
            let Json::Number(_) = exp else {
                let seen = format!("its `exp` is {}, not a number", exp.type_name());
                return Some(Observation::fail(about, seen).advising(
                    "where the token is made, write `exp` as a number of seconds since 1970, without quotes",
                ));
            };
            let exp = parts.time("exp")?;
            let left = now.seconds_until(UnixTime::from_seconds(exp));
            let when = || dated(UnixTime::from_seconds(exp), now);
            Some(match left {
                _ if exp < YEAR => {
                    let seen = format!("its `exp` is {exp}: a duration, not a moment");
                    Observation::fail(about, seen).advising("`exp` = seconds since 1970 + lifetime")
                }
                left if left > 20 * YEAR => {
                    Observation::fail(about, format!("its `exp` is {exp}: milliseconds"))
                        .advising("divide by 1,000: `exp` is in seconds")
                }
                ..=0 => match zone(parts, now) {
                    Some(hours) => Observation::fail(
                        about,
                        format!("it expired {}, and was issued {hours} h before it could have been", when()),
                    )
                    .advising("the clock that made it takes local time for UTC; use seconds since 1970"),
                    None => Observation::fail(about, format!("it expired {}", when())),
                },
                _ => Observation::pass(about, format!("it expires {}", when())),
            })
        })
        .collect()
}

/// A whole number of hours between `iat` and now, as a time zone makes.
fn zone(parts: &Parts, now: UnixTime) -> Option<i64> {
    let off = UnixTime::from_seconds(parts.time("iat")?).seconds_until(now);
    let hours = (off + 900) / 3_600;
    ((1..=14).contains(&hours) && (off - hours * 3_600).abs() < 120).then_some(hours)
}

pub fn not_yet(known: &Known<'_>) -> Found {
    of(known, ALL)
        .filter_map(|(token, parts)| {
            let ahead = ["nbf", "iat"].into_iter().find_map(|name| {
                let ahead = known.now.seconds_until(UnixTime::from_seconds(parts.time(name)?));
                // In milliseconds it is for the eye; nobody checks it.
                (ahead > SKEW && ahead < 20 * YEAR).then_some((name, ahead))
            });
            ahead.map(|(name, ahead)| {
                Observation::fail(&token.about, format!("its `{name}` lies {} ahead", span(ahead)))
            })
        })
        .collect()
}

pub fn lifetime(known: &Known<'_>) -> Found {
    let tokens = of(known, &[Purpose::Identity]).filter_map(|(token, parts)| {
        let (iat, exp) = (parts.time("iat")?, parts.time("exp")?);
        let life = exp.checked_sub(iat)?;
        // Others' findings.
        if exp < YEAR || !(0..20 * YEAR).contains(&life) {
            return None;
        }
        Some(judged(token.about.clone(), life))
    });
    let profiles = known.config.into_iter().flat_map(|config| config.identity.values());
    let profiles = profiles.map(|profile| {
        let life = i64::try_from(profile.ttl.as_secs()).unwrap_or(i64::MAX);
        judged(format!("identity.{}", profile.name), life)
    });
    tokens.chain(profiles).collect()
}

fn judged(about: String, life: i64) -> Observation {
    let shortest = SHORTEST_TTL.as_secs();
    match life {
        ..SHORT_LIFE => {
            let seen =
                format!("its tokens live for {}, less than some browsers' clocks are wrong", span(life));
            Observation::warn(about, seen).advising(format!(
                "`ttl` = \"1h\"; never less than 5 minutes ({shortest} s is the least of all)"
            ))
        }
        CHANNEL_LIFE.. if life > CHANNEL_LIFE => {
            let seen =
                format!("its tokens live for {}, longer than a channel's session (60 minutes)", span(life));
            Observation::warn(about, seen)
        }
        _ => Observation::pass(about, format!("its tokens live for {}", span(life))),
    }
}

pub fn subject(known: &Known<'_>) -> Found {
    of(known, &[Purpose::Identity])
        .filter_map(|(token, parts)| {
            let about = &token.about;
            Some(match parts.claim_value("sub")? {
                Json::String(sub) => match Subject::parse("sub", sub.clone()) {
                    Ok(_) => Observation::pass(about, "its `sub` names somebody"),
                    Err(objection) => Observation::fail(about, format!("its `sub` {}", objection.message)),
                },
                other => Observation::fail(about, format!("its `sub` is {}, not text", other.type_name())),
            })
        })
        .collect()
}

pub fn signature(known: &Known<'_>) -> Found {
    let keys = public_keys(known);
    of(known, SALESFORCE)
        .filter(|(_, parts)| matches!(parts.header("alg"), Some("RS256" | "RS512")))
        .filter_map(|(token, parts)| {
            if keys.is_empty() {
                return None;
            }
            let signer = keys.iter().find(|(_, _, key)| parts.is_signed_by(key));
            Some(if let Some((name, ..)) = signer {
                Observation::pass(&token.about, format!("is signed by the key of {name}"))
            } else {
                let names: Vec<&str> = keys.iter().map(|(name, ..)| name.as_str()).take(3).collect();
                let more = if keys.len() > names.len() { ", …" } else { "" };
                let seen = format!("no known key signed it ({}{more})", names.join("; "));
                Observation::fail(&token.about, seen)
            })
        })
        .collect()
}

pub fn intercom(known: &Known<'_>) -> Found {
    let secrets: Vec<_> = known.config.into_iter().flat_map(|config| config.intercom.values()).collect();
    of(known, &[Purpose::Intercom])
        .map(|(token, parts)| {
            let about = &token.about;
            match parts.claim_value("user_id") {
                None => Observation::fail(about, "has no `user_id`"),
                Some(Json::String(id)) if id.trim().is_empty() => {
                    Observation::fail(about, "its `user_id` is empty")
                }
                Some(Json::String(_)) if parts.header("alg") != Some("HS256") => {
                    Observation::fail(about, "its `alg` isn't HS256, which is what Intercom takes")
                }
                Some(Json::String(_))
                    if !secrets.is_empty()
                        && !secrets.iter().any(|profile| parts.is_made_with(&profile.secret)) =>
                {
                    Observation::fail(about, "no Messenger API secret of the configuration made it")
                }
                Some(Json::String(_)) if !parts.has_claim("exp") => {
                    Observation::warn(about, "has no `exp`, so whoever gets hold of it is that user for ever")
                }
                Some(Json::String(_)) => Observation::pass(about, "names its user by `user_id`"),
                Some(other) => {
                    Observation::fail(about, format!("its `user_id` is {}, not text", other.type_name()))
                }
            }
        })
        .collect()
}

/// Of an assertion that was given.
pub fn audience(known: &Known<'_>) -> Found {
    of(known, &[Purpose::Assertion])
        .filter_map(|(token, parts)| Some((token, parts.claim("aud")?)))
        .map(|(token, aud)| super::profiles::judged_audience(token.about.clone(), aud, None, None))
        .collect()
}
