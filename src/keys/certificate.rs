//! The X.509 certificate that `x5c` carries: Salesforce asks one of each uploaded key and, without it, takes
//! the key and then lets every visitor in as a guest.
//!
//! A key without `KID.crt` gets a self-signed one that follows from the key, its id and the calendar alone:
//! valid for four calendar years, made anew each January, so that every replica and every restart makes the
//! same bytes (PKCS#1 v1.5 signatures are deterministic) and one that was uploaded is good for two years and
//! more. The key stays as it is.

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData,
    SerialNumber, SignatureAlgorithm, SigningKey,
};
use time::{Date, Month, OffsetDateTime, Time};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::private::{PrivateKey, PublicKey};
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId};

/// Salesforce refuses a certificate with less to live ("The certificate must be valid for at least 10 days",
/// Salesforce Help, "Troubleshooting User Verification").
pub const SHORTEST_LIFE_LEFT: i64 = 10 * 86_400;

/// When to warn of one that is running out.
pub const WARN_LIFE_LEFT: i64 = 30 * 86_400;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub der: Vec<u8>,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
}

impl Certificate {
    /// Reads the first certificate of a PEM file, which must be that of `key`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(pem: &str, key: &PublicKey) -> Result<Self, String> {
        if pem.contains("PRIVATE KEY-----") {
            return Err("holds a private key; a certificate goes in this file, and only that".to_owned());
        }
        let (_, block) = parse_x509_pem(pem.as_bytes())
            .map_err(|_| "holds no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned())?;
        if block.label != "CERTIFICATE" {
            return Err(format!("holds a {}, not a certificate", block.label));
        }
        let (behind, certificate) = X509Certificate::from_der(&block.contents)
            .map_err(|_| "holds a broken certificate: it can't be parsed".to_owned())?;
        if !behind.is_empty() {
            return Err(format!(
                "holds {} bytes behind its certificate, in the same PEM block",
                behind.len()
            ));
        }
        let of_this_key = certificate.public_key().subject_public_key.data.as_ref() == key.der.as_slice();
        if !of_this_key {
            return Err("is the certificate of another key; make one from this key, or remove the file and \
                        tokenmint derives one"
                .to_owned());
        }
        let validity = certificate.validity();
        Ok(Self {
            not_before: UnixTime::from_seconds(validity.not_before.timestamp()),
            not_after: UnixTime::from_seconds(validity.not_after.timestamp()),
            der: block.contents,
        })
    }

    /// The self-signed certificate of `key` in the calendar year `year`. Costs a signature.
    pub(super) fn derive(kid: &KeyId, key: &PrivateKey, year: i32) -> Self {
        let mut params = CertificateParams::default();
        params.not_before = new_year(year - 1);
        params.not_after = derived_end(year);
        params.serial_number = Some(serial(key, year));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, kid.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (not_before, not_after) = (params.not_before.into(), params.not_after.into());
        let certificate =
            params.self_signed(key).expect("a checked key signs, and the fields are of constant shape");
        Self { der: certificate.der().to_vec(), not_before, not_after }
    }

    /// The self-signed certificate of a key that is in no keyset yet.
    pub fn of_new_key(kid: &KeyId, key: &PrivateKey, now: UnixTime) -> Self {
        Self::derive(kid, key, year_of(now))
    }

    /// Whether Salesforce would take it now.
    pub fn serves(&self, now: UnixTime) -> bool {
        self.not_before <= now && now.seconds_until(self.not_after) > SHORTEST_LIFE_LEFT
    }

    /// When that changes next.
    pub fn next_change(&self, now: UnixTime) -> Option<UnixTime> {
        let last = UnixTime::from_seconds(self.not_after.seconds().saturating_sub(SHORTEST_LIFE_LEFT));
        [self.not_before, last].into_iter().filter(|change| *change > now).min()
    }

    pub fn pem(&self) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", self.der.as_slice()))
    }
}

/// When the certificate that is derived at `now` expires.
pub fn derived_not_after(now: UnixTime) -> UnixTime {
    derived_end(year_of(now)).into()
}

fn derived_end(year: i32) -> OffsetDateTime {
    new_year(year + 3)
}

/// When derived certificates are next made anew.
pub fn next_derivation(now: UnixTime) -> UnixTime {
    new_year(year_of(now) + 1).into()
}

/// The calendar year in which `now` lies, within the bounds of what a certificate can say.
pub(super) fn year_of(now: UnixTime) -> i32 {
    now.date_time().year().clamp(1971, 9990)
}

fn new_year(year: i32) -> OffsetDateTime {
    let day = Date::from_calendar_date(year, Month::January, 1).expect("the year is between 1970 and 9993");
    day.with_time(Time::MIDNIGHT).assume_utc()
}

/// From key and year, so that no two certificates share one (RFC 5280, section 4.1.2.2).
fn serial(key: &PrivateKey, year: i32) -> SerialNumber {
    let named = format!("tokenmint certificate {year} {}", key.public.n);
    let mut bytes = digest(&SHA256, named.as_bytes()).as_ref()[..16].to_vec();
    // Positive, and never shorter by a leading zero.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from(bytes)
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public.der
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

impl SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut signature = vec![0; self.signature_len()];
        Self::sign(self, Algorithm::Rs256, message, &mut signature)
            .map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature)
    }
}
