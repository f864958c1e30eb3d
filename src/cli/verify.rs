//! `tokenmint verify`: reads a token and says, check by check, whether Salesforce would take it.

use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::doctor::{World, add_jwks, is_there, jwk_file, read, read_key, token_argument};
use super::findings::Page;
use super::{Context, Failure, say_json};
use crate::app;
use crate::clock::UnixTime;
use crate::doctor::{self, Given, Known, Material, Outcome, Parts, Purpose};
use crate::json::Json;

/// Read a token and say, check by check, whether Salesforce would take it
///
/// Works on this machine alone: no token leaves it. Keys come from what you give, or, where you give none, from the
/// configuration.
#[derive(Args)]
#[command(after_help = "Example: tokenmint mint identity.web --sub user-1 | tokenmint verify\n         \
                        tokenmint verify token.txt WebAppKey1.jwk")]
pub(super) struct Verify {
    /// The token, or files: with the token, and with private keys, certificates and JWKs that should verify it [default: the
    /// token is read from standard input, which keeps it out of the shell's history]
    #[arg(value_name = "TOKEN|FILE")]
    given: Vec<SecretString>,
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
    purpose: Option<Purpose>,
    /// Print the checks that passed as well
    #[arg(short, long)]
    verbose: bool,
    /// Print the parts and the findings as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let world = World::of(context, false)?;
        if context.config.is_some() && world.loaded.is_none() {
            // Whoever names one wants the token judged by it.
            return Err(world.refused());
        }
        self.key.iter().chain(&self.jwk).enumerate().try_for_each(|(at, path)| is_there(at, path))?;
        let mut given = Given {
            issuer: self.issuer.clone(),
            purpose: self.purpose,
            verifies_only: true,
            ..Given::default()
        };
        for path in &self.key {
            given.add(read_key(path, &world)?);
        }
        for path in &self.jwk {
            given.jwks.push(jwk_file(path, false)?);
        }
        let runtime = app::runtime().map_err(Failure::failed)?;
        for source in &self.jwks {
            add_jwks(source, &mut given, &runtime, context)?;
        }
        for argument in &self.given {
            given.add(recognised(argument, &world)?);
        }
        if given.tokens.is_empty() {
            given.tokens.push(token_argument(&SecretString::from("-"))?);
        }
        for document in &mut given.jwks {
            // Nobody uploads it here, so that a set is as good as one of its keys.
            document.served |= document.is_a_set();
        }
        let now = context.ambient.clock.now();
        let known = Known { now, configured: world.configured(), given, answers: None };

        let [token] = known.given.tokens.as_slice() else {
            let reason = "give one token; `tokenmint doctor` takes several";
            return Err(Failure::Usage(reason.to_owned()));
        };
        let (report, verdict) = doctor::verify(&known);
        let purpose = known.taken(token).purpose;
        match &token.parts {
            _ if self.json => {
                let parts = token.parts.as_ref().ok();
                say_json(&json!({
                    "ok": verdict.outcome != Outcome::Fail,
                    "verdict": verdict.text,
                    "kind": purpose.word(),
                    "configuration": world.source,
                    "header": parts.map(|parts| &parts.header),
                    "claims": parts.map(|parts| &parts.claims),
                    "findings": report.findings,
                    "not_looked_at": report.not_looked_at,
                }));
            }
            parts => {
                let mut page = Page::new();
                page.configuration(world.source.as_deref());
                if let Ok(parts) = parts {
                    show(parts, now, &mut page);
                }
                page.findings(&report.findings, self.verbose);
                page.verdict(verdict.outcome, &verdict.text);
            }
        }
        if verdict.outcome == Outcome::Fail { Err(Failure::Found) } else { Ok(()) }
    }
}

/// What an argument names: a file, standard input (`-`), or the token itself.
fn recognised(argument: &SecretString, world: &World) -> Result<Material, Failure> {
    let text = argument.expose_secret();
    if text != "-" && Path::new(text).exists() {
        return read(Path::new(text), world);
    }
    let token = token_argument(argument)?;
    if token.parts.is_err() && text != "-" && !text.contains("eyJ") {
        // It isn't shown: it may be a secret all the same.
        let reason = "an argument is neither a token nor the name of a file that is there";
        return Err(Failure::Failed(reason.to_owned()));
    }
    Ok(Material::Token(token))
}

fn show(parts: &Parts, now: UnixTime, page: &mut Page) {
    for (title, json) in [("header", &parts.header), ("body", &parts.claims)] {
        page.heading(title);
        let Json::Object(members) = json else { continue };
        let longest = members.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        for (name, value) in members {
            let written = match value {
                Json::String(text) => doctor::visible(text),
                other => doctor::visible(&serde_json::to_string(other).unwrap_or_default()),
            };
            let when = match parts.time(name) {
                Some(seconds) if ["exp", "iat", "nbf"].contains(&name.as_str()) => {
                    format!("  {}", doctor::dated(UnixTime::from_seconds(seconds), now))
                }
                _ => String::new(),
            };
            let name = doctor::visible(name);
            page.line(&format!("  {name:longest$}  {written}{when}"));
        }
    }
    page.line("");
}
