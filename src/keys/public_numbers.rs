//! The public numbers of an RSA key, from any kind of file.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::BigUint;

use crate::hash::sha256;

/// Modulus and public exponent, big-endian, without leading zeros.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicNumbers {
    pub(crate) n: Vec<u8>,
    pub(crate) e: Vec<u8>,
}

impl PublicNumbers {
    pub(crate) fn new(n: &[u8], e: &[u8]) -> Self {
        Self { n: strip_leading_zeros(n), e: strip_leading_zeros(e) }
    }

    /// Whether this key's private half made the signature, of any message: the decrypted signature begins with PKCS#1 padding (RFC
    /// 8017, section 9.2). Another key's signature doesn't, except by a negligible chance. `false` for numbers
    /// that would take long: a modulus above `MAX_CHECKED_BITS`, or an exponent above eight octets.
    pub(crate) fn is_signer_of(&self, signature: &[u8]) -> bool {
        /// Bounds the time, which grows with the cube of the length of an untrusted number.
        const MAX_CHECKED_BITS: usize = 16_384;
        let [n, e, signature] = [self.n.as_slice(), self.e.as_slice(), signature].map(BigUint::from_bytes_be);
        let is_number = (1..=MAX_CHECKED_BITS).contains(&n.bits()) && self.e.len() <= 8 && signature < n;
        is_number && signature.modpow(&e, &n).to_bytes_be().starts_with(&[1, 0xff, 0xff, 0xff, 0xff])
    }

    /// SHA-256 of the base64url text of the modulus, as [`PublicKey::modulus_hash`](super::PublicKey::modulus_hash).
    pub(crate) fn modulus_hash(&self) -> [u8; 32] {
        sha256(URL_SAFE_NO_PAD.encode(&self.n).as_bytes())
    }

    pub(crate) fn bits(&self) -> usize {
        let unused = self.n.first().map_or(0, |octet| octet.leading_zeros() as usize);
        self.n.len() * 8 - unused
    }
}

fn strip_leading_zeros(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|octet| *octet == 0).collect()
}
