//! `tokenmint sandbox`: a Salesforce to test against, on loopback, made from the configuration.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Context, Failure, all_said, complain, parse_address, say, say_json};
use crate::app::{self, Loaded};
use crate::clock::UnixTime;
use crate::config::salesforce::{Host, HostKind};
use crate::config::{Config, HttpsUrl, Listen, Oauth};
use crate::sandbox::{self, ConnectedApp, Deployment, KeySource, OnFailure, Org, Sandbox, Settings};
use crate::shell;

/// The org of a configuration that names none.
const MADE_UP_ORG: &str = "00D000000000001";

/// A Salesforce to test against, on loopback
///
/// Plays the org that the configuration is for: each [oauth.NAME] is an app with its keyset's certificates and a
/// pre-authorized user, each [identity.NAME.messaging] a deployment that pulls its keys from the running service.
/// POST /__sandbox/faults makes it misbehave, GET /__sandbox/state says what it has seen and why it refused.
#[derive(Args)]
#[command(after_help = "Example: tokenmint sandbox --jwks-base http://127.0.0.1:8080")]
pub(super) struct SandboxCommand {
    /// Where to listen; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = parse_address)]
    listen: SocketAddr,
    /// Where the service publishes its keys [default: server.public.url, else server.listen]
    #[arg(long, value_name = "URL")]
    jwks_base: Option<String>,
    /// A JWK uploaded in Setup, in place of the keyset's endpoint; several times for several
    #[arg(long, value_name = "FILE")]
    upload: Vec<PathBuf>,
    /// What a deployment does with an identity token that it can't verify; people have seen all three
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Guests::Anonymous)]
    on_failure: Guests,
    /// Print what it plays as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Guests {
    /// 200 with an ANON session
    Anonymous,
    /// 200 with an UNAUTH session
    Unauthenticated,
    /// 401
    Refuse,
}

impl SandboxCommand {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        if !self.listen.ip().is_loopback() {
            let reason = "the sandbox listens on loopback only: everybody who reaches it can log in";
            return Err(Failure::Usage(reason.to_owned()));
        }
        let loaded = context.load()?;
        let now = context.ambient.clock.now();
        let uploaded = self.uploaded(now)?;
        let base = if uploaded.is_some() { String::new() } else { self.jwks_base(&loaded.config)? };
        let mut org = org(&loaded, &base, self.on_failure, now);
        if let Some(keys) = uploaded {
            org.deployments.iter_mut().for_each(|deployment| deployment.keys = keys.clone());
        }
        let runtime = app::runtime().map_err(Failure::failed)?;
        let done = runtime.block_on(self.play(&loaded.config, org, context));
        runtime.shutdown_background();
        done
    }

    async fn play(&self, config: &Config, org: Org, context: &Context<'_>) -> Result<(), Failure> {
        // Before the socket: a signal must not find its default action, which is to kill.
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
        let listener = TcpListener::bind(self.listen).await;
        let listener =
            listener.map_err(|error| Failure::Failed(format!("can't listen on {}: {error}", self.listen)))?;
        let url = format!("http://{}", listener.local_addr().map_err(Failure::failed)?);
        self.introduce(config, &org, &url);
        all_said()?;
        let sandbox = Sandbox::new(org, context.ambient.clock.clone(), Settings::default());
        let stop = CancellationToken::new();
        tokio::select! {
            served = sandbox::serve(listener, sandbox, stop.clone()) => served.map_err(Failure::failed),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    }

    /// The keys that Setup has taken, if any were uploaded.
    fn uploaded(&self, now: UnixTime) -> Result<Option<KeySource>, Failure> {
        if self.upload.is_empty() {
            return Ok(None);
        }
        let upload = |path: &PathBuf| {
            let failed =
                |why: String| Failure::Failed(format!("{} fails to upload: it {why}", path.display()));
            let text = fs::read_to_string(path).map_err(|error| failed(format!("can't be read: {error}")))?;
            sandbox::upload_key(&text, now).map_err(failed)
        };
        let keys = self.upload.iter().map(upload).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(KeySource::Uploaded(json!({"keys": keys}))))
    }

    fn jwks_base(&self, config: &Config) -> Result<String, Failure> {
        if let Some(base) = &self.jwks_base {
            let base = HttpsUrl::parse(base).map_err(|why| Failure::Usage(format!("--jwks-base {why}")))?;
            return Ok(base.as_str().trim_end_matches('/').to_owned());
        }
        if let Some(url) = config.server.public.as_ref().and_then(|public| public.url.as_ref()) {
            return Ok(url.as_str().trim_end_matches('/').to_owned());
        }
        let scheme = if config.server.tls.is_some() { "https" } else { "http" };
        match &config.server.listen {
            Listen::Tcp(address) if address.port() != 0 => {
                let mut address = *address;
                if address.ip().is_unspecified() {
                    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                Ok(format!("{scheme}://{address}"))
            }
            _ => Err(Failure::Usage("say with --jwks-base where the service publishes its keys".to_owned())),
        }
    }

    fn introduce(&self, config: &Config, org: &Org, url: &str) {
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
            return say_json(&json!({
                "url": url, "token_url": token_url, "scrt_url": url, "org_id": org.org_id, "apps": apps,
                "deployments": deployments,
            }));
        }
        say(&format!("A Salesforce to test against listens on {url}; it plays the org {}.", org.org_id));
        if config.oauth.is_empty() && deployments.clone().next().is_none() {
            say(
                "\nThe configuration exchanges no token yet: add [oauth.NAME], or [identity.NAME.messaging].",
            );
        } else {
            say("\nPut this into the configuration of the service:\n");
        }
        for oauth in config.oauth.values() {
            say(&format!("[oauth.{}]    # logs in {}", oauth.name, oauth.username));
            say(&format!("token_url = \"{token_url}\""));
        }
        for (name, _, jwks) in deployments {
            say(&format!("[identity.{name}.messaging]    # keys from {jwks}"));
            say(&format!("scrt_url = \"{url}\""));
        }
        say("\n# what it has seen, and why it refused");
        let at = |path: &str| shell::quoted(format_args!("{url}/__sandbox/{path}"));
        say(&format!("curl -s {}", at("state")));
        say("\n# the next login fails, and asks for a pause");
        say(&format!(
            "curl -s {} -d '[{{\"path\": \"token\", \"fault\": \"status\", \"status\": 503, \"retry_after\": \"5\"}}]'",
            at("faults")
        ));
        say("\n# every session ends: access tokens are dead");
        say(&format!("curl -s -X POST {}", at("expire-sessions")));
        say("\nStop with Ctrl-C.");
    }
}

