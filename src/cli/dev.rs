//! `tokenmint dev`: runs the service with generated keys, one caller, the sandbox and a made-up issuer of JWTs, on loopback, in one
//! process.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::sandbox::{OnFailureArg, org_from_config};
use super::{
    CliContext, CliError, OutputLoss, flush_stdout, hash_api_key, new_api_key, parse_tcp_address, print_json,
    print_line, serve,
};
use crate::app::LoadedConfig;
use crate::app::logging::LogOutput;
use crate::config::{Config, Environment};
use crate::keys;
use crate::sandbox::{self, DemoIssuer, KeySource, Sandbox, Settings};
use crate::shell;

/// Run the service with made-up keys, one caller and the sandbox, on loopback; prints commands to paste
///
/// Reads no configuration. A made-up issuer of JWTs proves who the caller and its users are. The keys, secrets, tokens and API
/// key exist only until it stops.
#[derive(Args)]
#[command(after_help = "Example: tokenmint dev --listen 127.0.0.1:9000")]
pub(super) struct DevCommand {
    /// Where to listen; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = parse_tcp_address)]
    listen: SocketAddr,
    /// Print one JSON object: the addresses `url`, `sandbox` and `issuer`, and `api_key`, `jwt` and `subject_token`
    #[arg(long)]
    json: bool,
}

