//! Malformed token requests. None is answered with a token, and none reaches Salesforce.

use super::{CLIENT_CREDENTIALS, JOB, PATH, TokenEndpoint, refused};

/// Forms after `client_id` and `client_secret` of a caller, with the `field` of the error. All are 400 `invalid_request`.
const BAD_FORMS: &[(&str, Option<&str>)] = &[
    // No grant type
    ("", Some("grant_type")),
    ("&grant_type=", Some("grant_type")),
    ("&grant_type", Some("grant_type")),
    ("&Grant_Type=client_credentials", Some("grant_type")),
    ("&grant%20type=client_credentials", Some("grant_type")),
    // Doubles
    ("&grant_type=client_credentials&grant_type=client_credentials", Some("grant_type")),
    ("&grant_type=client_credentials&grant%5Ftype=client_credentials", Some("grant_type")),
    ("&grant_type=client_credentials&client_id=job", Some("client_id")),
    ("&grant_type=client_credentials&client_secret=job-key", Some("client_secret")),
    ("&grant_type=client_credentials&client_secret=", Some("client_secret")),
    ("&grant_type=client_credentials&profile=live&profile=live", Some("profile")),
    ("&grant_type=client_credentials&profile&profile", Some("profile")),
    ("&grant_type=client_credentials&unknown=&unknown=", Some("unknown")),
    // Unknown parameters
    ("&grant_type=client_credentials&sub=user-1", Some("sub")),
    ("&grant_type=client_credentials&username=a&password=b", Some("username")),
    ("&grant_type=client_credentials&assertion=a.b.c", Some("assertion")),
    ("&grant_type=client_credentials&subject_token=a.b.c", Some("subject_token")),
    ("&grant_type=client_credentials&audience=x", Some("audience")),
    ("&grant_type=client_credentials&resource=x", Some("resource")),
    ("&grant_type=client_credentials&refresh_token=x", Some("refresh_token")),
    ("&grant_type=client_credentials&code=x", Some("code")),
    ("&grant_type=client_credentials&redirect_uri=x", Some("redirect_uri")),
    ("&grant_type=client_credentials&format=json", Some("format")),
    ("&grant_type=client_credentials&Profile=live", Some("Profile")),
    ("&grant_type=client_credentials&unknown=", Some("unknown")),
    ("&grant_type=client_credentials&job-key-of-mine=1", None),
    ("&grant_type=client_credentials&=x", None),
    ("&grant_type=client_credentials&{\"a\":1}=x", None),
    // Not percent-encoded UTF-8
    ("&grant_type=client_credentials&profile=%", None),
    ("&grant_type=client_credentials&profile=%z1", None),
    ("&grant_type=client_credentials&profile=%1", None),
    ("&grant_type=client_credentials&profile=100%", None),
    ("&grant_type=client_credentials&profile=%ff", None),
    ("&grant_type=client_credentials&profile=%c3%28", None),
    ("&grant_type=client_credentials&profile=%ed%a0%80", None),
    ("&grant_type=client_credentials&%ff=x", None),
    // Values
    ("&grant_type=client_credentials&profile=li%00ve", Some("profile")),
    ("&grant_type=client_credentials&profile=live%0d%0aX:y", Some("profile")),
    ("&grant_type=client_credentials&profile=live;x=y", Some("profile")),
    ("&grant_type=client_credentials&profile=intercom.fin", Some("profile")),
    // A type without its assertion
    ("&grant_type=client_credentials&client_assertion_type=x", Some("client_assertion")),
    ("&grant_type=urn:ietf:params:oauth:grant-type:token-exchange", Some("subject_token")),
    (
        "&grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=a.b.c",
        Some("subject_token_type"),
    ),
    (
        "&grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=a.b.c&subject_token_type=access_token",
        Some("subject_token_type"),
    ),
    ("&grant_type=urn:ietf:params:oauth:grant-type:token-exchange&actor_token=a.b.c", Some("actor_token")),
];

