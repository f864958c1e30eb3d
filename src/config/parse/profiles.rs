//! `[identity.NAME]`, `[oauth.NAME]`, `[bundles.NAME]`, and the profiles of HS256 tokens: `[intercom.NAME]`.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::super::salesforce::{self, Judgement};
use super::super::section::{Section, count, duration, flag, text};
use super::super::source::{Code, Node};
use super::super::{
    Algorithm, Bundle, Hs256Kind, HttpsUrl, Identity, Issuer, Kind, Messaging, Name, Oauth, OrgId,
    ProfileName, REGISTERED_CLAIMS, SubjectPattern, plain_text,
};
use super::{Existing, HOUR, Wrong, within};

/// As long as the output of HMAC-SHA256 (RFC 7518, section 3.2).
const SHORTEST_SECRET: usize = 32;

pub(super) fn identity_profile(name: &Name, section: &Section<'_>, exist: &Existing) -> Option<Identity> {
    let keyset = keyset_of(section, exist);
    let issuer = section.required(
        "issuer",
        |node| Issuer::parse(&text(node)?),
        "the JSON Web Key Issuer of the keyset in Salesforce Setup, byte for byte",
    );
    let audience = section.optional("audience", |node| {
        let audience = text(node)?;
        plain_text(&audience, 2048).map(|()| audience.to_string())
    });
    let algorithm = section.optional("algorithm", |node| match text(node)?.as_str() {
        "RS256" => Ok(Algorithm::Rs256),
        "RS512" => Ok(Algorithm::Rs512),
        _ => Err(r#"must be "RS256" or "RS512": Salesforce takes no other"#.to_owned()),
    });
    let lives = lives(section, |node| within(duration(node)?, 60, 86_400, "60s", "24h"));
    let claims = claims(section, &[]);
    let subjects = subjects(section);
    let messaging = section.section("messaging").map(|messaging| self::messaging(&messaging).ok_or(Wrong));

    if issuer.as_ref().is_some_and(|issuer| issuer.as_str().ends_with('/')) {
        let message =
            "ends with a slash; Salesforce compares it byte for byte with the keyset's issuer in Setup";
        section.warn(Code::IssuerSlash, "issuer", message);
    }
    let (ttl, max_ttl) = lives?;
    Some(Identity {
        name: name.clone(),
        keyset: keyset?,
        issuer: issuer?,
        audience,
        algorithm: algorithm.unwrap_or(Algorithm::Rs256),
        ttl,
        max_ttl,
        claims,
        subjects,
        messaging: messaging.transpose().ok()?,
    })
}

fn keyset_of(section: &Section<'_>, exist: &Existing) -> Option<Name> {
    let what = "the name of the keyset that signs, as in [keysets.NAME]";
    let keyset = section.required("keyset", |node| Name::parse(&text(node)?), what)?;
    if !exist.has("keysets", keyset.as_str()) {
        section.problem("keyset", format!("names no keyset; defined: {}", exist.list("keysets")));
        return None;
    }
    Some(keyset)
}

/// `ttl` and `max_ttl`: an hour, and never one above the other.
fn lives(
    section: &Section<'_>,
    parse: fn(&Node) -> Result<Duration, String>,
) -> Option<(Duration, Duration)> {
    let ttl = section.optional("ttl", parse);
    let max_ttl = section.optional("max_ttl", parse);
    if (section.has("ttl") && ttl.is_none()) || (section.has("max_ttl") && max_ttl.is_none()) {
        return None;
    }
    let (ttl, max_ttl) = match (ttl, max_ttl) {
        (None, None) => (HOUR, HOUR),
        (Some(ttl), None) => (ttl, ttl),
        (None, Some(max_ttl)) => (HOUR.min(max_ttl), max_ttl),
        (Some(ttl), Some(max_ttl)) => (ttl, max_ttl),
    };
    if ttl > max_ttl {
        section.problem("ttl", "is longer than `max_ttl`");
        return None;
    }
    Some((ttl, max_ttl))
}

/// The extra claims that callers may set: none that the token's own rules set.
fn claims(section: &Section<'_>, also_reserved: &[&str]) -> Vec<String> {
    let names = section.list("claims", |name| plain_text(name, 64).map(|()| name.to_owned()));
    for name in &names {
        let registered = |reserved: &&str| reserved.eq_ignore_ascii_case(name);
        if REGISTERED_CLAIMS.iter().chain(also_reserved).any(registered) {
            section.problem("claims", format!("`{name}` is set by tokenmint and never by a caller"));
        }
    }
    names
}

pub(super) fn subjects(section: &Section<'_>) -> Option<SubjectPattern> {
    section.optional("subjects", |node| SubjectPattern::parse(&text(node)?))
}

fn messaging(section: &Section<'_>) -> Option<Messaging> {
    let scrt_url = section.required(
        "scrt_url",
        |node| {
            let url = HttpsUrl::parse(&text(node)?)?;
            if url.is_origin() { Ok(url) } else { Err("must have no path".to_owned()) }
        },
        "https://….my.salesforce-scrt.com, from the deployment's code snippet",
    );
    if let Some(url) = &scrt_url {
        warn_of(section, Code::ScrtUrl, "scrt_url", &salesforce::scrt_url(url.url()).1);
    }
    let org_id = section.required("org_id", |node| OrgId::parse(&text(node)?), "Setup > Company Information");
    let es_developer_name = section.required(
        "es_developer_name",
        |node| {
            let name = text(node)?;
            let mut bytes = name.bytes();
            let fits = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
                && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if fits {
                Ok(name.to_string())
            } else {
                Err("must be an API name: a letter, then letters, digits and `_`".to_owned())
            }
        },
        "the API name of the Embedded Service deployment",
    );
    let requests_per_minute = section.optional("requests_per_minute", |node| match count(node)? {
        requests @ 1..=200 => Ok(requests),
        _ => Err("must be at most 200, Salesforce's limit for a whole org".to_owned()),
    });
    Some(Messaging {
        scrt_url: scrt_url?,
        org_id: org_id?,
        es_developer_name: es_developer_name?,
        requests_per_minute: requests_per_minute.unwrap_or(150),
    })
}

pub(super) fn oauth_profile(name: &Name, section: &Section<'_>, exist: &Existing) -> Option<Oauth> {
    let keyset = keyset_of(section, exist);
    let plain = |node: &Node| {
        let value = text(node)?;
        plain_text(&value, 512).map(|()| value.to_string())
    };
    let what = "the Consumer Key of the External Client App";
    let consumer_key = section.required("consumer_key", plain, what);
    let username =
        section.required("username", plain, "the Salesforce user name to log in as, not an e-mail address");
    let audience = section.required(
        "audience",
        |node| HttpsUrl::parse(&text(node)?),
        "https://login.salesforce.com, https://test.salesforce.com or the org's My Domain URL",
    );
    let token_url = section.optional("token_url", |node| HttpsUrl::parse(&text(node)?));
    let assertion_ttl =
        section.optional("assertion_ttl", |node| within(duration(node)?, 30, 300, "30s", "5m"));
    let access_token_ttl =
        section.optional("access_token_ttl", |node| within(duration(node)?, 60, 86_400, "60s", "24h"));
    let logins_per_hour = section.optional("logins_per_hour", |node| match count(node)? {
        logins @ 1..=3600 => Ok(logins),
        _ => Err("must be at most 3600, Salesforce's limit for a user".to_owned()),
    });

    if let Some(fault) = consumer_key.as_deref().and_then(salesforce::consumer_key_fault) {
        section.warn(Code::ConsumerKey, "consumer_key", format!("is no consumer key: {fault}"));
    }
    let audience = audience?;
    warn_of(section, Code::Audience, "audience", &salesforce::audience(audience.as_str()).1);
    let token_url = match (token_url, section.has("token_url")) {
        (Some(url), _) => url,
        (None, true) => return None,
        (None, false) => audience
            .with_path("/services/oauth2/token")
            .map_err(|message| section.problem("token_url", message))
            .ok()?,
    };
    if section.has("token_url") {
        warn_of(section, Code::TokenUrl, "token_url", &salesforce::token_url(token_url.url()).1);
    }
    Some(Oauth {
        name: name.clone(),
        keyset: keyset?,
        consumer_key: consumer_key?,
        username: username?,
        audience,
        token_url,
        assertion_ttl: assertion_ttl.unwrap_or(Duration::from_secs(150)),
        access_token_ttl: access_token_ttl.unwrap_or(Duration::from_mins(55)),
        logins_per_hour: logins_per_hour.unwrap_or(360),
    })
}

/// Warns of an address that Salesforce refuses.
fn warn_of(section: &Section<'_>, code: Code, name: &str, judged: &Judgement) {
    if !judged.faults.is_empty() {
        section.warn(code, name, format!("can't be right: {}", judged.faults.join("; ")));
    }
}

/// How to mint HS256 tokens of one kind. It stands beside its reader, so that a setting that one kind has is added here alone.
pub struct Hs256 {
    pub secret: SecretString,
    pub ttl: Duration,
    pub max_ttl: Duration,
    pub claims: Vec<String>,
}

pub(super) fn hs256_profile(kind: Hs256Kind, section: &Section<'_>) -> Option<Hs256> {
    let facts = kind.facts();
    let secret = section.secret("secret", "secret_file");
    let allow_short_secret = section.optional("allow_short_secret", flag);
    let lives = lives(section, |node| within(duration(node)?, 60, 30 * 86_400, "60s", "30 days"));
    let claims = claims(section, &[facts.user_claim]);
    if !section.has("secret") && !section.has("secret_file") {
        section.problem("secret", format!("is missing: the {} ({})", facts.secret, facts.secret_page));
    }
    let is_short = secret.as_ref().is_some_and(|secret| secret.expose_secret().len() < SHORTEST_SECRET);
    if is_short && !allow_short_secret.unwrap_or(false) {
        let message = format!(
            "is shorter than 32 bytes, the least for HS256 (RFC 7518, section 3.2); is it the {}? If {} gave you such a short \
             one, set `allow_short_secret = true`",
            facts.secret, facts.relying_party
        );
        section.problem(if section.has("secret") { "secret" } else { "secret_file" }, message);
        return None;
    }
    let (ttl, max_ttl) = lives?;
    Some(Hs256 { secret: secret?, ttl, max_ttl, claims })
}

pub(super) fn bundle(name: &Name, section: &Section<'_>, exist: &Existing) -> Option<Bundle> {
    let mut entries = BTreeMap::new();
    let mut complete = true;
    for (entry, node) in section.entries() {
        let parsed = Name::parse(entry).and_then(|entry| {
            let profile = ProfileName::parse(&text(node)?)?;
            if !profile.kind.is_bundled() {
                let kinds = Kind::ALL.iter().copied().filter(|kind| kind.is_bundled());
                return Err(format!("must be an {}", Kind::forms(kinds)));
            }
            known(&profile, exist).map(|()| (entry, profile))
        });
        match parsed {
            Ok((entry, profile)) => {
                entries.insert(entry, profile);
            }
            Err(message) => {
                section.problem(entry, message);
                complete = false;
            }
        }
    }
    if entries.is_empty() && complete {
        section.findings().problem(
            section.field("").trim_end_matches('.'),
            &section.origin_of(""),
            r#"is empty: name what a page needs, as salesforce_identity_token = "identity.web""#,
        );
        complete = false;
    }
    complete.then(|| Bundle { name: name.clone(), entries })
}

pub(super) fn known(profile: &ProfileName, exist: &Existing) -> Result<(), String> {
    let section = profile.kind.section();
    if exist.has(section, profile.name.as_str()) {
        Ok(())
    } else {
        Err(format!("`{profile}` isn't defined; defined: {}", exist.list(section)))
    }
}
