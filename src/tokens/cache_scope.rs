//! The scope of an access token's cache key: a hash of the settings that decide for which user, org and app the token is.

use std::iter::once;

use crate::hash::PartsHasher;

/// The scope of an access token's cache key.
///
/// Changing any setting that it hashes invalidates the cached tokens: nobody gets a token that was exchanged for another
/// user, org or app.
#[derive(Clone, Copy)]
pub(crate) struct CacheScope([u8; 32]);

impl CacheScope {
    pub(super) fn from_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(PartsHasher::of(parts))
    }

    /// Derives a narrower scope from this scope and `parts`, for example for one subject of a profile.
    #[must_use]
    pub(crate) fn subscope<'a>(&'a self, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::from_parts(once(self.0.as_slice()).chain(parts))
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
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
        fn different_parts_never_give_the_same_scope(a in prop::collection::vec(".{0,8}", 0..5), b in prop::collection::vec(".{0,8}", 0..5)) {
            let bytes = |parts: &[String]| CacheScope::from_parts(parts.iter().map(String::as_bytes)).0;
            prop_assert_eq!(bytes(&a) == bytes(&b), a == b);
            let within = |parts: &[String]| CacheScope::from_parts([]).subscope(parts.iter().map(String::as_bytes)).0;
            prop_assert_eq!(within(&a) == within(&b), a == b);
        }
    }
}
