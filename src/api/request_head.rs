//! Prevents request smuggling: rejects request heads that a proxy in front of the service may read differently.
//!
//! hyper accepts a bare LF, `Content-Length` together with `Transfer-Encoding`, and several equal lengths. A proxy may
//! see another request in the same bytes. So `app::request_scanner` rejects a bare LF, and passes each head to [`check_head`]
//! before hyper gets it.
//! The parser is httparse, which hyper uses too, so both read an accepted head in the same way.

use std::mem::MaybeUninit;

use super::ApiError;
use super::middleware::is_request_id;

/// The most headers of a request.
const MAX_REQUEST_HEADERS: usize = 64;

/// The name of the header of the request ID, with its colon.
const X_REQUEST_ID: &[u8] = b"x-request-id:";

/// How a request gives the length of its body (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    /// In bytes; 0 if there is no body.
    Length(u64),
    Chunked,
}

/// Checks a request head and returns the framing of its body. The caller ensures that `head` ends with the empty line and
/// contains no bare LF.
///
/// # Errors
/// The error that the client gets.
pub(crate) fn check_head(head: &[u8]) -> Result<BodyFraming, ApiError> {
    const NOT_HTTP: &str = "send a request head that is valid by RFC 9112: METHOD, one space, a path, one space, HTTP/1.1, and \
                            headers of one line each";
    let mut headers = [const { MaybeUninit::uninit() }; MAX_REQUEST_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(ApiError::TooManyHeaders(MAX_REQUEST_HEADERS)),
        Err(httparse::Error::Version) if has_another_version(head) => {
            return Err(ApiError::Malformed("use HTTP/1.1: this port speaks no other version"));
        }
        Ok(_) | Err(_) => return Err(ApiError::Malformed(NOT_HTTP)),
    }
    let is_http_1_0 = request.version == Some(0);
    if request.method == Some("CONNECT") {
        return Err(ApiError::UnknownMethod);
    }
    check_target(request.path.unwrap_or_default())?;
    let (mut host, mut length, mut chunked) = (None, None, false);
    for header in &*request.headers {
        if header.name.eq_ignore_ascii_case("host") {
            if host.replace(header.value).is_some() {
                return Err(ApiError::Malformed("send one Host header, not several"));
            }
        } else if header.name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(ApiError::Malformed("send one Content-Length header, not several"));
            }
            length = Some(content_length(header.value)?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || is_http_1_0 || !header.value.eq_ignore_ascii_case(b"chunked") {
                let message =
                    "leave Transfer-Encoding out, or send `Transfer-Encoding: chunked` once, with HTTP/1.1";
                return Err(ApiError::Malformed(message));
            }
            chunked = true;
        }
    }
    match host {
        None if !is_http_1_0 => return Err(ApiError::Malformed("send a Host header")),
        Some(host) if !host.iter().all(|byte| is_host_byte(*byte)) => {
            return Err(ApiError::Malformed("send a host name, optionally with a port, in the Host header"));
        }
        _ => {}
    }
    match (length, chunked) {
        (Some(_), true) => {
            Err(ApiError::Malformed("send Content-Length or Transfer-Encoding: chunked, not both"))
        }
        (_, true) => Ok(BodyFraming::Chunked),
        (length, false) => Ok(BodyFraming::Length(length.unwrap_or(0))),
    }
}

/// Whether the request line has three parts, and the last is a version of HTTP. Then only that version is wrong.
fn has_another_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ').skip(2);
    parts.next().is_some_and(|version| version.starts_with(b"HTTP/")) && parts.next().is_none()
}

/// Finds the `X-Request-Id` of a rejected request, in `received`: the bytes of its head that have arrived, and maybe bytes after
/// it. `None` if there is no usable one.
pub(crate) fn find_request_id(received: &[u8]) -> Option<&str> {
    let lines = received.split_inclusive(|byte| *byte == b'\n').skip(1);
    // The last line may be incomplete, and so may its value.
    let lines = lines.map_while(|line| line.strip_suffix(b"\n")).map(<[u8]>::trim_ascii_end);
    let id = lines.take_while(|line| !line.is_empty()).find_map(|line| {
        let (name, value) = line.split_at_checked(X_REQUEST_ID.len())?;
        name.eq_ignore_ascii_case(X_REQUEST_ID).then_some(value)
    });
    std::str::from_utf8(id?.trim_ascii()).ok().filter(|id| is_request_id(id.as_bytes()))
}

