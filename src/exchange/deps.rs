//! Dependencies of the exchanger and the shared cache: signer, clock, randomness and metrics.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::clock::{Clock, NoRandomness, Randomness, UnixTime};
use crate::metrics::Metrics;
use crate::tokens::Signer;

/// The dependencies that are injected into the exchanger.
#[derive(Clone)]
pub struct ExchangerDeps {
    pub signer: Arc<Signer>,
    pub clock: Arc<dyn Clock>,
    pub randomness: Arc<dyn Randomness>,
    pub metrics: Arc<Metrics>,
}

/// The current time on both clocks, and a random number from 0 to 1: the jitter of the backoff in `negative_cache` and of the refresh in `token`.
pub(super) struct ClockReading {
    pub(crate) now: UnixTime,
    pub(crate) monotonic: Duration,
    pub(crate) fraction: f64,
}

impl ExchangerDeps {
    pub(super) fn clock_reading(&self) -> ClockReading {
        ClockReading {
            now: self.clock.now(),
            monotonic: self.clock.monotonic(),
            fraction: self.random_fraction(),
        }
    }

    /// Returns a random number from 0 to 1 for jitter; 0.5 if no randomness is available.
    pub(super) fn random_fraction(&self) -> f64 {
        let mut byte = [0];
        self.randomness.fill(&mut byte).map_or(0.5, |()| f64::from(byte[0]) / 255.0)
    }

    /// Returns a random 128-bit id in hexadecimal.
    pub(super) fn unique_id(&self) -> Result<String, NoRandomness> {
        let mut bytes = [0; 16];
        self.randomness.fill(&mut bytes).map(|()| HEXLOWER.encode(&bytes))
    }
}
