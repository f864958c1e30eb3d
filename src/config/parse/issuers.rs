//! Parses `[issuers.NAME]`, and the settings of callers that refer to it.

use std::collections::BTreeMap;

use jsonwebtoken::Algorithm;
use secrecy::ExposeSecret as _;

use super::super::issuers::parse_algorithm;
use super::super::section::Section;
use super::super::source::WarningCode;
use super::super::values::{parse_bool, parse_string};
use super::super::{
    CallerConfig, CallerJwtConfig, HttpsOrLoopbackUrl, Issuer, IssuerConfig, IssuerKeySource, KeyAddress,
    KeyFetchConfig, Name, SubjectTokenConfig, validate_text,
};
use super::DefinedNames;
use super::hs256::MIN_HS256_SECRET_BYTES;

const LONGEST_AUDIENCE: usize = 2048;
const LONGEST_CLAIM_NAME: usize = 255;
const LONGEST_CLAIM_VALUE: usize = 2048;

pub(super) fn parse_issuer(name: &Name, section: &Section<'_>) -> Option<IssuerConfig> {
    let issuer = section.required(
        "issuer",
        |node| Issuer::parse(&parse_string(node)?),
        "the claim `iss` of its tokens",
    );
    let audience =
        section.set("audience", |text| validate_text(text, LONGEST_AUDIENCE).map(|()| text.to_owned()));
    if !section.has("audience") || section.is_empty_list("audience") {
        let message = "is missing: name what the tokens must be issued for (`aud`), for example [\"tokenmint\"]. Without it, a \
                       token for any other service would be accepted";
        section.problem("audience", message);
    }
    let leeway = section.duration_or_default("leeway");
    let max_age = section.duration("max_age");
    let algorithms = section.set("algorithms", parse_algorithm);
    let keys = parse_key_source(section, issuer.as_ref());

    let is_secret = section.has("secret_file");
    let is_hmac = |algorithm: &Algorithm| *algorithm == Algorithm::HS256;
    if algorithms.iter().any(|algorithm| is_hmac(algorithm) != is_secret) {
        let message = if is_secret {
            "must be [\"HS256\"] with `secret_file`, or left out"
        } else {
            "must not hold HS256, whose key is a secret: give the secret as `secret_file`"
        };
        section.problem("algorithms", message);
    }
    if section.is_empty_list("algorithms") {
        section
            .problem("algorithms", "is empty, so every token would be refused: leave it out for the default");
    }
    let algorithms = match (algorithms.is_empty(), is_secret) {
        (false, _) => algorithms,
        (true, true) => vec![Algorithm::HS256],
        (true, false) => vec![Algorithm::RS256, Algorithm::ES256],
    };
    Some(IssuerConfig {
        name: name.clone(),
        issuer: issuer?,
        audience,
        keys: keys?,
        algorithms,
        leeway,
        max_age,
    })
}

/// Reads where the keys of an issuer come from. `None` if a problem was reported.
fn parse_key_source(section: &Section<'_>, issuer: Option<&Issuer>) -> Option<IssuerKeySource> {
    let parse_url = |text: &str| HttpsOrLoopbackUrl::parse(text);
    let jwks_url = section.optional("jwks_url", |node| parse_url(&parse_string(node)?));
    let discovery = section.optional("discovery", parse_bool).unwrap_or(false);
    let jwks_file = section.path("jwks_file");
    let secret = section.secret_from_file("secret_file");
    let ca_file = section.path("ca_file");
    let bearer_token_file = section.path("bearer_token_file");

    let given = [section.has("jwks_url"), discovery, section.has("jwks_file"), section.has("secret_file")];
    if given.into_iter().filter(|is_given| *is_given).count() != 1 {
        let message =
            "give exactly one of `jwks_url`, `discovery = true`, `jwks_file` and `secret_file` (HS256)";
        section.problem("jwks_url", message);
        return None;
    }
    let is_fetched = discovery || section.has("jwks_url");
    for name in ["ca_file", "bearer_token_file"] {
        if section.has(name) && !is_fetched {
            section.problem(name, "is only for keys that are fetched: it needs `jwks_url` or `discovery`");
        }
    }
    if let Some(secret) = &secret
        && secret.expose_secret().len() < MIN_HS256_SECRET_BYTES
    {
        let message = "holds fewer than 32 bytes, which can be guessed: have the issuer use a longer secret";
        section.problem("secret_file", message);
    }
    if secret.as_ref().is_some_and(|secret| secret.expose_secret().starts_with("-----BEGIN ")) {
        let message =
            "holds PEM text. A public key is no secret: give keys as a JWKS with `jwks_url` or `jwks_file`";
        section.problem("secret_file", message);
    }
    let address = if discovery {
        let issuer = issuer?.as_str();
        if issuer.contains("/.well-known/") {
            let message = "holds the address of the metadata: give the issuer, which is what stands before /.well-known/";
            section.problem("issuer", message);
            return None;
        }
        let url = parse_url(issuer);
        let url =
            url.map_err(|message| section.problem("issuer", format!("{message}; `discovery` needs that")));
        Some(KeyAddress::Discovery(url.ok()?))
    } else {
        jwks_url.map(KeyAddress::Jwks)
    };
    let fetched = address
        .map(|address| IssuerKeySource::Fetched(KeyFetchConfig { address, ca_file, bearer_token_file }));
    fetched.or_else(|| jwks_file.map(IssuerKeySource::File)).or_else(|| secret.map(IssuerKeySource::Secret))
}

