//! What HTTP leaves to a server and this one doesn't take, since a proxy in front may understand it otherwise: who a
//! request is for has one answer, and it is in the path. The rest of that strictness is `app::wire`'s, which sees the
//! bytes.

use ::http::header::{ALLOW, HOST};
use ::http::{HeaderValue, Method, Version};
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};

use super::Refusal;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");

/// The refusal, if there is one.
pub(super) fn refusal(request: &Request) -> Option<Response> {
    let malformed = |message| Some(Refusal::Malformed(message).into_response());
    // TRACE is one more method that no route has.
    if request.method() == Method::CONNECT {
        return Some(([(ALLOW, METHODS)], Refusal::MethodNotAllowed).into_response());
    }
    let uri = request.uri();
    if uri.authority().is_some() || !uri.path().starts_with('/') {
        return malformed("ask for a path, as in `POST /identity-token`: tokenmint is no proxy");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => malformed("send a Host header"),
        (Some(_), Some(_)) => malformed("send one Host header, not several"),
        (Some(host), None) if !host.as_bytes().iter().all(|b| is_of_host(*b)) => {
            malformed("send a host name, perhaps with a port, as Host header")
        }
        _ => None,
    }
}

const fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b':' | b'[' | b']')
}
