//! What the service asks of its host before it holds a private key: that nobody reads its memory, alive or dead.

use std::fs;
use std::io;

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, geteuid, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}; it won't hold private keys whose memory others may read")]
pub struct HardeningError {
    what: &'static str,
    error: io::Error,
}

/// No core dump; no debugger and no `/proc/PID/mem` for other processes of the same user; files of ours alone. The
/// limit of descriptors goes up as far as it may, since each connection takes one.
///
/// # Errors
/// The host refuses, so no key may be read.
pub fn harden() -> Result<(), HardeningError> {
    let hardening_error = |what| move |error: rustix::io::Errno| HardeningError { what, error: error.into() };
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(hardening_error("can't turn off core dumps"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(hardening_error("can't close its memory to other processes"))?;
    umask(Mode::RWXG | Mode::RWXO);
    let descriptors = getrlimit(Resource::Nofile);
    // Where it may not, fewer connections find room.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: descriptors.maximum, ..descriptors });
    Ok(())
}

/// Descriptors for all that isn't a connection from outside: files, sockets to Salesforce, the runtime's own.
const RESERVED_DESCRIPTORS: u64 = 64;

/// How many connections each of `listeners` may have, so that none takes the last descriptor from another: health and
/// metrics are answered also while strangers hold all that the minting listener has.
pub fn max_connections_per_listener(listeners: usize) -> usize {
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return usize::MAX };
    let room = descriptors - RESERVED_DESCRIPTORS.min(descriptors / 2);
    usize::try_from(room).unwrap_or(usize::MAX) / listeners.max(1)
}

/// What is safe enough to start with, and should be mended.
pub fn warnings() -> impl Iterator<Item = &'static str> {
    let root = geteuid()
        .is_root()
        .then_some("runs as root, whom nothing on this host is closed to; give it a user of its own");
    let swap = fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1);
    let swap =
        swap.then_some("the host swaps, so private keys can reach a disk; turn swap off, or encrypt it");
    root.into_iter().chain(swap)
}
