//! Loads the configuration: merges TOML and the environment into one validated [`Config`]. Its types rule out
//! invalid states.
//!
//! - All problems are reported together, by field and source. Only a file that can't be read, or isn't TOML, hides the others.
//!   A message never contains a secret's value.
//! - Every keyset, profile and bundle that is referred to exists.
//! - Secret files are read here. Key and certificate files are not: modules `keys` and `app::tls` open them.

mod aws_kms;
mod cache;
pub(crate) mod diagnostics;
mod hs256;
mod issuers;
mod listen;
mod names;
mod ops_address;
mod parse;
mod path;
pub(crate) mod salesforce;
pub mod schema;
pub(crate) mod section;
pub(crate) mod source;
mod stores;
pub(crate) mod values;
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

pub(crate) use aws_kms::{AwsCredentialSource, AwsCredentials, AwsKmsConfig, ContainerAuthorization};
pub(crate) use cache::{CacheConfig, RedisConfig, RedisUrl};
use diagnostics::Diagnostics;
pub use hs256::Hs256Kind;
pub use issuers::{CallerJwtConfig, IssuerConfig, SubjectTokenConfig};
pub(crate) use issuers::{IssuerKeySource, KeyAddress, KeyFetchConfig};
pub(crate) use listen::ListenAddress;
pub use names::RemoteKeyName;
pub use names::{Algorithm, HttpsOrLoopbackUrl, KeyId, Name, ProfileKind, ProfileName, SubjectPattern};
pub(crate) use names::{ClientSan, Issuer, OrgId, validate_text};
pub(crate) use ops_address::{OpsAddress, OpsTls};
pub(crate) use parse::Hs256Config;
pub use path::UnverifiedPath;
use section::Section;
pub(crate) use source::{CONFIG_VARIABLE, CONFIGURATION, ValueOrigin, WarningCode};
pub use source::{Environment, Problem};
pub(crate) use stores::{Pkcs11Config, SealConfig, StoreConfig, StoreKind, VaultConfig, VaultLogin};
use written::WrittenSettings;

/// The configuration file that is read if none is named.
pub(crate) const DEFAULT_CONFIG_FILE: &str = "tokenmint.toml";

