//! Parses the profiles of HS256 tokens: `[intercom.NAME]` and `[hs256.NAME]`.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::super::diagnostics::{Diagnostics, join_path};
use super::super::section::Section;
use super::super::source::{ConfigNode, ConfigValue};
use super::super::values::{parse_bool, parse_string, paste_artifact};
use super::super::{Hs256Kind, validate_text};
use super::profiles::{LONGEST_CLAIM_NAME, parse_claims, parse_ttls};
use crate::json::{Json, JsonNumber, Members};

/// The output length of HMAC-SHA256, the minimum for HS256 keys (RFC 7518, section 3.2).
pub(super) const MIN_HS256_SECRET_BYTES: usize = 32;

/// The claims that are times (RFC 7519, sections 4.1.4 to 4.1.6). tokenmint sets `exp` and `iat`.
const TIME_CLAIMS: &[&str] = &["exp", "iat", "nbf"];

/// The most JSON of `fixed_claims`, in bytes. Headers of HTTP, in which tokens travel, are rarely longer than 8 KiB.
const LONGEST_FIXED_CLAIMS: usize = 4096;

/// The longest `kid` and `cty`, in bytes.
const LONGEST_HEADER_VALUE: usize = 256;

/// The settings of a profile of HS256 tokens. Defined beside its parser, so that a new setting changes few files.
pub struct Hs256Config {
    pub secret: SecretString,
    pub ttl: Duration,
    pub max_ttl: Duration,
    /// The names of the extra claims that callers may set. None of them is registered, the user's or fixed.
    pub claims: Vec<String>,
    /// The claim that names the user.
    pub(crate) subject_claim: String,
    /// The constant claims of every token, sorted by name. None of them is a time or the user's.
    pub(crate) fixed_claims: Members,
    pub(crate) kid: Option<String>,
    pub(crate) cty: Option<String>,
}

pub(super) fn hs256_profile(kind: Hs256Kind, section: &Section<'_>) -> Option<Hs256Config> {
    let facts = kind.facts();
    let secret = section.secret("secret", "secret_file");
    let allow_short_secret = section.or_default("allow_short_secret", parse_bool);
    let ttls = parse_ttls(section);
    let content = match facts.user_claim {
        Some(claim) => TokenContent { subject_claim: Some(claim.to_owned()), ..TokenContent::default() },
        None => parse_content(section),
    };
    let claims = parse_claims(section, content.subject_claim.as_deref().as_slice());
    for (name, _) in &content.fixed_claims {
        if claims.iter().any(|claim| claim.eq_ignore_ascii_case(name)) {
            let message = format!("`{name}` is in `fixed_claims` too: callers can't set a fixed claim");
            section.problem("claims", message);
        }
    }
    if !section.has("secret") && !section.has("secret_file") {
        section.problem("secret", format!("is missing: the {} ({})", facts.secret, facts.secret_page));
    }
    let is_short =
        secret.as_ref().is_some_and(|secret| secret.expose_secret().len() < MIN_HS256_SECRET_BYTES);
    if is_short && !allow_short_secret {
        let message = format!(
            "is shorter than 32 bytes, the minimum for HS256 (RFC 7518, section 3.2); is it the {}? If {} gave you such a short \
             one, set `allow_short_secret = true`",
            facts.secret, facts.relying_party
        );
        section.problem(if section.has("secret") { "secret" } else { "secret_file" }, message);
        return None;
    }
    let (ttl, max_ttl) = ttls?;
    let TokenContent { subject_claim, fixed_claims, kid, cty } = content;
    Some(Hs256Config {
        secret: secret?,
        ttl,
        max_ttl,
        claims,
        subject_claim: subject_claim?,
        fixed_claims,
        kid,
        cty,
    })
}

/// The settings of a profile about header and claims. An invalid setting is missing here, and a problem was reported.
#[derive(Default)]
struct TokenContent {
    subject_claim: Option<String>,
    fixed_claims: Members,
    kid: Option<String>,
    cty: Option<String>,
}

