//! `tokenmint mint`: a token, without a server.

use std::time::Duration;

use clap::Args;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{Context, Failure, parse_duration, say, say_json, there_are};
use crate::config::{Config, Kind, ProfileName};
use crate::json::{Json, Members};
use crate::metrics::Metrics;
use crate::tokens::{GRANT_TYPE, Minted, Objection, Profiles, Signer, Subject};

/// Mint a token, without a server
#[derive(Args)]
#[command(after_help = "Example: tokenmint mint identity.web --sub user-1")]
pub(super) struct Mint {
    /// Of which profile, as identity.web, oauth.crm or intercom.fin
    profile: String,
    /// For whom: `sub` of an identity token, `user_id` of an Intercom user JWT
    #[arg(long, value_name = "SUBJECT")]
    sub: Option<String>,
    /// How long it lives, as 1h or 90s [default: as the profile says]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Extra claims, a JSON object
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
    /// Print the token with its times as JSON
    #[arg(long)]
    json: bool,
}

impl Mint {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let loaded = context.load()?;
        let profile = ProfileName::parse(&self.profile).map_err(|_| self.unknown(&loaded.config))?;
        let profiles = Profiles::new(&loaded.config, &loaded.ring);
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(Failure::failed)?;
        let minted = runtime.block_on(self.mint(&profile, &profiles, &loaded.config, context))?;
        if self.json && profile.kind == Kind::Oauth {
            let endpoint = profiles.oauth.get(&profile.name).map(|profile| profile.token_url.as_str());
            say_json(&json!({
                "assertion": minted.token.expose_secret(),
                "grant_type": GRANT_TYPE,
                "token_endpoint": endpoint,
                "kid": minted.kid,
                "issued_at": minted.issued_at,
                "expires_at": minted.expires_at,
                "expires_in": minted.expires_in(),
            }));
        } else if self.json {
            say_json(&json!({
                "token": minted.token.expose_secret(),
                "token_type": "JWT",
                "kid": minted.kid,
                "issued_at": minted.issued_at,
                "expires_at": minted.expires_at,
                "expires_in": minted.expires_in(),
                "renew_at": minted.renew_at(),
            }));
        } else {
            say(minted.token.expose_secret());
        }
        Ok(())
    }

    /// Of a name that is no profile's: says which there are.
    fn unknown(&self, config: &Config) -> Failure {
        let bundle = self.profile.strip_prefix("bundles.").and_then(|name| config.bundles.get(name));
        Failure::Usage(match bundle {
            Some(bundle) => {
                let profiles = there_are(bundle.entries.values());
                format!("`{}` is several tokens: name one of its profiles; {profiles}", self.profile)
            }
            None => format!("there is no profile `{}`; {}", self.profile, there_are(config.profiles())),
        })
    }

    async fn mint(
        &self,
        name: &ProfileName,
        profiles: &Profiles,
        config: &Config,
        context: &Context<'_>,
    ) -> Result<Minted, Failure> {
        let now = context.ambient.clock.now();
        let signer = Signer::new(1, 1, None, &Metrics::new());
        let unknown = || self.unknown(config);
        let ttl = self.ttl.map(|ttl| ttl.as_secs());
        let wrong =
            |objection: Objection| Failure::Usage(format!("--{} {}", objection.field, objection.message));
        match name.kind {
            Kind::Identity => {
                let profile = profiles.identity.get(&name.name).ok_or_else(unknown)?;
                let subject = self.subject("sub")?;
                if !profile.covers(&subject) {
                    return Err(Failure::Usage(format!("--sub isn't what `{name}` lets subjects be")));
                }
                let lifetime = profile.lifetime(ttl).map_err(wrong)?;
                let claims = profile.claims(self.claims()?).map_err(wrong)?;
                profile.mint(&subject, lifetime, &claims, now, &signer).await.map_err(Failure::failed)
            }
            Kind::Hs256(kind) => {
                let profile = profiles.hs256[&kind].get(&name.name).ok_or_else(unknown)?;
                let user_id = self.subject(kind.facts().user_claim)?;
                let lifetime = profile.lifetime(ttl).map_err(wrong)?;
                let claims = profile.claims(self.claims()?).map_err(wrong)?;
                Ok(profile.mint(&user_id, lifetime, &claims, now))
            }
            Kind::Oauth => {
                let profile = profiles.oauth.get(&name.name).ok_or_else(unknown)?;
                if self.sub.is_some() || self.ttl.is_some() || self.claims.is_some() {
                    let reason =
                        "an assertion's claims are those of its profile: leave out --sub, --ttl and --claims";
                    return Err(Failure::Usage(reason.to_owned()));
                }
                let minted = profile.mint(now, &*context.ambient.randomness, &signer).await;
                minted.map(|assertion| assertion.minted).map_err(Failure::failed)
            }
            Kind::Bundle => Err(unknown()),
        }
    }

    fn subject(&self, field: &str) -> Result<Subject, Failure> {
        let sub = self.sub.clone().ok_or_else(|| Failure::Usage("say for whom with --sub".to_owned()))?;
        Subject::parse(field, sub).map_err(|objection| Failure::Usage(format!("--sub {}", objection.message)))
    }

    fn claims(&self) -> Result<Members, Failure> {
        let Some(text) = &self.claims else { return Ok(Vec::new()) };
        match Json::parse(text.as_bytes()) {
            Ok(json) if json.doubled().is_some() => {
                Err(Failure::Usage("--claims names one twice".to_owned()))
            }
            Ok(Json::Object(claims)) => Ok(claims),
            Ok(_) => Err(Failure::Usage("--claims must be a JSON object".to_owned())),
            Err(error) => Err(Failure::Usage(format!("--claims isn't JSON: {error}"))),
        }
    }
}