/// The registered claims (RFC 7519, section 4.1). The rules of each token govern them, so callers may not set them.
pub const REGISTERED_CLAIMS: &[&str] = &["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

/// The default time between publishing a key and signing with it. How long Salesforce caches a JWKS is undocumented.
pub(crate) const DEFAULT_PUBLISH_LEAD: Duration = Duration::from_hours(24);

/// The default time for which a key stays published after the last token that it may have signed has expired.
pub(crate) const DEFAULT_RETIRE_MARGIN: Duration = Duration::from_hours(1);

/// The shortest lifetime that a caller may request for a token. Browsers compare `exp` with their own clock, without leeway. An
/// OAuth assertion, whose lifetime only the configuration sets, may be shorter.
pub(crate) const MIN_TTL: Duration = Duration::from_mins(1);

pub struct Config {
    pub server: ServerConfig,
    pub(crate) cache: CacheConfig,
    pub keysets: BTreeMap<Name, KeysetConfig>,
    pub identity: BTreeMap<Name, IdentityConfig>,
    pub oauth: BTreeMap<Name, OauthConfig>,
    /// The profiles of each HS256 kind. Every kind has an entry, even without profiles.
    pub hs256: BTreeMap<Hs256Kind, BTreeMap<Name, Hs256Config>>,
    pub bundles: BTreeMap<Name, BundleConfig>,
    pub issuers: BTreeMap<Name, IssuerConfig>,
    pub callers: BTreeMap<Name, CallerConfig>,
    /// Problems that are allowed, but probably mistakes.
    pub warnings: Vec<Problem>,
    /// The files that the configuration was read from.
    pub(crate) files: Vec<PathBuf>,
    written: WrittenSettings,
}

/// The problems that prevent a [`Config`]. It keeps the keysets that could be read, so that `check` can also examine their files
/// and report all problems at once.
pub struct InvalidConfig {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    pub(crate) keysets: BTreeMap<Name, KeysetConfig>,
    /// The files that are known so far.
    pub(crate) files: Vec<PathBuf>,
}

pub struct ServerConfig {
    pub listen: ListenAddress,
    /// The address that callers use, for the metadata of the token endpoint.
    pub(crate) url: Option<HttpsOrLoopbackUrl>,
    pub tls: Option<TlsConfig>,
    pub public: Option<PublicListenerConfig>,
    pub ops: Option<ListenAddress>,
    pub limits: Limits,
    pub signing: SigningConfig,
    /// Key of the HMAC over subjects in the audit log. With it, the log lines of one person can be found across
    /// replicas and restarts. Without it, each start generates a new key.
    pub audit_key: Option<SecretString>,
    pub(crate) audit: AuditLogMode,
    /// The directory that keeps the login budget across restarts. No program other than tokenmint may use it.
    pub state_directory: Option<UnverifiedPath>,
}

impl ServerConfig {
    /// Returns the settings that differ from `other` and need a restart: the addresses of the listeners, whether they use TLS and
    /// client certificates, limits, batch signing, the audit log and the state directory. TLS files may change at any time.
    pub(crate) fn restart_only_changes(&self, other: &Self) -> Vec<&'static str> {
        fn public(server: &ServerConfig) -> Option<&ListenAddress> {
            server.public.as_ref().map(|public| &public.listen)
        }
        /// Whether clients must present a certificate. Adding or removing the authority changes who may connect.
        fn requires_client_cert(tls: Option<&TlsConfig>) -> bool {
            tls.is_some_and(|tls| tls.client_ca_file.is_some())
        }
        fn public_tls(server: &ServerConfig) -> Option<&TlsConfig> {
            server.public.as_ref().and_then(|public| public.tls.as_ref())
        }
        fn key(server: &ServerConfig) -> Option<&str> {
            server.audit_key.as_ref().map(SecretString::expose_secret)
        }
        let differences = [
            ("server.listen", self.listen != other.listen),
            ("server.tls", self.tls.is_some() != other.tls.is_some()),
            (
                "server.tls.client_ca_file",
                requires_client_cert(self.tls.as_ref()) != requires_client_cert(other.tls.as_ref()),
            ),
            ("server.public.listen", public(self) != public(other)),
            ("server.public.tls", public_tls(self).is_some() != public_tls(other).is_some()),
            (
                "server.public.tls.client_ca_file",
                requires_client_cert(public_tls(self)) != requires_client_cert(public_tls(other)),
            ),
            ("server.ops.listen", self.ops != other.ops),
            ("server.signing.batch", self.signing.batch != other.signing.batch),
            ("server.signing.library", self.signing.library != other.signing.library),
            ("server.audit", self.audit != other.audit),
            ("server.audit_key", key(self) != key(other)),
            ("server.state_directory", self.state_directory != other.state_directory),
        ];
        let differences = differences.into_iter().chain(self.limits.differences(&other.limits));
        differences.filter_map(|(field, differs)| differs.then_some(field)).collect()
    }
}

/// The handling of tokens whose audit line can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuditLogMode {
    /// The token is returned; the line is counted as dropped.
    BestEffort,
    /// The token is not returned.
    Required,
}

/// The PEM files of one listener.
#[derive(Clone)]
pub struct TlsConfig {
    pub certificate_file: UnverifiedPath,
    pub private_key_file: UnverifiedPath,
    /// If set, clients must present a certificate that this authority signed.
    pub client_ca_file: Option<UnverifiedPath>,
}

