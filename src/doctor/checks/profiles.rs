//! Checks of the configuration: profiles, limits and addresses.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use super::{assertions, audience, online};
use crate::config::salesforce::{self, HostKind, SalesforceHost};
use crate::config::{OauthConfig, Problem, RateLimit, WarningCode};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::formatting::shown_user_name;
use crate::doctor::input::CheckInput;

/// Salesforce's limits (Salesforce Help, "Monitor login activity"; "Messaging for In-App and Web rate limits").
const MAX_LOGINS_PER_HOUR: usize = 3_600;
const MAX_MESSAGING_PER_MINUTE: usize = 200;
/// A page in a reload loop was seen to send forty requests a second. A limit at or above that rate doesn't stop it.
const RUNAWAY_REQUESTS_PER_MINUTE: u128 = 40 * 60;

/// Configuration fields whose problems another check than `configuration` reports.
const FIELDS_OF_OTHER_CHECKS: &[&str] =
    &[".messaging.scrt_url", ".messaging.org_id", ".messaging.es_developer_name"];

fn problems_of<'a>(input: &'a CheckInput<'_>, field: &'static str) -> impl Iterator<Item = Observation> + 'a {
    let problems = input.configured.problems.iter().filter(move |problem| problem.field.ends_with(field));
    problems.map(problem_finding)
}

fn problem_finding(problem: &Problem) -> Observation {
    let about = if problem.field.is_empty() { problem.source.clone() } else { problem.field.clone() };
    let seen = if problem.field.is_empty() || problem.source.is_empty() {
        problem.message.clone()
    } else {
        format!("{}: {}", problem.source, problem.message)
    };
    Observation::fail(about, seen)
}

pub(crate) fn configuration(input: &CheckInput<'_>) -> Observations {
    let problems = input
        .configured
        .problems
        .iter()
        .filter(|problem| !FIELDS_OF_OTHER_CHECKS.iter().any(|field| problem.field.ends_with(field)));
    let found: Observations = problems.map(problem_finding).collect();
    if found.is_empty() && input.configured.config.is_some() {
        return vec![Observation::pass("configuration", "loads, with every file that it names")];
    }
    found
}

/// Warnings that another check than `configuration-warnings` reports.
const CODES_OF_OTHER_CHECKS: &[WarningCode] = &[
    WarningCode::Audience,
    WarningCode::CertificateDates,
    WarningCode::ConsumerKey,
    WarningCode::IssuerSlash,
    WarningCode::NoKeySigns,
    WarningCode::OneKeyForTwoKinds,
    WarningCode::ScrtUrl,
    WarningCode::StoreUnavailable,
    WarningCode::TokenUrl,
];

pub(crate) fn configuration_warnings(input: &CheckInput<'_>) -> Observations {
    let has_own_check =
        |code: WarningCode| CODES_OF_OTHER_CHECKS.contains(&code) && input.configured.config.is_some();
    let warnings: Observations = input
        .configured
        .warnings
        .iter()
        .filter(|warning| !warning.code.is_some_and(has_own_check))
        .map(|warning| {
            // Clients reject such a certificate, so they can't use the listener.
            let is_fatal = warning.code == Some(WarningCode::ListenerCertificate);
            let outcome = if is_fatal { Observation::fail } else { Observation::warn };
            outcome(warning.field.clone(), format!("{}: {}", warning.source, warning.message))
        })
        .collect();
    if warnings.is_empty() && input.configured.config.is_some() {
        return vec![Observation::pass("configuration", "holds nothing odd")];
    }
    warnings
}

pub(crate) fn scrt_url(input: &CheckInput<'_>) -> Observations {
    let profiles = input.configured.messaging().map(|(about, messaging)| {
        let (host, judged) = salesforce::check_scrt_url(messaging.scrt_url.url());
        let faults: Vec<String> =
            judged.errors.iter().map(|fault| format!("`scrt_url` is on {}: {fault}", host.name)).collect();
        let stand_in = if host.kind == HostKind::Loopback { "a stand-in on " } else { "on " };
        Observation::from_faults(about, &faults, format!("`scrt_url` is {stand_in}{}", host.name))
    });
    profiles.chain(problems_of(input, FIELDS_OF_OTHER_CHECKS[0])).collect()
}

