//! The checks, by what they look at. Each is a pure function from what is known to what it sees.

pub(super) mod assertions;
mod audience;
pub(super) mod hs256;
pub(super) mod keys;
pub(super) mod online;
pub(super) mod profiles;
pub(super) mod published;
pub(super) mod signatures;
pub(super) mod tokens;
