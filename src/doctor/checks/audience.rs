//! The rule for an audience: judges the `audience` of an `[oauth]` profile, or the `aud` of an assertion, by itself and against
//! the token endpoint and the user. The check `profiles::audience` applies it to both.

use crate::config::salesforce::{self, HostKind, SalesforceHost};
use crate::doctor::finding::Observation;
use crate::doctor::formatting::{escape_and_truncate, shown_user_name};

pub(crate) fn check_audience(
    about: String,
    aud: &str,
    token_host: Option<&SalesforceHost>,
    username: Option<&str>,
) -> Observation {
    let asked = token_host.map(|host| format!(", asked at {}", host.name)).unwrap_or_default();
    let pair = format!("`audience` {}{asked}", escape_and_truncate(aud));
    let (host, judged) = salesforce::check_audience(aud);
    let mut faults = judged.errors;
    let Some(host) = host else { return Observation::fail(about, format!("{pair}: {}", faults.join("; "))) };
    faults.extend(token_host.and_then(|token_host| salesforce::audience_mismatch(&host, token_host)));
    if !faults.is_empty() {
        return Observation::fail(about, format!("{pair}: {}", faults.join("; ")));
    }
    if !judged.warnings.is_empty() {
        return Observation::warn(about, format!("{pair}: {}", judged.warnings.join("; ")));
    }
    let in_sandbox = token_host.is_some_and(SalesforceHost::is_sandbox);
    match username {
        Some(name) if sandbox_suffix(name).is_some() && host.kind == HostKind::Login && !in_sandbox => {
            Observation::warn(
                about,
                format!("{pair}, for {}, which looks like a sandbox's user", shown_user_name(name)),
            )
            .with_advice("for a sandbox: https://test.salesforce.com, or the sandbox's My Domain URL")
        }
        _ => Observation::pass(about, pair),
    }
}

/// A probable sandbox name: more than two characters after one of a few top-level domains, for example `uat` in
/// `me@acme.com.uat`.
fn sandbox_suffix(username: &str) -> Option<&str> {
    let (_, domain) = username.rsplit_once('@')?;
    let (rest, last) = domain.rsplit_once('.')?;
    let (_, top) = rest.rsplit_once('.')?;
    (matches!(top, "com" | "org" | "net" | "io" | "eu" | "de" | "fr" | "uk") && last.len() > 2)
        .then_some(last)
}
