//! PEM text -> the numbers of one RSA private key, or the name of what was found in its place.
//!
//! PKCS#1 (`RSA PRIVATE KEY`), PKCS#8 (`PRIVATE KEY`) and encrypted PKCS#8 (`ENCRYPTED PRIVATE KEY`, RFC 5958
//! with the schemes of RFC 8018). Every copy of the key made on the way is wiped.

use base64::engine::general_purpose::STANDARD;
use base64::{Engine as _, decoded_len_estimate};
use rsa::BigUint;
use rsa::pkcs1::RsaPrivateKey as Pkcs1;
use rsa::pkcs8::der::asn1::ObjectIdentifier;
use rsa::pkcs8::der::{Decode as _, SecretDocument};
use rsa::pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use zeroize::Zeroizing;

/// What stands where an RSA private key should.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unreadable {
    #[error("it is empty")]
    Empty,
    #[error(
        "it isn't PEM text: a key file begins with -----BEGIN PRIVATE KEY----- (from DER: `openssl rsa -inform DER -in FILE -out KID.key`)"
    )]
    NotPem,
    #[error("it holds {0} PEM blocks; a key file holds one private key and nothing else")]
    SeveralBlocks(usize),
    #[error("it is cut short: the PEM block has no end")]
    CutShort,
    #[error("it is a certificate, not a private key; a certificate goes beside the key, as KID.crt")]
    Certificate,
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
    #[error("the passphrase doesn't open it")]
    WrongPassphrase,
    #[error(
        "it is encrypted in a way that can't be read; convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW`"
    )]
    UnknownEncryption,
    #[error("it is a PEM block of another kind, not a private key")]
    OtherBlock,
    #[error("its PEM text is broken: lines are missing or changed")]
    BrokenPem,
    #[error("its contents are broken: it is no whole RSA private key")]
    BrokenDer,
    #[error("it has more than two primes, which Salesforce's verifiers and ours don't expect")]
    MultiPrime,
}

/// Key text as people paste it into a variable: real newlines, `\n` written out, or base64 of the PEM.
pub fn unfold(text: &SecretString) -> SecretString {
    let text = text.expose_secret().trim();
    if text.contains("-----BEGIN") {
        let lines = text.split("\\n").flat_map(|line| line.split("\\r").chain(["\n"]));
        return SecretString::from(joined(lines, text.len() + 1).as_str());
    }
    let compact = joined(text.split_whitespace(), text.len());
    let mut bytes = Zeroizing::new(vec![0; decoded_len_estimate(compact.len())]);
    let decoded = STANDARD.decode_slice(compact.as_bytes(), &mut bytes).ok();
    let decoded = decoded.and_then(|length| std::str::from_utf8(&bytes[..length]).ok());
    decoded.map_or_else(|| SecretString::from(text), SecretString::from)
}

/// `parts` behind each other, `length` bytes at most: a text that grew would leave copies behind.
fn joined<'a>(parts: impl Iterator<Item = &'a str>, length: usize) -> Zeroizing<String> {
    let mut joined = Zeroizing::new(String::with_capacity(length));
    parts.for_each(|part| joined.push_str(part));
    joined
}

/// Modulus, public exponent and PKCS#1 DER of a key.
type Key = (BigUint, BigUint, SecretDocument);

/// Reads the one private key in PEM text.
pub(super) fn read(text: &SecretString, passphrase: Option<&SecretString>) -> Result<Key, Unreadable> {
    let text = text.expose_secret();
    let label = sole_block(text)?;
    match label {
        "RSA PRIVATE KEY" if text.contains("Proc-Type:") => Err(Unreadable::LegacyEncryption),
        "RSA PRIVATE KEY" => key(decode(text)?),
        "PRIVATE KEY" => from_pkcs8(&decode(text)?),
        "ENCRYPTED PRIVATE KEY" => {
            let document = decode(text)?;
            let encrypted = EncryptedPrivateKeyInfo::try_from(document.as_bytes())
                .map_err(|_| Unreadable::UnknownEncryption)?;
            let passphrase = passphrase.ok_or(Unreadable::NoPassphrase)?;
            let opened = encrypted.decrypt(passphrase.expose_secret());
            from_pkcs8(&opened.map_err(|_| Unreadable::WrongPassphrase)?)
        }
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => Err(Unreadable::Certificate),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Err(Unreadable::CertificateRequest),
        "PUBLIC KEY" | "RSA PUBLIC KEY" => Err(Unreadable::PublicKey),
        "EC PRIVATE KEY" | "EC PARAMETERS" => Err(Unreadable::NotRsa("an elliptic-curve (EC)")),
        "DSA PRIVATE KEY" => Err(Unreadable::NotRsa("a DSA")),
        "OPENSSH PRIVATE KEY" => Err(Unreadable::OpenSsh),
        _ => Err(Unreadable::OtherBlock),
    }
}

