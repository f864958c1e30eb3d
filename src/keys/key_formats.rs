//! Identifies by its bytes a file that somebody put in the place of a key or a certificate, and says how to convert it.

use rsa::pkcs8::AlgorithmIdentifierRef;
use rsa::pkcs8::der::asn1::{AnyRef, ObjectIdentifier};
use rsa::pkcs8::der::{Decode as _, Reader as _, Tag, Tagged as _};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::ProfileKind;

/// The reasons why a file or a text can't be read as a private key or a certificate. All commands use these messages.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnreadableKey {
    #[error("it is empty")]
    Empty,
    #[error("it is larger than {} KiB, so it isn't a key", .0 >> 10)]
    TooLarge(u64),
    #[error("it isn't PEM text: a key file begins with -----BEGIN PRIVATE KEY-----")]
    NotPem,
    #[error(
        "it holds {0} PEM blocks; a key file holds one private key and nothing else; write each block to a file of its own with \
         `(umask 077; awk '/-----BEGIN /,/-----END / {{ if (/-----BEGIN /) n++; print > (\"NEW\" n) }}' KEY)`, and give the right one"
    )]
    SeveralBlocks(usize),
    #[error("it is cut short: the PEM block has no end")]
    CutShort,
    #[error("it is a certificate, not a private key; a certificate goes beside the key, as KID.crt")]
    Certificate,
    #[error(
        "it is a chain of {0} certificates, not a private key; certificates go beside the key, as KID.crt"
    )]
    Chain(usize),
    #[error("it is a certificate request, not a private key")]
    CertificateRequest,
    #[error("it is a public key; signing needs the private key of the pair")]
    PublicKey,
    #[error("it is {0} key; Salesforce takes RS256 and RS512, which need an RSA key")]
    NotRsa(&'static str),
    #[error("it is an RSA-PSS key, which can't sign RS256; make a plain RSA key")]
    Pss,
    #[error("it is in OpenSSH's own format; convert it with `ssh-keygen -p -m PKCS8 -f KEY`")]
    OpenSsh,
    #[error(
        "it is encrypted in the old OpenSSL way (Proc-Type: 4,ENCRYPTED); convert it with `openssl pkcs8 -topk8 -in KEY -out NEW`"
    )]
    LegacyEncryption,
    #[error(
        "it is encrypted and there is no passphrase; set `passphrase_file` (or `passphrase`) of its keyset"
    )]
    NoPassphrase,
    #[error(
        "it is encrypted, and a listener has no passphrase; decrypt it with `openssl pkey -in KEY -out NEW`"
    )]
    EncryptedListenerKey,
    #[error("the passphrase doesn't open it")]
    WrongPassphrase,
    /// Holds the options that OpenSSL needs to decrypt it.
    #[error(
        "it is encrypted in a way that can't be read; convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in \
         KEY -out NEW{0}`"
    )]
    UnknownEncryption(&'static str),
    #[error("it is a PEM block of another kind, not a private key")]
    OtherBlock,
    #[error("its PEM text is broken: lines are missing or changed")]
    BrokenPem,
    #[error(
        "its contents are broken: not a complete RSA private key; restore it, or create a key with `tokenmint keys new`"
    )]
    BrokenDer,
    #[error(
        "it has more than two primes, which Salesforce's verifiers and tokenmint don't expect; create a key with `tokenmint keys new`"
    )]
    MultiPrime,

    #[error(
        "it isn't PEM text but UTF-16, as Windows writes it; convert it with `iconv -f {0} -t UTF-8 FILE > NEW`"
    )]
    Utf16(&'static str),
    #[error("it isn't PEM text but binary data of an unknown kind")]
    Binary,
    #[error(
        "it isn't PEM text but a Java keystore; convert it with `keytool -importkeystore -srckeystore FILE -destkeystore NEW.p12 \
         -deststoretype PKCS12`, and then with `openssl pkcs12 -in NEW.p12 -nocerts -nodes | openssl pkey -out KID.key`"
    )]
    JavaKeystore,
    #[error(
        "it isn't PEM text but a PKCS#12 keystore (.p12, .pfx); convert it with `openssl pkcs12 -in FILE -nocerts -nodes | openssl \
         pkey -out KID.key`, and with -legacy behind pkcs12 where OpenSSL says `unsupported`"
    )]
    Pkcs12,
    /// Holds the option that OpenSSL needs to read it.
    #[error(
        "it is a PKCS#7 bundle of certificates (.p7b); convert it with `openssl pkcs7{0} -in FILE -print_certs -out KID.crt`"
    )]
    Pkcs7(&'static str),
    #[error(
        "it isn't PEM text but a private key in DER form; convert it with `openssl pkey -inform DER -in FILE -out KID.key`"
    )]
    DerKey,
    #[error(
        "it isn't PEM text but an encrypted private key in DER form; convert it with `openssl pkcs8 -topk8 -inform DER -in FILE -out \
         KID.key`"
    )]
    DerEncryptedKey,
    #[error(
        "it isn't PEM text but a certificate in DER form; convert it with `openssl x509 -inform DER -in FILE -out KID.crt`"
    )]
    DerCertificate,
    #[error("it isn't PEM text but a public key in DER form; signing needs the private key of the pair")]
    DerPublicKey,
    #[error(
        "it is the base64 of a private key without the lines -----BEGIN and -----END; convert it with `base64 -d FILE | openssl pkey \
         -inform DER -out KID.key`"
    )]
    BareKey,
    #[error(
        "it is the base64 of a certificate without the lines -----BEGIN and -----END; convert it with `base64 -d FILE | openssl x509 \
         -inform DER -out KID.crt`"
    )]
    BareCertificate,
    #[error(
        "it is a public SSH key; signing needs the private key, and that as PEM: `ssh-keygen -p -m PKCS8 -f KEY` converts it in its \
         place"
    )]
    SshPublicKey,
    #[error(
        "it is a key of PuTTY; convert it with `puttygen FILE -O private-openssh -o NEW`, and then with `ssh-keygen -p -m PKCS8 -f NEW`"
    )]
    Putty,
    #[error("it is a JWK, not PEM text; signing needs the private key as PEM")]
    Jwk,
    #[error("it is a JWK Set, which holds public keys; signing needs the private key, as PEM")]
    JwkSet,
    #[error("it is a JWT, not a key")]
    Jwt,
    #[error(
        "it is a configuration of tokenmint; name it with --config, as in `tokenmint check --config FILE`"
    )]
    Configuration,
    #[error(
        "it is a keyset.toml, which says when keys sign; it goes beside the key files, in the `directory` of a keyset"
    )]
    Schedule,
}

