//! The public half of a key, parsed to verify signatures.

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::BigUint;
use rsa::pkcs1::der::Encode as _;
use rsa::pkcs1::{RsaPublicKey, UintRef};

use super::key_strength::{self, KeyWeakness};
use super::message_hash::MessageHash;
use super::public_numbers::PublicNumbers;
use crate::config::Algorithm;
use crate::hash::sha256;

/// The public half of a key that passed the [strength checks](key_strength).
pub struct PublicKey {
    /// The modulus in base64url, without padding or leading zero octet (RFC 7518, section 6.3.1). `e` has the same form.
    pub n: String,
    pub e: String,
    pub(crate) bits: usize,
    /// The `RSAPublicKey` of RFC 8017 in DER.
    pub der: Vec<u8>,
    /// For SHA-256 and for SHA-512.
    verifiers: [ParsedPublicKey; 2],
}

impl PublicKey {
    /// Checks the numbers of a key.
    ///
    /// # Errors
    /// The key is too weak to sign, or the cryptographic library can't use it.
    pub(super) fn new(modulus: &BigUint, public_exponent: &BigUint) -> Result<Self, KeyWeakness> {
        key_strength::check_strength(modulus, public_exponent)?;
        let (n, e) = (modulus.to_bytes_be(), public_exponent.to_bytes_be());
        let number = |bytes| UintRef::new(bytes).expect("a number of at most 8192 bits can be encoded");
        let der = RsaPublicKey { modulus: number(&n), public_exponent: number(&e) }.to_der();
        let der = der.expect("two numbers of at most 8192 bits can be encoded");
        let verifier = |algorithm| {
            ParsedPublicKey::new(algorithm, &der).expect("a key that passed the checks can be parsed")
        };
        let verifiers = [verifier(&RSA_PKCS1_2048_8192_SHA256), verifier(&RSA_PKCS1_2048_8192_SHA512)];
        Ok(Self {
            n: URL_SAFE_NO_PAD.encode(&n),
            e: URL_SAFE_NO_PAD.encode(&e),
            bits: modulus.bits(),
            der,
            verifiers,
        })
    }

    /// Like [`new`](Self::new).
    ///
    /// # Errors
    /// The same as for `new`.
    pub(super) fn from_numbers(numbers: &PublicNumbers) -> Result<Self, KeyWeakness> {
        let [modulus, exponent] = [&numbers.n, &numbers.e].map(|number| BigUint::from_bytes_be(number));
        Self::new(&modulus, &exponent)
    }

    /// The length of a signature in bytes, equal to the length of the modulus.
    pub const fn signature_len(&self) -> usize {
        self.bits.div_ceil(8)
    }

    /// Whether `signature` is a valid signature of the message with this [hash](super::hash_message).
    pub fn verifies(&self, hash: &MessageHash, signature: &[u8]) -> bool {
        let [rs256, rs512] = &self.verifiers;
        let verifier = match hash.algorithm {
            Algorithm::Rs256 => rs256,
            Algorithm::Rs512 => rs512,
        };
        verifier.verify_digest_sig(&hash.digest, signature).is_ok()
    }

    pub(crate) fn numbers(&self) -> PublicNumbers {
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        PublicNumbers::new(&decoded(&self.n), &decoded(&self.e))
    }

    /// SHA-256 of the base64url text of the modulus, which identifies the key whatever its key id.
    pub(crate) fn modulus_hash(&self) -> [u8; 32] {
        sha256(self.n.as_bytes())
    }
}
