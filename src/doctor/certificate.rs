//! Certificates that somebody has: in a file, or in the `x5c` of a JWK.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA384, RsaParameters,
};
use x509_parser::oid_registry::{
    OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::numbers::Numbers;
use crate::clock::UnixTime;
use crate::keys::{Oddities, ReadCertificate, read_certificates};

/// A file with one certificate, or with a chain.
pub struct GivenCertificate {
    pub about: String,
    /// Never empty. `Err` says what is there instead.
    pub read: Result<Vec<Certificate>, String>,
    pub oddities: Oddities,
}

/// What a certificate says.
pub struct Certificate {
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    /// `None` where it certifies another kind of key.
    pub key: Option<Numbers>,
    /// Bytes of it as PEM text, which is what an app's upload measures.
    pub pem_size: usize,
    pub sha1: [u8; 20],
    pub sha256: [u8; 32],
    /// What makes strict verifiers refuse it by itself.
    pub faults: Vec<&'static str>,
    /// Whether its signature could be checked, as it is its own key's.
    pub is_own_authority: bool,
    /// DER of the two names.
    issuer: Vec<u8>,
    subject: Vec<u8>,
}

impl GivenCertificate {
    pub fn from_pem(about: &str, text: &str) -> Self {
        match read_certificates(text) {
            Ok((read, oddities)) => Self {
                about: about.to_owned(),
                read: Ok(read.iter().map(Certificate::of).collect()),
                oddities,
            },
            Err(why) => Self::refused(about, why),
        }
    }

    /// What can't be read as one.
    pub fn refused(about: &str, why: String) -> Self {
        Self { about: about.to_owned(), read: Err(why), oddities: Oddities::default() }
    }

    /// The first one, which is that of the key where the file holds a chain.
    pub fn first(&self) -> Option<&Certificate> {
        self.read.as_ref().ok()?.first()
    }
}

impl Certificate {
    /// # Errors
    /// Says what `der` is, if it is no certificate.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        ReadCertificate::from_der(der).map(|read| Self::of(&read))
    }

    fn of(read: &ReadCertificate) -> Self {
        let der = read.certificate.der.as_slice();
        let (_, certificate) = X509Certificate::from_der(der).expect("it was read as a certificate");
        let key = read.rsa.as_ref().map(|(n, e)| Numbers::new(n, e));
        let octets = |digest: aws_lc_rs::digest::Digest| digest.as_ref().to_vec();
        Self {
            not_before: read.certificate.not_before,
            not_after: read.certificate.not_after,
            faults: faults(der, &certificate, key.as_ref()),
            is_own_authority: own_key(&certificate, key.as_ref()).is_some(),
            key,
            pem_size: read.certificate.pem().len(),
            sha1: octets(digest(&SHA1_FOR_LEGACY_USE_ONLY, der)).try_into().expect("SHA-1 has 20 octets"),
            sha256: octets(digest(&SHA256, der)).try_into().expect("SHA-256 has 32 octets"),
            issuer: certificate.issuer().as_raw().to_vec(),
            subject: certificate.subject().as_raw().to_vec(),
        }
    }

    /// Whether `next` is the one that certifies it, by its name (RFC 5280, section 6.1).
    pub fn is_issued_by(&self, next: &Self) -> bool {
        self.issuer == next.subject
    }
}

/// Why strict verifiers refuse a certificate, as far as it can be told from itself: a self-signed one carries its own
/// signature's key.
fn faults(der: &[u8], certificate: &X509Certificate<'_>, key: Option<&Numbers>) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if !is_framed(der, certificate) {
        faults.push("names two algorithms for its signature");
    }
    if ![certificate.issuer(), certificate.subject()].iter().all(|name| is_name(name.as_raw())) {
        faults.push("has a name that is no text");
    }
    if certificate.validity().not_before.timestamp() > certificate.validity().not_after.timestamp() {
        faults.push("ends before it begins");
    }
    match own_key(certificate, key).map(|key| signed_by(certificate, key)) {
        Some(Signed::Otherwise) => {
            faults.push("has a signature that isn't its own key's: it was altered, or another key signed it");
        }
        Some(Signed::InUnknownWay) => faults.push("is signed in a way that no RSA key signs"),
        Some(Signed::ByKey | Signed::ByPss) | None => {}
    }
    faults
}

