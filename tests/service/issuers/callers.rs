//! Workloads that authenticate with a JWT of their platform in place of an API key.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokenmint::clock::{ManualClock, UnixTime};

use super::{AUDIENCE, FakeIssuer, OTHER_RSA, RSA, claims, claims_at, issuer, jwt_caller};
use crate::in_process::InProcess;
use crate::support::{API_KEY, Workspace, configuration, eventually};

const NOW: i64 = 1_796_083_200;

async fn service_of(more: &str) -> InProcess {
    let workspace = Workspace::with(more);
    InProcess::of(Arc::new(workspace), Arc::new(ManualClock::at(UnixTime::from_seconds(NOW)))).await
}

async fn status(service: &InProcess, credential: &str) -> u16 {
    service.post("/identity-token", credential, &json!({"sub": "user-1"})).await.status.as_u16()
}

/// Without a fetch at the first request: the service fetches the keys when it starts.
#[tokio::test]
async fn a_workload_mints_with_its_own_jwt_and_the_audit_line_says_so() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let workspace = Workspace::with(&(issuer(&fake.jwks_url()) + &jwt_caller("workload", "job")));
    let service = workspace.serve().await;
    eventually("the keys are fetched", async || {
        service
            .metrics()
            .await
            .contains("tokenmint_issuer_fetches_total{issuer=\"corp\",outcome=\"success\"} 1")
    })
    .await;
    let post = async |jwt: &str| service.post_text("/identity-token", jwt, r#"{"sub":"user-1"}"#).await;
    let jwt = RSA.token("a", &claims("job"));
    post(&jwt).await.ok();
    post(&jwt).await.ok();
    assert_eq!(fake.requests().len(), 1);
    assert!(service.metrics().await.contains("tokenmint_issuer_keys_age_seconds{issuer=\"corp\"} "));

    // What is wrong is in the log alone.
    let wrong_key = post("tm_wrong").await.refused(401, "invalid_client", None);
    let stranger = RSA.token("a", &claims("stranger"));
    let refused = post(&stranger).await;
    assert_eq!(refused.refused(401, "invalid_client", None), wrong_key);
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    let mut foreign = claims("job");
    foreign["iss"] = json!("https://elsewhere.example");
    assert_eq!(post(&RSA.token("a", &foreign)).await.refused(401, "invalid_client", None), wrong_key);
    let metrics = service.metrics().await;
    assert!(
        metrics.contains("tokenmint_issuer_refusals_total{issuer=\"corp\",rule=\"jwt_claims\"} 1"),
        "{metrics}"
    );

    let log = service.whole_log().await;
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let minted: Vec<&Value> = lines.iter().filter(|line| line["message"] == "minted").collect();
    assert_eq!(minted.len(), 2);
    assert!(
        minted.iter().all(|line| line["caller"] == "workload" && line["credential"] == "jwt"),
        "{minted:?}"
    );
    let refusal = |rule: &str| lines.iter().find(|line| line["rule"] == rule).cloned().unwrap_or_default();
    assert_eq!(refusal("jwt_claims")["issuer"], "corp");
    assert_eq!(refusal("iss")["issuer"], Value::Null);
    let message = "refused a caller: the JWT doesn't have the claims that the configuration requires (`jwt_claims` of a caller)";
    assert_eq!(refusal("jwt_claims")["message"], message);
    for secret in ["eyJ", "stranger", "elsewhere"] {
        assert!(!log.contains(secret), "the log has {secret}");
    }
}

#[tokio::test]
async fn api_keys_and_jwts_authenticate_side_by_side() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let both = "[callers.both]\napi_key_sha256 = [\"".to_owned()
        + &crate::support::sha256_hex("both")
        + "\"]\njwt_issuer = \"corp\"\njwt_claims = { sub = [\"one\", \"two\"], env = [\"prod\"] }\nallow = [\"identity.web\"]\n";
    let service = service_of(&(issuer(&fake.jwks_url()) + &both)).await;
    let jwt = |sub: &str, env: Value| {
        let mut claims = claims_at(NOW, sub);
        claims["env"] = env;
        RSA.token("a", &claims)
    };
    assert_eq!((status(&service, API_KEY).await, status(&service, "both").await), (200, 200));
    assert_eq!(status(&service, &jwt("one", json!("prod"))).await, 200);
    assert_eq!(status(&service, &jwt("two", json!("prod"))).await, 200);
    for (sub, env) in [
        ("three", json!("prod")),
        ("one", json!("production")),
        ("one", json!("PROD")),
        ("one", json!(["prod"])),
        ("one", json!(null)),
        ("o", json!("prod")),
        ("one|two", json!("prod")),
        ("one ", json!("prod")),
    ] {
        assert_eq!(status(&service, &jwt(sub, env.clone())).await, 401, "{sub} {env}");
    }
}

