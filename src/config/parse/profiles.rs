//! Parses `[identity.NAME]`, `[oauth.NAME]` and `[bundles.NAME]`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::salesforce::{self, UrlIssues};
use super::super::section::Section;
use super::super::source::{ConfigNode, WarningCode};
use super::super::values::parse_string;
use super::super::{
    Algorithm, BundleConfig, HttpsOrLoopbackUrl, IdentityConfig, Issuer, MessagingConfig, Name, OauthConfig,
    OrgId, ProfileKind, ProfileName, REGISTERED_CLAIMS, SubjectPattern, validate_text,
};
use super::{DefinedNames, HOUR, InvalidSection};

/// The longest name of a claim, in characters.
pub(super) const LONGEST_CLAIM_NAME: usize = 64;

pub(super) fn parse_identity(
    name: &Name,
    section: &Section<'_>,
    defined: &DefinedNames,
) -> Option<IdentityConfig> {
    let keyset = parse_keyset_reference(section, defined);
    let issuer = section.required(
        "issuer",
        |node| Issuer::parse(&parse_string(node)?),
        "the JSON Web Key Issuer of the keyset in Salesforce Setup, byte for byte",
    );
    let audience = section.optional("audience", |node| {
        let audience = parse_string(node)?;
        validate_text(&audience, 2048).map(|()| audience.to_string())
    });
    let algorithm = match section.choice_or_default("algorithm", ": Salesforce accepts no other") {
        "RS512" => Algorithm::Rs512,
        _ => Algorithm::Rs256,
    };
    let ttls = parse_ttls(section);
    let claims = parse_claims(section, &[]);
    let subjects = parse_subjects(section);
    let messaging =
        section.section("messaging").map(|messaging| parse_messaging(&messaging).ok_or(InvalidSection));

    if issuer.as_ref().is_some_and(|issuer| issuer.as_str().ends_with('/')) {
        let message =
            "ends with a slash; Salesforce compares it byte for byte with the keyset's issuer in Setup";
        section.warn(WarningCode::IssuerSlash, "issuer", message);
    }
    let (ttl, max_ttl) = ttls?;
    Some(IdentityConfig {
        name: name.clone(),
        keyset: keyset?,
        issuer: issuer?,
        audience,
        algorithm,
        ttl,
        max_ttl,
        claims,
        subjects,
        messaging: messaging.transpose().ok()?,
    })
}

fn parse_keyset_reference(section: &Section<'_>, defined: &DefinedNames) -> Option<Name> {
    let what = "the name of the keyset that signs, as in [keysets.NAME]";
    let keyset = section.required("keyset", |node| Name::parse(&parse_string(node)?), what)?;
    if !defined.has("keysets", keyset.as_str()) {
        section.problem("keyset", format!("names no keyset; defined: {}", defined.list("keysets")));
        return None;
    }
    Some(keyset)
}

