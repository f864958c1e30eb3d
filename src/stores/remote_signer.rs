//! [`RemoteSigner`]: signs with one key of a store, for the requests of a running service.
//!
//! - The circuit breaker of the key is asked first. Then a request waits until the limits of the store allow it.
//! - An attempt has a deadline. One that the store didn't answer is repeated once, on another connection. After an attempt whose session the
//!   store refuses, there is a login and another attempt.
//! - A signature that the public key doesn't verify is an error, whoever made it.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::circuit_breaker::{CircuitBreaker, CircuitOpen};
use super::connection::{LimitExceeded, StoreConnection};
use super::error::StoreError;
use super::store::Store;
use crate::config::{Algorithm, RemoteKeyName};
use crate::signing_queue::Permit;

/// The longest time of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest wait for a session. [`ATTEMPT_TIMEOUT`] doesn't include it.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(2);
/// When a request should come again after a failure that hasn't opened the circuit.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One key of a store.
pub(crate) struct RemoteSigner {
    connection: Arc<StoreConnection>,
    key: RemoteKeyName,
    circuit: CircuitBreaker,
}

/// The right to one signature of a store.
pub(crate) type SigningPermit = Permit<(), ()>;

/// Why a store doesn't sign now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RemoteSigningError {
    /// More signatures are wanted than `max_signatures_per_second` and `max_concurrent_signatures` allow.
    #[error("store `{0}` is asked for more signatures than its limits allow (max_signatures_per_second)")]
    LimitExceeded(String),
    #[error("store `{store}` {cause}")]
    Store { store: String, cause: StoreError, retry_after: Duration },
}

impl RemoteSigner {
    pub(crate) fn new(connection: Arc<StoreConnection>, key: RemoteKeyName) -> Self {
        Self { connection, key, circuit: CircuitBreaker::default() }
    }

    pub(crate) const fn connection(&self) -> &Arc<StoreConnection> {
        &self.connection
    }

    pub(crate) const fn key(&self) -> &RemoteKeyName {
        &self.key
    }

    /// Waits until the circuit breaker and the limits of the store allow a signature.
    ///
    /// # Errors
    /// They don't allow it in time.
    pub(crate) async fn admit(&self) -> Result<SigningPermit, RemoteSigningError> {
        let connection = &self.connection;
        self.circuit.check(connection.now()).map_err(|open| self.circuit_open(open))?;
        let permit = connection
            .acquire()
            .await
            .map_err(|LimitExceeded| RemoteSigningError::LimitExceeded(connection.config.name.to_string()))?;
        self.circuit.begin(connection.now()).map_err(|open| self.circuit_open(open))?;
        Ok(permit)
    }

    /// Signs a message with this digest by RSASSA-PKCS1-v1_5. `is_valid` verifies a signature with the public key. It must be polled to its
    /// end, or the circuit breaker doesn't hear of a failure.
    ///
    /// # Errors
    /// The store can't be used now.
    pub(crate) async fn sign(
        &self,
        _permit: SigningPermit,
        algorithm: Algorithm,
        digest: &[u8],
        is_valid: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, RemoteSigningError> {
        let connection = &self.connection;
        match self.sign_or_retry(algorithm, digest, is_valid).await {
            Ok(signature) => {
                if self.circuit.record_success() {
                    tracing::info!(store = %connection.config.name, key = %self.key, "the store signs again");
                }
                Ok(signature)
            }
            Err(cause) => {
                let store = connection.config.name.to_string();
                if self.circuit.record_failure(cause.clone(), connection.now()) {
                    tracing::error!(
                        store, key = %self.key, %cause,
                        "the store doesn't sign: its keyset mints no token until it does; it is asked again every few seconds"
                    );
                }
                Err(RemoteSigningError::Store { store, cause, retry_after: RETRY_AFTER })
            }
        }
    }

    /// The task of a signature ended without a result.
    pub(crate) fn task_ended(&self) -> RemoteSigningError {
        RemoteSigningError::Store {
            store: self.connection.config.name.to_string(),
            cause: StoreError::Unavailable("the signature was given up".to_owned()),
            retry_after: RETRY_AFTER,
        }
    }

    fn circuit_open(&self, CircuitOpen { cause, retry_after }: CircuitOpen) -> RemoteSigningError {
        RemoteSigningError::Store { store: self.connection.config.name.to_string(), cause, retry_after }
    }

    async fn sign_or_retry(
        &self,
        algorithm: Algorithm,
        digest: &[u8],
        is_valid: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, StoreError> {
        let session = self.session().await?;
        let first = self.attempt(&session, algorithm, digest, &is_valid).await;
        match &first {
            Err(StoreError::Denied(_)) => self.connection.forget(&session),
            Err(StoreError::Unavailable(_)) => {}
            _ => return first,
        }
        if !self.connection.allows_retry() {
            return first;
        }
        let session = self.session().await?;
        self.attempt(&session, algorithm, digest, &is_valid).await
    }

    async fn session(&self) -> Result<Arc<dyn Store>, StoreError> {
        let session = tokio::time::timeout(LOGIN_TIMEOUT, self.connection.session()).await;
        session.unwrap_or_else(|_| Err(timed_out(LOGIN_TIMEOUT)))
    }

    async fn attempt(
        &self,
        session: &Arc<dyn Store>,
        algorithm: Algorithm,
        digest: &[u8],
        is_valid: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, StoreError> {
        let begin = self.connection.now();
        let signed = tokio::time::timeout(ATTEMPT_TIMEOUT, session.sign(&self.key, algorithm, digest)).await;
        let signed = signed.unwrap_or_else(|_| Err(timed_out(ATTEMPT_TIMEOUT)));
        let verified = signed.and_then(|signature| {
            if is_valid(&signature) { Ok(signature) } else { Err(StoreError::WrongSignature) }
        });
        let took = self.connection.now().saturating_sub(begin);
        self.connection.record_signature(took, verified.as_ref().err());
        verified
    }
}

fn timed_out(after: Duration) -> StoreError {
    StoreError::Unavailable(format!("not within {} s", after.as_secs()))
}
