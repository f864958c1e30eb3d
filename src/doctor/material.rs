//! What people hold in their hands: PEM keys, certificates, JWKs and JWTs, recognised by what they are. Keys and certificates are
//! read by the code that `serve` reads them with, so that nothing is called well that `serve` refuses.
//!
//! Nothing here is to be believed: it is what somebody pasted. A private key is looked at and let go; its
//! public numbers are all that stays.

use secrecy::SecretString;

use super::certificate::GivenCertificate;
use super::jwk::JwkDocument;
use super::token::UnverifiedToken;
use crate::keys::{PemQuirks, PrivateKey, PrivateKeyError, PublicNumbers, UnreadableKey, parse_public_key};

/// A piece of what was given, and how it was named.
pub enum Material {
    Key(GivenKey),
    /// A public key alone, as `openssl pkey -pubout` writes it.
    PublicKey {
        about: String,
        numbers: PublicNumbers,
    },
    Certificate(GivenCertificate),
    Jwk(JwkDocument),
    Token(UnverifiedToken),
}

/// A private key's file.
pub struct GivenKey {
    pub about: String,
    pub read: Result<PublicNumbers, PrivateKeyError>,
    /// What is odd about its text.
    pub pem_quirks: PemQuirks,
    pub readers: Readers,
}

/// Who can read a private key's file.
#[derive(Clone)]
pub enum Readers {
    Ours,
    /// Others too: why the service would not open it.
    Others(String),
    /// It came through a pipe.
    Unknown,
}

impl GivenKey {
    fn read(about: &str, key: Result<PrivateKey, PrivateKeyError>, readers: Readers) -> Self {
        let pem_quirks = key.as_ref().map(|key| key.pem_quirks.clone()).unwrap_or_default();
        let read = key.map(|key| key.public.numbers());
        Self { about: about.to_owned(), read, pem_quirks, readers }
    }
}

impl Material {
    /// Why no key can be read from it.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Key(key) => key.read.as_ref().err().map(ToString::to_string),
            Self::Certificate(certificate) => certificate.read.as_ref().err().cloned(),
            Self::Jwk(_) | Self::Token(_) | Self::PublicKey { .. } => None,
        }
    }

    /// What is odd about how it is written.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Key(key) => key.pem_quirks.warning(),
            Self::Certificate(certificate) => certificate.pem_quirks.warning(),
            Self::Jwk(_) | Self::Token(_) | Self::PublicKey { .. } => None,
        }
    }
}

/// Why a text is none of them.
pub const UNKNOWN: &str = "holds no PEM key, no certificate, no JWK or JWK Set, and no JWT";

/// Says what the bytes of a file are: of `KID.key` a key, of `KID.crt` a certificate, else what they look like.
///
/// `about` is what messages call it; `passphrases` are tried where it is encrypted.
///
/// # Errors
/// Says what it is instead of something that the doctor looks at, and its name.
pub fn recognise(
    about: &str,
    bytes: &[u8],
    readers: Readers,
    passphrases: &[&SecretString],
) -> Result<Material, String> {
    let unreadable = |why: UnreadableKey| match why {
        UnreadableKey::Configuration | UnreadableKey::Schedule | UnreadableKey::Binary => {
            Err(format!("{about}: {why}"))
        }
        UnreadableKey::NotPem | UnreadableKey::Empty => Err(format!("{about} {UNKNOWN}")),
        UnreadableKey::BareCertificate | UnreadableKey::DerCertificate => {
            Ok(Material::Certificate(GivenCertificate::refused(about, why.to_string())))
        }
        _ => Ok(Material::Key(GivenKey::read(about, Err(why.into()), readers.clone()))),
    };
    let (is_key, is_certificate) = (about.ends_with(".key"), about.ends_with(".crt"));
    let text = match crate::keys::decode_key_text(bytes) {
        Ok(text) => text,
        Err(why) if is_certificate => {
            return Ok(Material::Certificate(GivenCertificate::refused(about, why.to_string())));
        }
        Err(why) if is_key => return Ok(Material::Key(GivenKey::read(about, Err(why.into()), readers))),
        Err(why) => return unreadable(why),
    };
    let secret = SecretString::from(text);
    let private_key = || match PrivateKey::parse(&secret, None) {
        Err(PrivateKeyError::Unreadable(UnreadableKey::NoPassphrase)) if !passphrases.is_empty() => {
            let mut opened =
                passphrases.iter().map(|passphrase| PrivateKey::parse(&secret, Some(passphrase)));
            let is_open = |read: &Result<_, PrivateKeyError>| {
                !matches!(read, Err(PrivateKeyError::Unreadable(UnreadableKey::WrongPassphrase)))
            };
            opened.find(is_open).unwrap_or(Err(PrivateKeyError::Unreadable(UnreadableKey::WrongPassphrase)))
        }
        read => read,
    };
    let plain = text.trim_start_matches('\u{feff}').trim();
    let holds = |words: &str| plain.contains(words);
    let is_json = plain.starts_with(['{', '[']);
    let token = || Ok(Material::Token(UnverifiedToken::read(about, text)));
    let certificate = || Ok(Material::Certificate(GivenCertificate::from_pem(about, text)));
    let key = |read| Ok(Material::Key(GivenKey::read(about, read, readers.clone())));
    match () {
        () if is_certificate => return certificate(),
        () if is_key => return key(private_key()),
        // PEM text may stand in it.
        () if is_json && (holds("\"kty\"") || holds("\"keys\"")) => {
            return Ok(Material::Jwk(JwkDocument::read(about, text.trim())));
        }
        () if !holds("-----BEGIN ") && UnverifiedToken::stands_in(plain) => return token(),
        () => {}
    }
    match private_key() {
        Err(PrivateKeyError::Unreadable(UnreadableKey::NotPem | UnreadableKey::Jwt))
            if is_json || holds("{") =>
        {
            Ok(Material::Jwk(JwkDocument::read(about, text.trim())))
        }
        Err(PrivateKeyError::Unreadable(UnreadableKey::NotPem | UnreadableKey::Jwt))
            if plain.matches('.').count() >= 2 =>
        {
            token()
        }
        Err(PrivateKeyError::Unreadable(UnreadableKey::Certificate | UnreadableKey::Chain(_))) => {
            certificate()
        }
        Err(PrivateKeyError::Unreadable(UnreadableKey::PublicKey))
            if let Some(numbers) = parse_public_key(plain) =>
        {
            Ok(Material::PublicKey { about: about.to_owned(), numbers })
        }
        Err(PrivateKeyError::Unreadable(why)) => unreadable(why),
        read => key(read),
    }
}
