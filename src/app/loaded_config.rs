//! [`LoadedConfig`]: a configuration with the files that it names, loaded and checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fingerprint::{Fingerprint, WatchedFiles};
use super::tls::{self, ServerTls};
use crate::clock::Clock;
use crate::config::{self, Config, KeysetConfig, Name, Problem};
use crate::issuers::LoadedIssuerKeys;
use crate::keys::{BatchLibrary, BatchLibraryError, KeyRing};
use crate::metrics::Metrics;

/// A configuration, with all files that it names loaded and checked.
pub struct LoadedConfig {
    pub config: Config,
    pub ring: KeyRing,
    pub(super) tls: Option<ServerTls>,
    pub(super) public_tls: Option<ServerTls>,
    /// The library for batch signing, loaded at start only. A reload doesn't replace it.
    pub(super) batch: Option<Result<BatchLibrary, BatchLibraryError>>,
    pub(crate) issuer_keys: BTreeMap<Name, LoadedIssuerKeys>,
    pub(super) files: WatchedFiles,
    /// The fingerprint of `files`, taken before they were read.
    pub(super) fingerprint: Fingerprint,
    /// The metrics of the service, which has the requests to stores from here on.
    pub(super) metrics: Arc<Metrics>,
}

impl LoadedConfig {
    /// Loads and checks every file that `config` names.
    ///
    /// # Errors
    /// Lists every problem of these files.
    pub fn new(config: Config, clock: &dyn Clock) -> Result<Self, Vec<Problem>> {
        Self::replacing(config, None, clock, Arc::new(Metrics::new()))
    }

    /// Like [`new`](Self::new), for a reload that replaces the key ring `previous`.
    ///
    /// # Errors
    /// Lists every problem of these files, and each change of keys that verifiers of `previous` would not expect.
    pub(crate) fn replacing(
        mut config: Config,
        previous: Option<&KeyRing>,
        clock: &dyn Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Vec<Problem>> {
        let files = WatchedFiles::of(&config);
        let fingerprint = files.fingerprint();
        let mut problems = Vec::new();
        let server_tls = config.server.tls.as_ref().map(|tls| tls::load("server", tls, clock.now()));
        let public = config.server.public.as_ref().and_then(|public| public.tls.as_ref());
        let public_tls = public.map(|tls| tls::load("server.public", tls, clock.now()));
        let mut usable = |tls: Option<Result<_, Problem>>| {
            tls.and_then(|loaded| loaded.map_err(|problem| problems.push(problem)).ok())
        };
        let (tls, public_tls) = (usable(server_tls), usable(public_tls));
        config
            .warnings
            .extend([&tls, &public_tls].into_iter().flatten().flat_map(ServerTls::warnings).cloned());
        let public = config.server.public.as_ref();
        let wrong_host = public.and_then(|public| {
            tls::host_mismatch(public.tls.as_ref()?, public_tls.as_ref()?, public.url.as_ref()?.url())
        });
        config.warnings.extend(wrong_host);
        let first = previous.is_none();
        let batch = first
            .then(|| batch_library(&config.server.signing))
            .and_then(|library| library.map_err(|problem| problems.push(problem)).ok().flatten());
        let mut issuer_keys = BTreeMap::new();
        for issuer in config.issuers.values() {
            match LoadedIssuerKeys::load(issuer) {
                Ok(keys) => _ = issuer_keys.insert(issuer.name.clone(), keys),
                Err(problem) => problems.push(problem),
            }
        }
        match KeyRing::load(&config.keysets, clock.now(), previous, &metrics) {
            Ok(ring) if problems.is_empty() => {
                Ok(Self { config, ring, tls, public_tls, batch, issuer_keys, files, fingerprint, metrics })
            }
            Ok(_) => Err(problems),
            Err(more) => {
                let more = more.into_iter().map(|problem| config.located(problem));
                Err(problems.into_iter().chain(more).collect())
            }
        }
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.config.warnings.iter().chain(&self.ring.warnings)
    }
}

/// Opens the library for batch signing. Returns `None` if no library is configured or batches are off. Returns the reason if
/// the library can't be used but isn't required.
///
/// # Errors
/// The library is required and can't be used.
fn batch_library(
    signing: &config::SigningConfig,
) -> Result<Option<Result<BatchLibrary, BatchLibraryError>>, Problem> {
    let Some(file) = signing.library.as_ref().filter(|_| signing.batch != config::BatchMode::Off) else {
        return Ok(None);
    };
    // Checked first, because the loader's message for a missing file contains its path, which may be a secret.
    let library =
        if file.exists() { BatchLibrary::open(file.as_path()) } else { Err(BatchLibraryError::Missing) };
    if let (Err(reason), config::BatchMode::Required) = (&library, signing.batch) {
        let message = format!(
            "can't be used: {reason}; `batch` needs Intel's libcrypto_mb.so.13 and a CPU with AVX-512 IFMA: see \
             docs/signing.md, or set it to auto"
        );
        return Err(Problem::new("server.signing.library", file, message));
    }
    Ok(Some(library))
}

/// Lists the problems of the keys of an invalid configuration, to report them together with its own.
pub(crate) fn key_problems(keysets: &BTreeMap<Name, KeysetConfig>, clock: &dyn Clock) -> Vec<Problem> {
    KeyRing::load(keysets, clock.now(), None, &Arc::new(Metrics::new())).err().unwrap_or_default()
}
