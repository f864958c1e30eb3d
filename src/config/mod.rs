//! Text and environment -> one validated [`Config`] whose types leave no illegal state.
//!
//! - Everything wrong is reported together, by field and source; a secret's value is never part of it.
//! - What a profile, bundle or caller refers to exists.
//! - Nothing here opens a key file: that is the business of the room `keys`.

mod cache;
mod hs256;
mod listen;
mod names;
mod ops_address;
mod parse;
mod path;
pub mod salesforce;
pub(crate) mod section;
pub(crate) mod source;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

pub use cache::{Cache, Redis, RedisUrl};
pub use hs256::{Hs256Facts, Hs256Kind};
pub use listen::Listen;
pub use names::{
    Algorithm, ClientName, HttpsUrl, Issuer, KeyId, Kind, Name, OrgId, ProfileName, SubjectPattern,
    plain_text,
};
pub use ops_address::{OpsAddress, OpsTls};
pub use parse::Hs256;
pub use path::UnverifiedPath;
use section::{Findings, Section};
pub use source::{CONFIG_VARIABLE, Code, Environment, Origin, PREFIX, Problem};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "tokenmint.toml";

/// Claims that a token's own rules set and no caller may (RFC 7519, section 4.1).
pub const REGISTERED_CLAIMS: &[&str] = &["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

/// By default a key is published for a day before it signs: verifiers cache a JWKS for as much as half a day.
pub const PUBLISH_LEAD: Duration = Duration::from_hours(24);

/// By default a key stays published for an hour beyond the last token that it may have signed.
pub const RETIRE_MARGIN: Duration = Duration::from_hours(1);

/// No token lives for less: browsers judge `exp` by their own clock, without leeway.
pub const SHORTEST_TTL: Duration = Duration::from_mins(1);

pub struct Config {
    pub server: Server,
    pub cache: Cache,
    pub keysets: BTreeMap<Name, Keyset>,
    pub identity: BTreeMap<Name, Identity>,
    pub oauth: BTreeMap<Name, Oauth>,
    /// Of every kind, be it with or without profiles.
    pub hs256: BTreeMap<Hs256Kind, BTreeMap<Name, Hs256>>,
    pub bundles: BTreeMap<Name, Bundle>,
    pub callers: BTreeMap<Name, Caller>,
    /// Allowed, but probably not what was meant.
    pub warnings: Vec<Problem>,
    /// The files that it was made of.
    pub files: Vec<PathBuf>,
}

/// Why there is no [`Config`]. The keysets that could be read are kept, so that `check` can look into their
/// files as well and report all that is wrong at once.
pub struct Invalid {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    pub keysets: BTreeMap<Name, Keyset>,
    /// As far as they are known.
    pub files: Vec<PathBuf>,
}

pub struct Server {
    pub listen: Listen,
    pub tls: Option<Tls>,
    pub public: Option<Public>,
    pub ops: Option<Listen>,
    pub limits: Limits,
    pub signing: Signing,
    /// Keys the hash of subjects in the audit log, so that one person's lines can be found across replicas
    /// and restarts; without it the key is made anew at each start.
    pub audit_key: Option<SecretString>,
    pub audit: AuditLog,
    /// Where the login budget is kept across restarts; ours alone.
    pub state_directory: Option<UnverifiedPath>,
}

impl Server {
    /// What differs from `other` and is settled at the start: sockets, sizes, and what keys the audit log. What the files
    /// of TLS hold may change at any time.
    pub fn settled_differences(&self, other: &Self) -> Vec<&'static str> {
        fn public(server: &Server) -> Option<(&Listen, bool)> {
            server.public.as_ref().map(|public| (&public.listen, public.tls.is_some()))
        }
        /// Without an authority for clients' certificates a listener is open to clients that have none.
        fn asks_clients(tls: Option<&Tls>) -> bool {
            tls.is_some_and(|tls| tls.client_ca_file.is_some())
        }
        fn public_tls(server: &Server) -> Option<&Tls> {
            server.public.as_ref().and_then(|public| public.tls.as_ref())
        }
        fn key(server: &Server) -> Option<&str> {
            server.audit_key.as_ref().map(SecretString::expose_secret)
        }
        let differences = [
            ("server.listen", self.listen != other.listen),
            ("server.tls", self.tls.is_some() != other.tls.is_some()),
            (
                "server.tls.client_ca_file",
                asks_clients(self.tls.as_ref()) != asks_clients(other.tls.as_ref()),
            ),
            ("server.public", public(self) != public(other)),
            (
                "server.public.tls.client_ca_file",
                asks_clients(public_tls(self)) != asks_clients(public_tls(other)),
            ),
            ("server.ops", self.ops != other.ops),
            ("server.limits", self.limits != other.limits),
            ("server.signing", self.signing != other.signing),
            ("server.audit", self.audit != other.audit),
            ("server.audit_key", key(self) != key(other)),
            ("server.state_directory", self.state_directory != other.state_directory),
        ];
        differences.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
    }
}

