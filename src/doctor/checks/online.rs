//! Checks of probe results: the fetched JWKS, and one exchange for each profile.

use std::time::Duration;

use url::Url;

use crate::config::salesforce::{HostKind, SalesforceHost};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::formatting::escape_and_truncate;
use crate::doctor::input::CheckInput;
use crate::doctor::jwk::JwkDocument;
use crate::doctor::probe::{FetchedJwks, JwksMismatch, JwksResponse, ProbeResult};
use crate::exchange::ExchangeError;
use crate::exchange::errors::table::id;

/// The default connect and read timeout of Nimbus, the library that Salesforce most likely fetches a JWKS with.
const NIMBUS_TIMEOUT: Duration = Duration::from_millis(500);
/// The default size limit of Nimbus, in bytes.
const NIMBUS_MAX_BYTES: usize = 50 << 10;
/// Clock skew in seconds above which a check warns.
const WARN_SKEW: f64 = 30.0;
/// Clock skew in seconds that Salesforce allows (Salesforce Help, "OAuth 2.0 JWT Bearer Flow": three minutes).
const FAIL_SKEW: f64 = 180.0;

fn exchange_results<'a>(
    input: &'a CheckInput<'_>,
) -> impl Iterator<Item = (&'a str, &'a Result<String, ExchangeError>)> {
    input.probe_results.iter().flatten().filter_map(|answer| match answer {
        ProbeResult::Exchange { profile, result, .. } => Some((profile.as_str(), result)),
        ProbeResult::Jwks(_) | ProbeResult::IssuerKeys(_) => None,
    })
}

pub(crate) fn jwks_reachable(input: &CheckInput<'_>) -> Observations {
    input
        .fetched()
        .map(|fetched| {
            let about = &fetched.url;
            let in_the_clear = is_plain_http(about).then(|| {
                "is fetched over http, so anybody on the network path can replace its keys; Salesforce asks over https only"
                    .to_owned()
            });
            let faults: Vec<String> = in_the_clear.into_iter().chain(jwks_fault(fetched)).collect();
            let pass = "answers 200 with a JWK Set, without login or redirect";
            let kind = fetched.reply.as_ref().ok().and_then(|reply| reply.content_type.as_deref());
            if !faults.is_empty() || is_json_media_type(kind) {
                return Observation::from_faults(about, &faults, pass);
            }
            let kind = kind.map_or_else(|| "no Content-Type".to_owned(), |kind| format!("Content-Type {}", escape_and_truncate(kind)));
            Observation::warn(about, format!("answers 200 with a JWK Set, but with {kind}")).with_advice(
                "send `Content-Type: application/json`, or application/jwk-set+json (RFC 7517, section 8.5.2): a strict client \
                 reads nothing else, and whether Salesforce does is written nowhere",
            )
        })
        .collect()
}

/// Why a response isn't a usable JWK Set.
fn jwks_fault(fetched: &FetchedJwks) -> Option<String> {
    let reply = match &fetched.reply {
        Ok(reply) => reply,
        Err(why) => return Some(why.clone()),
    };
    match (reply.status, &reply.location) {
        (200, _) if fetched.document.as_ref().is_some_and(JwkDocument::is_jwk_set) => None,
        (200, _) => Some("answers 200 with something that is no JWK Set, or an empty one".to_owned()),
        (status @ 300..=399, Some(to)) => {
            Some(format!("answers {status} and sends on to {}", escape_and_truncate(to)))
        }
        (status @ (401 | 403), _) => Some(format!("answers {status}: it wants a login")),
        (status, _) => Some(format!("answers {status}")),
    }
}

/// Whether a URL uses http to a host other than loopback.
fn is_plain_http(url: &str) -> bool {
    Url::parse(url)
        .is_ok_and(|url| url.scheme() == "http" && SalesforceHost::from_url(&url).kind != HostKind::Loopback)
}

/// Whether the media type is JSON or a JWK Set.
fn is_json_media_type(content_type: Option<&str>) -> bool {
    let media = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    ["application/json", "application/jwk-set+json"].iter().any(|json| media.eq_ignore_ascii_case(json))
}

fn valid_jwks<'a>(input: &'a CheckInput<'_>) -> impl Iterator<Item = (&'a FetchedJwks, &'a JwksResponse)> {
    input.fetched().filter_map(|fetched| {
        let reply = fetched.reply.as_ref().ok()?;
        fetched.document.as_ref().filter(|document| document.is_jwk_set())?;
        Some((fetched, reply))
    })
}

