//! The check functions, grouped by their input. Each is a pure function from a `CheckInput` to its observations, and is named
//! for the id of its check.

pub(super) mod assertions;
mod audience;
pub(super) mod hs256;
pub(super) mod keys;
pub(super) mod online;
pub(super) mod profiles;
pub(super) mod published;
pub(super) mod signatures;
pub(super) mod tokens;
