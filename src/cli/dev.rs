//! `tokenmint dev`: the service with made-up keys and one caller, on loopback, in one process.

use std::net::SocketAddr;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::{Context, Failure, api_key_sha256, new_api_key, say, say_json, serve};
use crate::app::logging::Output;
use crate::app::{App, Loaded};
use crate::config::{Config, Environment};
use crate::keys;

/// Run the service with made-up keys and one caller, on loopback; prints commands to paste
///
/// Reads no configuration. Keys, secrets and the API key are gone when it ends.
#[derive(Args)]
#[command(after_help = "Example: tokenmint dev --listen 127.0.0.1:9000")]
pub(super) struct Dev {
    /// Where to listen; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Print the address and the API key as JSON
    #[arg(long)]
    json: bool,
}

impl Dev {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        if !self.listen.ip().is_loopback() {
            let reason = "dev listens on loopback only: everybody who reaches it can be any customer";
            return Err(Failure::Usage(reason.to_owned()));
        }
        let api_key = new_api_key(&*context.ambient.randomness)?;
        let text = made_up(self.listen, &api_key, context)?;
        // Only its own text counts, whatever the shell has set.
        let config = Config::parse("dev", text.expose_secret(), PathBuf::new(), &Environment::new());
        let config = config.map_err(Failure::from)?;
        let loaded = Loaded::new(config, &*context.ambient.clock).map_err(Failure::of_files)?;
        serve::run(loaded, context, Output::Stderr, |app| self.introduce(app, &api_key))
    }

    fn introduce(&self, app: &App, api_key: &SecretString) {
        let api_key = api_key.expose_secret();
        let url = app.addresses().next().map(|(_, scheme, address)| format!("{scheme}://{address}"));
        let url = url.unwrap_or_default();
        if self.json {
            return say_json(&json!({"url": url, "api_key": api_key}));
        }
        let ask = |path: &str, body: &str| {
            format!(
                "curl -s {url}{path} -H 'Authorization: Bearer {api_key}' \
                 -H 'Content-Type: application/json' -d '{body}'"
            )
        };
        say(&format!(
            "tokenmint listens on {url}, with keys made up for now. Paste into another terminal:\n"
        ));
        say("# who is chatting: the identity token for Salesforce Enhanced Chat");
        say(&ask("/identity-token", r#"{"sub": "user-1"}"#));
        say("\n# the keys with which Salesforce verifies it");
        say(&format!("curl -s {url}/keysets/web/jwks.json"));
        say("\n# Intercom's user JWT");
        say(&ask("/intercom-user-jwt", r#"{"user_id": "user-1"}"#));
        say("\n# the assertion of the OAuth 2.0 JWT bearer flow");
        say(&ask("/oauth-assertion", "{}"));
        say("\nStop with Ctrl-C. For keys of your own: tokenmint init");
    }
}

/// A configuration with fresh keys in it.
fn made_up(
    listen: SocketAddr,
    api_key: &SecretString,
    context: &Context<'_>,
) -> Result<SecretString, Failure> {
    let randomness = &*context.ambient.randomness;
    let key = || keys::generate(2048, randomness).map_err(Failure::failed);
    let (web, crm) = (key()?, key()?);
    let mut secret = [0; 32];
    randomness.fill(&mut secret)?;
    let text = format!(
        r#"
[server]
listen = "{listen}"
[keysets.web]
kid = "WebAppKey1"
key = """{web}"""
[keysets.crm]
kid = "CrmKey1"
key = """{crm}"""
[identity.web]
keyset = "web"
issuer = "tokenmint-dev"
audience = "https://acme.my.salesforce-scrt.com"
claims = ["locale"]
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9-made-up"
username = "integration@acme.example"
audience = "https://login.salesforce.com"
[intercom.fin]
secret = "{secret}"
[callers.dev]
api_key_sha256 = ["{digest}"]
allow = ["identity.web", "oauth.crm", "intercom.fin"]
"#,
        web = web.expose_secret(),
        crm = crm.expose_secret(),
        secret = URL_SAFE_NO_PAD.encode(secret),
        digest = api_key_sha256(api_key),
    );
    Ok(SecretString::from(text))
}
