//! The trait of all kinds of stores.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use secrecy::SecretBox;

use super::error::StoreError;
use crate::config::{Algorithm, KeyId, Name, RemoteKeyName};

/// The length of a data key in bytes, for AES-256.
pub(crate) const DATA_KEY_LEN: usize = 32;

/// A key that encrypts one private key. The store seals the data key alone, so the private key never leaves this host.
pub(crate) type DataKey = SecretBox<[u8; DATA_KEY_LEN]>;

/// The private key that a data key belongs to. The store authenticates it, so the data key doesn't open for another one.
#[derive(Clone, Copy)]
pub(crate) struct SealContext<'a> {
    pub(crate) keyset: &'a Name,
    pub(crate) kid: &'a KeyId,
}

/// Neither names nor key ids contain a slash, so two keys never have the same text.
impl fmt::Display for SealContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tokenmint/{}/{}", self.keyset, self.kid)
    }
}

/// The times of a session, from its start.
#[derive(Clone, Copy)]
pub(super) struct SessionLifetime {
    pub(super) renew_after: Duration,
    pub(super) ends_after: Duration,
}

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A session with a store that seals data keys, and signs with keys of its own.
pub(super) trait Store: Send + Sync {
    /// Encrypts a data key with the store's key `seal_key`, for `context`.
    fn seal<'a>(
        &'a self,
        seal_key: &'a str,
        data_key: &'a DataKey,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<String, StoreError>>;

    /// Decrypts what [`seal`](Self::seal) returned for the same `context`.
    fn unseal<'a>(
        &'a self,
        seal_key: &'a str,
        sealed: &'a str,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<DataKey, StoreError>>;

    /// Returns the public key of a key that signs, in PEM (`SubjectPublicKeyInfo`).
    fn public_key<'a>(&'a self, key: &'a RemoteKeyName) -> BoxFuture<'a, Result<String, StoreError>>;

    /// Signs a message with this digest by RSASSA-PKCS1-v1_5. Nobody has verified the signature.
    fn sign<'a>(
        &'a self,
        key: &'a RemoteKeyName,
        algorithm: Algorithm,
        digest: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, StoreError>>;

    /// Makes an RSA key that signs, which the store doesn't export. Returns its name.
    fn create_key<'a>(
        &'a self,
        name: &'a str,
        bits: usize,
    ) -> BoxFuture<'a, Result<RemoteKeyName, StoreError>>;

    /// How long after its start the session should be replaced by another, and when it ends; `None` if it doesn't end by itself.
    fn lifetime(&self) -> Option<SessionLifetime>;

    /// Asks how long the session lasts from now; `None` if it doesn't end by itself.
    fn remaining(&self) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        let lifetime = self.lifetime();
        Box::pin(async move { Ok(lifetime.map(|lifetime| lifetime.ends_after)) })
    }

    /// Ends the session, if the store knows of it.
    fn log_out(&self) -> BoxFuture<'_, ()>;
}
