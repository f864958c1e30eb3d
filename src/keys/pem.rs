//! Parses PEM text into the numbers of one RSA private key, or into an error that names the actual contents.
//!
//! It reads PKCS#1 (`RSA PRIVATE KEY`), PKCS#8 (`PRIVATE KEY`) and encrypted PKCS#8 (`ENCRYPTED PRIVATE KEY`, RFC 5958
//! with the schemes of RFC 8018), identified by their contents. Every copy of the key made meanwhile is zeroized
//! when dropped.

use rsa::BigUint;
use rsa::pkcs1::{RsaPrivateKey as Pkcs1, RsaPublicKey as PublicPkcs1};
use rsa::pkcs8::der::Decode as _;
use rsa::pkcs8::der::asn1::ObjectIdentifier;
use rsa::pkcs8::pkcs5::EncryptionScheme;
use rsa::pkcs8::pkcs5::pbes2::{Kdf, Pbkdf2Prf};
use rsa::pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo, SubjectPublicKeyInfoRef};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::key_formats::{self, DerKind, UnreadableKey};
use super::pem_text::{PemBlock, PemQuirk, PemQuirks, PemText};
use super::public_numbers::PublicNumbers;

/// The largest private key file that is read. An encrypted 8192-bit key takes less than 10 KiB.
pub(super) const MAX_KEY_FILE_BYTES: u64 = 64 << 10;

/// Modulus, public exponent and PKCS#1 DER of a key.
type ParsedKey = (BigUint, BigUint, Zeroizing<Vec<u8>>);

/// Parses the only private key in a text, and lists the text's quirks.
pub(super) fn parse_private_key(
    text: &SecretString,
    passphrase: Option<&SecretString>,
) -> Result<(ParsedKey, PemQuirks), UnreadableKey> {
    let text = text.expose_secret();
    if text.len() as u64 > MAX_KEY_FILE_BYTES {
        return Err(UnreadableKey::TooLarge(MAX_KEY_FILE_BYTES));
    }
    let pem_text = PemText::parse(text);
    let (blocks, mut pem_quirks) = pem_text.blocks()?;
    let block = only_block(&blocks)?;
    match block.label {
        "RSA PRIVATE KEY" if block.is_encrypted_by_header() => Err(UnreadableKey::LegacyEncryption),
        "RSA PRIVATE KEY" | "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => {
            let document = block.decode(&mut pem_quirks)?;
            let kind = DerKind::of(&document);
            let key = match kind {
                Some(DerKind::Pkcs1) => from_pkcs1(document),
                Some(DerKind::Pkcs8) => from_pkcs8(&document),
                Some(DerKind::EncryptedPkcs8) => decrypt_pkcs8(&document, passphrase),
                Some(DerKind::Ec) => Err(UnreadableKey::NotRsa("an elliptic-curve (EC)")),
                Some(DerKind::PublicKey) => Err(UnreadableKey::PublicKey),
                Some(DerKind::Certificate) => Err(UnreadableKey::Certificate),
                Some(DerKind::Pkcs12) => Err(UnreadableKey::Pkcs12),
                Some(DerKind::Pkcs7) => Err(UnreadableKey::Pkcs7(" -inform DER")),
                None if block.label == "ENCRYPTED PRIVATE KEY" => Err(UnreadableKey::UnknownEncryption("")),
                None => Err(UnreadableKey::BrokenDer),
            }?;
            if kind.and_then(DerKind::label) != Some(block.label) {
                pem_quirks.add(PemQuirk::Label);
            }
            Ok((key, pem_quirks))
        }
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => Err(UnreadableKey::Certificate),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Err(UnreadableKey::CertificateRequest),
        "PUBLIC KEY" | "RSA PUBLIC KEY" => Err(UnreadableKey::PublicKey),
        "PKCS7" | "CMS" => Err(UnreadableKey::Pkcs7("")),
        "EC PRIVATE KEY" | "EC PARAMETERS" => Err(UnreadableKey::NotRsa("an elliptic-curve (EC)")),
        "DSA PRIVATE KEY" => Err(UnreadableKey::NotRsa("a DSA")),
        "OPENSSH PRIVATE KEY" => Err(UnreadableKey::OpenSsh),
        _ => Err(UnreadableKey::OtherBlock),
    }
}

/// Parses PEM text that holds one RSA public key; `None` if it holds something else.
pub(crate) fn parse_public_key(text: &str) -> Option<PublicNumbers> {
    let pem_text = PemText::parse(text);
    let (blocks, mut pem_quirks) = pem_text.blocks().ok()?;
    let der = only_block(&blocks).ok()?.decode(&mut pem_quirks).ok()?;
    let info = SubjectPublicKeyInfoRef::try_from(der.as_slice()).ok();
    let of_info = info.as_ref().and_then(|info| info.subject_public_key.as_bytes());
    let key = PublicPkcs1::from_der(of_info.unwrap_or(&der)).ok()?;
    Some(PublicNumbers::new(key.modulus.as_bytes(), key.public_exponent.as_bytes()))
}

fn only_block<'a>(blocks: &[PemBlock<'a>]) -> Result<PemBlock<'a>, UnreadableKey> {
    match blocks {
        [block] => Ok(*block),
        // `openssl ecparam -genkey` writes the curve first.
        [first, ..] if first.label == "EC PARAMETERS" => Ok(*first),
        several if several.iter().all(|block| block.label == "CERTIFICATE") => {
            Err(UnreadableKey::Chain(several.len()))
        }
        several => Err(UnreadableKey::SeveralBlocks(several.len())),
    }
}

