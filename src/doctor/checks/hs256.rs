//! Tokens that are signed with a shared secret (HS256).

use super::tokens::person;
use crate::config::Hs256Kind;
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::known::Known;
use crate::doctor::wording::printable;
use crate::json::Json;

/// That a token names its user.
pub fn named(known: &Known<'_>, kind: Hs256Kind) -> Observations {
    let (user, party) = (kind.facts().user_claim, kind.facts().relying_party);
    known
        .tokens_of(kind)
        .map(|(token, parts, _)| {
            let about = &token.about;
            let mut faults = match parts.claim_value(user) {
                None => vec![format!("has no `{user}`")],
                Some(value) => person(user, value),
            };
            if parts.header("alg") != Some("HS256") {
                faults.push(format!("its `alg` isn't HS256, which is what {party} takes"));
            }
            if parts.header.member("crit").is_some() {
                faults.push(format!("its header has `crit`, which {party} would have to know"));
            }
            let doubled = [&parts.header, &parts.claims].into_iter().filter_map(Json::doubled);
            faults.extend(doubled.map(|name| format!("has `{}` twice", printable(&name))));
            if faults.is_empty() && !parts.has_claim("exp") {
                return Observation::warn(
                    about,
                    "has no `exp`, so whoever gets hold of it is that user for ever",
                );
            }
            Observation::of_faults(about, &faults, format!("names its user by `{user}`"))
        })
        .collect()
}

/// That one of the configured secrets made it.
pub fn secret(known: &Known<'_>, kind: Hs256Kind) -> Observations {
    let (section, secret) = (kind.facts().section, kind.facts().secret);
    let profiles: Vec<_> =
        known.configured.config.into_iter().flat_map(|config| &config.hs256[&kind]).collect();
    known
        .tokens_of(kind)
        .map(|(token, parts, _)| {
            let about = &token.about;
            if profiles.is_empty() {
                let reason = format!(
                    "no {secret} was there to check its signature: give a configuration with [{section}.NAME] (--config)"
                );
                return Observation::not_looked_at(about, reason);
            }
            if parts.header("alg") != Some("HS256") {
                return Observation::not_looked_at(about, "its algorithm isn't HS256");
            }
            match profiles.iter().find(|(_, profile)| parts.is_made_with(&profile.secret)) {
                Some((name, _)) => {
                    Observation::pass(about, format!("the secret of {section}.{name} made it"))
                }
                None => Observation::fail(about, format!("no {secret} of the configuration made it")),
            }
        })
        .collect()
}
