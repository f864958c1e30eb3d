//! The hash of a message that is to be signed.

use aws_lc_rs::digest::{Digest, SHA256, SHA512, digest};

use crate::config::Algorithm;

/// The hash of a message, and the signature algorithm that it is for.
pub struct MessageHash {
    pub(crate) algorithm: Algorithm,
    pub(super) digest: Digest,
}

impl MessageHash {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.digest.as_ref()
    }
}

/// Hashes a message with the algorithm's hash function.
pub fn hash_message(algorithm: Algorithm, message: &[u8]) -> MessageHash {
    let function = match algorithm {
        Algorithm::Rs256 => &SHA256,
        Algorithm::Rs512 => &SHA512,
    };
    MessageHash { algorithm, digest: digest(function, message) }
}
