//! `tokenmint mint`: mints a token without a server.

use std::time::Duration;

use clap::Args;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{CliContext, CliError, list_known_names, parse_duration_arg, print_json, print_line};
use crate::app::LoadedConfig;
use crate::config::{Config, ProfileKind, ProfileName};
use crate::json::{Json, Members};
use crate::metrics::Metrics;
use crate::tokens::{GRANT_TYPE, InvalidField, MintError, MintedToken, Profiles, Signer, Subject};

/// Mint a token, without a server
#[derive(Args)]
#[command(after_help = "Example: tokenmint mint identity.web --sub user-1")]
pub(super) struct MintCommand {
    /// The profile, for example identity.web, oauth.crm, intercom.fin or hs256.zendesk
    profile: String,
    /// The subject: `sub` of an identity token, `user_id` of an Intercom user JWT, the `subject_claim` of an HS256 token
    #[arg(long, value_name = "SUBJECT")]
    sub: Option<String>,
    /// The lifetime, for example 1h or 90s [default: the profile's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_arg)]
    ttl: Option<Duration>,
    /// Extra claims, a JSON object
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
    /// Print the token with its times as JSON
    #[arg(long)]
    json: bool,
}

impl MintCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let loaded = context.load()?;
        let profile =
            ProfileName::parse(&self.profile).map_err(|_| self.unknown_profile_error(&loaded.config))?;
        let profiles = Profiles::new(&loaded.config, &loaded.ring);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
        let minted = runtime.block_on(self.mint(&profile, &profiles, &loaded, context))?;
        if self.json && profile.kind == ProfileKind::Oauth {
            let endpoint = profiles.oauth.get(&profile.bare_name).map(|profile| profile.token_url.as_str());
            print_json(&json!({
                "assertion": minted.token.expose_secret(),
                "grant_type": GRANT_TYPE,
                "token_endpoint": endpoint,
                "kid": minted.kid,
                "issued_at": minted.issued_at,
                "expires_at": minted.expires_at,
                "expires_in": minted.expires_in(),
            }));
        } else if self.json {
            print_json(&json!({
                "token": minted.token.expose_secret(),
                "token_type": "JWT",
                "kid": minted.kid,
                "issued_at": minted.issued_at,
                "expires_at": minted.expires_at,
                "expires_in": minted.expires_in(),
                "renew_at": minted.renew_at(),
            }));
        } else {
            print_line(minted.token.expose_secret());
        }
        Ok(())
    }

    /// Returns an error that lists the existing profiles.
    fn unknown_profile_error(&self, config: &Config) -> CliError {
        let bundle = self.profile.strip_prefix("bundles.").and_then(|name| config.bundles.get(name));
        CliError::Usage(match bundle {
            Some(bundle) => {
                let profiles = list_known_names(bundle.entries.values());
                format!("`{}` is several tokens: name one of its profiles; {profiles}", self.profile)
            }
            None => {
                format!("there is no profile `{}`; {}", self.profile, list_known_names(config.profiles()))
            }
        })
    }

    async fn mint(
        &self,
        name: &ProfileName,
        profiles: &Profiles,
        loaded: &LoadedConfig,
        context: &CliContext<'_>,
    ) -> Result<MintedToken, CliError> {
        let config = &loaded.config;
        let failed = |error| match (error, loaded.ring.closed_reason()) {
            (MintError::KeysetClosed, Some(reason)) => CliError::Failed(reason),
            (error, _) => CliError::failed(error),
        };
        let now = context.clock_and_rng.clock.now();
        let signer = Signer::new(1, 1, None, &Metrics::new());
        let unknown = || self.unknown_profile_error(config);
        let ttl = self.ttl.map(|ttl| ttl.as_secs());
        let wrong = |invalid_field: InvalidField| {
            CliError::Usage(format!("--{} {}", invalid_field.field, invalid_field.message))
        };
        match name.kind {
            ProfileKind::Identity => {
                let profile = profiles.identity.get(&name.bare_name).ok_or_else(unknown)?;
                let subject = self.subject("sub")?;
                if !profile.matches_subject(&subject) {
                    return Err(CliError::Usage(format!("--sub doesn't match the `subjects` of `{name}`")));
                }
                let lifetime = profile.lifetime(ttl).map_err(wrong)?;
                let claims = profile.claims(self.claims()?).map_err(wrong)?;
                profile.mint(&subject, lifetime, &claims, now, &signer).await.map_err(failed)
            }
            ProfileKind::Hs256(kind) => {
                let profile = profiles.hs256[&kind].get(&name.bare_name).ok_or_else(unknown)?;
                let user_id = self.subject(kind.facts().request_field)?;
                let lifetime = profile.lifetime(ttl).map_err(wrong)?;
                let claims = profile.claims(self.claims()?).map_err(wrong)?;
                Ok(profile.mint(&user_id, lifetime, &claims, now))
            }
            ProfileKind::Oauth => {
                let profile = profiles.oauth.get(&name.bare_name).ok_or_else(unknown)?;
                if self.sub.is_some() || self.ttl.is_some() || self.claims.is_some() {
                    let reason =
                        "an assertion's claims come from its profile: leave out --sub, --ttl and --claims";
                    return Err(CliError::Usage(reason.to_owned()));
                }
                let minted = profile.mint(now, &*context.clock_and_rng.randomness, &signer).await;
                minted.map(|assertion| assertion.minted).map_err(failed)
            }
            ProfileKind::Bundle => Err(unknown()),
        }
    }

    fn subject(&self, field: &str) -> Result<Subject, CliError> {
        let sub =
            self.sub.clone().ok_or_else(|| CliError::Usage("give the subject with --sub".to_owned()))?;
        Subject::parse(field, sub)
            .map_err(|invalid_field| CliError::Usage(format!("--sub {}", invalid_field.message)))
    }

    fn claims(&self) -> Result<Members, CliError> {
        let Some(text) = &self.claims else { return Ok(Vec::new()) };
        match Json::parse(text.as_bytes()) {
            Ok(json) if json.duplicate_key().is_some() => {
                Err(CliError::Usage("--claims contains a claim twice".to_owned()))
            }
            Ok(Json::Object(claims)) => Ok(claims),
            Ok(_) => Err(CliError::Usage("--claims must be a JSON object".to_owned())),
            Err(error) => Err(CliError::Usage(format!("--claims isn't JSON: {error}"))),
        }
    }
}
