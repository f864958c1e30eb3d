//! Classifies the clients that fetch a JWK Set, by their `User-Agent`.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

/// Class of a client by its `User-Agent`: a small closed set, fit for a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientClass {
    /// The `User-Agent` names Salesforce.
    Salesforce,
    /// A Java HTTP client, which Salesforce's servers probably use.
    Java,
    Browser,
    /// A command-line tool, or the HTTP library of a language other than Java.
    Tool,
    /// A health check, a monitor, or tokenmint's own `doctor`.
    Probe,
    Other,
    /// No `User-Agent`, or an empty one.
    None,
}

impl ClientClass {
    pub(crate) const ALL: &[Self] =
        &[Self::Salesforce, Self::Java, Self::Browser, Self::Tool, Self::Probe, Self::Other, Self::None];

    /// The value of the label `client`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Salesforce => "salesforce",
            Self::Java => "java",
            Self::Browser => "browser",
            Self::Tool => "tool",
            Self::Probe => "probe",
            Self::Other => "other",
            Self::None => "none",
        }
    }

    pub(crate) fn from_user_agent(user_agent: Option<&[u8]>) -> Self {
        let Some(user_agent) = user_agent.filter(|user_agent| !user_agent.is_empty()) else {
            return Self::None;
        };
        let found = CLIENT_WORD_MATCHER.find(user_agent);
        found.map_or(Self::Other, |found| CLIENT_WORDS[found.pattern().as_usize()].1)
    }
}

/// If several words match, the one that begins first in the `User-Agent` counts.
static CLIENT_WORD_MATCHER: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let words = CLIENT_WORDS.iter().map(|(word, _)| word);
    let built =
        AhoCorasick::builder().ascii_case_insensitive(true).match_kind(MatchKind::LeftmostFirst).build(words);
    built.expect("a few short words")
});

const CLIENT_WORDS: &[(&str, ClientClass)] = &[
    ("salesforce", ClientClass::Salesforce),
    ("sfdc", ClientClass::Salesforce),
    ("java", ClientClass::Java),
    ("jakarta", ClientClass::Java),
    ("apache-httpclient", ClientClass::Java),
    ("jetty", ClientClass::Java),
    ("okhttp", ClientClass::Java),
    ("netty", ClientClass::Java),
    ("mozilla", ClientClass::Browser),
    ("curl", ClientClass::Tool),
    ("wget", ClientClass::Tool),
    ("python", ClientClass::Tool),
    ("node", ClientClass::Tool),
    ("ruby", ClientClass::Tool),
    ("go-http", ClientClass::Tool),
    ("reqwest", ClientClass::Tool),
    ("postman", ClientClass::Tool),
    ("kube-probe", ClientClass::Probe),
    ("healthcheck", ClientClass::Probe),
    ("googlehc", ClientClass::Probe),
    ("prometheus", ClientClass::Probe),
    ("blackbox", ClientClass::Probe),
    ("uptime", ClientClass::Probe),
    ("tokenmint", ClientClass::Probe),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_class_is_found_by_a_word_in_the_user_agent() {
        let of = |user_agent: &str| ClientClass::from_user_agent(Some(user_agent.as_bytes()));
        assert_eq!(ClientClass::from_user_agent(None), ClientClass::None);
        assert_eq!(of(""), ClientClass::None);
        assert_eq!(of("SFDC-Callout/62.0"), ClientClass::Salesforce);
        assert_eq!(of("Java/17.0.2"), ClientClass::Java);
        assert_eq!(of("Mozilla/5.0 (X11; Linux x86_64)"), ClientClass::Browser);
        assert_eq!(of("kube-probe/1.31"), ClientClass::Probe);
        assert_eq!(of("curl/8.5"), ClientClass::Tool);
        assert_eq!(of("\u{ff}?"), ClientClass::Other);
        // `ALL` is indexed by the enum's discriminant.
        assert!(ClientClass::ALL.iter().enumerate().all(|(at, client)| *client as usize == at));
    }
}
