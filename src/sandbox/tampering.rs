//! Faults that change members of a successful response.

use axum::body::{Body, to_bytes};
use axum::http::header::CONTENT_LENGTH;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::faults::{Fault, FaultKind, FaultTarget};
use super::{Sandbox, jwt, messaging};

/// Applies `fault` to a successful response with a JSON object. Other responses pass unchanged.
pub(super) async fn edit_response(
    sandbox: &Sandbox,
    fault: &Fault,
    target: FaultTarget,
    response: Response,
) -> Response {
    if !response.status().is_success() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let all = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let body = match serde_json::from_slice(&all) {
        Ok(Value::Object(mut members)) => Body::from(edit_members(sandbox, fault, target, &mut members)),
        _ => Body::from(all),
    };
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, body)
}

fn edit_members(
    sandbox: &Sandbox,
    fault: &Fault,
    target: FaultTarget,
    answer: &mut Map<String, Value>,
) -> String {
    let token = if target == FaultTarget::Messaging { "accessToken" } else { "access_token" };
    let mut set = |name: &str, value: Value| _ = answer.insert(name.to_owned(), value);
    match fault.fault {
        FaultKind::MissingToken => _ = answer.remove(token),
        FaultKind::NumericToken => set(token, json!(4_711)),
        FaultKind::CrlfToken => set(token, json!("00D!AQ\r\nX-Injected: yes")),
        FaultKind::OpaqueToken => set(token, json!(format!("00D!AQ{}", sandbox.random_text()))),
        FaultKind::HugeToken => {
            let bytes = usize::try_from(fault.bytes.unwrap_or(1 << 20)).unwrap_or(usize::MAX);
            set(token, json!("A".repeat(bytes)));
        }
        FaultKind::WrongTokenType => set("token_type", json!("mac")),
        FaultKind::ForeignInstanceUrl => {
            let url = fault.location.as_deref().unwrap_or("https://acme.my.salesforce.com.evil.example");
            set("instance_url", json!(url));
        }
        FaultKind::Anonymous => set_subject(sandbox, &messaging::anonymous(sandbox), answer),
        FaultKind::OtherSubject => {
            let old = answer.get("context").and_then(|context| context["endUser"]["subject"].as_str());
            let stem =
                old.and_then(|old| old.split_once("/uid:")).map_or("v2/iamessage/AUTH/X", |(stem, _)| stem);
            let other = format!("{stem}/uid:somebody-else");
            set_subject(sandbox, fault.subject.as_deref().unwrap_or(&other), answer);
        }
        FaultKind::ExpiredToken => {
            let past = json!({"exp": sandbox.now() - 60});
            reissue_token(sandbox, token, &past, answer);
        }
        FaultKind::Merge => {
            let mut whole = Value::Object(std::mem::take(answer));
            merge_patch(&mut whole, fault.members.as_ref().unwrap_or(&Value::Null));
            return whole.to_string();
        }
        _ => {}
    }
    let text = Value::Object(answer.clone()).to_string();
    if fault.fault == FaultKind::DuplicateKeys {
        let first = text.trim_end_matches('}');
        return format!(r#"{first},"{token}":"00D!AQ.somebody-elses"}}"#);
    }
    text
}

/// Replaces the subject in the response and in its token.
fn set_subject(sandbox: &Sandbox, subject: &str, answer: &mut Map<String, Value>) {
    if let Some(context) = answer.get_mut("context") {
        context["endUser"]["subject"] = json!(subject);
    }
    reissue_token(sandbox, "accessToken", &json!({"sub": subject}), answer);
}

/// Reissues the token of a response with changed claims. An opaque token becomes a JWT.
fn reissue_token(sandbox: &Sandbox, token: &str, changes: &Value, answer: &mut Map<String, Value>) {
    let Some(Value::String(old)) = answer.get(token) else { return };
    let claims = old.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims = claims.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut claims = claims.unwrap_or_else(|| json!({}));
    merge_patch(&mut claims, changes);
    answer.insert(token.to_owned(), json!(jwt::issue(&claims, sandbox.key())));
}

/// Applies a JSON merge patch (RFC 7396, section 2).
fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, change) in changes {
        if change.is_null() {
            target.as_object_mut().map(|members| members.remove(name));
        } else {
            merge_patch(&mut target[name], change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_removes_a_member() {
        let mut answer = json!({"a": 1, "b": {"c": 2, "d": 3}});
        merge_patch(&mut answer, &json!({"a": null, "b": {"c": 4}, "e": {"f": null}}));
        assert_eq!(answer, json!({"b": {"c": 4, "d": 3}, "e": {}}));
    }
}
