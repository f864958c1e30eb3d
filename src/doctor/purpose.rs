//! What a token is for, told from all of it: `aud`, `iss`, `sub`, the header and the other claims.

use super::known::{Known, Purpose, signs};
use super::token::{Parts, UnverifiedToken};
use crate::config::salesforce::{self, CONSUMER_KEY_PREFIX, HostKind};
use crate::config::{Hs256Kind, Kind};
use crate::json::Json;

impl Purpose {
    pub const ALL: &[Self] = &{
        let mut all = [Self::Identity; 2 + Hs256Kind::ALL.len()];
        all[1] = Self::Assertion;
        let mut at = 0;
        while at < Hs256Kind::ALL.len() {
            all[2 + at] = Self::Hs256(Hs256Kind::ALL[at]);
            at += 1;
        }
        all
    };

    /// As `--as` and JSON have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Assertion => "assertion",
            Self::Hs256(kind) => kind.facts().section,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "an identity token",
            Self::Assertion => "an assertion of the JWT bearer flow",
            Self::Hs256(kind) => kind.facts().token,
        }
    }

    /// Who takes such tokens.
    pub const fn relying_party(self) -> &'static str {
        match self {
            Self::Identity | Self::Assertion => "Salesforce",
            Self::Hs256(kind) => kind.facts().relying_party,
        }
    }
}

/// What a token was taken for, and why.
pub struct Taken {
    pub purpose: Purpose,
    pub why: String,
    /// What speaks as much for something else.
    pub doubt: Option<String>,
}

/// One clue of what a token is for. What only one kind has weighs more than what is usual for it.
struct Clue {
    of: Purpose,
    weight: u32,
    says: String,
    holds: bool,
}

/// Clues below this weight are no reason worth telling.
const TELLING: u32 = 2;

