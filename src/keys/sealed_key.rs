//! The file `KID.key.sealed`: a private key, encrypted by a data key that a store has sealed (envelope encryption).
//!
//! - The private key's PEM text is encrypted with AES-256-GCM (NIST SP 800-38D), under a data key that encrypts nothing else.
//! - Keyset and key id ([`SealContext`]) are authenticated twice: by the store with the data key, and by AES-GCM with the private key. They are
//!   also written in the file, so that a message can say what is wrong without asking the store.
//! - The modulus in the file tells commands which key it is. It is compared with the opened key.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::key_file;
use super::private_key::{PrivateKey, PrivateKeyError};
use super::publication_history::ModulusHash;
use crate::clock::{NoRandomness, Randomness};
use crate::config::{Name, SealConfig};
use crate::hash::{PartsHasher, sha256};
use crate::stores::{DATA_KEY_LEN, DataKey, SealContext, StoreError, StoreSessions};

/// The extension of a sealed key's file, behind the key id.
pub(crate) const SEALED_EXTENSION: &str = "key.sealed";
/// The version of the format.
const VERSION: u32 = 1;

/// A sealed private key, as its file has it.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SealedKey {
    #[serde(rename = "tokenmint_sealed_key")]
    version: u32,
    keyset: String,
    kid: String,
    /// The modulus, in base64url. It identifies the key for commands that can't open it.
    n: String,
    /// The kind of the store.
    store: String,
    seal_key: String,
    /// The data key, as the store returned it.
    data_key: String,
    /// A nonce and the ciphertext with its tag, in base64.
    ciphertext: String,
}

/// Why a sealed key can't be opened or made. The text of the file isn't quoted.
#[derive(Debug, Error)]
pub(crate) enum SealedKeyError {
    #[error("{0}")]
    File(String),
    #[error("isn't a sealed key: `tokenmint keys seal` writes one")]
    Malformed,
    #[error("has the format {0}, and this tokenmint knows {VERSION}: use the tokenmint that sealed it")]
    Version(u32),
    #[error("is sealed for the key `{kid}` of the keyset `{keyset}` and opens for no other: move it back")]
    Misplaced { keyset: String, kid: String },
    #[error(
        "is sealed with the key `{seal_key}` of a store of kind `{store}`: set `sealed_by` and `seal_key` so"
    )]
    OtherSeal { store: String, seal_key: String },
    #[error("store `{store}` {error}")]
    Store { store: Name, error: StoreError },
    #[error("holds another key than it says: restore it, or seal the key again")]
    OtherKey,
    #[error(transparent)]
    PrivateKey(#[from] PrivateKeyError),
    #[error(
        "can't be opened with its data key: it was changed, or belongs to another key. Restore it, or seal the key again"
    )]
    NotAuthentic,
    #[error("store `{0}` returns another data key than it was given")]
    SelfTest(Name),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

impl SealedKeyError {
    /// Whether the store is the cause: `Some(true)` if the same attempt may succeed later, without a change here.
    pub(crate) const fn store_is_transient(&self) -> Option<bool> {
        match self {
            Self::Store { error, .. } => Some(error.is_transient()),
            _ => None,
        }
    }
}

impl SealedKey {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub(crate) fn read(path: &Path) -> Result<Self, SealedKeyError> {
        let text = key_file::read_sealed_key(path).map_err(SealedKeyError::File)?;
        let key: Self = serde_json::from_str(&text).map_err(|_| SealedKeyError::Malformed)?;
        if key.version == VERSION { Ok(key) } else { Err(SealedKeyError::Version(key.version)) }
    }

    /// Seals a private key, and tests that the store opens it.
    ///
    /// # Errors
    /// The store can't seal or open the data key, or the host gives no randomness.
    pub(crate) fn seal(
        pem: &SecretString,
        private: &PrivateKey,
        context: SealContext<'_>,
        seal: &SealConfig,
        sessions: &mut StoreSessions<'_>,
        randomness: &dyn Randomness,
    ) -> Result<Self, SealedKeyError> {
        let mut random = Ok(());
        let data_key: DataKey =
            SecretBox::init_with_mut(|key: &mut [u8; DATA_KEY_LEN]| random = randomness.fill(key));
        random?;
        let mut nonce = [0; NONCE_LEN];
        randomness.fill(&mut nonce)?;
        Ok(Self {
            version: VERSION,
            keyset: context.keyset.to_string(),
            kid: context.kid.to_string(),
            n: private.public.n.clone(),
            store: seal.store.kind.as_str().to_owned(),
            seal_key: seal.key.clone(),
            data_key: seal_data_key(&data_key, context, seal, sessions)?,
            ciphertext: encrypt(pem, &data_key, nonce, context),
        })
    }

    /// Returns the same sealed key, whose data key the store has sealed again.
    ///
    /// # Errors
    /// The store can't open or seal the data key.
    pub(crate) fn reseal(
        self,
        context: SealContext<'_>,
        seal: &SealConfig,
        sessions: &mut StoreSessions<'_>,
    ) -> Result<Self, SealedKeyError> {
        let data_key = self.open_data_key(context, seal, sessions)?;
        // A file that doesn't open stays as it is.
        decrypt(&self.ciphertext, &data_key, context)?;
        let data_key = seal_data_key(&data_key, context, seal, sessions)?;
        Ok(Self { data_key, ..self })
    }

