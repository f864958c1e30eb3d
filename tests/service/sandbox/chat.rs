//! Messaging access tokens of the sandbox: which users are verified, and which get an anonymous session.

use std::time::Duration;

use axum::http::{self, HeaderMap, HeaderValue};
use base64::Engine as _;
use jsonwebtoken::Algorithm;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokenmint::sandbox::{Deployment, KeySource, OnFailure, Org, Settings};
use tokio::net::TcpListener;

use super::{
    ISSUER, MESSAGING, PAIRS, Publisher, START, chat_org, chat_request, identity, org, play, play_with,
    set_of, sign, subject,
};
use crate::support::{Answer, unverified};

#[tokio::test]
async fn a_verified_user_gets_an_auth_session() {
    let publisher = Publisher::of(&set_of(&PAIRS[0].jwk("Key1"))).await;
    let played = play(chat_org(publisher.keys())).await;
    let answer = played.chat(&identity(&json!({}), START)).await.ok();
    let expected = "v2/iamessage/AUTH/Web_Verification/uid:user-1";
    assert_eq!(subject(&answer), expected);
    assert_eq!(answer["context"]["configuration"]["deploymentType"], "api");
    assert!(answer["lastEventId"].is_string());
    let token = answer["accessToken"].as_str().expect("a token");
    let (_, claims) = unverified(token);
    assert_eq!((&claims["sub"], &claims["exp"]), (&json!(expected), &json!(START + 3600)));
    assert_eq!(claims["clientId"].as_str().and_then(|id| id.split('/').nth(1)), Some("Web_Channel"));
    // RS512 is accepted too, unless the JWK has another `alg`.
    let mut jwk = PAIRS[0].jwk("Key1");
    jwk["alg"] = json!("RS512");
    publisher.publish(&set_of(&jwk));
    let claims = json!({"iss": ISSUER, "sub": "a/AUTH/b", "exp": START + 60});
    let token = sign(&PAIRS[0], Algorithm::RS512, Some("Key1"), &claims);
    let answer = played.chat(&token).await.ok();
    assert_eq!(subject(&answer), "v2/iamessage/AUTH/Web_Verification/uid:a/AUTH/b");
    let counts = played.sandbox.counts();
    assert_eq!((counts.messaging, counts.verified, counts.unverified, counts.jwks_fetches), (2, 2, 0, 2));
}

/// A failed verification looks like success. Only the sandbox's own record gives the reason.
#[tokio::test]
async fn each_mistake_in_an_identity_token_makes_the_session_anonymous() {
    let publisher = Publisher::of(&set_of(&PAIRS[0].jwk("Key1"))).await;
    let played = play(chat_org(publisher.keys())).await;
    let claims = json!({"iss": ISSUER, "sub": "user-1", "exp": START + 60});
    let signed = |pair: usize, algorithm, kid| sign(&PAIRS[pair], algorithm, kid, &claims);
    for (token, why) in [
        (identity(&json!({"iss": "https://acme.example/"}), START), "byte for byte"),
        (identity(&json!({"iss": "https://Acme.example"}), START), "byte for byte"),
        (identity(&json!({"exp": START}), START), "expired"),
        (identity(&json!({"exp": "6000"}), START), "`exp`"),
        (identity(&json!({"exp": null}), START), "`exp`"),
        (identity(&json!({"sub": null}), START), "no `sub`"),
        (identity(&json!({"sub": ""}), START), "no `sub`"),
        (signed(0, Algorithm::RS256, Some("key1")), "`kid` that no key"),
        (signed(0, Algorithm::RS256, None), "no `kid`"),
        (signed(1, Algorithm::RS256, Some("Key1")), "doesn't verify"),
        (signed(0, Algorithm::PS256, Some("Key1")), "other than RS256 and RS512"),
        (signed(0, Algorithm::RS512, Some("Key1")), "another `alg` than its JWK"),
        ("nonsense".to_owned(), "isn't a JWT"),
    ] {
        let answer = played.chat(&token).await.ok();
        assert!(subject(&answer).starts_with("v2/iamessage/ANON/"), "{why}: {answer}");
        assert!(played.last_reason().contains(why), "{why}: {}", played.last_reason());
    }
    assert_eq!(played.sandbox.counts().unverified, 13);
}

