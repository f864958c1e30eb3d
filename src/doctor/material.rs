//! What people hold in their hands: PEM keys, certificates, JWKs and JWTs, recognised by what they are and
//! read as forgivingly as can be, so that the checks can say all that is wrong and not only the first thing.
//!
//! Nothing here is to be believed: it is what somebody pasted. A private key is looked at and let go; its
//! public numbers are all that stays.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};

use super::certificate::GivenCertificate;
use super::jwk::JwkDocument;
use super::numbers::Numbers;
use super::token::UnverifiedToken;
use crate::keys::{PrivateKey, Refused, Unreadable};

/// A piece of what was given, and how it was named.
pub enum Material {
    Key(GivenKey),
    Certificate(GivenCertificate),
    Jwk(JwkDocument),
    Token(UnverifiedToken),
}

/// A private key's file.
pub struct GivenKey {
    pub about: String,
    pub read: Result<Numbers, Refused>,
    /// Its text works only after mending: `\n` written out, or base64 of the PEM.
    pub folded: bool,
    /// The file's mode, where others can read it.
    pub open_mode: Option<u32>,
}

impl GivenKey {
    fn read(about: &str, text: &SecretString, open_mode: Option<u32>) -> Self {
        let mut folded = false;
        let key = match PrivateKey::parse(text, None) {
            Err(Refused::Unreadable(Unreadable::BrokenPem | Unreadable::NotPem)) => {
                let mended = PrivateKey::parse_pasted(text, None);
                folded = mended.is_ok();
                mended
            }
            other => other,
        };
        Self { about: about.to_owned(), read: key.map(|key| Numbers::of(&key.public)), folded, open_mode }
    }
}

/// Why a text is none of them.
pub const UNKNOWN: &str = "holds no PEM key, no certificate, no JWK or JWK Set, and no JWT";

/// Says what `text` is. `about` is what messages call it; `open_mode` the mode of its file, if others can read
/// that.
///
/// # Errors
/// It is nothing that the doctor knows.
pub fn recognise(about: &str, text: &SecretString, open_mode: Option<u32>) -> Result<Material, &'static str> {
    let plain = text.expose_secret().trim_start_matches('\u{feff}').trim();
    let holds = |words: &str| plain.contains(words);
    let key_in_base64 = || {
        let decoded = STANDARD.decode(plain.split_whitespace().collect::<String>()).unwrap_or_default();
        decoded.starts_with(b"-----BEGIN")
    };
    if plain.contains('{') && !holds("-----BEGIN") || plain.starts_with(['{', '[']) {
        return Ok(Material::Jwk(JwkDocument::read(about, plain)));
    }
    if holds("-----BEGIN CERTIFICATE-----") && !holds("PRIVATE KEY-----") {
        return Ok(Material::Certificate(GivenCertificate::from_pem(about, plain)));
    }
    if holds("-----BEGIN") || key_in_base64() {
        return Ok(Material::Key(GivenKey::read(about, text, open_mode)));
    }
    if plain.matches('.').count() >= 2 {
        return Ok(Material::Token(UnverifiedToken::read(about, plain)));
    }
    Err(UNKNOWN)
}
