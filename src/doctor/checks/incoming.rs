//! Checks of incoming JWTs: would this service accept a token, by which caller, or as whose subject token? The rules are those of
//! the service, in `issuers` and `callers`.

use secrecy::{ExposeSecret as _, SecretString};

use super::issuers::section_of;
use crate::callers::{is_accepted_value, parse_subject};
use crate::clock::UnixTime;
use crate::config::{CallerConfig, Config, IssuerConfig};
use crate::doctor::finding::{ComparedClaim, Observation, Observations, TokenComparison};
use crate::doctor::formatting::{backquoted_list, escape_and_truncate, lookalike_difference, relative_date};
use crate::doctor::input::{CheckInput, Purpose};
use crate::doctor::token::UnverifiedToken;
use crate::issuers::{self, IssuerRules, KeySet, Refusal, RuleResult, UnverifiedJwt};
use crate::json::Json;
use crate::tokens::Subject;

const INCOMING: &[Purpose] = &[Purpose::Incoming];

/// A token beside one issuer.
struct JudgedToken<'a> {
    issuer: &'a IssuerConfig,
    /// The result of every rule but the signature.
    rules: Result<(), Refusal>,
    signature: SignatureResult<'a>,
}

enum SignatureResult<'a> {
    Judged(&'a KeySet, Result<(), Refusal>),
    /// Holds the reason.
    NotJudged(String),
}

impl JudgedToken<'_> {
    /// Two issuers may have one `iss`. The token is that of the one whose key signed it.
    const fn rank(&self) -> (u8, bool) {
        let signature = match self.signature {
            SignatureResult::Judged(_, Ok(())) => 2,
            SignatureResult::NotJudged(_) => 1,
            SignatureResult::Judged(_, Err(_)) => 0,
        };
        (signature, self.rules.is_ok())
    }
}

/// The incoming JWTs, in compact form.
fn incoming_tokens<'a>(
    input: &'a CheckInput<'_>,
) -> impl Iterator<Item = (&'a UnverifiedToken, SecretString)> {
    input.tokens_for(INCOMING).map(|(token, parts, _)| (token, parts.compact()))
}

/// Judges a token by the issuer that has its `iss`. `None` if there is none.
fn judge<'a>(input: &'a CheckInput<'_>, jwt: &UnverifiedJwt<'_>) -> Option<JudgedToken<'a>> {
    issuers::install_crypto_provider();
    let judged = input.configured.issuers().filter_map(|issuer| {
        let rules = IssuerRules::new(issuer);
        let signature = |keys| SignatureResult::Judged(keys, rules.check_signature(jwt, keys));
        rules.has_issuer(jwt).then(|| JudgedToken {
            issuer,
            rules: rules.check(jwt, input.now).map(|_| ()),
            signature: available_keys(input, issuer).map_or_else(SignatureResult::NotJudged, signature),
        })
    });
    judged.max_by_key(JudgedToken::rank)
}

/// # Errors
/// Why there are no keys.
fn available_keys<'a>(input: &'a CheckInput<'_>, issuer: &IssuerConfig) -> Result<&'a KeySet, String> {
    let loaded = input.configured.issuer_keys;
    let loaded =
        loaded.ok_or_else(|| "the configuration doesn't load (`tokenmint check` says why)".to_owned())?;
    if let Some(keys) = loaded.get(&issuer.name).and_then(|keys| keys.without_fetch()) {
        return Ok(keys);
    }
    let section = section_of(issuer);
    match input.fetched_issuer_keys(&issuer.name) {
        None => Err(format!(
            "its signature wasn't checked, because `tokenmint doctor --online` alone fetches the keys of {section}"
        )),
        Some(Err(_)) => {
            Err(format!("its signature wasn't checked, because the keys of {section} can't be fetched"))
        }
        Some(Ok(fetched)) => Ok(&fetched.keys),
    }
}

