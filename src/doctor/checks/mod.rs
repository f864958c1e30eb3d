//! The checks, by what they look at. Each is a pure function from what is known to what it sees.

mod audience;
pub(super) mod keys;
pub(super) mod online;
pub(super) mod profiles;
pub(super) mod published;
pub(super) mod tokens;