impl DevCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        if !self.listen.ip().is_loopback() {
            let reason = "dev listens on loopback only: anyone who reaches it can impersonate any customer";
            return Err(CliError::Usage(reason.to_owned()));
        }
        let api_key = new_api_key(&*context.clock_and_rng.randomness)?;
        let (salesforce, listener) = bind_loopback().map_err(CliError::failed)?;
        let (issuer_url, issuer_listener) = bind_loopback().map_err(CliError::failed)?;
        let issuer = DemoIssuer::new(issuer_url.clone()).map_err(CliError::failed)?;
        let text = dev_config(self.listen, &salesforce, &issuer_url, &api_key, context)?;
        // Environment variables must not override the generated configuration.
        let config = Config::parse("dev", text.expose_secret(), PathBuf::new(), &Environment::new());
        let config = config.map_err(CliError::from)?;
        let loaded =
            LoadedConfig::new(config, &*context.clock_and_rng.clock).map_err(CliError::invalid_config)?;
        let clock = context.clock_and_rng.clock.clone();
        let token = |sub| issuer.token(sub, AUDIENCE, clock.now().seconds()).map_err(CliError::failed);
        let credentials =
            Credentials { issuer: issuer_url, api_key, jwt: token(WORKLOAD)?, subject_token: token(USER)? };
        let mut org = org_from_config(&loaded, "", OnFailureArg::Anonymous, clock.now());
        serve::run(loaded, None, context, LogOutput::Stderr, |app| {
            let url = app.addresses().next().map(|(_, scheme, address)| format!("{scheme}://{address}"));
            let url = url.unwrap_or_default();
            for deployment in &mut org.deployments {
                deployment.keys = KeySource::Url(format!("{url}/keysets/web/jwks.json"));
            }
            spawn_server("the sandbox", listener, move |listener| {
                sandbox::serve(
                    listener,
                    Sandbox::new(org, clock, Settings::default()),
                    CancellationToken::new(),
                )
            });
            spawn_server("the issuer", issuer_listener, move |listener| issuer.serve(listener));
            self.print_instructions(&url, &salesforce, &credentials);
            flush_stdout(OutputLoss::Text)
        })
    }

    fn print_instructions(&self, url: &str, salesforce: &str, credentials: &Credentials) {
        let Credentials { issuer, api_key, jwt, subject_token } = credentials;
        let api_key = api_key.expose_secret();
        if self.json {
            return print_json(&json!({
                "url": url,
                "sandbox": salesforce,
                "issuer": issuer,
                "api_key": api_key,
                "jwt": jwt,
                "subject_token": subject_token,
            }));
        }
        let ask_as = |credential: &str, path: &str, body: &str| {
            format!(
                "curl -s {} -H 'Authorization: Bearer {credential}' -H 'Content-Type: application/json' -d '{body}'",
                shell::quote(format_args!("{url}{path}"))
            )
        };
        let ask = |path: &str, body: &str| ask_as(api_key, path, body);
        print_line(&format!(
            "tokenmint listens on {url}, with made-up keys; a simulated Salesforce listens on {salesforce}, and an \
            issuer of JWTs on {issuer}. Paste into another terminal:
"
        ));
        print_line("# the identity token for Salesforce Enhanced Chat, which says who is chatting");
        print_line(&ask("/identity-token", r#"{"sub": "user-1"}"#));
        print_line("\n# the keys with which Salesforce verifies it");
        print_line(&format!("curl -s {}", shell::quote(format_args!("{url}/keysets/web/jwks.json"))));
        print_line("\n# Intercom's user JWT");
        print_line(&ask("/intercom-user-jwt", r#"{"user_id": "user-1"}"#));
        print_line("\n# the assertion of the OAuth 2.0 JWT bearer flow");
        print_line(&ask("/oauth-assertion", "{}"));
        print_line("\n# that assertion exchanged for an access token, which is cached");
        print_line(&ask("/oauth-access-token", "{}"));
        print_line("\n# the same access token, as an OAuth client library requests it");
        print_line(&format!(
            "curl -s {} -u dev:{api_key} -d grant_type=client_credentials",
            shell::quote(format_args!("{url}/oauth2/token"))
        ));
        print_line(
            "\n# the identity token exchanged for a messaging access token, the user verified through the keys above",
        );
        print_line(&ask("/messaging-access-token", r#"{"sub": "user-1"}"#));
        print_line("\n# both tokens of a page with Fin, in one call");
        print_line(&ask("/bundle", r#"{"sub": "user-1"}"#));
        print_line(
            "\n# an identity token, with the JWT of the backend's platform in place of the API key; it is valid for an hour",
        );
        print_line(&ask_as(jwt, "/identity-token", r#"{"sub": "user-1"}"#));
        print_line(
            "\n# an identity token for the user of an identity provider's JWT, which is valid for an hour",
        );
        print_line(&ask("/identity-token", &json!({"subject_token": subject_token}).to_string()));
        print_line(
            "\n# an example backend, from the folder of tokenmint's repository. The first lines of its main \
            file (of Rails: config/application.rb) say what to install, and where it listens",
        );
        for (example, start) in EXAMPLE_BACKENDS {
            print_line(&format!(
                "(cd examples/{example} && TOKENMINT_URL={} TOKENMINT_API_KEY={api_key} {start})",
                shell::quote(url)
            ));
        }
        print_line("\nStop with Ctrl-C. For keys of your own: tokenmint init");
    }
}

/// The command that starts each example backend.
const EXAMPLE_BACKENDS: &[(&str, &str)] = &[
    ("express", "node app.js"),
    ("fastapi", "uvicorn app:app"),
    ("rails", "ruby bin/rails server"),
    ("sinatra", "ruby app.rb"),
    ("curl", "./chat-tokens user-1"),
];

/// The `aud` of the made-up issuer's tokens.
const AUDIENCE: &str = "tokenmint";
/// The `sub` of the caller's JWT: a service account of Kubernetes.
const WORKLOAD: &str = "system:serviceaccount:shop:web";
/// The subject of the printed subject token.
const USER: &str = "user-1";

/// With what the printed commands authenticate.
struct Credentials {
    /// The address of the issuer of both JWTs.
    issuer: String,
    api_key: SecretString,
    jwt: String,
    subject_token: String,
}

/// A listener on loopback with its URL.
fn bind_loopback() -> std::io::Result<(String, TcpListener)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    Ok((format!("http://{}", listener.local_addr()?), listener))
}

/// Runs a server until the process exits.
fn spawn_server<F>(
    name: &'static str,
    listener: TcpListener,
    serve: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
) where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        let served = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => serve(listener).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, "{name} ended");
        }
    });
}

/// Generates a configuration with new keys.
fn dev_config(
    listen: SocketAddr,
    salesforce: &str,
    issuer: &str,
    api_key: &SecretString,
    context: &CliContext<'_>,
) -> Result<SecretString, CliError> {
    let randomness = &*context.clock_and_rng.randomness;
    let key = || keys::generate_private_key(2048, randomness).map_err(CliError::failed);
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
[issuers.demo]
issuer = "{issuer}"
audience = ["{AUDIENCE}"]
discovery = true
[callers.dev]
api_key_sha256 = ["{digest}"]
jwt_issuer = "demo"
jwt_claims = {{ sub = ["{WORKLOAD}"] }}
subject_token = "optional"
subject_issuer = "demo"
allow = ["identity.web", "oauth.crm", "intercom.fin", "bundles.fin"]
"#,
        web = web.expose_secret(),
        crm = crm.expose_secret(),
        secret = URL_SAFE_NO_PAD.encode(secret),
        digest = hash_api_key(api_key),
    );
    Ok(SecretString::from(text))
}
