//! Checks one certificate as strict verifiers do (RFC 5280), without chain or trust store: the octets around the
//! signature, names, the order of the dates, the kind of key, and the signature if the signer's key is known.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA384, RsaParameters,
};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA1WITHRSA, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
};
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::PublicKey as AnyKey;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::public_numbers::PublicNumbers;

/// The signed part of a certificate (`tbsCertificate`) and the signature over it.
#[derive(Clone)]
pub(super) struct TbsSignature {
    signed: Vec<u8>,
    octets: Vec<u8>,
    /// `None` for algorithms that can't be checked here: all but RSA PKCS#1 v1.5 with SHA-1, SHA-256, SHA-384 or SHA-512.
    parameters: Option<&'static RsaParameters>,
}

/// The result of verifying a certificate's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureStatus {
    Valid,
    Invalid,
    /// The authority's key isn't known.
    NoKey,
    UnknownAlgorithm,
}

impl TbsSignature {
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        Self {
            signed: certificate.tbs_certificate.as_ref().to_vec(),
            octets: certificate.signature_value.data.to_vec(),
            parameters: rsa_parameters(certificate),
        }
    }

    /// Verifies the signature with `key`.
    pub(crate) fn verify_with(&self, key: &PublicNumbers) -> SignatureStatus {
        let Some(parameters) = self.parameters else { return SignatureStatus::UnknownAlgorithm };
        let components = PublicKeyComponents { n: &key.n, e: &key.e };
        match components.verify(parameters, &self.signed, &self.octets) {
            Ok(()) => SignatureStatus::Valid,
            Err(_) => SignatureStatus::Invalid,
        }
    }

    /// Verifies the signature with the certificate's own key; `None` if it isn't self-signed, or its key isn't RSA. A
    /// certificate counts as self-signed if issuer and subject are the same text, or if its own key made the signature. So an
    /// altered name doesn't hide that it was self-signed.
    pub(crate) fn self_signature(
        &self,
        certificate: &X509Certificate<'_>,
        key: Option<&PublicNumbers>,
    ) -> Option<SignatureStatus> {
        let self_issued = has_same_text(certificate.issuer(), certificate.subject());
        key.filter(|key| self_issued || key.is_signer_of(&self.octets)).map(|key| self.verify_with(key))
    }
}

/// Whether two names have the same attributes, whatever the types of their strings and the case of their letters (RFC 5280,
/// section 7.1).
fn has_same_text(one: &X509Name<'_>, other: &X509Name<'_>) -> bool {
    let is_same = |(one, other): (&AttributeTypeAndValue<'_>, &AttributeTypeAndValue<'_>)| {
        one.attr_type() == other.attr_type() && one.as_slice().eq_ignore_ascii_case(other.as_slice())
    };
    one.iter_attributes().count() == other.iter_attributes().count()
        && one.iter_attributes().zip(other.iter_attributes()).all(is_same)
}

fn rsa_parameters(certificate: &X509Certificate<'_>) -> Option<&'static RsaParameters> {
    let known: [(_, &RsaParameters); 4] = [
        (OID_PKCS1_SHA256WITHRSA, &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
        (OID_PKCS1_SHA384WITHRSA, &RSA_PKCS1_2048_8192_SHA384),
        (OID_PKCS1_SHA512WITHRSA, &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
        (OID_PKCS1_SHA1WITHRSA, &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY),
    ];
    known
        .into_iter()
        .find(|(oid, _)| oid == certificate.signature_algorithm.oid())
        .map(|(_, parameters)| parameters)
}

/// Lists the faults for which strict verifiers reject a certificate alone. `own` is the check of a self-signed certificate's
/// signature.
pub(super) fn faults(
    der: &[u8],
    certificate: &X509Certificate<'_>,
    own: Option<SignatureStatus>,
) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        faults.push("names two algorithms for its signature");
    } else if !has_consistent_signature_fields(der, certificate) {
        faults.push("is malformed around its signature");
    }
    if ![certificate.issuer(), certificate.subject()].iter().all(|name| is_valid_name(name.as_raw())) {
        faults.push("has a name that isn't text");
    }
    if certificate.validity().not_before.timestamp() > certificate.validity().not_after.timestamp() {
        faults.push("ends before it begins");
    }
    let key = certificate.public_key();
    let is_edwards = key.algorithm.algorithm.to_id_string().starts_with("1.3.101.");
    if !is_edwards && matches!(key.parsed(), Err(_) | Ok(AnyKey::Unknown(_))) {
        faults.push("certifies a key of an unknown kind");
    }
    if own == Some(SignatureStatus::Invalid) {
        faults.push("has a signature that isn't its own key's: it was altered, or another key signed it");
    }
    faults
}

/// Whether DER has only elements that a name may have (RFC 5280, section 4.1.2.4): their tags are allowed, UTF-8 is valid,
/// and wide characters are whole. The parser accepts any tag as text. The characters of other strings aren't checked, nor
/// how the elements are nested, except for the depth.
fn is_valid_name(octets: &[u8]) -> bool {
    is_name_part(octets, 3)
}

/// Whether each element of DER is allowed in a name, nested at most `depth` deep.
fn is_name_part(mut octets: &[u8], depth: usize) -> bool {
    while let [tag, length, rest @ ..] = octets {
        let more = if length & 0x80 == 0 { 0 } else { usize::from(length & 0x7f) };
        let Some((long, rest)) = rest.split_at_checked(more) else { return false };
        let short = if more == 0 { usize::from(*length) } else { 0 };
        let length = long.iter().take(4).fold(short, |sum, octet| sum << 8 | usize::from(*octet));
        let Some((content, behind)) = rest.split_at_checked(length) else { return false };
        let is_fine = match tag {
            0x30 | 0x31 => depth > 0 && is_name_part(content, depth - 1),
            0x06 => content.last().is_some_and(|last| last & 0x80 == 0),
            0x0c => std::str::from_utf8(content).is_ok(),
            // NumericString, PrintableString, TeletexString, IA5String, VisibleString, GeneralString; and BIT STRING, the type of
            // an x500UniqueIdentifier.
            0x12 | 0x13 | 0x14 | 0x16 | 0x1a | 0x1b | 0x03 => true,
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

/// Whether the fields behind the signed part are consistent with it: the algorithm has the same octets as inside (RFC 5280,
/// section 4.1.1.2), and a BIT STRING of whole octets follows. The position inside isn't checked. No signature covers these
/// fields, and the parser accepts tags of other classes.
fn has_consistent_signature_fields(der: &[u8], certificate: &X509Certificate<'_>) -> bool {
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
