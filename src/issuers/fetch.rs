//! Fetches the keys of an issuer, with bounds: [`FETCH_TIMEOUT`], [`MAX_BODY_BYTES`], [`MAX_REDIRECTS`].

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL};
use http::{HeaderMap, HeaderValue};
use jsonwebtoken::Algorithm;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder};
use thiserror::Error;
use tokio::sync::Semaphore;
use url::Url;
use zeroize::Zeroizing;

use super::key_set::{KeySet, KeySetError};
use crate::config::{HttpsOrLoopbackUrl, KeyAddress, KeyFetchConfig, UnverifiedPath};
use crate::files::OpenedFile;
use crate::hash::sha256;
use crate::http_client;
use crate::json::Json;

/// The time in which the keys must arrive, discovery included.
pub(super) const FETCH_TIMEOUT: Duration = http_client::REQUEST_TIMEOUT;
/// The largest body of a response, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;
const MAX_REDIRECTS: usize = 3;
/// The largest token in `bearer_token_file`, in bytes.
const MAX_BEARER_TOKEN_BYTES: u64 = 16 << 10;
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
/// How long fetched keys are fresh if the response doesn't say it, and the bounds for what it says.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(10);
const MIN_LIFETIME: Duration = Duration::from_mins(1);
const MAX_LIFETIME: Duration = Duration::from_hours(1);

/// Fetches keys: over the network, or from a fake in tests.
pub(super) trait FetchKeys: Send + Sync + 'static {
    fn fetch(&self) -> impl Future<Output = Result<FetchedKeys, FetchError>> + Send;
}

/// Fetches the keys of one issuer over the network.
pub(crate) struct KeyFetcher {
    config: KeyFetchConfig,
    /// The content of `ca_file`.
    authorities: Option<Vec<u8>>,
    algorithms: Vec<Algorithm>,
    issuer: String,
    client: Client,
    /// Has one permit, held while `bearer_token_file` is read: a mount that hangs blocks one thread, and not another one for each
    /// fetch.
    token_read: Arc<Semaphore>,
}

/// Compares everything that a fetch depends on.
impl PartialEq for KeyFetcher {
    fn eq(&self, other: &Self) -> bool {
        self.fetches_the_same(other) && self.config == other.config && self.authorities == other.authorities
    }
}

/// Fetched keys.
pub(crate) struct FetchedKeys {
    pub(crate) keys: KeySet,
    /// The SHA-256 of the JWKS.
    pub(crate) digest: [u8; 32],
    /// How long they are fresh.
    pub(crate) lifetime: Duration,
}

