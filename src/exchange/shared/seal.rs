//! What lies in the shared cache, encrypted: whoever reads the store learns no token and no subject, and whoever writes
//! to it makes nothing that would be taken.
//!
//! AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits: format, nonce, ciphertext, tag. What an entry is and
//! whose is bound as associated data, so that it opens nowhere but where it belongs. Two keys are derived from the
//! configured one (HKDF, RFC 5869): one encrypts, the other makes names that say nothing to who hasn't got it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, Prk};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::super::job::CacheKey;
use crate::clock::{NoRandomness, Randomness};

/// Of names and entries: another format is another name, so that versions beside each other don't meet.
const FORMAT: u8 = 2;

pub struct Seal {
    encrypts: LessSafeKey,
    names: hmac::Key,
    /// Says which key is used, and nothing else of it.
    key_id: String,
}

/// What an entry is and whose.
#[derive(Clone, Copy)]
pub enum Bound<'a> {
    Token(&'a CacheKey),
    /// Why an exchange for that key has failed.
    Failure(&'a CacheKey),
    /// That a token was dropped.
    Drop,
}

impl Bound<'_> {
    fn associated_data(self) -> Vec<u8> {
        let (kind, of): (&[u8], &[u8]) = match self {
            Self::Token(key) => (b"token ", key.as_bytes()),
            Self::Failure(key) => (b"failure ", key.as_bytes()),
            Self::Drop => (b"drop", &[]),
        };
        [&[FORMAT], kind, of].concat()
    }
}

impl Seal {
    pub fn new(key: &[u8; 32]) -> Self {
        let secret = hkdf::Salt::new(HKDF_SHA256, b"tokenmint shared cache").extract(key);
        let (mut encrypts, mut names, mut id) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]), [0; 32]);
        derive(&secret, b"entries", &mut encrypts);
        derive(&secret, b"names", &mut names);
        derive(&secret, b"id", &mut id);
        let encrypts = UnboundKey::new(&AES_256_GCM, &*encrypts).expect("32 bytes are a key of AES-256");
        Self {
            encrypts: LessSafeKey::new(encrypts),
            names: hmac::Key::new(HMAC_SHA256, &*names),
            key_id: HEXLOWER.encode(&id[..8]),
        }
    }

    /// The beginning of all names.
    pub fn prefix(&self) -> String {
        format!("tokenmint:{FORMAT}:{}", self.key_id)
    }

    /// What `key` is called in the store.
    pub fn name(&self, key: &CacheKey) -> String {
        HEXLOWER.encode(hmac::sign(&self.names, key.as_bytes()).as_ref())
    }

    pub fn seal(
        &self,
        bound: Bound<'_>,
        plain: &[u8],
        randomness: &dyn Randomness,
    ) -> Result<Vec<u8>, NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        randomness.fill(&mut nonce)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = self.encrypts.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(bound.associated_data()),
            &mut sealed[1 + NONCE_LEN..],
        );
        sealed.extend_from_slice(tag.expect("far shorter than AES-GCM's limit").as_ref());
        Ok(sealed)
    }

    /// What was sealed with this key, for this place; `None` for anything else.
    pub fn open(&self, bound: Bound<'_>, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (format, rest) = sealed.split_first()?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>()?;
        if *format != FORMAT {
            return None;
        }
        let mut plain = Zeroizing::new(ciphertext.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.encrypts.open_in_place(nonce, Aad::from(bound.associated_data()), &mut plain);
        let length = opened.ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

fn derive(secret: &Prk, purpose: &[u8], into: &mut [u8; 32]) {
    let derived = secret.expand(&[purpose], HKDF_SHA256).and_then(|output| output.fill(into));
    derived.expect("32 bytes are what HKDF-SHA256 gives");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandomness;
    use proptest::prelude::*;

    fn sealed(seal: &Seal, key: [u8; 32], plain: &[u8]) -> Vec<u8> {
        let key = CacheKey::from_bytes(key);
        seal.seal(Bound::Token(&key), plain, &SystemRandomness::default()).expect("random bytes")
    }

    proptest! {
        /// An entry that was moved under the name of another is nobody's.
        #[test]
        fn an_entry_opens_only_for_its_own_cache_key(of: [u8; 32], other: [u8; 32], secret: [u8; 32], plain: Vec<u8>) {
            let seal = Seal::new(&secret);
            let entry = sealed(&seal, of, &plain);
            let open = |key| seal.open(Bound::Token(&CacheKey::from_bytes(key)), &entry);
            prop_assert!(open(of).is_some_and(|opened| *opened == plain));
            prop_assert_eq!(open(other).is_some(), of == other);
            prop_assert!(seal.open(Bound::Drop, &entry).is_none());
            prop_assert!(seal.open(Bound::Failure(&CacheKey::from_bytes(of)), &entry).is_none());
        }

        #[test]
        fn one_flipped_bit_or_another_length_makes_it_nothing(of: [u8; 32], plain: Vec<u8>, at: prop::sample::Index, bit in 0_u8..8) {
            let seal = Seal::new(&[7; 32]);
            let entry = sealed(&seal, of, &plain);
            let key = CacheKey::from_bytes(of);
            let mut flipped = entry.clone();
            flipped[at.index(entry.len())] ^= 1_u8 << bit;
            prop_assert!(seal.open(Bound::Token(&key), &flipped).is_none());
            prop_assert!(seal.open(Bound::Token(&key), &entry[..at.index(entry.len())]).is_none());
            prop_assert!(seal.open(Bound::Token(&key), &[&entry[..], b"x"].concat()).is_none());
        }

        #[test]
        fn another_secret_opens_nothing_and_has_other_names(secret: [u8; 32], other: [u8; 32], of: [u8; 32]) {
            prop_assume!(secret != other);
            let (seal, foreign) = (Seal::new(&secret), Seal::new(&other));
            let key = CacheKey::from_bytes(of);
            prop_assert!(foreign.open(Bound::Token(&key), &sealed(&seal, of, b"token")).is_none());
            prop_assert!(seal.prefix() != foreign.prefix() && seal.name(&key) != foreign.name(&key));
        }
    }

    /// Else two entries under one nonce would tell each other's content.
    #[test]
    fn no_two_entries_are_alike() {
        let seal = Seal::new(&[7; 32]);
        assert_ne!(sealed(&seal, [0; 32], b"token"), sealed(&seal, [0; 32], b"token"));
    }
}