#[tokio::test]
async fn a_bad_form_is_a_400_that_names_the_parameter() {
    let service = TokenEndpoint::start().await;
    for (form, field) in BAD_FORMS {
        let answer = service.form(&format!("client_id=job&client_secret=job-key{form}")).await;
        let description = refused(&answer, 400, "invalid_request");
        assert_eq!(answer.json()["field"].as_str(), *field, "{form}: {description}");
        assert!(!answer.text.contains("job-key"), "{form}: {}", answer.text);
    }
    assert_eq!(service.fake.asked(), 0);
}

#[tokio::test]
async fn an_assertion_needs_its_type() {
    let service = TokenEndpoint::start().await;
    for kind in [
        "",
        "&client_assertion_type=jwt",
        "&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer",
    ] {
        let answer = service.form(&format!("{CLIENT_CREDENTIALS}&client_assertion=a.b.c{kind}")).await;
        refused(&answer, 400, "invalid_request");
        assert_eq!(answer.json()["field"], "client_assertion_type", "{kind}");
    }
}

#[tokio::test]
async fn a_form_of_many_parameters_is_refused_at_once() {
    let service = TokenEndpoint::start().await;
    let many =
        |count: u8| (0..count).map(|n| format!("&a_{}=", char::from(b'a' + n))).collect::<Vec<_>>().concat();
    let answer = service.form(&format!("{JOB}{}&b=&c=&d=&e=", many(26))).await;
    refused(&answer, 400, "invalid_request");
    assert!(answer.text.contains("more than 32"), "{}", answer.text);
}

#[tokio::test]
async fn an_unsupported_grant_type_has_an_error_of_its_own() {
    let service = TokenEndpoint::start().await;
    for grant_type in [
        "password",
        "authorization_code",
        "refresh_token",
        "implicit",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:device_code",
        "Client_Credentials",
        "client_credentials ",
        "client_credentials%00",
        "x",
    ] {
        let form = format!("client_id=job&client_secret=job-key&grant_type={grant_type}");
        refused(&service.form(&form).await, 400, "unsupported_grant_type");
        refused(&service.form(&format!("{form}&scope=api")).await, 400, "unsupported_grant_type");
    }
    assert_eq!(service.fake.asked(), 0);
}

#[tokio::test]
async fn scopes_are_those_of_the_app_so_none_can_be_asked_for() {
    let service = TokenEndpoint::start().await;
    for scope in ["api", "api%20web", "%20"] {
        refused(&service.form(&format!("{JOB}&scope={scope}")).await, 400, "invalid_scope");
    }
    service.form(&format!("{JOB}&scope=")).await.ok();
}

#[tokio::test]
async fn only_a_plain_form_of_limited_size_is_read() {
    let service = TokenEndpoint::start().await;
    for media in ["application/json", "text/plain", "multipart/form-data; boundary=x", ""] {
        let answer = service.form_to(PATH, &[("content-type", media)], JOB).await;
        refused(&answer, 400, "invalid_request");
    }
    // Apache HttpClient 4 names ISO-8859-1.
    for media in [
        "application/x-www-form-urlencoded; charset=utf-8",
        "application/x-www-form-urlencoded; charset=ISO-8859-1",
        "Application/X-WWW-Form-Urlencoded",
    ] {
        service.form_to(PATH, &[("content-type", media)], JOB).await.ok();
    }
    let compressed = service.form_to(PATH, &[("content-encoding", "gzip")], JOB).await;
    refused(&compressed, 400, "invalid_request");
    let large = format!("{JOB}&profile={}", "x".repeat(17 << 10));
    refused(&service.form(&large).await, 413, "request_too_large");
    let query =
        service.form_to("/oauth2/token?client_id=job&client_secret=job-key", &[], CLIENT_CREDENTIALS).await;
    let description = refused(&query, 400, "invalid_request");
    assert!(description.contains("none in the URL"), "{description}");
}
