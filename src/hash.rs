//! SHA-256 (FIPS 180-4) of bytes, and of lists of byte strings.

use aws_lc_rs::digest::{Context, SHA256, digest};

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    array(digest(&SHA256, bytes).as_ref())
}

/// Hashes a list of byte strings. Each is prefixed with its length, so that lists like `ab, c` and `a, bc` differ.
pub(crate) struct PartsHasher(Context);

impl Default for PartsHasher {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl PartsHasher {
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
        let mut hash = Self::default();
        parts.into_iter().for_each(|part| hash.add(part));
        hash.finish()
    }

    pub(crate) fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        array(self.0.finish().as_ref())
    }
}

fn array(digest: &[u8]) -> [u8; 32] {
    digest.try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn different_lists_have_different_hashes(a in prop::collection::vec(".{0,8}", 0..5), b in prop::collection::vec(".{0,8}", 0..5)) {
            let hash = |parts: &[String]| PartsHasher::of(parts.iter().map(String::as_bytes));
            prop_assert_eq!(hash(&a) == hash(&b), a == b);
        }
    }

    #[test]
    fn sha256_matches_the_example_of_fips_180_4() {
        let hex = data_encoding::HEXLOWER.encode(&sha256(b"abc"));
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
