//! Checks of tokens that are signed with a shared secret (HS256).

use super::tokens::subject_faults;
use crate::config::{Hs256Config, Hs256Kind};
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::formatting::escape_and_truncate;
use crate::doctor::input::CheckInput;
use crate::doctor::token::JwtParts;
use crate::json::Json;

/// Checks the user claim, `alg` = HS256, no `crit` and no duplicate members. Warns if there is no `exp`.
pub(crate) fn names_user(input: &CheckInput<'_>, kind: Hs256Kind) -> Observations {
    let party = kind.facts().relying_party;
    input
        .tokens_of(kind)
        .map(|(token, parts, _)| {
            let about = &token.about;
            let users = input.user_claims(kind, parts);
            let Some(user) = users.iter().find(|user| parts.has_claim(user)).or_else(|| users.first()) else {
                let reason =
                    format!("no profile names the claim of its user: {}", advise_configuration(kind));
                return Observation::skipped(about, reason);
            };
            let mut faults = match parts.claim_value(user) {
                None => vec![format!(
                    "has no {}",
                    users.iter().map(|user| format!("`{user}`")).collect::<Vec<_>>().join(" or ")
                )],
                Some(value) => subject_faults(user, value),
            };
            if parts.header("alg") != Some("HS256") {
                faults.push(format!("its `alg` isn't HS256, which is the algorithm that {party} accepts"));
            }
            if parts.header.member("crit").is_some() {
                faults.push(format!("its header has `crit`, which {party} would have to know"));
            }
            let doubled = [&parts.header, &parts.claims].into_iter().filter_map(Json::duplicate_key);
            faults.extend(doubled.map(|name| format!("has `{}` twice", escape_and_truncate(&name))));
            if faults.is_empty() && !parts.has_claim("exp") {
                return Observation::warn(
                    about,
                    "has no `exp`, so anybody who gets hold of it is that user forever",
                );
            }
            Observation::from_faults(about, &faults, format!("names its user by `{user}`"))
        })
        .collect()
}

/// Checks that the signature is HMAC-SHA256 with one of the configured secrets, and that header and claims have what the profile of
/// that secret sets.
pub(crate) fn signed_with_secret(input: &CheckInput<'_>, kind: Hs256Kind) -> Observations {
    let (section, secret) = (kind.facts().section, kind.facts().secret);
    input
        .tokens_of(kind)
        .map(|(token, parts, _)| {
            let about = &token.about;
            if input.configured.hs256(kind).next().is_none() {
                if input.configured.config.is_some() {
                    let seen =
                        format!("the configuration has no [{section}.NAME] whose secret could have made it");
                    return Observation::fail(about, seen).with_advice(advise_configuration(kind));
                }
                let reason =
                    format!("no {secret} was there to check its signature: {}", advise_configuration(kind));
                return Observation::skipped(about, reason);
            }
            if parts.header("alg") != Some("HS256") {
                return Observation::skipped(about, "its algorithm isn't HS256");
            }
            // Profiles can share a secret, so the one that fits best decides.
            let makers = input.makers(kind, parts).map(|(name, profile)| (name, deviations(profile, parts)));
            let Some((name, deviations)) = makers.min_by_key(|(_, deviations)| deviations.len()) else {
                return Observation::fail(about, format!("no {secret} of the configuration made it"));
            };
            let made = format!("the secret of {section}.{name} made it");
            if deviations.is_empty() {
                return Observation::pass(about, made);
            }
            Observation::fail(about, format!("{made}, but {}", deviations.join("; ")))
        })
        .collect()
}

/// The settings of the profile that the token doesn't have.
fn deviations(profile: &Hs256Config, parts: &JwtParts) -> Vec<String> {
    let members = [("kid", &profile.kid), ("cty", &profile.cty)];
    let headers = members.into_iter().filter_map(|(name, value)| {
        let value = value.as_deref()?;
        (parts.header(name) != Some(value)).then(|| format!("its `{name}` isn't the profile's"))
    });
    let claims = profile.fixed_claims.iter().filter_map(|(name, value)| match parts.claim_value(name) {
        Some(claim) if claim == value => None,
        Some(_) => Some(format!("its `{name}` isn't the one of `fixed_claims`")),
        None => Some(format!("it lacks `{name}` of `fixed_claims`")),
    });
    headers.chain(claims).collect()
}

fn advise_configuration(kind: Hs256Kind) -> String {
    format!("give a configuration with [{}.NAME] (--config)", kind.facts().section)
}
