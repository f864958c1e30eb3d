//! Where signing runs, so that nothing else waits for it.
//!
//! A signature keeps a core busy for a third of a millisecond. At most as many run at once as there are
//! cores, on the runtime's own threads; the rest wait in line at an await point, and a runtime that looks at
//! its sockets after each task (`event_interval(1)`, see `app`) answers health and JWKS in between. Of the
//! ways measured this costs nothing in throughput, where a pool of threads costs a tenth and signing without
//! a bound makes JWKS wait a second.

use std::time::Instant;

use prometheus::{Histogram, IntGauge};
use tokio::sync::Semaphore;

use super::MintError;
use crate::config::Algorithm;
use crate::keys::PrivateKey;
use crate::metrics::Metrics;

pub struct Signer {
    cores: Semaphore,
    /// How many may wait.
    queue: usize,
    waiting: IntGauge,
    rs256_duration: Histogram,
    rs512_duration: Histogram,
}

impl Signer {
    /// `at_once` signatures run, `queue` wait.
    pub fn new(at_once: usize, queue: usize, metrics: &Metrics) -> Self {
        let duration =
            |algorithm: Algorithm| metrics.signing_duration.with_label_values(&[algorithm.as_str()]);
        Self {
            cores: Semaphore::new(at_once),
            queue,
            waiting: metrics.signing_queue_depth.clone(),
            rs256_duration: duration(Algorithm::Rs256),
            rs512_duration: duration(Algorithm::Rs512),
        }
    }

    /// Signs as [`PrivateKey::sign`] does, when it is this message's turn.
    pub(super) async fn sign(
        &self,
        key: &PrivateKey,
        algorithm: Algorithm,
        message: &[u8],
        signature: &mut [u8],
    ) -> Result<(), MintError> {
        let _core = match self.cores.try_acquire() {
            Ok(core) => core,
            Err(_) => self.wait().await?,
        };
        let start = Instant::now();
        key.sign(algorithm, message, signature)?;
        let duration = match algorithm {
            Algorithm::Rs256 => &self.rs256_duration,
            Algorithm::Rs512 => &self.rs512_duration,
        };
        duration.observe(start.elapsed().as_secs_f64());
        Ok(())
    }

    async fn wait(&self) -> Result<tokio::sync::SemaphorePermit<'_>, MintError> {
        let place = Place::take(&self.waiting);
        if usize::try_from(self.waiting.get()).is_ok_and(|waiting| waiting > self.queue) {
            return Err(MintError::Overloaded);
        }
        let core = self.cores.acquire().await.expect("the semaphore is never closed");
        drop(place);
        Ok(core)
    }
}

/// A place in line, given back also when the one who waits goes away.
struct Place<'a>(&'a IntGauge);

impl<'a> Place<'a> {
    fn take(waiting: &'a IntGauge) -> Self {
        waiting.inc();
        Self(waiting)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
