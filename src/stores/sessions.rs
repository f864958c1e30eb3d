//! [`StoreSessions`]: calls stores from code that isn't asynchronous.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::aws_kms::AwsKms;
use super::error::StoreError;
use super::pkcs11;
use super::store::{DataKey, SealContext, Store};
use super::vault::Vault;
use crate::config::{Algorithm, Name, RemoteKeyName, SealConfig, StoreConfig, StoreKind};
use crate::metrics::Metrics;

/// How long after its first request a load begins further ones. A login, a request and a logout may follow, each of five seconds: a
/// service whose start takes more than 30 seconds is restarted by its platform.
const LOAD_TIMEOUT: Duration = Duration::from_secs(15);

/// The sessions of one load or one command with stores. It must not be used on a thread of a runtime.
pub(crate) struct StoreSessions<'a> {
    metrics: &'a Metrics,
    /// Made with the first request.
    runtime: Option<Runtime>,
    timeout: Duration,
    /// When the first request began.
    began: Option<Instant>,
    /// The login to each store that was used.
    sessions: BTreeMap<Name, Result<Arc<dyn Store>, StoreError>>,
    /// The stores that aren't asked again.
    unavailable: BTreeMap<Name, StoreError>,
}

impl<'a> StoreSessions<'a> {
    pub(crate) const fn new(metrics: &'a Metrics) -> Self {
        Self::with_timeout(metrics, LOAD_TIMEOUT)
    }

    const fn with_timeout(metrics: &'a Metrics, timeout: Duration) -> Self {
        Self {
            metrics,
            runtime: None,
            timeout,
            began: None,
            sessions: BTreeMap::new(),
            unavailable: BTreeMap::new(),
        }
    }

    /// Seals a data key.
    ///
    /// # Errors
    /// The store can't be used.
    pub(crate) fn seal(
        &mut self,
        seal: &SealConfig,
        data_key: &DataKey,
        context: SealContext<'_>,
    ) -> Result<String, StoreError> {
        self.call(&seal.store, "seal", |store| async move { store.seal(&seal.key, data_key, context).await })
    }

    /// Opens a sealed data key.
    ///
    /// # Errors
    /// The store can't be used, or doesn't open it.
    pub(crate) fn unseal(
        &mut self,
        seal: &SealConfig,
        sealed: &str,
        context: SealContext<'_>,
    ) -> Result<DataKey, StoreError> {
        self.call(
            &seal.store,
            "unseal",
            |store| async move { store.unseal(&seal.key, sealed, context).await },
        )
    }

    /// Returns the public key of a key that signs, in PEM.
    ///
    /// # Errors
    /// The store can't be used, or has no such RSA key.
    pub(crate) fn public_key(
        &mut self,
        config: &StoreConfig,
        key: &RemoteKeyName,
    ) -> Result<String, StoreError> {
        self.call(config, "public_key", |store| async move { store.public_key(key).await })
    }

    /// Signs a message with this digest. Nobody has verified the signature.
    ///
    /// # Errors
    /// The store can't be used, or doesn't sign.
    pub(crate) fn sign(
        &mut self,
        config: &StoreConfig,
        key: &RemoteKeyName,
        algorithm: Algorithm,
        digest: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        self.call(config, "sign", |store| async move { store.sign(key, algorithm, digest).await })
    }

    /// Makes an RSA key that signs. Returns its name.
    ///
    /// # Errors
    /// The store can't be used, or has a key of that name.
    pub(crate) fn create_key(
        &mut self,
        config: &StoreConfig,
        name: &str,
        bits: usize,
    ) -> Result<RemoteKeyName, StoreError> {
        self.call(config, "create_key", |store| async move { store.create_key(name, bits).await })
    }

    /// Logs in to the store, and asks how long that lasts; `None` if it doesn't end by itself.
    ///
    /// # Errors
    /// The store can't be used.
    pub(crate) fn remaining(&mut self, config: &StoreConfig) -> Result<Option<Duration>, StoreError> {
        self.call(config, "lookup", |store| async move { store.remaining().await })
    }

