//! Classes of clients, by their `User-Agent`.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

/// Who fetches a JWKS, coarsely, by its `User-Agent`: a closed set, so that a label can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Names Salesforce.
    Salesforce,
    /// A Java library, as Salesforce's servers are likely to use.
    Java,
    Browser,
    /// A command-line tool or the HTTP library of another language.
    Tool,
    /// A health check or monitor.
    Probe,
    Other,
    /// Says nothing.
    None,
}

impl Client {
    pub const ALL: &[Self] =
        &[Self::Salesforce, Self::Java, Self::Browser, Self::Tool, Self::Probe, Self::Other, Self::None];

    /// The value of the label `client`.
    pub const fn as_str(self) -> &'static str {
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

    pub fn of(user_agent: Option<&[u8]>) -> Self {
        let Some(user_agent) = user_agent.filter(|user_agent| !user_agent.is_empty()) else {
            return Self::None;
        };
        let found = CLIENTS.find(user_agent);
        found.map_or(Self::Other, |found| CLIENT_WORDS[found.pattern().as_usize()].1)
    }
}

/// Where several fit, the first in the text counts.
static CLIENTS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let words = CLIENT_WORDS.iter().map(|(word, _)| word);
    let built =
        AhoCorasick::builder().ascii_case_insensitive(true).match_kind(MatchKind::LeftmostFirst).build(words);
    built.expect("a few short words")
});

const CLIENT_WORDS: &[(&str, Client)] = &[
    ("salesforce", Client::Salesforce),
    ("sfdc", Client::Salesforce),
    ("java", Client::Java),
    ("jakarta", Client::Java),
    ("apache-httpclient", Client::Java),
    ("jetty", Client::Java),
    ("okhttp", Client::Java),
    ("netty", Client::Java),
    ("mozilla", Client::Browser),
    ("curl", Client::Tool),
    ("wget", Client::Tool),
    ("python", Client::Tool),
    ("node", Client::Tool),
    ("ruby", Client::Tool),
    ("go-http", Client::Tool),
    ("reqwest", Client::Tool),
    ("postman", Client::Tool),
    ("kube-probe", Client::Probe),
    ("healthcheck", Client::Probe),
    ("googlehc", Client::Probe),
    ("prometheus", Client::Probe),
    ("blackbox", Client::Probe),
    ("uptime", Client::Probe),
    ("tokenmint", Client::Probe),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_a_word_in_its_user_agent() {
        let of = |user_agent: &str| Client::of(Some(user_agent.as_bytes()));
        assert_eq!(Client::of(None), Client::None);
        assert_eq!(of(""), Client::None);
        assert_eq!(of("SFDC-Callout/62.0"), Client::Salesforce);
        assert_eq!(of("Java/17.0.2"), Client::Java);
        assert_eq!(of("Mozilla/5.0 (X11; Linux x86_64)"), Client::Browser);
        assert_eq!(of("kube-probe/1.31"), Client::Probe);
        assert_eq!(of("curl/8.5"), Client::Tool);
        assert_eq!(of("\u{ff}?"), Client::Other);
        // A label's value is the enum's position too.
        assert!(Client::ALL.iter().enumerate().all(|(at, client)| *client as usize == at));
    }
}
