//! `tokenmint callers`: creates API keys for callers.

use std::path::Path;

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{
    CliContext, CliError, WithConfig, hash_api_key, list_known_names, new_api_key, print_json, print_line,
    print_stderr,
};
use crate::config::{Config, DEFAULT_CONFIG_FILE, Name, ProfileKind, ProfileName};

/// Create API keys for the programs that may request tokens
#[derive(Subcommand)]
#[command(after_help = "Example: tokenmint callers new rails-web")]
pub(super) enum CallersCommand {
    New(WithConfig<NewCallerCommand>),
}

impl CallersCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        match self {
            Self::New(command) => command.run(context, NewCallerCommand::run),
        }
    }
}

/// Create an API key, shown only once, and the lines for the configuration
///
/// The configuration stores only its SHA-256. To replace a key without downtime, list both hashes for a while. An
/// existing configuration is used to check the profiles; it is never written.
#[derive(Args)]
#[command(
    after_help = "Example: tokenmint callers new rails-web --allow identity.web,intercom.fin,bundles.fin"
)]
pub(super) struct NewCallerCommand {
    /// The name of the caller
    #[arg(value_parser = parse_name)]
    name: Name,
    /// The profiles and bundles that it may use, for example identity.web,intercom.fin,bundles.fin
    #[arg(long, value_name = "PROFILES", value_delimiter = ',', value_parser = parse_profile)]
    allow: Vec<ProfileName>,
    /// Print the key and its hash as JSON
    #[arg(long)]
    json: bool,
}

fn parse_name(text: &str) -> Result<Name, String> {
    Name::parse(text)
}

fn parse_profile(text: &str) -> Result<ProfileName, String> {
    ProfileName::parse(text.trim())
}

/// Loads the configuration if there is one; warns if it is invalid.
fn load_config_if_present(context: &CliContext<'_>) -> Option<Config> {
    let is_named = context.config.is_some() || context.is_configured_by_environment();
    if !is_named && !Path::new(DEFAULT_CONFIG_FILE).exists() {
        return None;
    }
    let loaded = context.config();
    if let Err(failure) = &loaded {
        print_stderr(&format!(
            "warning: the profiles are not checked, because the configuration can't be used: {}",
            failure.summary()
        ));
    }
    loaded.ok()
}

impl NewCallerCommand {
    fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let config = load_config_if_present(context);
        if let Some(config) = &config {
            let bundles =
                config.bundles.keys().map(|name| ProfileName::new(ProfileKind::Bundle, name.clone()));
            let known: Vec<ProfileName> = config.profiles().chain(bundles).collect();
            if let Some(other) = self.allow.iter().find(|profile| !known.contains(profile)) {
                let reason = format!(
                    "--allow: there is no `{other}` in the configuration; {}",
                    list_known_names(known)
                );
                return Err(CliError::Usage(reason));
            }
        }
        let before = config.as_ref().and_then(|config| config.callers.get(&self.name));
        let api_key = new_api_key(&*context.clock_and_rng.randomness)?;
        let digest = hash_api_key(&api_key);
        let allow: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
        if self.json {
            let api_key = api_key.expose_secret();
            print_json(
                &json!({"caller": self.name, "api_key": api_key, "api_key_sha256": digest, "allow": allow}),
            );
            return Ok(());
        }
        let allow = match allow.as_slice() {
            [] => r#"["identity.web"]   # the profiles that it may use"#.to_owned(),
            allow => format!("{allow:?}"),
        };
        print_line(&format!("API key, shown only once; give it to {} as a secret:\n", self.name));
        print_line(&format!("    {}\n", api_key.expose_secret()));
        if let Some(caller) = before {
            let hashes = caller.api_key_sha256.iter().map(|hash| HEXLOWER.encode(hash)).chain([digest]);
            print_line(&format!("Add its hash to [callers.{}], which exists already:\n", self.name));
            print_line(&format!("api_key_sha256 = {:?}", hashes.collect::<Vec<_>>()));
            return Ok(());
        }
        print_line("Add these lines to tokenmint.toml:\n");
        print_line(&format!("[callers.{}]\napi_key_sha256 = [\"{digest}\"]\nallow = {allow}", self.name));
        Ok(())
    }
}
