//! The lifetime of a token: validates the `ttl` of a request against the bounds of the service and the profile.

use std::time::Duration;

use super::invalid_field::InvalidField;
use crate::clock::UnixTime;
use crate::config::MIN_TTL;

/// The time by which a token must end has passed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LatestEndPassed;

/// The lifetime of a token: at least [`MIN_TTL`], at most the profile's `max_ttl`. It is shorter if the proof of its subject ends
/// earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(pub(super) Duration);

impl Lifetime {
    /// Shortens the lifetime so that a token minted at `now` doesn't end after `latest`.
    ///
    /// # Errors
    /// `latest` isn't after `now`.
    pub(crate) fn ending_by(self, latest: UnixTime, now: UnixTime) -> Result<Self, LatestEndPassed> {
        let remaining = u64::try_from(now.seconds_until(latest)).ok().filter(|seconds| *seconds > 0);
        let remaining = Duration::from_secs(remaining.ok_or(LatestEndPassed)?);
        Ok(Self(self.0.min(remaining)))
    }

    /// Accepts a requested lifetime in seconds within the bounds; `None` gives the profile's `ttl`.
    ///
    /// # Errors
    /// Names the field `ttl` and its bounds.
    pub(crate) fn validate(
        requested: Option<u64>,
        ttl: Duration,
        max_ttl: Duration,
    ) -> Result<Self, InvalidField> {
        match requested.map(Duration::from_secs) {
            None => Ok(Self(ttl)),
            Some(requested) if (MIN_TTL..=max_ttl).contains(&requested) => Ok(Self(requested)),
            Some(_) => {
                let (from, to) = (MIN_TTL.as_secs(), max_ttl.as_secs());
                Err(InvalidField::new(
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
        fn a_lifetime_is_the_requested_one_within_the_bounds(
            requested in prop::option::of(prop_oneof![0..100_000_u64, any::<u64>()]),
            ttl in 60..86_400_u64,
            longer in 0..86_400_u64,
        ) {
            let max_ttl = ttl + longer;
            let lifetime = Lifetime::validate(requested, Duration::from_secs(ttl), Duration::from_secs(max_ttl));
            let wanted = requested.unwrap_or(ttl);
            let expected = (60..=max_ttl).contains(&wanted).then_some(Lifetime(Duration::from_secs(wanted)));
            prop_assert_eq!(lifetime.ok(), expected);
        }
    }

    #[test]
    fn a_lifetime_ends_with_the_proof_of_its_subject_at_the_latest() {
        let now = UnixTime::from_seconds(1_000);
        let lifetime = Lifetime(Duration::from_mins(10));
        let ending_by = |latest| lifetime.ending_by(UnixTime::from_seconds(latest), now);
        assert_eq!(ending_by(1_600), Ok(lifetime));
        assert_eq!(ending_by(i64::MAX), Ok(lifetime));
        assert_eq!(ending_by(1_599), Ok(Lifetime(Duration::from_secs(599))));
        assert_eq!(ending_by(1_001), Ok(Lifetime(Duration::from_secs(1))));
        for passed in [1_000, 999, i64::MIN] {
            assert_eq!(ending_by(passed), Err(LatestEndPassed));
        }
    }

    #[test]
    fn a_lifetime_is_between_a_minute_and_the_profile_s_max_ttl() {
        let validate =
            |requested| Lifetime::validate(requested, Duration::from_mins(10), Duration::from_mins(15));
        assert_eq!(validate(None), Ok(Lifetime(Duration::from_mins(10))));
        assert!(validate(Some(60)).is_ok() && validate(Some(900)).is_ok());
        for wrong in [0, 59, 901, u64::MAX] {
            assert_eq!(validate(Some(wrong)).expect_err("out of bounds").field, "ttl");
        }
    }
}
