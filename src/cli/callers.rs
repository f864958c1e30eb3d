//! `tokenmint callers`: API keys for the programs that may ask for tokens.

use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{Context, Failure, api_key_sha256, new_api_key, say, say_json};
use crate::config::{Name, ProfileName};

/// Make API keys for the programs that may ask for tokens
#[derive(Subcommand)]
#[command(after_help = "Example: tokenmint callers new rails-web")]
pub(super) enum Callers {
    New(New),
}

impl Callers {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        match self {
            Self::New(command) => command.run(context),
        }
    }
}

/// Make an API key, shown this once, and the lines for the configuration
///
/// The configuration keeps its SHA-256 only. To change a key without a pause, list both hashes for a while.
#[derive(Args)]
#[command(after_help = "Example: tokenmint callers new rails-web --allow identity.web")]
pub(super) struct New {
    /// What the caller is called
    #[arg(value_parser = parse_name)]
    name: Name,
    /// A profile that it may use; several times for several
    #[arg(long, value_name = "PROFILE", value_parser = parse_profile)]
    allow: Vec<ProfileName>,
    /// Print the key and its hash as JSON
    #[arg(long)]
    json: bool,
}

fn parse_name(text: &str) -> Result<Name, String> {
    Name::parse(text)
}

fn parse_profile(text: &str) -> Result<ProfileName, String> {
    ProfileName::parse(text)
}

impl New {
    fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let api_key = new_api_key(&*context.ambient.randomness)?;
        let digest = api_key_sha256(&api_key);
        let allow: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
        if self.json {
            let api_key = api_key.expose_secret();
            say_json(
                &json!({"caller": self.name, "api_key": api_key, "api_key_sha256": digest, "allow": allow}),
            );
            return Ok(());
        }
        let allow = match allow.as_slice() {
            [] => r#"["identity.web"]   # the profiles that it may use"#.to_owned(),
            allow => format!("{allow:?}"),
        };
        say(&format!("API key, shown this once; give it to {} as a secret:\n", self.name));
        say(&format!("    {}\n", api_key.expose_secret()));
        say("and these lines to tokenmint.toml:\n");
        say(&format!("[callers.{}]\napi_key_sha256 = [\"{digest}\"]\nallow = {allow}", self.name));
        Ok(())
    }
}