pub(crate) fn token_url(input: &CheckInput<'_>) -> Observations {
    input
        .configured
        .oauth()
        .map(|profile| {
            let about = format!("oauth.{}", profile.name);
            let (host, judged) = salesforce::check_token_url(profile.token_url.url());
            // A fault of the host that `audience` shares is reported by the check `audience`.
            let derived = profile.audience.url().host_str() == profile.token_url.url().host_str();
            let (_, at_audience) = salesforce::check_audience(profile.audience.as_str());
            let own = |said: &[String], at_audience: &[String]| -> Vec<String> {
                let own = said.iter().filter(|said| !(derived && at_audience.contains(said)));
                own.map(|said| format!("`token_url` {}: {said}", profile.token_url.as_str())).collect()
            };
            let faults = own(&judged.errors, &at_audience.errors);
            let doubts = own(&judged.warnings, &at_audience.warnings);
            if faults.is_empty() && !doubts.is_empty() {
                return Observation::warn(about, doubts.join("; "));
            }
            Observation::from_faults(about, &faults, format!("the token endpoint is at {}", host.name))
        })
        .collect()
}

pub(crate) fn org_id(input: &CheckInput<'_>) -> Observations {
    let profiles = input.configured.messaging();
    let fine = profiles.map(|(about, messaging)| {
        let id = messaging.org_id.as_str();
        if salesforce::has_wrong_id_checksum(id) {
            let seen = format!(
                "`org_id` is {id}, whose last three characters don't fit the others: a typing error?"
            );
            return Observation::warn(about, seen);
        }
        Observation::pass(about, format!("`org_id` is {id}"))
    });
    fine.chain(problems_of(input, FIELDS_OF_OTHER_CHECKS[1])).collect()
}

pub(crate) fn deployment(input: &CheckInput<'_>) -> Observations {
    let profiles = input.configured.messaging();
    let fine = profiles.map(|(about, messaging)| {
        Observation::pass(
            about,
            format!("`es_developer_name` is the API name {}", messaging.es_developer_name),
        )
    });
    fine.chain(problems_of(input, FIELDS_OF_OTHER_CHECKS[2])).chain(online::deployment(input)).collect()
}

pub(crate) fn audience(input: &CheckInput<'_>) -> Observations {
    let profiles = input.configured.oauth().map(|profile| {
        let host = SalesforceHost::from_url(profile.token_url.url());
        let about = format!("oauth.{}", profile.name);
        audience::check_audience(about, profile.audience.as_str(), Some(&host), Some(&profile.username))
    });
    profiles.chain(assertions::audience(input)).chain(online::audience(input)).collect()
}

pub(crate) fn audience_host(input: &CheckInput<'_>) -> Observations {
    let found = input.configured.oauth().map(|profile| {
        let about = format!("oauth.{}", profile.name);
        let (audience, asked) = (
            SalesforceHost::from_url(profile.audience.url()),
            SalesforceHost::from_url(profile.token_url.url()),
        );
        if salesforce::audience_mismatch(&audience, &asked).is_some() {
            return Observation::skipped(about, "its `audience` and host don't fit each other");
        }
        let general = |host: &SalesforceHost| matches!(host.kind, HostKind::Login | HostKind::Test);
        if general(&audience) || general(&asked) {
            let seen = format!(
                "asks {} with `audience` {}, as connected apps may; an External Client App isn't found there",
                asked.name,
                profile.audience.as_str()
            );
            return Observation::warn(about, seen);
        }
        let name = &asked.name;
        match asked.kind {
            HostKind::MyDomain => Observation::pass(about, format!("asks the org's own host, {name}")),
            HostKind::Site => Observation::pass(about, format!("asks {name}, a site of the org")),
            HostKind::Loopback => Observation::pass(about, format!("asks a stand-in on {name}")),
            HostKind::ThirdParty => {
                let reason = format!("whether {name} is a site of the org can't be told by its name");
                Observation::skipped(about, reason)
            }
            _ => Observation::skipped(about, format!("nobody logs in at {name}")),
        }
    });
    found.chain(online::app_not_found(input)).collect()
}

pub(crate) fn username(input: &CheckInput<'_>) -> Observations {
    let profiles = input.configured.oauth().map(|profile| {
        let about = format!("oauth.{}", profile.name);
        let name = &profile.username;
        let shown = shown_user_name(name);
        let faults: Vec<String> = assertions::user_name_faults(name)
            .into_iter()
            .map(|fault| format!("`username` is {shown}: {fault}"))
            .collect();
        match sandbox_of(profile) {
            Some(sandbox) if faults.is_empty() && !name.to_lowercase().ends_with(&format!(".{sandbox}")) => {
                let seen = format!("`username` is {shown}, without the suffix `.{sandbox}` of the sandbox");
                Observation::warn(about, seen)
            }
            _ => Observation::from_faults(about, &faults, format!("`username` is {shown}")),
        }
    });
    profiles.chain(assertions::username(input)).collect()
}

