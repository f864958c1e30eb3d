//! Detects the format of supplied files: PEM keys, certificates, JWKs and JWTs.
//!
//! Keys and certificates are parsed by the same code as in `serve`, so that the doctor and `serve` agree on which files are
//! readable. All input is untrusted. Only the public numbers of a private key are kept.

use secrecy::SecretString;

use super::certificate::GivenCertificate;
use super::jwk::JwkDocument;
use super::token::UnverifiedToken;
use crate::keys::{PemQuirks, PrivateKey, PrivateKeyError, PublicNumbers, UnreadableKey, parse_public_key};

/// One supplied item. `about` is its label in messages.
pub enum Artifact {
    Key(GivenKey),
    /// A public key alone: the output of `openssl pkey -pubout`.
    PublicKey {
        about: String,
        numbers: PublicNumbers,
    },
    Certificate(GivenCertificate),
    Jwk(JwkDocument),
    Token(UnverifiedToken),
}

/// The file of a private key.
pub struct GivenKey {
    pub(crate) about: String,
    pub(crate) parsed: Result<PublicNumbers, PrivateKeyError>,
    /// Deviations from plain PEM that were corrected.
    pub(crate) pem_quirks: PemQuirks,
    pub(crate) access: FileAccess,
}

/// Whether others can access the file of a private key, by the rules of the service.
#[derive(Clone)]
pub enum FileAccess {
    /// The service accepts the file.
    OwnerOnly,
    /// Holds the reason why the service rejects the file, for example a mode or a foreign owner.
    Others(String),
    /// The key came through a pipe or from standard input.
    Unknown,
}

impl GivenKey {
    fn parse(about: &str, key: Result<PrivateKey, PrivateKeyError>, access: FileAccess) -> Self {
        let pem_quirks = key.as_ref().map(|key| key.pem_quirks.clone()).unwrap_or_default();
        let parsed = key.map(|key| key.public.numbers());
        Self { about: about.to_owned(), parsed, pem_quirks, access }
    }
}

impl Artifact {
    /// Why a key file or a certificate file can't be parsed. `None` if it can, and for other artifacts.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Key(key) => key.parsed.as_ref().err().map(ToString::to_string),
            Self::Certificate(certificate) => certificate.parsed.as_ref().err().cloned(),
            Self::Jwk(_) | Self::Token(_) | Self::PublicKey { .. } => None,
        }
    }

    /// A warning about deviations from plain PEM.
    pub(crate) fn warning(&self) -> Option<String> {
        match self {
            Self::Key(key) => key.pem_quirks.warning(),
            Self::Certificate(certificate) => certificate.pem_quirks.warning(),
            Self::Jwk(_) | Self::Token(_) | Self::PublicKey { .. } => None,
        }
    }
}

/// The error for a file in none of the known formats.
pub(crate) const UNRECOGNISED: &str = "holds no PEM key, no certificate, no JWK or JWK Set, and no JWT";

/// Detects what a file holds: `*.key` is a key, `*.crt` is a certificate, and other names are judged by their content.
///
/// `about` is the label for messages, and ends with the file's name. `passphrases` are tried in turn on an encrypted key.
///
/// # Errors
/// The file holds no artifact that the doctor examines. The message begins with the label.
pub fn detect_artifact(
    about: &str,
    bytes: &[u8],
    access: FileAccess,
    passphrases: &[&SecretString],
) -> Result<Artifact, String> {
    let unreadable = |why: UnreadableKey| match why {
        UnreadableKey::Configuration | UnreadableKey::Schedule | UnreadableKey::Binary => {
            Err(format!("{about}: {why}"))
        }
        UnreadableKey::NotPem | UnreadableKey::Empty => Err(format!("{about} {UNRECOGNISED}")),
        UnreadableKey::BareCertificate | UnreadableKey::DerCertificate => {
            Ok(Artifact::Certificate(GivenCertificate::unreadable(about, why.to_string())))
        }
        _ => Ok(Artifact::Key(GivenKey::parse(about, Err(why.into()), access.clone()))),
    };
    let (is_key, is_certificate) = (about.ends_with(".key"), about.ends_with(".crt"));
    let text = match crate::keys::decode_key_text(bytes) {
        Ok(text) => text,
        Err(why) if is_certificate => {
            return Ok(Artifact::Certificate(GivenCertificate::unreadable(about, why.to_string())));
        }
        Err(why) if is_key => return Ok(Artifact::Key(GivenKey::parse(about, Err(why.into()), access))),
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
    let token = || Ok(Artifact::Token(UnverifiedToken::parse(about, text)));
    let certificate = || Ok(Artifact::Certificate(GivenCertificate::from_pem(about, text)));
    let key = |read| Ok(Artifact::Key(GivenKey::parse(about, read, access.clone())));
    match () {
        () if is_certificate => return certificate(),
        () if is_key => return key(private_key()),
        // Before PEM: a JWK may contain PEM text.
        () if is_json && (holds("\"kty\"") || holds("\"keys\"")) => {
            return Ok(Artifact::Jwk(JwkDocument::parse(about, text.trim())));
        }
        () if !holds("-----BEGIN ") && UnverifiedToken::occurs_in(plain) => return token(),
        () => {}
    }
    match private_key() {
        Err(PrivateKeyError::Unreadable(UnreadableKey::NotPem | UnreadableKey::Jwt))
            if is_json || holds("{") =>
        {
            Ok(Artifact::Jwk(JwkDocument::parse(about, text.trim())))
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
            Ok(Artifact::PublicKey { about: about.to_owned(), numbers })
        }
        Err(PrivateKeyError::Unreadable(why)) => unreadable(why),
        read => key(read),
    }
}