pub(crate) fn incoming_token(input: &CheckInput<'_>) -> Observations {
    let observe = |(token, text): (&UnverifiedToken, SecretString)| {
        let about = &token.about;
        let Some(config) = input.configured.config.filter(|config| !config.issuers.is_empty()) else {
            return Observation::skipped(about, "no [issuers.NAME] is configured that could accept it");
        };
        let jwt = match UnverifiedJwt::parse(text.expose_secret()) {
            Ok(jwt) => jwt,
            Err(refusal) => return refused(about, "the service", refusal),
        };
        let Some(judged) = judge(input, &jwt) else { return unknown_issuer(about, config, &jwt) };
        match judged.rules {
            Err(refusal) => refused(about, &section_of(judged.issuer), refusal),
            Ok(()) => observe_roles(about, config, &judged, &jwt),
        }
    };
    incoming_tokens(input).map(observe).collect()
}

fn refused(about: &str, by: &str, refusal: Refusal) -> Observation {
    let seen = format!("{by} refuses it by the rule `{}`: it {refusal}", refusal.rule());
    let finding = Observation::fail(about, seen);
    match refusal_advice(refusal) {
        Some(advice) => finding.with_advice(advice),
        None => finding,
    }
}

const fn refusal_advice(refusal: Refusal) -> Option<&'static str> {
    Some(match refusal {
        Refusal::Type => "take an access token or an ID token, not a logout token, for example",
        Refusal::Algorithm => {
            "add the token's `alg` to `algorithms` in [issuers.NAME], if the issuer's keys are for it"
        }
        Refusal::Audience => {
            "have the issuer issue the token for an `audience` of [issuers.NAME]; or add its `aud` there, if no other service \
             accepts tokens for it"
        }
        Refusal::Expired => "take a new token: read its file anew, or ask the issuer again, before `exp`",
        Refusal::NotBefore | Refusal::IssuedAt => {
            "set the clocks of both hosts (NTP), or raise `leeway` in [issuers.NAME]"
        }
        Refusal::TooOld => "take a newer token, or raise `max_age` in [issuers.NAME]",
        Refusal::UnknownKey => {
            "take a token that the issuer signs now. If this is one, `jwks_url` in [issuers.NAME] is that of another issuer"
        }
        _ => return None,
    })
}

fn unknown_issuer(about: &str, config: &Config, jwt: &UnverifiedJwt<'_>) -> Observation {
    let Some(Json::String(iss)) = jwt.member("iss", false) else {
        return Observation::fail(about, "it has no `iss` that is a string, so it is of no [issuers.NAME]");
    };
    let configured: Vec<&str> = config.issuers.values().map(|issuer| issuer.issuer.as_str()).collect();
    let near = configured.iter().find_map(|issuer| lookalike_difference(iss, issuer));
    let near = near.map(|why| format!(": they differ by {why}")).unwrap_or_default();
    let seen = format!(
        "no [issuers.NAME] has its `iss`, `{}`, but {}{near}",
        escape_and_truncate(iss),
        backquoted_list(configured)
    );
    Observation::fail(about, seen).with_advice(
        "set `issuer` in [issuers.NAME] to this value, byte for byte, if its tokens shall be accepted",
    )
}

/// A caller that refers to an issuer: what a token is to it, or why it is nothing.
struct Role {
    result: Result<String, String>,
    comparison: (String, Vec<ComparedClaim>),
}

