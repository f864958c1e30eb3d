//! Checks that send requests: a JWKS at its URL, and one exchange per profile with the sandbox.

use std::time::Duration;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, DATE, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokenmint::sandbox::{Fault, FaultKind, FaultTarget, KeySource, OnFailure, Org};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Given, now, seconds};
use crate::sandbox::{PAIRS, Played, Publisher, TOKEN, chat_org, play, set_of};

pub fn good_set() -> Value {
    set_of(&PAIRS[0].jwk("Key1"))
}

/// A JWKS URL with that answer.
pub async fn shown(status: u16, headers: &[(HeaderName, &str)], body: &str) -> Given {
    let publisher = Publisher::of(&json!({})).await;
    let status = StatusCode::from_u16(status).expect("a status");
    let value = |text: &str| HeaderValue::from_str(text).expect("a header");
    let headers: HeaderMap = headers.iter().map(|(name, text)| (name.clone(), value(text))).collect();
    publisher.say(status, headers, body);
    Given::nothing().with(&["--jwks", &publisher.url])
}

/// A JWKS URL on a closed port.
async fn down() -> Given {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
    drop(listener);
    Given::nothing().with(&["--jwks", &url])
}

/// A JWKS URL that answers slowly.
async fn slow() -> Given {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
    let answers = axum::Router::new().fallback(async || {
        // More than the 500 ms that a JWKS may take.
        tokio::time::sleep(Duration::from_millis(700)).await;
        Json(good_set())
    });
    tokio::spawn(async move { axum::serve(listener, answers).await });
    Given::nothing().with(&["--jwks", &url])
}

/// A JWKS URL with an address that isn't loopback but reaches this host.
async fn over_http(status: u16, headers: &[(HeaderName, &str)], body: &str) -> Given {
    let mut given = shown(status, headers, body).await;
    given.arguments[1] = given.arguments[1].replace("127.0.0.1", "0.0.0.0");
    given
}

/// A URL with that answer, without a Date header.
pub async fn dateless(status: u16, body: &Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 16 << 10];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

/// RFC 9110, section 5.6.7.
fn http_date(seconds: i64) -> String {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    OffsetDateTime::from_unix_timestamp(seconds).expect("a date").format(&format).expect("a date")
}

/// The org that the configuration is for.
pub fn org() -> Org {
    let mut org = chat_org(KeySource::Uploaded(good_set()));
    org.apps[0].certificates = vec![PAIRS[1].certificate.clone()];
    org
}

pub async fn played(org: Org) -> Played {
    let played = play(org).await;
    played.clock.set(now());
    played
}

/// The sound configuration with that sandbox as its Salesforce, and these replacements.
pub fn asking(played: Played, changes: &[(&str, &str)]) -> Given {
    let audience = "audience = \"https://acme.my.salesforce.com\"";
    let with_token_url = format!("{audience}\ntoken_url = \"{}\"", played.at(TOKEN));
    let mut all = vec![
        ("url = \"https://tokens.acme.example\"\n", ""),
        ("https://acme.my.salesforce-scrt.com", played.url.as_str()),
        (audience, with_token_url.as_str()),
    ];
    all.extend(changes);
    Given::configured(&all).with(&["--online"]).holding(played)
}

async fn against(change: impl FnOnce(&mut Org)) -> Given {
    let mut org = org();
    change(&mut org);
    asking(played(org).await, &[])
}

async fn configured_as(from: &str, to: &str) -> Given {
    asking(played(org()).await, &[(from, to)])
}

/// A sandbox whose messaging endpoint answers with this error.
async fn answering(message: &str) -> Given {
    let played = played(org()).await;
    let refusal = Fault {
        path: FaultTarget::Messaging,
        status: Some(400),
        error: Some("BAD_REQUEST".to_owned()),
        error_description: Some(message.to_owned()),
        ..Fault::new(FaultKind::Status)
    };
    played.fault(refusal);
    asking(played, &[])
}

/// A configuration whose public URL serves that set.
pub async fn published(set: &Value) -> Given {
    published_for(set, org()).await
}

async fn published_for(set: &Value, org: Org) -> Given {
    let publisher = Publisher::of(set).await;
    let url = publisher.url.trim_end_matches("/jwks.json");
    let public = format!("[server.public]\nurl = \"{url}\"\n");
    let given = asking(played(org).await, &[("[server.public]\n", &public)]);
    given.beside("public-url")
}

/// A key whose id is longer than the part shown, and another key with that id.
async fn long_id() -> Given {
    let kid = format!("Key{}", "1".repeat(100));
    let mut org = org();
    org.deployments[0].keys = KeySource::Uploaded(with(&kid, 0));
    let given = published_for(&with(&kid, 1), org).await;
    let keys = given.workspace.path("keys/identity");
    std::fs::rename(keys.join("Key1.key"), keys.join(format!("{kid}.key"))).expect("renamed");
    given
}

fn with(kid: &str, pair: usize) -> Value {
    set_of(&PAIRS[pair].jwk(kid))
}

const LOGIN: &str = "audience = \"https://login.salesforce.com\"";

async fn external_app() -> Given {
    let mut org = org();
    org.apps[0].external = true;
    asking(played(org).await, &[("audience = \"https://acme.my.salesforce.com\"", LOGIN)])
}

/// A configuration without any URL to request.
fn nobody_to_ask() -> Given {
    let given = Given::nothing().with(&["--online"]);
    given.workspace.configure("[intercom.fin]\nsecret = \"intercom-messenger-api-secret-0123456789\"\n[callers.web]\n\
         api_key_sha256 = [\"0000000000000000000000000000000000000000000000000000000000000000\"]\nallow = [\"intercom.fin\"]\n");
    given
}