/// Where no caller has an issuer, nothing is parsed, and where one has, only what has the form of a JWT.
#[tokio::test]
async fn only_a_jwt_is_looked_at_as_one() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&(issuer(&fake.jwks_url()) + &jwt_caller("workload", "job"))).await;
    for credential in
        ["tm_wrong", "a.b.c", "ey", "ey..", "eyJ.eyJ.eyJ", &"ey.a.b".repeat(200), "eyJhbGciOiJub25lIn0.e30."]
    {
        assert_eq!(status(&service, credential).await, 401, "{credential}");
    }
    assert!(fake.requests().is_empty());
    assert_eq!(status(&service_of("").await, &RSA.token("a", &claims_at(NOW, "job"))).await, 401);
}

/// A remembered JWT ends with its `exp`, with its key, and with its caller.
#[tokio::test]
async fn a_remembered_jwt_is_forgotten_when_it_ends_or_its_key_does() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&(issuer(&fake.jwks_url()) + &jwt_caller("workload", "job"))).await;
    let jwt = RSA.token("a", &claims_at(NOW, "job"));
    let early = RSA.token("a", &{
        let mut claims = claims_at(NOW, "job");
        claims["exp"] = json!(NOW + 10);
        claims
    });
    for _ in 0..3 {
        assert_eq!((status(&service, &jwt).await, status(&service, &early).await), (200, 200));
    }
    service.clock.advance(Duration::from_secs(10));
    assert_eq!((status(&service, &jwt).await, status(&service, &early).await), (200, 401));

    // The issuer withdraws the key.
    fake.serve_keys(&[OTHER_RSA.jwk("b")]);
    assert_eq!(status(&service, &OTHER_RSA.token("b", &claims_at(NOW, "job"))).await, 200);
    assert_eq!(status(&service, &jwt).await, 401);

    // The configuration withdraws the caller, then the issuer.
    let jwt = OTHER_RSA.token("b", &claims_at(NOW, "job"));
    assert_eq!(status(&service, &jwt).await, 200);
    let configure = |more: &str| {
        service.workspace.configure(&(configuration() + more));
        service.reload();
    };
    configure(&(issuer(&fake.jwks_url()) + &jwt_caller("workload", "another")));
    assert_eq!(status(&service, &jwt).await, 401);
    configure(&(issuer(&fake.jwks_url()) + &jwt_caller("workload", "job")));
    assert_eq!(status(&service, &jwt).await, 200);
    configure("");
    assert_eq!(status(&service, &jwt).await, 401);
}

/// Two clusters can have the same `iss`, with other keys.
#[tokio::test]
async fn two_issuers_of_the_same_name_are_told_apart_by_their_keys() {
    let one = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let two = FakeIssuer::serving(&[OTHER_RSA.jwk("a")]).await;
    let second = issuer(&two.jwks_url()).replace("issuers.corp", "issuers.dc2");
    let other =
        jwt_caller("two", "job").replace("\"corp\"", "\"dc2\"").replace("identity.web", "identity.web512");
    let callers = jwt_caller("one", "job") + &other;
    let service = service_of(&(issuer(&one.jwks_url()) + &second + &callers)).await;
    let claims = claims_at(NOW, "job");
    // The only profile of a caller shows who it is.
    let kid = async |jwt: String| {
        let minted = service.post("/identity-token", &jwt, &json!({"sub": "user-1"})).await.ok();
        minted["kid"].as_str().expect("a kid").to_owned()
    };
    assert_eq!(kid(RSA.token("a", &claims)).await, "WebAppKey1");
    assert_eq!(kid(OTHER_RSA.token("a", &claims)).await, "Web512");
    let stranger = super::IssuerKey::new(jsonwebtoken::Algorithm::RS256);
    assert_eq!(status(&service, &stranger.token("a", &claims)).await, 401);
    // A token of the first issuer that belongs to no caller is not looked for at the second one, even if that is down.
    let asked = two.requests().len();
    two.answer("/jwks", "500 Internal Server Error", "", "");
    service.clock.advance(Duration::from_mins(11));
    let mut late = claims_at(NOW + 660, "another job");
    late["jti"] = json!(1);
    assert_eq!(status(&service, &RSA.token("a", &late)).await, 401);
    assert_eq!(two.requests().len(), asked);
}

