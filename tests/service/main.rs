//! Runs the service as its users do: the real binary, real files, real sockets.

mod callers;
mod configuration;
mod environment;
mod key_files;
mod minting;
mod publishing;
mod refusals;
mod support;
