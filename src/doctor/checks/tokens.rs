//! JWTs: what holds for tokens of every kind, and for identity tokens.

use crate::clock::UnixTime;
use crate::config::{Identity, SHORTEST_TTL};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::known::{Known, Purpose};
use crate::doctor::token::Parts;
use crate::doctor::wording::{dated, difference, is_invisible, listed, printable, span};
use crate::json::Json;
use crate::tokens::Subject;

const LONGEST_ASSERTION: i64 = 300;
/// Browsers' clocks err by minutes.
const SHORT_LIFE: i64 = 300;
/// The channel's default "Authorization Token Expiration Time for Verified Users".
const CHANNEL_LIFE: i64 = 3_600;
/// What Salesforce is said to allow between its clock and ours.
const SKEW: i64 = 180;
const YEAR: i64 = 365 * 86_400;

/// Those that go to Salesforce.
pub(super) const SALESFORCE: &[Purpose] = &[Purpose::Identity, Purpose::Assertion];
pub(super) const IDENTITY: &[Purpose] = &[Purpose::Identity];
pub(super) const ASSERTION: &[Purpose] = &[Purpose::Assertion];
const ALL: &[Purpose] = Purpose::ALL;

/// What each token was taken for, and why.
pub fn kind(known: &Known<'_>) -> Observations {
    known
        .jwts()
        .map(|(token, _)| {
            let taken = known.taken(token);
            let seen = format!("taken for {}: {}", taken.purpose.name(), taken.why);
            match taken.doubt {
                Some(doubt) => Observation::warn(&token.about, format!("{seen}; {doubt}")),
                None => Observation::pass(&token.about, seen),
            }
        })
        .collect()
}

/// Notes a member that has to be text and isn't.
fn no_text(name: &str, value: &Json) -> Option<String> {
    match value {
        Json::String(text) if text.is_empty() => Some(format!("its `{name}` is empty")),
        Json::String(_) => None,
        other => Some(format!("its `{name}` is {}, not text", other.type_name())),
    }
}

/// Why an `aud` is none (RFC 7519, section 4.1.3): a text, or an array of texts.
fn no_audience(aud: &Json) -> Option<String> {
    match aud {
        Json::Array(items) if items.is_empty() => Some("its `aud` is an empty array".to_owned()),
        Json::Array(items) => items.iter().find_map(|item| no_text("aud", item)),
        other => no_text("aud", other),
    }
}

pub fn header(known: &Known<'_>) -> Observations {
    const MEMBERS: &[&str] = &["alg", "typ", "kid"];
    known
        .tokens_for(IDENTITY)
        .map(|(token, parts, _)| {
            let about = &token.about;
            let missing: Vec<&str> =
                MEMBERS.iter().copied().filter(|name| parts.header.member(name).is_none()).collect();
            let mut faults: Vec<String> = MEMBERS
                .iter()
                .copied()
                .filter_map(|name| no_text(name, parts.header.member(name)?))
                .collect();
            if parts.header.member("crit").is_some() {
                faults.push("its header has `crit`, which Salesforce would have to know".to_owned());
            }
            // Salesforce's own generator leaves `typ` out.
            if faults.is_empty() && missing == ["typ"] {
                return Observation::warn(about, "its header lacks `typ`");
            }
            let typ = parts.header("typ").filter(|typ| !typ.eq_ignore_ascii_case("JWT"));
            let nested = ["cty", "zip"].into_iter().filter(|name| parts.header.member(name).is_some());
            let nested: Vec<&str> = nested.collect();
            if faults.is_empty() && missing.is_empty() && !nested.is_empty() {
                let seen = format!("its header has {}, as tokens within tokens have", listed(nested));
                return Observation::warn(about, seen);
            }
            if let Some(typ) = typ.filter(|_| faults.is_empty() && missing.is_empty()) {
                return Observation::warn(about, format!("its `typ` is `{}`, not `JWT`", printable(typ)));
            }
            if !missing.is_empty() {
                faults.push(format!("its header lacks {}", listed(missing)));
            }
            let seen = Observation::of_faults(about, &faults, "its header has alg, typ and kid");
            let is_no_text =
                |name: &&str| parts.header.member(name).is_some() && parts.header(name).is_none();
            let unquoted: Vec<&str> = MEMBERS.iter().copied().filter(is_no_text).collect();
            // Another fault needs the general advice.
            if unquoted.is_empty() || unquoted.len() < faults.len() {
                return seen;
            }
            let same = if unquoted == ["typ"] { "" } else { ", the same text as in the JWK" };
            seen.advising(format!(
                "write the value of {} in quotes where the token is made{same}",
                listed(unquoted)
            ))
        })
        .collect()
}