/// Reads `jwt_issuer` and `jwt_claims` of a caller.
pub(super) fn parse_caller_jwt(section: &Section<'_>, defined: &DefinedNames) -> Option<CallerJwtConfig> {
    let issuer = parse_issuer_name(section, "jwt_issuer", defined);
    let claims_section = section.section("jwt_claims");
    let mut claims = BTreeMap::new();
    let mut is_complete = true;
    for (claim, node) in claims_section.iter().flat_map(Section::entries) {
        let section = claims_section.as_ref()?;
        let name =
            validate_text(claim, LONGEST_CLAIM_NAME).map_err(|message| section.problem(claim, message));
        let values = section
            .list_of(claim, node, |text| validate_text(text, LONGEST_CLAIM_VALUE).map(|()| text.to_owned()));
        if section.is_empty_list(claim) {
            section.problem(claim, "lists no value, so no token has one of them: list the accepted values");
        }
        if values.iter().any(|value| value.contains('*')) {
            let message = "has a `*`, which stands for itself: values are compared whole, so list each value";
            section.warn(WarningCode::CallerCredential, claim, message);
        }
        is_complete &= name.is_ok() && !values.is_empty();
        claims.insert(claim.to_owned(), values);
    }
    match (section.has("jwt_issuer"), section.has("jwt_claims")) {
        (false, false) => return None,
        (false, true) => {
            section.problem("jwt_issuer", "is missing: `jwt_claims` needs the issuer of the tokens");
        }
        (true, _) if !claims.contains_key("sub") => {
            let message = "must name `sub`, for example jwt_claims = { sub = [\"system:serviceaccount:shop:web\"] }. Without \
                           it, everybody with a token of the issuer would be this caller";
            section.problem("jwt_claims", message);
            is_complete = false;
        }
        (true, _) => {}
    }
    let issuer = issuer?;
    is_complete.then_some(CallerJwtConfig { issuer, claims })
}

/// Reads `subject_token`, `subject_issuer` and `subject_claim` of a caller.
pub(super) fn parse_subject_token(
    section: &Section<'_>,
    defined: &DefinedNames,
) -> Option<SubjectTokenConfig> {
    let mode = section.choice_or_default("subject_token", "");
    let issuer = parse_issuer_name(section, "subject_issuer", defined);
    let claim = section.or_default("subject_claim", |node| {
        let claim = parse_string(node)?;
        validate_text(&claim, LONGEST_CLAIM_NAME).map(|()| claim.to_string())
    });
    if mode == "off" {
        if section.has("subject_issuer") && !section.has("subject_token") {
            let message = "needs `subject_token`: set it to \"required\" or \"optional\"";
            section.problem("subject_issuer", message);
        }
        return None;
    }
    if !section.has("subject_issuer") {
        let message = "is missing: name the [issuers.NAME] whose tokens say who the user is";
        section.problem("subject_issuer", message);
    }
    Some(SubjectTokenConfig { issuer: issuer?, claim, is_required: mode == "required" })
}

fn parse_issuer_name(section: &Section<'_>, key: &'static str, defined: &DefinedNames) -> Option<Name> {
    section.optional(key, |node| {
        let name = Name::parse(&parse_string(node)?)?;
        if defined.has("issuers", name.as_str()) {
            Ok(name)
        } else {
            Err(format!("`{name}` isn't an issuer; defined: {}", defined.list("issuers")))
        }
    })
}

/// Reports callers that one JWT could authenticate as: for every claim that both name, they accept a common value.
pub(super) fn reject_shared_jwts(
    root: &Section<'_>,
    callers: &BTreeMap<Name, CallerConfig>,
    issuers: &BTreeMap<Name, IssuerConfig>,
) {
    let may_verify_the_same = |one: &Name, other: &Name| {
        let (Some(first), Some(second)) = (issuers.get(one), issuers.get(other)) else { return false };
        one == other || (first.issuer == second.issuer && first.keys.is_same_as(&second.keys))
    };
    let with_jwts: Vec<(&Name, &CallerJwtConfig)> =
        callers.values().filter_map(|caller| Some((&caller.name, caller.jwt.as_ref()?))).collect();
    for (at, (name, jwt)) in with_jwts.iter().enumerate() {
        for (other_name, other) in &with_jwts[..at] {
            let has_common_value = |(claim, values): (&String, &Vec<String>)| {
                other.claims.get(claim).is_none_or(|others| values.iter().any(|value| others.contains(value)))
            };
            if may_verify_the_same(&jwt.issuer, &other.issuer) && jwt.claims.iter().all(has_common_value) {
                let message = format!(
                    "one JWT could be both `{other_name}` and `{name}`: give them different values of `sub` in `jwt_claims`"
                );
                root.problem("callers", message);
            }
        }
    }
}

/// Warns about issuers that no caller refers to.
pub(super) fn warn_unused_issuers(
    section: Option<&Section<'_>>,
    issuers: &BTreeMap<Name, IssuerConfig>,
    callers: &BTreeMap<Name, CallerConfig>,
) {
    // A caller with a problem may refer to an issuer all the same.
    let Some(section) = section.filter(|section| !section.diagnostics().has_problems()) else { return };
    let is_used = |name: &Name| {
        callers.values().any(|caller| {
            let jwt = caller.jwt.as_ref().map(|jwt| &jwt.issuer);
            let subject = caller.subject_token.as_ref().map(|token| &token.issuer);
            jwt == Some(name) || subject == Some(name)
        })
    };
    for name in issuers.keys().filter(|name| !is_used(name)) {
        let message = "is used by no caller: set `jwt_issuer` or `subject_issuer` of a caller, or remove it";
        section.warn(WarningCode::UnusedIssuer, name.as_str(), message);
    }
}
