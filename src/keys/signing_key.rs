//! The signer of a key id: a private key in this process, or a key of a store.

use std::cell::RefCell;
use std::sync::Arc;

use thiserror::Error;

use super::certificate::{KeyCertificate, year_of};
use super::key_strength::KeyWeakness;
use super::message_hash::{MessageHash, hash_message};
use super::pem;
use super::private_key::PrivateKey;
use super::public_key::PublicKey;
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, RemoteKeyName, StoreConfig};
use crate::stores::{RemoteSigner, RemoteSigningError, StoreConnection, StoreError, StoreSessions};

/// The signer of a key id.
#[derive(Clone)]
pub enum SigningKey {
    Private(Arc<PrivateKey>),
    Remote(Arc<RemoteKey>),
}

impl SigningKey {
    pub(crate) fn public(&self) -> &PublicKey {
        match self {
            Self::Private(key) => &key.public,
            Self::Remote(key) => &key.public,
        }
    }

    /// The store's name for it, if a store has it.
    pub(crate) fn remote(&self) -> Option<&RemoteKeyName> {
        match self {
            Self::Private(_) => None,
            Self::Remote(key) => Some(key.signer.key()),
        }
    }

    /// The connection to its store, if a store has it.
    pub(super) fn connection(&self) -> Option<&Arc<StoreConnection>> {
        match self {
            Self::Private(_) => None,
            Self::Remote(key) => Some(key.connection()),
        }
    }

    /// The private key, if it is in this process.
    pub const fn private(&self) -> Option<&Arc<PrivateKey>> {
        match self {
            Self::Private(key) => Some(key),
            Self::Remote(_) => None,
        }
    }
}

/// A key whose private half a store has. The store made a signature with it that verifies.
pub struct RemoteKey {
    public: PublicKey,
    /// Self-signed, for the year of the load. It is valid for two more years at least, and the next load in another year replaces it.
    pub(super) certificate: KeyCertificate,
    certificate_year: i32,
    signer: RemoteSigner,
}

/// Why a key of a store can't be used.
#[derive(Debug, Error)]
pub(crate) enum RemoteKeyError {
    #[error("store `{store}` {error}")]
    Store { store: String, error: StoreError },
    #[error("the store's key `{0}` has a public key that can't be read")]
    Unreadable(RemoteKeyName),
    #[error("the store's key `{key}` can't sign: {weakness}")]
    Weak { key: RemoteKeyName, weakness: KeyWeakness },
}

impl RemoteKeyError {
    /// Whether the store is the cause: `Some(true)` if the same attempt may succeed later, without a change here.
    pub(crate) const fn store_is_transient(&self) -> Option<bool> {
        match self {
            Self::Store { error, .. } => Some(error.is_transient()),
            Self::Unreadable(_) | Self::Weak { .. } => None,
        }
    }
}

impl RemoteKey {
    /// Asks a store for its key's public half, and for the signature of a certificate.
    ///
    /// # Errors
    /// The store can't be used, or its key is none that can sign for Salesforce.
    pub(super) fn load(
        kid: &KeyId,
        connection: &Arc<StoreConnection>,
        key: &RemoteKeyName,
        now: UnixTime,
        sessions: &mut StoreSessions<'_>,
    ) -> Result<Self, RemoteKeyError> {
        let public = remote_public_key(connection.config(), key, sessions)?;
        let certificate = remote_certificate(kid, &public, now, connection.config(), key, sessions)?;
        let signer = RemoteSigner::new(connection.clone(), key.clone());
        Ok(Self { public, certificate, certificate_year: year_of(now), signer })
    }

    /// Whether it still has what a load at `now` would give it, from this connection.
    pub(super) fn is_current(&self, connection: &Arc<StoreConnection>, now: UnixTime) -> bool {
        Arc::ptr_eq(self.signer.connection(), connection) && self.certificate_year == year_of(now)
    }

    pub(super) const fn connection(&self) -> &Arc<StoreConnection> {
        self.signer.connection()
    }

    /// Asks the store for a signature of the message with this [hash](hash_message), and verifies it.
    ///
    /// # Errors
    /// The store can't be used now, or its limits don't allow another signature in time.
    pub(crate) async fn sign(self: &Arc<Self>, hash: MessageHash) -> Result<Vec<u8>, RemoteSigningError> {
        let permit = self.signer.admit().await?;
        let key = self.clone();
        // A task of its own: the store goes on signing for a caller that has gone away, so the limits and the circuit breaker must count it.
        let signed = tokio::spawn(async move {
            let is_valid = |signature: &[u8]| key.public.verifies(&hash, signature);
            key.signer.sign(permit, hash.algorithm, hash.as_bytes(), is_valid).await
        });
        signed.await.unwrap_or_else(|_| Err(self.signer.task_ended()))
    }
}

/// Asks a store for the public half of a key.
///
/// # Errors
/// The store can't be used, or its key is none that can sign for Salesforce.
pub(crate) fn remote_public_key(
    store: &StoreConfig,
    key: &RemoteKeyName,
    sessions: &mut StoreSessions<'_>,
) -> Result<PublicKey, RemoteKeyError> {
    let pem = sessions.public_key(store, key).map_err(|error| store_error(store, error))?;
    let numbers = pem::parse_public_key(&pem).ok_or_else(|| RemoteKeyError::Unreadable(key.clone()))?;
    PublicKey::from_numbers(&numbers).map_err(|weakness| RemoteKeyError::Weak { key: key.clone(), weakness })
}

/// Derives the self-signed certificate of a store's key for the calendar year of `now`.
///
/// # Errors
/// The store doesn't sign, or not with that key.
pub(crate) fn remote_certificate(
    kid: &KeyId,
    public: &PublicKey,
    now: UnixTime,
    store: &StoreConfig,
    key: &RemoteKeyName,
    sessions: &mut StoreSessions<'_>,
) -> Result<KeyCertificate, RemoteKeyError> {
    let state = RefCell::new((sessions, None));
    let sign = |message: &[u8]| {
        let (sessions, failure) = &mut *state.borrow_mut();
        let hash = hash_message(Algorithm::Rs256, message);
        let signed = sessions.sign(store, key, hash.algorithm, hash.as_bytes());
        let verified = signed.and_then(|signature| {
            if public.verifies(&hash, &signature) { Ok(signature) } else { Err(StoreError::WrongSignature) }
        });
        verified.map_err(|error| *failure = Some(error)).ok()
    };
    let certificate = KeyCertificate::derive(kid, public, year_of(now), sign);
    certificate.ok_or_else(|| {
        let failure = state.into_inner().1;
        store_error(store, failure.expect("the fields are of constant shape, so only the signature fails"))
    })
}

fn store_error(store: &StoreConfig, error: StoreError) -> RemoteKeyError {
    RemoteKeyError::Store { store: store.name.to_string(), error }
}