    /// Sends a request to the store. One that didn't answer, or that asks for fewer requests, isn't asked again.
    fn call<T, F>(
        &mut self,
        config: &StoreConfig,
        operation: &'static str,
        request: impl FnOnce(Arc<dyn Store>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let metrics = self.metrics;
        let (runtime, store) = self.store(config)?;
        let result = measured(metrics, config, operation, || runtime.block_on(request(store)));
        if let Err(error @ (StoreError::Unavailable(_) | StoreError::Throttled(_))) = &result {
            self.unavailable.insert(config.name.clone(), error.clone());
        }
        result
    }

    /// Logs in to the store, unless that was done.
    fn store(&mut self, config: &StoreConfig) -> Result<(&Runtime, Arc<dyn Store>), StoreError> {
        let Self { metrics, runtime, timeout, began, sessions, unavailable } = self;
        if let Some(error) = unavailable.get(&config.name) {
            return Err(error.clone());
        }
        if began.is_some_and(|began| began.elapsed() > *timeout) {
            let reason = format!("the requests before took more than {} s together", timeout.as_secs());
            return Err(StoreError::Unavailable(reason));
        }
        began.get_or_insert_with(Instant::now);
        let runtime = match runtime {
            Some(runtime) => runtime,
            None => runtime.insert(Builder::new_current_thread().enable_all().build().map_err(|error| {
                StoreError::Unavailable(format!("no runtime can be made for its requests: {error}"))
            })?),
        };
        let session = match sessions.entry(config.name.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let log_in = || runtime.block_on(connect(config));
                // A token from a file takes no request.
                let is_request = config.needs_login();
                let session = if is_request { measured(metrics, config, "login", log_in) } else { log_in() };
                unknown.insert(session)
            }
        };
        let store = session.as_ref().map_err(Clone::clone)?;
        Ok((runtime, store.clone()))
    }
}

impl Drop for StoreSessions<'_> {
    fn drop(&mut self) {
        let Some(runtime) = &self.runtime else { return };
        for (name, session) in &self.sessions {
            if let Ok(store) = session
                && !self.unavailable.contains_key(name)
            {
                runtime.block_on(store.log_out());
            }
        }
    }
}

/// Logs in to a store.
///
/// # Errors
/// The login failed, or a file of the configuration can't be used.
pub(super) async fn connect(config: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    match &config.kind {
        StoreKind::Vault(vault) => Ok(Arc::new(Vault::log_in(vault).await?)),
        StoreKind::AwsKms(kms) => Ok(Arc::new(AwsKms::log_in(kms).await?)),
        StoreKind::Pkcs11(token) => pkcs11::connect(token).await,
    }
}

/// Records the outcome and the duration of a request.
fn measured<T>(
    metrics: &Metrics,
    config: &StoreConfig,
    operation: &'static str,
    request: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let begin = Instant::now();
    let result = request();
    record_request(metrics, config, operation, begin.elapsed(), result.as_ref().err());
    result
}

/// Records a request that ended with `error`, or well.
pub(super) fn record_request(
    metrics: &Metrics,
    config: &StoreConfig,
    operation: &'static str,
    took: Duration,
    error: Option<&StoreError>,
) {
    let store = config.name.as_str();
    let outcome = error.map_or("success", StoreError::as_str);
    metrics.store_requests.with_label_values(&[store, operation, outcome]).inc();
    metrics.store_request_duration.with_label_values(&[store, operation]).observe(took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{Config, Environment, KeyId};

    /// Two stores that are asked for nothing, because their token isn't there.
    const CONFIGURATION: &str = r#"
[stores.first]
kind = "vault"
address = "http://127.0.0.1:1"
token_file = "no-token"
[stores.second]
kind = "vault"
address = "http://127.0.0.1:1"
token_file = "no-token"
[keysets.first]
directory = "keys"
sealed_by = "first"
seal_key = "seal"
[keysets.second]
directory = "keys"
sealed_by = "second"
seal_key = "seal"
"#;

    #[test]
    fn a_load_begins_no_request_after_its_timeout() {
        let config = Config::parse("tokenmint.toml", CONFIGURATION, PathBuf::new(), &Environment::default());
        let keysets = config.map_err(|invalid| format!("{:?}", invalid.problems)).expect("valid").keysets;
        let kid = KeyId::parse("K1").expect("an id");
        let metrics = Metrics::new();
        let mut sessions = StoreSessions::with_timeout(&metrics, Duration::ZERO);
        let mut errors = keysets.values().map(|keyset| {
            let seal = keyset.seal.as_ref().expect("sealed");
            sessions.unseal(seal, "vault:v1:x", SealContext { keyset: &keyset.name, kid: &kid }).err()
        });
        assert!(matches!(errors.next(), Some(Some(StoreError::File { key: "token_file", .. }))));
        let late = errors.next().flatten();
        assert!(
            matches!(late, Some(StoreError::Unavailable(reason)) if reason.contains("took more than 0 s"))
        );
    }
}
