//! `/services/data`: the part of the REST API that a client needs for one query. `/einstein/ai-agent`: the start of a session of
//! the Agent API.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::state::{OauthSession, bearer};
use super::{Sandbox, json_response};

/// The label and number of each API version, the newest last.
const VERSIONS: &[(&str, &str)] = &[("Winter '24", "59.0"), ("Winter '25", "62.0"), ("Winter '26", "65.0")];

/// The live session of the bearer token. Extends the session, unless the token is a JWT.
pub(super) fn session_of_bearer(sandbox: &Sandbox, headers: &HeaderMap) -> Option<OauthSession> {
    let now = sandbox.now();
    let token = bearer(headers)?;
    let mut state = sandbox.state();
    let life = i64::try_from(state.settings.session_life.as_secs()).unwrap_or(i64::MAX);
    let session = state.sessions.get_mut(token).filter(|session| now < session.expires_at)?;
    // The session of a JWT ends at its `exp`.
    if !token.contains('.') {
        session.expires_at = now.saturating_add(life);
    }
    Some(session.clone())
}

pub(super) fn invalid_session() -> Response {
    error_response(StatusCode::UNAUTHORIZED, "INVALID_SESSION_ID", "Session expired or invalid")
}

fn error_response(status: StatusCode, code: &str, message: &str) -> Response {
    json_response(status, &json!([{"message": message, "errorCode": code}]))
}

/// Lists the API versions. Needs no session.
pub(super) async fn versions() -> Response {
    let version = |(label, version): &(&str, &str)| json!({"label": label, "url": format!("/services/data/v{version}"), "version": version});
    json_response(StatusCode::OK, &VERSIONS.iter().map(version).collect())
}

pub(super) async fn resources(
    State(sandbox): State<Sandbox>,
    Path(version): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Some(rejection) = reject(&sandbox, &version, &headers) {
        return rejection;
    }
    let url = sandbox.url(&headers);
    let resources = json!({
        "identity": format!("{url}/services/oauth2/userinfo"),
        "query": format!("/services/data/{version}/query"),
    });
    json_response(StatusCode::OK, &resources)
}

pub(super) async fn query(
    State(sandbox): State<Sandbox>,
    Path(version): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if let Some(rejection) = reject(&sandbox, &version, &headers) {
        return rejection;
    }
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let soql = pairs.into_iter().find(|(name, _)| name == "q").map(|(_, soql)| soql.into_owned());
    match soql.as_deref().and_then(|soql| query_record(soql, &version)) {
        Some(record) => {
            let found = json!({"totalSize": 1, "done": true, "records": [record]});
            json_response(StatusCode::OK, &found)
        }
        None => error_response(StatusCode::BAD_REQUEST, "MALFORMED_QUERY", "write SELECT fields FROM object"),
    }
}

/// Begins a session of the Agent API, which accepts only JWT-format access tokens (Agentforce Developer Guide, "Get Started with
/// the Agent API").
pub(super) async fn begin_agent_session(State(sandbox): State<Sandbox>, headers: HeaderMap) -> Response {
    let is_jwt = bearer(&headers).is_some_and(|token| token.split('.').count() == 3);
    if !is_jwt || session_of_bearer(&sandbox, &headers).is_none() {
        return json_response(StatusCode::UNAUTHORIZED, &json!({"message": "Invalid token"}));
    }
    let session = sandbox.random_text();
    json_response(
        StatusCode::OK,
        &json!({"sessionId": session, "messages": [{"type": "Inform", "message": "Hello"}]}),
    )
}

/// The response to a request for an unknown API version, or without a valid session.
fn reject(sandbox: &Sandbox, version: &str, headers: &HeaderMap) -> Option<Response> {
    if !is_version(version) {
        return Some(not_found());
    }
    session_of_bearer(sandbox, headers).is_none().then(invalid_session)
}

/// A record with every field of a `SELECT`. `None` for a malformed query.
fn query_record(soql: &str, version: &str) -> Option<Value> {
    let words: Vec<&str> = soql.split_whitespace().collect();
    if !words.first()?.eq_ignore_ascii_case("select") {
        return None;
    }
    let from = words.iter().position(|word| word.eq_ignore_ascii_case("from"))?;
    let object = words.get(from + 1)?;
    let fields = words[1..from].concat();
    let id = "001000000000001AAA";
    let url = format!("/services/data/{version}/sobjects/{object}/{id}");
    let mut record = Map::from_iter([("attributes".to_owned(), json!({"type": object, "url": url}))]);
    for field in fields.split(',').filter(|field| !field.is_empty()) {
        let value = if field.eq_ignore_ascii_case("id") { id } else { "Acme" };
        record.insert(field.to_owned(), json!(value));
    }
    (record.len() > 1).then_some(Value::Object(record))
}

/// Whether `text` is an API version, for example `v59.0`.
fn is_version(text: &str) -> bool {
    let number = text.strip_prefix('v').and_then(|number| number.split_once('.'));
    number.is_some_and(|(major, minor)| {
        (2..=3).contains(&major.len()) && major.bytes().all(|b| b.is_ascii_digit()) && minor == "0"
    })
}

fn not_found() -> Response {
    error_response(StatusCode::NOT_FOUND, "NOT_FOUND", "The requested resource does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_fields_that_were_asked_for() {
        let found = query_record("select Id, Owner.Name FROM Contact LIMIT 1", "v59.0").expect("a record");
        assert_eq!(found["attributes"]["type"], "Contact");
        assert_eq!([&found["Id"], &found["Owner.Name"]], ["001000000000001AAA", "Acme"]);
        assert!(
            query_record("DELETE FROM Contact", "v59.0").is_none()
                && query_record("SELECT FROM x", "v59.0").is_none()
        );
        assert!(is_version("v59.0") && !is_version("59.0") && !is_version("v9.0") && !is_version("vxx.0"));
    }
}