/// Parses `ttl` and `max_ttl`. The default of `ttl` is an hour, or `max_ttl` if that is less. The default of `max_ttl` is `ttl`.
/// `ttl` must not exceed `max_ttl`.
pub(super) fn parse_ttls(section: &Section<'_>) -> Option<(Duration, Duration)> {
    let ttl = section.duration("ttl");
    let max_ttl = section.duration("max_ttl");
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

/// Parses the extra claims that callers may set. Claims that the token's own rules set are not allowed.
pub(super) fn parse_claims(section: &Section<'_>, also_reserved: &[&str]) -> Vec<String> {
    let names =
        section.list("claims", |name| validate_text(name, LONGEST_CLAIM_NAME).map(|()| name.to_owned()));
    for name in &names {
        // `ſ` and `ı` are an `s` and an `i` to readers that ignore case.
        let registered = |reserved: &&str| reserved.to_uppercase() == name.to_uppercase();
        if REGISTERED_CLAIMS.iter().chain(also_reserved).any(registered) {
            section.problem("claims", format!("`{name}` is set by tokenmint and never by a caller"));
        }
        // Fullwidth letters, for example, which some readers normalize to ASCII.
        if name.chars().any(|c| ('\u{ff01}'..='\u{ff5e}').contains(&c)) {
            section.problem("claims", format!("`{name}` has fullwidth characters: write the usual ones"));
        }
    }
    names
}

pub(super) fn parse_subjects(section: &Section<'_>) -> Option<SubjectPattern> {
    section.optional("subjects", |node| SubjectPattern::parse(&parse_string(node)?))
}

fn parse_messaging(section: &Section<'_>) -> Option<MessagingConfig> {
    let scrt_url = section.required(
        "scrt_url",
        |node| {
            let url = HttpsOrLoopbackUrl::parse(&parse_string(node)?)?;
            if url.is_origin() { Ok(url) } else { Err("must have no path".to_owned()) }
        },
        "https://….my.salesforce-scrt.com, from the deployment's code snippet",
    );
    if let Some(url) = &scrt_url {
        warn_url_errors(section, WarningCode::ScrtUrl, "scrt_url", &salesforce::check_scrt_url(url.url()).1);
    }
    let org_id =
        section.required("org_id", |node| OrgId::parse(&parse_string(node)?), "Setup > Company Information");
    let es_developer_name = section.required(
        "es_developer_name",
        |node| {
            let name = parse_string(node)?;
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
    let requests_per_minute = section.count_or_default("requests_per_minute");
    Some(MessagingConfig {
        scrt_url: scrt_url?,
        org_id: org_id?,
        es_developer_name: es_developer_name?,
        requests_per_minute,
    })
}

pub(super) fn parse_oauth(name: &Name, section: &Section<'_>, defined: &DefinedNames) -> Option<OauthConfig> {
    let keyset = parse_keyset_reference(section, defined);
    let plain = |node: &ConfigNode| {
        let value = parse_string(node)?;
        validate_text(&value, 512).map(|()| value.to_string())
    };
    let what = "the Consumer Key of the External Client App";
    let consumer_key = section.required("consumer_key", plain, what);
    let username =
        section.required("username", plain, "the Salesforce user name to log in as, not an e-mail address");
    let audience = section.required(
        "audience",
        |node| HttpsOrLoopbackUrl::parse(&parse_string(node)?),
        "https://login.salesforce.com, https://test.salesforce.com or the org's My Domain URL",
    );
    let token_url = section.optional("token_url", |node| HttpsOrLoopbackUrl::parse(&parse_string(node)?));
    let assertion_ttl = section.duration_or_default("assertion_ttl");
    let access_token_ttl = section.duration_or_default("access_token_ttl");
    let logins_per_hour = section.count_or_default("logins_per_hour");
    let check_session = section.duration("check_session");

    if let Some(fault) = consumer_key.as_deref().and_then(salesforce::consumer_key_error) {
        section.warn(WarningCode::ConsumerKey, "consumer_key", format!("isn't a consumer key: {fault}"));
    }
    let audience = audience?;
    warn_url_errors(
        section,
        WarningCode::Audience,
        "audience",
        &salesforce::check_audience(audience.as_str()).1,
    );
    let token_url = match (token_url, section.has("token_url")) {
        (Some(url), _) => url,
        (None, true) => return None,
        (None, false) => audience
            .with_path("/services/oauth2/token")
            .map_err(|message| section.problem("token_url", message))
            .ok()?,
    };
    if section.has("token_url") {
        warn_url_errors(
            section,
            WarningCode::TokenUrl,
            "token_url",
            &salesforce::check_token_url(token_url.url()).1,
        );
    }
    Some(OauthConfig {
        name: name.clone(),
        keyset: keyset?,
        consumer_key: consumer_key?,
        username: username?,
        audience,
        token_url,
        assertion_ttl,
        access_token_ttl,
        logins_per_hour,
        check_session,
    })
}

/// Warns about an address that can't be right. Mere doubts are left to the doctor.
fn warn_url_errors(section: &Section<'_>, code: WarningCode, name: &str, issues: &UrlIssues) {
    if !issues.errors.is_empty() {
        section.warn(code, name, format!("can't be right: {}", issues.errors.join("; ")));
    }
}

pub(super) fn parse_bundle(
    name: &Name,
    section: &Section<'_>,
    defined: &DefinedNames,
) -> Option<BundleConfig> {
    let mut entries = BTreeMap::new();
    let mut complete = true;
    for (entry, node) in section.entries() {
        let parsed = Name::parse(entry).and_then(|entry| {
            let profile = ProfileName::parse(&parse_string(node)?)?;
            if !profile.kind.is_bundled() {
                let kinds = ProfileKind::ALL.iter().copied().filter(|kind| kind.is_bundled());
                return Err(format!("must be an {}", ProfileKind::forms(kinds)));
            }
            check_defined(&profile, defined).map(|()| (entry, profile))
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
        section.diagnostics().problem(
            section.field("").trim_end_matches('.'),
            &section.origin_of(""),
            r#"is empty: add what a page needs, for example salesforce_identity_token = "identity.web""#,
        );
        complete = false;
    }
    complete.then(|| BundleConfig { name: name.clone(), entries })
}

pub(super) fn check_defined(profile: &ProfileName, defined: &DefinedNames) -> Result<(), String> {
    let section = profile.kind.section();
    if defined.has(section, profile.bare_name.as_str()) {
        Ok(())
    } else {
        Err(format!("`{profile}` isn't defined; defined: {}", defined.list(section)))
    }
}
