//! Checks of the header and the claims of JWTs: of every kind, of those for Salesforce, and of identity tokens. Key and signature
//! are in `signatures`.

use crate::clock::UnixTime;
use crate::config::{IdentityConfig, MIN_TTL};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::formatting::{
    backquoted_list, escape_and_truncate, format_duration, is_invisible_char, lookalike_difference,
    relative_date,
};
use crate::doctor::input::{CheckInput, Purpose};
use crate::doctor::token::JwtParts;
use crate::json::Json;
use crate::tokens::Subject;

/// The longest lifetime of an assertion that any source names, in seconds.
const MAX_ASSERTION_LIFETIME: i64 = 300;
/// The shortest lifetime, in seconds, that isn't risky: clocks of browsers are wrong by minutes.
const MIN_SENSIBLE_LIFETIME: i64 = 300;
/// The channel's default "Authorization Token Expiration Time for Verified Users", in seconds.
const CHANNEL_SESSION: i64 = 3_600;
/// The difference between two clocks that Salesforce is said to allow, in seconds.
const SALESFORCE_CLOCK_TOLERANCE: i64 = 180;
const YEAR: i64 = 365 * 86_400;

/// The purposes whose relying party is Salesforce.
pub(super) const SALESFORCE_TOKENS: &[Purpose] = &[Purpose::Identity, Purpose::Assertion];
pub(super) const IDENTITY_TOKENS: &[Purpose] = &[Purpose::Identity];
pub(super) const ASSERTIONS: &[Purpose] = &[Purpose::Assertion];
/// All tokens that tokenmint mints. The rules of their issuer judge the others.
const MINTED_TOKENS: &[Purpose] = match Purpose::ALL.split_last() {
    Some((Purpose::Incoming, minted)) => minted,
    _ => panic!("`Incoming` is the last purpose"),
};

/// Reports the purpose of each token, and the reason.
pub(crate) fn token_kind(input: &CheckInput<'_>) -> Observations {
    input
        .jwts()
        .map(|(token, _)| {
            let inferred = input.infer_purpose(token);
            let seen = format!("taken for {}: {}", inferred.purpose.description(), inferred.why);
            match inferred.ambiguity {
                Some(ambiguity) => Observation::warn(&token.about, format!("{seen}; {ambiguity}")),
                None => Observation::pass(&token.about, seen),
            }
        })
        .collect()
}

/// The fault of a member that isn't a non-empty string.
fn not_text_fault(name: &str, value: &Json) -> Option<String> {
    match value {
        Json::String(text) if text.is_empty() => Some(format!("its `{name}` is empty")),
        Json::String(_) => None,
        other => Some(format!("its `{name}` is {}, not text", other.type_name())),
    }
}

/// The fault of an `aud` that is neither a string nor an array of strings (RFC 7519, section 4.1.3).
fn audience_type_fault(aud: &Json) -> Option<String> {
    match aud {
        Json::Array(items) if items.is_empty() => Some("its `aud` is an empty array".to_owned()),
        Json::Array(items) => items.iter().find_map(|item| not_text_fault("aud", item)),
        other => not_text_fault("aud", other),
    }
}

pub(crate) fn token_header(input: &CheckInput<'_>) -> Observations {
    const MEMBERS: &[&str] = &["alg", "typ", "kid"];
    input
        .tokens_for(IDENTITY_TOKENS)
        .map(|(token, parts, _)| {
            let about = &token.about;
            let missing: Vec<&str> =
                MEMBERS.iter().copied().filter(|name| parts.header.member(name).is_none()).collect();
            let mut faults: Vec<String> = MEMBERS
                .iter()
                .copied()
                .filter_map(|name| not_text_fault(name, parts.header.member(name)?))
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
                let seen =
                    format!("its header has {}, like a token nested in another", backquoted_list(nested));
                return Observation::warn(about, seen);
            }
            if let Some(typ) = typ.filter(|_| faults.is_empty() && missing.is_empty()) {
                return Observation::warn(
                    about,
                    format!("its `typ` is `{}`, not `JWT`", escape_and_truncate(typ)),
                );
            }
            if !missing.is_empty() {
                faults.push(format!("its header lacks {}", backquoted_list(missing)));
            }
            let seen = Observation::from_faults(about, &faults, "its header has alg, typ and kid");
            let is_no_text =
                |name: &&str| parts.header.member(name).is_some() && parts.header(name).is_none();
            let unquoted: Vec<&str> = MEMBERS.iter().copied().filter(is_no_text).collect();
            // The specific advice doesn't cover the other faults.
            if unquoted.is_empty() || unquoted.len() < faults.len() {
                return seen;
            }
            let same = if unquoted == ["typ"] { "" } else { ", the same text as in the JWK" };
            seen.with_advice(format!(
                "write the value of {} in quotes where the token is made{same}",
                backquoted_list(unquoted)
            ))
        })
        .collect()
}