    /// Opens the key of that keyset and key id.
    ///
    /// # Errors
    /// It is sealed for another key or by another store, or the store can't open it, or the key is rejected.
    pub(crate) fn open(
        &self,
        context: SealContext<'_>,
        seal: &SealConfig,
        sessions: &mut StoreSessions<'_>,
    ) -> Result<PrivateKey, SealedKeyError> {
        let data_key = self.open_data_key(context, seal, sessions)?;
        let pem = decrypt(&self.ciphertext, &data_key, context)?;
        let private = PrivateKey::parse(&pem, None)?;
        if private.public.n == self.n { Ok(private) } else { Err(SealedKeyError::OtherKey) }
    }

    /// Whether it is the key of that keyset and key id, by its own words, and sealed as `seal` says.
    ///
    /// # Errors
    /// It is sealed for another key or by another store.
    pub(crate) fn check_names(
        &self,
        context: SealContext<'_>,
        seal: &SealConfig,
    ) -> Result<(), SealedKeyError> {
        let Self { keyset, kid, store, seal_key, .. } = self;
        if keyset != context.keyset.as_str() || kid != context.kid.as_str() {
            return Err(SealedKeyError::Misplaced { keyset: keyset.clone(), kid: kid.clone() });
        }
        if store != seal.store.kind.as_str() || *seal_key != seal.key {
            return Err(SealedKeyError::OtherSeal { store: store.clone(), seal_key: seal_key.clone() });
        }
        Ok(())
    }

    fn open_data_key(
        &self,
        context: SealContext<'_>,
        seal: &SealConfig,
        sessions: &mut StoreSessions<'_>,
    ) -> Result<DataKey, SealedKeyError> {
        self.check_names(context, seal)?;
        sessions.unseal(seal, &self.data_key, context).map_err(|error| store_error(seal, error))
    }

    /// The text of its file.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("text can be written to memory") + "\n"
    }

    /// The hash of the modulus that the file states.
    pub(crate) fn modulus_hash(&self) -> ModulusHash {
        sha256(self.n.as_bytes())
    }

    /// Hashes all that decides what it opens to, and under which name it was read.
    pub(super) fn fingerprint(&self, context: SealContext<'_>) -> [u8; 32] {
        let name = context.to_string();
        let Self { version: _, keyset, kid, n, store, seal_key, data_key, ciphertext } = self;
        let parts = ["sealed", &name, keyset, kid, n, store, seal_key, data_key, ciphertext];
        PartsHasher::of(parts.into_iter().map(str::as_bytes))
    }
}

/// Seals a data key, and tests that the store opens it.
fn seal_data_key(
    data_key: &DataKey,
    context: SealContext<'_>,
    seal: &SealConfig,
    sessions: &mut StoreSessions<'_>,
) -> Result<String, SealedKeyError> {
    let sealed = sessions.seal(seal, data_key, context).map_err(|error| store_error(seal, error))?;
    let opened = sessions.unseal(seal, &sealed, context).map_err(|error| store_error(seal, error))?;
    if opened.expose_secret() != data_key.expose_secret() {
        return Err(SealedKeyError::SelfTest(seal.store.name.clone()));
    }
    Ok(sealed)
}

fn store_error(seal: &SealConfig, error: StoreError) -> SealedKeyError {
    SealedKeyError::Store { store: seal.store.name.clone(), error }
}

fn cipher(data_key: &DataKey) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, data_key.expose_secret());
    LessSafeKey::new(key.expect("32 bytes are a key of AES-256"))
}

/// Encrypts PEM text. The nonce needn't be unique, because the data key encrypts nothing else.
fn encrypt(
    pem: &SecretString,
    data_key: &DataKey,
    nonce: [u8; NONCE_LEN],
    context: SealContext<'_>,
) -> String {
    let mut text = Zeroizing::new(pem.expose_secret().as_bytes().to_vec());
    let (associated_data, unique) = (Aad::from(context.to_string()), Nonce::assume_unique_for_key(nonce));
    let tag = cipher(data_key).seal_in_place_separate_tag(unique, associated_data, &mut text);
    let tag = tag.expect("far shorter than AES-GCM's limit");
    STANDARD.encode([&nonce, text.as_slice(), tag.as_ref()].concat())
}

/// Decrypts what [`encrypt`] returned for the same data key and context.
fn decrypt(
    ciphertext: &str,
    data_key: &DataKey,
    context: SealContext<'_>,
) -> Result<SecretString, SealedKeyError> {
    let mut text = Zeroizing::new(STANDARD.decode(ciphertext).map_err(|_| SealedKeyError::Malformed)?);
    let (nonce, text) = text.split_first_chunk_mut::<NONCE_LEN>().ok_or(SealedKeyError::Malformed)?;
    let (associated_data, nonce) = (Aad::from(context.to_string()), Nonce::assume_unique_for_key(*nonce));
    let opened = cipher(data_key).open_in_place(nonce, associated_data, text);
    let opened = opened.map_err(|_| SealedKeyError::NotAuthentic)?;
    let pem = std::str::from_utf8(opened).map_err(|_| SealedKeyError::Malformed)?;
    Ok(SecretString::from(pem))
}
