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

use super::super::request::CacheKey;
use crate::clock::{NoRandomness, Randomness};

/// Of names and entries: another format is another name, so that versions beside each other don't meet.
const FORMAT: u8 = 2;

pub struct EntryCipher {
    cipher: LessSafeKey,
    name_key: hmac::Key,
    /// Says which key is used, and nothing else of it.
    key_id: String,
}

/// What an entry is and whose.
#[derive(Clone, Copy)]
pub enum EntryContext<'a> {
    Token(&'a CacheKey),
    /// Why an exchange for that key has failed.
    Failure(&'a CacheKey),
    /// That a token was dropped.
    Drop,
}

impl EntryContext<'_> {
    fn associated_data(self) -> Vec<u8> {
        let (kind, of): (&[u8], &[u8]) = match self {
            Self::Token(key) => (b"token ", key.as_bytes()),
            Self::Failure(key) => (b"failure ", key.as_bytes()),
            Self::Drop => (b"drop", &[]),
        };
        [&[FORMAT], kind, of].concat()
    }
}

impl EntryCipher {
    pub fn new(key: &[u8; 32]) -> Self {
        let secret = hkdf::Salt::new(HKDF_SHA256, b"tokenmint shared cache").extract(key);
        let (mut cipher, mut names, mut id) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]), [0; 32]);
        derive_key(&secret, b"entries", &mut cipher);
        derive_key(&secret, b"names", &mut names);
        derive_key(&secret, b"id", &mut id);
        let cipher = UnboundKey::new(&AES_256_GCM, &*cipher).expect("32 bytes are a key of AES-256");
        Self {
            cipher: LessSafeKey::new(cipher),
            name_key: hmac::Key::new(HMAC_SHA256, &*names),
            key_id: HEXLOWER.encode(&id[..8]),
        }
    }

    /// The beginning of all names.
    pub fn prefix(&self) -> String {
        format!("tokenmint:{FORMAT}:{}", self.key_id)
    }

    /// What `key` is called in the store.
    pub fn store_key(&self, key: &CacheKey) -> String {
        HEXLOWER.encode(hmac::sign(&self.name_key, key.as_bytes()).as_ref())
    }

    pub fn encrypt(
        &self,
        context: EntryContext<'_>,
        plaintext: &[u8],
        randomness: &dyn Randomness,
    ) -> Result<Vec<u8>, NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        randomness.fill(&mut nonce)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plaintext.len() + AES_256_GCM.tag_len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let tag = self.cipher.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context.associated_data()),
            &mut sealed[1 + NONCE_LEN..],
        );
        sealed.extend_from_slice(tag.expect("far shorter than AES-GCM's limit").as_ref());
        Ok(sealed)
    }

    /// What was sealed with this key, for this place; `None` for anything else.
    pub fn decrypt(&self, context: EntryContext<'_>, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (format, rest) = sealed.split_first()?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>()?;
        if *format != FORMAT {
            return None;
        }
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.cipher.open_in_place(nonce, Aad::from(context.associated_data()), &mut plaintext);
        let length = opened.ok()?.len();
        plaintext.truncate(length);
        Some(plaintext)
    }
}

fn derive_key(secret: &Prk, purpose: &[u8], into: &mut [u8; 32]) {
    let derived = secret.expand(&[purpose], HKDF_SHA256).and_then(|output| output.fill(into));
    derived.expect("32 bytes are what HKDF-SHA256 gives");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandomness;
    use proptest::prelude::*;

    fn sealed(cipher: &EntryCipher, key: [u8; 32], plaintext: &[u8]) -> Vec<u8> {
        let key = CacheKey::from_bytes(key);
        cipher
            .encrypt(EntryContext::Token(&key), plaintext, &SystemRandomness::default())
            .expect("random bytes")
    }

    proptest! {
        /// An entry that was moved under the name of another is nobody's.
        #[test]
        fn an_entry_decrypts_only_for_its_own_cache_key(of: [u8; 32], other: [u8; 32], secret: [u8; 32], plaintext: Vec<u8>) {
            let cipher = EntryCipher::new(&secret);
            let entry = sealed(&cipher, of, &plaintext);
            let open = |key| cipher.decrypt(EntryContext::Token(&CacheKey::from_bytes(key)), &entry);
            prop_assert!(open(of).is_some_and(|opened| *opened == plaintext));
            prop_assert_eq!(open(other).is_some(), of == other);
            prop_assert!(cipher.decrypt(EntryContext::Drop, &entry).is_none());
            prop_assert!(cipher.decrypt(EntryContext::Failure(&CacheKey::from_bytes(of)), &entry).is_none());
        }

        #[test]
        fn a_flipped_bit_or_a_changed_length_is_rejected(of: [u8; 32], plaintext: Vec<u8>, at: prop::sample::Index, bit in 0_u8..8) {
            let cipher = EntryCipher::new(&[7; 32]);
            let entry = sealed(&cipher, of, &plaintext);
            let key = CacheKey::from_bytes(of);
            let mut flipped = entry.clone();
            flipped[at.index(entry.len())] ^= 1_u8 << bit;
            prop_assert!(cipher.decrypt(EntryContext::Token(&key), &flipped).is_none());
            prop_assert!(cipher.decrypt(EntryContext::Token(&key), &entry[..at.index(entry.len())]).is_none());
            prop_assert!(cipher.decrypt(EntryContext::Token(&key), &[&entry[..], b"x"].concat()).is_none());
        }

        #[test]
        fn another_key_decrypts_nothing_and_gives_other_store_keys(secret: [u8; 32], other: [u8; 32], of: [u8; 32]) {
            prop_assume!(secret != other);
            let (cipher, foreign) = (EntryCipher::new(&secret), EntryCipher::new(&other));
            let key = CacheKey::from_bytes(of);
            prop_assert!(foreign.decrypt(EntryContext::Token(&key), &sealed(&cipher, of, b"token")).is_none());
            prop_assert!(cipher.prefix() != foreign.prefix() && cipher.store_key(&key) != foreign.store_key(&key));
        }
    }

    /// Else two entries under one nonce would tell each other's content.
    #[test]
    fn the_same_entry_encrypted_twice_differs() {
        let cipher = EntryCipher::new(&[7; 32]);
        assert_ne!(sealed(&cipher, [0; 32], b"token"), sealed(&cipher, [0; 32], b"token"));
    }
}
