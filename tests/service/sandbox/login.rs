//! The JWT bearer grant of the sandbox, sessions, and one query.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokenmint::sandbox::{ConnectedApp, Org, Settings};

use super::{CONSUMER_KEY, PAIRS, Played, START, TOKEN, USER, assertion, org, play, play_with, sign};
use crate::support::{Answer, unverified};

#[track_caller]
fn refused(answer: &Answer, error: &str, description: &str) {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    assert_eq!(answer.json(), json!({"error": error, "error_description": description}));
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_good_assertion_gets_a_session_without_a_stated_lifetime() {
    let played = play(org()).await;
    let answer = played.login(&assertion(&json!({}), START)).await;
    let granted = answer.ok();
    assert_eq!([answer.header("cache-control"), answer.header("pragma")], ["no-store", "no-cache"]);
    let members: Vec<&String> = granted.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["access_token", "id", "instance_url", "issued_at", "scope", "token_type"]);
    let token = granted["access_token"].as_str().expect("a token");
    assert!(token.starts_with("00D000000000001!AQ") && token.len() > 40, "{token}");
    assert_eq!([&granted["instance_url"], &granted["token_type"]], [&json!(played.url), &json!("Bearer")]);
    let id = granted["id"].as_str().expect("an id");
    assert!(id.starts_with(&played.at("/id/00D000000000001EAA/005")), "{id}");
    assert_eq!(played.get(id.strip_prefix(&played.url).expect("ours"), token).await.ok()["username"], USER);
    let info = played.get("/services/oauth2/userinfo", token).await.ok();
    assert_eq!([&info["preferred_username"], &info["organization_id"]], [USER, "00D000000000001EAA"]);
    assert_eq!(played.session().await.len(), token.len());
    let counts = played.sandbox.counts();
    assert_eq!((counts.token, counts.logins[USER]), (2, 2));
}

/// Each row of the error table that depends on the assertion.
#[tokio::test]
async fn each_mistake_gets_salesforces_own_words() {
    let played = play(org()).await;
    let not_approved = "user hasn't approved this consumer";
    for (changes, error, description) in [
        (json!({"iss": "3MVG9.other"}), "invalid_client_id", "client identifier invalid"),
        (json!({"iss": null}), "invalid_client_id", "client identifier invalid"),
        (json!({"aud": "https://login.salesforce.com/"}), "invalid_grant", "audience is invalid"),
        (json!({"aud": "https://LOGIN.salesforce.com"}), "invalid_grant", "audience is invalid"),
        (json!({"aud": "https://other.my.salesforce.com"}), "invalid_grant", "audience is invalid"),
        (json!({"aud": null}), "invalid_grant", "audience is invalid"),
        (json!({"exp": START}), "invalid_grant", "expired authorization code"),
        (json!({"exp": START - 3600}), "invalid_grant", "expired authorization code"),
        (json!({"exp": null}), "invalid_grant", "invalid assertion"),
        (json!({"exp": "in an hour"}), "invalid_grant", "invalid assertion"),
        (json!({"sub": "someone@acme.com"}), "invalid_grant", not_approved),
        (json!({"sub": null}), "invalid_grant", not_approved),
        (
            json!({"sub": "intern@acme.com"}),
            "invalid_app_access",
            "user is not admin approved to access this app",
        ),
        (json!({"jti": 7}), "bad_jti_claim", "jti has already been used"),
    ] {
        let answer = played.login(&assertion(&changes, START)).await;
        assert_eq!(answer.json()["error"], error, "{changes}: {}", answer.text);
        refused(&answer, error, description);
    }
    let counts = played.sandbox.counts();
    assert_eq!(counts.refused["invalid_grant: audience is invalid"], 4);
    assert!(counts.logins.is_empty());
}

