//! The `tokenmint` binary: runs the command line with the host's environment, clock and random number generator.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use tokenmint::app::ClockAndRng;
use tokenmint::cli;
use tokenmint::config::Environment;

/// Replaces musl's allocator for Rust code, because it has one lock for all threads. With musl's, the image serves cached
/// tokens and JWKS at two thirds of the rate. glibc's allocator is as fast as mimalloc.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Installed before anything else, so that the choice of cryptographic library doesn't depend on other crates' features.
    let installed = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    installed.expect("nobody has installed a provider before main");

    let environment: Environment = std::env::vars_os().collect();
    cli::run(std::env::args_os(), &environment, &ClockAndRng::system())
}
