//! `client_credentials`: the answer, and the ways in which a client authenticates.

use reqwest::Method;
use serde_json::{Value, json};

use super::{CLIENT_CREDENTIALS, FORM, JOB, NOW, PATH, TokenEndpoint, basic, refused};
use crate::exchange::Mood;
use crate::issuers::{FakeIssuer, RSA, claims_at, issuer};
use crate::support::{API_KEY, Answer, CRM_KEY, Workspace, configuration};

#[tokio::test]
async fn a_client_gets_the_cached_token_in_salesforces_own_form() {
    let service = TokenEndpoint::start().await;
    let answer = service.form(JOB).await;
    let body = answer.ok();
    let instance = body["instance_url"].as_str().expect("a URL");
    assert!(instance.starts_with("http://127.0.0.1:"), "{instance}");
    let expected = json!({
        "access_token": "00D000000000001!token.1", "instance_url": instance,
        "id": "https://login.salesforce.com/id/00D/005", "token_type": "Bearer", "scope": "api",
        "issued_at": format!("{NOW}000"), "expires_in": 7200,
    });
    assert_eq!(body, expected);
    assert_eq!([answer.header("cache-control"), answer.header("pragma")], ["no-store", "no-cache"]);
    service.pass(5);
    let again = service.form_to("/services/oauth2/token", &[], JOB).await.ok();
    assert_eq!((&again["access_token"], &again["expires_in"]), (&body["access_token"], &json!(7195)));
    assert_eq!(again["issued_at"], body["issued_at"]);
    assert_eq!(service.fake.asked(), 1);
    // The JSON endpoint has the same token.
    let json = service.post("/oauth-access-token", "job-key", &json!({})).await.ok();
    assert_eq!(json["access_token"], body["access_token"]);
}

#[tokio::test]
async fn a_jwt_format_token_comes_with_its_api_instance() {
    let service = TokenEndpoint::start().await;
    service.fake.is(Mood::Json(json!({
        "access_token": "a.b.c", "instance_url": "https://acme.my.salesforce.com", "token_type": "Bearer", "expires_in": 900,
        "token_format": "jwt", "api_instance_url": "https://api.salesforce.com", "signature": "x", "issued_at": "1",
    })));
    let body = service.form(JOB).await.ok();
    assert_eq!(
        [&body["token_format"], &body["api_instance_url"], &body["expires_in"]],
        [&json!("jwt"), &json!("https://api.salesforce.com"), &json!(900)]
    );
    assert!(body["signature"].is_null(), "only Salesforce can sign: {body}");
}

#[tokio::test]
async fn every_way_to_authenticate_finds_the_caller() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let workload = "[callers.worker]\njwt_issuer = \"corp\"\njwt_claims = { sub = [\"job-7\"] }\nallow = [\"oauth.live\"]\n";
    let service = TokenEndpoint::with(&(issuer(&fake.jwks_url()) + workload)).await;
    let jwt = RSA.token("a", &claims_at(NOW, "job-7"));
    let assertion = format!(
        "{CLIENT_CREDENTIALS}&client_assertion={jwt}&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    );
    let bearer = |credential: &str| format!("Bearer {credential}");
    let encoded = basic("jo%62:job%2Dkey");
    for (headers, body) in [
        (vec![], JOB.to_owned()),
        (vec![("authorization", basic("job:job-key"))], CLIENT_CREDENTIALS.to_owned()),
        (
            vec![("authorization", basic("job:job-key").replace("Basic", "bAsIc"))],
            CLIENT_CREDENTIALS.to_owned(),
        ),
        (vec![("authorization", encoded)], CLIENT_CREDENTIALS.to_owned()),
        (vec![("authorization", basic("job:job-key"))], format!("{CLIENT_CREDENTIALS}&client_id=job")),
        (vec![], assertion.clone()),
        (vec![], format!("{assertion}&client_id=worker")),
        (vec![("authorization", bearer("job-key"))], CLIENT_CREDENTIALS.to_owned()),
        (vec![("authorization", bearer(&jwt))], CLIENT_CREDENTIALS.to_owned()),
    ] {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = service.form_to(PATH, &headers, &body).await;
        assert_eq!(answer.ok()["token_type"], "Bearer", "{headers:?} {body}");
    }
    assert_eq!(service.fake.asked(), 1);
}

