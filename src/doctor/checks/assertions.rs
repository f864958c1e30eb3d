//! What assertions of the JWT bearer flow say of app, user and audience, and what the audience of any token is.

use super::tokens::{ASSERTION, IDENTITY};
use crate::config::OauthConfig;
use crate::config::salesforce::{
    CONSUMER_KEY_PREFIX, SalesforceHost, consumer_key_error, is_custom_consumer_key, is_record_id,
};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::known::Known;
use crate::doctor::token::Parts;
use crate::doctor::wording::{listed, printable};
use crate::json::Json;

/// That `iss` is the app's, here and in the tokens.
pub fn consumer_key(known: &Known<'_>) -> Observations {
    let profiles = known.configured.oauth().map(|profile| {
        let about = format!("oauth.{}", profile.name);
        match consumer_key_error(&profile.consumer_key) {
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
                () if !iss.starts_with(CONSUMER_KEY_PREFIX) && !is_custom_consumer_key(iss) => Observation::fail(
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

/// The profiles of the configuration that make such assertions; none where the token is judged by what was given.
fn oauth_profiles<'a>(known: &'a Known<'_>, parts: &Parts) -> Vec<&'a OauthConfig> {
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
                    let host = right
                        .or_else(|| profiles.first())
                        .map(|profile| SalesforceHost::from_url(profile.token_url.url()));
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
