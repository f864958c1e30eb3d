//! `/iamessage/api/v2/authorization/`: exchanges an identity token for a messaging access token, continues a session, and revokes
//! an access token.
//!
//! A failed verification can look like a success: 200 with an anonymous session. The statuses and texts of refusals are
//! undocumented. Only the text about active `AuthSchemes` was seen in live orgs.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::org::{Deployment, OnFailure, id_15};
use super::state::{MessagingSession, bearer};
use super::{Sandbox, json_response, jwt, keyset};

pub(super) const ACCESS_TOKEN_PATH: &str = "/iamessage/api/v2/authorization/authenticated/access-token";
pub(super) const CONTINUATION_PATH: &str = "/iamessage/api/v2/authorization/continuation-access-token";

const MINUTE_SECONDS: i64 = 60;

fn error_response(status: StatusCode, message: &str) -> Response {
    json_response(status, &json!({"message": message}))
}

pub(super) async fn access_token(State(sandbox): State<Sandbox>, body: Bytes) -> Response {
    let now = sandbox.now();
    let taken = {
        let mut state = sandbox.state();
        let limit = state.settings.messaging_per_minute;
        state.messaging.try_add(now, MINUTE_SECONDS, limit)
    };
    if let Err(wait) = taken {
        let mut response = error_response(StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
        return response;
    }
    let request = match AccessTokenRequest::read(&sandbox, &body) {
        Ok(request) => request,
        Err(message) => return error_response(StatusCode::BAD_REQUEST, &message),
    };
    let known =
        sandbox.org().deployments.iter().find(|known| known.es_developer_name == request.es_developer_name);
    let Some(deployment) = known else {
        let names = sandbox.org().deployments.iter().map(|known| known.es_developer_name.as_str());
        let names: Vec<&str> = names.collect();
        sandbox.log_reason(format!(
            "no deployment has this esDeveloperName; the deployments are: {}",
            names.join(", ")
        ));
        return error_response(StatusCode::NOT_FOUND, "No published deployment has this esDeveloperName.");
    };
    if !deployment.is_verification_active {
        let message = "User verification configuration has no active AuthSchemes.";
        return error_response(StatusCode::BAD_REQUEST, message);
    }
    let verified = keyset::verify_identity_token(&sandbox, deployment, &request.identity_token).await;
    let Some(subject) = subject(&sandbox, deployment, verified) else {
        return error_response(StatusCode::UNAUTHORIZED, "The customer identity token is invalid.");
    };
    let life = i64::try_from(sandbox.state().settings.messaging_life.as_secs()).unwrap_or(i64::MAX);
    let chat = MessagingSession {
        deployment: deployment.es_developer_name.clone(),
        subject,
        expires_at: sandbox.now().saturating_add(life),
    };
    let mut body = new_client(&sandbox, &chat, &request.capabilities_version);
    body["context"] = context(&sandbox, &chat);
    json_response(StatusCode::OK, &body)
}

/// The subject of the session. Only its form tells a client whether the user was verified. `None` if the user wasn't, and the
/// deployment refuses such users.
fn subject(sandbox: &Sandbox, deployment: &Deployment, verified: Result<String, String>) -> Option<String> {
    match verified {
        Ok(sub) => {
            sandbox.state().counts.verified += 1;
            Some(format!("v2/iamessage/AUTH/{}/uid:{sub}", deployment.configuration_name))
        }
        Err(why) => {
            sandbox.state().counts.unverified += 1;
            sandbox.log_reason(format!("{}: the identity token {why}", deployment.es_developer_name));
            match deployment.on_failure {
                OnFailure::Anonymous => Some(anonymous(sandbox)),
                OnFailure::Unauthenticated => Some(format!("v2/iamessage/UNAUTH/NA/uid:{}", sandbox.uuid())),
                OnFailure::Refuse => None,
            }
        }
    }
}

pub(super) fn anonymous(sandbox: &Sandbox) -> String {
    format!("v2/iamessage/ANON/{}", sandbox.uuid())
}

/// Issues an access token to a new client of `chat`, and names the first event id.
fn new_client(sandbox: &Sandbox, chat: &MessagingSession, capabilities_version: &str) -> Value {
    let claims = json!({
        "sub": chat.subject,
        "exp": chat.expires_at,
        "iat": sandbox.now(),
        "clientId": format!("v1/{}/WEB/uid:{}", chat.deployment, sandbox.uuid()),
        "channelAddId": channel(sandbox, &chat.deployment),
        "capabilitiesVersion": capabilities_version,
    });
    let token = jwt::issue(&claims, sandbox.key());
    sandbox.state().chats.insert(token.clone(), chat.clone());
    json!({"accessToken": token, "lastEventId": "0"})
}

fn context(sandbox: &Sandbox, chat: &MessagingSession) -> Value {
    json!({
        "configuration": {
            "deploymentType": "api",
            "developerName": chat.deployment,
            "embeddedServiceMessagingChannel": {
                "channelAddressIdentifier": channel(sandbox, &chat.deployment),
            },
        },
        "endUser": {"subject": chat.subject},
    })
}

fn channel(sandbox: &Sandbox, deployment: &str) -> String {
    format!("{}-{deployment}", id_15(&sandbox.org().org_id))
}

/// Issues an access token for the same session, with a new client id and the same expiry.
pub(super) async fn continuation(State(sandbox): State<Sandbox>, headers: HeaderMap) -> Response {
    match session_of_bearer(&sandbox, &headers) {
        Some(chat) => json_response(StatusCode::OK, &new_client(&sandbox, &chat, "1")),
        None => error_response(StatusCode::UNAUTHORIZED, "Unauthorized"),
    }
}

pub(super) async fn revoke(State(sandbox): State<Sandbox>, headers: HeaderMap) -> Response {
    match session_of_bearer(&sandbox, &headers).and_then(|_| bearer(&headers)) {
        Some(token) => {
            sandbox.state().chats.remove(token);
            StatusCode::NO_CONTENT.into_response()
        }
        None => error_response(StatusCode::UNAUTHORIZED, "Unauthorized"),
    }
}

fn session_of_bearer(sandbox: &Sandbox, headers: &HeaderMap) -> Option<MessagingSession> {
    let now = sandbox.now();
    sandbox.state().chats.get(bearer(headers)?).filter(|chat| now < chat.expires_at).cloned()
}

struct AccessTokenRequest {
    es_developer_name: String,
    capabilities_version: String,
    identity_token: String,
}

impl AccessTokenRequest {
    fn read(sandbox: &Sandbox, body: &[u8]) -> Result<Self, String> {
        let body: Map<String, Value> =
            serde_json::from_slice(body).map_err(|_| "The request body isn't a JSON object.".to_owned())?;
        let text = |name: &str| match body.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(_) => Err(format!("{name} must be a string.")),
            None => Err(format!("{name} is required.")),
        };
        let org_id = text("orgId")?;
        if !matches!(org_id.len(), 15 | 18) || id_15(&org_id) != id_15(&sandbox.org().org_id) {
            return Err("orgId isn't the id of this org.".to_owned());
        }
        let es_developer_name = text("esDeveloperName")?;
        let named = es_developer_name.starts_with(|first: char| first.is_ascii_alphabetic())
            && es_developer_name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !named {
            return Err("esDeveloperName isn't the API name of a deployment.".to_owned());
        }
        let capabilities_version = text("capabilitiesVersion")?;
        text("platform")?;
        if text("authorizationType")? != "JWT" {
            return Err("authorizationType must be JWT.".to_owned());
        }
        let identity_token = text("customerIdentityToken")?;
        let context = body.get("context");
        let told = |name: &str| context.and_then(|context| context[name].as_str()).is_some();
        let complete = told("appName") && told("clientVersion");
        if !complete && (context.is_some() || sandbox.state().settings.require_context) {
            return Err("context must have appName and clientVersion.".to_owned());
        }
        Ok(Self { es_developer_name, capabilities_version, identity_token })
    }
}
