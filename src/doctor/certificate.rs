//! Certificates that somebody has: in a file, or in the `x5c` of a JWK.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use crate::clock::UnixTime;
use crate::keys::{ParsedCertificate, PemQuirks, PublicNumbers, SignatureStatus, parse_certificates};

/// A file with one certificate, or with a chain.
pub struct GivenCertificate {
    pub about: String,
    /// Never empty. `Err` says what is there instead.
    pub read: Result<Vec<Certificate>, String>,
    pub pem_quirks: PemQuirks,
}

/// What a certificate says.
pub struct Certificate {
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    /// `None` where it certifies another kind of key.
    pub key: Option<PublicNumbers>,
    /// Bytes of it as PEM text, which is what an app's upload measures.
    pub pem_size: usize,
    pub sha1: [u8; 20],
    pub sha256: [u8; 32],
    read: ParsedCertificate,
}

impl GivenCertificate {
    pub fn from_pem(about: &str, text: &str) -> Self {
        match parse_certificates(text) {
            Ok((read, pem_quirks)) => Self {
                about: about.to_owned(),
                read: Ok(read.into_iter().map(Certificate::of).collect()),
                pem_quirks,
            },
            Err(why) => Self::refused(about, why),
        }
    }

    /// What can't be read as one.
    pub fn refused(about: &str, why: String) -> Self {
        Self { about: about.to_owned(), read: Err(why), pem_quirks: PemQuirks::default() }
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
        ParsedCertificate::from_der(der).map(Self::of)
    }

    fn of(read: ParsedCertificate) -> Self {
        let der = read.certificate.der.as_slice();
        let octets = |digest: aws_lc_rs::digest::Digest| digest.as_ref().to_vec();
        Self {
            not_before: read.certificate.not_before,
            not_after: read.certificate.not_after,
            key: read.rsa_numbers.clone(),
            pem_size: read.certificate.pem().len(),
            sha1: octets(digest(&SHA1_FOR_LEGACY_USE_ONLY, der)).try_into().expect("SHA-1 has 20 octets"),
            sha256: octets(digest(&SHA256, der)).try_into().expect("SHA-256 has 32 octets"),
            read,
        }
    }

    /// What makes strict verifiers refuse it by itself.
    pub fn faults(&self) -> &[&'static str] {
        &self.read.faults
    }

    /// Whether `next` is the one that certifies it, by its name (RFC 5280, section 6.1).
    pub fn is_issued_by(&self, next: &Self) -> bool {
        self.read.issuer == next.read.subject
    }

    /// Checks its signature: by its own key where it is self-signed, else by its authority's.
    pub fn signature_by(&self, authority: Option<&Self>) -> SignatureStatus {
        self.read.verify_signature(authority.and_then(|authority| authority.key.as_ref()))
    }
}
