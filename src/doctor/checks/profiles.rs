//! The configuration: profiles, limits, and addresses.

use std::collections::BTreeMap;

use url::Url;

use super::{Found, tokens};
use crate::config::{Config, Oauth, Problem};
use crate::doctor::{Known, Observation};

/// Salesforce's limits (Salesforce Help, "Monitor login activity"; "Messaging for In-App and Web rate limits").
const LOGINS_PER_HOUR: usize = 3_600;
const MESSAGING_PER_MINUTE: usize = 200;
/// A page that asks without end was seen to ask forty times a second; a guard above that guards nothing.
const RUNAWAY_PER_MINUTE: u64 = 40 * 60;

/// Fields whose problems are a check's own finding.
const OWN: [&str; 3] = [".messaging.scrt_url", ".messaging.org_id", ".messaging.es_developer_name"];

fn refused<'a>(known: &'a Known<'_>, field: &'static str) -> impl Iterator<Item = Observation> + 'a {
    let problems = known.problems.iter().filter(move |problem| problem.field.ends_with(field));
    problems.map(refusal)
}

fn refusal(problem: &Problem) -> Observation {
    let about = if problem.field.is_empty() { problem.source.clone() } else { problem.field.clone() };
    Observation::fail(about, problem.message.clone())
}

pub fn configuration(known: &Known<'_>) -> Found {
    let problems =
        known.problems.iter().filter(|problem| !OWN.iter().any(|own| problem.field.ends_with(own)));
    let found: Found = problems.map(refusal).collect();
    if found.is_empty() && known.config.is_some() {
        return vec![Observation::pass("configuration", "loads, with every file that it names")];
    }
    found
}

/// What other checks don't say in their own words.
pub fn warnings(known: &Known<'_>) -> Found {
    let elsewhere = [
        "runs out ",
        "isn't valid before",
        "signed by one key",
        "serves both",
        "ends with a slash",
        "no key signs",
    ];
    known
        .warnings
        .iter()
        .filter(|warning| !elsewhere.iter().any(|words| warning.message.contains(words)))
        .map(|warning| Observation::warn(&warning.field, format!("{}: {}", warning.source, warning.message)))
        .collect()
}

