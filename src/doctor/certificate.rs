//! Certificates that somebody has: in a file, or in the `x5c` of a JWK.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use crate::clock::UnixTime;
use crate::keys::{CertificateSignature, Numbers, Oddities, ReadCertificate, read_certificates};

/// A file with one certificate, or with a chain.
pub struct GivenCertificate {
    pub about: String,
    /// Never empty. `Err` says what is there instead.
    pub parsed: Result<Vec<CertificateInfo>, String>,
    pub oddities: Oddities,
}

/// What a certificate says.
pub struct CertificateInfo {
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    /// `None` where it certifies another kind of key.
    pub key: Option<Numbers>,
    /// Bytes of it as PEM text, which is what an app's upload measures.
    pub pem_size: usize,
    pub sha1: [u8; 20],
    pub sha256: [u8; 32],
    certificate: ReadCertificate,
}

impl GivenCertificate {
    pub fn from_pem(about: &str, text: &str) -> Self {
        match read_certificates(text) {
            Ok((read, oddities)) => Self {
                about: about.to_owned(),
                parsed: Ok(read.into_iter().map(CertificateInfo::from_read).collect()),
                oddities,
            },
            Err(why) => Self::unreadable(about, why),
        }
    }

    /// What can't be read as one.
    pub fn unreadable(about: &str, why: String) -> Self {
        Self { about: about.to_owned(), parsed: Err(why), oddities: Oddities::default() }
    }

    /// The first one, which is that of the key where the file holds a chain.
    pub fn first(&self) -> Option<&CertificateInfo> {
        self.parsed.as_ref().ok()?.first()
    }
}

impl CertificateInfo {
    /// # Errors
    /// Says what `der` is, if it is no certificate.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        ReadCertificate::from_der(der).map(Self::from_read)
    }

    fn from_read(read: ReadCertificate) -> Self {
        let der = read.certificate.der.as_slice();
        let octets = |digest: aws_lc_rs::digest::Digest| digest.as_ref().to_vec();
        Self {
            not_before: read.certificate.not_before,
            not_after: read.certificate.not_after,
            key: read.rsa.clone(),
            pem_size: read.certificate.pem().len(),
            sha1: octets(digest(&SHA1_FOR_LEGACY_USE_ONLY, der)).try_into().expect("SHA-1 has 20 octets"),
            sha256: octets(digest(&SHA256, der)).try_into().expect("SHA-256 has 32 octets"),
            certificate: read,
        }
    }

    /// What makes strict verifiers refuse it by itself.
    pub fn faults(&self) -> &[&'static str] {
        &self.certificate.faults
    }

    /// Whether `next` is the one that certifies it, by its name (RFC 5280, section 6.1).
    pub fn is_issued_by(&self, next: &Self) -> bool {
        self.certificate.issuer == next.certificate.subject
    }

    /// Checks its signature: by its own key where it is self-signed, else by its authority's.
    pub fn signature_by(&self, authority: Option<&Self>) -> CertificateSignature {
        self.certificate.signature_by(authority.and_then(|authority| authority.key.as_ref()))
    }
}