/// A messaging host on a closed port.
async fn unreachable() -> Given {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let played = played(org()).await;
    let there = played.url.clone();
    asking(played, &[(&format!("scrt_url = \"{there}\""), &format!("scrt_url = \"{url}\""))])
}

faults! {
    a_jwks_that_sends_on_to_a_login: "jwks-reachable", fail, "sends on to https://login.acme.example/",
        shown(302, &[(LOCATION, "https://login.acme.example/")], "").await;
    a_jwks_behind_a_password: "jwks-reachable", fail, "answers 401: it wants a login", shown(401, &[], "").await;
    a_jwks_behind_bot_protection: "jwks-reachable", fail, "answers 403", shown(403, &[], "<html>").await;
    a_jwks_that_is_not_there: "jwks-reachable", fail, "answers 404", shown(404, &[], "").await;
    a_jwks_that_is_a_login_page: "jwks-reachable", fail, "no JWK Set",
        shown(200, &[], "<html>{ please: 'log in' }</html>").await;
    a_jwks_that_is_a_single_key: "jwks-reachable", fail, "no JWK Set",
        shown(200, &[], &PAIRS[0].jwk("Key1").to_string()).await;
    a_jwks_without_any_key: "jwks-reachable", fail, "or an empty one", shown(200, &[], r#"{"keys":[]}"#).await;
    a_jwks_over_http: "jwks-reachable", fail, "is fetched over http, ", over_http(200, &[], &good_set().to_string()).await;
    a_jwks_over_http_that_sends_on_to_https: "jwks-reachable", fail, "over https only; answers 301 and sends on to https://",
        over_http(301, &[(LOCATION, "https://tokens.acme.example/")], "").await;
    a_jwks_that_calls_itself_a_page: "jwks-reachable", warn, "with Content-Type text/html; charset=utf-8",
        shown(200, &[(CONTENT_TYPE, "text/html; charset=utf-8")], &good_set().to_string()).await;
    a_jwks_that_is_down: "jwks-reachable", fail, "can't be reached", down().await;
    a_jwks_that_is_too_slow: "jwks-light", warn, "500 ms are the limit", slow().await;
    a_jwks_that_is_too_large: "jwks-light", fail, "50 KiB are the limit",
        shown(200, &[], &format!("{}{}", good_set(), " ".repeat(60 << 10))).await;
    a_jwks_with_other_keys: "jwks-current", fail, "shows other keys (Old)", published(&with("Old", 1)).await;
    a_jwks_with_a_key_too_many: "jwks-current", fail, "shows other keys (Key1, Old)",
        published(&json!({"keys": [PAIRS[1].jwk("Old"), PAIRS[0].jwk("Key1")]})).await;
    a_jwks_with_another_key_under_the_same_long_id: "jwks-current", fail, "another key or certificate as Key",
        long_id().await;
    a_jwks_with_another_key_under_the_same_id: "jwks-current", fail, "another key or certificate as Key1",
        published(&with("Key1", 1)).await;
    a_clock_that_is_ten_minutes_off: "clock", fail, "s behind",
        shown(200, &[(DATE, &http_date(seconds() + 600))], &good_set().to_string()).await;
    a_clock_that_is_a_minute_off: "clock", warn, "s ahead",
        shown(200, &[(DATE, &http_date(seconds() - 60))], &good_set().to_string()).await;
    nothing_that_could_be_asked: "exchange", warn, "nothing was asked", nobody_to_ask();
    an_anonymous_session_instead_of_a_verified_one: "exchange", fail, "did not verify the user",
        against(|org| org.deployments[0].keys = KeySource::Uploaded(with("Key1", 1))).await;
    a_refusal_that_nobody_has_documented: "exchange", fail, "401",
        against(|org| {
            org.deployments[0].issuer = "another".to_owned();
            org.deployments[0].on_failure = OnFailure::Refuse;
        }).await;
    a_messaging_host_that_is_down: "exchange", fail, "can't be reached", unreachable().await;
    a_channel_without_an_active_configuration: "auth-schemes", fail, "no active AuthSchemes",
        against(|org| org.deployments[0].is_verification_active = false).await;
    a_channel_that_doesn_t_verify_users: "verification-mode", fail, "auth mode",
        answering("Set the auth mode to false").await;
    a_deployment_that_nobody_published: "deployment", fail, "No published deployment",
        configured_as("Web_Channel", "Old_Channel").await;
    an_audience_that_the_app_doesn_t_take: "audience", fail, "audience is invalid",
        configured_as("audience = \"https://acme.my", "audience = \"https://other.my").await;
    an_external_client_app_asked_at_production_s_host: "audience-host", fail, "app_not_found", external_app().await;
    a_user_whose_permission_set_the_app_lacks: "preauthorized", fail, "invalid_app_access",
        configured_as("integration@acme.com", "intern@acme.com").await;
    a_user_who_isn_t_preauthorized: "preauthorized", fail, "approved this consumer",
        configured_as("integration@acme.com", "nobody@acme.com").await;
    an_app_that_salesforce_doesn_t_know: "app-propagation", fail, "client identifier invalid",
        configured_as("3MVG9.sandbox", "3MVG9.unknown").await;
    an_app_with_another_certificate: "app-certificate-of-key", fail, "invalid assertion",
        against(|org| org.apps[0].certificates = vec![PAIRS[0].certificate.clone()]).await;
}
