//! `tokenmint init`: a configuration, a key with its certificate, and an API key for a first caller.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::keys::{make_for_init, write_new};
use super::{Context, Failure, api_key_sha256, new_api_key, say, say_json};
use crate::config::{DEFAULT_FILE, Issuer, KeyId};

/// Write a configuration, a key with its certificate, and an API key for a first caller
///
/// Nothing is overwritten.
#[derive(Args)]
#[command(after_help = "Example: tokenmint init /etc/tokenmint --issuer intercom.com --kid WebAppKey1")]
pub(super) struct Init {
    /// Where to write
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// The JSON Web Key Issuer of the keyset in Salesforce Setup, byte for byte
    #[arg(long, default_value = "tokenmint")]
    issuer: String,
    /// The key id of the first key
    #[arg(long, default_value = "WebAppKey1", value_parser = parse_kid)]
    kid: KeyId,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

fn parse_kid(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text)
}

impl Init {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let issuer =
            Issuer::parse(&self.issuer).map_err(|message| Failure::Usage(format!("--issuer {message}")))?;
        let file = self.directory.join(DEFAULT_FILE);
        if file.exists() {
            return Err(Failure::Failed(format!("{} is there already; nothing was written", file.display())));
        }
        let api_key = new_api_key(&*context.ambient.randomness)?;
        let keys = self.directory.join("keys/web");
        fs::create_dir_all(&self.directory)
            .map_err(|error| Failure::Failed(format!("{}: {error}", self.directory.display())))?;
        let ignored = self.directory.join("keys/.gitignore");
        make_for_init(&keys, &self.kid, context)?;
        if !ignored.exists() {
            write_new(&ignored, 0o644, &SecretString::from("*.key\n"))?;
        }
        write_new(&file, 0o644, &SecretString::from(configuration(&issuer, &api_key_sha256(&api_key))))?;

        let (file, key) = (file.display(), keys.join(format!("{}.key", self.kid)));
        let api_key = api_key.expose_secret();
        if self.json {
            let made = json!({"config": file.to_string(), "private_key": key, "caller": "web-backend", "api_key": api_key});
            say_json(&made);
            return Ok(());
        }
        say(&format!(
            "{file}  the configuration\n{}  the private key; back it up, show it to nobody",
            key.display()
        ));
        let certificate = keys.join(format!("{}.crt", self.kid));
        say(&format!("{}  its certificate; beside it the JWK for Salesforce Setup", certificate.display()));
        say(&format!("\nAPI key of the caller `web-backend`, shown this once:\n\n    {api_key}\n"));
        say(&format!(
            "Set the issuer, look with `tokenmint check --config {file}`, run it:\n\n    tokenmint serve --config {file}\n\nand ask for a token:\n"
        ));
        say(&format!(
            "    curl -s http://127.0.0.1:8080/identity-token -H 'Authorization: Bearer {api_key}' \
             -H 'Content-Type: application/json' -d '{{\"sub\": \"user-1\"}}'"
        ));
        Ok(())
    }
}

fn configuration(issuer: &Issuer, digest: &str) -> String {
    // A TOML basic string is escaped like a JSON one.
    let issuer = serde_json::Value::from(issuer.as_str());
    format!(
        r#"# What tokenmint mints, and for whom. `tokenmint check` says what is wrong with it.

[server]
listen = "127.0.0.1:8080"

[keysets.web]
directory = "keys/web"        # KID.key, KID.crt

[identity.web]                # the identity token for Salesforce Enhanced Chat
keyset = "web"
issuer = {issuer}   # byte for byte the keyset's JSON Web Key Issuer in Salesforce Setup
ttl = "1h"

[callers.web-backend]         # `tokenmint callers new NAME` makes another
api_key_sha256 = ["{digest}"]
allow = ["identity.web"]
"#
    )
}
