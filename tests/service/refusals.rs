//! Invalid requests: the status, `error` and `field` of each. None is a 5xx.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{API_KEY, Answer, Workspace, user_1};

/// Bodies of `POST /identity-token`, each with the `field` of the error, if it has one. All are 400
/// `invalid_request`.
const BAD_IDENTITY: [(&str, Option<&str>); 60] = [
    // not JSON, or not an object
    ("", None),
    ("x", None),
    ("{", None),
    (r#"{"sub":"a"}{"sub":"b"}"#, None),
    (r#"{"sub":"a"} trailing"#, None),
    (r#"{"sub":"a",}"#, None),
    (r"{'sub':'a'}", None),
    ("\u{feff}{\"sub\":\"a\"}", None),
    (r#"["a"]"#, None),
    (r#""a""#, None),
    ("null", None),
    ("1", None),
    ("NaN", None),
    (r#"{"sub":"\ud800"}"#, None),
    ("{\"sub\":\"a\u{1}b\"}", None),
    (r#"{"sub":"a","ttl":1e400}"#, None),
    (r#"{"sub":"a","ttl":NaN}"#, None),
    // unknown and doubled fields
    (r#"{"sub":"a","subject":"b"}"#, Some("subject")),
    (r#"{"sub":"a","user_id":"b"}"#, Some("user_id")),
    (r#"{"sub":"a","iss":"evil"}"#, Some("iss")),
    (r#"{"sub":"a","aud":"evil"}"#, Some("aud")),
    (r#"{"sub":"a","kid":"evil"}"#, Some("kid")),
    (r#"{"sub":"a","alg":"none"}"#, Some("alg")),
    (r#"{"sub":"a","Sub":"b"}"#, Some("Sub")),
    (r#"{"sub":"a","sub":"b"}"#, Some("sub")),
    (r#"{"sub":"a","s\u0075b":"b"}"#, Some("sub")),
    (r#"{"sub":"a","claims":{"plan":1,"plan":2}}"#, Some("claims.plan")),
    (r#"{"sub":"a","claims":{"plan":{"x":1,"x":2}}}"#, Some("claims.plan.x")),
    (r#"{"sub":"a","claims":{"plan":[{"x":1,"x":2}]}}"#, Some("claims.plan.0.x")),
    // sub
    ("{}", Some("sub")),
    (r#"{"sub":""}"#, Some("sub")),
    (r#"{"sub":null}"#, Some("sub")),
    (r#"{"sub":1}"#, Some("sub")),
    (r#"{"sub":["a"]}"#, Some("sub")),
    (r#"{"sub":"null"}"#, Some("sub")),
    (r#"{"sub":"undefined"}"#, Some("sub")),
    (r#"{"sub":"Anonymous"}"#, Some("sub")),
    (r#"{"sub":" a"}"#, Some("sub")),
    (r#"{"sub":"a\t"}"#, Some("sub")),
    (r#"{"sub":"a\u0000b"}"#, Some("sub")),
    (r#"{"sub":"a\r\nb"}"#, Some("sub")),
    (r#"{"sub":"a\u202eb"}"#, Some("sub")),
    // ttl
    (r#"{"sub":"a","ttl":59}"#, Some("ttl")),
    (r#"{"sub":"a","ttl":0}"#, Some("ttl")),
    (r#"{"sub":"a","ttl":-60}"#, Some("ttl")),
    (r#"{"sub":"a","ttl":3601}"#, Some("ttl")),
    (r#"{"sub":"a","ttl":18446744073709551615}"#, Some("ttl")),
    (r#"{"sub":"a","ttl":9223372036854775808}"#, Some("ttl")),
    (r#"{"sub":"a","ttl":1e3}"#, Some("ttl")),
    (r#"{"sub":"a","ttl":60.5}"#, Some("ttl")),
    (r#"{"sub":"a","ttl":"60"}"#, Some("ttl")),
    (r#"{"sub":"a","ttl":null}"#, Some("ttl")),
    // claims
    (r#"{"sub":"a","claims":[]}"#, Some("claims")),
    (r#"{"sub":"a","claims":"locale"}"#, Some("claims")),
    (r#"{"sub":"a","claims":{"admin":true}}"#, Some("claims.admin")),
    (r#"{"sub":"a","claims":{"sub":"b"}}"#, Some("claims.sub")),
    (r#"{"sub":"a","claims":{"exp":9999999999}}"#, Some("claims.exp")),
    (r#"{"sub":"a","claims":{"Locale":"de"}}"#, Some("claims.Locale")),
    // profile
    (r#"{"sub":"a","profile":1}"#, Some("profile")),
    (r#"{"sub":"a","profile":"oauth.crm"}"#, Some("profile")),
];

#[tokio::test]
async fn a_bad_body_is_a_400_that_names_the_field() {
    let service = Workspace::new().serve().await;
    for (body, field) in BAD_IDENTITY {
        let answer = service.post_text("/identity-token", API_KEY, body).await;
        assert_eq!(answer.status.as_u16(), 400, "{body}: {}", answer.text);
        let description = answer.refused(400, "invalid_request", field);
        assert!(description.len() > 10, "{body}: {description}");
    }
    let long = "a".repeat(201);
    service.post("/identity-token", &json!({"sub": long})).await.refused(400, "invalid_request", Some("sub"));
    let name = "k".repeat(5000);
    let shown = format!("{}…", "k".repeat(64));
    service.post("/identity-token", &json!({"sub": "a", name: 1})).await.refused(
        400,
        "invalid_request",
        Some(&shown),
    );
    for profile in ["", "a b", "identity.", "identity.a.b"] {
        let answer = service.post("/identity-token", &json!({"sub": "a", "profile": profile})).await;
        answer.refused(400, "invalid_request", Some("profile"));
    }
    let deep = format!(r#"{{"sub":"a","claims":{{"plan":{}1{}}}}}"#, "[".repeat(200), "]".repeat(200));
    service.post_text("/identity-token", API_KEY, deep).await.refused(400, "invalid_request", None);
    for marked in [b"\xef\xbb\xbf{\"sub\":\"a\"}".to_vec(), b"\xff\xfe{\0}\0".to_vec()] {
        let answer = service.post_text("/identity-token", API_KEY, marked).await;
        let description = answer.refused(400, "invalid_request", None);
        assert!(description.contains("byte order mark"), "{description}");
    }
    let latin = service.post_text("/identity-token", API_KEY, b"{\"sub\":\"J\xfcrgen\"}".to_vec()).await;
    latin.refused(400, "invalid_request", None);
    assert!(service.metrics().await.contains(r#"tokenmint_refusals_total{error="invalid_request"} 70"#));
}

/// The description says what is wrong with the bytes that were sent, and what to send instead.
#[tokio::test]
async fn the_description_of_a_bad_body_says_what_to_send() {
    let service = Workspace::new().serve().await;
    let bounds = "must be between 60 and 3600 seconds";
    for (body, part) in [
        ("", "the body is empty: send a JSON object"),
        (" \r\n", "the body is empty: send a JSON object"),
        (r#"{"sub":"\ud800"}"#, "half of a surrogate pair at line 1"),
        (r#"{"sub":"\udc00"}"#, "half of a surrogate pair at line 1"),
        (r#"{"sub":"\ud800\u0041"}"#, "half of a surrogate pair at line 1"),
        (r#"{"sub":"a","ttl":-1}"#, bounds),
        (r#"{"sub":"a","ttl":-99999999999999999999}"#, bounds),
        (r#"{"sub":"a","ttl":99999999999999999999}"#, bounds),
        (r#"{"sub":"a","ttl":60.0}"#, "must be a whole number of seconds, in digits only"),
        (r#"{"sub":"a","ttl":6e1}"#, "must be a whole number of seconds, in digits only"),
    ] {
        let answer = service.post_text("/identity-token", API_KEY, body).await;
        let description = answer.json()["error_description"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status.as_u16() == 400 && description.contains(part), "{body}: {description}");
    }
}

/// Names that look like a registered claim are refused too: in another case, with invisible characters, or beside `claims`.
#[tokio::test]
async fn no_caller_sets_a_registered_claim() {
    let service = Workspace::new().serve().await;
    for name in [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "kid",
        "alg",
        "typ",
        "ISS",
        "Exp",
        "\u{455}ub",
        "e\u{200b}xp",
        "exp\0",
        "exp ",
        "",
    ] {
        for (path, subject) in [("/identity-token", "sub"), ("/intercom-user-jwt", "user_id")] {
            let as_claim = json!({subject: "user-1", "claims": {name: 9_999_999_999_i64}}).to_string();
            // Written as text, since the member may be `sub` itself.
            let beside = format!("{{\"{subject}\":\"user-1\",{}:1}}", json!(name));
            for (body, field) in [(as_claim, "claims."), (beside, "")] {
                let answer = service.post_text(path, API_KEY, body).await;
                assert_eq!(answer.status.as_u16(), 400, "{name:?} {path}: {}", answer.text);
                let blamed = answer.json()["field"].as_str().map(str::to_owned);
                let blamed = blamed.unwrap_or_else(|| panic!("{name:?} {path}: {}", answer.text));
                assert!(blamed.starts_with(field), "{name:?} {path}: {}", answer.text);
            }
        }
    }
}

#[tokio::test]
async fn the_other_endpoints_are_as_strict() {
    let service = Workspace::new().serve().await;
    for (path, body, field) in [
        ("/intercom-user-jwt", json!({}), Some("user_id")),
        ("/intercom-user-jwt", json!({"user_id": 42}), Some("user_id")),
        ("/intercom-user-jwt", json!({"user_id": "undefined"}), Some("user_id")),
        ("/intercom-user-jwt", json!({"user_id": "1", "sub": "1"}), Some("sub")),
        ("/intercom-user-jwt", json!({"user_id": "1", "claims": {"user_id": "2"}}), Some("claims.user_id")),
        ("/intercom-user-jwt", json!({"user_id": "1", "claims": {"name": "x"}}), Some("claims.name")),
        ("/intercom-user-jwt", json!({"user_id": "1", "ttl": 1}), Some("ttl")),
        ("/oauth-assertion", json!({"sub": "admin@acme.com"}), Some("sub")),
        ("/oauth-assertion", json!({"aud": "https://evil.example"}), Some("aud")),
        ("/oauth-assertion", json!({"ttl": 60}), Some("ttl")),
        ("/oauth-assertion", json!({"profile": ["crm"]}), Some("profile")),
        ("/oauth-assertion", json!({"profile": "identity.web"}), Some("profile")),
        ("/oauth-assertion", json!([]), None),
        ("/oauth-access-token", json!({"sub": "admin@acme.com"}), Some("sub")),
        ("/messaging-access-token", json!({"sub": "a", "ttl": 60}), Some("ttl")),
    ] {
        service.post(path, &body).await.refused(400, "invalid_request", field);
    }
    for (path, body, field) in [
        ("/intercom-user-jwt", r#"{"user_id":"1","user_id":"2"}"#, "user_id"),
        ("/intercom-user-jwt", r#"{"user_id":"1","claims":{"email":{"a":1,"a":2}}}"#, "claims.email.a"),
        ("/oauth-assertion", r#"{"profile":"crm","profile":"crm"}"#, "profile"),
        ("/oauth-access-token", r#"{"rejected_token":"a","rejected_token":"b"}"#, "rejected_token"),
        ("/messaging-access-token", r#"{"sub":"a","sub":"b"}"#, "sub"),
        ("/bundle", r#"{"sub":"a","claims":{"x":{},"x":{}}}"#, "claims.x"),
    ] {
        service.post_text(path, API_KEY, body).await.refused(400, "invalid_request", Some(field));
    }
}

#[tokio::test]
async fn a_wrong_content_type_or_encoding_is_415() {
    let service = Workspace::new().serve().await;
    let post = |media: Option<&str>, encoding: Option<&str>| {
        let mut request =
            service.request(Method::POST, "/identity-token").bearer_auth(API_KEY).body(r#"{"sub":"a"}"#);
        request = media.into_iter().fold(request, |request, media| request.header("Content-Type", media));
        request =
            encoding.into_iter().fold(request, |request, name| request.header("Content-Encoding", name));
        Answer::of(request)
    };
    for media in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonp"),
        Some("application/json; charset=latin1"),
        Some("multipart/form-data; boundary=x"),
        Some("application/jwt"),
    ] {
        let description = post(media, None).await.refused(415, "unsupported_media_type", None);
        let charset = media.is_some_and(|media| media.contains("charset"));
        assert_eq!(description.contains("`charset`"), charset, "{media:?}: {description}");
        assert!(description.contains("Content-Type"), "{media:?}: {description}");
    }
    let gzip = post(Some("application/json"), Some("gzip")).await;
    let description = gzip.refused(415, "unsupported_media_type", None);
    assert!(description.contains("Content-Encoding"), "{description}");
    for media in ["application/json", "Application/JSON; charset=utf-8", "application/json;charset=\"UTF-8\""]
    {
        post(Some(media), None).await.ok();
    }
}

#[tokio::test]
async fn errors_of_the_http_layer_are_json_too() {
    let service = Workspace::new().serve().await;
    let send = |method: Method, path: &str, accept: &str| {
        let request = service.request(method, path).bearer_auth(API_KEY).header("Accept", accept.to_owned());
        Answer::of(request.json(&user_1()))
    };
    for path in [
        "/",
        "/identity-token/",
        "/identity-tokens",
        "/.env",
        "/keysets/none/jwks.json",
        "/keysets/web",
        "//",
        "/keysets/%FF/jwks.json",
    ] {
        send(Method::GET, path, "*/*").await.refused(404, "not_found", None);
        send(Method::TRACE, path, "*/*").await.refused(405, "method_not_allowed", None);
    }
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH, Method::TRACE] {
        let answer = send(method.clone(), "/identity-token", "*/*").await;
        answer.refused(405, "method_not_allowed", None);
        assert_eq!(answer.header("allow"), "POST", "{method}");
    }
    let answer = send(Method::POST, "/metrics", "*/*").await;
    answer.refused(405, "method_not_allowed", None);
    assert_eq!(answer.header("allow"), "GET,HEAD");
    for accept in ["text/html", "application/xml", "application/json;q=0"] {
        send(Method::POST, "/identity-token", accept).await.refused(406, "not_acceptable", None);
    }
}

#[tokio::test]
async fn too_large_requests_are_refused_before_they_are_read() {
    let service = Workspace::new().serve().await;
    let padding = "a".repeat(17 << 10);
    let answer = service.post("/identity-token", &json!({"sub": "a", "claims": {"plan": padding}})).await;
    let description = answer.refused(413, "request_too_large", None);
    assert!(description.contains("server.limits.body"), "{description}");
    // Chunked, so there is no Content-Length.
    let chunks = (0..20).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024]));
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    let answer = service.post_text("/identity-token", API_KEY, stream).await;
    answer.refused(413, "request_too_large", None);
    // The header is necessary: without it a client would reuse the connection.
    assert_eq!(answer.header("connection"), "close");

    let headers = service.request(Method::GET, "/livez").header("X-Padding", "a".repeat(9 << 10));
    Answer::of(headers).await.refused(431, "request_headers_too_large", None);
    let many = (0..70)
        .fold(service.request(Method::GET, "/livez"), |request, n| request.header(format!("x-{n}"), "1"));
    Answer::of(many).await.refused(431, "request_headers_too_large", None);
}

#[tokio::test]
async fn no_refusal_repeats_what_was_sent() {
    let service = Workspace::new().serve().await;
    let canary = "canary-7f3a";
    for body in [
        json!({"sub": format!(" {canary}")}),
        json!({"sub": "a", "ttl": canary}),
        json!({"sub": "a", "profile": canary}),
        json!({"sub": "a", "claims": canary}),
        json!({"sub": {"x": canary}}),
        Value::from(canary),
    ] {
        let answer = service.post("/identity-token", &body).await;
        assert!(answer.status.is_client_error());
        assert!(!answer.text.contains(canary), "{}", answer.text);
    }
    let answer = service.post_text("/identity-token", canary, "{}").await;
    answer.refused(401, "invalid_client", None);
    assert!(!answer.text.contains(canary));
    let log = service.whole_log().await;
    assert!(!log.contains(canary), "{log}");
}