fn sandbox_of(profile: &OauthConfig) -> Option<String> {
    SalesforceHost::from_url(profile.token_url.url()).sandbox_name.map(|name| name.to_lowercase())
}

pub(crate) fn limits(input: &CheckInput<'_>) -> Observations {
    let Some(config) = input.configured.config else { return Vec::new() };
    // User names are case-insensitive. The first 15 characters identify an org; the other three are a checksum of their case.
    let mut logins: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for profile in config.oauth.values() {
        let user = logins.entry(profile.username.to_lowercase()).or_default();
        user.0 += profile.logins_per_hour;
        user.1.push(format!("oauth.{}", profile.name));
    }
    let mut requests: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for (about, messaging) in input.configured.messaging() {
        let org = requests.entry(messaging.org_id.as_str().get(..15).unwrap_or_default()).or_default();
        org.0 += messaging.requests_per_minute;
        org.1.push(about);
    }
    let check_sum = |(sum, profiles): (usize, Vec<String>), limit: usize, what: &str| {
        let about = profiles.join(" + ");
        let seen = format!("may make {sum} {what}, of Salesforce's {limit}; each replica counts for itself");
        if sum > limit { Observation::fail(about, seen) } else { Observation::pass(about, seen) }
    };
    let logins =
        logins.into_values().map(|user| check_sum(user, MAX_LOGINS_PER_HOUR, "logins an hour for one user"));
    let requests = requests
        .into_values()
        .map(|org| check_sum(org, MAX_MESSAGING_PER_MINUTE, "access-token requests a minute"));
    logins.chain(requests).collect()
}

/// The requests a minute that a rate limit allows in the long run.
fn sustained_requests_per_minute(pace: RateLimit) -> u128 {
    u128::from(pace.requests) * Duration::from_mins(1).as_nanos() / pace.window.as_nanos().max(1)
}

pub(crate) fn runaway_page(input: &CheckInput<'_>) -> Observations {
    let Some(config) = input.configured.config else { return Vec::new() };
    let pace = config.server.limits.remint_rate;
    let minute = sustained_requests_per_minute(pace);
    let about = "server.limits";
    vec![if minute >= RUNAWAY_REQUESTS_PER_MINUTE {
        let seen = format!(
            "one user's tokens may be asked for {minute} times a minute: a page in a loop isn't stopped"
        );
        Observation::warn(about, seen)
    } else {
        let seen = format!(
            "one user's tokens are minted {} times at once and {minute} times a minute at most",
            pace.burst
        );
        Observation::pass(about, seen)
    }]
}

pub(crate) fn public_url(input: &CheckInput<'_>) -> Observations {
    let Some(config) = input.configured.config else { return Vec::new() };
    if config.identity.is_empty() {
        return Vec::new();
    }
    let Some(url) = config.server.public.as_ref().and_then(|public| public.url.as_ref()) else {
        return Vec::new();
    };
    let about = "server.public.url";
    let parsed = url.url();
    vec![match parsed.port() {
        _ if !may_be_public_host(parsed) => {
            Observation::warn(about, format!("is {}, which Salesforce can't reach", url.as_str()))
        }
        Some(port) => Observation::warn(
            about,
            format!(
                "names port {port}; no documentation says that Salesforce connects to a port other than 443"
            ),
        ),
        None => Observation::pass(about, format!("is {}", url.as_str())),
    }]
}

/// Whether a host may be reachable from the internet: no private (RFC 1918, RFC 4193), loopback, link-local or unspecified
/// address, no name without a dot, and no top-level domain that usually only a private network resolves.
fn may_be_public_host(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => {
            !(address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_unspecified())
        }
        Some(url::Host::Ipv6(address)) => {
            !(address.is_loopback()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || address.is_unspecified())
        }
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            let inner = ["localhost", "local", "internal", "lan", "home", "corp", "test"];
            name.rsplit_once('.').is_some_and(|(_, last)| !inner.contains(&last))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_counted_by_the_minute_whatever_its_window() {
        for (requests, milliseconds, minute) in
            [(120, 60_000, 120), (100, 100, 60_000), (100, 1_500, 4_000), (1, 90_000, 0), (90, 90_000, 60)]
        {
            let pace = RateLimit { requests, window: Duration::from_millis(milliseconds), burst: 1 };
            assert_eq!(sustained_requests_per_minute(pace), minute, "{requests} in {milliseconds} ms");
        }
    }
}