/// The listener that serves only the JWKS, for the internet.
pub struct PublicListenerConfig {
    pub listen: ListenAddress,
    /// The address at which Salesforce fetches the keys; it has no path.
    pub url: Option<HttpsOrLoopbackUrl>,
    pub tls: Option<TlsConfig>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Limits {
    /// The time from the first byte of a request to its response.
    pub request_timeout: Duration,
    /// The largest request body, in bytes.
    pub body: usize,
    /// The most open connections of one listener.
    pub connections: usize,
    /// The most waiting signatures; further requests are rejected.
    pub signing_queue: usize,
    /// The memory for cached access tokens, in bytes.
    pub token_cache: usize,
    /// The rate of newly minted tokens per caller, profile or bundle, and subject. Access tokens don't count.
    pub remint_rate: RateLimit,
}

impl Limits {
    /// Says of each setting of `[server.limits]` whether it differs from `other`.
    fn differences(&self, other: &Self) -> [(&'static str, bool); 7] {
        let Self { request_timeout, body, connections, signing_queue, token_cache, remint_rate } = self;
        [
            ("server.limits.request_timeout", *request_timeout != other.request_timeout),
            ("server.limits.body", *body != other.body),
            ("server.limits.connections", *connections != other.connections),
            ("server.limits.signing_queue", *signing_queue != other.signing_queue),
            ("server.limits.token_cache", *token_cache != other.token_cache),
            ("server.limits.remints_per_minute", remint_rate.requests != other.remint_rate.requests),
            ("server.limits.remint_burst", remint_rate.burst != other.remint_rate.burst),
        ]
    }

    /// The time within which a whole body must arrive, whatever its size, from when the service begins to read it.
    pub(crate) fn body_timeout(&self) -> Duration {
        Duration::from_secs(5).min(self.request_timeout / 2)
    }
}

/// A rate limit of `requests` in each `window`, with bursts of up to `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub(crate) requests: u32,
    pub(crate) window: Duration,
    pub(crate) burst: u32,
}

#[derive(PartialEq, Eq)]
pub struct SigningConfig {
    pub batch: BatchMode,
    /// The path of Intel's `crypto_mb`. Without it, no library is loaded.
    pub(crate) library: Option<UnverifiedPath>,
}

/// Whether signatures are computed in batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// In batches if the library can be used.
    Auto,
    Off,
    /// The service fails to start without a usable library.
    Required,
}

/// A keyset: RSA keys that are published together. One issuer trusts one keyset.
#[derive(Clone)]
pub struct KeysetConfig {
    pub name: Name,
    pub(crate) keys: KeysetSource,
    /// Decrypts encrypted PKCS#8 keys.
    pub passphrase: Option<SecretString>,
    /// Opens sealed keys; `None` if the keys aren't sealed.
    pub(crate) seal: Option<SealConfig>,
    /// Signs with the keys that `keyset.toml` lists with `remote`; `None` if the keyset has none.
    pub(crate) signed_by: Option<Arc<StoreConfig>>,
    /// All keys of a keyset sign with one algorithm, the one of its profiles (RFC 8725, section 3.1).
    pub algorithm: Algorithm,
    /// The longest lifetime of a token that the keys may have signed.
    pub longest_life: Duration,
    /// The shortest time between publishing a key and signing with it, except in an emergency.
    pub publish_lead: Duration,
    /// How long a key stays published after the last token that it may have signed has expired.
    pub retire_margin: Duration,
    pub used_by: Vec<ProfileName>,
}

impl KeysetConfig {
    /// The stores that seal its keys or sign for it.
    pub(crate) fn stores(&self) -> impl Iterator<Item = &Arc<StoreConfig>> {
        self.seal.iter().map(|seal| &seal.store).chain(&self.signed_by)
    }
}

#[derive(Clone)]
pub(crate) enum KeysetSource {
    /// A folder with `KID.key` files, and optionally `KID.crt` files and `keyset.toml`.
    Directory(UnverifiedPath),
    File {
        kid: KeyId,
        path: UnverifiedPath,
    },
    Text {
        kid: KeyId,
        pem: SecretString,
        /// The setting that holds the key, for messages.
        origin: String,
    },
}

/// A profile for Salesforce identity tokens.
pub struct IdentityConfig {
    pub name: Name,
    pub keyset: Name,
    pub issuer: Issuer,
    pub audience: Option<String>,
    pub algorithm: Algorithm,
    pub ttl: Duration,
    pub max_ttl: Duration,
    /// The extra claims that callers may set.
    pub claims: Vec<String>,
    pub subjects: Option<SubjectPattern>,
    pub messaging: Option<MessagingConfig>,
}

