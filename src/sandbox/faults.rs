//! Fault injection: the faults of a server, a proxy or the network that a test can ask for.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The requests that a fault applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultTarget {
    /// All requests, except `/__sandbox/`.
    #[default]
    Any,
    /// `POST /services/oauth2/token`.
    Token,
    /// The endpoints for messaging access tokens and continuation tokens.
    Messaging,
    /// All other requests, except `/__sandbox/`.
    Data,
}

impl FaultTarget {
    pub(super) fn matches(self, target: Self) -> bool {
        self == Self::Any || self == target
    }
}

/// One fault, and how often it is injected.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    #[serde(default)]
    pub path: FaultTarget,
    /// How often the fault is injected. `None` (`null`) means until the faults are replaced. The default is once.
    #[serde(default = "once")]
    pub times: Option<u32>,
    pub fault: FaultKind,
    /// How long `latency` waits (default 1,000), how long `slow_body` waits between two bytes (default 1,000), and when
    /// `no_answer` closes the connection (default never).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// The status of a response that the fault makes up, in place of its default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `error` of the token endpoint, and `errorCode` of the data API, for `status`. The messaging API ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `error_description` of the token endpoint, and `message` of the messaging and data APIs, for `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
    /// The value of `Retry-After`, sent unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
    /// The `Location` of `redirect`, and the `instance_url` of `foreign_instance_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The whole subject of `other_subject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The JSON merge patch of `merge` (RFC 7396): `null` removes a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Value>,
    /// The size of the string in the body of `huge_body` (default 64 MiB) and of the token of `huge_token` (default 1 MiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

#[expect(clippy::unnecessary_wraps, reason = "the field's type")]
const fn once() -> Option<u32> {
    Some(1)
}

impl Fault {
    /// A fault that is injected once, into any request.
    pub const fn new(fault: FaultKind) -> Self {
        Self {
            path: FaultTarget::Any,
            times: once(),
            fault,
            milliseconds: None,
            status: None,
            error: None,
            error_description: None,
            retry_after: None,
            location: None,
            subject: None,
            members: None,
            bytes: None,
        }
    }
}

/// The kinds of faults. For `Latency`, and from `SlowBody` on, the request is carried out, and its response is delayed or changed.
/// From `DuplicateKeys` on, only a successful response is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Waits, then responds normally.
    Latency,
    /// An error response: `status`, or by default 503, or 400 if `error` is given.
    Status,
    /// 200 and bytes that aren't text.
    Garbage,
    /// 200 and no body.
    Empty,
    /// 200 and `{}`.
    EmptyObject,
    /// 200 and an HTML page, like the error page of a proxy.
    Html,
    /// 200 and JSON in ISO 8859-1 instead of UTF-8.
    Latin1,
    /// 200 and JSON with a nesting depth of 1,000.
    Deep,
    /// 200 and a body that never ends.
    EndlessBody,
    /// 200 and JSON that ends within a string of `bytes` bytes, with a correct `Content-Length`.
    HugeBody,
    /// 302, or `status`.
    Redirect,
    /// TCP RST instead of a response.
    Reset,
    /// TCP FIN instead of a response.
    Close,
    /// No response on an open connection.
    NoAnswer,
    /// The correct response, one byte at a time.
    SlowBody,
    /// The first half of the correct response, then the connection ends.
    Truncated,
    /// The member of the token twice. The second value is a foreign token.
    DuplicateKeys,
    MissingToken,
    NumericToken,
    /// A token that contains a line break and a header.
    CrlfToken,
    HugeToken,
    /// `token_type` is `mac`.
    WrongTokenType,
    ForeignInstanceUrl,
    /// An anonymous session for a verified user.
    Anonymous,
    /// The session of another verified user.
    OtherSubject,
    /// An access token whose `exp` has passed.
    ExpiredToken,
    /// An access token that isn't a JWT.
    OpaqueToken,
    /// Applies `members` to the response as a JSON merge patch.
    Merge,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_has_defaults_and_rejects_unknown_members() {
        let fault: Fault = serde_json::from_value(json!({"fault": "reset"})).expect("a fault");
        assert_eq!((fault.path, fault.times), (FaultTarget::Any, Some(1)));
        let fault = json!({"path": "token", "times": null, "fault": "endless_body"});
        let fault: Fault = serde_json::from_value(fault).expect("a fault");
        assert_eq!((fault.path, fault.times), (FaultTarget::Token, None));
        assert!(serde_json::from_value::<Fault>(json!({"fault": "reset", "time": 2})).is_err());
    }
}