pub fn claims(known: &Known<'_>) -> Observations {
    known
        .tokens_for(SALESFORCE)
        .map(|(token, parts, purpose)| {
            let required: &[&str] = match purpose {
                Purpose::Assertion => &["iss", "sub", "aud", "exp"],
                Purpose::Identity | Purpose::Hs256(_) => &["sub", "iss", "exp"],
            };
            let doubled = [&parts.header, &parts.claims].into_iter().filter_map(Json::doubled);
            let mut faults: Vec<String> =
                doubled.map(|name| format!("has `{}` twice", printable(&name))).collect();
            let missing: Vec<&&str> = required.iter().filter(|name| !parts.has_claim(name)).collect();
            if !missing.is_empty() {
                faults.push(format!("its body lacks {}", listed(missing)));
            }
            faults.extend(parts.claim_value("jti").and_then(|jti| no_text("jti", jti)));
            if purpose == Purpose::Identity {
                faults.extend(parts.claim_value("aud").and_then(no_audience));
            }
            if purpose == Purpose::Assertion && parts.header.member("crit").is_some() {
                faults.push("its header has `crit`, which Salesforce would have to know".to_owned());
            }
            Observation::of_faults(&token.about, &faults, format!("its body has {}", required.join(", ")))
        })
        .collect()
}

pub fn issuer(known: &Known<'_>) -> Observations {
    let issuers = known.issuers();
    known
        .tokens_for(IDENTITY)
        .flat_map(|(token, parts, _)| {
            let about = &token.about;
            let Some(iss) = parts.claim_value("iss") else { return Vec::new() };
            let Json::String(iss) = iss else {
                let seen = format!("its `iss` is {}, not text", iss.type_name());
                return vec![Observation::fail(about, seen).advising(in_quotes("iss"))];
            };
            if issuers.is_empty() {
                let odd = odd_issuer(about, iss);
                let reason = "there is no issuer to compare its `iss` with: --issuer takes what Setup shows";
                return odd.into_iter().chain([Observation::not_looked_at(about, reason)]).collect();
            }
            let shown = printable(iss);
            if issuers.contains(&iss.as_str()) {
                return vec![Observation::pass(about, format!("its issuer `{shown}` is the keyset's"))];
            }
            let nearest = issuers.iter().find_map(|other| Some((*other, difference(iss, other)?)));
            let seen = match nearest {
                Some((other, why)) => format!("its `iss` is `{shown}`, the keyset's `{other}`: {why}"),
                None => format!("its `iss` is `{shown}`, and the keyset's `{}`", issuers.join("` or `")),
            };
            vec![Observation::fail(about, seen)]
        })
        .chain(configured_issuers(known))
        .collect()
}

/// The configured issuers beside the one in Setup. Where several profiles have issuers of their own, Setup's is one of them.
fn configured_issuers(known: &Known<'_>) -> Observations {
    let setup = known.given.issuer.as_deref();
    let is_setup_s = |profile: &Identity| setup == Some(profile.issuer.as_str());
    let unknown = setup.filter(|_| !known.configured.identity().any(is_setup_s));
    known
        .configured
        .identity()
        .map(|profile| {
            let about = format!("identity.{}", profile.name);
            let issuer = profile.issuer.as_str();
            if let Some(setup) = unknown {
                let why = difference(issuer, setup).map(|why| format!(": {why}")).unwrap_or_default();
                let seen = format!("`issuer` is `{issuer}`, in Setup `{}`{why}", printable(setup));
                return Observation::fail(about, seen);
            }
            odd_issuer(&about, issuer)
                .unwrap_or_else(|| Observation::pass(about, format!("its issuer is `{}`", printable(issuer))))
        })
        .collect()
}

/// What is wrong with an issuer whatever Setup has.
fn odd_issuer(about: &str, iss: &str) -> Option<Observation> {
    let host = iss.trim_start_matches("https://").split('/').next().unwrap_or_default();
    let shown = printable(iss);
    if iss.trim() != iss || iss.is_empty() {
        let seen = format!("its issuer `{shown}` begins or ends with white space, or is empty");
        return Some(Observation::fail(about, seen));
    }
    if iss.chars().any(is_invisible) {
        return Some(Observation::fail(about, format!("its issuer `{shown}` holds an invisible character")));
    }
    let mut odd = Vec::new();
    if iss.ends_with('/') {
        odd.push("ends with a slash");
    }
    if host.contains('.') && host.chars().any(char::is_uppercase) {
        odd.push("has capital letters in its host");
    }
    (!odd.is_empty()).then(|| Observation::warn(about, format!("its issuer `{shown}` {}", odd.join(" and "))))
}

pub fn expiry(known: &Known<'_>) -> Observations {
    let now = known.now;
    known
        .tokens_for(ALL)
        .filter_map(|(token, parts, purpose)| {
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
                left if left > 20 * YEAR && (exp / 1000 - now.seconds()).abs() > 20 * YEAR => {
                    Observation::fail(about, format!("its `exp` is {exp}: {} ahead", span(left)))
                        .advising("`exp` = seconds since 1970 + lifetime")
                }
                left if left > 20 * YEAR => {
                    let seen = format!("its `exp` is {exp}: milliseconds");
                    // Salesforce's own command line sends such assertions, and logs in.
                    let outcome =
                        if purpose == Purpose::Assertion { Observation::warn } else { Observation::fail };
                    outcome(about, seen).advising("divide by 1,000: `exp` is in seconds")
                }
                ..=0 => {
                    let seen = Observation::fail(about, format!("it expired {}", when()));
                    match hours_behind(parts, now) {
                        Some(hours) => seen.advising(format!(
                            "mint a new one. If this one was made just now, its maker's clock is {hours} h behind, as where \
                             local time is taken for UTC: use seconds since 1970"
                        )),
                        None => seen,
                    }
                }
                _ => Observation::pass(about, format!("it expires {}", when())),
            })
        })
        .collect()
}

