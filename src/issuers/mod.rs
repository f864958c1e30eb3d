//! Verifies JWTs of other issuers: returns the verified claims of a token, or the reason of a refusal.
//!
//! - [`TrustedIssuer::verify`] applies the rules of RFC 7519, RFC 8725 and the configuration. Values are compared whole.
//! - The algorithm must be one of the issuer's key, and one of `algorithms`. The token's header can't choose another.
//! - Keys are in a file, a shared secret, or fetched and kept by `key_cache`. While an issuer can't be reached, its kept keys verify
//!   for a bounded time. After that, tokens are neither accepted nor refused: [`VerifyError::KeysUnavailable`].
//! - No message contains a value of a token.

mod claims;
mod fetch;
mod jwt;
mod key_cache;
mod key_set;
mod refusal;
mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::ExposeSecret as _;

pub use claims::VerifiedClaims;
pub(crate) use fetch::{FetchError, FetchedKeys};
pub use jwt::UnverifiedJwt;
pub use key_cache::KeyVersion;
pub(crate) use key_set::{KeySet, KeySetError};
pub use refusal::{Refusal, VerifyError};
pub(crate) use rules::{IssuerRules, RuleResult};

use crate::clock::{Clock, UnixTime};
use crate::config::{Config, IssuerConfig, IssuerKeySource, Name, Problem};
use crate::files::{MAX_FILE_SIZE, OpenedFile};
use crate::metrics::Metrics;
use fetch::{FetchKeys as _, KeyFetcher};
use key_cache::KeyCache;

/// The version of keys that aren't fetched. A reload replaces them together with everything that was verified by them.
const FIXED_KEYS_VERSION: KeyVersion = KeyVersion(0);

/// The issuers of a configuration.
#[derive(Default)]
pub struct Issuers(BTreeMap<Name, Arc<TrustedIssuer>>);

/// An issuer with its keys and the rules for its tokens.
pub struct TrustedIssuer {
    pub name: Name,
    rules: IssuerRules,
    keys: IssuerKeys,
    metrics: Arc<Metrics>,
}

enum IssuerKeys {
    /// From a file or a secret.
    Fixed(KeySet),
    Fetched(Arc<KeyCache<KeyFetcher>>),
}

/// The keys of an issuer as a configuration gives them, read and checked: the keys themselves, or how they are fetched.
pub struct LoadedIssuerKeys(KeyOrigin);

enum KeyOrigin {
    Fixed(KeySet),
    Fetched(Box<KeyFetcher>),
}

impl LoadedIssuerKeys {
    const fn fixed(keys: KeySet) -> Self {
        Self(KeyOrigin::Fixed(keys))
    }

    /// The keys; `None` if they must be fetched.
    pub(crate) const fn without_fetch(&self) -> Option<&KeySet> {
        match &self.0 {
            KeyOrigin::Fixed(keys) => Some(keys),
            KeyOrigin::Fetched(_) => None,
        }
    }

    /// Fetches the keys once. `None` if they need no fetch.
    pub(crate) async fn fetch(&self) -> Option<Result<FetchedKeys, FetchError>> {
        match &self.0 {
            KeyOrigin::Fixed(_) => None,
            KeyOrigin::Fetched(fetcher) => Some(fetcher.fetch().await),
        }
    }

    /// Reads the files that `[issuers.NAME]` names.
    ///
    /// # Errors
    /// A file can't be read, or doesn't hold what it should.
    pub(crate) fn load(issuer: &IssuerConfig) -> Result<Self, Problem> {
        match &issuer.keys {
            IssuerKeySource::Secret(secret) => {
                Ok(Self::fixed(KeySet::of_secret(secret.expose_secret().as_bytes())))
            }
            IssuerKeySource::File(path) => {
                let read = OpenedFile::open(path.as_path()).and_then(|file| file.read(MAX_FILE_SIZE));
                let text = read.map_err(|error| format!("can't be read: {error}"));
                let keys = text.and_then(|text| {
                    KeySet::parse(&text, &issuer.algorithms)
                        .map_err(|error| format!("holds no usable JWKS: it {error}"))
                });
                let field = format!("issuers.{}.jwks_file", issuer.name);
                keys.map(Self::fixed).map_err(|message| Problem::new(field, path, message))
            }
            IssuerKeySource::Fetched(fetch) => {
                KeyFetcher::new(fetch, issuer.issuer.as_str(), issuer.algorithms.clone())
                    .map(|fetcher| Self(KeyOrigin::Fetched(Box::new(fetcher))))
                    .map_err(|message| {
                        let ca_file = fetch.ca_file.as_ref().map(ToString::to_string).unwrap_or_default();
                        Problem::new(format!("issuers.{}.ca_file", issuer.name), ca_file, message)
                    })
            }
        }
    }
}