pub(crate) fn token_claims(input: &CheckInput<'_>) -> Observations {
    input
        .tokens_for(SALESFORCE_TOKENS)
        .map(|(token, parts, purpose)| {
            let required: &[&str] = match purpose {
                Purpose::Assertion => &["iss", "sub", "aud", "exp"],
                Purpose::Identity | Purpose::Hs256(_) | Purpose::Incoming => &["sub", "iss", "exp"],
            };
            let doubled = [&parts.header, &parts.claims].into_iter().filter_map(Json::duplicate_key);
            let mut faults: Vec<String> =
                doubled.map(|name| format!("has `{}` twice", escape_and_truncate(&name))).collect();
            let missing: Vec<&&str> = required.iter().filter(|name| !parts.has_claim(name)).collect();
            if !missing.is_empty() {
                faults.push(format!("its body lacks {}", backquoted_list(missing)));
            }
            faults.extend(parts.claim_value("jti").and_then(|jti| not_text_fault("jti", jti)));
            if purpose == Purpose::Identity {
                faults.extend(parts.claim_value("aud").and_then(audience_type_fault));
            }
            if purpose == Purpose::Assertion && parts.header.member("crit").is_some() {
                faults.push("its header has `crit`, which Salesforce would have to know".to_owned());
            }
            Observation::from_faults(&token.about, &faults, format!("its body has {}", required.join(", ")))
        })
        .collect()
}

pub(crate) fn issuer(input: &CheckInput<'_>) -> Observations {
    let issuers = input.expected_issuers();
    input
        .tokens_for(IDENTITY_TOKENS)
        .flat_map(|(token, parts, _)| {
            let about = &token.about;
            let Some(iss) = parts.claim_value("iss") else { return Vec::new() };
            let Json::String(iss) = iss else {
                let seen = format!("its `iss` is {}, not text", iss.type_name());
                return vec![Observation::fail(about, seen).with_advice(advise_quotes("iss"))];
            };
            if issuers.is_empty() {
                let odd = suspicious_issuer(about, iss);
                let reason = "there is no issuer to compare its `iss` with: --issuer takes what Setup shows";
                return odd.into_iter().chain([Observation::skipped(about, reason)]).collect();
            }
            let shown = escape_and_truncate(iss);
            if issuers.contains(&iss.as_str()) {
                return vec![Observation::pass(about, format!("its issuer `{shown}` is the keyset's"))];
            }
            let nearest = issuers.iter().find_map(|other| Some((*other, lookalike_difference(iss, other)?)));
            let seen = match nearest {
                Some((other, why)) => format!("its `iss` is `{shown}`, the keyset's `{other}`: {why}"),
                None => format!("its `iss` is `{shown}`, and the keyset's `{}`", issuers.join("` or `")),
            };
            vec![Observation::fail(about, seen)]
        })
        .chain(configured_issuers(input))
        .collect()
}

/// Compares the configured issuers with the issuer from Setup. It needs to match only one of several profiles.
fn configured_issuers(input: &CheckInput<'_>) -> Observations {
    let setup = input.given.issuer.as_deref();
    let is_setup_s = |profile: &IdentityConfig| setup == Some(profile.issuer.as_str());
    let unknown = setup.filter(|_| !input.configured.identity().any(is_setup_s));
    input
        .configured
        .identity()
        .map(|profile| {
            let about = format!("identity.{}", profile.name);
            let issuer = profile.issuer.as_str();
            if let Some(setup) = unknown {
                let why =
                    lookalike_difference(issuer, setup).map(|why| format!(": {why}")).unwrap_or_default();
                let seen = format!("`issuer` is `{issuer}`, in Setup `{}`{why}", escape_and_truncate(setup));
                return Observation::fail(about, seen);
            }
            suspicious_issuer(&about, issuer).unwrap_or_else(|| {
                Observation::pass(about, format!("its issuer is `{}`", escape_and_truncate(issuer)))
            })
        })
        .collect()
}

