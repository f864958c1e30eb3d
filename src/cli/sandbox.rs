//! `tokenmint sandbox`: runs a simulated Salesforce for tests, on loopback, set up from the configuration.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    CliContext, CliError, OutputLoss, flush_stdout, parse_tcp_address, print_json, print_line, print_stderr,
};
use crate::app::{self, LoadedConfig};
use crate::clock::UnixTime;
use crate::config::salesforce::{HostKind, SalesforceHost};
use crate::config::{Config, HttpsOrLoopbackUrl, ListenAddress, OauthConfig};
use crate::sandbox::{self, ConnectedApp, Deployment, KeySource, OnFailure, Org, Sandbox, Settings};
use crate::shell;

/// The org id if the configuration has none.
const DEFAULT_ORG_ID: &str = "00D000000000001";

/// Run a simulated Salesforce for tests, on loopback
///
/// It simulates the org of the configuration. Each [oauth.NAME] is an app with its keyset's certificates and a
/// pre-authorized user. Each [identity.NAME.messaging] is a deployment that fetches its keys from the running
/// service. POST /__sandbox/faults injects faults. GET /__sandbox/state shows the requests and why they were
/// rejected.
#[derive(Args)]
#[command(after_help = "Example: tokenmint sandbox --jwks-base http://127.0.0.1:8080")]
pub(super) struct SandboxCommand {
    /// Where to listen; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = parse_tcp_address)]
    listen: SocketAddr,
    /// Where the service publishes its keys [default: server.public.url, else server.listen]
    #[arg(long, value_name = "URL")]
    jwks_base: Option<String>,
    /// A JWK uploaded in Setup, instead of the keyset's endpoint; may be repeated
    #[arg(long, value_name = "FILE")]
    upload: Vec<PathBuf>,
    /// The response to an identity token that fails verification; all three occur in practice
    #[arg(long, value_name = "HOW", value_enum, default_value_t = OnFailureArg::Anonymous)]
    on_failure: OnFailureArg,
    /// Print the simulated org as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum OnFailureArg {
    /// 200 with an ANON session
    Anonymous,
    /// 200 with an UNAUTH session
    Unauthenticated,
    /// 401
    Refuse,
}

