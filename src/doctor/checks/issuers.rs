//! Checks of issuers of incoming JWTs: whether their keys can be fetched.

use crate::config::{IssuerConfig, IssuerKeySource};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::formatting::{backquoted_list, escape_and_truncate, format_duration};
use crate::doctor::input::CheckInput;
use crate::issuers::{FetchError, KeySet, KeySetError};

pub(crate) fn issuer_keys(input: &CheckInput<'_>) -> Observations {
    input
        .configured
        .issuers()
        .map(|issuer| {
            let about = section_of(issuer);
            let Some(loaded) = input.configured.issuer_keys else {
                return Observation::skipped(
                    about,
                    "the configuration doesn't load (`tokenmint check` says why)",
                );
            };
            if let Some(keys) = loaded.get(&issuer.name).and_then(|keys| keys.without_fetch()) {
                return Observation::pass(about, format!("needs no fetch: it has {}", describe_keys(keys)));
            }
            match input.fetched_issuer_keys(&issuer.name) {
                None => Observation::skipped(about, "its keys weren't fetched; --online fetches them"),
                Some(Ok(fetched)) => {
                    let lifetime = i64::try_from(fetched.lifetime.as_secs()).unwrap_or(i64::MAX);
                    let lifetime = format_duration(lifetime);
                    let keys = describe_keys(&fetched.keys);
                    Observation::pass(about, format!("its keys can be fetched: {keys}, fresh for {lifetime}"))
                }
                Some(Err(error)) => {
                    Observation::fail(about, error.to_string()).with_advice(fetch_advice(error, issuer))
                }
            }
        })
        .collect()
}

/// The label of an issuer.
pub(super) fn section_of(issuer: &IssuerConfig) -> String {
    format!("issuers.{}", issuer.name)
}

fn describe_keys(keys: &KeySet) -> String {
    let count = keys.count();
    let kids = backquoted_list(keys.kids().map(escape_and_truncate));
    let kids = if kids.is_empty() { kids } else { format!(" ({kids})") };
    format!("{count} usable {}{kids}", if count == 1 { "key" } else { "keys" })
}

/// How to fix the fault of a fetch.
fn fetch_advice(error: &FetchError, issuer: &IssuerConfig) -> String {
    let section = format!("[issuers.{}]", issuer.name);
    let has_token =
        matches!(&issuer.keys, IssuerKeySource::Fetched(fetch) if fetch.bearer_token_file.is_some());
    match error {
        FetchError::Status { status: 401 | 403, .. } if has_token => {
            "the issuer refuses the token in `bearer_token_file`: renew it, and let its owner read the keys (in Kubernetes: bind the \
             ClusterRole system:service-account-issuer-discovery)"
                .to_owned()
        }
        FetchError::Status { status: 401 | 403, .. } => format!(
            "set `bearer_token_file` in {section}, for example to the token of the pod's service account"
        ),
        FetchError::Status { status: 300..=399, .. } => format!(
            "set the address to which the redirect leads in {section}: tokenmint follows no redirect to another host"
        ),
        FetchError::Status { .. } => {
            format!("set the right address in {section}: `curl -i ADDRESS` must answer 200 and JSON")
        }
        FetchError::Tls { .. } => format!(
            "set `ca_file` in {section} to the certificate authority of the issuer, and use a host name that its certificate has"
        ),
        FetchError::Unreachable { .. } | FetchError::Timeout { .. } => {
            "check the host name, the port and the firewall: `curl -i ADDRESS` on this host must answer 200".to_owned()
        }
        FetchError::Discovery(_) => format!(
            "set `issuer` in {section} to the `issuer` of the metadata, byte for byte; or set `jwks_url` in the place of \
             `discovery`"
        ),
        FetchError::TooLarge { .. } | FetchError::KeySet(KeySetError::NotAJwks) => {
            format!("set `jwks_url` in {section} to the JWKS: `jwks_uri` of the issuer's metadata names it")
        }
        FetchError::KeySet(KeySetError::NoUsableKey(_)) => {
            format!("set `algorithms` in {section} to those with which the issuer signs")
        }
        FetchError::KeySet(KeySetError::DuplicateKeyId) => {
            "have the issuer give each key an id (`kid`) of its own".to_owned()
        }
        FetchError::KeySet(KeySetError::TooManyKeys) => {
            "have the issuer remove keys that no longer sign".to_owned()
        }
        FetchError::BearerToken(_) => format!(
            "let the service's user read the `bearer_token_file` of {section}, and write one token into it"
        ),
    }
}
