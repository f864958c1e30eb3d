//! The file `KID.key.sealed`: a private key that a store has encrypted, with the names that it is bound to.
//!
//! The store authenticates the names ([`SealContext`]). They are also written in the file, so that a message can say what is wrong without
//! asking the store.

use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::key_file;
use super::private_key::{PrivateKey, PrivateKeyError};
use super::publication_history::ModulusHash;
use crate::config::{Name, SealConfig};
use crate::hash::{PartsHasher, sha256};
use crate::stores::{SealContext, StoreError, Unsealer};

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
    /// The text that the store returned.
    sealed: String,
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
    #[error("isn't opened: store `{store}` {error}")]
    Store { store: Name, error: StoreError },
    #[error("holds another key than it says: restore it, or seal the key again")]
    OtherKey,
    #[error(transparent)]
    PrivateKey(#[from] PrivateKeyError),
    #[error(
        "the store `{0}` opens it under another name too, so it doesn't authenticate `associated_data`: `seal_key` must be a key of \
         authenticated encryption, for example aes256-gcm96"
    )]
    NotBound(Name),
}

impl SealedKeyError {
    /// Whether the same attempt may succeed later, without a change here.
    pub(crate) const fn is_transient(&self) -> bool {
        matches!(self, Self::Store { error, .. } if error.is_transient())
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

    /// Seals a private key, and tests that the store opens it under this name only.
    ///
    /// # Errors
    /// The store can't seal or open it, or opens it under another name too.
    pub(crate) fn seal(
        pem: &SecretString,
        private: &PrivateKey,
        context: SealContext<'_>,
        seal: &SealConfig,
        unsealer: &mut Unsealer<'_>,
    ) -> Result<Self, SealedKeyError> {
        let store = &seal.store.name;
        let failed = |error| SealedKeyError::Store { store: store.clone(), error };
        let sealed = unsealer.seal(seal, pem, context).map_err(failed)?;
        let opened = unsealer.unseal(seal, &sealed, context).map_err(failed)?;
        if opened.expose_secret() != pem.expose_secret() {
            return Err(SealedKeyError::OtherKey);
        }
        let other = if context.keyset.as_str() == "a" { "b" } else { "a" };
        let other = Name::parse(other).expect("a letter is a name");
        match unsealer.unseal(seal, &sealed, SealContext { keyset: &other, ..context }) {
            Err(StoreError::NotOpened(_)) => {}
            Err(error) => return Err(failed(error)),
            Ok(_) => return Err(SealedKeyError::NotBound(store.clone())),
        }
        Ok(Self {
            version: VERSION,
            keyset: context.keyset.to_string(),
            kid: context.kid.to_string(),
            n: private.public.n.clone(),
            store: seal.store.kind.as_str().to_owned(),
            seal_key: seal.key.clone(),
            sealed,
        })
    }

    /// Opens the key of that keyset and key id.
    ///
    /// # Errors
    /// It is sealed for another key or by another store, or the store can't open it, or the key is rejected.
    pub(crate) fn open(
        &self,
        context: SealContext<'_>,
        seal: &SealConfig,
        unsealer: &mut Unsealer<'_>,
    ) -> Result<PrivateKey, SealedKeyError> {
        let pem = self.unseal(context, seal, unsealer)?;
        let private = PrivateKey::parse(&pem, None)?;
        if private.public.n == self.n { Ok(private) } else { Err(SealedKeyError::OtherKey) }
    }

    /// Opens the text of the key, without checking the key.
    ///
    /// # Errors
    /// It is sealed for another key or by another store, or the store can't open it.
    pub(crate) fn unseal(
        &self,
        context: SealContext<'_>,
        seal: &SealConfig,
        unsealer: &mut Unsealer<'_>,
    ) -> Result<SecretString, SealedKeyError> {
        let Self { keyset, kid, store, seal_key, .. } = self;
        if keyset != context.keyset.as_str() || kid != context.kid.as_str() {
            return Err(SealedKeyError::Misplaced { keyset: keyset.clone(), kid: kid.clone() });
        }
        if store != seal.store.kind.as_str() || *seal_key != seal.key {
            return Err(SealedKeyError::OtherSeal { store: store.clone(), seal_key: seal_key.clone() });
        }
        let opened = unsealer.unseal(seal, &self.sealed, context);
        opened.map_err(|error| SealedKeyError::Store { store: seal.store.name.clone(), error })
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
        let parts =
            ["sealed", &name, &self.keyset, &self.kid, &self.n, &self.store, &self.seal_key, &self.sealed];
        PartsHasher::of(parts.into_iter().map(str::as_bytes))
    }
}
