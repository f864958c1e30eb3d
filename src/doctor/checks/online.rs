//! What the answers of a few requests say: our own JWKS as the internet sees it, and one exchange a profile.

use std::time::Duration;

use url::Url;

use crate::config::salesforce::{Host, HostKind};
use crate::doctor::answers::{Answer, Difference, Fetched, Reply};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::jwk::JwkDocument;
use crate::doctor::known::Known;
use crate::doctor::wording::printable;
use crate::exchange::ExchangeError;
use crate::exchange::meaning::id;

/// What Nimbus, the library that Salesforce's Java most likely fetches with, allows by default for connecting and
/// for reading, and how much it reads.
const TIME_LIMIT: Duration = Duration::from_millis(500);
const SIZE_LIMIT: usize = 50 << 10;
/// Of Salesforce's three minutes (Salesforce Help, "OAuth 2.0 JWT Bearer Flow").
const WARN_SKEW: f64 = 30.0;
const FAIL_SKEW: f64 = 180.0;

fn exchanges<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (&'a str, &'a Result<String, ExchangeError>)> {
    known.answers.iter().flatten().filter_map(|answer| match answer {
        Answer::Exchange { profile, result, .. } => Some((profile.as_str(), result)),
        Answer::Jwks(_) => None,
    })
}

pub fn reachable(known: &Known<'_>) -> Observations {
    known
        .fetched()
        .map(|fetched| {
            let about = &fetched.url;
            let in_the_clear = asks_in_the_clear(about).then(|| {
                "is asked over http, so that anybody on the way can put a key of theirs in; Salesforce asks over https only"
                    .to_owned()
            });
            let faults: Vec<String> = in_the_clear.into_iter().chain(no_set(fetched)).collect();
            let pass = "answers 200 with a JWK Set, without login or redirect";
            let kind = fetched.reply.as_ref().ok().and_then(|reply| reply.content_type.as_deref());
            if !faults.is_empty() || is_json(kind) {
                return Observation::of_faults(about, &faults, pass);
            }
            let kind = kind.map_or_else(|| "no Content-Type".to_owned(), |kind| format!("Content-Type {}", printable(kind)));
            Observation::warn(about, format!("answers 200 with a JWK Set, but with {kind}")).advising(
                "send `Content-Type: application/json`, or application/jwk-set+json (RFC 7517, section 8.5.2): a strict client \
                 reads nothing else, and whether Salesforce does is written nowhere",
            )
        })
        .collect()
}

/// Why an answer shows no keys.
fn no_set(fetched: &Fetched) -> Option<String> {
    let reply = match &fetched.reply {
        Ok(reply) => reply,
        Err(why) => return Some(why.clone()),
    };
    match (reply.status, &reply.location) {
        (200, _) if fetched.document.as_ref().is_some_and(JwkDocument::is_a_set) => None,
        (200, _) => Some("answers 200 with something that is no JWK Set, or an empty one".to_owned()),
        (status @ 300..=399, Some(to)) => Some(format!("answers {status} and sends on to {}", printable(to))),
        (status @ (401 | 403), _) => Some(format!("answers {status}: it wants a login")),
        (status, _) => Some(format!("answers {status}")),
    }
}

/// Whether an address is asked without TLS, by a network.
fn asks_in_the_clear(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.scheme() == "http" && Host::of(&url).kind != HostKind::Loopback)
}

/// Whether a Content-Type is that of JSON, or of a JWK Set.
fn is_json(content_type: Option<&str>) -> bool {
    let media = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    ["application/json", "application/jwk-set+json"].iter().any(|json| media.eq_ignore_ascii_case(json))
}

fn whole<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (&'a Fetched, &'a Reply)> {
    known.fetched().filter_map(|fetched| {
        let reply = fetched.reply.as_ref().ok()?;
        fetched.document.as_ref().filter(|document| document.is_a_set())?;
        Some((fetched, reply))
    })
}

