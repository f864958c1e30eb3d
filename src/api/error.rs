//! Maps every error of the API to its HTTP status and JSON body.
//!
//! The body is `{"error", "error_description", "request_id"}`, plus `field` if one field is wrong, and `upstream` with
//! Salesforce's error. The description says what to do. It never repeats a secret, and details of internal errors go to the
//! log only.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::callers::{Denied, JwtError, SubjectError};
use crate::exchange::{ExchangeError, SalesforceError};
use crate::stores::RemoteSigningError;
use crate::tokens::{InvalidField, MintError};

/// Why a request fails.
#[derive(Clone, Debug)]
pub(crate) enum ApiError {
    /// Missing or wrong credentials. The response doesn't say which.
    InvalidClient,
    /// The client certificate expired after the connection was made.
    CertificateExpired,
    /// Several `Authorization` headers, or at the token endpoint several ways of authentication.
    MultipleCredentials,
    Denied {
        denied: Denied,
        field: &'static str,
    },
    InvalidField(InvalidField),
    /// The grant type of a request to the token endpoint isn't supported.
    UnsupportedGrantType,
    /// A request to the token endpoint names scopes. The message says why it can't.
    InvalidScope(&'static str),
    /// The caller can't get a token of the profile that `audience` names (RFC 8693, section 2.2.2).
    InvalidTarget(Denied),
    /// The request violates HTTP, or uses a part of it that tokenmint doesn't accept. The message says what to send instead.
    Malformed(&'static str),
    /// The body isn't a JSON object. The message says why.
    NotJson(String),
    NotFound,
    /// The JWKS would lack keys, because a store hasn't opened them yet.
    KeysetClosed,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// No path has this method.
    UnknownMethod,
    NotAcceptable,
    /// The message says what is wrong with `Content-Type` or `Content-Encoding`.
    UnsupportedMediaType(&'static str),
    /// The limit, in bytes.
    BodyTooLarge(usize),
    /// The limit, in bytes.
    HeadTooLarge(usize),
    /// The limit.
    TooManyHeaders(usize),
    /// The head or the body didn't arrive in time.
    ReceiveTimeout {
        /// `head` or `body`.
        what: &'static str,
        within: Duration,
    },
    /// The body ended early, or its framing is invalid.
    IncompleteBody,
    RateLimited {
        retry_after: Duration,
        /// Which limit was exceeded: the start of the message.
        why: &'static str,
    },
    Mint(MintError),
    Exchange(ExchangeError),
    /// A JWT can't be verified, because its issuer's keys aren't available.
    IssuerUnavailable {
        retry_after: Duration,
    },
    /// The audit is required, and the log dropped or excluded the audit line.
    AuditUnavailable,
    /// The request wasn't answered within `request_timeout`.
    RequestTimeout,
    Panicked,
}

impl From<InvalidField> for ApiError {
    fn from(invalid_field: InvalidField) -> Self {
        Self::InvalidField(invalid_field)
    }
}

impl From<MintError> for ApiError {
    fn from(error: MintError) -> Self {
        Self::Mint(error)
    }
}

impl From<ExchangeError> for ApiError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Mint(error) => Self::Mint(error),
            error => Self::Exchange(error),
        }
    }
}

impl From<JwtError> for ApiError {
    fn from(error: JwtError) -> Self {
        match error {
            JwtError::Refused { .. } => Self::InvalidClient,
            JwtError::KeysUnavailable { retry_after } => Self::IssuerUnavailable { retry_after },
        }
    }
}