/// The org that `loaded` is meant for.
pub(super) fn org(loaded: &Loaded, jwks_base: &str, on_failure: Guests, now: UnixTime) -> Org {
    let config = &loaded.config;
    let messaging = || config.identity.values().filter_map(|identity| identity.messaging.as_ref());
    let org_id = messaging().next().map_or(MADE_UP_ORG, |messaging| messaging.org_id.as_str());
    let mut deployments = Vec::new();
    for identity in config.identity.values() {
        let Some(messaging) = &identity.messaging else { continue };
        if messaging.org_id.as_str() != org_id {
            complain(&format!(
                "tokenmint: leaves out identity.{}.messaging: it is of another org than {org_id}",
                identity.name
            ));
            continue;
        }
        let keys = format!("{jwks_base}/keysets/{}/jwks.json", identity.keyset);
        deployments.push(Deployment {
            on_failure: match on_failure {
                Guests::Anonymous => OnFailure::Anonymous,
                Guests::Unauthenticated => OnFailure::Unauthenticated,
                Guests::Refuse => OnFailure::Refuse,
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
        apps: apps(loaded, now),
        deployments,
    }
}

/// One app per consumer key, with all the users that log in through it.
fn apps(loaded: &Loaded, now: UnixTime) -> Vec<ConnectedApp> {
    let mut apps: BTreeMap<&str, ConnectedApp> = BTreeMap::new();
    for oauth in loaded.config.oauth.values() {
        let app = apps.entry(&oauth.consumer_key).or_default();
        app.consumer_key.clone_from(&oauth.consumer_key);
        app.users.push(oauth.username.clone());
        if let Some(keyset) = loaded.ring.keysets.get(&oauth.keyset) {
            app.certificates.extend(keyset.published(now).map(|key| key.certificate(now).der));
        }
        // An Experience Cloud site is an audience of its own. A misspelt login host is a mistake.
        if matches!(host(&oauth.audience).kind, HostKind::Site | HostKind::Foreign | HostKind::Loopback) {
            let usual = ["https://login.salesforce.com", "https://test.salesforce.com"].map(str::to_owned);
            app.audiences.extend(usual.into_iter().chain(my_domain(oauth)));
            app.audiences.push(oauth.audience.as_str().to_owned());
        }
    }
    apps.into_values().collect()
}

/// `https://acme.my.salesforce.com`, where the profile goes there.
fn my_domain(oauth: &Oauth) -> Option<String> {
    let mut hosts = [&oauth.audience, &oauth.token_url].into_iter().map(host);
    let host = hosts.find(|host| host.kind == HostKind::MyDomain)?;
    Some(format!("https://{}", host.name))
}

fn host(url: &HttpsUrl) -> Host {
    Host::of(url.url())
}
