//! `/services/data`: as much of the REST API as a client needs to make one query.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::state::{Session, bearer};
use super::{Sandbox, answer};

/// The newest is what current clients ask for first.
const VERSIONS: &[(&str, &str)] = &[("Winter '24", "59.0"), ("Winter '25", "62.0"), ("Winter '26", "65.0")];

/// The session that a request's bearer token stands for.
pub(super) fn session(sandbox: &Sandbox, headers: &HeaderMap) -> Option<Session> {
    let now = sandbox.now();
    let token = bearer(headers)?;
    let mut state = sandbox.state();
    let life = i64::try_from(state.settings.session_life.as_secs()).unwrap_or(i64::MAX);
    let session = state.sessions.get_mut(token).filter(|session| now < session.expires_at)?;
    // Use renews a session; that of a JWT ends when its `exp` says.
    if !token.contains('.') {
        session.expires_at = now.saturating_add(life);
    }
    Some(session.clone())
}

pub(super) fn dead_session() -> Response {
    refusal(StatusCode::UNAUTHORIZED, "INVALID_SESSION_ID", "Session expired or invalid")
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    answer(status, &json!([{"message": message, "errorCode": code}]))
}

/// Needs no session.
pub(super) async fn versions() -> Response {
    let version = |(label, version): &(&str, &str)| json!({"label": label, "url": format!("/services/data/v{version}"), "version": version});
    answer(StatusCode::OK, &VERSIONS.iter().map(version).collect())
}

pub(super) async fn resources(
    State(sandbox): State<Sandbox>,
    Path(version): Path<String>,
    headers: HeaderMap,
) -> Response {
    if !is_version(&version) {
        return not_found();
    }
    if session(&sandbox, &headers).is_none() {
        return dead_session();
    }
    let url = sandbox.url(&headers);
    let resources = json!({
        "identity": format!("{url}/services/oauth2/userinfo"),
        "query": format!("/services/data/{version}/query"),
    });
    answer(StatusCode::OK, &resources)
}

pub(super) async fn query(
    State(sandbox): State<Sandbox>,
    Path(version): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if !is_version(&version) {
        return not_found();
    }
    if session(&sandbox, &headers).is_none() {
        return dead_session();
    }
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let soql = pairs.into_iter().find(|(name, _)| name == "q").map(|(_, soql)| soql.into_owned());
    match soql.as_deref().and_then(|soql| record(soql, &version)) {
        Some(record) => {
            let found = json!({"totalSize": 1, "done": true, "records": [record]});
            answer(StatusCode::OK, &found)
        }
        None => refusal(StatusCode::BAD_REQUEST, "MALFORMED_QUERY", "write SELECT fields FROM object"),
    }
}

/// One record with every field that was asked for.
fn record(soql: &str, version: &str) -> Option<Value> {
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

/// `v59.0`.
fn is_version(text: &str) -> bool {
    let number = text.strip_prefix('v').and_then(|number| number.split_once('.'));
    number.is_some_and(|(major, minor)| {
        (2..=3).contains(&major.len()) && major.bytes().all(|b| b.is_ascii_digit()) && minor == "0"
    })
}

fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "The requested resource does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_fields_that_were_asked_for() {
        let found = record("select Id, Owner.Name FROM Contact LIMIT 1", "v59.0").expect("a record");
        assert_eq!(found["attributes"]["type"], "Contact");
        assert_eq!([&found["Id"], &found["Owner.Name"]], ["001000000000001AAA", "Acme"]);
        assert!(
            record("DELETE FROM Contact", "v59.0").is_none() && record("SELECT FROM x", "v59.0").is_none()
        );
        assert!(is_version("v59.0") && !is_version("59.0") && !is_version("v9.0") && !is_version("vxx.0"));
    }
}