impl Known<'_> {
    /// What that token is for, as somebody said or as it looks. A text that isn't a JWT counts as an identity token.
    pub fn taken(&self, token: &UnverifiedToken) -> Taken {
        if let Some(purpose) = self.given.purpose {
            return Taken { purpose, why: "--as says so".to_owned(), doubt: None };
        }
        let Ok(parts) = &token.parts else {
            return Taken { purpose: Purpose::Identity, why: "it isn't a JWT".to_owned(), doubt: None };
        };
        let clues = self.clues(parts);
        let held = |purpose: Purpose| clues.iter().filter(move |clue| clue.holds && clue.of == purpose);
        let weight = |purpose| held(purpose).map(|clue| clue.weight).sum::<u32>();
        let why = |purpose| {
            let reasons: Vec<&str> =
                held(purpose).filter(|clue| clue.weight >= TELLING).map(|clue| &*clue.says).collect();
            if reasons.is_empty() { "nothing in it says otherwise".to_owned() } else { reasons.join(", ") }
        };
        let mut purpose = Purpose::Identity;
        for &other in Purpose::ALL {
            if weight(other) > weight(purpose) {
                purpose = other;
            }
        }
        let rival = Purpose::ALL.iter().copied().find(|other| {
            *other != purpose && weight(*other) + 1 >= weight(purpose) && weight(*other) > TELLING
        });
        let doubt = rival.map(|rival| format!("it may as well be {} ({})", rival.name(), why(rival)));
        Taken { purpose, why: why(purpose), doubt }
    }

    fn clues(&self, parts: &Parts) -> Vec<Clue> {
        let clue = |of, weight, says: &str, holds| Clue { of, weight, says: says.to_owned(), holds };
        let text = |name: &str| parts.claim(name).unwrap_or_default().trim();
        let (iss, sub) = (text("iss"), text("sub"));
        let consumer = |text: &str| {
            text.starts_with(CONSUMER_KEY_PREFIX)
                || self.configured.oauth().any(|profile| profile.consumer_key == text)
        };
        let audiences: Vec<&str> = match parts.claim_value("aud") {
            Some(Json::String(aud)) => vec![aud.as_str()],
            Some(Json::Array(items)) => items
                .iter()
                .filter_map(|item| match item {
                    Json::String(aud) => Some(aud.as_str()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        let hosts: Vec<HostKind> =
            audiences.iter().filter_map(|aud| salesforce::audience(aud).0).map(|host| host.kind).collect();
        let to_login = hosts.iter().any(|kind| matches!(kind, HostKind::Login | HostKind::Test))
            || audiences.iter().any(|aud| aud.contains(salesforce::TOKEN_PATH))
            || self.configured.oauth().any(|profile| {
                let host = profile.audience.url().host_str();
                host.is_some_and(|host| audiences.iter().any(|aud| aud.contains(host)))
            });
        let to_an_org = hosts.iter().any(|kind| {
            matches!(kind, HostKind::MyDomain | HostKind::Instance | HostKind::Pages | HostKind::Other)
        });
        let kid = parts.header("kid");
        let of_keyset = |kind| {
            let found = kid.and_then(|kid| self.configured.ring?.find(kid));
            found.is_some_and(|(keyset, _)| signs(keyset, kind))
        };
        let symmetric = parts.header("alg").is_some_and(|alg| alg.starts_with("HS"));
        let is_user =
            self.configured.oauth().any(|profile| profile.username == sub || profile.username == iss);
        let short = matches!((parts.time("iat"), parts.time("exp")), (Some(iat), Some(exp)) if exp.saturating_sub(iat) <= 300);
        let is_address = iss.contains("://") || iss.contains('.');
        let mut clues = vec![
            clue(Purpose::Identity, 5, "its `iss` is the keyset's issuer", self.issuers().contains(&iss)),
            clue(Purpose::Identity, 4, "its `aud` is a messaging host", hosts.contains(&HostKind::Messaging)),
            clue(
                Purpose::Identity,
                3,
                "its `kid` is in a keyset for identity tokens",
                of_keyset(Kind::Identity),
            ),
            clue(Purpose::Identity, 2, "its `iss` reads like an address", is_address && !consumer(iss)),
            clue(Purpose::Identity, 1, "it has a `kid`", kid.is_some()),
            clue(Purpose::Identity, 1, "its `iss` is no consumer key", !iss.is_empty() && !consumer(iss)),
            clue(Purpose::Identity, 1, "it is signed by a key", !symmetric),
            clue(Purpose::Assertion, 5, "its `iss` is a consumer key", consumer(iss)),
            clue(Purpose::Assertion, 5, "its `sub` is a consumer key", consumer(sub)),
            clue(Purpose::Assertion, 5, "its `aud` is where Salesforce logs users in", to_login),
            clue(Purpose::Assertion, 3, "it names the user of an [oauth] profile", is_user),
            clue(Purpose::Assertion, 3, "its `kid` is in a keyset for assertions", of_keyset(Kind::Oauth)),
            clue(Purpose::Assertion, 3, "it has `prn`, the old name of `sub`", parts.has_claim("prn")),
            clue(Purpose::Assertion, 2, "its `aud` is a host of an org", to_an_org && !to_login),
            clue(Purpose::Assertion, 1, "its `sub` reads like a user name", sub.contains('@')),
            clue(Purpose::Assertion, 1, "it has no `kid`", kid.is_none()),
            clue(Purpose::Assertion, 1, "it lives for minutes", short),
        ];
        clues.extend(Hs256Kind::ALL.iter().flat_map(|kind| {
            let (of, user) = (Purpose::Hs256(*kind), kind.facts().user_claim);
            let has_user = parts.has_claim(user) && (symmetric || kid.is_none());
            [
                clue(of, 4, &format!("it has `{user}`"), has_user),
                clue(of, 2, "it is made with a shared secret (HS256)", symmetric),
                clue(of, 2, "it has no `iss`", !parts.has_claim("iss")),
            ]
        }));
        clues
    }

    /// The tokens that are for one of these purposes.
    pub fn tokens_for(
        &self,
        purposes: &'static [Purpose],
    ) -> impl Iterator<Item = (&UnverifiedToken, &Parts, Purpose)> {
        self.jwts().filter_map(move |(token, parts)| {
            let purpose = self.taken(token).purpose;
            purposes.contains(&purpose).then_some((token, parts, purpose))
        })
    }

    /// The tokens of that kind.
    pub fn tokens_of(&self, kind: Hs256Kind) -> impl Iterator<Item = (&UnverifiedToken, &Parts, Purpose)> {
        self.tokens_for(Purpose::ALL).filter(move |(.., purpose)| *purpose == Purpose::Hs256(kind))
    }
}