/// The audit log names the caller and how it authenticated.
#[tokio::test]
async fn the_audit_line_has_the_caller_and_its_kind_of_credential() {
    let salesforce = TokenEndpoint::start().await;
    let mut workspace = Workspace::new();
    let token_url = format!("token_url = \"{}\"\n", salesforce.salesforce("/services/oauth2/token"));
    workspace.configure(&configuration().replace("[oauth.crm]\n", &format!("[oauth.crm]\n{token_url}")));
    workspace.set("RUST_LOG", "info");
    let service = workspace.serve().await;
    for body in [
        format!("{CLIENT_CREDENTIALS}&client_id=crm&client_secret={CRM_KEY}"),
        format!("{CLIENT_CREDENTIALS}&client_id=crm"),
    ] {
        let mut request = service.request(Method::POST, PATH).header("content-type", FORM);
        if !body.contains("client_secret") {
            request = request.basic_auth("crm", Some(CRM_KEY));
        }
        Answer::of(request.body(body)).await.ok();
    }
    let log = service.whole_log().await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("handed out")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for line in lines {
        assert!(line.contains(r#""caller":"crm","credential":"api_key","profile":"oauth.crm""#), "{line}");
        assert!(!line.contains(CRM_KEY), "{line}");
    }
}

/// Many clients send what RFC 6749, section 2.3.1, wants to be percent-encoded as it is.
#[tokio::test]
async fn an_api_key_with_special_characters_works_encoded_and_as_it_is() {
    let api_key = "a+b/c%2b=:";
    let digest = crate::support::sha256_hex(api_key);
    let caller = format!("[callers.special]\napi_key_sha256 = [\"{digest}\"]\nallow = [\"oauth.live\"]\n");
    let service = TokenEndpoint::with(&caller).await;
    for sent in [api_key, "a%2Bb%2Fc%252b%3D%3A"] {
        service.basic(&format!("special:{sent}"), CLIENT_CREDENTIALS).await.ok();
    }
    let form = format!("{CLIENT_CREDENTIALS}&client_id=special&client_secret=a%2Bb%2Fc%252b%3D%3A");
    service.form(&form).await.ok();
}

#[tokio::test]
async fn wrong_credentials_are_invalid_client_with_a_basic_challenge() {
    let service = TokenEndpoint::with("").await;
    let secret =
        |id: &str, secret: &str| format!("{CLIENT_CREDENTIALS}&client_id={id}&client_secret={secret}");
    let assertion = |jwt: &str| {
        format!(
            "{CLIENT_CREDENTIALS}&client_assertion={jwt}\
             &client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        )
    };
    let mut answers: Vec<Answer> = Vec::new();
    for body in [
        CLIENT_CREDENTIALS.to_owned(),
        format!("{CLIENT_CREDENTIALS}&client_id=job"),
        secret("job", "wrong"),
        secret("job", "two-key"),
        secret("nobody", "job-key"),
        secret("JOB", "job-key"),
        secret("job", "job-key%00"),
        secret("job%00", "job-key"),
        // An API key is no JWT.
        assertion("job-key"),
        assertion("a.b.c"),
    ] {
        answers.push(service.form(&body).await);
    }
    for credentials in
        ["job:wrong", "two:job-key", "job", ":", "job:", ":job-key", "job-key:job", "job:job-key "]
    {
        answers.push(service.basic(credentials, CLIENT_CREDENTIALS).await);
    }
    for header in ["Basic", "Basic ", "Basic !!!", "Digest abc", "Bearer wrong", "Bearer ", "job:job-key"] {
        answers.push(service.form_to(PATH, &[("authorization", header)], CLIENT_CREDENTIALS).await);
    }
    // `client_id` is another caller's.
    answers.push(service.basic("job:job-key", &format!("{CLIENT_CREDENTIALS}&client_id=two")).await);
    for answer in &answers {
        let description = refused(answer, 401, "invalid_client");
        assert!(description.contains("its API key as `client_secret`"), "{description}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"tokenmint\", charset=\"UTF-8\"");
    }
    assert_eq!(service.fake.asked(), 0);
}

#[tokio::test]
async fn two_ways_of_authentication_in_one_request_are_refused() {
    let service = TokenEndpoint::start().await;
    let both = "&client_assertion=a.b.c&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    for (header, body) in [
        (Some(basic("job:job-key")), JOB.to_owned()),
        (Some("Bearer job-key".to_owned()), JOB.to_owned()),
        (Some(basic("job:job-key")), format!("{CLIENT_CREDENTIALS}{both}")),
        (None, format!("{JOB}{both}")),
    ] {
        let headers: Vec<(&str, &str)> =
            header.iter().map(|value| ("authorization", value.as_str())).collect();
        let answer = service.form_to(PATH, &headers, &body).await;
        let description = refused(&answer, 400, "invalid_request");
        assert!(description.starts_with("authenticate in one way"), "{description}");
    }
    let basic = basic("job:job-key");
    for (first, second) in
        [("Bearer job-key", "Bearer job-key"), (&basic, &basic), (&basic, "Bearer two-key")]
    {
        let two = [("authorization", first), ("authorization", second)];
        refused(&service.form_to(PATH, &two, CLIENT_CREDENTIALS).await, 400, "invalid_request");
    }
    assert_eq!(service.fake.asked(), 0);
}

#[tokio::test]
async fn a_profile_that_the_caller_may_not_use_is_unauthorized_client() {
    let service = TokenEndpoint::start().await;
    for (profile, status, error) in [
        ("oauth.live", 200, ""),
        ("crm", 200, ""),
        ("oauth.none", 400, "unauthorized_client"),
        ("identity.web", 400, "invalid_request"),
        ("%2e%2e", 400, "invalid_request"),
    ] {
        let form = format!("{CLIENT_CREDENTIALS}&client_id=two&client_secret=two-key&profile={profile}");
        let answer = service.form(&form).await;
        if status == 200 {
            answer.ok();
        } else {
            refused(&answer, status, error);
            assert_eq!(answer.json()["field"], "profile");
        }
    }
    // Two profiles and none named; none at all.
    let two = service.form(&format!("{CLIENT_CREDENTIALS}&client_id=two&client_secret=two-key")).await;
    assert!(refused(&two, 400, "invalid_request").contains("`oauth.crm`, `oauth.live`"));
    let page = service.form(&format!("{CLIENT_CREDENTIALS}&client_id=page&client_secret=page-key")).await;
    refused(&page, 400, "unauthorized_client");
}

#[tokio::test]
async fn the_callers_rate_limit_and_salesforces_refusals_apply_here_too() {
    let digest = crate::support::sha256_hex("slow");
    let caller = format!(
        "[callers.slow]\napi_key_sha256 = [\"{digest}\"]\nallow = [\"oauth.live\"]\nrate = 1\nburst = 1\n"
    );
    let service = TokenEndpoint::with(&caller).await;
    let refusal =
        json!({"error": "invalid_grant", "error_description": "user hasn't approved this consumer"});
    service.fake.is(Mood::Error(400, refusal, None));
    let slow = format!("{CLIENT_CREDENTIALS}&client_id=slow&client_secret=slow");
    let rejected = service.form(&slow).await;
    refused(&rejected, 502, "upstream_rejected");
    assert_eq!(rejected.json()["upstream"]["error"], "invalid_grant");
    let limited = service.form(&slow).await;
    refused(&limited, 429, "rate_limited");
    assert!(limited.header("retry-after").parse::<u64>().is_ok());
    let requests = service.metric("tokenmint_requests_total{route=\"/oauth2/token\",status=\"429\"}").await;
    assert!(requests.ends_with(" 1"), "{requests}");
}

#[tokio::test]
async fn other_methods_are_not_allowed_and_other_endpoints_take_no_form() {
    let service = TokenEndpoint::start().await;
    for path in [PATH, "/services/oauth2/token"] {
        let answer = service.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
    }
    let form =
        service.form_to("/oauth-access-token", &[("authorization", "Bearer job-key")], "profile=live").await;
    assert_eq!(form.status.as_u16(), 415);
    let basic = basic(&format!("web:{API_KEY}"));
    let headers = [("authorization", basic.as_str()), ("content-type", "application/json")];
    let answer = service.form_to("/oauth-access-token", &headers, "{}").await;
    assert_eq!((answer.status.as_u16(), answer.header("www-authenticate")), (401, "Bearer"));
    assert_eq!(answer.json()["error"], Value::from("invalid_client"));
}
