//! Fault injection: five thousand exchanges with every fault that the sandbox can inject, from a fixed seed. No
//! wrong or partial token is cached or returned.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokenmint::clock::{ManualClock, UnixTime};
use tokenmint::sandbox::{
    self, ConnectedApp, Deployment, Fault, FaultKind, FaultTarget, KeySource, Org, Sandbox, Settings,
};
use tokio_util::sync::CancellationToken;

use crate::in_process::InProcess;
use crate::sandbox::{MESSAGING, TOKEN, chat_request, subject};
use crate::support::{API_KEY, Answer, unverified};

/// Faults that don't take long: the test can't wait five seconds for each.
const FAULTS: [FaultKind; 22] = [
    FaultKind::Latency,
    FaultKind::Status,
    FaultKind::Garbage,
    FaultKind::Empty,
    FaultKind::EmptyObject,
    FaultKind::Html,
    FaultKind::Latin1,
    FaultKind::Deep,
    FaultKind::EndlessBody,
    FaultKind::HugeBody,
    FaultKind::Redirect,
    FaultKind::Reset,
    FaultKind::Close,
    FaultKind::Truncated,
    FaultKind::DuplicateKeys,
    FaultKind::MissingToken,
    FaultKind::NumericToken,
    FaultKind::CrlfToken,
    FaultKind::HugeToken,
    FaultKind::WrongTokenType,
    FaultKind::ForeignInstanceUrl,
    FaultKind::Anonymous,
];

struct Fixture {
    sandbox: Sandbox,
    service: InProcess,
    salesforce: String,
    seed: u64,
}

impl Fixture {
    async fn begin(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let salesforce = format!("http://{}", listener.local_addr().expect("an address"));
        let service = InProcess::start(clock.clone(), &salesforce, "").await;
        let published = service.get("/keysets/web/jwks.json").await.ok()["keys"][0]["x5c"][0].clone();
        let published = STANDARD.decode(published.as_str().expect("a certificate")).expect("base64");
        let app = ConnectedApp {
            consumer_key: "3MVG9.consumer".to_owned(),
            certificates: vec![service.certificate.clone(), published],
            users: vec!["integration@acme.com".to_owned()],
            ..ConnectedApp::default()
        };
        let jwks = KeySource::Url(format!("{}/keysets/web/jwks.json", service.url));
        let org = Org {
            org_id: "00D000000000001".to_owned(),
            my_domain: None,
            apps: vec![app],
            deployments: vec![Deployment::new("Web_Channel", "intercom.com", jwks)],
        };
        let settings = Settings { jwks_cache: Duration::from_hours(1), ..Settings::default() };
        let sandbox = Sandbox::new(org, clock, settings);
        tokio::spawn(sandbox::serve(listener, sandbox.clone(), CancellationToken::new()));
        Self { sandbox, service, salesforce, seed }
    }

    /// A pseudo-random number below `bound`, the same in each run.
    const fn roll(&mut self, bound: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are the good ones.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % bound
    }

    /// Requests a token of either kind. Returns its subject, if it has one, and the answer.
    async fn ask(&mut self, round: u64) -> (Option<String>, Answer) {
        if self.roll(2) == 0 {
            let sub = format!("user-{round}");
            let answer = self.service.messaging(&sub).await;
            return (Some(sub), answer);
        }
        (None, self.service.oauth().await)
    }