/// The settings for exchanging an identity token for a messaging access token.
#[derive(Clone)]
pub struct MessagingConfig {
    pub scrt_url: HttpsOrLoopbackUrl,
    pub org_id: OrgId,
    pub es_developer_name: String,
    /// This service's share of Salesforce's limit: 200 access-token requests a minute for the whole org.
    pub requests_per_minute: usize,
}

/// A profile for assertions of the OAuth 2.0 JWT bearer flow (RFC 7523).
pub struct OauthConfig {
    pub name: Name,
    pub keyset: Name,
    pub consumer_key: String,
    pub username: String,
    pub audience: HttpsOrLoopbackUrl,
    pub token_url: HttpsOrLoopbackUrl,
    pub assertion_ttl: Duration,
    pub access_token_ttl: Duration,
    /// This service's share of Salesforce's limit: 3,600 logins an hour for one user.
    pub logins_per_hour: usize,
    /// How old the last check of a session may be when the token endpoint answers with a cached token. Without it, sessions
    /// aren't checked.
    pub(crate) check_session: Option<Duration>,
}

/// The tokens that one page load needs: each entry's name with its profile.
pub struct BundleConfig {
    pub name: Name,
    pub entries: BTreeMap<Name, ProfileName>,
}

/// A program that may request tokens.
pub struct CallerConfig {
    pub name: Name,
    /// The SHA-256 of each API key.
    pub api_key_sha256: Vec<[u8; 32]>,
    /// The names that a client certificate may have; one match is enough.
    pub(crate) client_san: Vec<ClientSan>,
    /// The Unix user that the caller runs as, on a Unix socket.
    pub(crate) peer_uid: Option<u32>,
    /// The JWTs that authenticate it.
    pub(crate) jwt: Option<CallerJwtConfig>,
    /// The tokens that say who its user is; `None` if it names any subject itself.
    pub(crate) subject_token: Option<SubjectTokenConfig>,
    pub allow: Vec<ProfileName>,
    pub subjects: Option<SubjectPattern>,
    /// The most distinct subjects that it may name in a minute; `None` is no limit.
    pub(crate) subjects_per_minute: Option<u32>,
    pub(crate) policy: PolicyMode,
    /// The rate limit for requests of any kind; `None` is no limit.
    pub rate_limit: Option<RateLimit>,
}

/// The handling of requests that the caller's `allow`, `subjects`, `subjects_per_minute` or `subject_token` forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyMode {
    /// Such a request is rejected.
    Enforce,
    /// Such a request is allowed, counted and logged. `allow` is enforced for OAuth profiles all the same.
    Audit,
}

impl Config {
    /// Returns the names of all profiles, without bundles.
    pub(crate) fn profiles(&self) -> impl Iterator<Item = ProfileName> {
        let named = |kind| move |name: &Name| ProfileName::new(kind, name.clone());
        let identity = self.identity.keys().map(named(ProfileKind::Identity));
        let oauth = self.oauth.keys().map(named(ProfileKind::Oauth));
        let hs256 = self.hs256.iter();
        let hs256 =
            hs256.flat_map(move |(kind, profiles)| profiles.keys().map(named(ProfileKind::Hs256(*kind))));
        identity.chain(oauth).chain(hs256)
    }

    /// Returns a problem for each setting that differs from `other` and needs a restart.
    pub(crate) fn restart_only_changes(&self, other: &Self) -> Vec<Problem> {
        let differences = self.server.restart_only_changes(&other.server).into_iter();
        differences
            .chain(self.cache.restart_only_changes(&other.cache))
            .map(|field| {
                let values = match (other.written.value(field), self.written.value(field)) {
                    (Some(before), Some(now)) => format!(" ({before} before, {now} now)"),
                    _ => String::new(),
                };
                let message = format!("can't change while the service runs{values}: put it back, or restart");
                Problem::new(field, self.written.source(field), message)
            })
            .collect()
    }