fn observe_roles(
    about: &str,
    config: &Config,
    judged: &JudgedToken<'_>,
    jwt: &UnverifiedJwt<'_>,
) -> Observation {
    let roles: Vec<Role> = roles(config, judged.issuer, jwt).collect();
    let section = section_of(judged.issuer);
    if roles.is_empty() {
        let reason = format!("no caller names {section} in `jwt_issuer` or `subject_issuer`");
        return Observation::skipped(about, reason);
    }
    let accepted: Vec<&str> = roles.iter().filter_map(|role| role.result.as_deref().ok()).collect();
    if accepted.is_empty() {
        let refused: Vec<&str> =
            roles.iter().filter_map(|role| role.result.as_ref().err().map(String::as_str)).collect();
        return Observation::fail(about, format!("{section} accepts it, but no caller does: {}", refused.join("; ")))
            .with_advice(
                "add the claim's value to `jwt_claims` of the caller that shall have this token, or set its `subject_claim`",
            );
    }
    let condition = match judged.signature {
        SignatureResult::Judged(_, Ok(())) => "it would be accepted",
        SignatureResult::Judged(_, Err(_)) => "it would be accepted but for its signature",
        SignatureResult::NotJudged(_) => "it would be accepted if its signature is right",
    };
    Observation::pass(about, format!("{condition}: it {}", accepted.join(", and ")))
}

fn roles<'a>(
    config: &'a Config,
    issuer: &'a IssuerConfig,
    jwt: &'a UnverifiedJwt<'_>,
) -> impl Iterator<Item = Role> + 'a {
    config.callers.values().flat_map(move |caller| {
        [credential_role(caller, issuer, jwt), subject_role(caller, issuer, jwt)].into_iter().flatten()
    })
}

fn text_claim<'a>(jwt: &'a UnverifiedJwt<'_>, name: &str) -> Option<&'a str> {
    match jwt.member(name, false) {
        Some(Json::String(text)) => Some(text),
        _ => None,
    }
}

fn compared(jwt: &UnverifiedJwt<'_>, claim: &str, required: String, ok: bool) -> ComparedClaim {
    let token = jwt.member(claim, false).cloned();
    ComparedClaim { claim: claim.to_owned(), token, date: None, required, ok }
}

/// The token as the credential of a caller.
fn credential_role(caller: &CallerConfig, issuer: &IssuerConfig, jwt: &UnverifiedJwt<'_>) -> Option<Role> {
    let required = caller.jwt.as_ref().filter(|required| required.issuer == issuer.name)?;
    let claims: Vec<ComparedClaim> = required
        .claims
        .iter()
        .map(|(name, values)| {
            let shown: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
            compared(jwt, name, shown.join(" or "), is_accepted_value(values, text_claim(jwt, name)))
        })
        .collect();
    let wrong: Vec<&str> =
        claims.iter().filter(|claim| !claim.ok).map(|claim| claim.claim.as_str()).collect();
    let name = &caller.name;
    let result = if wrong.is_empty() {
        Ok(format!("authenticates callers.{name}"))
    } else {
        Err(format!("for callers.{name}, it {}: {}", Refusal::CallerClaims, backquoted_list(wrong)))
    };
    Some(Role { result, comparison: (format!("callers.{name} (jwt_claims)"), claims) })
}

/// The token as a subject token of a caller.
fn subject_role(caller: &CallerConfig, issuer: &IssuerConfig, jwt: &UnverifiedJwt<'_>) -> Option<Role> {
    let required = caller.subject_token.as_ref().filter(|required| required.issuer == issuer.name)?;
    let name = &caller.name;
    let is_allowed = |subject: &Subject| {
        caller.subjects.as_ref().is_none_or(|subjects| subjects.matches(subject.as_str()))
    };
    let result = match parse_subject(text_claim(jwt, &required.claim)) {
        Ok(subject) if !is_allowed(&subject) => Err(format!(
            "as a subject token of callers.{name}, it names a subject that `subjects` doesn't allow"
        )),
        Ok(subject) => Ok(format!(
            "is a subject token of callers.{name} for the subject `{}`",
            escape_and_truncate(subject.as_str())
        )),
        Err(error) => Err(format!("as a subject token of callers.{name}, it {error}: `{}`", required.claim)),
    };
    let pattern = if caller.subjects.is_some() { ", and that `subjects` allows" } else { "" };
    let text = format!("a string that names the subject{pattern}");
    let claim = compared(jwt, &required.claim, text, result.is_ok());
    Some(Role { result, comparison: (format!("callers.{name} (subject_token)"), vec![claim]) })
}