pub(crate) fn jwks_light(input: &CheckInput<'_>) -> Observations {
    valid_jwks(input)
        .map(|(fetched, reply)| {
            let (took, size) = (reply.took, reply.size);
            let seen = format!("{size} bytes in {} ms", took.as_millis());
            match () {
                () if size > NIMBUS_MAX_BYTES => {
                    Observation::fail(&fetched.url, format!("{seen}; 50 KiB are the limit"))
                }
                () if took > NIMBUS_TIMEOUT => {
                    Observation::warn(&fetched.url, format!("{seen}; 500 ms are the limit"))
                }
                () => Observation::pass(&fetched.url, seen),
            }
        })
        .collect()
}

pub(crate) fn jwks_current(input: &CheckInput<'_>) -> Observations {
    shown_keys(input).into_iter().chain(super::published::lacks_configured(input)).collect()
}

fn shown_keys(input: &CheckInput<'_>) -> Observations {
    valid_jwks(input)
        .filter_map(|(fetched, _)| {
            let seen = match fetched.expected.as_ref()?.mismatch() {
                None => {
                    let seen = "shows the keys that this configuration publishes";
                    return Some(Observation::pass(&fetched.url, seen));
                }
                Some(JwksMismatch::Content(kids)) => {
                    let kids = printable_kids(&kids);
                    format!("shows another key or certificate as {kids} than this configuration publishes")
                }
                Some(JwksMismatch::Kids { shown, expected }) => {
                    let (shown, expected) = (printable_kids(&shown), printable_kids(&expected));
                    format!("shows other keys ({shown}) than this configuration publishes ({expected})")
                }
            };
            Some(Observation::fail(&fetched.url, seen))
        })
        .collect()
}

fn printable_kids(kids: &[&str]) -> String {
    kids.iter().map(|kid| escape_and_truncate(kid)).collect::<Vec<_>>().join(", ")
}

