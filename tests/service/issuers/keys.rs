//! The keys of an issuer: fetched, kept, renewed, and missing.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokenmint::clock::{Clock as _, ManualClock, UnixTime};

use super::{EC, FakeIssuer, IssuerKey, OTHER_RSA, RSA, claims_at, issuer, jwt_caller};
use crate::in_process::InProcess;
use crate::support::{AT_ONCE, Answer, Workspace, configuration, eventually, retrying};

const NOW: i64 = 1_796_083_200;
/// A certificate authority, in PEM.
static AUTHORITY: LazyLock<String> = LazyLock::new(|| {
    let parameters = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    parameters.self_signed(&EC.pair).expect("a certificate").pem()
});

/// The service with the caller `workload`, and its clock.
async fn service_of(fake: &FakeIssuer) -> InProcess {
    let workspace = Workspace::with(&(issuer(&fake.jwks_url()) + &jwt_caller("workload", "job")));
    InProcess::of(Arc::new(workspace), Arc::new(ManualClock::at(UnixTime::from_seconds(NOW)))).await
}

/// Requests a token with a JWT that is new each time, so that the service verifies it.
async fn request(service: &InProcess, key: &IssuerKey, kid: &str) -> Answer {
    static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut claims = claims_at(service.clock.now().seconds(), "job");
    claims["jti"] = json!(serial);
    let jwt = key.token(kid, &claims);
    service.post("/identity-token", &jwt, &json!({"sub": format!("user-{serial}")})).await
}

async fn status(service: &InProcess, key: &IssuerKey, kid: &str) -> u16 {
    retrying(|| request(service, key, kid)).await.status.as_u16()
}

#[tokio::test]
async fn concurrent_requests_share_the_first_fetch() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a"), EC.jwk("b")]).await;
    let service = service_of(&fake).await;
    fake.hold(true);
    let requests =
        join_all((0..20).map(|n| status(&service, if n % 2 == 0 { &RSA } else { &EC }, ["a", "b"][n % 2])));
    let release = async {
        eventually("the issuer is asked", async || !fake.requests().is_empty()).await;
        fake.hold(false);
    };
    let (statuses, ()) = tokio::join!(requests, release);
    assert_eq!(statuses, [200; 20]);
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn a_rotated_key_is_fetched_at_once_and_strangers_cause_one_fetch_per_cooldown() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&fake).await;
    assert_eq!(status(&service, &RSA, "a").await, 200);
    // Two rotations in a row.
    fake.serve_keys(&[RSA.jwk("a"), OTHER_RSA.jwk("b")]);
    assert_eq!(status(&service, &OTHER_RSA, "b").await, 200);
    fake.serve_keys(&[OTHER_RSA.jwk("b"), EC.jwk("c")]);
    assert_eq!(status(&service, &EC, "c").await, 200);
    assert_eq!(status(&service, &RSA, "a").await, 401, "the issuer has withdrawn it");
    assert_eq!(fake.requests().len(), 4);

    for n in 0..50 {
        assert_eq!(status(&service, &RSA, &format!("stranger-{n}")).await, 401);
    }
    assert_eq!(join_all((0..20).map(|_| status(&service, &RSA, "stranger"))).await, [401; 20]);
    assert_eq!(fake.requests().len(), 4, "the cooldown began with the withdrawn key");
    service.clock.advance(Duration::from_secs(6));
    assert_eq!(join_all((0..20).map(|_| status(&service, &RSA, "stranger"))).await, [401; 20]);
    assert_eq!(fake.requests().len(), 5);
    assert_eq!(status(&service, &EC, "c").await, 200);
}