pub fn light(known: &Known<'_>) -> Observations {
    whole(known)
        .map(|(fetched, reply)| {
            let (took, size) = (reply.took, reply.size);
            let seen = format!("{size} bytes in {} ms", took.as_millis());
            match () {
                () if size > SIZE_LIMIT => {
                    Observation::fail(&fetched.url, format!("{seen}; 50 KiB are the limit"))
                }
                () if took > TIME_LIMIT => {
                    Observation::warn(&fetched.url, format!("{seen}; 500 ms are the limit"))
                }
                () => Observation::pass(&fetched.url, seen),
            }
        })
        .collect()
}

pub fn same(known: &Known<'_>) -> Observations {
    of_addresses(known).into_iter().chain(super::published::lacks_configured(known)).collect()
}

fn of_addresses(known: &Known<'_>) -> Observations {
    whole(known)
        .filter_map(|(fetched, _)| {
            let seen = match fetched.expected.as_ref()?.difference() {
                None => {
                    let seen = "shows the keys that this configuration publishes";
                    return Some(Observation::pass(&fetched.url, seen));
                }
                Some(Difference::Content(kids)) => {
                    let kids = names(&kids);
                    format!("shows another key or certificate as {kids} than this configuration publishes")
                }
                Some(Difference::Kids { shown, expected }) => {
                    let (shown, expected) = (names(&shown), names(&expected));
                    format!("shows other keys ({shown}) than this configuration publishes ({expected})")
                }
            };
            Some(Observation::fail(&fetched.url, seen))
        })
        .collect()
}

fn names(kids: &[&str]) -> String {
    kids.iter().map(|kid| printable(kid)).collect::<Vec<_>>().join(", ")
}

pub fn clock(known: &Known<'_>) -> Observations {
    let of_addresses = known
        .fetched()
        .map(|fetched| (fetched.url.as_str(), fetched.reply.as_ref().ok().and_then(|reply| reply.skew)));
    let of_exchanges = known.answers.iter().flatten().filter_map(|answer| match answer {
        Answer::Exchange { profile, skew, .. } => Some((profile.as_str(), *skew)),
        Answer::Jwks(_) => None,
    });
    of_addresses
        .chain(of_exchanges)
        .map(|(about, skew)| {
            let Some(skew) = skew else {
                return Observation::not_looked_at(about, "no answer came that says what the time is there");
            };
            let seen = format!(
                "this host's clock is {:.0} s {}",
                skew.abs(),
                if skew < 0.0 { "behind" } else { "ahead" }
            );
            match skew.abs() {
                skew if skew > FAIL_SKEW => Observation::fail(about, seen),
                skew if skew > WARN_SKEW => Observation::warn(about, seen),
                _ => Observation::pass(about, "this host's clock and theirs agree"),
            }
        })
        .collect()
}

/// The endpoint of an exchange, by the kind of profile.
const MESSAGING: &str = "identity.";
const OAUTH: &str = "oauth.";

/// The answers that are another check's finding than `exchange`, by endpoint and the id of their meaning.
const AUTH_SCHEMES: (&str, &[&str]) = (MESSAGING, &[id::NO_AUTH_SCHEMES]);
const MODE: (&str, &[&str]) = (MESSAGING, &[id::AUTH_MODE]);
const DEPLOYMENT: (&str, &[&str]) = (MESSAGING, &[id::DEPLOYMENT_UNKNOWN]);
const AUDIENCE: (&str, &[&str]) = (OAUTH, &[id::AUDIENCE_REFUSED]);
const APP_NOT_FOUND: (&str, &[&str]) = (OAUTH, &[id::APP_NOT_FOUND]);
const APPROVAL: (&str, &[&str]) = (OAUTH, &[id::USER_NOT_APPROVED, id::APP_NOT_ASSIGNED]);
const PROPAGATION: (&str, &[&str]) = (OAUTH, &[id::CLIENT_UNKNOWN]);
const CERTIFICATE: (&str, &[&str]) = (OAUTH, &[id::ASSERTION_INVALID]);
const ELSEWHERE: &[(&str, &[&str])] =
    &[AUTH_SCHEMES, MODE, DEPLOYMENT, AUDIENCE, APP_NOT_FOUND, APPROVAL, PROPAGATION, CERTIFICATE];

