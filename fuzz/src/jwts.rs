//! Fuzzes JWTs of another issuer: as subject tokens, and as the credentials of callers.
//!
//! The input is the header of a token, a line end, and its payload. Both are signed with the issuer's secret. An input without a
//! line end is a whole token.
//!
//! Invariants:
//! - A token that the issuer didn't sign is refused.
//! - A signed token is accepted only if a lenient JSON parser finds the right issuer, audience and expiry in it. The minted token
//!   has the subject that this parser finds. So no trick of JSON makes the service read another claim.
//! - No refusal repeats a claim.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokenmint::clock::Clock as _;

use super::{Answer, FuzzService, ISSUER_SECRET, PROVEN_KEY};

pub static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::default);

pub fn test_one_input(data: &[u8]) {
    let (token, payload) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (sign(&data[..end], &data[end + 1..]), Some(&data[end + 1..])),
        None => (String::from_utf8_lossy(data).into_owned(), None),
    };
    // Keeps the rate below every limit per minute.
    SERVICE.clock.advance(Duration::from_secs(61));
    let subject_token = json!({"subject_token": token}).to_string();
    let proven = SERVICE.post_as(PROVEN_KEY, "/identity-token", subject_token.as_bytes());
    check(&proven, payload, |minted, claims| assert_eq!(minted["sub"], claims["sub"]));
    // Other bytes can't be in a header.
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let authenticated = SERVICE.post_as(&token, "/identity-token", br#"{"sub":"user-1"}"#);
        check(&authenticated, payload, |_, claims| assert_eq!(claims["sub"], "job"));
    }
}

fn sign(header: &[u8], payload: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, ISSUER_SECRET.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// Checks an answer. `payload` is the payload of the token if the issuer signed it.
fn check(answer: &Answer, payload: Option<&[u8]>, agree: impl Fn(&Value, &Value)) {
    let body = answer.json();
    assert!(!answer.status.is_server_error(), "{body}");
    if answer.status == 200 {
        let claims: Value = serde_json::from_slice(payload.expect("nobody signed this token")).expect("JSON");
        assert_eq!(claims["iss"], "corp");
        let audience = &claims["aud"];
        let is_ours = |audience: &Value| audience == "app";
        assert!(is_ours(audience) || audience.as_array().is_some_and(|all| all.iter().any(is_ours)));
        let expires_at = claims["exp"].as_f64().expect("a number");
        let token = body["token"].as_str().expect("a token");
        let minted = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let minted: Value = serde_json::from_slice(&minted.expect("base64url")).expect("JSON");
        #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit")]
        let now = SERVICE.clock.now().seconds() as f64;
        assert!(expires_at > now);
        agree(&minted, &claims);
        return;
    }
    let description = body["error_description"].as_str().expect("a description");
    if let Some(Ok(Value::Object(claims))) = payload.map(serde_json::from_slice) {
        let texts = claims.values().filter_map(Value::as_str).filter(|text| text.len() > 12);
        for text in texts {
            assert!(!description.contains(text), "{description}");
        }
    }
}