pub(crate) fn clock(input: &CheckInput<'_>) -> Observations {
    let of_jwks = input
        .fetched()
        .map(|fetched| (fetched.url.as_str(), fetched.reply.as_ref().ok().and_then(|reply| reply.skew)));
    let of_exchanges = input.probe_results.iter().flatten().filter_map(|answer| match answer {
        ProbeResult::Exchange { profile, skew, .. } => Some((profile.as_str(), *skew)),
        ProbeResult::Jwks(_) | ProbeResult::IssuerKeys(_) => None,
    });
    of_jwks
        .chain(of_exchanges)
        .map(|(about, skew)| {
            let Some(skew) = skew else {
                return Observation::skipped(about, "no answer came that says what the time is there");
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

/// The beginning of the labels of profiles that exchange tokens at each of the two endpoints.
const MESSAGING_PROFILES: &str = "identity.";
const OAUTH_PROFILES: &str = "oauth.";

/// Each constant: refusals that a check other than `exchange` reports, by endpoint and by the ids of their meanings.
const AUTH_SCHEME_REFUSALS: (&str, &[&str]) = (MESSAGING_PROFILES, &[id::NO_AUTH_SCHEMES]);
const AUTH_MODE_REFUSALS: (&str, &[&str]) = (MESSAGING_PROFILES, &[id::AUTH_MODE]);
const DEPLOYMENT_REFUSALS: (&str, &[&str]) = (MESSAGING_PROFILES, &[id::DEPLOYMENT_UNKNOWN]);
const AUDIENCE_REFUSALS: (&str, &[&str]) = (OAUTH_PROFILES, &[id::AUDIENCE_REFUSED]);
const APP_NOT_FOUND_REFUSALS: (&str, &[&str]) = (OAUTH_PROFILES, &[id::APP_NOT_FOUND]);
const APPROVAL_REFUSALS: (&str, &[&str]) = (OAUTH_PROFILES, &[id::USER_NOT_APPROVED, id::APP_NOT_ASSIGNED]);
const PROPAGATION_REFUSALS: (&str, &[&str]) = (OAUTH_PROFILES, &[id::CLIENT_UNKNOWN]);
const CERTIFICATE_REFUSALS: (&str, &[&str]) = (OAUTH_PROFILES, &[id::ASSERTION_INVALID]);
const REFUSALS_OF_OTHER_CHECKS: &[(&str, &[&str])] = &[
    AUTH_SCHEME_REFUSALS,
    AUTH_MODE_REFUSALS,
    DEPLOYMENT_REFUSALS,
    AUDIENCE_REFUSALS,
    APP_NOT_FOUND_REFUSALS,
    APPROVAL_REFUSALS,
    PROPAGATION_REFUSALS,
    CERTIFICATE_REFUSALS,
];

/// The id of the meaning of a refusal.
const fn meaning_id(error: &ExchangeError) -> Option<&'static str> {
    match error {
        ExchangeError::Rejected { diagnosis, .. } => Some(diagnosis.id),
        _ => None,
    }
}

fn is_one_of(error: &ExchangeError, ids: &[&str]) -> bool {
    meaning_id(error).is_some_and(|id| ids.contains(&id))
}

/// Reports which exchanges of an endpoint failed with one kind of refusal.
fn observe_refusals(
    input: &CheckInput<'_>,
    (endpoint, ids): (&'static str, &'static [&'static str]),
) -> Observations {
    exchange_results(input)
        .filter(|(profile, _)| profile.starts_with(endpoint))
        .map(|(profile, result)| match result {
            Ok(_) => Observation::pass(profile, "Salesforce doesn't say so: the exchange works"),
            Err(error) if is_one_of(error, ids) => refusal_finding(profile, error),
            Err(_) => Observation::skipped(profile, "the exchange failed for another reason"),
        })
        .collect()
}

/// The failure with Salesforce's own words, and the cause and fix that `exchange::errors` has for them.
fn refusal_finding(profile: &str, error: &ExchangeError) -> Observation {
    match error {
        ExchangeError::Rejected { upstream, diagnosis, request_summary, .. } => {
            let words = [&upstream.error, &upstream.error_description].into_iter().flatten();
            let words = words.map(|words| escape_and_truncate(words)).collect::<Vec<_>>().join(": ");
            let seen = format!(
                "Salesforce answers {} ({words}), {request_summary}: {}",
                upstream.status, diagnosis.cause
            );
            Observation::fail(profile, seen).with_advice(diagnosis.fix)
        }
        ExchangeError::Unverified { diagnosis } => {
            Observation::fail(profile, diagnosis.cause).with_advice(diagnosis.fix)
        }
        other => Observation::fail(profile, other.to_string()),
    }
}

pub(crate) fn auth_schemes(input: &CheckInput<'_>) -> Observations {
    observe_refusals(input, AUTH_SCHEME_REFUSALS)
}

pub(crate) fn verification_mode(input: &CheckInput<'_>) -> Observations {
    observe_refusals(input, AUTH_MODE_REFUSALS)
}

pub(super) fn deployment(input: &CheckInput<'_>) -> Observations {
    observe_refusals(input, DEPLOYMENT_REFUSALS)
}

pub(super) fn audience(input: &CheckInput<'_>) -> Observations {
    observe_refusals(input, AUDIENCE_REFUSALS)
}

pub(super) fn app_not_found(input: &CheckInput<'_>) -> Observations {
    observe_refusals(input, APP_NOT_FOUND_REFUSALS)
}

pub(crate) fn preauthorized(input: &CheckInput<'_>) -> Observations {
    observe_refusals(input, APPROVAL_REFUSALS)
}

pub(crate) fn app_propagation(input: &CheckInput<'_>) -> Observations {
    observe_refusals(input, PROPAGATION_REFUSALS)
}

pub(crate) fn app_certificate_of_key(input: &CheckInput<'_>) -> Observations {
    observe_refusals(input, CERTIFICATE_REFUSALS)
}

pub(crate) fn exchange(input: &CheckInput<'_>) -> Observations {
    let asked = exchange_results(input).map(|(profile, result)| match result {
        Ok(seen) => Observation::pass(profile, seen.clone()),
        Err(error) if REFUSALS_OF_OTHER_CHECKS.iter().any(|(_, ids)| is_one_of(error, ids)) => {
            Observation::skipped(profile, "Salesforce's refusal is another check's finding")
        }
        Err(error) => refusal_finding(profile, error),
    });
    asked.chain(unprobed_profiles(input)).collect()
}

/// Reports the identity profiles that `--online` can't probe, or warns that it probed nothing.
fn unprobed_profiles(input: &CheckInput<'_>) -> Observations {
    let Some(probe_results) = &input.probe_results else { return Vec::new() };
    if probe_results.is_empty() {
        let seen = "nothing was asked: no configuration loads that has `url` in [server.public], an \
                    [identity.NAME.messaging], an [oauth.NAME], or an [issuers.NAME] with keys to fetch";
        return vec![
            Observation::warn("--online", seen)
                .with_advice("name the configuration by --config, and set what the message names"),
        ];
    }
    let silent = input.configured.identity().filter(|profile| profile.messaging.is_none());
    silent
        .map(|profile| {
            let reason = "it has no [identity.NAME.messaging] section, so nobody could be asked";
            Observation::skipped(format!("identity.{}", profile.name), reason)
        })
        .collect()
}
