//! JWTs: identity tokens, assertions of the JWT bearer flow, and Intercom's.

use crate::clock::UnixTime;
use crate::config::salesforce::{
    CONSUMER_KEY_PREFIX, Host, consumer_key_fault, is_record_id, may_be_consumer_key,
};
use crate::config::{Identity, Oauth, SHORTEST_TTL};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::known::{Known, Purpose, Verifier};
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
const SALESFORCE: &[Purpose] = &[Purpose::Identity, Purpose::Assertion];
const IDENTITY: &[Purpose] = &[Purpose::Identity];
const ASSERTION: &[Purpose] = &[Purpose::Assertion];
const INTERCOM: &[Purpose] = &[Purpose::Intercom];
const ALL: &[Purpose] = &[Purpose::Identity, Purpose::Assertion, Purpose::Intercom];

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
    const MEMBERS: [&str; 3] = ["alg", "typ", "kid"];
    known
        .tokens_for(IDENTITY)
        .map(|(token, parts, _)| {
            let about = &token.about;
            let missing: Vec<&str> =
                MEMBERS.into_iter().filter(|name| parts.header.member(name).is_none()).collect();
            let mut faults: Vec<String> =
                MEMBERS.into_iter().filter_map(|name| no_text(name, parts.header.member(name)?)).collect();
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
            let unquoted: Vec<&str> = MEMBERS.into_iter().filter(is_no_text).collect();
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
                Purpose::Identity | Purpose::Intercom => &["sub", "iss", "exp"],
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
                Purpose::Identity | Purpose::Intercom => matches!(alg, "RS256" | "RS512"),
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
            (Purpose::Intercom, _) => None,
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
fn person(name: &str, value: &Json) -> Vec<String> {
    let fault = match value {
        Json::String(text) => Subject::parse(name, text.clone()).err().map(|objection| objection.message),
        other => Some(format!("is {}, not text", other.type_name())),
    };
    fault.into_iter().map(|fault| format!("its `{name}` {fault}")).collect()
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

/// That `iss` is the app's, here and in the tokens.
pub fn consumer_key(known: &Known<'_>) -> Observations {
    let profiles = known.configured.oauth().map(|profile| {
        let about = format!("oauth.{}", profile.name);
        match consumer_key_fault(&profile.consumer_key) {
            Some(fault) => {
                // Not shown: the consumer secret may have been pasted in its place.
                Observation::fail(about, format!("`consumer_key` is none: {fault}"))
            }
            None => Observation::pass(about, "`consumer_key` has the form of one"),
        }
    });
    profiles.chain(issuers_of_assertions(known)).collect()
}

fn issuers_of_assertions(known: &Known<'_>) -> Observations {
    let configured: Vec<&str> =
        known.configured.oauth().map(|profile| profile.consumer_key.as_str()).collect();
    known
        .tokens_for(ASSERTION)
        .filter_map(|(token, parts, _)| {
            let about = &token.about;
            let value = parts.claim_value("iss")?;
            let Json::String(iss) = value else {
                return Some(Observation::fail(
                    about,
                    format!("its `iss` is {}, not text", value.type_name()),
                ));
            };
            let shown = printable(iss);
            let consumer = |text: &str| text.starts_with(CONSUMER_KEY_PREFIX) || configured.contains(&text);
            let sub_is_consumer = parts.claim("sub").is_some_and(consumer);
            Some(match () {
                () if consumer(iss) && sub_is_consumer => Observation::fail(
                    about,
                    "its `iss` and its `sub` are consumer keys, as an app has them that authenticates itself (RFC 7523, \
                     section 2.2); for the JWT bearer flow `sub` is the user name",
                ),
                () if configured.contains(&iss.as_str()) => {
                    Observation::pass(about, "its `iss` is the consumer key of an [oauth] profile")
                }
                () if sub_is_consumer => Observation::fail(
                    about,
                    format!("its `iss` is `{shown}` and its `sub` the consumer key: they are swapped"),
                ),
                () if iss.trim() != iss => {
                    Observation::fail(about, format!("its `iss` `{shown}` begins or ends with white space"))
                }
                () if !iss.starts_with(CONSUMER_KEY_PREFIX) && !may_be_consumer_key(iss) => Observation::fail(
                    about,
                    format!(
                        "its `iss` is `{shown}`, no consumer key: these begin with {CONSUMER_KEY_PREFIX}"
                    ),
                ),
                () if !configured.is_empty() && !known.given.verifies() => Observation::fail(
                    about,
                    format!("its `iss` `{shown}` is the consumer key of no [oauth] profile"),
                ),
                () if !iss.starts_with(CONSUMER_KEY_PREFIX) => Observation::warn(
                    about,
                    format!(
                        "its `iss` is `{shown}`, and consumer keys begin with {CONSUMER_KEY_PREFIX}, but for those that \
                         somebody has named in an app's metadata"
                    ),
                ),
                () => Observation::pass(about, "its `iss` is a consumer key"),
            })
        })
        .collect()
}

/// That `sub` of an assertion is a user name.
pub(super) fn username(known: &Known<'_>) -> Observations {
    known
        .tokens_for(ASSERTION)
        .filter_map(|(token, parts, _)| {
            let about = &token.about;
            Some(match parts.claim_value("sub")? {
                // Another check's.
                Json::String(sub) if sub.starts_with(CONSUMER_KEY_PREFIX) => return None,
                Json::String(sub) => {
                    let faults: Vec<String> = user_name_faults(sub)
                        .into_iter()
                        .map(|fault| format!("its `sub` is `{}`: {fault}", printable(sub)))
                        .collect();
                    let users: Vec<&str> = oauth_profiles(known, parts)
                        .iter()
                        .map(|profile| profile.username.as_str())
                        .collect();
                    let is_known =
                        users.is_empty() || users.iter().any(|user| user.eq_ignore_ascii_case(sub));
                    if faults.is_empty() && !is_known {
                        let seen = format!(
                            "its `sub` is `{}`, and `username` of its profile {}",
                            printable(sub),
                            listed(users)
                        );
                        return Some(Observation::warn(about, seen));
                    }
                    Observation::of_faults(about, &faults, "its `sub` is a user name")
                }
                other => Observation::fail(about, format!("its `sub` is {}, not text", other.type_name())),
            })
        })
        .collect()
}

/// Why a text is no Salesforce user name.
pub(super) fn user_name_faults(name: &str) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        faults.push("it holds white space or a control character");
    }
    if name.contains([',', ';', ':', '<', '>']) || name.matches('@').count() > 1 {
        faults.push("it is more than one e-mail address");
    }
    if is_record_id(name.trim(), "005") {
        faults.push("that is a user's id, not the user name");
    } else if !name.contains('@') {
        faults.push("a user name has the form of an e-mail address");
    }
    faults
}

pub fn intercom(known: &Known<'_>) -> Observations {
    known
        .tokens_for(INTERCOM)
        .map(|(token, parts, _)| {
            let about = &token.about;
            let mut faults = match parts.claim_value("user_id") {
                None => vec!["has no `user_id`".to_owned()],
                Some(value) => person("user_id", value),
            };
            if parts.header("alg") != Some("HS256") {
                faults.push("its `alg` isn't HS256, which is what Intercom takes".to_owned());
            }
            if parts.header.member("crit").is_some() {
                faults.push("its header has `crit`, which Intercom would have to know".to_owned());
            }
            let doubled = [&parts.header, &parts.claims].into_iter().filter_map(Json::doubled);
            faults.extend(doubled.map(|name| format!("has `{}` twice", printable(&name))));
            if faults.is_empty() && !parts.has_claim("exp") {
                return Observation::warn(
                    about,
                    "has no `exp`, so whoever gets hold of it is that user for ever",
                );
            }
            Observation::of_faults(about, &faults, "names its user by `user_id`")
        })
        .collect()
}

/// That one of the configured secrets made it.
pub fn intercom_secret(known: &Known<'_>) -> Observations {
    let profiles: Vec<_> =
        known.configured.config.into_iter().flat_map(|config| config.intercom.values()).collect();
    known
        .tokens_for(INTERCOM)
        .map(|(token, parts, _)| {
            let about = &token.about;
            if profiles.is_empty() {
                let reason = "no Messenger API secret was there to check its signature: give a configuration with \
                              [intercom.NAME] (--config)";
                return Observation::not_looked_at(about, reason);
            }
            if parts.header("alg") != Some("HS256") {
                return Observation::not_looked_at(about, "its algorithm isn't HS256");
            }
            match profiles.iter().find(|profile| parts.is_made_with(&profile.secret)) {
                Some(profile) => {
                    Observation::pass(about, format!("the secret of intercom.{} made it", profile.name))
                }
                None => Observation::fail(about, "no Messenger API secret of the configuration made it"),
            }
        })
        .collect()
}

/// The profiles of the configuration that make such assertions; none where the token is judged by what was given.
fn oauth_profiles<'a>(known: &'a Known<'_>, parts: &Parts) -> Vec<&'a Oauth> {
    let consumer_key = parts.claim("iss").filter(|_| !known.given.verifies());
    known.configured.oauth().filter(|profile| consumer_key == Some(profile.consumer_key.as_str())).collect()
}

/// Of a token that was given.
pub(super) fn audience(known: &Known<'_>) -> Observations {
    of_assertions(known).into_iter().chain(of_identity_tokens(known)).collect()
}

/// What an identity token is for is written nowhere as necessary; where the configuration says it, the token does too.
fn of_identity_tokens(known: &Known<'_>) -> Observations {
    known
        .tokens_for(IDENTITY)
        .filter(|_| !known.given.verifies())
        .filter_map(|(token, parts, _)| {
            let iss = parts.claim("iss")?;
            let profiles = known.configured.identity().filter(|profile| profile.issuer.as_str() == iss);
            let audiences: Vec<Option<&str>> = profiles.map(|profile| profile.audience.as_deref()).collect();
            let is_right = |audience: Option<&str>| match (audience, parts.claim_value("aud")) {
                (None, _) => true,
                (Some(right), Some(Json::Array(items))) => {
                    items.iter().any(|item| matches!(item, Json::String(text) if text == right))
                }
                (Some(right), Some(Json::String(text))) => text == right,
                (Some(_), _) => false,
            };
            if audiences.is_empty() || audiences.iter().copied().any(is_right) {
                return None;
            }
            let right = listed(audiences.into_iter().flatten());
            let seen = format!("its `aud` isn't `audience` of [identity.NAME]: {right}");
            Some(
                Observation::warn(&token.about, seen)
                    .advising("where the token is made, set `aud` to the same"),
            )
        })
        .collect()
}

fn of_assertions(known: &Known<'_>) -> Observations {
    known
        .tokens_for(ASSERTION)
        .filter_map(|(token, parts, _)| {
            let profiles = oauth_profiles(known, parts);
            Some(match parts.claim_value("aud")? {
                Json::String(aud) => {
                    let right = profiles.iter().find(|profile| profile.audience.as_str() == aud);
                    let host =
                        right.or_else(|| profiles.first()).map(|profile| Host::of(profile.token_url.url()));
                    let seen =
                        super::audience::judged(token.about.clone(), aud, host.as_ref(), parts.claim("sub"));
                    if right.is_none() && !profiles.is_empty() && seen.passes() {
                        let names = listed(profiles.iter().map(|profile| profile.audience.as_str()));
                        let seen = format!(
                            "its `aud` is `{}`, and `audience` of its profile {names}",
                            printable(aud)
                        );
                        return Some(Observation::warn(&token.about, seen));
                    }
                    seen
                }
                other => Observation::fail(
                    &token.about,
                    format!("its `aud` is {}; Salesforce compares it with one text", other.type_name()),
                ),
            })
        })
        .collect()
}