impl From<SubjectError> for ApiError {
    fn from(error: SubjectError) -> Self {
        match error {
            SubjectError::Invalid(invalid_field) => Self::InvalidField(invalid_field),
            SubjectError::KeysUnavailable { retry_after } => Self::IssuerUnavailable { retry_after },
        }
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        Self::Denied { denied, field: "profile" }
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'static str,
    error_description: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a SalesforceError>,
}

/// The value of `WWW-Authenticate`.
#[derive(Clone, Copy)]
enum Challenge {
    Bearer,
    Basic,
}

/// An error as an HTTP response.
pub(super) struct ErrorResponse {
    pub(crate) status: StatusCode,
    /// The error code: one of RFC 6749, or one that `openapi.yaml` defines.
    pub(crate) error: &'static str,
    description: String,
    field: Option<String>,
    /// The value of `Retry-After`, in seconds.
    retry_after: Option<u64>,
    /// The error that Salesforce answered.
    upstream: Option<SalesforceError>,
    challenge: Challenge,
}

impl ApiError {
    pub(super) fn error_response(self) -> ErrorResponse {
        use StatusCode as S;
        let error_response = |status, error, description: &str| ErrorResponse {
            status,
            error,
            description: description.to_owned(),
            field: None,
            retry_after: None,
            upstream: None,
            challenge: Challenge::Bearer,
        };
        let invalid = |description: &str| error_response(S::BAD_REQUEST, "invalid_request", description);
        match self {
            Self::InvalidClient => error_response(
                S::UNAUTHORIZED,
                "invalid_client",
                "send a valid API key or JWT: `Authorization: Bearer CREDENTIAL`; `tokenmint callers new NAME` makes an API key, \
                 and tokenmint's log says why a JWT was refused",
            ),
            Self::CertificateExpired => error_response(
                S::UNAUTHORIZED,
                "invalid_client",
                "the client certificate of this connection has expired: connect again with a valid one",
            ),
            Self::MultipleCredentials => invalid("send one Authorization header, not several"),
            Self::Denied { denied, field } => {
                let status = match denied {
                    Denied::Ambiguous(_) | Denied::NotAName | Denied::WrongKind(_) => S::BAD_REQUEST,
                    Denied::Profile(_) | Denied::NotAllowed | Denied::BundleEntry(_) | Denied::Subject => {
                        S::FORBIDDEN
                    }
                };
                let error = if status == S::FORBIDDEN { "access_denied" } else { "invalid_request" };
                ErrorResponse {
                    field: Some(field.to_owned()),
                    ..error_response(status, error, &denied.to_string())
                }
            }
            Self::InvalidField(invalid_field) => ErrorResponse {
                field: Some(invalid_field.field.clone()),
                ..invalid(&format!("`{}` {}", invalid_field.field, invalid_field.message))
            },
            Self::UnsupportedGrantType => error_response(
                S::BAD_REQUEST,
                "unsupported_grant_type",
                "set `grant_type` to client_credentials, or to urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            Self::InvalidScope(why) => error_response(S::BAD_REQUEST, "invalid_scope", why),
            Self::InvalidTarget(denied) => ErrorResponse {
                field: Some("audience".to_owned()),
                ..error_response(S::BAD_REQUEST, "invalid_target", &denied.to_string())
            },
            Self::RateLimited { retry_after, why } => ErrorResponse {
                retry_after: Some(retry_after_seconds(retry_after)),
                ..error_response(
                    S::TOO_MANY_REQUESTS,
                    "rate_limited",
                    &format!("{why}; retry after the seconds in Retry-After"),
                )
            },
            Self::Malformed(message) => invalid(message),
            Self::NotJson(reason) => invalid(&reason),
            Self::NotFound => error_response(
                S::NOT_FOUND,
                "not_found",
                "this listener has nothing at this path; `tokenmint openapi` lists all paths",
            ),
            Self::MethodNotAllowed | Self::UnknownMethod => error_response(
                S::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "use the method that the Allow header names",
            ),
            Self::NotAcceptable => error_response(
                S::NOT_ACCEPTABLE,
                "not_acceptable",
                "only application/json and application/jwt are available; change the Accept header",
            ),
            Self::UnsupportedMediaType(what) => {
                error_response(S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", what)
            }
            Self::BodyTooLarge(limit) => error_response(
                S::PAYLOAD_TOO_LARGE,
                "request_too_large",
                &format!("the body is larger than {limit} bytes; shorten it, or raise server.limits.body"),
            ),
            Self::HeadTooLarge(limit) => error_response(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "request_headers_too_large",
                &format!(
                    "send a shorter path, or fewer or shorter headers: the request head has more than {limit} bytes"
                ),
            ),
            Self::TooManyHeaders(limit) => error_response(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "request_headers_too_large",
                &format!("send fewer headers: there are more than {limit}"),
            ),
            Self::ReceiveTimeout { what, within } => error_response(
                S::REQUEST_TIMEOUT,
                "request_timeout",
                &format!("the {what} did not arrive in time: send it at once, within {within:?}"),
            ),
            Self::IncompleteBody => invalid(
                "the body is incomplete or its chunks are invalid: send as many bytes as Content-Length says, or chunks of RFC 9112 \
                 with at most 16 KiB of extensions, and an empty chunk at the end",
            ),
            Self::Mint(MintError::Overloaded) | Self::RequestTimeout => ErrorResponse {
                retry_after: Some(1),
                ..error_response(
                    S::SERVICE_UNAVAILABLE,
                    "overloaded",
                    "the service is overloaded and can't answer in time; try again, or run more replicas",
                )
            },
            Self::Mint(MintError::NoSigningKey { seconds_until_next: seconds }) => ErrorResponse {
                retry_after: Some(seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(5).clamp(1, 3600)),
                ..error_response(
                    S::SERVICE_UNAVAILABLE,
                    "temporarily_unavailable",
                    "no key of this profile's keyset signs yet; see `tokenmint keys list` for the dates in its keyset.toml, and \
                     `tokenmint check --running` for whether the service has taken them over",
                )
            },
            Self::Mint(MintError::KeysetClosed) | Self::KeysetClosed => ErrorResponse {
                retry_after: Some(5),
                ..error_response(
                    S::SERVICE_UNAVAILABLE,
                    "temporarily_unavailable",
                    "the store of this keyset's keys hasn't answered since the service started, so there is no key; the \
                     service tries again by itself, and `/readyz` and `tokenmint check` say why",
                )
            },
            Self::Mint(MintError::Remote(RemoteSigningError::LimitExceeded(_))) => ErrorResponse {
                retry_after: Some(1),
                ..error_response(
                    S::SERVICE_UNAVAILABLE,
                    "overloaded",
                    "the store that signs for this profile is asked for more signatures than its limits allow; try again, or raise \
                     `max_signatures_per_second` in [stores.NAME]",
                )
            },
            Self::Mint(MintError::Remote(RemoteSigningError::Store { retry_after, .. })) => ErrorResponse {
                retry_after: Some(retry_after_seconds(retry_after)),
                ..error_response(
                    S::SERVICE_UNAVAILABLE,
                    "temporarily_unavailable",
                    "the store that signs for this profile can't sign now; try again, and see tokenmint's log or `tokenmint doctor` for \
                     what the store said",
                )
            },
            Self::IssuerUnavailable { retry_after } => ErrorResponse {
                retry_after: Some(retry_after_seconds(retry_after)),
                ..error_response(
                    S::SERVICE_UNAVAILABLE,
                    "issuer_unavailable",
                    "the keys of the token's issuer can't be fetched, so the token can't be verified; try again, and see tokenmint's \
                     log for the reason",
                )
            },
            Self::AuditUnavailable => ErrorResponse {
                retry_after: Some(1),
                ..error_response(
                    S::SERVICE_UNAVAILABLE,
                    "temporarily_unavailable",
                    "the audit line can't be logged, so no token is returned (audit = \"required\"): is the log's disk full, or its \
                     reader gone?",
                )
            },
            Self::Exchange(error) => exchange_error_response(error),
            Self::Mint(MintError::Signing(_) | MintError::Randomness(_)) | Self::Panicked => error_response(
                S::INTERNAL_SERVER_ERROR,
                "server_error",
                "internal error: search tokenmint's log for this request ID, or for `panicked` at this time",
            ),
        }
    }
}

impl ApiError {
    /// Like [`error_response`](Self::error_response), with the codes and statuses of RFC 6749, section 5.2. Errors that the RFC
    /// doesn't know, for example of a rate limit, stay as they are.
    pub(super) fn token_endpoint_response(self) -> ErrorResponse {
        let description = match &self {
            Self::InvalidClient => Some(
                "send the caller's name as `client_id` and its API key as `client_secret`, by HTTP Basic or in the form, or the JWT of its \
                 platform as `client_assertion`; tokenmint's log says why a JWT was refused",
            ),
            Self::MultipleCredentials => Some(
                "authenticate in one way: one Authorization header, or `client_secret`, or `client_assertion`",
            ),
            _ => None,
        };
        let is_subject_denied = matches!(self, Self::Denied { denied: Denied::Subject, .. });
        let mut answer = self.error_response();
        answer.challenge = Challenge::Basic;
        if answer.status == StatusCode::FORBIDDEN {
            answer.status = StatusCode::BAD_REQUEST;
            // RFC 8693, section 2.2.2: a subject that the policy refuses is an invalid request.
            answer.error = if is_subject_denied { "invalid_request" } else { "unauthorized_client" };
        }
        if answer.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            answer.status = StatusCode::BAD_REQUEST;
            answer.error = "invalid_request";
        }
        answer.description = to_rfc_6749_text(description.unwrap_or(&answer.description));
        answer
    }
}

/// Replaces the characters that `error_description` can't have (RFC 6749, section 5.2).
fn to_rfc_6749_text(description: &str) -> String {
    let replaced = |c: char| match c {
        '"' => '\'',
        '\\' => '/',
        ' '..='~' => c,
        _ => '?',
    };
    description.replace('…', "...").chars().map(replaced).collect()
}

/// `wait` in seconds for `Retry-After`, at least 1. Rounded up, so that a client that obeys doesn't come too early.
fn retry_after_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Maps an error of the exchange with Salesforce.
fn exchange_error_response(error: ExchangeError) -> ErrorResponse {
    let description = error.to_string();
    let seconds = error.retry_after().map(retry_after_seconds);
    let permanent = error.is_permanent();
    let (status, word, upstream) = match error {
        ExchangeError::Unverified { .. } => (StatusCode::BAD_GATEWAY, "unverified", None),
        ExchangeError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", None),
        ExchangeError::Rejected { upstream, .. } if permanent => {
            (StatusCode::BAD_GATEWAY, "upstream_rejected", Some(upstream))
        }
        ExchangeError::Unusable { status, .. } if permanent => {
            let upstream = SalesforceError { status, error: None, error_description: None };
            (StatusCode::BAD_GATEWAY, "upstream_rejected", Some(upstream))
        }
        ExchangeError::Rejected { upstream, .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "upstream_unavailable", Some(upstream))
        }
        ExchangeError::Unusable { .. }
        | ExchangeError::Unreachable { .. }
        | ExchangeError::CircuitOpen { .. }
        | ExchangeError::LoginRateLimited { .. }
        | ExchangeError::Interrupted
        | ExchangeError::Mint(_) => (StatusCode::SERVICE_UNAVAILABLE, "upstream_unavailable", None),
    };
    let retry_after = match status {
        StatusCode::BAD_GATEWAY => None,
        StatusCode::GATEWAY_TIMEOUT => seconds,
        _ => seconds.or(Some(1)),
    };
    let challenge = Challenge::Bearer;
    ErrorResponse { status, error: word, description, field: None, retry_after, upstream, challenge }
}

impl ErrorResponse {
    /// Writes the error into `answer`, and keeps the headers that it doesn't set itself, for example `Allow`.
    pub(crate) fn into_response(self, mut answer: Response, request_id: &str) -> Response {
        let body = ErrorBody {
            error: self.error,
            error_description: &self.description,
            request_id,
            field: self.field.as_deref(),
            upstream: self.upstream.as_ref(),
        };
        let body = serde_json::to_vec(&body).expect("strings can be written to memory");
        *answer.status_mut() = self.status;
        *answer.body_mut() = Body::from(body);
        let headers = answer.headers_mut();
        headers.remove(http::header::CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = match self.challenge {
                Challenge::Bearer => "Bearer",
                Challenge::Basic => "Basic realm=\"tokenmint\", charset=\"UTF-8\"",
            };
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

/// Attaches the error to a placeholder response. `middleware` writes the real one, with the request ID.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        match self {
            // axum adds `Allow` to a response with status 405.
            Self::MethodNotAllowed => *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownMethod => {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD,POST"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}
