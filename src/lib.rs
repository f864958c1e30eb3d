//! tokenmint mints JWTs for Salesforce, Intercom and others, and exchanges those for Salesforce for access tokens.
//!
//! The words:
//! - A *keyset* is a set of RSA keys that are published together. Each key has a key id, `kid`.
//! - A *profile* is a named recipe for one kind of token. A *bundle* is a list of profiles that one request mints together.
//! - A *caller* is a program that may request tokens. The *subject* is the user that a token names.
//!
//! # Modules
//! A module imports only from modules above it in this table. `tests/service/module_order.rs` checks that.
//!
//! | module | contents |
//! |---|---|
//! | [`clock`] | wall clock, monotonic clock and random number generator, injected so that tests can replace them |
//! | [`json`] | a strict JSON reader that keeps the text of numbers and reports duplicate keys |
//! | [`hash`] | SHA-256 of bytes and of lists |
//! | [`files`] | opens the service's configuration and key files: size limit, permission checks |
//! | [`shell`] | quotes words of the shell commands that messages suggest |
//! | `sync` | the mutex type, which the schedule tests replace by one that explores interleavings |
//! | `http_client` | the settings that HTTP clients of other servers share |
//! | [`metrics`] | all Prometheus metric families |
//! | [`config`] | reads TOML and environment variables into one validated `Config` |
//! | `token_bucket`, `signing_queue` | limits of a rate, and of what runs at once: a token bucket, and a bounded FIFO queue in front of permits |
//! | [`traces`] | W3C trace context, and OpenTelemetry spans in builds that export them |
//! | `stores` | stores of keys outside of this host, which seal private keys or sign with their own |
//! | [`keys`] | reads PEM files into a `KeyRing`: keysets, private keys, certificates, and the schedule of signing keys |
//! | [`tokens`] | builds and signs the tokens: identity tokens, OAuth assertions, Intercom's and other HS256 tokens. |
//! | [`jwks`] | the JWK Sets of a key ring, cached in serialized form until the published keys or certificates change |
//! | [`issuers`] | verifies JWTs of other issuers: their keys, fetched and kept, and the rules for their claims |
//! | [`callers`] | authenticates callers and authorizes what they request; rate limits |
//! | [`exchange`] | exchanges tokens for Salesforce access tokens: client, error table, cache, circuit breaker, single-flight |
//! | [`doctor`] | diagnostic checks, each a pure function of its input; parsers and online probes that gather that input |
//! | [`metadata`] | exports keysets as deployable Salesforce metadata, and compares them with a retrieved project |
//! | [`sandbox`] | a fake Salesforce server for tests, on loopback; it shares no code with `tokens` |
//! | [`api`] | the HTTP API: routes, handlers, middleware, and the mapping of errors to statuses |
//! | [`app`] | builds the service from a `Config`, binds its listeners, reloads it, shuts it down |
//! | [`cli`] | the commands; the subcommands of `tokenmint keys` are in the folder `cli/keys` |
//!
//! # One request
//! 1. `app` accepts the connection, and passes its head to `api::request_head`, which checks it. `api` routes the request.
//! 2. `callers` authenticates the caller, and decides about the profile and the subject. `api::authorization` applies the decision.
//! 3. `tokens` mints the token with the key that signs now. For an access token, `exchange` answers from its
//!    cache. On a miss it mints an assertion or an identity token, and contacts Salesforce.
//! 4. `api` writes the audit line and responds.
//!
//! # Besides requests
//! - `app::reload` watches the files, and replaces the configuration as a whole. `app::retirement_watcher` revokes retired keys,
//!   even if the rest of the configuration is broken.
//! - `issuers` renews the keys of other issuers.
//! - `exchange` refreshes access tokens before they expire, and hears from other replicas which tokens Salesforce rejected.

#![deny(unsafe_code)]
#![warn(unreachable_pub)]

pub mod api;
pub mod app;
pub mod callers;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod exchange;
mod files;
mod hash;
mod http_client;
pub mod issuers;
pub mod json;
mod jwks;
pub mod keys;
mod metadata;
pub mod metrics;
pub mod sandbox;
mod shell;
mod signing_queue;
mod stores;
mod sync;
mod token_bucket;
pub mod tokens;
pub mod traces;
