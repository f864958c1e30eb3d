//! Parses and verifies JWTs, and issues the sandbox's own.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

/// A JWT in its parts. Its content is untrusted until `verified_by` succeeds.
pub(super) struct Jwt<'a> {
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
    signed: &'a str,
    signature: &'a str,
}

impl<'a> Jwt<'a> {
    /// Decodes header and claims, without verifying the signature.
    ///
    /// # Errors
    /// Says which part is malformed, or that the header has `crit`.
    pub(crate) fn read(text: &'a str) -> Result<Self, String> {
        let (signed, signature) = text.rsplit_once('.').ok_or("isn't a JWT: it has no dot")?;
        let (header, claims) = signed.split_once('.').ok_or("isn't a JWT: it has one dot")?;
        if claims.contains('.') {
            return Err("isn't a JWT: it has more than two dots".to_owned());
        }
        let header = object(header).ok_or("has a header that isn't base64url of a JSON object")?;
        let claims = object(claims).ok_or("has claims that aren't base64url of a JSON object")?;
        // Critical extensions that a verifier doesn't know must be rejected (RFC 7515, section 4.1.11).
        if header.contains_key("crit") {
            return Err("has `crit` in its header".to_owned());
        }
        Ok(Self { header, claims, signed, signature })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    pub(crate) fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }

    pub(crate) fn verified_by(&self, key: &DecodingKey, algorithm: Algorithm) -> bool {
        jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), key, algorithm).unwrap_or(false)
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// Issues a JWT of the sandbox, signed with HS256. tokenmint doesn't verify Salesforce's signatures, so any will do.
pub(super) fn issue(claims: &Value, key: &hmac::Key) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT","kid":"sandbox"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(key, signed.as_bytes()));
    format!("{signed}.{signature}")
}
