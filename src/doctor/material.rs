//! What people hold in their hands: PEM keys, certificates, JWKs and JWTs, recognised by what they are and
//! read as forgivingly as can be, so that the checks can say all that is wrong and not only the first thing.
//!
//! Nothing here is to be believed: it is what somebody pasted. A private key is looked at and let go; its
//! public numbers are all that stays.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};

use super::certificate::GivenCertificate;
use super::jwk::JwkDocument;
use super::token::UnverifiedToken;
use crate::keys::{PrivateKey, Refused, Unreadable};

/// A piece of what was given, and how it was named.
pub enum Material {
    Key(GivenKey),
    Certificate(GivenCertificate),
    Jwk(JwkDocument),
    Token(UnverifiedToken),
}

/// The public numbers of an RSA key, big-endian, without leading zeros.
#[derive(Clone, PartialEq, Eq)]
pub struct Numbers {
    pub n: Vec<u8>,
    pub e: Vec<u8>,
}

impl Numbers {
    pub fn new(n: &[u8], e: &[u8]) -> Self {
        Self { n: minimal(n), e: minimal(e) }
    }

    /// From base64url, as our own keys keep them.
    pub fn of(key: &crate::keys::PublicKey) -> Self {
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        Self::new(&decoded(&key.n), &decoded(&key.e))
    }

    pub fn bits(&self) -> usize {
        let unused = self.n.first().map_or(0, |octet| octet.leading_zeros() as usize);
        self.n.len() * 8 - unused
    }
}

fn minimal(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|octet| *octet == 0).collect()
}

/// A private key's file.
pub struct GivenKey {
    pub about: String,
    /// The key id that its name gives it, as `WebAppKey1.key`.
    pub kid: Option<String>,
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
        let name = about.rsplit('/').next().unwrap_or(about);
        Self {
            about: about.to_owned(),
            kid: name.strip_suffix(".key").map(str::to_owned),
            read: key.map(|key| Numbers::of(&key.public)),
            folded,
            open_mode,
        }
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