fn messaging(config: &Config) -> impl Iterator<Item = (String, &crate::config::Messaging)> {
    let profiles = config.identity.values();
    profiles.filter_map(|profile| {
        Some((format!("identity.{}.messaging", profile.name), profile.messaging.as_ref()?))
    })
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

fn is_loopback(url: &Url) -> bool {
    url.scheme() == "http"
}

pub fn scrt_url(known: &Known<'_>) -> Found {
    let profiles = known.config.into_iter().flat_map(messaging).map(|(about, messaging)| {
        let url = messaging.scrt_url.url();
        let host = host(url);
        match () {
            () if is_loopback(url) => Observation::pass(about, format!("`scrt_url` is a stand-in on {host}")),
            () if host.ends_with(".my.salesforce-scrt.com") => {
                Observation::pass(about, format!("`scrt_url` is on {host}"))
            }
            () => Observation::fail(
                about,
                format!("`scrt_url` is on {host}, which isn't …my.salesforce-scrt.com"),
            ),
        }
    });
    profiles.chain(refused(known, OWN[0])).collect()
}

pub fn org_id(known: &Known<'_>) -> Found {
    let profiles = known.config.into_iter().flat_map(messaging);
    let fine = profiles.map(|(about, messaging)| {
        Observation::pass(about, format!("`org_id` is {}", messaging.org_id.as_str()))
    });
    fine.chain(refused(known, OWN[1])).collect()
}

pub fn deployment(known: &Known<'_>) -> Found {
    let profiles = known.config.into_iter().flat_map(messaging);
    let fine = profiles.map(|(about, messaging)| {
        Observation::pass(
            about,
            format!("`es_developer_name` is the API name {}", messaging.es_developer_name),
        )
    });
    fine.chain(refused(known, OWN[2])).chain(super::online::deployment(known)).collect()
}

/// Whether that host or user name is a sandbox's.
fn is_sandbox(url: &Url) -> bool {
    let host = host(url);
    host == "test.salesforce.com" || host.contains(".sandbox.") || host.contains("--")
}

const LOGIN: &str = "login.salesforce.com";
const TEST: &str = "test.salesforce.com";

pub fn audience(known: &Known<'_>) -> Found {
    let profiles = known.config.into_iter().flat_map(|config| config.oauth.values());
    let profiles = profiles.map(|profile| {
        let about = format!("oauth.{}", profile.name);
        let (aud, host) = (profile.audience.as_str(), profile.token_url.url());
        judged_audience(about, aud, Some(host), Some(&profile.username))
    });
    profiles.chain(tokens::audience(known)).chain(super::online::audience(known)).collect()
}

/// The `aud` of an assertion, beside the host that it goes to and the user it names.
pub(super) fn judged_audience(
    about: String,
    aud: &str,
    token_url: Option<&Url>,
    username: Option<&str>,
) -> Observation {
    let asked = token_url.map(|url| format!(", asked at {}", host(url))).unwrap_or_default();
    let pair = format!("`audience` {aud}{asked}");
    let Ok(url) = Url::parse(aud) else {
        return Observation::fail(about, format!("{pair}: no URL"));
    };
    let sandbox = token_url.is_some_and(is_sandbox);
    match () {
        () if aud.ends_with('/') => Observation::fail(about, format!("{pair}: a slash at the end")),
        () if url.path() != "/" && url.path().contains("/services/") => Observation::fail(
            about,
            format!("{pair}: the address of the token endpoint, in place of the host"),
        ),
        () if host(&url) == LOGIN && sandbox => {
            Observation::fail(about, format!("{pair}: a sandbox, with production's audience"))
        }
        () if host(&url) == TEST && token_url.is_some_and(|url| host(url) == LOGIN) => {
            Observation::fail(about, format!("{pair}: production, with a sandbox's audience"))
        }
        () if username.is_some_and(|name| sandbox_suffix(name).is_some())
            && host(&url) == LOGIN
            && !sandbox =>
        {
            let name = username.unwrap_or_default();
            Observation::warn(about, format!("{pair}, for {name}, which looks like a sandbox's user"))
                .advising("of a sandbox: https://test.salesforce.com, or the sandbox's My Domain URL")
        }
        () => Observation::pass(about, pair),
    }
}

/// What is behind a top-level domain, as `uat` in `me@acme.com.uat`: a sandbox's name.
fn sandbox_suffix(username: &str) -> Option<&str> {
    let (_, domain) = username.rsplit_once('@')?;
    let (rest, last) = domain.rsplit_once('.')?;
    let (_, top) = rest.rsplit_once('.')?;
    (matches!(top, "com" | "org" | "net" | "io" | "eu" | "de" | "fr" | "uk") && last.len() > 2)
        .then_some(last)
}

pub fn audience_host(known: &Known<'_>) -> Found {
    let found = known.config.into_iter().flat_map(|config| config.oauth.values()).filter_map(|profile| {
        let about = format!("oauth.{}", profile.name);
        let general = |url: &Url| matches!(host(url), LOGIN | TEST);
        let audience = profile.audience.url();
        // A sandbox with production's audience has a finding of its own.
        if host(audience) == LOGIN && is_sandbox(profile.token_url.url()) {
            return None;
        }
        Some(if general(audience) || general(profile.token_url.url()) {
            let seen = format!(
                "asks {} with `audience` {}, as connected apps may; an External Client App isn't found there",
                host(profile.token_url.url()),
                profile.audience.as_str()
            );
            Observation::warn(about, seen)
        } else {
            Observation::pass(about, "asks the org's own host")
        })
    });
    found.chain(super::online::app_not_found(known)).collect()
}

pub fn username(known: &Known<'_>) -> Found {
    let profiles = known.config.into_iter().flat_map(|config| config.oauth.values());
    profiles
        .map(|profile| {
            let about = format!("oauth.{}", profile.name);
            let name = &profile.username;
            match sandbox_of(profile) {
                _ if !name.contains('@') => Observation::fail(
                    about,
                    format!("`username` is {name}: a user name has the form of an e-mail address"),
                ),
                Some(sandbox) if !name.to_lowercase().ends_with(&format!(".{sandbox}")) => {
                    let seen =
                        format!("`username` is {name}, without the suffix `.{sandbox}` of the sandbox");
                    Observation::warn(about, seen)
                }
                _ => Observation::pass(about, format!("`username` is {name}")),
            }
        })
        .collect()
}

/// The sandbox's name in a My Domain host, as `uat` in `acme--uat.sandbox.my.salesforce.com`.
fn sandbox_of(profile: &Oauth) -> Option<String> {
    let label = host(profile.token_url.url()).split('.').next()?;
    label.split_once("--").map(|(_, sandbox)| sandbox.to_lowercase())
}

pub fn limits(known: &Known<'_>) -> Found {
    let Some(config) = known.config else { return Vec::new() };
    let mut logins: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for profile in config.oauth.values() {
        let user = logins.entry(&profile.username).or_default();
        user.0 += profile.logins_per_hour;
        user.1.push(format!("oauth.{}", profile.name));
    }
    let mut requests: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for (about, messaging) in messaging(config) {
        let org = requests.entry(messaging.org_id.as_str()).or_default();
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

pub fn runaway(known: &Known<'_>) -> Found {
    let Some(config) = known.config else { return Vec::new() };
    let pace = config.server.limits.remints;
    let minute = u64::from(pace.requests) * 60 / pace.window.as_secs().max(1);
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

pub fn public_url(known: &Known<'_>) -> Found {
    let Some(config) = known.config else { return Vec::new() };
    if config.identity.is_empty() {
        return Vec::new();
    }
    let Some(url) = config.server.public.as_ref().and_then(|public| public.url.as_ref()) else {
        return Vec::new();
    };
    let about = "server.public.url";
    let parsed = url.url();
    vec![match parsed.port() {
        _ if is_loopback(parsed) => {
            Observation::warn(about, format!("is {}, which Salesforce can't reach", url.as_str()))
        }
        Some(port) => Observation::warn(
            about,
            format!("names port {port}; that Salesforce asks any but 443 is written nowhere"),
        ),
        None => Observation::pass(about, format!("is {}", url.as_str())),
    }]
}
