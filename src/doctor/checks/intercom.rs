//! Checks of Intercom user JWTs.

use super::tokens::{INTERCOM_TOKENS, subject_faults};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::formatting::escape_and_truncate;
use crate::doctor::input::CheckInput;
use crate::json::Json;

/// Checks that a token names its user by `user_id`.
pub fn intercom(input: &CheckInput<'_>) -> Observations {
    input
        .tokens_for(INTERCOM_TOKENS)
        .map(|(token, parts, _)| {
            let about = &token.about;
            let mut faults = match parts.claim_value("user_id") {
                None => vec!["has no `user_id`".to_owned()],
                Some(value) => subject_faults("user_id", value),
            };
            if parts.header("alg") != Some("HS256") {
                faults.push("its `alg` isn't HS256, which is what Intercom takes".to_owned());
            }
            if parts.header.member("crit").is_some() {
                faults.push("its header has `crit`, which Intercom would have to know".to_owned());
            }
            let doubled = [&parts.header, &parts.claims].into_iter().filter_map(Json::doubled);
            faults.extend(doubled.map(|name| format!("has `{}` twice", escape_and_truncate(&name))));
            if faults.is_empty() && !parts.has_claim("exp") {
                return Observation::warn(
                    about,
                    "has no `exp`, so anybody who gets hold of it is that user forever",
                );
            }
            Observation::from_faults(about, &faults, "names its user by `user_id`")
        })
        .collect()
}

/// Checks that the signature is HMAC-SHA256 with one of the configured secrets.
pub fn intercom_secret(input: &CheckInput<'_>) -> Observations {
    let profiles: Vec<_> =
        input.configured.config.into_iter().flat_map(|config| config.intercom.values()).collect();
    input
        .tokens_for(INTERCOM_TOKENS)
        .map(|(token, parts, _)| {
            let about = &token.about;
            if profiles.is_empty() {
                let reason = "no Messenger API secret was there to check its signature: give a configuration with \
                              [intercom.NAME] (--config)";
                return Observation::skipped(about, reason);
            }
            if parts.header("alg") != Some("HS256") {
                return Observation::skipped(about, "its algorithm isn't HS256");
            }
            match profiles.iter().find(|profile| parts.is_signed_with_secret(&profile.secret)) {
                Some(profile) => {
                    Observation::pass(about, format!("the secret of intercom.{} made it", profile.name))
                }
                None => Observation::fail(about, "no Messenger API secret of the configuration made it"),
            }
        })
        .collect()
}
