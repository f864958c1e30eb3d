//! The configuration: profiles, limits, and addresses.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use super::{assertions, audience, online};
use crate::config::salesforce::{self, Host, HostKind};
use crate::config::{Code, Oauth, Pace, Problem};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::known::Known;

/// Salesforce's limits (Salesforce Help, "Monitor login activity"; "Messaging for In-App and Web rate limits").
const LOGINS_PER_HOUR: usize = 3_600;
const MESSAGING_PER_MINUTE: usize = 200;
/// A page that asks without end was seen to ask forty times a second; a guard above that guards nothing.
const RUNAWAY_PER_MINUTE: u128 = 40 * 60;

/// Fields whose problems are a check's own finding.
const OWN: &[&str] = &[".messaging.scrt_url", ".messaging.org_id", ".messaging.es_developer_name"];

fn refused<'a>(known: &'a Known<'_>, field: &'static str) -> impl Iterator<Item = Observation> + 'a {
    let problems = known.configured.problems.iter().filter(move |problem| problem.field.ends_with(field));
    problems.map(refusal)
}

fn refusal(problem: &Problem) -> Observation {
    let about = if problem.field.is_empty() { problem.source.clone() } else { problem.field.clone() };
    let seen = if problem.field.is_empty() || problem.source.is_empty() {
        problem.message.clone()
    } else {
        format!("{}: {}", problem.source, problem.message)
    };
    Observation::fail(about, seen)
}

pub fn configuration(known: &Known<'_>) -> Observations {
    let problems = known
        .configured
        .problems
        .iter()
        .filter(|problem| !OWN.iter().any(|own| problem.field.ends_with(own)));
    let found: Observations = problems.map(refusal).collect();
    if found.is_empty() && known.configured.config.is_some() {
        return vec![Observation::pass("configuration", "loads, with every file that it names")];
    }
    found
}

/// Warnings that are a check's own finding.
const ELSEWHERE: &[Code] = &[
    Code::Audience,
    Code::CertificateDates,
    Code::ConsumerKey,
    Code::IssuerSlash,
    Code::NoKeySigns,
    Code::OneKeyForTwoKinds,
    Code::ScrtUrl,
    Code::TokenUrl,
];

pub fn warnings(known: &Known<'_>) -> Observations {
    let is_told_elsewhere = |code: Code| ELSEWHERE.contains(&code) && known.configured.config.is_some();
    let warnings: Observations = known
        .configured
        .warnings
        .iter()
        .filter(|warning| !warning.code.is_some_and(is_told_elsewhere))
        .map(|warning| {
            // Nobody gets through to what it stands before.
            let is_fatal = warning.code == Some(Code::ListenerCertificate);
            let outcome = if is_fatal { Observation::fail } else { Observation::warn };
            outcome(warning.field.clone(), format!("{}: {}", warning.source, warning.message))
        })
        .collect();
    if warnings.is_empty() && known.configured.config.is_some() {
        return vec![Observation::pass("configuration", "holds nothing odd")];
    }
    warnings
}

pub fn scrt_url(known: &Known<'_>) -> Observations {
    let profiles = known.configured.messaging().map(|(about, messaging)| {
        let (host, judged) = salesforce::scrt_url(messaging.scrt_url.url());
        let faults: Vec<String> =
            judged.faults.iter().map(|fault| format!("`scrt_url` is on {}: {fault}", host.name)).collect();
        let stand_in = if host.kind == HostKind::Loopback { "a stand-in on " } else { "on " };
        Observation::of_faults(about, &faults, format!("`scrt_url` is {stand_in}{}", host.name))
    });
    profiles.chain(refused(known, OWN[0])).collect()
}

pub fn token_url(known: &Known<'_>) -> Observations {
    known
        .configured
        .oauth()
        .map(|profile| {
            let about = format!("oauth.{}", profile.name);
            let (host, judged) = salesforce::token_url(profile.token_url.url());
            // A host that `audience` names too is that one's fault.
            let derived = profile.audience.url().host_str() == profile.token_url.url().host_str();
            let (_, at_audience) = salesforce::audience(profile.audience.as_str());
            let own = |said: &[String], at_audience: &[String]| -> Vec<String> {
                let own = said.iter().filter(|said| !(derived && at_audience.contains(said)));
                own.map(|said| format!("`token_url` {}: {said}", profile.token_url.as_str())).collect()
            };
            let faults = own(&judged.faults, &at_audience.faults);
            let doubts = own(&judged.doubts, &at_audience.doubts);
            if faults.is_empty() && !doubts.is_empty() {
                return Observation::warn(about, doubts.join("; "));
            }
            Observation::of_faults(about, &faults, format!("the token endpoint is at {}", host.name))
        })
        .collect()
}

pub fn org_id(known: &Known<'_>) -> Observations {
    let profiles = known.configured.messaging();
    let fine = profiles.map(|(about, messaging)| {
        let id = messaging.org_id.as_str();
        if salesforce::has_wrong_suffix(id) {
            let seen = format!(
                "`org_id` is {id}, whose last three characters don't fit the others: a typing error?"
            );
            return Observation::warn(about, seen);
        }
        Observation::pass(about, format!("`org_id` is {id}"))
    });
    fine.chain(refused(known, OWN[1])).collect()
}

