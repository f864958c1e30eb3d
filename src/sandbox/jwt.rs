//! JWTs as a verifier reads them, and the ones that the sandbox issues itself.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

/// A JWT in its parts. Nothing in it is to be believed before `verified_by`.
pub(super) struct Jwt<'a> {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    signed: &'a str,
    signature: &'a str,
}

impl<'a> Jwt<'a> {
    /// # Errors
    /// Says which part is malformed.
    pub fn read(text: &'a str) -> Result<Self, String> {
        let (signed, signature) = text.rsplit_once('.').ok_or("isn't a JWT: it has no dot")?;
        let (header, claims) = signed.split_once('.').ok_or("isn't a JWT: it has one dot")?;
        if claims.contains('.') {
            return Err("isn't a JWT: it has more than two dots".to_owned());
        }
        let header = object(header).ok_or("has a header that isn't base64url of a JSON object")?;
        let claims = object(claims).ok_or("has claims that aren't base64url of a JSON object")?;
        // RFC 7515, section 4.1.11: what must be understood, and isn't, is refused.
        if header.contains_key("crit") {
            return Err("has `crit` in its header".to_owned());
        }
        Ok(Self { header, claims, signed, signature })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    pub fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }

    pub fn verified_by(&self, key: &DecodingKey, algorithm: Algorithm) -> bool {
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

/// A JWT of the sandbox's own. Salesforce signs its tokens in a way that is nobody else's business, so any
/// signature will do.
pub(super) fn issue(claims: &Value, key: &hmac::Key) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT","kid":"sandbox"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(key, signed.as_bytes()));
    format!("{signed}.{signature}")
}
