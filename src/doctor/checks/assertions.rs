//! Checks of assertions of the JWT bearer flow (app, user, audience), and of the audience of identity tokens. The rule for the
//! audience of an assertion is in `audience`.

use super::tokens::{ASSERTIONS, IDENTITY_TOKENS};
use crate::config::OauthConfig;
use crate::config::salesforce::{
    CONSUMER_KEY_PREFIX, SalesforceHost, consumer_key_error, is_custom_consumer_key, is_record_id,
};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::formatting::{backquoted_list, escape_and_truncate, shown_user_name};
use crate::doctor::input::CheckInput;
use crate::doctor::token::JwtParts;
use crate::json::Json;

/// Checks that `consumer_key` in the configuration and `iss` in assertions are consumer keys.
pub(crate) fn consumer_key(input: &CheckInput<'_>) -> Observations {
    let profiles = input.configured.oauth().map(|profile| {
        let about = format!("oauth.{}", profile.name);
        match consumer_key_error(&profile.consumer_key) {
            Some(fault) => {
                // The value isn't shown: it may be the consumer secret, pasted by mistake.
                Observation::fail(about, format!("`consumer_key` isn't one: {fault}"))
            }
            None => Observation::pass(about, "`consumer_key` has the form of one"),
        }
    });
    profiles.chain(assertion_issuers(input)).collect()
}

fn assertion_issuers(input: &CheckInput<'_>) -> Observations {
    let configured: Vec<&str> =
        input.configured.oauth().map(|profile| profile.consumer_key.as_str()).collect();
    input
        .tokens_for(ASSERTIONS)
        .filter_map(|(token, parts, _)| {
            let about = &token.about;
            let value = parts.claim_value("iss")?;
            let Json::String(iss) = value else {
                return Some(Observation::fail(
                    about,
                    format!("its `iss` is {}, not text", value.type_name()),
                ));
            };
            let shown = escape_and_truncate(iss);
            let is_consumer_key = |text: &str| text.starts_with(CONSUMER_KEY_PREFIX) || configured.contains(&text);
            let sub_is_consumer = parts.claim("sub").is_some_and(is_consumer_key);
            Some(match () {
                () if is_consumer_key(iss) && sub_is_consumer => Observation::fail(
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
                () if !iss.starts_with(CONSUMER_KEY_PREFIX) && !is_custom_consumer_key(iss) => Observation::fail(
                    about,
                    format!(
                        "its `iss` is `{shown}`, no consumer key: these begin with {CONSUMER_KEY_PREFIX}"
                    ),
                ),
                () if !configured.is_empty() && !input.given.has_verification_keys() => Observation::fail(
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

/// Checks that `sub` of an assertion is a user name. Warns if `[oauth]` profiles have the assertion's consumer key and none has
/// that user name.
pub(super) fn username(input: &CheckInput<'_>) -> Observations {
    input
        .tokens_for(ASSERTIONS)
        .filter_map(|(token, parts, _)| {
            let about = &token.about;
            Some(match parts.claim_value("sub")? {
                // The check `consumer-key` reports swapped claims.
                Json::String(sub) if sub.starts_with(CONSUMER_KEY_PREFIX) => return None,
                Json::String(sub) => {
                    let faults: Vec<String> = user_name_faults(sub)
                        .into_iter()
                        .map(|fault| format!("its `sub` is `{}`: {fault}", escape_and_truncate(sub)))
                        .collect();
                    let users: Vec<&str> = oauth_profiles(input, parts)
                        .iter()
                        .map(|profile| profile.username.as_str())
                        .collect();
                    let is_known =
                        users.is_empty() || users.iter().any(|user| user.eq_ignore_ascii_case(sub));
                    if faults.is_empty() && !is_known {
                        let seen = format!(
                            "its `sub` is `{}`, and `username` of its profile {}",
                            escape_and_truncate(sub),
                            backquoted_list(users.into_iter().map(shown_user_name))
                        );
                        return Some(Observation::warn(about, seen));
                    }
                    Observation::from_faults(about, &faults, "its `sub` is a user name")
                }
                other => Observation::fail(about, format!("its `sub` is {}, not text", other.type_name())),
            })
        })
        .collect()
}

/// Why a text isn't a Salesforce user name.
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

/// The `[oauth]` profiles with the token's `iss` as consumer key. Empty if keys were supplied that may verify the token.
fn oauth_profiles<'a>(input: &'a CheckInput<'_>, parts: &JwtParts) -> Vec<&'a OauthConfig> {
    let consumer_key = parts.claim("iss").filter(|_| !input.given.has_verification_keys());
    input.configured.oauth().filter(|profile| consumer_key == Some(profile.consumer_key.as_str())).collect()
}

/// Checks the `aud` of the supplied assertions and identity tokens.
pub(super) fn audience(input: &CheckInput<'_>) -> Observations {
    assertion_audiences(input).into_iter().chain(identity_token_audiences(input)).collect()
}

/// Compares `aud` with `audience` of the profiles that have the token's issuer, unless keys were supplied that may verify the
/// token. Salesforce isn't documented to require `aud` in identity tokens, so a profile without `audience` accepts any.
fn identity_token_audiences(input: &CheckInput<'_>) -> Observations {
    input
        .tokens_for(IDENTITY_TOKENS)
        .filter(|_| !input.given.has_verification_keys())
        .filter_map(|(token, parts, _)| {
            let iss = parts.claim("iss")?;
            let profiles = input.configured.identity().filter(|profile| profile.issuer.as_str() == iss);
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
            let right = backquoted_list(audiences.into_iter().flatten());
            let seen = format!("its `aud` isn't `audience` of [identity.NAME]: {right}");
            Some(
                Observation::warn(&token.about, seen)
                    .with_advice("where the token is made, set `aud` to the same"),
            )
        })
        .collect()
}

fn assertion_audiences(input: &CheckInput<'_>) -> Observations {
    input
        .tokens_for(ASSERTIONS)
        .filter_map(|(token, parts, _)| {
            let profiles = oauth_profiles(input, parts);
            Some(match parts.claim_value("aud")? {
                Json::String(aud) => {
                    let right = profiles.iter().find(|profile| profile.audience.as_str() == aud);
                    let host = right
                        .or_else(|| profiles.first())
                        .map(|profile| SalesforceHost::from_url(profile.token_url.url()));
                    let seen = super::audience::check_audience(
                        token.about.clone(),
                        aud,
                        host.as_ref(),
                        parts.claim("sub"),
                    );
                    if right.is_none() && !profiles.is_empty() && seen.is_pass() {
                        let names = backquoted_list(profiles.iter().map(|profile| profile.audience.as_str()));
                        let seen = format!(
                            "its `aud` is `{}`, and `audience` of its profile {names}",
                            escape_and_truncate(aud)
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
