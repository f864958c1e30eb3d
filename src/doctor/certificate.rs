//! A certificate that somebody has: in a file, or in the `x5c` of a JWK.

use super::material::Numbers;
use crate::clock::UnixTime;
use crate::keys::{Oddities, ReadCertificate, read_certificates};

pub struct GivenCertificate {
    pub about: String,
    /// `Err` says what is there instead.
    pub read: Result<Certificate, String>,
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
}

impl GivenCertificate {
    pub fn from_pem(about: &str, text: &str) -> Self {
        let (read, oddities) = match read_certificates(text) {
            Ok((read, oddities)) => {
                let first = read.first().map(Certificate::of);
                (first.ok_or_else(|| "holds no certificate".to_owned()), oddities)
            }
            Err(why) => (Err(why), Oddities::default()),
        };
        Self { about: about.to_owned(), read, oddities }
    }

    /// What can't be read as one.
    pub fn refused(about: &str, why: String) -> Self {
        Self { about: about.to_owned(), read: Err(why), oddities: Oddities::default() }
    }
}

impl Certificate {
    /// # Errors
    /// Says what `der` is, if it is no certificate.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        ReadCertificate::from_der(der).map(|read| Self::of(&read))
    }

    fn of(read: &ReadCertificate) -> Self {
        Self {
            not_before: read.certificate.not_before,
            not_after: read.certificate.not_after,
            key: read.rsa.as_ref().map(|(n, e)| Numbers::new(n, e)),
            pem_size: read.certificate.pem().len(),
        }
    }
}
