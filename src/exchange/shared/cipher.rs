//! Encryption of the shared cache's entries. Read access to the store reveals no token and no subject. Write access can't
//! forge an entry. One key, derived by HKDF from the configured key, encrypts all entries; this isn't envelope encryption.
//!
//! Each entry is a format byte, a random 96-bit nonce, the AES-256-GCM ciphertext (NIST SP 800-38D) and its tag. Its
//! kind and, except for announcements, its cache key are authenticated as associated data. So a token or failure is valid
//! only for its own cache key. Three values are derived from the configured key by HKDF (RFC 5869): the encryption key, the
//! HMAC key that makes store keys, and an id of the configured key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, Prk};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::super::request::CacheKey;
use crate::clock::{NoRandomness, Randomness};

/// Version of the entry format. It is part of the store keys, so that different versions don't read each other's entries.
const FORMAT: u8 = 2;

/// Encrypts entries and derives their store keys.
pub(crate) struct EntryCipher {
    cipher: LessSafeKey,
    name_key: hmac::Key,
    /// Identifies the configured key without revealing it.
    key_id: String,
}

/// The kind of an entry, and the cache key of a token or failure, authenticated as associated data.
#[derive(Clone, Copy)]
pub(crate) enum EntryContext<'a> {
    Token(&'a CacheKey),
    /// The failure of an exchange for that key.
    Failure(&'a CacheKey),
    /// The announcement of a rejected token, whose plaintext has the cache key.
    Rejection,
}

impl EntryContext<'_> {
    fn associated_data(self) -> Vec<u8> {
        let (kind, of): (&[u8], &[u8]) = match self {
            Self::Token(key) => (b"token ", key.as_bytes()),
            Self::Failure(key) => (b"failure ", key.as_bytes()),
            Self::Rejection => (b"drop", &[]),
        };
        [&[FORMAT], kind, of].concat()
    }
}

impl EntryCipher {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
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

    /// The prefix of all store keys except those of login counts.
    pub(crate) fn prefix(&self) -> String {
        format!("tokenmint:{FORMAT}:{}", self.key_id)
    }

    /// The last part of the store keys of a cache key: its HMAC.
    pub(crate) fn store_key(&self, key: &CacheKey) -> String {
        HEXLOWER.encode(hmac::sign(&self.name_key, key.as_bytes()).as_ref())
    }

    /// Encrypts an entry for its context.
    pub(crate) fn encrypt(
        &self,
        context: EntryContext<'_>,
        plaintext: &[u8],
        randomness: &dyn Randomness,
    ) -> Result<Vec<u8>, NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        randomness.fill(&mut nonce)?;
        let mut entry = Vec::with_capacity(1 + NONCE_LEN + plaintext.len() + AES_256_GCM.tag_len());
        entry.push(FORMAT);
        entry.extend_from_slice(&nonce);
        entry.extend_from_slice(plaintext);
        let tag = self.cipher.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context.associated_data()),
            &mut entry[1 + NONCE_LEN..],
        );
        entry.extend_from_slice(tag.expect("far shorter than AES-GCM's limit").as_ref());
        Ok(entry)
    }

    /// Decrypts an entry; `None` if it is of another format, or wasn't encrypted with this key and for this context.
    pub(crate) fn decrypt(&self, context: EntryContext<'_>, entry: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (format, rest) = entry.split_first()?;
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

    fn encrypt(cipher: &EntryCipher, key: [u8; 32], plaintext: &[u8]) -> Vec<u8> {
        let key = CacheKey::from_bytes(key);
        cipher
            .encrypt(EntryContext::Token(&key), plaintext, &SystemRandomness::default())
            .expect("random bytes")
    }

    proptest! {
        /// An entry that was moved to another store key is invalid.
        #[test]
        fn an_entry_decrypts_only_for_its_own_cache_key(of: [u8; 32], other: [u8; 32], secret: [u8; 32], plaintext: Vec<u8>) {
            let cipher = EntryCipher::new(&secret);
            let entry = encrypt(&cipher, of, &plaintext);
            let open = |key| cipher.decrypt(EntryContext::Token(&CacheKey::from_bytes(key)), &entry);
            prop_assert!(open(of).is_some_and(|opened| *opened == plaintext));
            prop_assert_eq!(open(other).is_some(), of == other);
            prop_assert!(cipher.decrypt(EntryContext::Rejection, &entry).is_none());
            prop_assert!(cipher.decrypt(EntryContext::Failure(&CacheKey::from_bytes(of)), &entry).is_none());
        }

        #[test]
        fn a_flipped_bit_or_a_changed_length_is_rejected(of: [u8; 32], plaintext: Vec<u8>, at: prop::sample::Index, bit in 0_u8..8) {
            let cipher = EntryCipher::new(&[7; 32]);
            let entry = encrypt(&cipher, of, &plaintext);
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
            prop_assert!(foreign.decrypt(EntryContext::Token(&key), &encrypt(&cipher, of, b"token")).is_none());
            prop_assert!(cipher.prefix() != foreign.prefix() && cipher.store_key(&key) != foreign.store_key(&key));
        }
    }

    /// Each encryption has a new nonce. Two entries with one nonce would reveal the XOR of their contents.
    #[test]
    fn the_same_entry_encrypted_twice_differs() {
        let cipher = EntryCipher::new(&[7; 32]);
        assert_ne!(encrypt(&cipher, [0; 32], b"token"), encrypt(&cipher, [0; 32], b"token"));
    }
}
