//! The X.509 certificate that `x5c` carries. Salesforce requires one with each uploaded key. Without it, Salesforce accepts
//! the key; users report that every chat then stays unverified.
//!
//! A key without `KID.crt`, or with one whose dates Salesforce rejects, gets a self-signed certificate. It is derived from
//! the key, its id and the calendar year alone.
//!
//! - It is valid for four calendar years and is derived anew each January, so an uploaded one stays valid for at least two years.
//! - Every replica and every restart derives the same bytes, as PKCS#1 v1.5 signatures are deterministic.
//! - Only the certificate changes each year; the key stays.

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData,
    SerialNumber, SignatureAlgorithm, SigningKey,
};
use time::{Date, Month, OffsetDateTime, Time};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey as AnyKey;

use super::certificate_checks::{self, SignatureStatus, TbsSignature};
use super::key_formats::UnreadableKey;
use super::pem_text::{PemBlock, PemQuirks, PemText};
use super::private_key::PrivateKey;
use super::public_key::PublicKey;
use super::public_numbers::PublicNumbers;
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId};

/// Salesforce rejects a certificate that expires sooner ("The certificate must be valid for at least 10 days",
/// Salesforce Help, "Troubleshooting User Verification").
pub(crate) const CERTIFICATE_MIN_SECONDS_LEFT: i64 = 10 * 86_400;

/// A certificate that expires sooner gets a warning.
pub(crate) const CERTIFICATE_WARN_SECONDS_LEFT: i64 = 30 * 86_400;

/// A certificate in DER, and its validity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCertificate {
    pub der: Vec<u8>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

/// A parsed certificate, of a key of any kind.
#[derive(Clone)]
pub(crate) struct ParsedCertificate {
    pub(crate) certificate: KeyCertificate,
    /// The bits of its `subjectPublicKey`. For an RSA key they are an `RSAPublicKey` (RFC 8017).
    key: Vec<u8>,
    /// The numbers of that key; `None` if it isn't an RSA key.
    pub(crate) rsa_numbers: Option<PublicNumbers>,
    /// Faults for which strict verifiers reject the certificate alone, without its chain.
    pub(crate) faults: Vec<&'static str>,
    /// The issuer's name in DER; `subject` is the subject's.
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    /// The first common name (CN) of the subject.
    pub(crate) common_name: Option<String>,
    signature: TbsSignature,
    self_signature: Option<SignatureStatus>,
}

impl ParsedCertificate {
    /// Parses DER.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, String> {
        let (behind, read) = X509Certificate::from_der(der).map_err(|_| {
            "holds no X.509 certificate that can be parsed, but a broken certificate".to_owned()
        })?;
        if !behind.is_empty() {
            return Err(format!(
                "holds {} bytes behind its certificate, in the same PEM block",
                behind.len()
            ));
        }
        let validity = read.validity();
        let certificate = KeyCertificate {
            der: der.to_vec(),
            not_before: UnixTime::from_seconds(validity.not_before.timestamp()),
            not_after: UnixTime::from_seconds(validity.not_after.timestamp()),
        };
        let key = read.public_key();
        let rsa_numbers = match key.parsed() {
            Ok(AnyKey::RSA(key)) => Some(PublicNumbers::new(key.modulus, key.exponent)),
            _ => None,
        };
        let signature = TbsSignature::of(&read);
        let self_signature = signature.self_signature(&read, rsa_numbers.as_ref());
        Ok(Self {
            faults: certificate_checks::faults(der, &read, self_signature),
            certificate,
            key: key.subject_public_key.data.to_vec(),
            rsa_numbers,
            issuer: read.issuer().as_raw().to_vec(),
            subject: read.subject().as_raw().to_vec(),
            common_name: read
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok().map(str::to_owned)),
            signature,
            self_signature,
        })
    }

    /// Verifies its signature: with its own key if it is self-signed, otherwise with `authority`'s;
    /// [`SignatureStatus::NoKey`] without one.
    pub(crate) fn verify_signature(&self, authority: Option<&PublicNumbers>) -> SignatureStatus {
        let by_authority = || authority.map_or(SignatureStatus::NoKey, |key| self.signature.verify_with(key));
        self.self_signature.unwrap_or_else(by_authority)
    }
}