#[tokio::test]
async fn a_deployment_decides_what_unverified_users_get() {
    let keys = || KeySource::Uploaded(set_of(&PAIRS[0].jwk("Key1")));
    let deployment = |on_failure, is_verification_active| Deployment {
        on_failure,
        is_verification_active,
        ..Deployment::new("Web_Channel", ISSUER, keys())
    };
    let wrong = identity(&json!({"iss": "else"}), START);
    let played = play(Org { deployments: vec![deployment(OnFailure::Unauthenticated, true)], ..org() }).await;
    let answer = played.chat(&wrong).await.ok();
    let uuid = subject(&answer).strip_prefix("v2/iamessage/UNAUTH/NA/uid:").expect("a guest");
    assert_eq!((uuid.len(), uuid.as_bytes()[14]), (36, b'4'));
    let played = play(Org { deployments: vec![deployment(OnFailure::Refuse, true)], ..org() }).await;
    let answer = played.chat(&wrong).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.json()["message"].is_string());
    played.chat(&identity(&json!({}), START)).await.ok();
    let played = play(Org { deployments: vec![deployment(OnFailure::Anonymous, false)], ..org() }).await;
    let answer = played.chat(&identity(&json!({}), START)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        answer.json(),
        json!({"message": "User verification configuration has no active AuthSchemes."})
    );
}

#[tokio::test]
async fn an_uploaded_key_without_its_certificate_makes_sessions_anonymous() {
    let good = PAIRS[0].jwk("Key1");
    let with = |change: fn(&mut Value)| {
        let mut jwk = good.clone();
        change(&mut jwk);
        set_of(&jwk)
    };
    let mut others = good.clone();
    others["x5c"] = PAIRS[1].jwk("Key1")["x5c"].clone();
    let no_x5c = with(|jwk| _ = jwk.as_object_mut().expect("an object").remove("x5c"));
    for (set, why) in [
        (no_x5c.clone(), Some("no `x5c`")),
        (set_of(&others), Some("certificate of another key")),
        (with(|jwk| jwk["x5c"][0] = json!("-----BEGIN CERTIFICATE-----")), Some("plain base64")),
        (with(|jwk| jwk["n"] = json!(format!("{}=", jwk["n"].as_str().unwrap()))), Some("without padding")),
        (with(|jwk| jwk["kty"] = json!("EC")), Some("isn't an RSA key")),
        (with(|jwk| jwk["use"] = json!("enc")), Some("`use`")),
        // The placeholders of Salesforce's own tool are ignored.
        (with(|jwk| (jwk["y"], jwk["crv"], jwk["d"]) = (json!("y"), json!("crv"), json!("d"))), None),
        // The certificate is enough.
        (
            with(|jwk| jwk.as_object_mut().expect("an object").retain(|name, _| name != "n" && name != "e")),
            None,
        ),
    ] {
        let played = play(chat_org(KeySource::Uploaded(set))).await;
        let answer = played.chat(&identity(&json!({}), START)).await.ok();
        match why {
            None => assert!(subject(&answer).contains("/AUTH/"), "{answer}"),
            Some(why) => {
                assert!(subject(&answer).contains("/ANON/"), "{why}: {answer}");
                assert!(played.last_reason().contains(why), "{why}: {}", played.last_reason());
            }
        }
    }
    // A key from an endpoint needs no certificate.
    let publisher = Publisher::of(&no_x5c).await;
    let played = play(chat_org(publisher.keys())).await;
    assert!(subject(&played.chat(&identity(&json!({}), START)).await.ok()).contains("/AUTH/"));
}