/// A fetch that began before a rotation may bring the old keys. The new key isn't refused for that.
#[tokio::test]
async fn a_fetch_from_before_a_rotation_refuses_no_token_of_the_new_key() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&fake).await;
    assert_eq!(status(&service, &RSA, "a").await, 200);
    service.clock.advance(Duration::from_mins(11));
    fake.hold(true);
    let rotation = async {
        // A renewal behind the answer.
        assert_eq!(status(&service, &RSA, "a").await, 200);
        eventually("the renewal has begun", async || fake.requests().len() == 2).await;
        let late = status(&service, &OTHER_RSA, "b");
        let release = async {
            // Answers the renewal with the old keys, and the next request with the new ones.
            fake.hold(false);
            eventually("the issuer is asked again", async || {
                fake.serve_keys(&[RSA.jwk("a"), OTHER_RSA.jwk("b")]);
                fake.requests().len() == 3
            })
            .await;
        };
        tokio::join!(late, release).0
    };
    assert_eq!(rotation.await, 200);
}

#[tokio::test]
async fn a_token_without_kid_is_tried_with_the_keys_and_never_causes_a_fetch() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a"), OTHER_RSA.jwk("b")]).await;
    let service = service_of(&fake).await;
    let without_kid = |key: &IssuerKey| {
        let header = json!({"alg": format!("{:?}", key.algorithm)}).to_string();
        key.sign(&header, &claims_at(NOW, "job").to_string())
    };
    let post = async |key: &IssuerKey| {
        service.post("/identity-token", &without_kid(key), &json!({"sub": "user-1"})).await.status.as_u16()
    };
    assert_eq!((post(&RSA).await, post(&OTHER_RSA).await), (200, 200));
    let stranger = IssuerKey::new(jsonwebtoken::Algorithm::RS256);
    assert_eq!((post(&stranger).await, post(&EC).await), (401, 401));
    assert_eq!(fake.requests().len(), 1);
}

/// Half an hour without the issuer, and then more: known keys verify for two hours after their fetch. After that, nobody's token
/// is called wrong.
#[tokio::test]
async fn an_issuer_that_is_down_is_a_503_after_two_hours_and_never_a_401() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&fake).await;
    assert_eq!(status(&service, &RSA, "a").await, 200);
    for (line, headers, body) in [
        ("503 Service Unavailable", "", "{}"),
        ("200 OK", "", "{\"keys\": []}"),
        ("302 Found", "Location: https://elsewhere.example/jwks\r\n", ""),
        ("200 OK", "", "<html>"),
    ] {
        fake.answer("/jwks", line, headers, body);
        service.clock.advance(Duration::from_mins(28));
        assert_eq!(status(&service, &RSA, "a").await, 200, "{line}");
        let refused = request(&service, &OTHER_RSA, "b").await;
        refused.refused(503, "issuer_unavailable", None);
        assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|seconds| (1..=2).contains(&seconds)));
    }
    service.clock.advance(Duration::from_mins(9));
    for key in ["a", "b"] {
        let refused = request(&service, &RSA, key).await;
        let description = refused.refused(503, "issuer_unavailable", None);
        assert!(!description.contains("corp") && !description.contains("job"), "{description}");
    }
    // A token that is refused without keys is refused all the same.
    let expired = RSA.token("a", &claims_at(NOW - 86_400, "job"));
    assert_eq!(
        service.post("/identity-token", &expired, &json!({"sub": "user-1"})).await.status.as_u16(),
        401
    );

    fake.serve_keys(&[RSA.jwk("a")]);
    service.clock.advance(Duration::from_secs(3));
    assert_eq!(status(&service, &RSA, "a").await, 200);
}

/// A request that has its key doesn't wait, however long the issuer takes.
#[tokio::test]
async fn a_renewal_delays_no_request() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&fake).await;
    assert_eq!(status(&service, &RSA, "a").await, 200);
    fake.hold(true);
    service.clock.advance(Duration::from_mins(11));
    let request = async || {
        let answer = tokio::time::timeout(AT_ONCE, status(&service, &RSA, "a")).await;
        assert_eq!(answer.expect("the timeout of a fetch is longer"), 200);
    };
    request().await;
    eventually("the renewal has begun", async || fake.requests().len() == 2).await;
    request().await;
    fake.hold(false);
}

