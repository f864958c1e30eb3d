//! In front of every handler: counts requests and plays faults on them.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::bodies::{Broken, Cut, Dripping, Long};
use super::edit::edited;
use super::faults::{Door, Fault, Misdeed};
use super::{Sandbox, answer, messaging};

pub(super) async fn play(State(sandbox): State<Sandbox>, request: Request, next: Next) -> Response {
    let fault = count(&sandbox, &request).and_then(|door| Some((sandbox.next_fault(door)?, door)));
    let mut response = match fault {
        None => next.run(request).await,
        Some((fault, door)) => {
            tracing::debug!(fault = ?fault.fault, path = request.uri().path(), "sandbox: plays a fault");
            let retry_after = fault.retry_after.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
            let mut response = spoil(&sandbox, fault, door, request, next).await;
            response.headers_mut().extend(retry_after.map(|value| (RETRY_AFTER, value)));
            response
        }
    };
    let date = http_date(sandbox.now());
    response.headers_mut().extend(date.map(|date| (DATE, date)));
    response
}

/// Counts a request; `None` where faults don't reach.
fn count(sandbox: &Sandbox, request: &Request) -> Option<Door> {
    let (method, path) = (request.method(), request.uri().path());
    let counts = &mut sandbox.state().counts;
    let (count, door) = match path {
        "/services/oauth2/token" if method == Method::POST => (&mut counts.token, Door::Token),
        "/services/oauth2/revoke" => (&mut counts.revoke, Door::Data),
        "/services/oauth2/userinfo" => (&mut counts.userinfo, Door::Data),
        path if path.starts_with("/id/") => (&mut counts.userinfo, Door::Data),
        messaging::PATH if method == Method::DELETE => (&mut counts.messaging_revoke, Door::Messaging),
        messaging::PATH => (&mut counts.messaging, Door::Messaging),
        messaging::CONTINUATION => (&mut counts.continuation, Door::Messaging),
        path if path.starts_with("/services/data") => (&mut counts.data, Door::Data),
        path if path.starts_with("/__sandbox") => return None,
        _ => (&mut counts.other, Door::Data),
    };
    *count += 1;
    Some(door)
}

async fn spoil(sandbox: &Sandbox, fault: Fault, door: Door, request: Request, next: Next) -> Response {
    let wait = |default: u64| Duration::from_millis(fault.milliseconds.unwrap_or(default));
    let status = |default| fault.status.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(default);
    let instead = |kind: &'static str, body: Body| {
        let headers = [(CONTENT_TYPE, HeaderValue::from_static(kind))];
        (status(StatusCode::OK), headers, body).into_response()
    };
    match fault.fault {
        Misdeed::Latency => {
            tokio::time::sleep(wait(1000)).await;
            next.run(request).await
        }
        Misdeed::Status => {
            let usual = match fault.error {
                None => StatusCode::SERVICE_UNAVAILABLE,
                Some(_) => StatusCode::BAD_REQUEST,
            };
            answer(status(usual), &error_body(&fault, door))
        }
        Misdeed::Garbage => instead("application/json", Body::from(&b"\x16\x03\x01\x00\xff{]\x00<"[..])),
        Misdeed::Empty => instead("application/json", Body::empty()),
        Misdeed::EmptyObject => instead("application/json", Body::from("{}")),
        Misdeed::Html => {
            instead("text/html; charset=UTF-8", Body::from("<!DOCTYPE html><title>We are down</title>"))
        }
        Misdeed::Latin1 => {
            let body =
                &b"{\"access_token\":\"caf\xe9\",\"accessToken\":\"caf\xe9\",\"token_type\":\"Bearer\"}"[..];
            instead("application/json", Body::from(body))
        }
        Misdeed::Deep => {
            let body = format!("{}{}", r#"{"a":"#.repeat(1000), "1".to_owned() + &"}".repeat(1000));
            instead("application/json", Body::from(body))
        }
        Misdeed::EndlessBody => instead("application/json", Body::new(Long::of(None))),
        Misdeed::HugeBody => {
            let bytes = fault.bytes.unwrap_or(64 << 20);
            let mut response = instead("application/json", Body::new(Long::of(Some(bytes))));
            let length = bytes.saturating_add(Long::OPENING.len() as u64);
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            response
        }
        Misdeed::Redirect => {
            let location = fault.location.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
            let location = location.unwrap_or(HeaderValue::from_static("https://elsewhere.example/"));
            (status(StatusCode::FOUND), [(LOCATION, location)]).into_response()
        }
        Misdeed::Reset => Cut::Reset.response(),
        Misdeed::Close => Cut::Close.response(),
        Misdeed::NoAnswer => {
            match fault.milliseconds {
                Some(_) => tokio::time::sleep(wait(0)).await,
                None => std::future::pending().await,
            }
            Cut::Close.response()
        }
        Misdeed::SlowBody => {
            rewritten(next.run(request).await, |all| Body::new(Dripping::every(wait(1000), all))).await
        }
        Misdeed::Truncated => {
            let half = |all: Bytes| Body::new(Broken::after(all.slice(..all.len() / 2)));
            rewritten(next.run(request).await, half).await
        }
        _ => edited(sandbox, &fault, door, next.run(request).await).await,
    }
}

fn error_body(fault: &Fault, door: Door) -> Value {
    let description = fault.error_description.as_deref();
    match door {
        Door::Token => {
            let error = fault.error.as_deref().unwrap_or("server_error");
            json!({"error": error, "error_description": description.unwrap_or("unexpected error")})
        }
        Door::Messaging => json!({"message": description.unwrap_or("Internal server error")}),
        Door::Data | Door::Any => {
            let code = fault.error.as_deref().unwrap_or("SERVER_UNAVAILABLE");
            json!([{"message": description.unwrap_or("unexpected error"), "errorCode": code}])
        }
    }
}

/// Another body under the same head, `Content-Length` included.
async fn rewritten(response: Response, body: impl FnOnce(Bytes) -> Body) -> Response {
    let (mut parts, old) = response.into_parts();
    let all = to_bytes(old, usize::MAX).await.unwrap_or_default();
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(all.len()));
    Response::from_parts(parts, body(all))
}

/// RFC 9110, section 5.6.7.
fn http_date(seconds: i64) -> Option<HeaderValue> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let text = OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&format).ok()?;
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_reads_as_http_has_it() {
        assert_eq!(http_date(784_111_777).expect("a date"), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
