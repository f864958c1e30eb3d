//! What every kind of store can do.

use std::fmt;
use std::pin::Pin;

use secrecy::SecretString;

use super::error::StoreError;
use crate::config::{KeyId, Name};

/// The key that a sealed text belongs to. The store authenticates it, so the text doesn't open for another key.
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

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A session with a store that seals private keys.
pub(super) trait Store: Send + Sync {
    /// Encrypts `secret` with the store's key `seal_key`, for `context`.
    fn seal<'a>(
        &'a self,
        seal_key: &'a str,
        secret: &'a SecretString,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<String, StoreError>>;

    /// Decrypts what [`seal`](Self::seal) returned for the same `context`.
    fn unseal<'a>(
        &'a self,
        seal_key: &'a str,
        sealed: &'a str,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<SecretString, StoreError>>;

    /// Ends the session, if the store knows of it.
    fn log_out(&self) -> BoxFuture<'_, ()>;
}