#[tokio::test]
async fn cache_control_says_when_keys_are_renewed_within_a_minute_and_an_hour() {
    let keys = json!({"keys": [RSA.jwk("a")]}).to_string();
    for (header, fresh_for) in [
        ("", 600),
        ("Cache-Control: max-age=0\r\n", 60),
        ("Cache-Control: Max-Age=300\r\n", 300),
        ("Cache-Control: no-store, max-age=900\r\n", 60),
        ("Cache-Control: public, max-age=900, must-revalidate\r\n", 900),
        ("Cache-Control: max-age=86400\r\n", 3600),
        ("Cache-Control: max-age=soon\r\n", 600),
    ] {
        let fake = FakeIssuer::serving(&[]).await;
        fake.answer("/jwks", "200 OK", header, &keys);
        let service = service_of(&fake).await;
        assert_eq!(status(&service, &RSA, "a").await, 200);
        service.clock.advance(Duration::from_secs(fresh_for - 1));
        assert_eq!(status(&service, &RSA, "a").await, 200);
        assert_eq!(fake.requests().len(), 1, "{header}");
        service.clock.advance(Duration::from_secs(1));
        assert_eq!(status(&service, &RSA, "a").await, 200);
        eventually(&format!("it is renewed: {header}"), async || fake.requests().len() == 2).await;
    }
}

#[tokio::test]
async fn discovery_finds_the_keys_and_must_name_the_issuer() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let path = "/realm/.well-known/openid-configuration";
    let iss = format!("{}/realm", fake.url);
    let settings =
        format!("[issuers.corp]\nissuer = \"{iss}\"\naudience = [\"mint-for-shop\"]\ndiscovery = true\n");
    let start = async || {
        let workspace = Workspace::with(&(settings.clone() + &jwt_caller("workload", "job")));
        InProcess::of(Arc::new(workspace), Arc::new(ManualClock::at(UnixTime::from_seconds(NOW)))).await
    };
    let mut claims = claims_at(NOW, "job");
    claims["iss"] = json!(iss);
    let jwt = RSA.token("a", &claims);
    let post =
        async |service: &InProcess| service.post("/identity-token", &jwt, &json!({"sub": "user-1"})).await;
    let metadata = |issuer: &str, jwks: &str| json!({"issuer": issuer, "jwks_uri": jwks}).to_string();
    let jwks = format!("{}/jwks", fake.url);
    fake.answer(path, "200 OK", "", &metadata(&iss, &jwks));
    assert_eq!(post(&start().await).await.status.as_u16(), 200);
    for bad in [
        metadata(&fake.url, &jwks),
        metadata(&format!("{iss}/"), &jwks),
        metadata(&iss, "http://elsewhere.example/jwks"),
        metadata(&iss, &jwks.replace("http:", "ftp:")),
        metadata(&iss, "/jwks"),
        json!({"issuer": iss}).to_string(),
        format!("{{\"issuer\": \"{iss}\", \"jwks_uri\": \"{jwks}\", \"issuer\": \"{iss}\"}}"),
        "no JSON".to_owned(),
    ] {
        fake.answer(path, "200 OK", "", &bad);
        post(&start().await).await.refused(503, "issuer_unavailable", None);
    }
}

