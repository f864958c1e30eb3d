//! Intercom's user JWTs.

use super::tokens::{INTERCOM, person};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::known::Known;
use crate::doctor::wording::printable;
use crate::json::Json;

/// That a token names its user.
pub fn named(known: &Known<'_>) -> Observations {
    known
        .tokens_for(INTERCOM)
        .map(|(token, parts, _)| {
            let about = &token.about;
            let mut faults = match parts.claim_value("user_id") {
                None => vec!["has no `user_id`".to_owned()],
                Some(value) => person("user_id", value),
            };
            if parts.header("alg") != Some("HS256") {
                faults.push("its `alg` isn't HS256, which is what Intercom takes".to_owned());
            }
            if parts.header.member("crit").is_some() {
                faults.push("its header has `crit`, which Intercom would have to know".to_owned());
            }
            let doubled = [&parts.header, &parts.claims].into_iter().filter_map(Json::duplicate_key);
            faults.extend(doubled.map(|name| format!("has `{}` twice", printable(&name))));
            if faults.is_empty() && !parts.has_claim("exp") {
                return Observation::warn(
                    about,
                    "has no `exp`, so whoever gets hold of it is that user for ever",
                );
            }
            Observation::of_faults(about, &faults, "names its user by `user_id`")
        })
        .collect()
}

/// That one of the configured secrets made it.
pub fn secret(known: &Known<'_>) -> Observations {
    let profiles: Vec<_> =
        known.configured.config.into_iter().flat_map(|config| config.intercom.values()).collect();
    known
        .tokens_for(INTERCOM)
        .map(|(token, parts, _)| {
            let about = &token.about;
            if profiles.is_empty() {
                let reason = "no Messenger API secret was there to check its signature: give a configuration with \
                              [intercom.NAME] (--config)";
                return Observation::not_looked_at(about, reason);
            }
            if parts.header("alg") != Some("HS256") {
                return Observation::not_looked_at(about, "its algorithm isn't HS256");
            }
            match profiles.iter().find(|profile| parts.is_made_with(&profile.secret)) {
                Some(profile) => {
                    Observation::pass(about, format!("the secret of intercom.{} made it", profile.name))
                }
                None => Observation::fail(about, "no Messenger API secret of the configuration made it"),
            }
        })
        .collect()
}