/// The private key of a TLS listener, of any kind.
pub(crate) struct ListenerKey {
    /// The label of its PEM block.
    pub(crate) label: String,
    pub(crate) der: Zeroizing<Vec<u8>>,
    /// The quirks of its text.
    pub(crate) pem_quirks: PemQuirks,
}

/// Parses the first private key in a TLS listener's text. Every copy is zeroized when dropped.
///
/// # Errors
/// Says what the text holds instead.
pub(crate) fn parse_listener_key(text: &SecretString) -> Result<ListenerKey, UnreadableKey> {
    let pem_text = PemText::parse(text.expose_secret());
    let (blocks, mut pem_quirks) = pem_text.blocks()?;
    let block =
        blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")).ok_or(UnreadableKey::NotPem)?;
    match block.label {
        "ENCRYPTED PRIVATE KEY" => return Err(UnreadableKey::EncryptedListenerKey),
        _ if block.is_encrypted_by_header() => return Err(UnreadableKey::EncryptedListenerKey),
        "OPENSSH PRIVATE KEY" => return Err(UnreadableKey::OpenSsh),
        _ => {}
    }
    let der = block.decode(&mut pem_quirks)?;
    Ok(ListenerKey { label: block.label.to_owned(), der, pem_quirks })
}

fn decrypt_pkcs8(document: &[u8], passphrase: Option<&SecretString>) -> Result<ParsedKey, UnreadableKey> {
    // The crate `rsa` decrypts PBES2 with scrypt, or with PBKDF2 and another PRF than HMAC-SHA-1. It decrypts no other scheme.
    let is_known = |scheme: &EncryptionScheme<'_>| match scheme.pbes2().map(|scheme| &scheme.kdf) {
        Some(Kdf::Pbkdf2(parameters)) => parameters.prf != Pbkdf2Prf::HmacWithSha1,
        kdf => kdf.is_some(),
    };
    let encrypted = EncryptedPrivateKeyInfo::try_from(document).ok();
    let encrypted = encrypted
        .filter(|encrypted| is_known(&encrypted.encryption_algorithm))
        .ok_or_else(|| UnreadableKey::UnknownEncryption(openssl_options(document)))?;
    let passphrase = passphrase.ok_or(UnreadableKey::NoPassphrase)?;
    // With a wrong passphrase, decryption mostly fails at the padding. Rarely it succeeds, and then the key doesn't parse.
    let opened = encrypted.decrypt(passphrase.expose_secret()).map_err(|_| UnreadableKey::WrongPassphrase)?;
    from_pkcs8(opened.as_bytes()).map_err(|why| match why {
        UnreadableKey::BrokenDer => UnreadableKey::WrongPassphrase,
        other => other,
    })
}

/// The further options with which `openssl` opens an encrypted key, often none. OpenSSL 3 has moved the weakest schemes to
/// another provider.
fn openssl_options(document: &[u8]) -> &'static str {
    const LEGACY: &str = " -provider legacy -provider default";
    match key_formats::encryption_scheme(document) {
        Some((PBES2, Some(DES_CBC | RC2_CBC))) => LEGACY,
        None | Some((PBES2 | SHA1_3DES | SHA1_2DES, _)) => "",
        Some(_) => LEGACY,
    }
}

const PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");
/// `pbeWithSHAAnd3-KeyTripleDES-CBC` and `…2-Key…` (RFC 7292, appendix C).
const SHA1_3DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.3");
const SHA1_2DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.4");
const DES_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.7");
const RC2_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.3.2");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

fn from_pkcs8(document: &[u8]) -> Result<ParsedKey, UnreadableKey> {
    let info = PrivateKeyInfo::try_from(document).map_err(|_| UnreadableKey::BrokenDer)?;
    match info.algorithm.oid {
        RSA => {}
        RSA_PSS => return Err(UnreadableKey::Pss),
        EC => return Err(UnreadableKey::NotRsa("an elliptic-curve (EC)")),
        ED25519 => return Err(UnreadableKey::NotRsa("an Ed25519")),
        _ => return Err(UnreadableKey::NotRsa("some other kind of")),
    }
    from_pkcs1(Zeroizing::new(info.private_key.to_vec()))
}

/// The numbers of a private key in Chinese remainder form, big-endian.
pub(super) struct CrtNumbers<'a> {
    /// `p`, `q`, `dP`, `dQ` and `qInv`.
    pub(crate) private: [&'a [u8]; 5],
    pub(crate) modulus: &'a [u8],
    pub(crate) public_exponent: &'a [u8],
}

/// Calls `take` with the numbers of a key in PKCS#8 DER.
pub(super) fn with_crt_numbers<T>(pkcs8: &[u8], take: impl FnOnce(&CrtNumbers<'_>) -> T) -> Option<T> {
    let info = PrivateKeyInfo::try_from(pkcs8).ok()?;
    let key = Pkcs1::from_der(info.private_key).ok()?;
    let private = [key.prime1, key.prime2, key.exponent1, key.exponent2, key.coefficient];
    Some(take(&CrtNumbers {
        private: private.map(|number| number.as_bytes()),
        modulus: key.modulus.as_bytes(),
        public_exponent: key.public_exponent.as_bytes(),
    }))
}

fn from_pkcs1(pkcs1: Zeroizing<Vec<u8>>) -> Result<ParsedKey, UnreadableKey> {
    let key = Pkcs1::from_der(&pkcs1).map_err(|_| UnreadableKey::BrokenDer)?;
    if key.other_prime_infos.is_some() {
        return Err(UnreadableKey::MultiPrime);
    }
    let number = |bytes: rsa::pkcs1::UintRef<'_>| BigUint::from_bytes_be(bytes.as_bytes());
    Ok((number(key.modulus), number(key.public_exponent), pkcs1))
}