impl SandboxCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        if !self.listen.ip().is_loopback() {
            let reason = "the sandbox listens on loopback only: everybody who reaches it can log in";
            return Err(CliError::Usage(reason.to_owned()));
        }
        let loaded = context.load_with_all_keys()?;
        let now = context.clock_and_rng.clock.now();
        let uploaded = self.uploaded_keys(now)?;
        let base = if uploaded.is_some() { String::new() } else { self.jwks_base(&loaded.config)? };
        let mut org = org_from_config(&loaded, &base, self.on_failure, now);
        if let Some(keys) = uploaded {
            org.deployments.iter_mut().for_each(|deployment| deployment.keys = keys.clone());
        }
        let runtime = app::runtime().map_err(CliError::failed)?;
        let done = runtime.block_on(self.serve(&loaded.config, org, context));
        runtime.shutdown_background();
        done
    }

    async fn serve(&self, config: &Config, org: Org, context: &CliContext<'_>) -> Result<(), CliError> {
        // They are registered before the socket is bound: the default action of these signals kills the process.
        let mut terminate = signal(SignalKind::terminate()).map_err(CliError::failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::failed)?;
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener
            .map_err(|error| CliError::Failed(format!("can't listen on {}: {error}", self.listen)))?;
        let url = format!("http://{}", listener.local_addr().map_err(CliError::failed)?);
        self.print_instructions(config, &org, &url);
        flush_stdout(OutputLoss::Text)?;
        let sandbox = Sandbox::new(org, context.clock_and_rng.clock.clone(), Settings::default());
        let stop = CancellationToken::new();
        tokio::select! {
            served = sandbox::serve(listener, sandbox, stop.clone()) => served.map_err(CliError::failed),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    }

    /// Returns the keys given by --upload, if any.
    fn uploaded_keys(&self, now: UnixTime) -> Result<Option<KeySource>, CliError> {
        if self.upload.is_empty() {
            return Ok(None);
        }
        let upload = |path: &PathBuf| {
            let failed =
                |why: String| CliError::Failed(format!("{} fails to upload: it {why}", path.display()));
            let text = fs::read_to_string(path).map_err(|error| failed(format!("can't be read: {error}")))?;
            sandbox::upload_key(&text, now).map_err(failed)
        };
        let keys = self.upload.iter().map(upload).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(KeySource::Uploaded(json!({"keys": keys}))))
    }

    fn jwks_base(&self, config: &Config) -> Result<String, CliError> {
        if let Some(base) = &self.jwks_base {
            let base = HttpsOrLoopbackUrl::parse(base)
                .map_err(|why| CliError::Usage(format!("--jwks-base {why}")))?;
            return Ok(base.as_str().trim_end_matches('/').to_owned());
        }
        if let Some(url) = config.server.public.as_ref().and_then(|public| public.url.as_ref()) {
            return Ok(url.as_str().trim_end_matches('/').to_owned());
        }
        let scheme = if config.server.tls.is_some() { "https" } else { "http" };
        match &config.server.listen {
            ListenAddress::Tcp(address) if address.port() != 0 => {
                let mut address = *address;
                if address.ip().is_unspecified() {
                    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                Ok(format!("{scheme}://{address}"))
            }
            _ => Err(CliError::Usage("give the address of the service's keys with --jwks-base".to_owned())),
        }
    }

    fn print_instructions(&self, config: &Config, org: &Org, url: &str) {
        let token_url = format!("{url}/services/oauth2/token");
        let mine = |known: &Deployment, name: &str| known.es_developer_name == name;
        let deployments = config.identity.values().filter_map(|identity| {
            let messaging = identity.messaging.as_ref()?;
            let deployment =
                org.deployments.iter().find(|known| mine(known, &messaging.es_developer_name))?;
            let jwks = match &deployment.keys {
                KeySource::Url(url) => url,
                KeySource::Uploaded(_) => "the uploaded keys",
            };
            Some((&identity.name, deployment, jwks))
        });
        if self.json {
            let apps: Vec<_> = org
                .apps
                .iter()
                .map(|app| {
                    json!({
                        "consumer_key": app.consumer_key, "users": app.users,
                        "certificates": app.certificates.len(),
                    })
                })
                .collect();
            let deployments: Vec<_> = deployments
                .map(|(name, deployment, jwks)| {
                    json!({
                        "profile": format!("identity.{name}"), "issuer": deployment.issuer, "jwks": jwks,
                        "es_developer_name": deployment.es_developer_name,
                    })
                })
                .collect();
            return print_json(&json!({
                "url": url, "token_url": token_url, "scrt_url": url, "org_id": org.org_id, "apps": apps,
                "deployments": deployments,
            }));
        }
        print_line(&format!("A simulated Salesforce listens on {url}, as the org {}.", org.org_id));
        if config.oauth.is_empty() && deployments.clone().next().is_none() {
            print_line(
                "\nThe configuration exchanges no token yet: add [oauth.NAME], or [identity.NAME.messaging].",
            );
        } else {
            print_line("\nPut this into the configuration of the service:\n");
        }
        for oauth in config.oauth.values() {
            print_line(&format!("[oauth.{}]    # logs in {}", oauth.name, oauth.username));
            print_line(&format!("token_url = \"{token_url}\""));
        }
        for (name, _, jwks) in deployments {
            print_line(&format!("[identity.{name}.messaging]    # keys from {jwks}"));
            print_line(&format!("scrt_url = \"{url}\""));
        }
        print_line("\n# the requests that it got, and why it rejected some");
        let at = |path: &str| shell::quote(format_args!("{url}/__sandbox/{path}"));
        print_line(&format!("curl -s {}", at("state")));
        print_line("\n# the next login fails, and asks for a pause");
        print_line(&format!(
            "curl -s {} -d '[{{\"path\": \"token\", \"fault\": \"status\", \"status\": 503, \"retry_after\": \"5\"}}]'",
            at("faults")
        ));
        print_line("\n# end every session: access tokens become invalid");
        print_line(&format!("curl -s -X POST {}", at("expire-sessions")));
        print_line("\nStop with Ctrl-C.");
    }
}

