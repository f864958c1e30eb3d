//! Process hardening before private keys are loaded: no core dumps, no debuggers, private files; and the limit of open files.

use std::fs;
use std::io;

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, geteuid, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

/// A hardening step that the host refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "tokenmint doesn't start: {failed_step} ({error}); private keys could leak from its memory: allow setrlimit and prctl in \
     the seccomp profile"
)]
pub(crate) struct HardeningError {
    failed_step: &'static str,
    error: io::Error,
}

/// Turns off core dumps, denies debuggers and `/proc/PID/mem` to other processes of the same user, and makes new files
/// private by the umask.
///
/// Also raises the limit of open files to its maximum, if the host allows it, because each connection takes a descriptor.
///
/// # Errors
/// The host refuses one of the hardening steps. No private key may be loaded then.
pub(crate) fn harden() -> Result<(), HardeningError> {
    let hardening_error =
        |failed_step| move |error: rustix::io::Errno| HardeningError { failed_step, error: error.into() };
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(hardening_error("can't turn off core dumps"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(hardening_error("can't close its memory to other processes"))?;
    umask(Mode::RWXG | Mode::RWXO);
    let descriptors = getrlimit(Resource::Nofile);
    // If this fails, `max_connections_per_listener` allows fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: descriptors.maximum, ..descriptors });
    Ok(())
}

/// Descriptors that are reserved for files, for sockets to Salesforce, and for the runtime; at most half of the limit.
const RESERVED_DESCRIPTORS: u64 = 64;

/// How many connections each of `listeners` listeners may have.
///
/// The descriptors are divided among the listeners. So the ops listener, if there is one, answers while clients hold all
/// connections of the minting listener.
pub(crate) fn max_connections_per_listener(listeners: usize) -> usize {
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return usize::MAX };
    let available = descriptors - RESERVED_DESCRIPTORS.min(descriptors / 2);
    usize::try_from(available).unwrap_or(usize::MAX) / listeners.max(1)
}

/// Conditions of the host that are insecure, but don't prevent the start.
pub(crate) fn warnings() -> impl Iterator<Item = &'static str> {
    let root = geteuid()
        .is_root()
        .then_some("runs as root, which can access everything on this host; run it as a user of its own");
    let swap = fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1);
    let swap = swap.then_some(
        "the host has swap, so private keys may be written to a disk; turn swap off, or encrypt it",
    );
    root.into_iter().chain(swap)
}
