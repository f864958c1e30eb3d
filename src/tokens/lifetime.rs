//! How long a token lives.

use std::time::Duration;

use super::objection::Objection;
use crate::config::MIN_TTL;

/// How long a token lives: at least a minute, at most what its profile allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(pub(super) Duration);

impl Lifetime {
    /// `asked` is in seconds; without it the profile's `ttl`.
    ///
    /// # Errors
    /// The bounds, under the field's name.
    pub fn choose(asked: Option<u64>, ttl: Duration, max_ttl: Duration) -> Result<Self, Objection> {
        match asked.map(Duration::from_secs) {
            None => Ok(Self(ttl)),
            Some(asked) if (MIN_TTL..=max_ttl).contains(&asked) => Ok(Self(asked)),
            Some(_) => {
                let (from, to) = (MIN_TTL.as_secs(), max_ttl.as_secs());
                Err(Objection::new(
                    "ttl",
                    format!("must be between {from} and {to} seconds, the profile's max_ttl"),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_life_is_what_was_asked_within_the_bounds_or_none(
            asked in prop::option::of(prop_oneof![0..100_000_u64, any::<u64>()]),
            ttl in 60..86_400_u64,
            longer in 0..86_400_u64,
        ) {
            let max_ttl = ttl + longer;
            let life = Lifetime::choose(asked, Duration::from_secs(ttl), Duration::from_secs(max_ttl));
            let wanted = asked.unwrap_or(ttl);
            let expected = (60..=max_ttl).contains(&wanted).then_some(Lifetime(Duration::from_secs(wanted)));
            prop_assert_eq!(life.ok(), expected);
        }
    }

    #[test]
    fn a_life_keeps_within_a_minute_and_the_profile_s_bound() {
        let choose = |asked| Lifetime::choose(asked, Duration::from_mins(10), Duration::from_mins(15));
        assert_eq!(choose(None), Ok(Lifetime(Duration::from_mins(10))));
        assert!(choose(Some(60)).is_ok() && choose(Some(900)).is_ok());
        for wrong in [0, 59, 901, u64::MAX] {
            assert_eq!(choose(Some(wrong)).expect_err("out of bounds").field, "ttl");
        }
    }
}