pub fn deployment(known: &Known<'_>) -> Observations {
    let profiles = known.configured.messaging();
    let fine = profiles.map(|(about, messaging)| {
        Observation::pass(
            about,
            format!("`es_developer_name` is the API name {}", messaging.es_developer_name),
        )
    });
    fine.chain(refused(known, OWN[2])).chain(online::deployment(known)).collect()
}

pub fn audience(known: &Known<'_>) -> Observations {
    let profiles = known.configured.oauth().map(|profile| {
        let host = Host::of(profile.token_url.url());
        let about = format!("oauth.{}", profile.name);
        audience::judged(about, profile.audience.as_str(), Some(&host), Some(&profile.username))
    });
    profiles.chain(assertions::audience(known)).chain(online::audience(known)).collect()
}

pub fn audience_host(known: &Known<'_>) -> Observations {
    let found = known.configured.oauth().map(|profile| {
        let about = format!("oauth.{}", profile.name);
        let (audience, asked) = (Host::of(profile.audience.url()), Host::of(profile.token_url.url()));
        if salesforce::mismatch(&audience, &asked).is_some() {
            return Observation::not_looked_at(about, "its `audience` and host don't fit each other");
        }
        let general = |host: &Host| matches!(host.kind, HostKind::Login | HostKind::Test);
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
            HostKind::Foreign => {
                let reason = format!("whether {name} is a site of the org can't be told by its name");
                Observation::not_looked_at(about, reason)
            }
            _ => Observation::not_looked_at(about, format!("nobody logs in at {name}")),
        }
    });
    found.chain(online::app_not_found(known)).collect()
}

pub fn username(known: &Known<'_>) -> Observations {
    let profiles = known.configured.oauth().map(|profile| {
        let about = format!("oauth.{}", profile.name);
        let name = &profile.username;
        let faults: Vec<String> = assertions::user_name_faults(name)
            .into_iter()
            .map(|fault| format!("`username` is {name}: {fault}"))
            .collect();
        match sandbox_of(profile) {
            Some(sandbox) if faults.is_empty() && !name.to_lowercase().ends_with(&format!(".{sandbox}")) => {
                let seen = format!("`username` is {name}, without the suffix `.{sandbox}` of the sandbox");
                Observation::warn(about, seen)
            }
            _ => Observation::of_faults(about, &faults, format!("`username` is {name}")),
        }
    });
    profiles.chain(assertions::username(known)).collect()
}

fn sandbox_of(profile: &Oauth) -> Option<String> {
    Host::of(profile.token_url.url()).sandbox.map(|sandbox| sandbox.to_lowercase())
}

pub fn limits(known: &Known<'_>) -> Observations {
    let Some(config) = known.configured.config else { return Vec::new() };
    // Salesforce tells no upper from lower case in user names, and an id's first 15 characters are the id.
    let mut logins: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for profile in config.oauth.values() {
        let user = logins.entry(profile.username.to_lowercase()).or_default();
        user.0 += profile.logins_per_hour;
        user.1.push(format!("oauth.{}", profile.name));
    }
    let mut requests: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for (about, messaging) in known.configured.messaging() {
        let org = requests.entry(messaging.org_id.as_str().get(..15).unwrap_or_default()).or_default();
        org.0 += messaging.requests_per_minute;
        org.1.push(about);
    }
    let judged = |(sum, profiles): (usize, Vec<String>), limit: usize, what: &str| {
        let about = profiles.join(" + ");
        let seen = format!("may make {sum} {what}, of Salesforce's {limit}; each replica counts for itself");
        if sum > limit { Observation::fail(about, seen) } else { Observation::pass(about, seen) }
    };
    let logins =
        logins.into_values().map(|user| judged(user, LOGINS_PER_HOUR, "logins an hour for one user"));
    let requests =
        requests.into_values().map(|org| judged(org, MESSAGING_PER_MINUTE, "access-token requests a minute"));
    logins.chain(requests).collect()
}

/// How many requests a minute a pace lets through in the long run.
fn per_minute(pace: Pace) -> u128 {
    u128::from(pace.requests) * Duration::from_mins(1).as_nanos() / pace.window.as_nanos().max(1)
}

pub fn runaway(known: &Known<'_>) -> Observations {
    let Some(config) = known.configured.config else { return Vec::new() };
    let pace = config.server.limits.remints;
    let minute = per_minute(pace);
    let about = "server.limits";
    vec![if minute >= RUNAWAY_PER_MINUTE {
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

pub fn public_url(known: &Known<'_>) -> Observations {
    let Some(config) = known.configured.config else { return Vec::new() };
    if config.identity.is_empty() {
        return Vec::new();
    }
    let Some(url) = config.server.public.as_ref().and_then(|public| public.url.as_ref()) else {
        return Vec::new();
    };
    let about = "server.public.url";
    let parsed = url.url();
    vec![match parsed.port() {
        _ if !is_reachable(parsed) => {
            Observation::warn(about, format!("is {}, which Salesforce can't reach", url.as_str()))
        }
        Some(port) => Observation::warn(
            about,
            format!("names port {port}; that Salesforce asks any but 443 is written nowhere"),
        ),
        None => Observation::pass(about, format!("is {}", url.as_str())),
    }]
}

/// Whether a host may be reached from outside: no address of a private network (RFC 1918, RFC 4193), and no name that only such a
/// network has.
fn is_reachable(url: &Url) -> bool {
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
            let pace = Pace { requests, window: Duration::from_millis(milliseconds), burst: 1 };
            assert_eq!(per_minute(pace), minute, "{requests} in {milliseconds} ms");
        }
    }
}