#[tokio::test]
async fn a_slow_jwks_endpoint_makes_sessions_anonymous() {
    let good = set_of(&PAIRS[0].jwk("Key1"));
    let publisher = Publisher::of(&good).await;
    let played = play(chat_org(publisher.keys())).await;
    let token = identity(&json!({}), START);
    let location = HeaderMap::from_iter([(
        http::header::LOCATION,
        HeaderValue::from_str(&publisher.url).expect("a URL"),
    )]);
    let none = HeaderMap::new;
    let long = json!({"keys": [PAIRS[0].jwk("Key1")], "padding": "x".repeat(60_000)});
    for (status, headers, body, why) in [
        (StatusCode::FOUND, location, String::new(), "answers 302"),
        (StatusCode::UNAUTHORIZED, none(), good.to_string(), "answers 401"),
        (StatusCode::NOT_FOUND, none(), String::new(), "answers 404"),
        (StatusCode::OK, none(), "<html>".to_owned(), "doesn't send JSON"),
        (StatusCode::OK, none(), "[]".to_owned(), "without `keys`"),
        (StatusCode::OK, none(), long.to_string(), "more than 50 KiB"),
    ] {
        publisher.say(status, headers, &body);
        assert!(subject(&played.chat(&token).await.ok()).contains("/ANON/"), "{why}");
        assert!(played.last_reason().contains(why), "{why}: {}", played.last_reason());
    }
    publisher.publish(&good);
    assert!(subject(&played.chat(&token).await.ok()).contains("/AUTH/"));
    // A server that accepts connections and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/jwks.json", mute.local_addr().expect("an address"));
    let played = play(chat_org(KeySource::Url(url))).await;
    assert!(subject(&played.chat(&token).await.ok()).contains("/ANON/"));
    assert!(played.last_reason().contains("is too slow"), "{}", played.last_reason());
    drop(mute);
    assert!(subject(&played.chat(&token).await.ok()).contains("/ANON/"));
    assert!(played.last_reason().contains("can't be reached"), "{}", played.last_reason());
}

#[tokio::test]
async fn a_fetched_set_is_cached_as_long_as_configured() {
    let publisher = Publisher::of(&set_of(&PAIRS[0].jwk("Key1"))).await;
    let settings = Settings { jwks_cache: Duration::from_mins(10), ..Settings::default() };
    let played = play_with(chat_org(publisher.keys()), settings).await;
    let verified = async || {
        let answer = played.chat(&identity(&json!({}), played.now())).await.ok();
        subject(&answer).contains("/AUTH/")
    };
    assert!(verified().await);
    // The key has left the endpoint, but not the cache, like in a rotation without lead.
    publisher.publish(&set_of(&PAIRS[1].jwk("Key2")));
    played.clock.advance(Duration::from_secs(599));
    assert!(verified().await);
    assert_eq!((publisher.hits(), played.sandbox.counts().jwks_fetches), (1, 1));
    played.clock.advance(Duration::from_secs(1));
    assert!(!verified().await);
    assert_eq!(publisher.hits(), 2);
    // Without a cache every exchange fetches.
    played.sandbox.change_settings(|settings| settings.jwks_cache = Duration::ZERO);
    publisher.publish(&set_of(&PAIRS[0].jwk("Key1")));
    assert!(verified().await && verified().await);
    assert_eq!(publisher.hits(), 4);
}