/// One cluster's outage harms no workload of the other, and the other's keys aren't looked for at the first.
#[tokio::test]
async fn an_issuer_that_is_down_harms_no_token_of_its_namesake() {
    let (one, two) = (FakeIssuer::serving(&[]).await, FakeIssuer::serving(&[OTHER_RSA.jwk("b")]).await);
    let second = issuer(&two.jwks_url()).replace("issuers.corp", "issuers.dc2");
    let callers = jwt_caller("one", "job") + &jwt_caller("two", "job").replace("\"corp\"", "\"dc2\"");
    let service = service_of(&(issuer(&one.jwks_url()) + &second + &callers)).await;
    let token = |serial: i64| {
        OTHER_RSA.token("b", &{
            let mut claims = claims_at(NOW, "job");
            claims["jti"] = json!(serial);
            claims
        })
    };
    assert_eq!(status(&service, &token(1)).await, 200);
    let asked = one.requests().len();
    assert_eq!(status(&service, &token(2)).await, 200);
    assert_eq!(one.requests().len(), asked, "the issuer that has the key comes first");
    // Nobody has this key, as far as the service knows.
    let foreign = RSA.token("a", &claims_at(NOW, "job"));
    let answer = service.post("/identity-token", &foreign, &json!({"sub": "user-1"})).await;
    answer.refused(503, "issuer_unavailable", None);
}

/// RFC 7515 allows white space in the header. The limit of log lines keeps a flood of bad JWTs out of the log.
#[tokio::test]
async fn a_flood_of_refused_jwts_is_logged_in_part_and_counted_in_full() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let workspace = Workspace::with(&(issuer(&fake.jwks_url()) + &jwt_caller("workload", "job")));
    let service = workspace.serve().await;
    let spaced = RSA.sign("{\n \"alg\": \"RS256\", \"kid\": \"a\"}", &claims("job").to_string());
    service.post_text("/identity-token", &spaced, r#"{"sub":"user-1"}"#).await.ok();
    let bad = RSA.token("a", &claims("stranger"));
    for _ in 0..200 {
        service.post_text("/identity-token", &bad, "{}").await.refused(401, "invalid_client", None);
    }
    let counted = "tokenmint_issuer_refusals_total{issuer=\"corp\",rule=\"jwt_claims\"} 200";
    assert!(service.metrics().await.contains(counted));
    service.post_text("/identity-token", "eyJ.e30.", "{}").await.refused(401, "invalid_client", None);
    let unparsed = "tokenmint_issuer_refusals_total{issuer=\"\",rule=\"form\"} 1";
    assert!(service.metrics().await.contains(unparsed), "{}", service.metrics().await);
    let lines = service.whole_log().await.matches("refused a caller").count();
    assert!((20..100).contains(&lines), "{lines}");
}

/// The keys are fetched with the authorities and the token of the configuration, read anew for each fetch.
#[tokio::test]
async fn the_token_of_the_pod_goes_with_each_fetch_and_to_no_other_host() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let other = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let settings = format!(
        "[issuers.corp]\nissuer = \"{}\"\naudience = [\"{AUDIENCE}\"]\ndiscovery = true\nbearer_token_file = \"pod.token\"\n",
        fake.url
    );
    let workspace = Workspace::with(&(settings + &jwt_caller("workload", "job")));
    workspace.write("pod.token", "first-token\n");
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(NOW)));
    let service = InProcess::of(Arc::new(workspace), clock).await;
    let path = "/.well-known/openid-configuration";
    let metadata = |jwks: &str| json!({"issuer": fake.url, "jwks_uri": jwks}).to_string();
    let mut claims = claims_at(NOW, "job");
    claims["iss"] = json!(fake.url);
    let post = async |kid: &str| status(&service, &RSA.token(kid, &claims)).await;
    fake.answer(path, "200 OK", "", &metadata(&format!("{}/jwks", fake.url)));
    assert_eq!(post("a").await, 200);
    service.workspace.write("pod.token", "second-token");
    assert_eq!(post("b").await, 401, "the issuer doesn't have it");
    let sent = |fake: &FakeIssuer| -> Vec<String> {
        let requests = fake.requests();
        let headers = requests.iter().flat_map(|head| head.lines());
        headers.filter(|line| line.to_lowercase().starts_with("authorization")).map(str::to_owned).collect()
    };
    let expected =
        ["first", "first", "second", "second"].map(|name| format!("authorization: Bearer {name}-token"));
    assert_eq!(sent(&fake), expected);

    // The metadata names another host, and then the keys are redirected there.
    service.clock.advance(Duration::from_secs(10));
    fake.answer(path, "200 OK", "", &metadata(&other.jwks_url().replace("jwks_url = ", "").replace('"', "")));
    assert_eq!(post("c").await, 401);
    assert_eq!((other.requests().len(), sent(&other).len()), (1, 0));
    service.clock.advance(Duration::from_secs(10));
    fake.answer(path, "302 Found", &format!("Location: {}/jwks\r\n", other.url), "");
    assert_eq!(post("d").await, 503);
    assert_eq!(other.requests().len(), 1, "a redirect to another host isn't followed");
    service.clock.advance(Duration::from_secs(10));
    fake.answer(path, "302 Found", "Location: /moved\r\n", "");
    fake.answer("/moved", "200 OK", "", &metadata(&format!("{}/jwks", fake.url)));
    assert_eq!(post("e").await, 401, "a redirect on the same host is followed");
}
