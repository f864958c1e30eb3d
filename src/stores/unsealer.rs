//! [`Unsealer`]: calls stores from code that isn't asynchronous.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};

use super::error::StoreError;
use super::store::{DataKey, SealContext, Store};
use super::vault::Vault;
use crate::config::{Name, SealConfig, StoreConfig, StoreKind};
use crate::metrics::Metrics;

/// Seals and unseals the data keys of one load or one command.
pub(crate) struct Unsealer<'a> {
    metrics: &'a Metrics,
    /// Made with the first request.
    runtime: Option<Runtime>,
    /// Each store that was asked: logged in, or why it can't be used. So a store that is down is asked once.
    stores: BTreeMap<Name, Result<Box<dyn Store>, StoreError>>,
}

impl<'a> Unsealer<'a> {
    pub(crate) const fn new(metrics: &'a Metrics) -> Self {
        Self { metrics, runtime: None, stores: BTreeMap::new() }
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
        let metrics = self.metrics;
        let (runtime, store) = self.store(&seal.store)?;
        let request = store.seal(&seal.key, data_key, context);
        let result = measured(metrics, &seal.store, "seal", || block_on(runtime, request));
        self.remember_failure(&seal.store, result)
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
        let metrics = self.metrics;
        let (runtime, store) = self.store(&seal.store)?;
        let request = store.unseal(&seal.key, sealed, context);
        let result = measured(metrics, &seal.store, "unseal", || block_on(runtime, request));
        self.remember_failure(&seal.store, result)
    }

    /// Logs in to the store, unless that was done.
    fn store(&mut self, config: &StoreConfig) -> Result<(&Runtime, &dyn Store), StoreError> {
        let Self { metrics, runtime, stores } = self;
        let runtime = match runtime {
            Some(runtime) => runtime,
            None => runtime.insert(Builder::new_current_thread().enable_all().build().map_err(|error| {
                StoreError::Unavailable(format!("no runtime can be made for its requests: {error}"))
            })?),
        };
        let session = match stores.entry(config.name.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                unknown.insert(measured(metrics, config, "login", || block_on(runtime, connect(config))))
            }
        };
        let store = session.as_ref().map_err(Clone::clone)?;
        Ok((runtime, store.as_ref()))
    }

    /// Returns `result`. After a failure that may be over later, the store isn't asked again.
    fn remember_failure<T>(
        &mut self,
        config: &StoreConfig,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(error) = &result
            && error.is_transient()
        {
            self.stores.insert(config.name.clone(), Err(error.clone()));
        }
        result
    }
}

impl Drop for Unsealer<'_> {
    fn drop(&mut self) {
        let Some(runtime) = &self.runtime else { return };
        for store in self.stores.values().flatten() {
            block_on(runtime, store.log_out());
        }
    }
}

/// Logs in to a store.
///
/// # Errors
/// The login failed, or a file of the configuration can't be used.
async fn connect(config: &StoreConfig) -> Result<Box<dyn Store>, StoreError> {
    match &config.kind {
        StoreKind::Vault(vault) => Ok(Box::new(Vault::log_in(vault).await?)),
    }
}

/// Runs `request` on a thread of its own: the caller's thread may belong to another runtime, which forbids waiting.
fn block_on<T: Send>(runtime: &Runtime, request: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| runtime.block_on(request));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
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
    let store = config.name.as_str();
    let outcome = result.as_ref().map_or_else(StoreError::as_str, |_| "success");
    metrics.store_requests.with_label_values(&[store, operation, outcome]).inc();
    metrics
        .store_request_duration
        .with_label_values(&[store, operation])
        .observe(begin.elapsed().as_secs_f64());
    result
}