fn parse_content(section: &Section<'_>) -> TokenContent {
    let subject_claim = parse_subject_claim(section);
    let fixed_claims = parse_fixed_claims(section, subject_claim.as_deref());
    let kid = section.optional("kid", parse_header_value);
    TokenContent { subject_claim, fixed_claims, kid, cty: section.optional("cty", parse_header_value) }
}

fn parse_subject_claim(section: &Section<'_>) -> Option<String> {
    let parse = |node: &ConfigNode| {
        let name = parse_string(node)?;
        validate_text(&name, LONGEST_CLAIM_NAME)?;
        if is_one_of(TIME_CLAIMS, &name) {
            return Err(format!("must not be `{}`, which is a time", *name));
        }
        Ok(name.to_string())
    };
    section.required("subject_claim", parse, "the claim that names the user, for example \"external_id\"")
}

/// Parses a value of the JOSE header: 1 to 256 characters of visible ASCII.
fn parse_header_value(node: &ConfigNode) -> Result<String, String> {
    let value = parse_string(node)?;
    let fits = (1..=LONGEST_HEADER_VALUE).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        Ok(value.to_string())
    } else {
        Err("must be 1 to 256 characters of visible ASCII, without spaces".to_owned())
    }
}

/// Parses the table of constant claims. The registered claims `iss`, `aud` and `sub` may be among them. Invalid ones are reported and
/// left out.
fn parse_fixed_claims(section: &Section<'_>, subject_claim: Option<&str>) -> Members {
    let Some(table) = section.section("fixed_claims") else { return Vec::new() };
    let mut claims = Vec::new();
    for (name, node) in table.entries() {
        if let Err(message) = check_fixed_name(name, subject_claim) {
            table.problem(name, message);
        } else if let Some(value) = to_json(&table.field(name), node, section.diagnostics()) {
            if let Err(message) = check_registered_type(name, &value) {
                table.problem(name, message);
            }
            claims.push((name.to_owned(), value));
        }
    }
    let json = serde_json::to_vec(&Json::Object(claims.clone())).expect("JSON can be written to memory");
    let size = json.len();
    if size > LONGEST_FIXED_CLAIMS {
        let message =
            format!("must be at most {LONGEST_FIXED_CLAIMS} bytes of JSON, not {size}: each token has them");
        section.problem("fixed_claims", message);
    }
    claims
}

/// Checks the type of a registered claim (RFC 7519, section 4.1).
fn check_registered_type(name: &str, value: &Json) -> Result<(), &'static str> {
    let is_text = |value: &Json| matches!(value, Json::String(_));
    match (name, value) {
        ("iss" | "sub", value) if !is_text(value) => Err("must be text (RFC 7519)"),
        ("aud", Json::Array(values)) if values.iter().all(is_text) => Ok(()),
        ("aud", value) if !is_text(value) => Err("must be text or a list of texts (RFC 7519)"),
        _ => Ok(()),
    }
}

fn check_fixed_name(name: &str, subject_claim: Option<&str>) -> Result<(), String> {
    validate_text(name, LONGEST_CLAIM_NAME)?;
    if is_one_of(TIME_CLAIMS, name) {
        return Err(
            "is a time: remove it; tokenmint sets `iat` and `exp`, and `ttl` is the lifetime".to_owned()
        );
    }
    if is_one_of(&["jti"], name) {
        return Err("must differ in each token (RFC 7519, section 4.1.7): remove it".to_owned());
    }
    if is_one_of(subject_claim.as_slice(), name) {
        return Err("is the `subject_claim`, which each request sets: remove it".to_owned());
    }
    Ok(())
}

fn is_one_of(names: &[&str], name: &str) -> bool {
    names.iter().any(|one| one.eq_ignore_ascii_case(name))
}

