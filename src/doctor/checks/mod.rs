//! The check functions, grouped by their input: pure functions from a `CheckInput` to its observations. Each has the id of its
//! check as its name, except those of `hs256`, which serve every HS256 kind. The titles and fixes are in `catalogue`.

pub(super) mod assertions;
mod audience;
pub(super) mod hs256;
pub(super) mod incoming;
pub(super) mod issuers;
pub(super) mod keys;
pub(super) mod online;
pub(super) mod profiles;
pub(super) mod published;
pub(super) mod signatures;
pub(super) mod stores;
pub(super) mod tokens;