/// Returns the certificates of a TLS listener's PEM text in DER, and the text's quirks. Other blocks are ignored.
///
/// # Errors
/// Says what the text holds instead.
pub(crate) fn parse_listener_certificates(text: &str) -> Result<(Vec<Vec<u8>>, PemQuirks), String> {
    let pem_text = PemText::parse(text);
    let none = "holds no certificate in PEM form";
    let (blocks, mut pem_quirks) = pem_text.blocks().map_err(|why| match why {
        UnreadableKey::NotPem | UnreadableKey::Empty => none.to_owned(),
        other => other.to_string(),
    })?;
    let is_certificate = |block: &&PemBlock<'_>| matches!(block.label, "CERTIFICATE" | "X509 CERTIFICATE");
    let decoded = blocks.iter().filter(is_certificate).map(|block| block.decode(&mut pem_quirks));
    let decoded: Result<Vec<_>, _> = decoded.map(|der| der.map(|der| der.to_vec())).collect();
    let found = decoded.map_err(|why| why.to_string())?;
    if found.is_empty() { Err(none.to_owned()) } else { Ok((found, pem_quirks)) }
}

/// Parses the certificates in PEM text, in their order, in any unambiguous form. Returns at least one.
///
/// # Errors
/// Says what the text holds instead.
pub(crate) fn parse_certificates(text: &str) -> Result<(Vec<ParsedCertificate>, PemQuirks), String> {
    let pem_text = PemText::parse(text);
    let (blocks, mut pem_quirks) = pem_text.blocks().map_err(|why| match why {
        UnreadableKey::NotPem | UnreadableKey::Empty => {
            "holds no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned()
        }
        other => other.to_string(),
    })?;
    if blocks.iter().any(|block| block.label.ends_with("PRIVATE KEY")) {
        return Err("holds a private key; a certificate goes in this file, and only that".to_owned());
    }
    let read = |block: &PemBlock<'_>| match block.label {
        "CERTIFICATE" | "X509 CERTIFICATE" => {
            let der = block.decode(&mut pem_quirks).map_err(|why| why.to_string())?;
            ParsedCertificate::from_der(&der)
        }
        label => Err(format!("holds a {label}, not a certificate")),
    };
    let certificates = blocks.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok((certificates, pem_quirks))
}

impl KeyCertificate {
    /// Parses the certificate of `key` from PEM text, and returns a warning about the text's quirks and its
    /// other certificates. Only that certificate of a chain is returned, as Salesforce looks at one.
    ///
    /// # Errors
    /// Says what is wrong with the text or the certificate.
    pub fn parse(text: &str, key: &PublicKey) -> Result<(Self, Option<String>), String> {
        let (read, pem_quirks) = parse_certificates(text)?;
        let count = read.len();
        let position = read.iter().position(|read| read.key == key.der);
        let Some((at, own)) = position.and_then(|at| Some((at, read.into_iter().nth(at)?))) else {
            return Err(match count {
                1 => "is the certificate of another key; create a certificate from this key, or remove the file and tokenmint derives one"
                    .to_owned(),
                _ => format!(
                    "holds {count} certificates, and none of this key; create a certificate from this key, or remove the file \
                     and tokenmint derives one"
                ),
            });
        };
        if !own.faults.is_empty() {
            return Err(format!(
                "{}; create a certificate from this key, or remove the file and tokenmint derives one",
                own.faults.join("; ")
            ));
        }
        let chain = (count > 1).then(|| {
            format!(
                "holds {count} certificates; only number {} belongs to this key and is published; remove the others",
                at + 1
            )
        });
        let said: Vec<String> = chain.into_iter().chain(pem_quirks.warning()).collect();
        Ok((own.certificate, (!said.is_empty()).then(|| said.join("; it "))))
    }