#[tokio::test]
async fn an_assertion_not_signed_with_the_apps_key_is_invalid() {
    let played = play(org()).await;
    let claims = json!({"iss": CONSUMER_KEY, "sub": USER, "aud": played.url, "exp": START + 60});
    let good = sign(&PAIRS[0], Algorithm::RS256, None, &claims);
    played.login(&good).await.ok();
    let (signed, signature) = good.rsplit_once('.').expect("a JWT");
    let other = sign(&PAIRS[1], Algorithm::RS256, Some("Key1"), &claims);
    let none = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).expect("claims"));
    for assertion in [
        other,
        sign(&PAIRS[0], Algorithm::RS512, None, &claims),
        sign(&PAIRS[0], Algorithm::PS256, None, &claims),
        none,
        signed.to_owned(),
        format!("{good}="),
        format!("{good}.{signature}"),
        format!("{signed}.{}", &signature[..signature.len() - 4]),
        String::new(),
        "assertion".to_owned(),
    ] {
        refused(&played.login(&assertion).await, "invalid_grant", "invalid assertion");
    }
}

#[tokio::test]
async fn the_form_is_read_strictly() {
    let played = play(org()).await;
    let good = assertion(&json!({}), START);
    let post = async |kind: &str, body: String| {
        let request = played.client.post(played.at(TOKEN)).header("Content-Type", kind).body(body);
        Answer::of(request).await
    };
    let form = "application/x-www-form-urlencoded";
    let grant = "grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer";
    assert_eq!(post(form, format!("{grant}&assertion={good}")).await.status, StatusCode::OK);
    assert_eq!(
        post(&format!("{form};charset=UTF-8"), format!("assertion={good}&{grant}")).await.status,
        StatusCode::OK
    );
    for (kind, body, error) in [
        (form, format!("grant_type=password&assertion={good}"), "unsupported_grant_type"),
        (form, format!("assertion={good}"), "invalid_request"),
        (form, format!("{grant}&{grant}&assertion={good}"), "invalid_request"),
        ("application/json", format!("{grant}&assertion={good}"), "invalid_request"),
        (form, grant.to_owned(), "invalid_grant"),
    ] {
        assert_eq!(post(kind, body.clone()).await.json()["error"], error, "{kind} {body}");
    }
    let get = Answer::of(played.client.get(played.at(TOKEN))).await;
    assert_eq!(get.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn audiences_are_login_test_my_domain_and_the_sandbox_or_the_apps_own() {
    let played = play(org()).await;
    let aud = async |played: &Played, aud: Value| {
        played.login(&assertion(&json!({"aud": aud}), START)).await.status == StatusCode::OK
    };
    for known in ["https://login.salesforce.com", "https://test.salesforce.com"] {
        assert!(aud(&played, json!(known)).await, "{known}");
    }
    assert!(aud(&played, json!("https://acme.my.salesforce.com")).await);
    assert!(aud(&played, json!(played.url)).await && aud(&played, json!(played.at(TOKEN))).await);
    assert!(aud(&played, json!(["https://else.example", "https://login.salesforce.com"])).await);
    let mut org = org();
    org.apps[0].audiences = vec!["https://site.example/customers".to_owned()];
    let played = play(org).await;
    assert!(aud(&played, json!("https://site.example/customers")).await);
    assert!(!aud(&played, json!("https://login.salesforce.com")).await);
}

#[tokio::test]
async fn exp_may_be_a_string_or_milliseconds_unless_checked_strictly() {
    let played = play(org()).await;
    let milliseconds = json!({"exp": (START + 300) * 1000});
    for changes in [json!({"exp": (START + 60).to_string()}), milliseconds.clone(), json!({"exp": 1.8e9})] {
        played.login(&assertion(&changes, START)).await.ok();
    }
    played.sandbox.change_settings(|settings| settings.strict_exp = true);
    played.login(&assertion(&json!({"exp": START + 300}), START)).await.ok();
    let far = played.login(&assertion(&json!({"exp": START + 301}), START)).await;
    refused(&far, "invalid_grant", "invalid assertion");
    refused(&played.login(&assertion(&milliseconds, START)).await, "invalid_grant", "invalid assertion");
    played.clock.advance(Duration::from_mins(5));
    let late = played.login(&assertion(&json!({"exp": START + 300}), START)).await;
    refused(&late, "invalid_grant", "expired authorization code");
}

#[tokio::test]
async fn an_assertion_with_a_jti_works_once_and_one_without_repeatedly() {
    let played = play(org()).await;
    let once = assertion(&json!({"jti": "1"}), START);
    played.login(&once).await.ok();
    refused(&played.login(&once).await, "bad_jti_claim", "jti has already been used");
    played.login(&assertion(&json!({"jti": "2"}), START)).await.ok();
    let again = assertion(&json!({}), START);
    played.login(&again).await.ok();
    played.login(&again).await.ok();
    // An assertion refused for another reason doesn't count as used.
    let early = assertion(&json!({"jti": "3", "exp": START}), START);
    refused(&played.login(&early).await, "invalid_grant", "expired authorization code");
    played.login(&assertion(&json!({"jti": "3"}), START)).await.ok();
}

#[tokio::test]
async fn an_external_client_app_isnt_found_through_login_or_test() {
    let mut org = org();
    org.apps[0].external = true;
    let played = play(org).await;
    let text = "External client app is not installed in this org";
    for aud in ["https://login.salesforce.com", "https://test.salesforce.com"] {
        refused(&played.login(&assertion(&json!({"aud": aud}), START)).await, "app_not_found", text);
    }
    let mine = assertion(&json!({"aud": "https://acme.my.salesforce.com"}), START);
    played.login(&mine).await.ok();
    let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", mine.as_str())];
    let request = played.client.post(played.at(TOKEN)).header("Host", "login.salesforce.com").form(&form);
    refused(&Answer::of(request).await, "app_not_found", text);
}

#[tokio::test]
async fn missing_scopes_are_refused() {
    for (scopes, error) in [
        ("api web", "invalid_grant"),
        ("refresh_token", "invalid_scope"),
        ("offline_access", "invalid_scope"),
    ] {
        let app = ConnectedApp { scopes: scopes.to_owned(), ..org().apps.remove(0) };
        let played = play(Org { apps: vec![app], ..org() }).await;
        assert_eq!(played.login(&assertion(&json!({}), START)).await.json()["error"], error, "{scopes}");
    }
}

#[tokio::test]
async fn a_user_logs_in_3600_times_an_hour_and_no_more() {
    let played = play(org()).await;
    assert_eq!(Settings::default().logins_per_hour, 3600);
    played.sandbox.change_settings(|settings| settings.logins_per_hour = 3);
    for _ in 0..3 {
        played.session().await;
        played.clock.advance(Duration::from_mins(1));
    }
    let refusal = played.login(&assertion(&json!({}), played.now())).await;
    refused(&refusal, "LOGIN_RATE_EXCEEDED", "login rate exceeded");
    played.login(&assertion(&json!({"sub": "second@acme.com"}), played.now())).await.ok();
    played.clock.advance(Duration::from_mins(57));
    played.session().await;
    assert_eq!(
        played.login(&assertion(&json!({}), played.now())).await.json()["error"],
        "LOGIN_RATE_EXCEEDED"
    );
    assert_eq!(
        played.sandbox.counts().logins,
        [(USER.to_owned(), 4), ("second@acme.com".to_owned(), 1)].into()
    );
}

#[tokio::test]
async fn too_many_failed_logins_block_the_good_ones_for_an_hour() {
    let settings = Settings { failures_until_block: Some(2), ..Settings::default() };
    let played = play_with(org(), settings).await;
    for _ in 0..2 {
        played.login("nonsense").await;
    }
    let good = played.login(&assertion(&json!({}), START)).await;
    refused(&good, "invalid_grant", "ip restricted");
    played.clock.advance(Duration::from_hours(1));
    played.session().await;
}

#[tokio::test]
async fn a_session_queries_until_it_idles_is_revoked_or_expires() {
    let played = play(org()).await;
    let query = "/services/data/v59.0/query/?q=SELECT+Id,Name+FROM+Account+LIMIT+1";
    let dead = json!([{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]);
    let token = played.session().await;
    let found = played.get(query, &token).await.ok();
    assert_eq!((&found["totalSize"], &found["done"]), (&json!(1), &json!(true)));
    assert_eq!(found["records"][0]["attributes"]["type"], "Account");
    assert_eq!(found["records"][0]["Name"], "Acme");
    let malformed = played.get("/services/data/v59.0/query?q=DROP", &token).await;
    assert_eq!(malformed.json()[0]["errorCode"], "MALFORMED_QUERY");
    for path in ["/services/data", "/services/data/v59.0", "/services/data/v59.0/"] {
        played.get(path, &token).await.ok();
    }
    assert_eq!(played.get("/services/data/v1/query?q=x", &token).await.status, StatusCode::NOT_FOUND);
    // Use renews a session: one of two hours is valid for three.
    for _ in 0..3 {
        played.clock.advance(Duration::from_hours(1));
        played.get(query, &token).await.ok();
    }
    played.clock.advance(Duration::from_hours(2));
    for path in [query, "/services/data/v59.0/"] {
        let answer = played.get(path, &token).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::UNAUTHORIZED, dead.clone()), "{path}");
    }
    let refused = played.get("/services/oauth2/userinfo", &token).await;
    assert_eq!((refused.status, refused.text.as_str()), (StatusCode::FORBIDDEN, "Bad_OAuth_Token"));
    let (first, second) = (played.session().await, played.session().await);
    let revoke = played.client.post(played.at("/services/oauth2/revoke")).form(&[("token", &first)]);
    assert_eq!(Answer::of(revoke).await.status, StatusCode::OK);
    assert_eq!(played.get(query, &first).await.json(), dead);
    played.get(query, &second).await.ok();
    played.post("/__sandbox/expire-sessions", &json!({})).await;
    assert_eq!(played.get(query, &second).await.json(), dead);
    assert_eq!(played.get(query, "").await.json(), dead);
}

#[tokio::test]
async fn settings_give_expires_in_jwts_and_another_instance() {
    let settings = Settings {
        expires_in: true,
        jwt_access_tokens: true,
        instance_url: Some("https://acme.my.salesforce.com".to_owned()),
        session_life: Duration::from_mins(15),
        ..Settings::default()
    };
    let played = play_with(org(), settings).await;
    let granted = played.login(&assertion(&json!({}), START)).await.ok();
    assert_eq!(granted["expires_in"], 900);
    assert_eq!(granted["instance_url"], "https://acme.my.salesforce.com");
    let token = granted["access_token"].as_str().expect("a token");
    assert_eq!(unverified(token).1["exp"], START + 900);
    assert_eq!([&granted["token_format"], &granted["api_instance_url"]], [&json!("jwt"), &json!(played.url)]);
    let begin = |token: &str| {
        let path = played.at("/einstein/ai-agent/v1/agents/0Xx000000000001/sessions");
        let body = json!({"externalSessionKey": "a-key", "instanceConfig": {"endpoint": played.url}});
        Answer::of(played.client.post(path).bearer_auth(token).json(&body))
    };
    assert!(begin(token).await.ok()["sessionId"].is_string());
    assert_eq!(begin("00D000000000001!AQ").await.status, StatusCode::UNAUTHORIZED);
    played.get("/services/oauth2/userinfo", token).await.ok();
    // A JWT contains its expiry, so use doesn't renew it.
    played.clock.advance(Duration::from_mins(14));
    played.get("/services/oauth2/userinfo", token).await.ok();
    played.clock.advance(Duration::from_mins(1));
    assert_eq!(played.get("/services/oauth2/userinfo", token).await.status, StatusCode::FORBIDDEN);
}
