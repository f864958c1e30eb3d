//! Fuzzes the form of a token request, without any other credential.
//!
//! Invariants:
//! - A lenient parser finds a grant type in each form that gets a token, and the name and the API key of one caller. It finds no
//!   parameter twice. So no trick of the encoding makes the service read another parameter.
//! - A token exchange gives a token only for the subject of its subject token.
//! - No response is 5xx or repeats the API key.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use url::form_urlencoded;

use super::{API_KEY, FuzzService, PROVEN_KEY};

pub static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::default);

const PARAMETERS: [&str; 11] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion_type",
    "client_assertion",
    "profile",
    "rejected_token",
    "subject_token",
    "subject_token_type",
    "requested_token_type",
    "audience",
];

pub fn test_one_input(data: &[u8]) {
    // Keeps the rate below every limit per minute.
    SERVICE.clock.advance(Duration::from_secs(61));
    let answer = SERVICE.post_form("/oauth2/token", data);
    let body = answer.json();
    assert!(!answer.status.is_server_error(), "{body}");
    for secret in [API_KEY, PROVEN_KEY] {
        assert!(!String::from_utf8_lossy(&answer.body).contains(secret), "{body}");
    }
    if answer.status != 200 {
        assert!(body["error"].is_string() && body["access_token"].is_null(), "{body}");
        return;
    }
    let mut form = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(data).filter(|(_, value)| !value.is_empty()) {
        assert!(PARAMETERS.contains(&name.as_ref()), "{name} is unknown");
        assert!(form.insert(name.into_owned(), value.into_owned()).is_none(), "a parameter is given twice");
    }
    let value = |name: &str| form.get(name).map_or("", String::as_str);
    let client = (value("client_id"), value("client_secret"));
    match value("grant_type") {
        "client_credentials" => assert_eq!(client, ("web", API_KEY)),
        grant => {
            assert_eq!(grant, "urn:ietf:params:oauth:grant-type:token-exchange");
            assert_eq!(client, ("proven", PROVEN_KEY));
            assert_eq!(subject(&body["access_token"]), subject(&value("subject_token").into()));
        }
    }
}

/// The claim `sub` of a JWT.
fn subject(token: &Value) -> Value {
    let payload = token.as_str().and_then(|token| token.split('.').nth(1)).expect("a token");
    let payload = URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    serde_json::from_slice::<Value>(&payload).expect("JSON")["sub"].clone()
}