    /// Returns a problem for `keysets` and for `callers` if `other` has entries there and `self` has none. This suggests a file
    /// that was emptied or truncated.
    pub(crate) fn emptied_sections(&self, other: &Self) -> Vec<Problem> {
        let emptied = [
            ("keysets", self.keysets.is_empty() && !other.keysets.is_empty()),
            ("callers", self.callers.is_empty() && !other.callers.is_empty()),
        ];
        let message = "has no entries left, possibly because a file was emptied or truncated: restore them, or \
        restart if this is intended";
        let emptied = emptied.into_iter().filter(|(_, is_emptied)| *is_emptied);
        emptied.map(|(field, _)| Problem::new(field, self.written.name(), message)).collect()
    }

    /// Where `field` is written, if it is.
    pub(crate) fn origin(&self, field: &str) -> Option<&ValueOrigin> {
        self.written.origin(field)
    }

    /// Returns `problem` with the place where its field is written, if its source is only [`CONFIGURATION`].
    pub(crate) fn located(&self, problem: Problem) -> Problem {
        if problem.source != CONFIGURATION {
            return problem;
        }
        Problem { source: self.written.source(&problem.field), ..problem }
    }

    /// Reads `file`, by default [`DEFAULT_CONFIG_FILE`], and applies the overrides of `environment`.
    ///
    /// # Errors
    /// All problems, together.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, InvalidConfig> {
        let path = file.unwrap_or_else(|| Path::new(DEFAULT_CONFIG_FILE));
        let name = path.display().to_string();
        // Everything may come from the environment, for example on a platform without files. A dangling symlink
        // counts as a file that exists.
        let may_be_absent = file.is_none() && environment.has_overrides();
        let is_absent = |error: &io::Error| {
            error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err()
        };
        let text = match source::read_file(path) {
            Ok(text) => text,
            Err(error) if may_be_absent && is_absent(&error) => Zeroizing::default(),
            Err(error) => {
                let hint = match file {
                    None if is_absent(&error) => {
                        "; write one with `tokenmint init`, or try `tokenmint dev`".to_owned()
                    }
                    None => "; run this as the owner of the file".to_owned(),
                    Some(_) => values::paste_artifact("TOKENMINT_CONFIG", &name)
                        .map_or_else(String::new, |left| format!("; its name {left}")),
                };
                let problem = Problem::new("", name, format!("can't be read: {error}{hint}"));
                return Err(InvalidConfig {
                    files: vec![path.to_path_buf()],
                    ..InvalidConfig::from_problems(vec![problem])
                });
            }
        };
        let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
        match Self::parse(&name, &text, base, environment) {
            Ok(mut config) => {
                config.files.push(path.to_path_buf());
                Ok(config)
            }
            Err(mut invalid) => {
                invalid.files.push(path.to_path_buf());
                Err(invalid)
            }
        }
    }

    /// Parses `text` like [`load`](Self::load). `name` is what messages call the text; relative paths start at
    /// `base`.
    ///
    /// # Errors
    /// All problems, together.
    pub fn parse(
        name: &str,
        text: &str,
        base: PathBuf,
        environment: &Environment,
    ) -> Result<Self, InvalidConfig> {
        let mut root = source::parse_toml(name, text).map_err(InvalidConfig::from_problems)?;
        let mut problems = Vec::new();
        source::apply_environment(&mut root, environment, &mut problems);
        let diagnostics = Diagnostics::new(base);
        diagnostics.add(problems);
        parse::warn_near_misses(environment, &diagnostics);
        parse::check_other_variables(environment, &diagnostics);
        let parsed = Section::from_node("", &root, &schema::ROOT, &diagnostics)
            .map(|section| parse::parse_config(&section, environment));
        diagnostics.report_unknown_keys(&root);
        let (problems, warnings, files) = diagnostics.into_parts();
        match parsed {
            Some(parse::ParsedConfig { rest: Some(rest), keysets }) if problems.is_empty() => {
                Ok(rest.into_config(keysets, warnings, files, WrittenSettings::of(name, &root)))
            }
            parsed => Err(InvalidConfig {
                problems,
                warnings,
                keysets: parsed.map(|parsed| parsed.keysets).unwrap_or_default(),
                files,
            }),
        }
    }
}

impl InvalidConfig {
    const fn from_problems(problems: Vec<Problem>) -> Self {
        Self { problems, warnings: Vec::new(), keysets: BTreeMap::new(), files: Vec::new() }
    }
}