/// Each set is refused as a whole, or works without the keys that can't be used.
#[tokio::test]
async fn a_key_set_is_used_without_its_unusable_keys_and_refused_if_it_is_ambiguous() {
    let with = |jwk: &Value, name: &str, value: Value| {
        let mut changed = jwk.clone();
        changed[name] = value;
        changed
    };
    let rsa = RSA.jwk("a");
    // Of 1024, 2047 and 8200 bits.
    let modulus = |bytes: &[u8]| json!(URL_SAFE_NO_PAD.encode(bytes));
    let unusable = [
        with(&rsa, "use", json!("enc")),
        with(&rsa, "use", json!(1)),
        with(&rsa, "key_ops", json!(["sign"])),
        with(&rsa, "key_ops", json!("verify")),
        with(&rsa, "alg", json!("RS512")),
        with(&rsa, "alg", json!("RSA-OAEP")),
        with(&rsa, "alg", json!(["RS256"])),
        with(&rsa, "kid", json!(7)),
        with(&rsa, "kty", json!("oct")),
        with(&rsa, "n", json!("AQAB")),
        with(&rsa, "n", json!("not base64url!")),
        with(&rsa, "n", modulus(&[0xc5; 128])),
        with(&rsa, "n", modulus(&[0x7f; 256])),
        with(&rsa, "n", modulus(&[0xc5; 1025])),
        with(&rsa, "e", json!("AQ")),
        with(&rsa, "e", json!("AA")),
        with(&rsa, "e", json!("")),
        json!({"kty": "oct", "kid": "a", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}),
        json!("a key"),
        json!(null),
        with(&EC.jwk("a"), "x", json!("AQAB")),
        with(&EC.jwk("a"), "crv", json!("secp256k1")),
    ];
    let works = async |keys: &[Value], key: &IssuerKey, kid: &str| {
        let service = service_of(&FakeIssuer::serving(keys).await).await;
        status(&service, key, kid).await
    };
    for bad in unusable {
        assert_eq!(works(std::slice::from_ref(&bad), &RSA, "a").await, 503, "no usable key: {bad}");
        assert_eq!(works(&[bad.clone(), EC.jwk("b")], &EC, "b").await, 200, "it is skipped: {bad}");
    }
    assert_eq!(works(&[RSA.jwk("a"), OTHER_RSA.jwk("a")], &RSA, "a").await, 503, "which of the two is it?");
    assert_eq!(works(&[with(&rsa, "alg", json!("RS256"))], &RSA, "a").await, 200);
    assert_eq!(works(&[with(&rsa, "key_ops", json!(["verify"]))], &RSA, "a").await, 200);
    let many: Vec<Value> = (0..101).map(|n| EC.jwk(&format!("{n}"))).collect();
    assert_eq!(works(&many, &EC, "1").await, 503);
    assert_eq!(works(&many[..100], &EC, "99").await, 200);
    let padded = with(&rsa, "x5c", json!(["A".repeat(64 << 10)]));
    assert_eq!(works(&[padded], &RSA, "a").await, 503, "over 64 KiB");
}

/// A reload keeps what was fetched, unless the address, the algorithms or the authorities change.
#[tokio::test]
async fn a_reload_keeps_the_keys_of_unchanged_issuers() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a"), EC.jwk("b")]).await;
    let service = service_of(&fake).await;
    assert_eq!(status(&service, &RSA, "a").await, 200);
    let configure = |issuer: &str| {
        let text = configuration() + issuer + &jwt_caller("workload", "job");
        service.workspace.configure(&text);
        service.reload();
    };
    configure(&issuer(&format!("{}\nleeway = \"1m\"", fake.jwks_url())));
    fake.hold(true);
    assert_eq!(status(&service, &RSA, "a").await, 200);
    assert_eq!(fake.requests().len(), 1);
    // Other authorities: the keys stay, and are renewed.
    service.workspace.write("ca.crt", &AUTHORITY);
    configure(&issuer(&format!("{}\nca_file = \"ca.crt\"", fake.jwks_url())));
    assert_eq!(status(&service, &RSA, "a").await, 200);
    fake.hold(false);
    eventually("the keys are renewed", async || fake.requests().len() == 2).await;
    configure(&issuer(&format!("{}\nalgorithms = [\"ES256\"]", fake.jwks_url())));
    assert_eq!((status(&service, &EC, "b").await, status(&service, &RSA, "a").await), (200, 401));
    assert_eq!(fake.requests().len(), 3);
}