/// What becomes of a token whose audit line the log doesn't take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditLog {
    /// It leaves; the line is counted as dropped.
    BestEffort,
    /// It doesn't leave.
    Required,
}

/// PEM files of one listener.
#[derive(Clone)]
pub struct Tls {
    pub certificate_file: UnverifiedPath,
    pub private_key_file: UnverifiedPath,
    /// With it, a client must show a certificate that this authority signed.
    pub client_ca_file: Option<UnverifiedPath>,
}

/// The listener that shows the JWKS, and nothing else, to the internet.
pub struct Public {
    pub listen: Listen,
    /// What Salesforce sees; without a path.
    pub url: Option<HttpsUrl>,
    pub tls: Option<Tls>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Limits {
    /// From a request's first byte to its answer.
    pub request_timeout: Duration,
    /// Bytes of a request's body.
    pub body: usize,
    /// Open connections of one listener.
    pub connections: usize,
    /// Signatures that may wait; beyond it requests are refused.
    pub signing_queue: usize,
    /// Bytes of access tokens that are kept.
    pub token_cache: usize,
    /// Tokens for one subject of a profile, by one caller.
    pub remints: Pace,
}

impl Limits {
    /// A whole body arrives within this time, however many bytes it has.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(5).min(self.request_timeout / 2)
    }
}

/// So many requests in so long, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub requests: u32,
    pub window: Duration,
    pub burst: u32,
}

#[derive(PartialEq, Eq)]
pub struct Signing {
    pub batch: Batch,
    /// Intel's `crypto_mb`; without it nothing is loaded.
    pub library: Option<UnverifiedPath>,
}

/// Whether several signatures are made at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// Where there is a library that can be used.
    Auto,
    Off,
    /// Or the service doesn't start.
    Required,
}

/// RSA keys that are published together; one issuer trusts one keyset.
#[derive(Clone)]
pub struct Keyset {
    pub name: Name,
    pub keys: KeySource,
    /// Opens encrypted PKCS#8 keys.
    pub passphrase: Option<SecretString>,
    /// All keys of a set sign with one algorithm (RFC 8725, section 3.1): that of its profiles.
    pub algorithm: Algorithm,
    /// The longest life of a token that its keys may have signed.
    pub longest_life: Duration,
    /// A key is published for at least this long before it signs.
    pub publish_lead: Duration,
    /// A key stays published for this long beyond the last token that it may have signed.
    pub retire_margin: Duration,
    pub used_by: Vec<ProfileName>,
}

#[derive(Clone)]
pub enum KeySource {
    /// `KID.key`, `KID.crt`, `keyset.toml`.
    Directory(UnverifiedPath),
    File {
        kid: KeyId,
        path: UnverifiedPath,
    },
    Text {
        kid: KeyId,
        pem: SecretString,
        /// Where it stands, for messages.
        origin: String,
    },
}

/// How to mint Salesforce identity tokens.
pub struct Identity {
    pub name: Name,
    pub keyset: Name,
    pub issuer: Issuer,
    pub audience: Option<String>,
    pub algorithm: Algorithm,
    pub ttl: Duration,
    pub max_ttl: Duration,
    /// Extra claims that callers may set.
    pub claims: Vec<String>,
    pub subjects: Option<SubjectPattern>,
    pub messaging: Option<Messaging>,
}

/// The exchange of an identity token for a messaging access token.
#[derive(Clone)]
pub struct Messaging {
    pub scrt_url: HttpsUrl,
    pub org_id: OrgId,
    pub es_developer_name: String,
    /// Our share of Salesforce's 200 access-token requests a minute for the whole org.
    pub requests_per_minute: usize,
}

/// How to make assertions of the OAuth 2.0 JWT bearer flow (RFC 7523).
pub struct Oauth {
    pub name: Name,
    pub keyset: Name,
    pub consumer_key: String,
    pub username: String,
    pub audience: HttpsUrl,
    pub token_url: HttpsUrl,
    pub assertion_ttl: Duration,
    pub access_token_ttl: Duration,
    /// Our share of Salesforce's 3,600 logins an hour for a user.
    pub logins_per_hour: usize,
}

/// What one page load needs: entry -> profile.
pub struct Bundle {
    pub name: Name,
    pub entries: BTreeMap<Name, ProfileName>,
}

