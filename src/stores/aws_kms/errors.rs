//! The errors of AWS: which code means what for the next attempt.
//!
//! The status doesn't tell. KMS answers 400 when it throttles, and when it denies access:
//! <https://docs.aws.amazon.com/kms/latest/developerguide/throttling.html>. The codes that mean throttling are those of AWS's SDKs.

use http::StatusCode;

use super::super::error::StoreError;
use super::super::http_api;

const MAX_CODE_CHARS: usize = 60;

/// An error as AWS describes it.
pub(super) struct AwsError {
    status: StatusCode,
    /// For example `AccessDeniedException`; empty in an answer of another server.
    pub(super) code: String,
    message: Option<String>,
}

impl AwsError {
    /// `code` may have a namespace before it and an address behind it.
    pub(super) fn new(status: StatusCode, code: &str, message: &str) -> Self {
        let code = code.split(':').next().unwrap_or_default();
        let code = code.rsplit('#').next().unwrap_or_default();
        let is_code = code.len() <= MAX_CODE_CHARS && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let code = if is_code { code.to_owned() } else { String::new() };
        Self { status, code, message: http_api::shorten(message) }
    }

    /// Its message and its code, or else its status.
    pub(super) fn said(&self) -> String {
        let Self { status, code, message } = self;
        match (message, code.as_str()) {
            (Some(message), "") => message.clone(),
            (Some(message), code) => format!("{message} ({code})"),
            (None, "") => format!("status {}", status.as_u16()),
            (None, code) => code.to_owned(),
        }
    }

    /// The error, unless AWS refuses the request as it is.
    pub(super) fn unless_refused(&self) -> Option<StoreError> {
        let said = self.said();
        match self.code.as_str() {
            "ThrottlingException"
            | "ThrottledException"
            | "Throttling"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "RequestLimitExceeded"
            | "LimitExceededException"
            | "TooManyRequestsException"
            | "SlowDown" => Some(StoreError::Throttled(said)),
            "InvalidSignatureException" | "SignatureDoesNotMatch" => Some(StoreError::Denied(format!(
                "{said}; compare the clock of this host and the secret access key"
            ))),
            // Somebody can change the policies, the credentials and the state of a key in AWS.
            "AccessDenied"
            | "AccessDeniedException"
            | "UnrecognizedClientException"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "OptInRequired"
            | "DisabledException"
            | "KMSInvalidStateException" => Some(StoreError::Denied(said)),
            "" if self.status == StatusCode::TOO_MANY_REQUESTS => Some(StoreError::Throttled(said)),
            "KMSInternalException"
            | "DependencyTimeoutException"
            | "KeyUnavailableException"
            | "IDPCommunicationError"
            | "RequestTimeout"
            | "RequestTimeoutException" => Some(StoreError::Unavailable(said)),
            // An answer without a code is one of a proxy.
            code => {
                (code.is_empty() || self.status.is_server_error()).then_some(StoreError::Unavailable(said))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_and_not_the_status() {
        let error = |status: u16, code: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            AwsError::new(
                status,
                code,
                "because\nof a-word-of-more-than-sixty-characters-that-could-be-a-secret-of-somebody.",
            )
        };
        let denied = StoreError::Denied("because of (…) (AccessDeniedException)".to_owned());
        assert_eq!(
            error(400, "com.amazon.coral#AccessDeniedException:http://x").unless_refused(),
            Some(denied)
        );
        let outcome = |status, code| error(status, code).unless_refused().map(|error| error.as_str());
        for (status, code, expected) in [
            (400, "ThrottlingException", Some("throttled")),
            (400, "KMSInternalException", Some("unavailable")),
            (400, "DisabledException", Some("denied")),
            (500, "InternalFailure", Some("unavailable")),
            (400, "InvalidCiphertextException", None),
            (400, "NotFoundException", None),
            (502, "", Some("unavailable")),
            (429, "", Some("throttled")),
            (403, "<html>", Some("unavailable")),
        ] {
            assert_eq!(outcome(status, code), expected, "{code}");
        }
        assert_eq!(
            AwsError::new(StatusCode::BAD_REQUEST, "InvalidCiphertextException", "").said(),
            "InvalidCiphertextException"
        );
        assert_eq!(AwsError::new(StatusCode::BAD_GATEWAY, "", "").said(), "status 502");
    }
}
