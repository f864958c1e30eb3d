//! What people hold in their hands: PEM keys, certificates, JWKs and JWTs, recognised by what they are. Keys and certificates are
//! read by the code that `serve` reads them with, so that nothing is called well that `serve` refuses.
//!
//! Nothing here is to be believed: it is what somebody pasted. A private key is looked at and let go; its
//! public numbers are all that stays.

use secrecy::SecretString;

use super::certificate::GivenCertificate;
use super::jwk::JwkDocument;
use super::token::UnverifiedToken;
use crate::keys::{Numbers, Oddities, PrivateKey, Refused, Unreadable, public_numbers};

/// A piece of what was given, and how it was named.
pub enum Artifact {
    Key(GivenKey),
    /// A public key alone, as `openssl pkey -pubout` writes it.
    PublicKey {
        about: String,
        numbers: Numbers,
    },
    Certificate(GivenCertificate),
    Jwk(JwkDocument),
    Token(UnverifiedToken),
}

/// A private key's file.
pub struct GivenKey {
    pub about: String,
    pub parsed: Result<Numbers, Refused>,
    /// What is odd about its text.
    pub oddities: Oddities,
    pub access: FileAccess,
}

/// Who can read a private key's file.
#[derive(Clone)]
pub enum FileAccess {
    OwnerOnly,
    /// Others too: why the service would not open it.
    Others(String),
    /// It came through a pipe.
    Unknown,
}

impl GivenKey {
    fn parse(about: &str, key: Result<PrivateKey, Refused>, access: FileAccess) -> Self {
        let oddities = key.as_ref().map(|key| key.oddities.clone()).unwrap_or_default();
        let parsed = key.map(|key| key.public.numbers());
        Self { about: about.to_owned(), parsed, oddities, access }
    }
}

impl Artifact {
    /// Why no key can be read from it.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Key(key) => key.parsed.as_ref().err().map(ToString::to_string),
            Self::Certificate(certificate) => certificate.parsed.as_ref().err().cloned(),
            Self::Jwk(_) | Self::Token(_) | Self::PublicKey { .. } => None,
        }
    }

    /// What is odd about how it is written.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Key(key) => key.oddities.warning(),
            Self::Certificate(certificate) => certificate.oddities.warning(),
            Self::Jwk(_) | Self::Token(_) | Self::PublicKey { .. } => None,
        }
    }
}

/// Why a text is none of them.
pub const UNRECOGNISED: &str = "holds no PEM key, no certificate, no JWK or JWK Set, and no JWT";

/// Says what the bytes of a file are: of `KID.key` a key, of `KID.crt` a certificate, else what they look like.
///
/// `about` is what messages call it; `passphrases` are tried where it is encrypted.
///
/// # Errors
/// Says what it is instead of something that the doctor looks at, and its name.
pub fn detect_artifact(
    about: &str,
    bytes: &[u8],
    access: FileAccess,
    passphrases: &[&SecretString],
) -> Result<Artifact, String> {
    let unreadable = |why: Unreadable| match why {
        Unreadable::Configuration | Unreadable::Schedule | Unreadable::Binary => {
            Err(format!("{about}: {why}"))
        }
        Unreadable::NotPem | Unreadable::Empty => Err(format!("{about} {UNRECOGNISED}")),
        Unreadable::BareCertificate | Unreadable::DerCertificate => {
            Ok(Artifact::Certificate(GivenCertificate::unreadable(about, why.to_string())))
        }
        _ => Ok(Artifact::Key(GivenKey::parse(about, Err(why.into()), access.clone()))),
    };
    let (is_key, is_certificate) = (about.ends_with(".key"), about.ends_with(".crt"));
    let text = match crate::keys::text(bytes) {
        Ok(text) => text,
        Err(why) if is_certificate => {
            return Ok(Artifact::Certificate(GivenCertificate::unreadable(about, why.to_string())));
        }
        Err(why) if is_key => return Ok(Artifact::Key(GivenKey::parse(about, Err(why.into()), access))),
        Err(why) => return unreadable(why),
    };
    let secret = SecretString::from(text);
    let private_key = || match PrivateKey::parse(&secret, None) {
        Err(Refused::Unreadable(Unreadable::NoPassphrase)) if !passphrases.is_empty() => {
            let mut opened =
                passphrases.iter().map(|passphrase| PrivateKey::parse(&secret, Some(passphrase)));
            let is_open = |read: &Result<_, Refused>| {
                !matches!(read, Err(Refused::Unreadable(Unreadable::WrongPassphrase)))
            };
            opened.find(is_open).unwrap_or(Err(Refused::Unreadable(Unreadable::WrongPassphrase)))
        }
        read => read,
    };
    let plain = text.trim_start_matches('\u{feff}').trim();
    let holds = |words: &str| plain.contains(words);
    let is_json = plain.starts_with(['{', '[']);
    let token = || Ok(Artifact::Token(UnverifiedToken::parse(about, text)));
    let certificate = || Ok(Artifact::Certificate(GivenCertificate::from_pem(about, text)));
    let key = |read| Ok(Artifact::Key(GivenKey::parse(about, read, access.clone())));
    match () {
        () if is_certificate => return certificate(),
        () if is_key => return key(private_key()),
        // PEM text may stand in it.
        () if is_json && (holds("\"kty\"") || holds("\"keys\"")) => {
            return Ok(Artifact::Jwk(JwkDocument::parse(about, text.trim())));
        }
        () if !holds("-----BEGIN ") && UnverifiedToken::occurs_in(plain) => return token(),
        () => {}
    }
    match private_key() {
        Err(Refused::Unreadable(Unreadable::NotPem | Unreadable::Jwt)) if is_json || holds("{") => {
            Ok(Artifact::Jwk(JwkDocument::parse(about, text.trim())))
        }
        Err(Refused::Unreadable(Unreadable::NotPem | Unreadable::Jwt)) if plain.matches('.').count() >= 2 => {
            token()
        }
        Err(Refused::Unreadable(Unreadable::Certificate | Unreadable::Chain(_))) => certificate(),
        Err(Refused::Unreadable(Unreadable::PublicKey)) if let Some(numbers) = public_numbers(plain) => {
            Ok(Artifact::PublicKey { about: about.to_owned(), numbers })
        }
        Err(Refused::Unreadable(why)) => unreadable(why),
        read => key(read),
    }
}