pub(crate) fn incoming_signature(input: &CheckInput<'_>) -> Observations {
    let observe = |(token, text): (&UnverifiedToken, SecretString)| {
        let about = &token.about;
        let jwt = UnverifiedJwt::parse(text.expose_secret()).ok();
        let Some(JudgedToken { issuer, rules, signature }) = jwt.as_ref().and_then(|jwt| judge(input, jwt))
        else {
            return Observation::skipped(
                about,
                "it is no JWT of an [issuers.NAME], so no key could be its own",
            );
        };
        let section = section_of(issuer);
        match signature {
            SignatureResult::NotJudged(reason) => Observation::skipped(about, reason),
            SignatureResult::Judged(_, Err(Refusal::Algorithm)) if rules == Err(Refusal::Algorithm) => {
                Observation::skipped(about, "its algorithm is none of those that the issuer may use")
            }
            SignatureResult::Judged(_, Ok(())) => {
                Observation::pass(about, format!("is signed by a key of {section}"))
            }
            SignatureResult::Judged(keys, Err(refusal @ Refusal::UnknownKey)) => {
                let kids = backquoted_list(keys.kids().map(escape_and_truncate));
                let kid = jwt.as_ref().and_then(|jwt| jwt.member("kid", true));
                let kid = match kid {
                    Some(Json::String(kid)) => escape_and_truncate(kid),
                    _ => String::new(),
                };
                let seen = format!(
                    "{section} refuses it by the rule `{}`: it {refusal}: `{kid}`, and the issuer has {kids}",
                    refusal.rule()
                );
                let finding = Observation::fail(about, seen);
                match refusal_advice(refusal) {
                    Some(advice) => finding.with_advice(advice),
                    None => finding,
                }
            }
            SignatureResult::Judged(_, Err(refusal)) => refused(about, &section, refusal),
        }
    };
    incoming_tokens(input).map(observe).collect()
}

/// The date of a claim that is a `NumericDate`.
fn date_of(rule: &RuleResult, jwt: &UnverifiedJwt<'_>, now: UnixTime) -> Option<String> {
    match jwt.member(rule.member, rule.is_in_header) {
        Some(Json::Number(number)) if ["exp", "nbf", "iat"].contains(&rule.member) => {
            Some(relative_date(UnixTime::from_seconds(number.floor()), now))
        }
        _ => None,
    }
}

/// Each incoming JWT beside what its issuer and the issuer's callers require. A token of an unknown issuer is beside each issuer.
pub(crate) fn compare_tokens(input: &CheckInput<'_>) -> Vec<TokenComparison> {
    let mut comparisons = Vec::new();
    let Some(config) = input.configured.config else { return comparisons };
    for (token, text) in incoming_tokens(input) {
        let Ok(jwt) = UnverifiedJwt::parse(text.expose_secret()) else { continue };
        let is_known = config.issuers.values().any(|issuer| IssuerRules::new(issuer).has_issuer(&jwt));
        for issuer in config.issuers.values() {
            let rules = IssuerRules::new(issuer);
            if is_known && !rules.has_issuer(&jwt) {
                continue;
            }
            let claim = |rule: RuleResult| ComparedClaim {
                claim: rule.member.to_owned(),
                date: date_of(&rule, &jwt, input.now),
                token: jwt.member(rule.member, rule.is_in_header).cloned(),
                required: rule.required,
                ok: rule.result.is_ok(),
            };
            let own = (section_of(issuer), rules.inspect(&jwt, input.now).into_iter().map(claim).collect());
            let of_callers = roles(config, issuer, &jwt).map(|role| role.comparison);
            comparisons.extend(
                std::iter::once(own).chain(of_callers).map(|(rules, claims)| TokenComparison {
                    about: token.about.clone(),
                    rules,
                    claims,
                }),
            );
        }
    }
    comparisons
}
