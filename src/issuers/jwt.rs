//! [`UnverifiedJwt`]: a token that is parsed but not verified.

use std::str::FromStr as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;

use super::refusal::Refusal;
use crate::json::Json;

/// The longest token, in bytes.
const MAX_LENGTH: usize = 16 << 10;
/// The accepted values of `typ`, in lower case and without `application/`: JWTs, access tokens (RFC 9068), and the values of
/// SPIFFE's JWT-SVID.
const TYPES: &[&str] = &["jwt", "at+jwt", "jose"];

/// A JWT in compact form (RFC 7515, section 3.1) whose header and claims are JSON objects without duplicate members. Nothing else
/// about it is checked.
pub struct UnverifiedJwt<'a> {
    /// Header and payload, as they were signed.
    pub(super) signed: &'a str,
    /// In base64url.
    pub(super) signature: &'a str,
    pub(super) header: Json,
    pub(super) claims: Json,
}

impl<'a> UnverifiedJwt<'a> {
    /// Whether a text has the form of a JWT: three parts in the characters of base64url, and only the last may be empty. API keys
    /// of `tokenmint callers new` have another form.
    pub(crate) fn has_form(text: &[u8]) -> bool {
        let is_base64url = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let parts: Vec<&[u8]> = text.splitn(4, |byte| *byte == b'.').collect();
        parts.len() == 3
            && parts[..2].iter().all(|part| !part.is_empty())
            && parts.iter().all(|part| part.iter().all(is_base64url))
    }

    /// Parses a token.
    ///
    /// # Errors
    /// The token is too long, isn't in compact form, or its header or payload isn't a JSON object without duplicate members.
    pub fn parse(token: &'a str) -> Result<Self, Refusal> {
        if token.len() > MAX_LENGTH {
            return Err(Refusal::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Form)?;
        if payload.contains('.') || URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(Refusal::Form);
        }
        let header = parse_object(header, Refusal::Header)?;
        let claims = parse_object(payload, Refusal::Payload)?;
        Ok(Self { signed, signature, header, claims })
    }

    /// # Errors
    /// The token has critical extensions.
    pub(super) fn check_critical(&self) -> Result<(), Refusal> {
        if self.header.member("crit").is_some() { Err(Refusal::Critical) } else { Ok(()) }
    }

    /// # Errors
    /// The token is of another type.
    pub(super) fn check_type(&self) -> Result<(), Refusal> {
        let Some(kind) = self.header.member("typ") else { return Ok(()) };
        let Json::String(kind) = kind else { return Err(Refusal::Type) };
        let kind = kind.to_ascii_lowercase();
        let is_known = TYPES.contains(&kind.strip_prefix("application/").unwrap_or(&kind));
        if is_known { Ok(()) } else { Err(Refusal::Type) }
    }

    /// # Errors
    /// The token has a `kid` that isn't a string.
    pub(super) fn check_key_id(&self) -> Result<(), Refusal> {
        if self.header.member("kid").is_some() && self.kid().is_none() { Err(Refusal::KeyId) } else { Ok(()) }
    }

    /// The algorithm of the header.
    ///
    /// # Errors
    /// The header has no known algorithm. `none` isn't known.
    pub(super) fn algorithm(&self) -> Result<Algorithm, Refusal> {
        let algorithm = self.header.text("alg").ok_or(Refusal::Algorithm)?;
        Algorithm::from_str(algorithm).map_err(|_| Refusal::Algorithm)
    }

    /// A member of the header, or a claim. It isn't verified.
    pub(crate) fn member(&self, name: &str, is_in_header: bool) -> Option<&Json> {
        if is_in_header { self.header.member(name) } else { self.claims.member(name) }
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.header.text("kid")
    }
}

fn parse_object(part: &str, refusal: Refusal) -> Result<Json, Refusal> {
    let text = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Form)?;
    let json = Json::parse(&text).map_err(|_| refusal)?;
    if matches!(json, Json::Object(_)) && json.duplicate_key().is_none() { Ok(json) } else { Err(refusal) }
}
