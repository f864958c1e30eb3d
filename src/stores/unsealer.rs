//! [`Unsealer`]: calls stores from code that isn't asynchronous.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::error::StoreError;
use super::store::{DataKey, SealContext, Store};
use super::vault::Vault;
use crate::config::{Name, SealConfig, StoreConfig, StoreKind};
use crate::metrics::Metrics;

/// The time that the requests of one load may take together. A service whose start takes longer is restarted by its platform.
const LOAD_TIMEOUT: Duration = Duration::from_secs(20);

/// Seals and unseals the data keys of one load or one command. It must not be used on a thread of a runtime.
pub(crate) struct Unsealer<'a> {
    metrics: &'a Metrics,
    /// Made with the first request.
    runtime: Option<Runtime>,
    /// When the first request began.
    began: Option<Instant>,
    /// The login to each store that was used.
    sessions: BTreeMap<Name, Result<Box<dyn Store>, StoreError>>,
    /// The stores that didn't answer. They aren't asked again.
    unavailable: BTreeMap<Name, StoreError>,
}

impl<'a> Unsealer<'a> {
    pub(crate) const fn new(metrics: &'a Metrics) -> Self {
        Self { metrics, runtime: None, began: None, sessions: BTreeMap::new(), unavailable: BTreeMap::new() }
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
        let result = measured(metrics, &seal.store, "seal", || runtime.block_on(request));
        self.remember_outage(&seal.store, result)
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
        let result = measured(metrics, &seal.store, "unseal", || runtime.block_on(request));
        self.remember_outage(&seal.store, result)
    }

    /// Logs in to the store, unless that was done.
    fn store(&mut self, config: &StoreConfig) -> Result<(&Runtime, &dyn Store), StoreError> {
        let Self { metrics, runtime, began, sessions, unavailable } = self;
        if let Some(error) = unavailable.get(&config.name) {
            return Err(error.clone());
        }
        if began.get_or_insert_with(Instant::now).elapsed() > LOAD_TIMEOUT {
            let seconds = LOAD_TIMEOUT.as_secs();
            return Err(StoreError::Unavailable(format!("all requests together took more than {seconds} s")));
        }
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
        Ok((runtime, store.as_ref()))
    }

    /// Returns `result`. A store that didn't answer isn't asked again.
    fn remember_outage<T>(
        &mut self,
        config: &StoreConfig,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(error @ StoreError::Unavailable(_)) = &result {
            self.unavailable.insert(config.name.clone(), error.clone());
        }
        result
    }
}

impl Drop for Unsealer<'_> {
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
async fn connect(config: &StoreConfig) -> Result<Box<dyn Store>, StoreError> {
    match &config.kind {
        StoreKind::Vault(vault) => Ok(Box::new(Vault::log_in(vault).await?)),
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
    let store = config.name.as_str();
    let outcome = result.as_ref().map_or_else(StoreError::as_str, |_| "success");
    metrics.store_requests.with_label_values(&[store, operation, outcome]).inc();
    metrics
        .store_request_duration
        .with_label_values(&[store, operation])
        .observe(begin.elapsed().as_secs_f64());
    result
}
