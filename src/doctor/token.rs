//! A JWT that somebody has, in its parts (RFC 7515, section 7.1), unverified.

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};

use super::numbers::Numbers;
use crate::json::Json;

/// Nothing in it is to be believed. It holds a credential: no `Debug`, and no message repeats it.
pub struct UnverifiedToken {
    pub about: String,
    /// What was taken away before it could be read: quotes, `JWT : `, line breaks.
    pub around: Option<&'static str>,
    /// `Err` says why it is no JWT.
    pub parts: Result<Parts, String>,
}

pub struct Parts {
    pub header: Json,
    pub claims: Json,
    signed: SecretString,
    signature: Vec<u8>,
}

impl UnverifiedToken {
    pub fn read(about: &str, text: &str) -> Self {
        let mut around = None;
        let mut rest = text.trim();
        for (prefix, fault) in [
            ("JWT : ", "the words `JWT : ` of Salesforce's utility stand before it"),
            ("Bearer ", "the word `Bearer` stands before it"),
            ("\"", "it stands in quotes"),
            ("'", "it stands in quotes"),
        ] {
            if let Some(stripped) = rest.strip_prefix(prefix) {
                (rest, around) = (stripped.trim_end_matches(['"', '\'']).trim(), Some(fault));
            }
        }
        let compact: String = rest.split_whitespace().collect();
        if compact.len() != rest.len() {
            around = Some("it holds white space or line breaks");
        }
        Self { about: about.to_owned(), around, parts: Parts::read(&compact) }
    }
}

impl Parts {
    fn read(text: &str) -> Result<Self, String> {
        let mut dots = text.split('.');
        let (Some(header), Some(claims), Some(signature)) = (dots.next(), dots.next(), dots.next()) else {
            return Err("it has not the three parts of a JWT".to_owned());
        };
        match dots.count() {
            0 => {}
            2 => {
                return Err(
                    "it has five parts: it is encrypted (JWE); Salesforce takes signed ones".to_owned()
                );
            }
            _ => return Err("it has not the three parts of a JWT".to_owned()),
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| "its signature isn't base64url without padding".to_owned())?;
        let signed_len = text.rfind('.').unwrap_or_default();
        Ok(Self {
            header: object("header", header)?,
            claims: object("body", claims)?,
            signed: SecretString::from(text.get(..signed_len).unwrap_or_default()),
            signature,
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.header.text(name)
    }

    pub fn claim(&self, name: &str) -> Option<&str> {
        self.claims.text(name)
    }

    pub fn claim_value(&self, name: &str) -> Option<&Json> {
        self.claims.member(name)
    }

    pub fn has_claim(&self, name: &str) -> bool {
        self.claim_value(name).is_some()
    }

    /// A `NumericDate` (RFC 7519, section 2), rounded down to a second.
    pub fn time(&self, name: &str) -> Option<i64> {
        match self.claim_value(name) {
            Some(Json::Number(number)) => Some(number.floor()),
            _ => None,
        }
    }

    /// Whether the key of those numbers signed it. Short keys count here: that they are short is for another
    /// check to say.
    pub fn is_signed_by(&self, key: &Numbers) -> bool {
        let padding = match self.header("alg") {
            Some("RS256") => &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
            Some("RS512") => &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
            _ => return false,
        };
        let components = PublicKeyComponents { n: &key.n, e: &key.e };
        components.verify(padding, self.signed.expose_secret().as_bytes(), &self.signature).is_ok()
    }

    /// Whether that secret made its HS256.
    pub fn is_made_with(&self, secret: &SecretString) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        hmac::verify(&key, self.signed.expose_secret().as_bytes(), &self.signature).is_ok()
    }
}

fn object(what: &str, part: &str) -> Result<Json, String> {
    let decoded = URL_SAFE_NO_PAD.decode(part);
    let bytes = decoded.map_err(|_| format!("its {what} isn't base64url without padding"))?;
    match Json::parse(&bytes) {
        Ok(object @ Json::Object(_)) => Ok(object),
        _ => Err(format!("its {what} isn't a JSON object")),
    }
}