/// Checks that the target is a path with an optional query (origin-form, RFC 9112, section 3.2.1), in the characters of RFC 3986.
fn check_target(target: &str) -> Result<(), ApiError> {
    if !target.starts_with('/') {
        let is_scheme = |scheme: &str| scheme.bytes().all(|byte| byte.is_ascii_alphabetic());
        let is_absolute = target.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme));
        return Err(ApiError::Malformed(if is_absolute {
            "request a path, for example `POST /identity-token`: tokenmint isn't a proxy"
        } else {
            "begin the path with `/`, for example `POST /identity-token`"
        }));
    }
    if target.contains('#') {
        return Err(ApiError::Malformed("leave the fragment out of the path, or write `#` as %23"));
    }
    if !target.bytes().all(|byte| is_host_byte(byte) || b"/?!$&'()*+,;=@".contains(&byte)) {
        return Err(ApiError::Malformed(
            "percent-encode the characters of the path that RFC 3986 does not allow",
        ));
    }
    Ok(())
}

const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b':' | b'[' | b']')
}

/// Parses a length of digits only: no sign, and no list of lengths. The largest lengths of 64 bits are rejected, because hyper gives
/// them a meaning of its own.
fn content_length(value: &[u8]) -> Result<u64, ApiError> {
    let digits =
        std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse::<i64>().ok()?.try_into().ok())
        .ok_or(ApiError::Malformed("send the number of bytes of the body in Content-Length, in digits only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(lines: &str) -> Result<BodyFraming, ApiError> {
        check_head(format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes())
    }

    #[test]
    fn the_request_id_of_a_rejected_head_is_found_if_it_has_arrived() {
        for (received, id) in [
            ("GET / HTTP/1.1\r\nX-Request-ID:  my.id \r\n\r\n", Some("my.id")),
            ("GET / HTTP/1.1\nx-request-id:a\nx-request-id: b\n", Some("a")),
            ("GET / HTTP/1.1\r\nX-Request-Id: cut", None),
            ("X-Request-Id: a\r\n\r\n", None),
            ("GET / HTTP/1.1\r\n\r\nX-Request-Id: body\r\n", None),
            ("GET / HTTP/1.1\r\nX-Request-Id: a b\r\n", None),
            ("GET / HTTP/1.1\r\nX-Request-Id:\r\n", None),
            ("GET / HTTP/1.1\r\nX-Request-Id : a\r\n", None),
            ("", None),
        ] {
            assert_eq!(find_request_id(received.as_bytes()), id, "{received:?}");
        }
        assert_eq!(find_request_id(b"GET / HTTP/1.1\r\nX-Request-Id: \xff\r\n"), None);
    }

    #[test]
    fn the_message_names_the_fault_of_the_request_line() {
        for (line, part) in [
            ("POST /x  HTTP/1.1", "METHOD, one space, a path"),
            ("GET /a b HTTP/1.1", "METHOD, one space, a path"),
            ("GET /a HTTX/1.1", "METHOD, one space, a path"),
            ("GET /a HTTP/1.9", "no other version"),
            ("PRI * HTTP/2.0", "no other version"),
            ("OPTIONS * HTTP/1.1", "begin the path with `/`"),
            ("GET \\path HTTP/1.1", "begin the path with `/`"),
            ("GET path?to=http://x HTTP/1.1", "begin the path with `/`"),
            ("GET http://x/livez HTTP/1.1", "isn't a proxy"),
        ] {
            let refused = checked(&format!("{line}\nHost: x"));
            let is_named = matches!(&refused, Err(ApiError::Malformed(message)) if message.contains(part));
            assert!(is_named, "{line}: {refused:?}");
        }
    }

    #[test]
    fn a_head_with_an_ambiguous_body_length_is_rejected() {
        for (lines, framing) in [
            ("GET / HTTP/1.1\nHost: x", BodyFraming::Length(0)),
            ("GET / HTTP/1.0", BodyFraming::Length(0)),
            ("POST / HTTP/1.1\nHost: x\ncONTENT-length:  12 ", BodyFraming::Length(12)),
            ("POST / HTTP/1.1\nTransfer-Encoding: Chunked\nHost: x", BodyFraming::Chunked),
        ] {
            assert_eq!(checked(lines).ok(), Some(framing), "{lines}");
        }
        for lines in [
            "Content-Length: 5\nContent-Length: 5",
            "Content-Length: 5\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\nContent-Length: 5",
            "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: \u{b}chunked",
            "Content-Length: +5",
            "Content-Length: 5, 5",
            "Content-Length:",
            "Content-Length: 9223372036854775808",
            "Content-Length: 18446744073709551615",
            "Content-Length: 18446744073709551616",
        ] {
            let refused = checked(&format!("POST / HTTP/1.1\nHost: x\n{lines}"));
            assert!(matches!(refused, Err(ApiError::Malformed(_))), "{lines}: {refused:?}");
        }
        assert!(checked("POST / HTTP/1.0\nTransfer-Encoding: chunked").is_err());
    }
}