/// Whether DER is a name: a sequence of sets of pairs of an identifier and a text (RFC 5280, section 4.1.2.4). The parser takes
/// any tag for text.
fn is_name(octets: &[u8]) -> bool {
    is_of_names(octets, 3)
}

/// Whether each element of DER may stand in a name, and holds others no deeper than `depth`.
fn is_of_names(mut octets: &[u8], depth: usize) -> bool {
    while let [tag, length, rest @ ..] = octets {
        let more = if length & 0x80 == 0 { 0 } else { usize::from(length & 0x7f) };
        let Some((long, rest)) = rest.split_at_checked(more) else { return false };
        let short = if more == 0 { usize::from(*length) } else { 0 };
        let length = long.iter().take(4).fold(short, |sum, octet| sum << 8 | usize::from(*octet));
        let Some((content, behind)) = rest.split_at_checked(length) else { return false };
        let is_fine = match tag {
            0x30 | 0x31 => depth > 0 && is_of_names(content, depth - 1),
            0x06 => content.last().is_some_and(|last| last & 0x80 == 0),
            0x0c => std::str::from_utf8(content).is_ok(),
            // NumericString, PrintableString, TeletexString, IA5String.
            0x12 | 0x13 | 0x14 | 0x16 => true,
            // UniversalString and BMPString.
            0x1c => length % 4 == 0,
            0x1e => length % 2 == 0,
            _ => false,
        };
        if !is_fine {
            return false;
        }
        octets = behind;
    }
    octets.is_empty()
}

/// Its key, where that is its authority's too: by its names, or as it has made the signature.
fn own_key<'a>(certificate: &X509Certificate<'_>, key: Option<&'a Numbers>) -> Option<&'a Numbers> {
    let self_signed = certificate.issuer().as_raw() == certificate.subject().as_raw();
    key.filter(|key| self_signed || key.made(&certificate.signature_value.data))
}

/// Whether the octets around what is signed, which no signature covers, are as they must be: the same algorithm as inside
/// (RFC 5280, section 4.1.1.2), octet for octet, and a BIT STRING. The parser takes tags of other classes for them.
fn is_framed(der: &[u8], certificate: &X509Certificate<'_>) -> bool {
    let signed = certificate.tbs_certificate.as_ref();
    let length_octets = der.get(1).map_or(0, |length| if length & 0x80 == 0 { 0 } else { length & 0x7f });
    let behind = der.get(2 + usize::from(length_octets) + signed.len()..).unwrap_or_default();
    let algorithm_length = behind.get(1).map_or(0, |length| usize::from(*length) + 2);
    let Some((algorithm, signature)) = behind.split_at_checked(algorithm_length) else { return false };
    let is_inside =
        !algorithm.is_empty() && signed.windows(algorithm.len()).any(|octets| octets == algorithm);
    let whole_octets = certificate.signature_value.unused_bits == 0;
    der.starts_with(&[0x30]) && is_inside && signature.starts_with(&[0x03]) && whole_octets
}

enum Signed {
    ByKey,
    /// Parameters and all, which nothing here reads.
    ByPss,
    Otherwise,
    InUnknownWay,
}

fn signed_by(certificate: &X509Certificate<'_>, key: &Numbers) -> Signed {
    let algorithm = certificate.signature_algorithm.oid();
    let known: [(_, &RsaParameters); 4] = [
        (OID_PKCS1_SHA256WITHRSA, &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
        (OID_PKCS1_SHA384WITHRSA, &RSA_PKCS1_2048_8192_SHA384),
        (OID_PKCS1_SHA512WITHRSA, &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
        (OID_PKCS1_SHA1WITHRSA, &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY),
    ];
    if *algorithm == OID_PKCS1_RSASSAPSS {
        return Signed::ByPss;
    }
    let Some((_, padding)) = known.iter().find(|(oid, _)| oid == algorithm) else {
        return Signed::InUnknownWay;
    };
    let components = PublicKeyComponents { n: &key.n, e: &key.e };
    let signed = certificate.tbs_certificate.as_ref();
    match components.verify(padding, signed, &certificate.signature_value.data) {
        Ok(()) => Signed::ByKey,
        Err(_) => Signed::Otherwise,
    }
}
