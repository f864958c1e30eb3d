//! A certificate that somebody has: in a file, or in the `x5c` of a JWK.

use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::material::Numbers;
use crate::clock::UnixTime;

pub struct GivenCertificate {
    pub about: String,
    /// `Err` says what is there instead.
    pub read: Result<Certificate, String>,
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
        let read = pem::parse_many(text)
            .map_err(|_| "isn't whole PEM text: lines are missing or changed".to_owned())
            .and_then(|blocks| {
                let first = blocks.first().ok_or_else(|| "holds no certificate".to_owned())?;
                Certificate::read(first.contents())
            });
        Self { about: about.to_owned(), read }
    }
}

impl Certificate {
    /// # Errors
    /// Says what `der` is, if it is no certificate.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| "holds no X.509 certificate".to_owned())?;
        if !rest.is_empty() {
            return Err("holds a certificate with something behind it".to_owned());
        }
        let key = match certificate.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => Some(Numbers::new(key.modulus, key.exponent)),
            _ => None,
        };
        let validity = certificate.validity();
        Ok(Self {
            not_before: UnixTime::from_seconds(validity.not_before.timestamp()),
            not_after: UnixTime::from_seconds(validity.not_after.timestamp()),
            key,
            pem_size: pem::encode(&pem::Pem::new("CERTIFICATE", der)).len(),
        })
    }
}