/// Converts a value of TOML to JSON. Numbers keep their digits. Each value that JSON doesn't have is reported.
fn to_json(field: &str, node: &ConfigNode, diagnostics: &Diagnostics) -> Option<Json> {
    let refuse = |message: &str| {
        diagnostics.problem(field, &node.origin, message);
        None
    };
    match &node.value {
        ConfigValue::Text(text) => Some(Json::String(text.to_string())),
        ConfigValue::Untyped(text) => {
            let name = field.rsplit('.').next().unwrap_or(field);
            match paste_artifact(name, text) {
                Some(message) => refuse(&message),
                None => Some(Json::String(text.to_string())),
            }
        }
        ConfigValue::Boolean(flag) => Some(Json::Bool(*flag)),
        ConfigValue::Integer(number) => JsonNumber::parse(&number.to_string()).map(Json::Number),
        ConfigValue::Float(text) => match JsonNumber::parse(text) {
            Some(number) => Some(Json::Number(number)),
            None => refuse(
                "must be a number that JSON can hold: neither infinity nor NaN, and in the range of a double",
            ),
        },
        ConfigValue::Datetime(_) => {
            refuse("must not be a date, which JSON doesn't have: write it as text, or as seconds since 1970")
        }
        ConfigValue::List(items) => {
            let values: Vec<Option<Json>> =
                items.iter().map(|item| to_json(field, item, diagnostics)).collect();
            values.into_iter().collect::<Option<_>>().map(Json::Array)
        }
        ConfigValue::Table(table) => {
            let members: Vec<Option<(String, Json)>> = table
                .iter()
                .map(|(name, node)| {
                    let value = to_json(&join_path(field, name), node, diagnostics);
                    value.map(|value| (name.clone(), value))
                })
                .collect();
            members.into_iter().collect::<Option<_>>().map(Json::Object)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::config::{Config, Environment, Hs256Kind};

    const SECRET: &str = "secret = \"a-shared-secret-of-32-bytes-or-more\"\n";

    /// The problems of `[hs256.x]` with these lines, each with its field.
    fn problems(lines: &str) -> Vec<String> {
        let text = format!("[hs256.x]\n{lines}\n");
        let parsed = Config::parse("tokenmint.toml", &text, PathBuf::new(), &Environment::new());
        let problems = parsed.err().map(|invalid| invalid.problems).unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_setting_that_could_not_be_meant_is_refused_by_its_field_and_line() {
        let long_claims =
            format!("subject_claim = \"u\"\nfixed_claims = {{ long = \"{}\" }}", "x".repeat(5000));
        let kid_of_257 = format!("subject_claim = \"u\"\nkid = \"{}\"", "k".repeat(257));
        for (lines, field, why) in [
            ("", "hs256.x.subject_claim (", "is missing: the claim that names the user"),
            ("subject_claim = \"\"", "hs256.x.subject_claim (tokenmint.toml line 3)", "must not be empty"),
            ("subject_claim = 1", "hs256.x.subject_claim (", "must be a string, not an integer"),
            ("subject_claim = \"exp\"", "hs256.x.subject_claim (", "must not be `exp`, which is a time"),
            ("subject_claim = \"IAT\"", "hs256.x.subject_claim (", "must not be `IAT`, which is a time"),
            ("subject_claim = \"nbf\"", "hs256.x.subject_claim (", "must not be `nbf`, which is a time"),
            ("subject_claim = \"u\"\nfixed_claims = 1", "hs256.x.fixed_claims (", "must be a table"),
            (
                "subject_claim = \"u\"\nfixed_claims = { exp = 1 }",
                "hs256.x.fixed_claims.exp (",
                "is a time: remove it",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { Iat = 1 }",
                "hs256.x.fixed_claims.Iat (",
                "is a time: remove it",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { nbf = 1 }",
                "hs256.x.fixed_claims.nbf (",
                "is a time: remove it",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { jti = \"1\" }",
                "hs256.x.fixed_claims.jti (",
                "must differ",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { u = \"1\" }",
                "hs256.x.fixed_claims.u (",
                "is the `subject_claim`",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { U = \"1\" }",
                "hs256.x.fixed_claims.U (",
                "is the `subject_claim`",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { \"\" = 1 }",
                "hs256.x.fixed_claims. (",
                "must not be empty",
            ),
            (&long_claims, "hs256.x.fixed_claims (", "at most 4096 bytes of JSON, not 5011"),
            (
                "subject_claim = \"u\"\nfixed_claims = { iss = 5 }",
                "hs256.x.fixed_claims.iss (",
                "must be text",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { aud = [\"a\", 1] }",
                "hs256.x.fixed_claims.aud (",
                "must be text or a list of texts",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { born = 1979-05-27 }",
                "hs256.x.fixed_claims.born (tokenmint.toml line 4)",
                "must not be a date",
            ),
            (
                "subject_claim = \"u\"\n[hs256.x.fixed_claims.a]\nb = [\n1979-05-27T07:32:00Z]",
                "hs256.x.fixed_claims.a.b (tokenmint.toml line 6)",
                "must not be a date",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { n = nan }",
                "hs256.x.fixed_claims.n (",
                "neither infinity nor NaN",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { n = -inf }",
                "hs256.x.fixed_claims.n (",
                "neither infinity nor NaN",
            ),
            (
                "subject_claim = \"u\"\nfixed_claims = { n = 1e400 }",
                "hs256.x.fixed_claims.n (",
                "range of a double",
            ),
            ("subject_claim = \"u\"\nclaims = [\"u\"]", "hs256.x.claims (", "`u` is set by tokenmint"),
            ("subject_claim = \"u\"\nclaims = [\"exp\"]", "hs256.x.claims (", "`exp` is set by tokenmint"),
            ("subject_claim = \"u\"\nclaims = [\"sub\"]", "hs256.x.claims (", "`sub` is set by tokenmint"),
            (
                "subject_claim = \"u\"\nclaims = [\"Scope\"]\nfixed_claims = { scope = \"user\" }",
                "hs256.x.claims (",
                "`scope` is in `fixed_claims` too",
            ),
            ("subject_claim = \"u\"\nkid = \"\"", "hs256.x.kid (", "1 to 256 characters of visible ASCII"),
            ("subject_claim = \"u\"\nkid = \"a b\"", "hs256.x.kid (", "1 to 256 characters of visible ASCII"),
            (
                "subject_claim = \"u\"\nkid = \"\u{e9}\"",
                "hs256.x.kid (",
                "1 to 256 characters of visible ASCII",
            ),
            (&kid_of_257, "hs256.x.kid (", "1 to 256 characters of visible ASCII"),
            (
                "subject_claim = \"u\"\ncty = \"a\\tb\"",
                "hs256.x.cty (",
                "1 to 256 characters of visible ASCII",
            ),
            ("subject_claim = \"u\"\nttl = \"31 days\"", "hs256.x.ttl (", "must be between 60s and 30 days"),
            ("subject_claim = \"u\"\nuser_claim = \"u\"", "hs256.x.user_claim (", "unknown key"),
        ] {
            let said = problems(&format!("{SECRET}{lines}"));
            assert_eq!(said.len(), 1, "{lines}: {said:?}");
            let said = &said[0];
            assert!(said.starts_with(field) && said.contains(why), "{lines}: {said}");
        }
        let said = problems("subject_claim = \"u\"");
        assert!(said[0].contains("secret") && said[0].contains("is missing: the shared secret"), "{said:?}");
        let said = problems("subject_claim = \"u\"\nsecret = \"hush\"");
        assert!(said[0].contains("If the relying party gave you such a short one"), "{said:?}");
        assert!(!said[0].contains("hush"));
        assert_eq!(
            problems("subject_claim = \"u\"\nsecret = \"hush\"\nallow_short_secret = true"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn registered_claims_that_are_no_times_may_be_fixed_or_name_the_user() {
        let text = format!(
            "[hs256.x]\n{SECRET}subject_claim = \"sub\"\nkid = \"{}\"\nfixed_claims = {{ iss = \"i\", aud = \"a\" }}",
            "~".repeat(256)
        );
        let parsed = Config::parse("tokenmint.toml", &text, PathBuf::new(), &Environment::new());
        let config = parsed.ok().expect("a valid configuration");
        let profile = config.hs256[&Hs256Kind::General].values().next().expect("a profile");
        let fixed: Vec<&str> = profile.fixed_claims.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(fixed, ["aud", "iss"]);
        assert_eq!(profile.subject_claim, "sub");
    }
}
