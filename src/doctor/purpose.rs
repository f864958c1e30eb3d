//! Infers the purpose of a token from weighted clues: `aud`, `iss`, `sub`, the header and the other claims.

use super::formatting::lookalike_difference;
use super::input::{CheckInput, Purpose, is_used_by};
use super::token::{JwtParts, UnverifiedToken};
use crate::config::salesforce::{self, CONSUMER_KEY_PREFIX, HostKind};
use crate::config::{Hs256Config, Hs256Kind, IssuerConfig, Name, ProfileKind};

use crate::json::Json;

impl Purpose {
    pub(crate) const ALL: &[Self] = &{
        let mut all = [Self::Identity; 3 + Hs256Kind::ALL.len()];
        all[1] = Self::Assertion;
        all[2 + Hs256Kind::ALL.len()] = Self::Incoming;
        let mut at = 0;
        while at < Hs256Kind::ALL.len() {
            all[2 + at] = Self::Hs256(Hs256Kind::ALL[at]);
            at += 1;
        }
        all
    };

    /// The word in `--as` and in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Assertion => "assertion",
            Self::Hs256(kind) => kind.facts().section,
            Self::Incoming => "incoming",
        }
    }

    pub(crate) const fn description(self) -> &'static str {
        match self {
            Self::Identity => "an identity token",
            Self::Assertion => "an assertion of the JWT bearer flow",
            Self::Hs256(kind) => kind.facts().token,
            Self::Incoming => "a JWT of another issuer that this service receives",
        }
    }

    /// The party that verifies such tokens.
    pub(crate) const fn relying_party(self) -> &'static str {
        match self {
            Self::Identity | Self::Assertion => "Salesforce",
            Self::Hs256(kind) => kind.facts().relying_party,
            Self::Incoming => "tokenmint",
        }
    }
}

/// The inferred purpose of a token, and the reason.
pub(crate) struct InferredPurpose {
    pub(crate) purpose: Purpose,
    pub(crate) why: String,
    /// Names another purpose that is about as likely.
    pub(crate) ambiguity: Option<String>,
}

/// One clue for a purpose. A feature that only one purpose has weighs more than a usual feature.
struct Clue {
    purpose: Purpose,
    weight: u32,
    description: String,
    is_met: bool,
}

/// Clues below this weight aren't reported as reasons. A rival purpose must weigh more.
const MIN_REPORTED_WEIGHT: u32 = 2;