    /// Derives the self-signed certificate of `key` for the calendar year `year`. `sign` makes the signature (RS256); `None` if it
    /// fails.
    pub(super) fn derive(
        kid: &KeyId,
        key: &PublicKey,
        year: i32,
        sign: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Option<Self> {
        let mut params = CertificateParams::default();
        params.not_before = start_of_year(year - 1);
        params.not_after = derived_end(year);
        params.serial_number = Some(serial_number(key, year));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, kid.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (not_before, not_after) = (params.not_before.into(), params.not_after.into());
        let certificate = params.self_signed(&CertificateKey { key, sign }).ok()?;
        Some(Self { der: certificate.der().to_vec(), not_before, not_after })
    }

    /// Derives the self-signed certificate of a private key in this process. Takes one signature.
    pub(super) fn derive_from(kid: &KeyId, key: &PrivateKey, year: i32) -> Self {
        let sign = |message: &[u8]| {
            let mut signature = vec![0; key.public.signature_len()];
            key.sign(Algorithm::Rs256, message, &mut signature).ok().map(|()| signature)
        };
        Self::derive(kid, &key.public, year, sign)
            .expect("a checked key signs, and the fields are of constant shape")
    }

    /// Derives the self-signed certificate of a key that isn't in a keyset yet.
    pub(crate) fn for_new_key(kid: &KeyId, key: &PrivateKey, now: UnixTime) -> Self {
        Self::derive_from(kid, key, year_of(now))
    }

    /// Whether its validity satisfies Salesforce at `now`.
    pub(crate) fn is_accepted_by_salesforce(&self, now: UnixTime) -> bool {
        self.not_before <= now && now.seconds_until(self.not_after) > CERTIFICATE_MIN_SECONDS_LEFT
    }

    /// The next time at which [`is_accepted_by_salesforce`](Self::is_accepted_by_salesforce) changes.
    pub(crate) fn next_change(&self, now: UnixTime) -> Option<UnixTime> {
        let last =
            UnixTime::from_seconds(self.not_after.seconds().saturating_sub(CERTIFICATE_MIN_SECONDS_LEFT));
        [self.not_before, last].into_iter().filter(|change| *change > now).min()
    }

    pub fn pem(&self) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", self.der.as_slice()))
    }
}

/// The expiry of the certificate that is derived at `now`.
pub(crate) fn derived_not_after(now: UnixTime) -> UnixTime {
    derived_end(year_of(now)).into()
}

fn derived_end(year: i32) -> OffsetDateTime {
    start_of_year(year + 3)
}

/// The next time at which certificates are derived anew.
pub(crate) fn next_derivation(now: UnixTime) -> UnixTime {
    start_of_year(year_of(now) + 1).into()
}

/// The calendar year of `now`, clamped to years that a certificate can state.
pub(super) fn year_of(now: UnixTime) -> i32 {
    now.date_time().year().clamp(1971, 9990)
}

fn start_of_year(year: i32) -> OffsetDateTime {
    let day = Date::from_calendar_date(year, Month::January, 1).expect("the year is between 1970 and 9993");
    day.with_time(Time::MIDNIGHT).assume_utc()
}

/// A serial number from key and year. It is unique per issuer name (RFC 5280, section 4.1.2.2), which is the key id.
fn serial_number(key: &PublicKey, year: i32) -> SerialNumber {
    let named = format!("tokenmint certificate {year} {}", key.n);
    let mut bytes = digest(&SHA256, named.as_bytes()).as_ref()[..16].to_vec();
    // The first byte is 0x40 to 0x7f: the number is positive and always has 16 bytes.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from(bytes)
}

/// A key as `rcgen` needs it.
struct CertificateKey<'a, F> {
    key: &'a PublicKey,
    sign: F,
}

impl<F> PublicKeyData for CertificateKey<'_, F> {
    fn der_bytes(&self) -> &[u8] {
        &self.key.der
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

impl<F: Fn(&[u8]) -> Option<Vec<u8>>> SigningKey for CertificateKey<'_, F> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        (self.sign)(message).ok_or(rcgen::Error::RemoteKeyError)
    }
}