/// The id of what a refusal means.
const fn meaning(error: &ExchangeError) -> Option<&'static str> {
    match error {
        ExchangeError::Rejected { meaning, .. } => Some(meaning.id),
        _ => None,
    }
}

fn is_one_of(error: &ExchangeError, ids: &[&str]) -> bool {
    meaning(error).is_some_and(|id| ids.contains(&id))
}

/// What each exchange at that endpoint says about one kind of refusal.
fn refused(known: &Known<'_>, (endpoint, ids): (&'static str, &'static [&'static str])) -> Observations {
    exchanges(known)
        .filter(|(profile, _)| profile.starts_with(endpoint))
        .map(|(profile, result)| match result {
            Ok(_) => Observation::pass(profile, "Salesforce doesn't say so: the exchange works"),
            Err(error) if is_one_of(error, ids) => refusal(profile, error),
            Err(_) => Observation::not_looked_at(profile, "the exchange failed for another reason"),
        })
        .collect()
}

/// In Salesforce's words, with what `exchange` knows of them.
fn refusal(profile: &str, error: &ExchangeError) -> Observation {
    match error {
        ExchangeError::Rejected { upstream, meaning, asked, .. } => {
            let words = [&upstream.error, &upstream.error_description].into_iter().flatten();
            let words = words.map(|words| printable(words)).collect::<Vec<_>>().join(": ");
            let seen =
                format!("Salesforce answers {} ({words}), {asked}: {}", upstream.status, meaning.cause);
            Observation::fail(profile, seen).advising(meaning.fix)
        }
        ExchangeError::Unverified { meaning } => {
            Observation::fail(profile, meaning.cause).advising(meaning.fix)
        }
        other => Observation::fail(profile, other.to_string()),
    }
}

pub fn auth_schemes(known: &Known<'_>) -> Observations {
    refused(known, AUTH_SCHEMES)
}

pub fn mode(known: &Known<'_>) -> Observations {
    refused(known, MODE)
}

pub(super) fn deployment(known: &Known<'_>) -> Observations {
    refused(known, DEPLOYMENT)
}

pub(super) fn audience(known: &Known<'_>) -> Observations {
    refused(known, AUDIENCE)
}

pub(super) fn app_not_found(known: &Known<'_>) -> Observations {
    refused(known, APP_NOT_FOUND)
}

pub fn approval(known: &Known<'_>) -> Observations {
    refused(known, APPROVAL)
}

pub fn propagation(known: &Known<'_>) -> Observations {
    refused(known, PROPAGATION)
}

pub fn certificate(known: &Known<'_>) -> Observations {
    refused(known, CERTIFICATE)
}

pub fn exchange(known: &Known<'_>) -> Observations {
    let asked = exchanges(known).map(|(profile, result)| match result {
        Ok(seen) => Observation::pass(profile, seen.clone()),
        Err(error) if ELSEWHERE.iter().any(|(_, ids)| is_one_of(error, ids)) => {
            Observation::not_looked_at(profile, "Salesforce's refusal is another check's finding")
        }
        Err(error) => refusal(profile, error),
    });
    asked.chain(not_asked(known)).collect()
}

/// What there was nobody to ask about, though somebody wanted to know.
fn not_asked(known: &Known<'_>) -> Observations {
    let Some(answers) = &known.answers else { return Vec::new() };
    if answers.is_empty() {
        let seen = "nothing was asked: no configuration loads that has `url` in [server.public], an \
                    [identity.NAME.messaging] or an [oauth.NAME]";
        return vec![
            Observation::warn("--online", seen)
                .advising("name the configuration by --config, and set what the message names"),
        ];
    }
    let silent = known.configured.identity().filter(|profile| profile.messaging.is_none());
    silent
        .map(|profile| {
            let reason = "it has no [identity.NAME.messaging] section, so nobody could be asked";
            Observation::not_looked_at(format!("identity.{}", profile.name), reason)
        })
        .collect()
}
