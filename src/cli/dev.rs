//! `tokenmint dev`: the service with made-up keys, one caller and the sandbox, on loopback, in one process.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::sandbox::{Guests, org};
use super::{Context, Failure, all_said, api_key_sha256, new_api_key, parse_address, say, say_json, serve};
use crate::app::Loaded;
use crate::app::logging::Output;
use crate::config::{Config, Environment};
use crate::keys;
use crate::sandbox::{self, Keys, Sandbox, Settings};
use crate::shell;

/// Run the service with made-up keys, one caller and the sandbox, on loopback; prints commands to paste
///
/// Reads no configuration. Keys, secrets and the API key are gone when it ends.
#[derive(Args)]
#[command(after_help = "Example: tokenmint dev --listen 127.0.0.1:9000")]
pub(super) struct Dev {
    /// Where to listen; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = parse_address)]
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
        let sandbox = TcpListener::bind("127.0.0.1:0").and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((format!("http://{}", listener.local_addr()?), listener))
        });
        let (salesforce, listener) = sandbox.map_err(Failure::failed)?;
        let text = made_up(self.listen, &salesforce, &api_key, context)?;
        // Only its own text counts, whatever the shell has set.
        let config = Config::parse("dev", text.expose_secret(), PathBuf::new(), &Environment::new());
        let config = config.map_err(Failure::from)?;
        let loaded = Loaded::new(config, &*context.ambient.clock).map_err(Failure::of_files)?;
        let clock = context.ambient.clock.clone();
        let mut org = org(&loaded, "", Guests::Anonymous, clock.now());
        serve::run(loaded, None, context, Output::Stderr, |app| {
            let url = app.addresses().next().map(|(_, scheme, address)| format!("{scheme}://{address}"));
            let url = url.unwrap_or_default();
            for deployment in &mut org.deployments {
                deployment.keys = Keys::Url(format!("{url}/keysets/web/jwks.json"));
            }
            play(listener, Sandbox::new(org, clock, Settings::default()));
            self.introduce(&url, &salesforce, &api_key);
            all_said()
        })
    }

    fn introduce(&self, url: &str, salesforce: &str, api_key: &SecretString) {
        let api_key = api_key.expose_secret();
        if self.json {
            return say_json(&json!({"url": url, "sandbox": salesforce, "api_key": api_key}));
        }
        let ask = |path: &str, body: &str| {
            format!(
                "curl -s {} -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' -d '{body}'",
                shell::quoted(format_args!("{url}{path}"))
            )
        };
        say(&format!(
            "tokenmint listens on {url}, with keys made up for now; a Salesforce to test against plays at \
             {salesforce}. Paste into another terminal:
"
        ));
        say("# who is chatting: the identity token for Salesforce Enhanced Chat");
        say(&ask("/identity-token", r#"{"sub": "user-1"}"#));
        say("\n# the keys with which Salesforce verifies it");
        say(&format!("curl -s {}", shell::quoted(format_args!("{url}/keysets/web/jwks.json"))));
        say("\n# Intercom's user JWT");
        say(&ask("/intercom-user-jwt", r#"{"user_id": "user-1"}"#));
        say("\n# the assertion of the OAuth 2.0 JWT bearer flow");
        say(&ask("/oauth-assertion", "{}"));
        say("\n# that assertion exchanged for an access token, and kept");
        say(&ask("/oauth-access-token", "{}"));
        say(
            "\n# the identity token exchanged for a messaging access token, the user verified through the keys above",
        );
        say(&ask("/messaging-access-token", r#"{"sub": "user-1"}"#));
        say("\n# both tokens of a page with Fin, in one call");
        say(&ask("/bundle", r#"{"sub": "user-1"}"#));
        say(
            "\n# an example of a backend, from the folder of tokenmint's repository. Its first lines say what it needs to be \
             installed, and where it listens",
        );
        for (example, start) in EXAMPLES {
            say(&format!(
                "(cd examples/{example} && TOKENMINT_URL={} TOKENMINT_API_KEY={api_key} {start})",
                shell::quoted(url)
            ));
        }
        say("\nStop with Ctrl-C. For keys of your own: tokenmint init");
    }
}

/// How each of the example backends starts.
const EXAMPLES: &[(&str, &str)] = &[
    ("express", "node app.js"),
    ("fastapi", "uvicorn app:app"),
    ("sinatra", "ruby app.rb"),
    ("curl", "./chat-tokens user-1"),
];

/// Plays Salesforce until the process ends.
fn play(listener: TcpListener, sandbox: Sandbox) {
    tokio::spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener);
        let played = match listener {
            Ok(listener) => sandbox::serve(listener, sandbox, CancellationToken::new()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = played {
            tracing::error!(%error, "the sandbox ended");
        }
    });
}

/// A configuration with fresh keys in it.
fn made_up(
    listen: SocketAddr,
    salesforce: &str,
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
[identity.web.messaging]
scrt_url = "{salesforce}"
org_id = "00D000000000001"
es_developer_name = "Web_Channel"
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9-made-up"
username = "integration@acme.example"
audience = "https://login.salesforce.com"
token_url = "{salesforce}/services/oauth2/token"
[intercom.fin]
secret = "{secret}"
[bundles.fin]
salesforce_identity_token = "identity.web"
intercom_user_jwt = "intercom.fin"
[callers.dev]
api_key_sha256 = ["{digest}"]
allow = ["identity.web", "oauth.crm", "intercom.fin", "bundles.fin"]
"#,
        web = web.expose_secret(),
        crm = crm.expose_secret(),
        secret = URL_SAFE_NO_PAD.encode(secret),
        digest = api_key_sha256(api_key),
    );
    Ok(SecretString::from(text))
}