/// Builds the simulated org from the configuration.
pub(super) fn org_from_config(
    loaded: &LoadedConfig,
    jwks_base: &str,
    on_failure: OnFailureArg,
    now: UnixTime,
) -> Org {
    let config = &loaded.config;
    let messaging = || config.identity.values().filter_map(|identity| identity.messaging.as_ref());
    let org_id = messaging().next().map_or(DEFAULT_ORG_ID, |messaging| messaging.org_id.as_str());
    let mut deployments = Vec::new();
    for identity in config.identity.values() {
        let Some(messaging) = &identity.messaging else { continue };
        if messaging.org_id.as_str() != org_id {
            print_stderr(&format!(
                "tokenmint: ignores identity.{}.messaging: it belongs to another org than {org_id}",
                identity.name
            ));
            continue;
        }
        let keys = format!("{jwks_base}/keysets/{}/jwks.json", identity.keyset);
        deployments.push(Deployment {
            on_failure: match on_failure {
                OnFailureArg::Anonymous => OnFailure::Anonymous,
                OnFailureArg::Unauthenticated => OnFailure::Unauthenticated,
                OnFailureArg::Refuse => OnFailure::Refuse,
            },
            ..Deployment::new(
                messaging.es_developer_name.as_str(),
                identity.issuer.as_str(),
                KeySource::Url(keys),
            )
        });
    }
    Org {
        org_id: org_id.to_owned(),
        my_domain: config.oauth.values().find_map(my_domain),
        apps: apps_from_config(loaded, now),
        deployments,
    }
}

/// Builds one app for each consumer key, with all users that log in through it.
fn apps_from_config(loaded: &LoadedConfig, now: UnixTime) -> Vec<ConnectedApp> {
    let mut apps: BTreeMap<&str, ConnectedApp> = BTreeMap::new();
    for oauth in loaded.config.oauth.values() {
        let app = apps.entry(&oauth.consumer_key).or_default();
        app.consumer_key.clone_from(&oauth.consumer_key);
        app.users.push(oauth.username.clone());
        if let Some(keyset) = loaded.ring.keysets.get(&oauth.keyset) {
            app.certificates.extend(keyset.published(now).map(|key| key.certificate(now).der));
        }
        // An Experience Cloud site, a foreign host and loopback are accepted as their own audience. Any other host isn't added: it is
        // a usual audience already, or a misspelt one.
        if matches!(host_of(&oauth.audience).kind, HostKind::Site | HostKind::ThirdParty | HostKind::Loopback)
        {
            let usual = ["https://login.salesforce.com", "https://test.salesforce.com"].map(str::to_owned);
            app.audiences.extend(usual.into_iter().chain(my_domain(oauth)));
            app.audiences.push(oauth.audience.as_str().to_owned());
        }
    }
    apps.into_values().collect()
}

/// Returns the My Domain URL of the profile, for example `https://acme.my.salesforce.com`, if it uses My Domain.
fn my_domain(oauth: &OauthConfig) -> Option<String> {
    let mut hosts = [&oauth.audience, &oauth.token_url].into_iter().map(host_of);
    let host = hosts.find(|host| host.kind == HostKind::MyDomain)?;
    Some(format!("https://{}", host.name))
}

fn host_of(url: &HttpsOrLoopbackUrl) -> SalesforceHost {
    SalesforceHost::from_url(url.url())
}