/// The label of the only PEM block.
fn sole_block(text: &str) -> Result<&str, Unreadable> {
    if text.trim().is_empty() {
        return Err(Unreadable::Empty);
    }
    let mut labels = text.split("-----BEGIN ").skip(1).filter_map(|rest| rest.split("-----").next());
    let label = labels.next().ok_or(Unreadable::NotPem)?;
    match labels.count() {
        // `openssl ecparam -genkey` writes the curve first.
        _ if label == "EC PARAMETERS" => Ok(label),
        0 if text.contains("-----END ") => Ok(label),
        0 => Err(Unreadable::CutShort),
        more => Err(Unreadable::SeveralBlocks(more + 1)),
    }
}

/// The first private key of any kind in PEM text, and its label; for TLS. Every copy is wiped.
pub fn first_private(text: &SecretString) -> Option<(&str, SecretDocument)> {
    let text = text.expose_secret();
    let blocks = text.match_indices("-----BEGIN ").map(|(at, _)| &text[at..]);
    let (label, block) = blocks
        .filter_map(|block| Some((block["-----BEGIN ".len()..].split("-----").next()?, block)))
        .find(|(label, _)| label.ends_with("PRIVATE KEY"))?;
    let end = format!("-----END {label}-----");
    let length = block.find(&end)? + end.len();
    let (_, document) = SecretDocument::from_pem(&block[..length]).ok()?;
    Some((label, document))
}

fn decode(text: &str) -> Result<SecretDocument, Unreadable> {
    let start = text.find("-----BEGIN ").ok_or(Unreadable::NotPem)?;
    let block = text.get(start..).unwrap_or_default().trim_end();
    SecretDocument::from_pem(block).map(|(_, document)| document).map_err(|_| Unreadable::BrokenPem)
}

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

fn from_pkcs8(document: &SecretDocument) -> Result<Key, Unreadable> {
    let info = PrivateKeyInfo::try_from(document.as_bytes()).map_err(|_| Unreadable::BrokenDer)?;
    match info.algorithm.oid {
        RSA => {}
        RSA_PSS => return Err(Unreadable::Pss),
        EC => return Err(Unreadable::NotRsa("an elliptic-curve (EC)")),
        ED25519 => return Err(Unreadable::NotRsa("an Ed25519")),
        _ => return Err(Unreadable::NotRsa("some other kind of")),
    }
    key(SecretDocument::try_from(info.private_key).map_err(|_| Unreadable::BrokenDer)?)
}

/// Numbers of a key, big-endian.
pub(super) struct CrtNumbers<'a> {
    /// `p`, `q`, `dP`, `dQ` and `qInv`.
    pub private: [&'a [u8]; 5],
    pub modulus: &'a [u8],
    pub public_exponent: &'a [u8],
}

/// Hands out what Chinese remainders need of a key in PKCS#8 DER.
pub(super) fn with_crt<T>(pkcs8: &[u8], take: impl FnOnce(&CrtNumbers<'_>) -> T) -> Option<T> {
    let info = PrivateKeyInfo::try_from(pkcs8).ok()?;
    let key = Pkcs1::from_der(info.private_key).ok()?;
    let private = [key.prime1, key.prime2, key.exponent1, key.exponent2, key.coefficient];
    Some(take(&CrtNumbers {
        private: private.map(|number| number.as_bytes()),
        modulus: key.modulus.as_bytes(),
        public_exponent: key.public_exponent.as_bytes(),
    }))
}

fn key(pkcs1: SecretDocument) -> Result<Key, Unreadable> {
    let key = Pkcs1::from_der(pkcs1.as_bytes()).map_err(|_| Unreadable::BrokenDer)?;
    if key.other_prime_infos.is_some() {
        return Err(Unreadable::MultiPrime);
    }
    let number = |bytes: rsa::pkcs1::UintRef<'_>| BigUint::from_bytes_be(bytes.as_bytes());
    Ok((number(key.modulus), number(key.public_exponent), pkcs1))
}