#[tokio::test]
async fn the_body_is_checked_field_by_field() {
    let played = play(chat_org(KeySource::Uploaded(set_of(&PAIRS[0].jwk("Key1"))))).await;
    let good = chat_request(&identity(&json!({}), START));
    for (name, value, status) in [
        ("orgId", json!(null), 400),
        ("orgId", json!("00D000000000002"), 400),
        ("orgId", json!("00D0000000000"), 400),
        ("orgId", json!("00D000000000001EAA"), 200),
        ("esDeveloperName", json!(null), 400),
        ("esDeveloperName", json!("Web-Channel"), 400),
        ("esDeveloperName", json!("1Web"), 400),
        ("esDeveloperName", json!("Mobile_Channel"), 404),
        ("capabilitiesVersion", json!(null), 400),
        ("capabilitiesVersion", json!(1), 400),
        ("platform", json!(null), 400),
        ("authorizationType", json!("Bearer"), 400),
        ("customerIdentityToken", json!(null), 400),
        ("customerIdentityToken", json!(""), 400),
        ("context", json!({"appName": "test"}), 400),
        ("context", json!(null), 200),
        ("deviceId", json!("7f6f1c1e-6b4e-4f4a-9d5c-0a6d6b1f2e3d"), 200),
    ] {
        let mut body = good.clone();
        match &value {
            Value::Null => _ = body.as_object_mut().expect("an object").remove(name),
            value => body[name] = value.clone(),
        }
        let answer = played.post(MESSAGING, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{name} {value}: {}", answer.text);
        assert_eq!(answer.json()["message"].is_string(), status != 200, "{}", answer.text);
    }
    assert_eq!(played.post(MESSAGING, &json!([])).await.status, StatusCode::BAD_REQUEST);
    played.sandbox.change_settings(|settings| settings.require_context = true);
    let mut body = good;
    body.as_object_mut().expect("an object").remove("context");
    assert!(played.post(MESSAGING, &body).await.json()["message"].as_str().unwrap().contains("context"));
}

#[tokio::test]
async fn an_org_gets_200_access_tokens_a_minute_and_no_more() {
    let played = play(chat_org(KeySource::Uploaded(set_of(&PAIRS[0].jwk("Key1"))))).await;
    let token = identity(&json!({}), START);
    for _ in 0..100 {
        played.chat(&token).await.ok();
    }
    played.clock.advance(Duration::from_secs(15));
    for _ in 0..100 {
        played.chat(&token).await.ok();
    }
    let answer = played.chat(&token).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "45"));
    assert!(answer.json()["message"].is_string());
    played.clock.advance(Duration::from_secs(45));
    played.chat(&token).await.ok();
}

#[tokio::test]
async fn a_messaging_session_goes_on_in_another_tab_until_it_ends_or_is_revoked() {
    let played = play(chat_org(KeySource::Uploaded(set_of(&PAIRS[0].jwk("Key1"))))).await;
    let first = played.chat(&identity(&json!({}), START)).await.ok();
    let first = first["accessToken"].as_str().expect("a token");
    played.clock.advance(Duration::from_mins(30));
    let path = "/iamessage/api/v2/authorization/continuation-access-token";
    let second = played.get(path, first).await.ok();
    let second = second["accessToken"].as_str().expect("a token");
    let (before, after) = (unverified(first).1, unverified(second).1);
    assert_eq!((&before["sub"], &before["exp"]), (&after["sub"], &after["exp"]));
    assert_ne!(before["clientId"], after["clientId"]);
    let revoke = async |token: &str| {
        Answer::of(played.client.delete(played.at(MESSAGING)).bearer_auth(token)).await.status
    };
    assert_eq!(revoke(second).await, StatusCode::NO_CONTENT);
    assert_eq!(revoke(second).await, StatusCode::UNAUTHORIZED);
    assert_eq!(played.get(path, second).await.status, StatusCode::UNAUTHORIZED);
    played.get(path, first).await.ok();
    played.clock.advance(Duration::from_mins(30));
    let dead = played.get(path, first).await;
    assert_eq!((dead.status, dead.json()["message"].is_string()), (StatusCode::UNAUTHORIZED, true));
}

/// A token with an unknown `crit` header.
#[tokio::test]
async fn an_unknown_critical_header_makes_the_session_anonymous() {
    let played = play(chat_org(KeySource::Uploaded(set_of(&PAIRS[0].jwk("Key1"))))).await;
    let good = identity(&json!({}), START);
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .encode(r#"{"alg":"RS256","kid":"Key1","crit":["b64"],"b64":false}"#);
    let (_, rest) = good.split_once('.').expect("a JWT");
    let answer = played.chat(&format!("{header}.{rest}")).await.ok();
    assert!(subject(&answer).contains("/ANON/"));
    assert!(played.last_reason().contains("crit"));
}
