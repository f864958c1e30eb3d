//! Fault injection: an axum layer in front of every handler, which counts requests, injects faults and sets `Date`. The control
//! endpoints are neither counted nor faulted.

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

use super::bodies::{ConnectionAbort, EndlessBody, ThrottledBody, TruncatedBody};
use super::faults::{Fault, FaultKind, FaultTarget};
use super::tampering::edit_response;
use super::{Sandbox, json_response, messaging};

pub(super) async fn inject_faults(State(sandbox): State<Sandbox>, request: Request, next: Next) -> Response {
    let fault =
        count_request(&sandbox, &request).and_then(|target| Some((sandbox.next_fault(target)?, target)));
    let mut response = match fault {
        None => next.run(request).await,
        Some((fault, target)) => {
            tracing::debug!(fault = ?fault.fault, path = request.uri().path(), "sandbox: injects a fault");
            let retry_after = fault.retry_after.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
            let mut response = apply_fault(&sandbox, fault, target, request, next).await;
            response.headers_mut().extend(retry_after.map(|value| (RETRY_AFTER, value)));
            response
        }
    };
    let date = http_date(sandbox.now());
    response.headers_mut().extend(date.map(|date| (DATE, date)));
    response
}

/// Counts a request, and returns the fault target that it belongs to. `None` for the control endpoints, which have no faults.
fn count_request(sandbox: &Sandbox, request: &Request) -> Option<FaultTarget> {
    let (method, path) = (request.method(), request.uri().path());
    let counts = &mut sandbox.state().counts;
    let (count, target) = match path {
        "/services/oauth2/token" if method == Method::POST => (&mut counts.token, FaultTarget::Token),
        "/services/oauth2/revoke" => (&mut counts.revoke, FaultTarget::Data),
        "/services/oauth2/userinfo" => (&mut counts.userinfo, FaultTarget::Data),
        path if path.starts_with("/id/") => (&mut counts.userinfo, FaultTarget::Data),
        messaging::ACCESS_TOKEN_PATH if method == Method::DELETE => {
            (&mut counts.messaging_revoke, FaultTarget::Messaging)
        }
        messaging::ACCESS_TOKEN_PATH => (&mut counts.messaging, FaultTarget::Messaging),
        messaging::CONTINUATION_PATH => (&mut counts.continuation, FaultTarget::Messaging),
        path if path.starts_with("/services/data") => (&mut counts.data, FaultTarget::Data),
        path if path.starts_with("/__sandbox") => return None,
        _ => (&mut counts.other, FaultTarget::Data),
    };
    *count += 1;
    Some(target)
}

async fn apply_fault(
    sandbox: &Sandbox,
    fault: Fault,
    target: FaultTarget,
    request: Request,
    next: Next,
) -> Response {
    let wait = |default: u64| Duration::from_millis(fault.milliseconds.unwrap_or(default));
    let status = |default| fault.status.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(default);
    let instead = |kind: &'static str, body: Body| {
        let headers = [(CONTENT_TYPE, HeaderValue::from_static(kind))];
        (status(StatusCode::OK), headers, body).into_response()
    };
    match fault.fault {
        FaultKind::Latency => {
            tokio::time::sleep(wait(1000)).await;
            next.run(request).await
        }
        FaultKind::Status => {
            let usual = match fault.error {
                None => StatusCode::SERVICE_UNAVAILABLE,
                Some(_) => StatusCode::BAD_REQUEST,
            };
            json_response(status(usual), &fault_error_body(&fault, target))
        }
        FaultKind::Garbage => instead("application/json", Body::from(&b"\x16\x03\x01\x00\xff{]\x00<"[..])),
        FaultKind::Empty => instead("application/json", Body::empty()),
        FaultKind::EmptyObject => instead("application/json", Body::from("{}")),
        FaultKind::Html => {
            instead("text/html; charset=UTF-8", Body::from("<!DOCTYPE html><title>We are down</title>"))
        }
        FaultKind::Latin1 => {
            let body =
                &b"{\"access_token\":\"caf\xe9\",\"accessToken\":\"caf\xe9\",\"token_type\":\"Bearer\"}"[..];
            instead("application/json", Body::from(body))
        }
        FaultKind::Deep => {
            let body = format!("{}{}", r#"{"a":"#.repeat(1000), "1".to_owned() + &"}".repeat(1000));
            instead("application/json", Body::from(body))
        }
        FaultKind::EndlessBody => instead("application/json", Body::new(EndlessBody::with_length(None))),
        FaultKind::HugeBody => {
            let bytes = fault.bytes.unwrap_or(64 << 20);
            let mut response = instead("application/json", Body::new(EndlessBody::with_length(Some(bytes))));
            let length = bytes.saturating_add(EndlessBody::PREFIX.len() as u64);
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            response
        }
        FaultKind::Redirect => {
            let location = fault.location.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
            let location = location.unwrap_or(HeaderValue::from_static("https://elsewhere.example/"));
            (status(StatusCode::FOUND), [(LOCATION, location)]).into_response()
        }
        FaultKind::Reset => ConnectionAbort::Reset.into_marker_response(),
        FaultKind::Close => ConnectionAbort::Close.into_marker_response(),
        FaultKind::NoAnswer => {
            match fault.milliseconds {
                Some(_) => tokio::time::sleep(wait(0)).await,
                None => std::future::pending().await,
            }
            ConnectionAbort::Close.into_marker_response()
        }
        FaultKind::SlowBody => {
            replace_body(next.run(request).await, |all| Body::new(ThrottledBody::every(wait(1000), all)))
                .await
        }
        FaultKind::Truncated => {
            let half = |all: Bytes| Body::new(TruncatedBody::after(all.slice(..all.len() / 2)));
            replace_body(next.run(request).await, half).await
        }
        _ => edit_response(sandbox, &fault, target, next.run(request).await).await,
    }
}

fn fault_error_body(fault: &Fault, target: FaultTarget) -> Value {
    let description = fault.error_description.as_deref();
    match target {
        FaultTarget::Token => {
            let error = fault.error.as_deref().unwrap_or("server_error");
            json!({"error": error, "error_description": description.unwrap_or("unexpected error")})
        }
        FaultTarget::Messaging => json!({"message": description.unwrap_or("Internal server error")}),
        FaultTarget::Data | FaultTarget::Any => {
            let code = fault.error.as_deref().unwrap_or("SERVER_UNAVAILABLE");
            json!([{"message": description.unwrap_or("unexpected error"), "errorCode": code}])
        }
    }
}

/// Replaces the body. Keeps the headers, and sets `Content-Length` to the length of the original body.
async fn replace_body(response: Response, body: impl FnOnce(Bytes) -> Body) -> Response {
    let (mut parts, old) = response.into_parts();
    let all = to_bytes(old, usize::MAX).await.unwrap_or_default();
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(all.len()));
    Response::from_parts(parts, body(all))
}

/// Formats a time as an HTTP date (RFC 9110, section 5.6.7).
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
    fn a_date_has_the_format_of_http() {
        assert_eq!(http_date(784_111_777).expect("a date"), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
