//! What the exchanger and the shared cache are both handed.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::clock::{Clock, NoRandomness, Randomness, UnixTime};
use crate::metrics::Metrics;
use crate::tokens::Signer;

/// What the exchanger works with.
#[derive(Clone)]
pub struct Tools {
    pub signer: Arc<Signer>,
    pub clock: Arc<dyn Clock>,
    pub randomness: Arc<dyn Randomness>,
    pub metrics: Arc<Metrics>,
}

/// When something is looked at, by both clocks, and a number between 0 and 1.
pub(super) struct Moment {
    pub now: UnixTime,
    pub steady: Duration,
    pub chance: f64,
}

impl Tools {
    pub(super) fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), steady: self.clock.monotonic(), chance: self.chance() }
    }

    /// Between 0 and 1; without randomness just in between, because only spreading depends on it.
    pub(super) fn chance(&self) -> f64 {
        let mut byte = [0];
        self.randomness.fill(&mut byte).map_or(0.5, |()| f64::from(byte[0]) / 255.0)
    }

    /// A name that nobody else has.
    pub(super) fn unique(&self) -> Result<String, NoRandomness> {
        let mut bytes = [0; 16];
        self.randomness.fill(&mut bytes).map(|()| HEXLOWER.encode(&bytes))
    }
}