/// Decodes `bytes` as UTF-8 text without null characters.
///
/// # Errors
/// Says what the bytes are instead.
pub(crate) fn decode_key_text(bytes: &[u8]) -> Result<&str, UnreadableKey> {
    let other = || match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => UnreadableKey::Utf16("UTF-16"),
        [0xfe, 0xed, 0xfe, 0xed, ..] | [0xce, 0xce, 0xce, 0xce, ..] => UnreadableKey::JavaKeystore,
        // A file system may fill a file with zeros after a crash.
        [0, 0, ..] => UnreadableKey::Binary,
        [_, 0, _, 0, ..] => UnreadableKey::Utf16("UTF-16LE"),
        [0, _, 0, _, ..] => UnreadableKey::Utf16("UTF-16BE"),
        _ => match DerKind::of(bytes) {
            Some(DerKind::Pkcs1 | DerKind::Pkcs8 | DerKind::Ec) => UnreadableKey::DerKey,
            Some(DerKind::EncryptedPkcs8) => UnreadableKey::DerEncryptedKey,
            Some(DerKind::PublicKey) => UnreadableKey::DerPublicKey,
            Some(DerKind::Certificate) => UnreadableKey::DerCertificate,
            Some(DerKind::Pkcs12) => UnreadableKey::Pkcs12,
            Some(DerKind::Pkcs7) => UnreadableKey::Pkcs7(" -inform DER"),
            None => UnreadableKey::Binary,
        },
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(other()),
    }
}

/// Identifies a text without PEM blocks. `decoded` holds the binary data if the text is its base64.
pub(super) fn identify_text(text: &str, decoded: Option<&[u8]>) -> UnreadableKey {
    match decoded.and_then(DerKind::of) {
        Some(DerKind::Certificate) => return UnreadableKey::BareCertificate,
        Some(DerKind::Pkcs1 | DerKind::Pkcs8 | DerKind::EncryptedPkcs8 | DerKind::Ec) => {
            return UnreadableKey::BareKey;
        }
        Some(DerKind::PublicKey) => return UnreadableKey::PublicKey,
        Some(DerKind::Pkcs12) => return UnreadableKey::Pkcs12,
        Some(DerKind::Pkcs7) => return UnreadableKey::Pkcs7(" -inform DER"),
        None => {}
    }
    let begins = |words: &[&str]| words.iter().any(|word| text.starts_with(word));
    // Whether a line begins a section of tokenmint's own configuration.
    let is_section = |line: &str| {
        let sections = ProfileKind::ALL.iter().map(|kind| kind.section()).chain(["keysets", "callers"]);
        let is_in = |section| Some(line.strip_prefix('[')?.strip_prefix(section)?.starts_with('.'));
        line.starts_with("[server") || sections.into_iter().any(|section| is_in(section) == Some(true))
    };
    let mut lines = text.lines().map(str::trim);
    match () {
        () if text.is_empty() => UnreadableKey::Empty,
        () if begins(&["ssh-", "ecdsa-sha2-", "---- BEGIN SSH2"]) => UnreadableKey::SshPublicKey,
        () if begins(&["PuTTY-User-Key-File-"]) => UnreadableKey::Putty,
        // The text isn't parsed: it may hold a private key, and a parser would leave copies in memory.
        () if begins(&["{", "["]) && text.contains("\"keys\"") => UnreadableKey::JwkSet,
        () if begins(&["{"]) && text.contains("\"kty\"") => UnreadableKey::Jwk,
        () if begins(&["eyJ"]) && text.matches('.').count() == 2 => UnreadableKey::Jwt,
        () if lines.clone().any(|line| line == "[[key]]") => UnreadableKey::Schedule,
        () if lines.any(is_section) => UnreadableKey::Configuration,
        () => UnreadableKey::NotPem,
    }
}

