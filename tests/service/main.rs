//! Runs the service as its users do: the real binary, real files, real sockets.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it left out"
)]
#![allow(clippy::many_single_char_names, reason = "RFC 8017 names the numbers of a key by single letters")]
#![allow(clippy::collection_is_never_read, reason = "connections are held open by being kept")]

mod bundle;
mod callers;
mod commands;
mod configuration;
mod connections;
mod doctor;
mod environment;
mod example;
mod exchange;
mod in_process;
mod key_files;
mod listeners;
mod minting;
mod openapi;
mod publishing;
mod refusals;
mod reload;
mod rooms;
mod rotation;
mod salesforce_metadata;
mod sandbox;
mod secrecy;
mod shared_cache;
mod storm;
mod support;
mod troubleshooting;