impl CheckInput<'_> {
    /// The purpose of `token`: from `--as`, or inferred from its clues. A text that isn't a JWT counts as an identity token.
    pub(crate) fn infer_purpose(&self, token: &UnverifiedToken) -> InferredPurpose {
        if let Some(purpose) = self.given.purpose {
            return InferredPurpose { purpose, why: "--as says so".to_owned(), ambiguity: None };
        }
        let Ok(parts) = &token.parts else {
            return InferredPurpose {
                purpose: Purpose::Identity,
                why: "it isn't a JWT".to_owned(),
                ambiguity: None,
            };
        };
        let clues = self.clues(parts);
        let held = |purpose: Purpose| clues.iter().filter(move |clue| clue.is_met && clue.purpose == purpose);
        let weight = |purpose| held(purpose).map(|clue| clue.weight).sum::<u32>();
        let why = |purpose| {
            let reasons: Vec<&str> = held(purpose)
                .filter(|clue| clue.weight >= MIN_REPORTED_WEIGHT)
                .map(|clue| &*clue.description)
                .collect();
            if reasons.is_empty() { "nothing in it says otherwise".to_owned() } else { reasons.join(", ") }
        };
        let mut purpose = Purpose::Identity;
        for &other in Purpose::ALL {
            if weight(other) > weight(purpose) {
                purpose = other;
            }
        }
        let rival = Purpose::ALL.iter().copied().find(|other| {
            *other != purpose && weight(*other) + 1 >= weight(purpose) && weight(*other) > MIN_REPORTED_WEIGHT
        });
        let ambiguity =
            rival.map(|rival| format!("it may as well be {} ({})", rival.description(), why(rival)));
        InferredPurpose { purpose, why: why(purpose), ambiguity }
    }

    fn clues(&self, parts: &JwtParts) -> Vec<Clue> {
        let clue = |purpose, weight, description: &str, is_met| Clue {
            purpose,
            weight,
            description: description.to_owned(),
            is_met,
        };
        let text = |name: &str| parts.claim(name).unwrap_or_default().trim();
        let (iss, sub) = (text("iss"), text("sub"));
        let is_consumer_key = |text: &str| {
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
        let hosts: Vec<HostKind> = audiences
            .iter()
            .filter_map(|aud| salesforce::check_audience(aud).0)
            .map(|host| host.kind)
            .collect();
        let to_login = hosts.iter().any(|kind| matches!(kind, HostKind::Login | HostKind::Test))
            || audiences.iter().any(|aud| aud.contains(salesforce::TOKEN_ENDPOINT_PATH))
            || self.configured.oauth().any(|profile| {
                let host = profile.audience.url().host_str();
                host.is_some_and(|host| audiences.iter().any(|aud| aud.contains(host)))
            });
        let to_an_org = hosts.iter().any(|kind| {
            matches!(kind, HostKind::MyDomain | HostKind::Instance | HostKind::UserPages | HostKind::Other)
        });
        let kid = parts.header("kid");
        let of_keyset = |kind| {
            let found = kid.and_then(|kid| self.configured.ring?.find(kid));
            found.is_some_and(|(keyset, _)| is_used_by(keyset, kind))
        };
        let symmetric = parts.header("alg").is_some_and(|alg| alg.starts_with("HS"));
        let is_user =
            self.configured.oauth().any(|profile| profile.username == sub || profile.username == iss);
        let is_short_lived = matches!((parts.numeric_date("iat"), parts.numeric_date("exp")), (Some(iat), Some(exp)) if exp.saturating_sub(iat) <= 300);
        let is_address = iss.contains("://") || iss.contains('.');
        let mut clues = vec![
            clue(
                Purpose::Identity,
                5,
                "its `iss` is the keyset's issuer",
                self.expected_issuers().contains(&iss),
            ),
            clue(Purpose::Identity, 4, "its `aud` is a messaging host", hosts.contains(&HostKind::Messaging)),
            clue(
                Purpose::Identity,
                3,
                "its `kid` is in a keyset for identity tokens",
                of_keyset(ProfileKind::Identity),
            ),
            clue(
                Purpose::Identity,
                2,
                "its `iss` reads like an address",
                is_address && !is_consumer_key(iss),
            ),
            clue(Purpose::Identity, 1, "it has a `kid`", kid.is_some()),
            clue(
                Purpose::Identity,
                1,
                "its `iss` is no consumer key",
                !iss.is_empty() && !is_consumer_key(iss),
            ),
            clue(Purpose::Identity, 1, "it is signed by a key", !symmetric),
            clue(Purpose::Assertion, 5, "its `iss` is a consumer key", is_consumer_key(iss)),
            clue(Purpose::Assertion, 5, "its `sub` is a consumer key", is_consumer_key(sub)),
            clue(Purpose::Assertion, 5, "its `aud` is where Salesforce logs users in", to_login),
            clue(Purpose::Assertion, 3, "it names the user of an [oauth] profile", is_user),
            clue(
                Purpose::Assertion,
                3,
                "its `kid` is in a keyset for assertions",
                of_keyset(ProfileKind::Oauth),
            ),
            clue(Purpose::Assertion, 3, "it has `prn`, the old name of `sub`", parts.has_claim("prn")),
            clue(Purpose::Assertion, 2, "its `aud` is a host of an org", to_an_org && !to_login),
            clue(Purpose::Assertion, 1, "its `sub` reads like a user name", sub.contains('@')),
            clue(Purpose::Assertion, 1, "it has no `kid`", kid.is_none()),
            clue(Purpose::Assertion, 1, "it lives for minutes", is_short_lived),
        ];
        let of_issuer = |field: fn(&IssuerConfig, &str) -> bool, text: &str| {
            self.configured.issuers().any(|issuer| field(issuer, text))
        };
        let own_issuers = self.expected_issuers();
        let is_own = |iss: &str| {
            is_consumer_key(iss)
                || own_issuers.iter().any(|own| *own == iss || lookalike_difference(iss, own).is_some())
        };
        let has_user = Hs256Kind::ALL.iter().any(|kind| {
            let has_claim = kind.facts().user_claim.is_some_and(|claim| parts.has_claim(claim));
            has_claim || self.makers(*kind, parts).next().is_some()
        });
        let is_foreign = self.configured.issuers().next().is_some()
            && self.given.issuer.is_none()
            && !iss.is_empty()
            && !is_own(iss)
            && !of_keyset(ProfileKind::Identity)
            && !of_keyset(ProfileKind::Oauth)
            && !hosts.contains(&HostKind::Messaging)
            && !to_login
            && !(symmetric && has_user);
        clues.extend([
            clue(
                Purpose::Incoming,
                8,
                "its `iss` is that of an [issuers.NAME]",
                of_issuer(|issuer, iss| issuer.issuer.as_str() == iss, iss),
            ),
            clue(
                Purpose::Incoming,
                3,
                "its `aud` is an `audience` of an [issuers.NAME]",
                audiences.iter().any(|aud| {
                    of_issuer(|issuer, aud| issuer.audience.iter().any(|audience| audience == aud), aud)
                }),
            ),
            clue(Purpose::Incoming, 8, "its `iss` is none of the configured profiles'", is_foreign),
        ]);
        let is_made = |kind: Hs256Kind| self.makers(kind, parts).next().is_some();
        let makers_known = Hs256Kind::ALL.iter().any(|kind| is_made(*kind));
        clues.extend(Hs256Kind::ALL.iter().flat_map(|kind| {
            let purpose = Purpose::Hs256(*kind);
            let (users, is_of_one_claim) =
                (self.user_claims(*kind, parts), kind.facts().user_claim.is_some());
            let user = users.iter().find(|claim| parts.has_claim(claim));
            let is_made = is_made(*kind);
            // A token that a secret of another kind made is none of this kind.
            let is_possible = !users.is_empty() && (is_made || !makers_known);
            let has_user = user.is_some() && (symmetric || kid.is_none() && is_of_one_claim);
            [
                clue(
                    purpose,
                    4,
                    &format!("it has `{}`", user.copied().unwrap_or_default()),
                    has_user && is_possible,
                ),
                clue(purpose, 2, "it is made with a shared secret (HS256)", symmetric && is_possible),
                clue(purpose, 2, "it has no `iss`", !parts.has_claim("iss") && is_possible),
                clue(purpose, 5, "a secret of the configuration made it", symmetric && is_made),
            ]
        }));
        clues
    }

    /// The supplied JWTs with one of `purposes`.
    pub(crate) fn tokens_for(
        &self,
        purposes: &'static [Purpose],
    ) -> impl Iterator<Item = (&UnverifiedToken, &JwtParts, Purpose)> {
        self.jwts().filter_map(move |(token, parts)| {
            let purpose = self.infer_purpose(token).purpose;
            purposes.contains(&purpose).then_some((token, parts, purpose))
        })
    }

    /// The configured profiles of `kind` whose secret made the token.
    pub(crate) fn makers(
        &self,
        kind: Hs256Kind,
        parts: &JwtParts,
    ) -> impl Iterator<Item = (&Name, &Hs256Config)> {
        self.configured.hs256(kind).filter(|(_, profile)| parts.is_signed_with_secret(&profile.secret))
    }

    /// The claims that can name the token's user. If `kind` has no claim of its own: the `subject_claim` of each profile whose secret
    /// made the token, or of every profile if none did.
    pub(crate) fn user_claims(&self, kind: Hs256Kind, parts: &JwtParts) -> Vec<&str> {
        if let Some(claim) = kind.facts().user_claim {
            return vec![claim];
        }
        let made: Vec<&str> =
            self.makers(kind, parts).map(|(_, profile)| profile.subject_claim.as_str()).collect();
        let of_all = || self.configured.hs256(kind).map(|(_, profile)| profile.subject_claim.as_str());
        let mut claims = if made.is_empty() { of_all().collect() } else { made };
        claims.sort_unstable();
        claims.dedup();
        claims
    }

    /// The supplied JWTs of `kind`.
    pub(crate) fn tokens_of(
        &self,
        kind: Hs256Kind,
    ) -> impl Iterator<Item = (&UnverifiedToken, &JwtParts, Purpose)> {
        self.tokens_for(Purpose::ALL).filter(move |(.., purpose)| *purpose == Purpose::Hs256(kind))
    }
}
