//! X.509 certificates, from a file or from the `x5c` of a JWK.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use crate::clock::UnixTime;
use crate::keys::{ParsedCertificate, PemQuirks, PublicNumbers, SignatureStatus, parse_certificates};

/// A file that should hold one certificate or a chain.
pub struct GivenCertificate {
    pub(crate) about: String,
    /// Never empty. `Err` says why the file can't be parsed.
    pub(crate) parsed: Result<Vec<CertificateInfo>, String>,
    pub(crate) pem_quirks: PemQuirks,
}

/// The fields of a certificate that checks need.
pub(crate) struct CertificateInfo {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    /// `None` if it certifies a key that isn't RSA.
    pub(crate) key: Option<PublicNumbers>,
    /// Length of its canonical PEM encoding in bytes; an app limits the uploaded file.
    pub(crate) pem_size: usize,
    pub(crate) sha1: [u8; 20],
    pub(crate) sha256: [u8; 32],
    certificate: ParsedCertificate,
}

impl GivenCertificate {
    pub(crate) fn from_pem(about: &str, text: &str) -> Self {
        match parse_certificates(text) {
            Ok((read, pem_quirks)) => Self {
                about: about.to_owned(),
                parsed: Ok(read.into_iter().map(CertificateInfo::from_read).collect()),
                pem_quirks,
            },
            Err(why) => Self::unreadable(about, why),
        }
    }

    /// A file that can't be parsed as a certificate, and why.
    pub(crate) fn unreadable(about: &str, why: String) -> Self {
        Self { about: about.to_owned(), parsed: Err(why), pem_quirks: PemQuirks::default() }
    }
}

impl CertificateInfo {
    /// # Errors
    /// `der` isn't exactly one certificate. Says what is wrong with it.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, String> {
        ParsedCertificate::from_der(der).map(Self::from_read)
    }

    fn from_read(read: ParsedCertificate) -> Self {
        let der = read.certificate.der.as_slice();
        let octets = |digest: aws_lc_rs::digest::Digest| digest.as_ref().to_vec();
        Self {
            not_before: read.certificate.not_before,
            not_after: read.certificate.not_after,
            key: read.rsa_numbers.clone(),
            pem_size: read.certificate.pem().len(),
            sha1: octets(digest(&SHA1_FOR_LEGACY_USE_ONLY, der)).try_into().expect("SHA-1 has 20 octets"),
            sha256: octets(digest(&SHA256, der)).try_into().expect("SHA-256 has 32 octets"),
            certificate: read,
        }
    }

    /// The reasons why a strict verifier rejects this certificate on its own.
    pub(crate) fn faults(&self) -> &[&'static str] {
        &self.certificate.faults
    }

    /// The common name (CN) of its subject. tokenmint writes the key id there.
    pub(crate) fn common_name(&self) -> Option<&str> {
        self.certificate.common_name.as_deref()
    }

    /// Whether the subject name of `next` is the issuer name of this certificate (RFC 5280, section 6.1).
    pub(crate) fn is_issued_by(&self, next: &Self) -> bool {
        self.certificate.issuer == next.certificate.subject
    }

    /// Verifies its signature: with its own key if it is self-signed, otherwise with `authority`'s; `NoKey` without one.
    pub(crate) fn signature_by(&self, authority: Option<&Self>) -> SignatureStatus {
        self.certificate.verify_signature(authority.and_then(|authority| authority.key.as_ref()))
    }
}
