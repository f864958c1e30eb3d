//! The service in the test's process, with a clock that the test sets, over a real socket. It reloads only on
//! demand.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokenmint::app::reload::{ConfigSource, Reloader};
use tokenmint::app::{App, ClockAndRng, LoadedConfig};
use tokenmint::clock::{Clock as _, ManualClock, Randomness, SystemRandomness};
use tokenmint::config::Environment;

use crate::support::{API_KEY, Answer, CRM_KEY, Workspace, sha256_hex};

/// The service in this process, with a clock that the test sets, over a real socket.
pub struct InProcess {
    pub url: String,
    pub client: reqwest::Client,
    pub clock: Arc<ManualClock>,
    /// The certificate of the key that signs assertions, as DER.
    pub certificate: Vec<u8>,
    pub workspace: Arc<Workspace>,
    reloader: Mutex<Reloader>,
}

impl InProcess {
    pub async fn start(clock: Arc<ManualClock>, salesforce: &str, more: &str) -> Self {
        let workspace = Workspace::bare();
        let text = format!(
            r#"
[server]
listen = "127.0.0.1:0"
state_directory = "state"
[keysets.web]
directory = "keys/web"
[keysets.crm]
directory = "keys/crm"
[identity.web]
keyset = "web"
issuer = "intercom.com"
claims = ["plan"]
[identity.web.messaging]
scrt_url = "{salesforce}"
org_id = "00D000000000001"
es_developer_name = "Web_Channel"
requests_per_minute = 200
[identity.shop]
keyset = "web"
issuer = "intercom.com"
[identity.shop.messaging]
scrt_url = "{salesforce}"
org_id = "00D000000000002"
es_developer_name = "Shop_Channel"
requests_per_minute = 200
[callers.both]
api_key_sha256 = ["{both}"]
allow = ["identity.web", "identity.shop"]
[identity.plain]
keyset = "web"
issuer = "intercom.com"
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9.consumer"
username = "integration@acme.com"
audience = "https://login.salesforce.com"
token_url = "{salesforce}/services/oauth2/token"
access_token_ttl = "100s"
[callers.web]
api_key_sha256 = ["{web}"]
allow = ["identity.web", "oauth.crm"]
[callers.crm]
api_key_sha256 = ["{crm}"]
allow = ["identity.plain"]
{more}
"#,
            web = sha256_hex(API_KEY),
            crm = sha256_hex(CRM_KEY),
            both = sha256_hex("both"),
        );
        workspace.configure(&text);
        Self::of(Arc::new(workspace), clock).await
    }

    /// Starts the service with the `tokenmint.toml` of `workspace`. It doesn't look for changed files by itself.
    pub async fn of(workspace: Arc<Workspace>, clock: Arc<ManualClock>) -> Self {
        Self::with(workspace, clock, Arc::new(SystemRandomness::default())).await
    }

    pub async fn with(
        workspace: Arc<Workspace>,
        clock: Arc<ManualClock>,
        randomness: Arc<dyn Randomness>,
    ) -> Self {
        let source =
            ConfigSource { file: Some(workspace.path("tokenmint.toml")), environment: Environment::new() };
        let config = source.load().unwrap_or_else(|invalid| panic!("{:?}", invalid.problems));
        let loaded = LoadedConfig::new(config, &*clock).unwrap_or_else(|problems| panic!("{problems:?}"));
        let crm = loaded.ring.find("CrmKey1");
        let certificate = crm.map(|(_, key)| key.certificate(clock.now()).der).unwrap_or_default();
        let clock_and_rng = ClockAndRng { clock: clock.clone(), randomness };
        let app = App::bind(loaded, clock_and_rng, || 0).await.expect("bound");
        let url =
            app.addresses().next().map(|(_, _, address)| format!("http://{address}")).expect("a listener");
        let reloader = Mutex::new(app.reloader(source));
        tokio::spawn(app.run(std::future::pending(), std::future::pending()));
        Self { url, client: reqwest::Client::new(), clock, certificate, workspace, reloader }
    }

    /// Reads the files again, as on SIGHUP.
    pub fn reload(&self) {
        self.reloader.lock().expect("not poisoned").reload();
    }

    /// The ids of the published keys, in their order.
    pub async fn published(&self, keyset: &str) -> Vec<String> {
        let set = self.get(&format!("/keysets/{keyset}/jwks.json")).await.ok();
        let keys = set["keys"].as_array().expect("keys").iter();
        keys.map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect()
    }

    /// The id of the key that signs.
    pub async fn signing(&self) -> String {
        let minted = self.post("/identity-token", API_KEY, &json!({"sub": "user-1"})).await.ok();
        minted["kid"].as_str().expect("a kid").to_owned()
    }

    pub fn get(&self, path: &str) -> impl Future<Output = Answer> + Send + use<> {
        Answer::of(self.client.get(format!("{}{path}", self.url)))
    }

    pub fn post(
        &self,
        path: &str,
        api_key: &str,
        body: &Value,
    ) -> impl Future<Output = Answer> + Send + use<> {
        Answer::of(self.client.post(format!("{}{path}", self.url)).bearer_auth(api_key).json(body))
    }

    pub fn oauth(&self) -> impl Future<Output = Answer> + Send + use<> {
        self.post("/oauth-access-token", API_KEY, &json!({}))
    }

    /// A request of many at once.
    pub fn oauth_one_of_many(&self) -> impl Future<Output = Answer> + Send + use<> {
        let request = self.client.post(format!("{}/oauth-access-token", self.url));
        Answer::of_one_of_many(request.bearer_auth(API_KEY).json(&json!({})))
    }

    pub fn messaging(&self, sub: &str) -> impl Future<Output = Answer> + Send + use<> {
        self.post("/messaging-access-token", API_KEY, &json!({"sub": sub}))
    }

    pub fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub async fn metric(&self, name: &str) -> String {
        let text = Answer::of(self.client.get(format!("{}/metrics", self.url))).await.text;
        text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
    }
}
