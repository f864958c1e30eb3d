//! `tokenmint verify`: reads a token and checks whether its relying party would accept it.

use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::doctor::{
    ConfigStatus, add_jwks, check_file_exists, parse_token_arg, read_artifact, read_jwk_file,
    read_verification_key,
};
use super::findings::TextReport;
use super::{CliContext, CliError, print_json};
use crate::app;
use crate::clock::UnixTime;
use crate::doctor::{self, Artifact, CheckInput, CheckOutcome, GivenArtifacts, JwtParts, Purpose};
use crate::json::Json;

/// Read a token and check whether its relying party (Salesforce, Intercom, …) would accept it
///
/// No token leaves this machine. Keys come from what you give, otherwise from the configuration. Only --jwks with an
/// address sends a request.
#[derive(Args)]
#[command(after_help = "Example: tokenmint mint identity.web --sub user-1 | tokenmint verify\n         \
                        tokenmint verify token.txt WebAppKey1.jwk")]
pub(super) struct VerifyCommand {
    /// The token, or files with the token, private keys, certificates and JWKs that should verify it [default: the
    /// token is read from standard input, which keeps it out of the shell's history]
    #[arg(value_name = "TOKEN|FILE")]
    given: Vec<SecretString>,
    /// A private key, certificate or JWK that should verify it
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// A JWK that should verify it
    #[arg(long, value_name = "FILE")]
    jwk: Vec<PathBuf>,
    /// A JWK Set that should verify it: a file, or an address to fetch it from
    #[arg(long, value_name = "URL")]
    jwks: Vec<String>,
    /// The JSON Web Key Issuer that Setup shows
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// The purpose of the token [default: derived from its content]
    #[arg(long = "as", value_name = "KIND")]
    purpose: Option<Purpose>,
    /// Print passed checks too
    #[arg(short, long)]
    verbose: bool,
    /// Print the decoded parts and the findings as JSON
    #[arg(long)]
    json: bool,
}

impl VerifyCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let status = ConfigStatus::load(context, false)?;
        if context.config.is_some() && status.loaded.is_none() {
            // With a named configuration, the token must be checked against it.
            return Err(status.into_error());
        }
        self.key
            .iter()
            .chain(&self.jwk)
            .enumerate()
            .try_for_each(|(at, path)| check_file_exists(at, path))?;
        let mut given = GivenArtifacts {
            issuer: self.issuer.clone(),
            purpose: self.purpose,
            verify_only: true,
            ..GivenArtifacts::default()
        };
        for path in &self.key {
            given.add(read_verification_key(path, &status)?);
        }
        for path in &self.jwk {
            given.jwks.push(read_jwk_file(path, false)?);
        }
        let runtime = app::runtime().map_err(CliError::failed)?;
        for source in &self.jwks {
            add_jwks(source, &mut given, &runtime, context)?;
        }
        for argument in &self.given {
            given.add(read_argument(argument, &status)?);
        }
        if given.tokens.is_empty() {
            given.tokens.push(parse_token_arg(&SecretString::from("-"))?);
        }
        for document in &mut given.jwks {
            // Nothing is uploaded here, so a JWK Set is as good as a single JWK.
            document.served |= document.is_jwk_set();
        }
        let now = context.clock_and_rng.clock.now();
        let known = CheckInput { now, configured: status.configured(), given, probe_results: None };

        let [token] = known.given.tokens.as_slice() else {
            let reason = "give one token; `tokenmint doctor` accepts several";
            return Err(CliError::Usage(reason.to_owned()));
        };
        let (report, verdict) = doctor::verify_token(&known);
        let purpose = known.infer_purpose(token).purpose;
        match &token.parts {
            _ if self.json => {
                let parts = token.parts.as_ref().ok();
                print_json(&json!({
                    "ok": verdict.outcome != CheckOutcome::Fail,
                    "verdict": verdict.text,
                    "kind": purpose.as_str(),
                    "configuration": status.source,
                    "header": parts.map(|parts| &parts.header),
                    "claims": parts.map(|parts| &parts.claims),
                    "comparisons": report.comparisons,
                    "findings": report.findings,
                    "not_looked_at": report.skipped,
                }));
            }
            parts => {
                let mut page = TextReport::new();
                page.configuration(status.source.as_deref());
                if let Ok(parts) = parts {
                    print_parts(parts, now, &mut page);
                }
                page.comparisons(&report.comparisons);
                page.findings(&report.findings, self.verbose);
                page.verdict(verdict.outcome, &verdict.text);
            }
        }
        if verdict.outcome == CheckOutcome::Fail { Err(CliError::ProblemsFound) } else { Ok(()) }
    }
}

/// Reads an argument: a file, standard input (`-`), or the token itself.
fn read_argument(argument: &SecretString, status: &ConfigStatus) -> Result<Artifact, CliError> {
    let text = argument.expose_secret();
    if text != "-" && Path::new(text).exists() {
        return read_artifact(Path::new(text), status);
    }
    let token = parse_token_arg(argument)?;
    if token.parts.is_err() && text != "-" && !text.contains("eyJ") {
        // The argument isn't shown, because it may be a secret.
        let reason = "an argument is neither a token nor the name of an existing file";
        return Err(CliError::Failed(reason.to_owned()));
    }
    Ok(Artifact::Token(token))
}

fn print_parts(parts: &JwtParts, now: UnixTime, page: &mut TextReport) {
    for (title, json) in [("header", &parts.header), ("body", &parts.claims)] {
        page.heading(title);
        let Json::Object(members) = json else { continue };
        let longest = members.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        for (name, value) in members {
            // As JSON, so that the text "6000" doesn't look like the number.
            let written = doctor::escape_invisible(&serde_json::to_string(value).unwrap_or_default());
            let when = match parts.numeric_date(name) {
                Some(seconds) if ["exp", "iat", "nbf"].contains(&name.as_str()) => {
                    format!("  {}", doctor::relative_date(UnixTime::from_seconds(seconds), now))
                }
                _ => String::new(),
            };
            let name = doctor::escape_invisible(name);
            page.line(&format!("  {name:longest$}  {written}{when}"));
        }
    }
    page.line("");
}
