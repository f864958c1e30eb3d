//! `tokenmint verify`: reads a token and says, check by check, whether Salesforce would take it.

use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;
use serde_json::json;

use super::doctor::{Kind, World, add_jwks, jwk_file, read, token_argument};
use super::findings::Page;
use super::{Context, Failure, say_json};
use crate::app;
use crate::clock::UnixTime;
use crate::doctor::{self, Given, JwkDocument, Known, Outcome, Parts};
use crate::json::Json;

/// Read a token and say, check by check, whether Salesforce would take it
///
/// Works on this machine alone: no token leaves it. Keys come from what you give, or, where you give none, from the
/// configuration.
#[derive(Args)]
#[command(after_help = "Example: tokenmint mint identity.web --sub user-1 | tokenmint verify")]
pub(super) struct Verify {
    /// The token [default: read from standard input, which keeps it out of the shell's history]
    token: Option<SecretString>,
    /// A private key, certificate or JWK that should verify it
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// A JWK that should verify it
    #[arg(long, value_name = "FILE")]
    jwk: Vec<PathBuf>,
    /// A JWK Set that should verify it: a file, or an address, which is the only one asked
    #[arg(long, value_name = "URL")]
    jwks: Vec<String>,
    /// The JSON Web Key Issuer that Setup shows
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// What the token is for [default: told from what stands in it]
    #[arg(long = "as", value_name = "KIND")]
    purpose: Option<Kind>,
    /// Print the parts and the findings as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let world = World::of(context, false)?;
        let mut given =
            Given { issuer: self.issuer.clone(), purpose: self.purpose.map(Into::into), ..Given::default() };
        for path in &self.key {
            given.add(read(path)?);
        }
        for path in &self.jwk {
            let document = jwk_file(path, false)?;
            // Nobody uploads it here, so that a set is as good as one of its keys.
            let served = document.is_a_set();
            given.jwks.push(JwkDocument { served, ..document });
        }
        let runtime = app::runtime().map_err(Failure::failed)?;
        for source in &self.jwks {
            add_jwks(source, &mut given, &runtime, context)?;
        }
        let token = self.token.unwrap_or_else(|| SecretString::from("-"));
        given.tokens = vec![token_argument(&token)?];
        let now = context.ambient.clock.now();
        let known = Known { now, configured: world.configured(), given, answers: None };

        let (report, verdict) = doctor::verify(&known);
        let [token] = known.given.tokens.as_slice() else {
            return Err(Failure::Failed("there is no token".to_owned()));
        };
        let purpose = known.taken(token).purpose;
        match &token.parts {
            _ if self.json => {
                let parts = token.parts.as_ref().ok();
                say_json(&json!({
                    "ok": verdict.outcome != Outcome::Fail,
                    "verdict": verdict.text,
                    "kind": purpose.word(),
                    "header": parts.map(|parts| &parts.header),
                    "claims": parts.map(|parts| &parts.claims),
                    "findings": report.findings,
                    "not_looked_at": report.not_looked_at,
                }));
            }
            parts => {
                let mut page = Page::new();
                if let Ok(parts) = parts {
                    show(parts, now, &mut page);
                }
                page.findings(&report.findings);
                page.verdict(verdict.outcome, &verdict.text);
            }
        }
        if verdict.outcome == Outcome::Fail { Err(Failure::Found) } else { Ok(()) }
    }
}

fn show(parts: &Parts, now: UnixTime, page: &mut Page) {
    for (title, json) in [("header", &parts.header), ("body", &parts.claims)] {
        page.heading(title);
        let Json::Object(members) = json else { continue };
        let longest = members.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        for (name, value) in members {
            let written = match value {
                Json::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
                other => serde_json::to_string(other).unwrap_or_default(),
            };
            let when = match parts.time(name) {
                Some(seconds) if ["exp", "iat", "nbf"].contains(&name.as_str()) => {
                    format!("  {}", doctor::dated(UnixTime::from_seconds(seconds), now))
                }
                _ => String::new(),
            };
            let name: String = name.chars().filter(|c| !c.is_control()).collect();
            page.line(&format!("  {name:longest$}  {written}{when}"));
        }
    }
    page.line("");
}