/// The kind of a DER structure, by its outermost members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DerKind {
    /// `RSAPrivateKey` (RFC 8017).
    Pkcs1,
    /// `PrivateKeyInfo` (RFC 5958).
    Pkcs8,
    /// `EncryptedPrivateKeyInfo` (RFC 5958).
    EncryptedPkcs8,
    /// `ECPrivateKey` (RFC 5915).
    Ec,
    /// `SubjectPublicKeyInfo` or `RSAPublicKey`.
    PublicKey,
    Certificate,
    /// `PFX` (RFC 7292).
    Pkcs12,
    /// `ContentInfo` (RFC 2315).
    Pkcs7,
}

impl DerKind {
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        match member_tags(der)?.as_slice() {
            [Tag::Integer, Tag::Integer] | [Tag::Sequence, Tag::BitString] => Some(Self::PublicKey),
            [Tag::Integer, Tag::Integer, ..] => Some(Self::Pkcs1),
            [Tag::Integer, Tag::Sequence, Tag::OctetString, ..] => Some(Self::Pkcs8),
            [Tag::Integer, Tag::OctetString, ..] => Some(Self::Ec),
            [Tag::Integer, Tag::Sequence, ..] => Some(Self::Pkcs12),
            [Tag::Sequence, Tag::OctetString] => Some(Self::EncryptedPkcs8),
            [Tag::ObjectIdentifier, Tag::ContextSpecific { .. }] => Some(Self::Pkcs7),
            [Tag::Sequence, Tag::Sequence, Tag::BitString] => {
                X509Certificate::from_der(der).is_ok().then_some(Self::Certificate)
            }
            _ => None,
        }
    }

    /// The label of its PEM block if it is a private key (RFC 7468, RFC 5915; `RSA PRIVATE KEY` is OpenSSL's).
    pub(crate) const fn label(self) -> Option<&'static str> {
        match self {
            Self::Pkcs1 => Some("RSA PRIVATE KEY"),
            Self::Pkcs8 => Some("PRIVATE KEY"),
            Self::EncryptedPkcs8 => Some("ENCRYPTED PRIVATE KEY"),
            Self::Ec => Some("EC PRIVATE KEY"),
            Self::PublicKey | Self::Certificate | Self::Pkcs12 | Self::Pkcs7 => None,
        }
    }
}

/// The scheme of an `EncryptedPrivateKeyInfo`, and the cipher if that scheme is PBES2 (RFC 8018, section 6.2).
pub(super) fn encryption_scheme(der: &[u8]) -> Option<(ObjectIdentifier, Option<ObjectIdentifier>)> {
    let algorithm = AnyRef::from_der(der).ok()?.sequence(|reader| {
        let algorithm = AlgorithmIdentifierRef::decode(reader)?;
        AnyRef::decode(reader)?;
        Ok(algorithm)
    });
    let algorithm = algorithm.ok()?;
    let cipher = algorithm.parameters.and_then(|parameters| {
        let cipher = parameters.sequence(|reader| {
            AnyRef::decode(reader)?;
            Ok(AlgorithmIdentifierRef::decode(reader)?.oid)
        });
        cipher.ok()
    });
    Some((algorithm.oid, cipher))
}

/// The tags of a SEQUENCE's members.
fn member_tags(der: &[u8]) -> Option<Vec<Tag>> {
    let sequence = AnyRef::from_der(der).ok()?;
    let tags = sequence.sequence(|reader| {
        let mut tags = Vec::new();
        while !reader.is_finished() {
            tags.push(AnyRef::decode(reader)?.tag());
        }
        Ok(tags)
    });
    tags.ok()
}