/// Why keys can't be fetched. A message contains no part of a response's body.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    #[error("{what} can't be fetched: {reason}")]
    Unreachable { what: &'static str, reason: String },
    #[error("{what} can't be fetched: {reason}")]
    Tls { what: &'static str, reason: String },
    #[error("{what} didn't arrive within {} s", FETCH_TIMEOUT.as_secs())]
    Timeout { what: &'static str },
    #[error("the answer to the request for {what} has the status {status}")]
    Status { what: &'static str, status: u16 },
    #[error("{what} has more than 64 KiB")]
    TooLarge { what: &'static str },
    #[error("the issuer's metadata {0}")]
    Discovery(&'static str),
    #[error("the JWKS {0}")]
    KeySet(#[from] KeySetError),
    #[error("`bearer_token_file` can't be used: {0}")]
    BearerToken(String),
}

const METADATA: &str = "the issuer's metadata";
const JWKS: &str = "the JWKS";

impl KeyFetcher {
    /// Whether the other one fetches the same keys, perhaps with other certificate authorities or another token.
    pub(super) fn fetches_the_same(&self, other: &Self) -> bool {
        self.config.address == other.config.address
            && self.algorithms == other.algorithms
            && self.issuer == other.issuer
    }

    /// Reads `ca_file`.
    ///
    /// # Errors
    /// Says what is wrong with `ca_file`.
    pub(super) fn new(
        config: &KeyFetchConfig,
        issuer: &str,
        algorithms: Vec<Algorithm>,
    ) -> Result<Self, String> {
        let authorities = config.ca_file.as_ref().map(|file| http_client::read_authorities(file.as_path()));
        let authorities = authorities.transpose()?;
        let certificates = match &authorities {
            None => None,
            Some(pem) => Some(http_client::parse_authorities(pem)?),
        };
        let client = match certificates {
            Some(certificates) => client_builder()
                .tls_certs_only(certificates)
                .build()
                .map_err(|_| http_client::INVALID_AUTHORITY.to_owned())?,
            None => http_client::build_with_host_authorities(client_builder, "fetches of issuers' keys"),
        };
        let (config, issuer) = (config.clone(), issuer.to_owned());
        let token_read = Arc::new(Semaphore::new(1));
        Ok(Self { config, authorities, algorithms, issuer, client, token_read })
    }

    async fn fetch_untimed(&self) -> Result<FetchedKeys, FetchError> {
        let found;
        let address = match &self.config.address {
            KeyAddress::Jwks(address) => address,
            KeyAddress::Discovery(issuer) => {
                found = self.discover(issuer).await?;
                &found
            }
        };
        let (headers, body) = self.get(address, JWKS).await?;
        let keys = KeySet::parse(&body, &self.algorithms)?;
        Ok(FetchedKeys { keys, digest: sha256(&body), lifetime: lifetime(&headers) })
    }

    /// Finds the JWKS by the issuer's metadata (`OpenID` Connect Discovery 1.0, section 4).
    async fn discover(&self, issuer: &HttpsOrLoopbackUrl) -> Result<HttpsOrLoopbackUrl, FetchError> {
        let address = issuer.with_path(DISCOVERY_PATH);
        let address = address.map_err(|_| FetchError::Discovery("has an address that is too long"))?;
        let (_, body) = self.get(&address, METADATA).await?;
        let metadata = Json::parse(&body).ok().filter(|metadata| metadata.duplicate_key().is_none());
        let metadata = metadata.ok_or(FetchError::Discovery("isn't JSON, or has a member twice"))?;
        if metadata.text("issuer") != Some(&self.issuer) {
            return Err(FetchError::Discovery("names another `issuer`"));
        }
        let jwks = metadata.text("jwks_uri").ok_or(FetchError::Discovery("has no `jwks_uri`"))?;
        let is_secure =
            |jwks: &HttpsOrLoopbackUrl| jwks.url().scheme() == "https" || issuer.url().scheme() == "http";
        HttpsOrLoopbackUrl::parse(jwks)
            .ok()
            .filter(is_secure)
            .ok_or(FetchError::Discovery("has a `jwks_uri` that isn't an https URL"))
    }

    async fn get(
        &self,
        address: &HttpsOrLoopbackUrl,
        what: &'static str,
    ) -> Result<(HeaderMap, Vec<u8>), FetchError> {
        let mut request = self.client.get(address.url().clone()).header(ACCEPT, "application/json, */*");
        if let Some(file) = self.config.bearer_token_file.as_ref().filter(|_| self.is_token_for(address)) {
            request = request.header(AUTHORIZATION, self.read_bearer_token(file).await?);
        }
        let unreachable = |error: &reqwest::Error| {
            if error.is_timeout() && !error.is_connect() {
                return FetchError::Timeout { what };
            }
            let (reason, is_tls) = http_client::innermost_cause(error);
            if is_tls { FetchError::Tls { what, reason } } else { FetchError::Unreachable { what, reason } }
        };
        let mut response = request.send().await.map_err(|error| unreachable(&error))?;
        if response.status() != http::StatusCode::OK {
            return Err(FetchError::Status { what, status: response.status().as_u16() });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(FetchError::TooLarge { what });
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.headers().clone(), body))
    }

    /// Whether the token of `bearer_token_file` may be sent to `address`: to the origin (RFC 6454) of the configured address, and not to
    /// another one that the metadata names.
    fn is_token_for(&self, address: &HttpsOrLoopbackUrl) -> bool {
        let (KeyAddress::Jwks(configured) | KeyAddress::Discovery(configured)) = &self.config.address;
        address.url().origin() == configured.url().origin()
    }

    /// Reads the token on a blocking thread, because a mount may hang.
    async fn read_bearer_token(&self, file: &UnverifiedPath) -> Result<HeaderValue, FetchError> {
        let failed = |reason: &dyn Display| FetchError::BearerToken(reason.to_string());
        let permit = self.token_read.clone().try_acquire_owned();
        let permit = permit.map_err(|_| failed(&"it is still being read: does its mount hang?"))?;
        let path = file.as_path().to_path_buf();
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            OpenedFile::open(&path)?.read(MAX_BEARER_TOKEN_BYTES)
        });
        let token = read.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let token = token.trim_ascii();
        let header = Zeroizing::new([b"Bearer ", token].concat());
        let header = HeaderValue::from_bytes(&header).ok().filter(|_| !token.is_empty());
        let mut header = header.ok_or_else(|| failed(&"it doesn't hold a token"))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

impl FetchKeys for KeyFetcher {
    /// Fetches the keys.
    ///
    /// # Errors
    /// The keys can't be fetched, or not within [`FETCH_TIMEOUT`], or they can't be used.
    async fn fetch(&self) -> Result<FetchedKeys, FetchError> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.fetch_untimed()).await;
        fetched.unwrap_or(Err(FetchError::Timeout { what: "an answer with the keys" }))
    }
}

/// A client that follows redirects to the same origin only.
fn client_builder() -> ClientBuilder {
    let is_same_origin = |attempt: &Attempt<'_>| {
        let first = attempt.previous().first().map(Url::origin);
        first == Some(attempt.url().origin()) && attempt.previous().len() <= MAX_REDIRECTS
    };
    let policy = Policy::custom(
        move |attempt| if is_same_origin(&attempt) { attempt.follow() } else { attempt.stop() },
    );
    // Fetches are rare, and an issuer closes idle connections before the next one.
    http_client::builder().pool_max_idle_per_host(0).redirect(policy)
}

/// How long a response is fresh by its `Cache-Control` (RFC 9111, section 5.2.2), within the bounds.
fn lifetime(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<String> =
        directives.flat_map(|list| list.split(',')).map(|one| one.trim().to_ascii_lowercase()).collect();
    let is_uncached = directives.iter().any(|directive| directive == "no-store" || directive == "no-cache");
    let max_age = directives.iter().find_map(|directive| directive.strip_prefix("max-age=")?.parse().ok());
    let max_age = if is_uncached { Some(0) } else { max_age };
    max_age.map_or(DEFAULT_LIFETIME, Duration::from_secs).clamp(MIN_LIFETIME, MAX_LIFETIME)
}