    /// Asserts that the token is the caller's, and that the sandbox accepts it.
    async fn is_sound(&self, sub: Option<&str>, answer: &Answer) {
        let body = answer.ok();
        let token = body["access_token"].as_str().expect("a token");
        if let Some(sub) = sub {
            let subject = unverified(token).1["sub"].clone();
            assert_eq!(subject, format!("v2/iamessage/AUTH/Web_Verification/uid:{sub}"));
            assert_eq!(body["subject"], subject);
            return;
        }
        let instance = body["instance_url"].as_str().expect("a URL");
        let query =
            self.service.client.get(format!("{instance}/services/oauth2/userinfo")).bearer_auth(token);
        assert_eq!(Answer::of(query).await.status.as_u16(), 200, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_exchanges_with_every_fault_cache_nothing_wrong() {
    let mut fixture = Fixture::begin(20_261_120).await;
    let (mut sound, mut refused, mut exchanges) = (0, 0, 0);
    let mut round = 0;
    while exchanges < 5000 {
        round += 1;
        let fault = FAULTS[usize::try_from(fixture.roll(FAULTS.len() as u64)).expect("small")];
        let fault =
            Fault { path: FaultTarget::Any, times: Some(1), milliseconds: Some(5), ..Fault::new(fault) };
        let calm = fixture.roll(4) == 0;
        fixture.sandbox.set_faults(if calm { Vec::new() } else { vec![fault.clone()] });
        let (sub, answer) = fixture.ask(round).await;
        if answer.status.is_success() {
            fixture.is_sound(sub.as_deref(), &answer).await;
            sound += 1;
        } else {
            assert!([502, 503].contains(&answer.status.as_u16()), "{fault:?}: {}", answer.text);
            refused += 1;
            // Nothing wrong was cached: without the fault the same caller gets a valid token.
            fixture.sandbox.set_faults(Vec::new());
            fixture.service.pass(61);
            let body = sub.as_ref().map_or_else(|| json!({}), |sub| json!({"sub": sub}));
            let path = if sub.is_some() { "/messaging-access-token" } else { "/oauth-access-token" };
            let again = fixture.service.post(path, API_KEY, &body).await;
            fixture.is_sound(sub.as_deref(), &again).await;
        }
        // This is longer than the lifetime of 100 s, so that OAuth tokens are exchanged again, and than the negative cache.
        fixture.service.pass(101);
        let counts = fixture.sandbox.counts();
        exchanges = counts.token + counts.messaging;
    }
    assert!(sound > 500 && refused > 1000, "{sound} {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_salesforce_ends_is_renewed_when_a_caller_says_so() {
    let fixture = Fixture::begin(1).await;
    let first = fixture.service.oauth().await;
    fixture.is_sound(None, &first).await;
    fixture.sandbox.expire_sessions();
    let token = first.ok()["access_token"].clone();
    let again = fixture.service.post("/oauth-access-token", API_KEY, &json!({"rejected_token": token})).await;
    fixture.is_sound(None, &again).await;
    assert_ne!(again.ok()["access_token"], token);
}

/// Neither is accepted at the other's endpoint. That holds even where one key signs both, of which `check` warns.
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_no_assertion_and_an_assertion_is_no_identity_token() {
    let Fixture { service, salesforce, .. } = Fixture::begin(1).await;
    let log_in = async |assertion: &Value| {
        let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let form = [grant, ("assertion", assertion.as_str().expect("a token"))];
        Answer::of(service.client.post(format!("{salesforce}{TOKEN}")).form(&form)).await
    };
    let chat = async |identity: &Value| {
        let request = chat_request(identity.as_str().expect("a token"));
        let answer = Answer::of(service.client.post(format!("{salesforce}{MESSAGING}")).json(&request)).await;
        subject(&answer.ok()).to_owned()
    };
    for keyset in ["crm", "web"] {
        let file = service.workspace.path("tokenmint.toml");
        let text = std::fs::read_to_string(&file).expect("a configuration");
        let profile = "[oauth.crm]\nkeyset = ";
        service.workspace.configure(&text.replacen(
            &format!("{profile}\"crm\""),
            &format!("{profile}\"{keyset}\""),
            1,
        ));
        // Without `emergency`, the service refuses to let a profile sign with a new key.
        let schedule = "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\nemergency = true\n";
        service.workspace.write("keys/web/keyset.toml", schedule);
        service.reload();
        let asked = json!({"sub": "integration@acme.com", "profile": "web"});
        let identity = service.post("/identity-token", API_KEY, &asked).await.ok();
        let assertion = service.post("/oauth-assertion", API_KEY, &json!({})).await.ok();
        assert_eq!(identity["kid"] == assertion["kid"], keyset == "web");

        let refused = log_in(&identity["token"]).await;
        assert_eq!(refused.status.as_u16(), 400, "{keyset}: {}", refused.text);
        let anonymous = chat(&assertion["assertion"]).await;
        assert!(anonymous.starts_with("v2/iamessage/ANON/"), "{keyset}: {anonymous}");
        // Each is accepted at its own endpoint.
        log_in(&assertion["assertion"]).await.ok();
        let known = chat(&identity["token"]).await;
        assert!(known.ends_with("uid:integration@acme.com"), "{keyset}: {known}");
    }
}