/// A program that may ask for tokens.
pub struct Caller {
    pub name: Name,
    /// SHA-256 of each of its API keys.
    pub api_key_sha256: Vec<[u8; 32]>,
    /// Names in its certificate: any of them will do.
    pub client_san: Vec<ClientName>,
    /// The user that it runs as, over a Unix socket.
    pub peer_uid: Option<u32>,
    pub allow: Vec<ProfileName>,
    pub subjects: Option<SubjectPattern>,
    /// Different subjects that it may name in a minute; without it there is no limit.
    pub subjects_per_minute: Option<u32>,
    pub policy: Policy,
    /// Its requests, of any kind; without it there is no limit.
    pub pace: Option<Pace>,
}

/// What becomes of a request that a caller's own settings say no to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It is refused.
    Enforce,
    /// It is let through, counted and logged.
    Audit,
}

impl Config {
    /// The names of all profiles.
    pub fn profiles(&self) -> impl Iterator<Item = ProfileName> {
        let named = |kind| move |name: &Name| ProfileName::new(kind, name.clone());
        let identity = self.identity.keys().map(named(Kind::Identity));
        let oauth = self.oauth.keys().map(named(Kind::Oauth));
        let hs256 = self.hs256.iter();
        let hs256 = hs256.flat_map(move |(kind, profiles)| profiles.keys().map(named(Kind::Hs256(*kind))));
        identity.chain(oauth).chain(hs256)
    }

    /// What differs from `other` and is settled when the service starts.
    pub fn settled_differences(&self, other: &Self) -> Vec<Problem> {
        let differences = self.server.settled_differences(&other.server).into_iter();
        let message = "can't change while the service runs: put it back, or restart";
        differences
            .chain(self.cache.settled_differences(&other.cache))
            .map(|field| Problem::new(field, "the configuration", message))
            .collect()
    }

    /// What `other` has and this has none of at all, as of a file that was emptied or cut off.
    pub fn emptied(&self, other: &Self) -> Vec<Problem> {
        let emptied = [
            ("keysets", self.keysets.is_empty() && !other.keysets.is_empty()),
            ("callers", self.callers.is_empty() && !other.callers.is_empty()),
        ];
        let message = "has none left, as of a file that was emptied or cut off: put them back, or restart if that is meant";
        let emptied = emptied.into_iter().filter(|(_, is_emptied)| *is_emptied);
        emptied.map(|(field, _)| Problem::new(field, "the configuration", message)).collect()
    }

    /// Reads `file`, or [`DEFAULT_FILE`] where none is named, and lays `environment` over it.
    ///
    /// # Errors
    /// All that is wrong, together.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, Invalid> {
        let path = file.unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let name = path.display().to_string();
        // Everything may come from the environment, as on a platform without files. A link that leads nowhere is a file.
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
                    None => "; run this as the user whose file it is".to_owned(),
                    Some(_) => section::leftover("TOKENMINT_CONFIG", &name)
                        .map_or_else(String::new, |left| format!("; its name {left}")),
                };
                let problem = Problem::new("", name, format!("can't be read: {error}{hint}"));
                return Err(Invalid { files: vec![path.to_path_buf()], ..Invalid::of(vec![problem]) });
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

    /// As `load`, from text. `name` is what messages call it; relative paths start at `base`.
    ///
    /// # Errors
    /// All that is wrong, together.
    pub fn parse(name: &str, text: &str, base: PathBuf, environment: &Environment) -> Result<Self, Invalid> {
        let mut root = source::read_toml(name, text).map_err(Invalid::of)?;
        let mut problems = Vec::new();
        source::overlay(&mut root, environment, &mut problems);
        let findings = Findings::new(base);
        findings.add(problems);
        parse::near_misses(environment, &findings);
        parse::other_variables(environment, &findings);
        let parsed = Section::of("", &root, &findings).map(|section| parse::config(&section));
        findings.unknown_keys(&root);
        let (problems, warnings, files) = findings.into_parts();
        match parsed {
            Some(parse::Parsed { rest: Some(rest), keysets }) if problems.is_empty() => {
                Ok(rest.into_config(keysets, warnings, files))
            }
            parsed => Err(Invalid {
                problems,
                warnings,
                keysets: parsed.map(|parsed| parsed.keysets).unwrap_or_default(),
                files,
            }),
        }
    }
}

impl Invalid {
    const fn of(problems: Vec<Problem>) -> Self {
        Self { problems, warnings: Vec::new(), keysets: BTreeMap::new(), files: Vec::new() }
    }
}
