//! Reads request bodies: checks the declared media type and encoding, and limits size and time.

use axum::BoxError;
use axum::body::Body;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{ApiError, AppState, RequestContext};

/// The media type that an endpoint accepts, with the messages for other ones.
pub(super) struct MediaType {
    name: &'static str,
    /// For several `Content-Type` headers, or none.
    send_one: &'static str,
    /// For another media type.
    send_this: &'static str,
    /// Whether a parameter `charset` means anything. A form is ASCII, and its percent-encoded bytes are UTF-8, whatever the
    /// parameter says.
    has_charset: bool,
}

pub(super) static JSON: MediaType = MediaType {
    name: "application/json",
    send_one: "send the body as JSON, with one header `Content-Type: application/json`",
    send_this: "send the body as JSON, with `Content-Type: application/json`",
    has_charset: true,
};

pub(super) static FORM: MediaType = MediaType {
    name: "application/x-www-form-urlencoded",
    send_one: "send the body as a form, with one header `Content-Type: application/x-www-form-urlencoded`",
    send_this: "send the body as a form, with `Content-Type: application/x-www-form-urlencoded`",
    has_charset: false,
};

/// Reads the body of a request. Its bytes are copied, so that a connection whose body arrives slowly doesn't keep hyper's buffers too.
/// They are zeroized when dropped, because they may contain secrets.
///
/// # Errors
/// It isn't declared as `media`, is larger than `limits.body`, incomplete, or doesn't arrive in time.
pub(super) async fn read_body(
    parts: &Parts,
    body: Body,
    media: &MediaType,
    state: &AppState,
) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    media.check(&parts.headers)?;
    let limit = state.limits.body;
    let length = declared_length(&parts.headers);
    // Rejects a body that is declared too large before any of it is read.
    if length.is_some_and(|length| length > limit) {
        return Err(ApiError::BodyTooLarge(limit));
    }
    let within = state.limits.body_timeout();
    let mut deadline = Instant::now() + within;
    if let Some(context) = parts.extensions.get::<RequestContext>() {
        deadline = deadline.min(context.started_at + state.limits.request_timeout);
    }
    let mut body = Limited::new(body, limit);
    let mut bytes = Zeroizing::default();
    let read_all = async {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                append(&mut bytes, &data);
            }
        }
        Ok(())
    };
    let read = tokio::time::timeout_at(deadline, read_all).await;
    let read: Result<(), BoxError> = read.map_err(|_| ApiError::ReceiveTimeout { what: "body", within })?;
    read.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => ApiError::BodyTooLarge(limit),
        None => ApiError::IncompleteBody,
    })?;
    Ok(bytes)
}

/// Appends `data`. The buffer grows with what arrives, not with what a client declares, and an outgrown buffer is zeroized.
fn append(bytes: &mut Zeroizing<Vec<u8>>, data: &[u8]) {
    let length = bytes.len() + data.len();
    if length > bytes.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(length.max(2 * bytes.capacity())));
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
    bytes.extend_from_slice(data);
}

impl MediaType {
    /// Checks that the body is declared as this type, uncompressed, and in UTF-8 if the type has a charset and names one.
    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let unsupported = |what| Err(ApiError::UnsupportedMediaType(what));
        if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return unsupported("send the body as it is, without Content-Encoding");
        }
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let (Some(media), None) = (types.next(), types.next()) else { return unsupported(self.send_one) };
        let mut parts = media.to_str().unwrap_or_default().split(';').map(str::trim);
        if !parts.next().is_some_and(|media| media.eq_ignore_ascii_case(self.name)) {
            return unsupported(self.send_this);
        }
        let is_another_charset = |parameter: &str| {
            let charset = parameter.get(..8).filter(|name| name.eq_ignore_ascii_case("charset="));
            charset.is_some() && !parameter[8..].trim_matches('"').eq_ignore_ascii_case("utf-8")
        };
        if self.has_charset && parts.any(is_another_charset) {
            return unsupported(
                "send the body in UTF-8: leave the parameter `charset` of Content-Type out, or say `charset=utf-8`",
            );
        }
        Ok(())
    }
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
