//! The vocabulary of faults: what a server, a proxy or the network may do in place of a good answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a fault is played on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultTarget {
    /// All of the others.
    #[default]
    Any,
    /// `POST /services/oauth2/token`.
    Token,
    /// All of `/iamessage/`.
    Messaging,
    /// All else that is Salesforce's.
    Data,
}

impl FaultTarget {
    pub(super) fn matches(self, target: Self) -> bool {
        self == Self::Any || self == target
    }
}

/// One thing that goes wrong.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    #[serde(default)]
    pub path: FaultTarget,
    /// How often; `None` (`null`): until the faults are changed. Once, where nothing is said.
    #[serde(default = "once")]
    pub times: Option<u32>,
    pub fault: FaultKind,
    /// How long `latency` waits (1,000), `slow_body` between two bytes (1,000), `no_answer` before it hangs up
    /// (never).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// The status of an answer that isn't Salesforce's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The `message` of the messaging and data APIs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
    /// Sent as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
    /// Where `redirect` points, and the `instance_url` of `foreign_instance_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The whole subject of `other_subject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What `merge` lays over the answer (RFC 7396): `null` removes a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Value>,
    /// How long the body of `huge_body` (64 MiB) and the token of `huge_token` (1 MiB) are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

#[expect(clippy::unnecessary_wraps, reason = "the field's type")]
const fn once() -> Option<u32> {
    Some(1)
}

impl Fault {
    /// Once, on anything.
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

/// The kinds of faults. From `SlowBody` on, the request is really carried out and its answer spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Waits, then answers as ever.
    Latency,
    /// An error: 503, or 400 where `error` is given.
    Status,
    /// 200 and bytes that are no text.
    Garbage,
    /// 200 and no body.
    Empty,
    /// 200 and `{}`.
    EmptyObject,
    /// 200 and a page, as from a proxy.
    Html,
    /// A string in ISO 8859-1, which isn't UTF-8.
    Latin1,
    /// JSON, a thousand levels deep.
    Deep,
    /// Never ends.
    EndlessBody,
    /// Ends late, and says so in `Content-Length`.
    HugeBody,
    /// 302, or `status`.
    Redirect,
    /// TCP RST in place of an answer.
    Reset,
    /// TCP FIN in place of an answer.
    Close,
    /// The connection stays open, and nothing comes.
    NoAnswer,
    /// The right answer, a byte at a time.
    SlowBody,
    /// The first half of the right answer, then the connection ends.
    Truncated,
    /// The token's member twice; the second is another's.
    DuplicateKeys,
    MissingToken,
    NumericToken,
    /// A token with a line break and a header in it.
    CrlfToken,
    HugeToken,
    /// `token_type` is `mac`.
    WrongTokenType,
    ForeignInstanceUrl,
    /// A guest's session, whoever asked.
    Anonymous,
    /// The session of somebody else who was verified.
    OtherSubject,
    /// An access token whose `exp` has passed.
    ExpiredToken,
    /// An access token that is no JWT.
    OpaqueToken,
    /// Lays `members` over the answer.
    Merge,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_is_written_in_few_words() {
        let fault: Fault = serde_json::from_value(json!({"fault": "reset"})).expect("a fault");
        assert_eq!((fault.path, fault.times), (FaultTarget::Any, Some(1)));
        let fault = json!({"path": "token", "times": null, "fault": "endless_body"});
        let fault: Fault = serde_json::from_value(fault).expect("a fault");
        assert_eq!((fault.path, fault.times), (FaultTarget::Token, None));
        assert!(serde_json::from_value::<Fault>(json!({"fault": "reset", "time": 2})).is_err());
    }
}
