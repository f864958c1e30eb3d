//! One RSA private key, checked and ready to sign.
//!
//! - It exists only if it passed the [strength checks](super::key_strength) and has made signatures that verify. Those also warm it up: the first signature of a
//!   parsed key takes twice as long.
//! - The parsed aws-lc key pair is kept. `jsonwebtoken::encode` would parse the key for each signature (2.5
//!   times the work). Signing with the crate `rsa` is vulnerable to RUSTSEC-2023-0071; here `rsa` only reads, checks and
//!   generates keys.
//! - It implements neither `Debug` nor `Display`, so it can't be printed.

use std::time::{Duration, Instant};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use rsa::rand_core::{self, CryptoRng, RngCore};
use secrecy::SecretString;
use thiserror::Error;

use super::batch::SelfTest;
use super::crypto_mb::{CrtKey, ModulusSize};
use super::key_formats::UnreadableKey;
use super::key_strength::KeyWeakness;
use super::message_hash::{MessageHash, hash_message};
use super::pem;
use super::pem_text::PemQuirks;
use super::public_key::PublicKey;
use crate::clock::Randomness;
use crate::config::Algorithm;
use crate::hash::sha256;

/// The reasons why a private key is rejected.
#[derive(Debug, Error)]
pub enum PrivateKeyError {
    #[error(transparent)]
    Unreadable(#[from] UnreadableKey),
    #[error("{0}; make another with `tokenmint keys new`")]
    Weak(KeyWeakness),
    #[error(
        "its numbers don't belong together, so it is corrupt; restore it, or make another with `tokenmint keys new`"
    )]
    Inconsistent(#[source] KeyRejected),
    #[error("its own signature doesn't verify, so it is corrupt; restore it, or make another")]
    SignatureMismatch,
}

/// The cryptographic library failed to sign, which isn't expected with a key that has passed its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the cryptographic library failed to sign")]
pub struct SigningFailed;

/// A private key, with its public half.
pub struct PrivateKey {
    pair: RsaKeyPair,
    pub(super) self_test: SelfTest,
    pub public: PublicKey,
    /// The duration of a signature on this host, measured when the key was loaded.
    pub(crate) signing_time: Duration,
    /// The quirks of the text that it was read from.
    pub(crate) pem_quirks: PemQuirks,
}

/// The [`modulus_hash`](PublicKey::modulus_hash) of a key that isn't checked further; `None` if it can't be read.
pub(crate) fn modulus_hash_of_pem(
    text: &SecretString,
    passphrase: Option<&SecretString>,
) -> Option<[u8; 32]> {
    let ((modulus, ..), _) = pem::parse_private_key(text, passphrase).ok()?;
    Some(sha256(URL_SAFE_NO_PAD.encode(modulus.to_bytes_be()).as_bytes()))
}

impl PrivateKey {
    /// Parses and checks PEM text from a file or a variable, in any unambiguous form.
    ///
    /// # Errors
    /// Says what is wrong with the text or the key, without quoting it.
    pub fn parse(text: &SecretString, passphrase: Option<&SecretString>) -> Result<Self, PrivateKeyError> {
        let ((modulus, public_exponent, document), pem_quirks) = pem::parse_private_key(text, passphrase)?;
        let public = PublicKey::new(&modulus, &public_exponent).map_err(PrivateKeyError::Weak)?;
        // aws-lc checks that the private numbers match each other and the public ones, and zeroizes its temporary values.
        let pair = RsaKeyPair::from_der(&document).map_err(PrivateKeyError::Inconsistent)?;
        let self_test = SelfTest::default();
        let key = Self { pair, self_test, public, signing_time: Duration::ZERO, pem_quirks };
        let signing_time = key.test_signature()?;
        Ok(Self { signing_time, ..key })
    }

    /// The length of a signature in bytes, equal to the length of the modulus.
    pub fn signature_len(&self) -> usize {
        self.pair.public_modulus_len()
    }

    /// Signs `message` by RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2) into `signature`, which must have
    /// [`signature_len`](Self::signature_len) bytes. On a CPU with AVX-512 IFMA it takes a third of a millisecond at 2048 bits,
    /// and nearly two milliseconds at 4096. aws-lc verifies each signature with the public key before it returns it.
    ///
    /// # Errors
    /// The library failed, which isn't expected with a checked key.
    pub fn sign(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &mut [u8],
    ) -> Result<(), SigningFailed> {
        self.sign_hash(&hash_message(algorithm, message), signature)
    }

    /// Like [`sign`](Self::sign), for a message whose [hash](hash_message) is known.
    ///
    /// # Errors
    /// The same as for `sign`.
    pub(crate) fn sign_hash(&self, hash: &MessageHash, signature: &mut [u8]) -> Result<(), SigningFailed> {
        let padding = match hash.algorithm {
            Algorithm::Rs256 => &RSA_PKCS1_SHA256,
            Algorithm::Rs512 => &RSA_PKCS1_SHA512,
        };
        self.pair.sign_digest(padding, &hash.digest, signature).map_err(|_| SigningFailed)
    }

    /// Returns the key in the form of the batch library; `None` if that library doesn't support its size or exponent. The numbers are
    /// read from aws-lc, which keeps them.
    pub(super) fn crt(&self) -> Option<CrtKey> {
        let size = ModulusSize::of(self.public.bits)?;
        pem::with_crt_numbers(self.pair.as_der().ok()?.as_ref(), |numbers| CrtKey::new(size, numbers))?
    }

    /// Makes and verifies three signatures. Returns the shortest time: the first takes twice as long, and any may be interrupted.
    fn test_signature(&self) -> Result<Duration, PrivateKeyError> {
        const MESSAGE: &[u8] = b"tokenmint tries a key before it trusts it";
        let mut signature = vec![0; self.signature_len()];
        let mut shortest = Duration::MAX;
        for algorithm in [Algorithm::Rs256, Algorithm::Rs512, Algorithm::Rs256] {
            let hash = hash_message(algorithm, MESSAGE);
            let start = Instant::now();
            self.sign_hash(&hash, &mut signature).map_err(|_| PrivateKeyError::SignatureMismatch)?;
            shortest = shortest.min(start.elapsed());
            if !self.public.verifies(&hash, &signature) {
                return Err(PrivateKeyError::SignatureMismatch);
            }
        }
        Ok(shortest)
    }
}

/// Generates a private key in PKCS#8 PEM. It takes about a second at 2048 bits, and many seconds at 4096.
///
/// # Errors
/// The size is unsupported, or the key can't be encoded.
///
/// # Panics
/// Panics if the host gives no randomness.
pub fn generate_private_key(bits: usize, randomness: &dyn Randomness) -> Result<SecretString, rsa::Error> {
    let key = rsa::RsaPrivateKey::new(&mut RandomnessAdapter(randomness), bits)?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(rsa::Error::Pkcs8)?;
    Ok(SecretString::from(pem.as_str()))
}

/// Adapts [`Randomness`] to the trait of the crate `rsa`.
struct RandomnessAdapter<'a>(&'a dyn Randomness);

impl RngCore for RandomnessAdapter<'_> {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, into: &mut [u8]) {
        // The trait's signature has no error, and a key without full randomness must not exist.
        self.0.fill(into).expect("the host gives random bytes while a key is made");
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill(into).map_err(rand_core::Error::new)
    }
}

impl CryptoRng for RandomnessAdapter<'_> {}
