//! tokenmint: mints the tokens that a web backend needs on each page load.
//!
//! # The house
//! A room imports only from rooms above it; `tests/service/module_order.rs` checks that.
//!
//! | room | holds |
//! |---|---|
//! | [`clock`], [`metrics`], [`json`], [`hash`], [`files`], [`shell`], `sync` | the time and chance that are handed in; the names of what is counted; strict JSON; SHA-256; the one opener of files; words of commands to paste; a lock that tests exchange |
//! | [`config`] | text and environment -> one validated `Config` |
//! | [`traces`] | where a request stands in its caller's trace; spans, in a build that exports them |
//! | [`keys`] | PEM files -> `KeyRing`: keysets, certificates, the schedule |
//! | [`tokens`] | what each kind of token says, and signing it |
//! | [`jwks`] | a ring's public face, made once and not per request |
//! | [`callers`] | who may ask, and for what |
//! | [`exchange`] | Salesforce as a client sees it: two exchanges, what its errors mean, the cache in front |
//! | [`doctor`] | checks, each a pure function from what is known to a finding |
//! | [`metadata`] | the keysets as deployable Salesforce metadata, and a retrieved project beside them |
//! | [`sandbox`] | Salesforce as a server, on loopback, sharing no code with `tokens` |
//! | [`http`] | routes, handlers that only translate, errors into statuses |
//! | [`app`] | builds the rooms, runs them, stops |
//! | [`cli`] | one file a command |
//!
//! A page load is a straight walk: `http` reads the request, `callers` says yes or no, `tokens` mints, `http`
//! writes the answer. An access token takes a turn through `exchange`, which mostly has one.

#![deny(unsafe_code)]

pub mod app;
pub mod callers;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod exchange;
pub mod files;
pub mod hash;
pub mod http;
pub mod json;
pub mod jwks;
pub mod keys;
pub mod metadata;
pub mod metrics;
pub mod sandbox;
pub mod shell;
mod sync;
pub mod tokens;
pub mod traces;