/// Faults of an issuer that don't depend on the issuer in Setup.
fn suspicious_issuer(about: &str, iss: &str) -> Option<Observation> {
    let host = iss.trim_start_matches("https://").split('/').next().unwrap_or_default();
    let shown = escape_and_truncate(iss);
    if iss.trim() != iss || iss.is_empty() {
        let seen = format!("its issuer `{shown}` begins or ends with white space, or is empty");
        return Some(Observation::fail(about, seen));
    }
    if iss.chars().any(is_invisible_char) {
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

pub(crate) fn token_expiry(input: &CheckInput<'_>) -> Observations {
    let now = input.now;
    input
        .tokens_for(MINTED_TOKENS)
        .filter_map(|(token, parts, purpose)| {
            let about = &token.about;
            let exp = parts.claim_value("exp")?;
            let Json::Number(_) = exp else {
                let seen = format!("its `exp` is {}, not a number", exp.type_name());
                return Some(Observation::fail(about, seen).with_advice(
                    "where the token is made, write `exp` as a number of seconds since 1970, without quotes",
                ));
            };
            let exp = parts.numeric_date("exp")?;
            let left = now.seconds_until(UnixTime::from_seconds(exp));
            let when = || relative_date(UnixTime::from_seconds(exp), now);
            Some(match left {
                _ if exp < YEAR => {
                    let seen = format!("its `exp` is {exp}: a duration, not a moment");
                    Observation::fail(about, seen).with_advice("`exp` = seconds since 1970 + lifetime")
                }
                left if left > 20 * YEAR && (exp / 1000 - now.seconds()).abs() > 20 * YEAR => {
                    Observation::fail(about, format!("its `exp` is {exp}: {} ahead", format_duration(left)))
                        .with_advice("`exp` = seconds since 1970 + lifetime")
                }
                left if left > 20 * YEAR => {
                    let seen = format!("its `exp` is {exp}: milliseconds");
                    // Salesforce's own command line logs in with such assertions.
                    let outcome =
                        if purpose == Purpose::Assertion { Observation::warn } else { Observation::fail };
                    outcome(about, seen).with_advice("divide by 1,000: `exp` is in seconds")
                }
                ..=0 => {
                    let seen = Observation::fail(about, format!("it expired {}", when()));
                    match hours_behind(parts, now) {
                        Some(hours) => seen.with_advice(format!(
                            "mint a new one. If this one was made just now, its issuer's clock is {hours} h behind, for example \
                             because local time was used as UTC: use seconds since 1970"
                        )),
                        None => seen,
                    }
                }
                _ => Observation::pass(about, format!("it expires {}", when())),
            })
        })
        .collect()
}

/// The whole hours, 1 to 14, between `iat` and now, within two minutes. A wrong time zone causes them, but so does age.
fn hours_behind(parts: &JwtParts, now: UnixTime) -> Option<i64> {
    let age = UnixTime::from_seconds(parts.numeric_date("iat")?).seconds_until(now);
    let is_near = |hours: &i64| (age - hours * 3_600).abs() < 120;
    (0..=15 * 3_600).contains(&age).then_some(())?;
    (1..=14).find(is_near)
}

pub(crate) fn token_not_yet(input: &CheckInput<'_>) -> Observations {
    input
        .tokens_for(MINTED_TOKENS)
        .map(|(token, parts, purpose)| {
            let about = &token.about;
            let (mut faults, mut unquoted) = (Vec::new(), Vec::new());
            for name in ["nbf", "iat"] {
                match (parts.claim_value(name), parts.numeric_date(name)) {
                    (None, _) => {}
                    (Some(_), Some(time)) => {
                        let ahead = input.now.seconds_until(UnixTime::from_seconds(time));
                        if ahead > SALESFORCE_CLOCK_TOLERANCE {
                            faults.push(format!("its `{name}` lies {} ahead", format_duration(ahead)));
                        }
                    }
                    (Some(other), None) => {
                        faults.push(format!("its `{name}` is {}, not a number", other.type_name()));
                        unquoted.push(name);
                    }
                }
            }
            let seen = Observation::from_faults(about, &faults, "it is valid from now on");
            if unquoted.is_empty() {
                return match purpose {
                    Purpose::Hs256(_) => seen.with_advice("set the clock of the token's maker (NTP)"),
                    Purpose::Identity | Purpose::Assertion | Purpose::Incoming => seen,
                };
            }
            seen.with_advice(format!(
                "where the token is made, write {} as a number of seconds since 1970, without quotes",
                backquoted_list(unquoted)
            ))
        })
        .collect()
}

pub(crate) fn lifetime(input: &CheckInput<'_>) -> Observations {
    let tokens = input.tokens_for(MINTED_TOKENS).filter_map(|(token, parts, purpose)| {
        let about = &token.about;
        let exp = parts.numeric_date("exp")?;
        let life = match (parts.numeric_date("iat"), purpose) {
            (Some(iat), _) => Some(exp.saturating_sub(iat)),
            // Without `iat`, the remaining time is a lower bound.
            (None, Purpose::Assertion) => Some(exp.saturating_sub(input.now.seconds()).max(1)),
            (None, _) => None,
        };
        // The check `token-expiry` reports an `exp` that is a duration or in milliseconds.
        if exp < YEAR || life.is_some_and(|life| life.unsigned_abs() > 20 * YEAR.unsigned_abs()) {
            return None;
        }
        if life.is_some_and(|life| life <= 0) {
            return Some(
                Observation::fail(about, "its `exp` isn't later than its `iat`: it was never valid")
                    .with_advice("where the token is made, set `exp` to `iat` + lifetime"),
            );
        }
        match (purpose, life) {
            (Purpose::Assertion, Some(life)) => Some(assertion_lifetime(about, life)),
            (Purpose::Identity, Some(life)) => Some(check_lifetime(token.about.clone(), life)),
            (Purpose::Hs256(_) | Purpose::Incoming, _) => None,
            (_, None) => Some(Observation::skipped(
                about,
                "it has no `iat` that is a number, so its lifetime is unknown",
            )),
        }
    });
    let profiles = input.configured.identity().map(|profile| {
        let life = i64::try_from(profile.ttl.as_secs()).unwrap_or(i64::MAX);
        check_lifetime(format!("identity.{}", profile.name), life)
    });
    tokens.chain(profiles).collect()
}

/// Judges the lifetime of an assertion. Sources disagree on the bound: 3 minutes, 5 minutes, or none.
fn assertion_lifetime(about: &str, life: i64) -> Observation {
    if life <= MAX_ASSERTION_LIFETIME {
        return Observation::pass(about, "it lives for minutes");
    }
    let seen =
        format!("it lives for {}; Salesforce is said to take 3 to 5 minutes at most", format_duration(life));
    Observation::warn(about, seen).with_advice("where the assertion is made, set `exp` to now + 150 seconds")
}

fn check_lifetime(about: String, life: i64) -> Observation {
    let shortest = MIN_TTL.as_secs();
    match life {
        ..MIN_SENSIBLE_LIFETIME => {
            let seen = format!(
                "its tokens live for {}, less than the error of some browsers' clocks",
                format_duration(life)
            );
            Observation::warn(about, seen).with_advice(format!(
                "`ttl` = \"1h\"; never less than 5 minutes ({shortest} s is the minimum)"
            ))
        }
        CHANNEL_SESSION.. if life > CHANNEL_SESSION => {
            let seen = format!(
                "its tokens live for {}, longer than a channel's session (60 minutes)",
                format_duration(life)
            );
            Observation::warn(about, seen)
        }
        _ => Observation::pass(about, format!("its tokens live for {}", format_duration(life))),
    }
}

pub(crate) fn subject(input: &CheckInput<'_>) -> Observations {
    input
        .tokens_for(IDENTITY_TOKENS)
        .filter_map(|(token, parts, _)| {
            let sub = parts.claim_value("sub")?;
            let seen = Observation::from_faults(
                &token.about,
                &subject_faults("sub", sub),
                "its `sub` names somebody",
            );
            Some(if matches!(sub, Json::String(_)) { seen } else { seen.with_advice(advise_quotes("sub")) })
        })
        .collect()
}

fn advise_quotes(name: &str) -> String {
    format!("where the token is made, write `{name}` as text, in quotes")
}

/// Why a claim is no valid subject, by the rules of the minting endpoints.
pub(super) fn subject_faults(name: &str, value: &Json) -> Vec<String> {
    let fault = match value {
        Json::String(text) => {
            Subject::parse(name, text.clone()).err().map(|invalid_field| invalid_field.message)
        }
        other => Some(format!("is {}, not text", other.type_name())),
    };
    fault.into_iter().map(|fault| format!("its `{name}` {fault}")).collect()
}