/// The whole hours between `iat` and now, as a time zone makes. Age makes them too.
fn hours_behind(parts: &Parts, now: UnixTime) -> Option<i64> {
    let age = UnixTime::from_seconds(parts.time("iat")?).seconds_until(now);
    let is_near = |hours: &i64| (age - hours * 3_600).abs() < 120;
    (0..=15 * 3_600).contains(&age).then_some(())?;
    (1..=14).find(is_near)
}

pub fn not_yet(known: &Known<'_>) -> Observations {
    known
        .tokens_for(ALL)
        .map(|(token, parts, _)| {
            let about = &token.about;
            let (mut faults, mut unquoted) = (Vec::new(), Vec::new());
            for name in ["nbf", "iat"] {
                match (parts.claim_value(name), parts.time(name)) {
                    (None, _) => {}
                    (Some(_), Some(time)) => {
                        let ahead = known.now.seconds_until(UnixTime::from_seconds(time));
                        if ahead > SKEW {
                            faults.push(format!("its `{name}` lies {} ahead", span(ahead)));
                        }
                    }
                    (Some(other), None) => {
                        faults.push(format!("its `{name}` is {}, not a number", other.type_name()));
                        unquoted.push(name);
                    }
                }
            }
            let seen = Observation::of_faults(about, &faults, "it is valid from now on");
            if unquoted.is_empty() {
                return seen;
            }
            seen.advising(format!(
                "where the token is made, write {} as a number of seconds since 1970, without quotes",
                listed(unquoted)
            ))
        })
        .collect()
}

pub fn lifetime(known: &Known<'_>) -> Observations {
    let tokens = known.tokens_for(ALL).filter_map(|(token, parts, purpose)| {
        let about = &token.about;
        let exp = parts.time("exp")?;
        let life = match (parts.time("iat"), purpose) {
            (Some(iat), _) => Some(exp.saturating_sub(iat)),
            // As long as this at least.
            (None, Purpose::Assertion) => Some(exp.saturating_sub(known.now.seconds()).max(1)),
            (None, _) => None,
        };
        // A duration, and milliseconds: another check's findings.
        if exp < YEAR || life.is_some_and(|life| life.unsigned_abs() > 20 * YEAR.unsigned_abs()) {
            return None;
        }
        if life.is_some_and(|life| life <= 0) {
            return Some(
                Observation::fail(about, "its `exp` isn't later than its `iat`: it was never valid")
                    .advising("where the token is made, set `exp` to `iat` + lifetime"),
            );
        }
        match (purpose, life) {
            (Purpose::Assertion, Some(life)) => Some(of_assertion(about, life)),
            (Purpose::Identity, Some(life)) => Some(judged(token.about.clone(), life)),
            (Purpose::Hs256(_), _) => None,
            (_, None) => Some(Observation::not_looked_at(
                about,
                "it has no `iat` that is a number, so nobody knows how long it lives",
            )),
        }
    });
    let profiles = known.configured.identity().map(|profile| {
        let life = i64::try_from(profile.ttl.as_secs()).unwrap_or(i64::MAX);
        judged(format!("identity.{}", profile.name), life)
    });
    tokens.chain(profiles).collect()
}

/// The sources contradict each other: 3 minutes, 5 minutes, or no bound at all.
fn of_assertion(about: &str, life: i64) -> Observation {
    if life <= LONGEST_ASSERTION {
        return Observation::pass(about, "it lives for minutes");
    }
    let seen = format!("it lives for {}; Salesforce is said to take 3 to 5 minutes at most", span(life));
    Observation::warn(about, seen).advising("where the assertion is made, set `exp` to now + 150 seconds")
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

pub fn subject(known: &Known<'_>) -> Observations {
    known
        .tokens_for(IDENTITY)
        .filter_map(|(token, parts, _)| {
            let sub = parts.claim_value("sub")?;
            let seen = Observation::of_faults(&token.about, &person("sub", sub), "its `sub` names somebody");
            Some(if matches!(sub, Json::String(_)) { seen } else { seen.advising(in_quotes("sub")) })
        })
        .collect()
}

fn in_quotes(name: &str) -> String {
    format!("where the token is made, write `{name}` as text, in quotes")
}

/// Why a claim names nobody: the rules of the endpoints that mint.
pub(super) fn person(name: &str, value: &Json) -> Vec<String> {
    let fault = match value {
        Json::String(text) => Subject::parse(name, text.clone()).err().map(|objection| objection.message),
        other => Some(format!("is {}, not text", other.type_name())),
    };
    fault.into_iter().map(|fault| format!("its `{name}` {fault}")).collect()
}
