//! The binary: hands the host's environment, time and randomness to the house, and its exit code back.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use tokenmint::app::ClockAndRng;
use tokenmint::cli;
use tokenmint::config::Environment;

/// musl's own allocator has one lock for all threads: with it the image's binary gives out kept tokens and JWKS at two thirds of the
/// rate. glibc's is as quick as this one.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all: which library does the cryptography must not depend on what other crates compile in.
    let installed = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    installed.expect("nobody has installed a provider before main");

    let environment: Environment = std::env::vars_os().collect();
    cli::run(std::env::args_os(), &environment, &ClockAndRng::system())
}