impl Issuers {
    /// Builds the issuers of `config`, whose keys are `keys`. Takes over from `previous` what was fetched for issuers whose address,
    /// algorithms and authorities didn't change.
    ///
    /// # Panics
    /// If `keys` doesn't belong to `config`.
    pub(crate) fn new(
        config: &Config,
        mut keys: BTreeMap<Name, LoadedIssuerKeys>,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
        previous: Option<&Self>,
    ) -> Self {
        install_crypto_provider();
        let issuer = |issuer: &IssuerConfig| {
            let keys =
                keys.remove(&issuer.name).expect("the keys of each issuer are loaded with the configuration");
            let keys = match keys.0 {
                KeyOrigin::Fixed(keys) => IssuerKeys::Fixed(keys),
                KeyOrigin::Fetched(fetcher) => {
                    let kept = previous.and_then(|previous| previous.key_cache(&issuer.name));
                    IssuerKeys::Fetched(match kept {
                        Some(kept) if *kept.fetcher() == *fetcher => kept.clone(),
                        Some(kept) if kept.fetcher().fetches_the_same(&fetcher) => {
                            KeyCache::with_fetcher(kept, *fetcher)
                        }
                        _ => KeyCache::new(issuer.name.clone(), *fetcher, clock.clone(), metrics.clone()),
                    })
                }
            };
            let issuer = TrustedIssuer {
                name: issuer.name.clone(),
                rules: IssuerRules::new(issuer),
                keys,
                metrics: metrics.clone(),
            };
            (issuer.name.clone(), Arc::new(issuer))
        };
        Self(config.issuers.values().map(issuer).collect())
    }

    fn key_cache(&self, name: &Name) -> Option<&Arc<KeyCache<KeyFetcher>>> {
        match &self.0.get(name)?.keys {
            IssuerKeys::Fetched(cache) => Some(cache),
            IssuerKeys::Fixed(_) => None,
        }
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&Arc<TrustedIssuer>> {
        self.0.get(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.0.keys()
    }

    /// Starts a fetch of each issuer's keys that are due. Must be called within a tokio runtime.
    pub(crate) fn fetch_due_keys(&self) {
        for issuer in self.0.values() {
            if let IssuerKeys::Fetched(cache) = &issuer.keys {
                cache.fetch_if_due();
            }
        }
    }

    /// Exports the age of each issuer's keys.
    pub(crate) fn record_key_ages(&self) {
        for issuer in self.0.values() {
            if let IssuerKeys::Fetched(cache) = &issuer.keys {
                cache.record_age();
            }
        }
    }
}

/// Installs the provider of jsonwebtoken. It must not depend on the features of other crates.
pub(crate) fn install_crypto_provider() {
    // An error means that it is installed already.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

impl TrustedIssuer {
    /// Whether the token's `iss`, which isn't verified, is this issuer's.
    pub(crate) fn matches_iss(&self, jwt: &UnverifiedJwt<'_>) -> bool {
        self.rules.has_issuer(jwt)
    }

    /// Whether the issuer's keys have the one that the token names, as far as they are known now.
    pub(crate) fn has_key_of(&self, jwt: &UnverifiedJwt<'_>) -> bool {
        let Some(kid) = jwt.kid() else { return false };
        match &self.keys {
            IssuerKeys::Fixed(keys) => keys.has_kid(kid),
            IssuerKeys::Fetched(cache) => cache.has_kid(kid),
        }
    }

    /// Verifies a token: its claims, then its signature.
    ///
    /// The claims come first. So a token that has expired, or is for somebody else, never causes a fetch of keys.
    ///
    /// # Errors
    /// The first rule that refuses the token, or the keys aren't available. Both are counted.
    pub async fn verify<'a>(
        &self,
        jwt: &'a UnverifiedJwt<'_>,
        clock: &dyn Clock,
    ) -> Result<VerifiedClaims<'a>, VerifyError> {
        let verified = self.check(jwt, clock).await;
        if let Err(error) = verified {
            self.count_refusal(error.rule());
        }
        verified.map(|(valid_until, version)| VerifiedClaims::new(jwt, valid_until, version))
    }

    async fn check(
        &self,
        jwt: &UnverifiedJwt<'_>,
        clock: &dyn Clock,
    ) -> Result<(UnixTime, KeyVersion), VerifyError> {
        let (algorithm, valid_until) = self.rules.check(jwt, clock.now())?;
        let version = match &self.keys {
            IssuerKeys::Fixed(keys) => {
                keys.verify(jwt, algorithm)?;
                FIXED_KEYS_VERSION
            }
            IssuerKeys::Fetched(cache) => {
                let fetched = cache.keys_for(jwt.kid()).await?;
                fetched.keys.verify(jwt, algorithm)?;
                // The wait for the keys may have taken seconds.
                if valid_until <= clock.now() {
                    return Err(Refusal::Expired.into());
                }
                fetched.version
            }
        };
        Ok((valid_until, version))
    }

    /// Counts a token that the caller of [`verify`](Self::verify) refuses by a rule of its own.
    pub(crate) fn count_refusal(&self, rule: &str) {
        self.metrics.issuer_refusals.with_label_values(&[self.name.as_str(), rule]).inc();
    }

    /// The version of the keys with which [`verify`](Self::verify) would verify now. `None` if they aren't available.
    pub(crate) fn key_version(&self) -> Option<KeyVersion> {
        match &self.keys {
            IssuerKeys::Fixed(_) => Some(FIXED_KEYS_VERSION),
            IssuerKeys::Fetched(cache) => cache.version(),
        }
    }
}
