//! Whose access tokens a profile brings, hashed at load.
//!
//! Two profiles that differ in anything that an access token depends on have different owners, under one name too: after a
//! change of the configuration nobody gets what was exchanged for another user, org or app.

use std::iter::once;

use crate::hash::PartsHasher;

#[derive(Clone, Copy)]
pub struct Owner([u8; 32]);

impl Owner {
    pub(super) fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(PartsHasher::of(parts))
    }

    /// What in it is of those parts alone.
    #[must_use]
    pub fn within<'a>(&'a self, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::of(once(self.0.as_slice()).chain(parts))
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// `a|b` + `c` is not `a` + `b|c`.
        #[test]
        fn different_parts_never_make_one_owner(a in prop::collection::vec(".{0,8}", 0..5), b in prop::collection::vec(".{0,8}", 0..5)) {
            let bytes = |parts: &[String]| Owner::of(parts.iter().map(String::as_bytes)).0;
            prop_assert_eq!(bytes(&a) == bytes(&b), a == b);
            let within = |parts: &[String]| Owner::of([]).within(parts.iter().map(String::as_bytes)).0;
            prop_assert_eq!(within(&a) == within(&b), a == b);
        }
    }
}
