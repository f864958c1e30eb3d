//! Where signing runs, so that nothing else waits for it.
//!
//! A signature keeps a core busy for a third of a millisecond, of RSA-4096 for nearly two. At most as many run at
//! once as there are cores, on the runtime's own threads; the rest stand in a [`Line`] for at most [`PATIENCE`].
//!
//! - Who has a core while others are at work [steps back](step_back) once before it signs: all that is ready runs
//!   first. So health and JWKS wait for one signature at most, every request reaches the line instead of an endless
//!   queue inside the runtime, and the deadline counts from where it should. It needs a runtime that looks at its
//!   sockets after each task (`event_interval(1)`, see `app`).
//! - Of the ways measured this costs nothing in throughput, where a pool of threads costs a tenth and signing
//!   without a bound makes JWKS wait a second.
//! - Refusing at once what can't be signed in time would have clients come back at once, and answering them takes
//!   the time for signatures: the wait itself slows them down.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use prometheus::{Histogram, IntCounter};

use super::MintError;
use super::line::{Line, NoTurn, Turn};
use crate::config::Algorithm;
use crate::keys::{PrivateKey, SigningFailed};
use crate::metrics::Metrics;

/// How long a signature may wait for its turn.
const PATIENCE: Duration = Duration::from_millis(250);

pub struct Signer {
    line: Arc<Line<()>>,
    wait: Histogram,
    rs256_duration: Histogram,
    rs512_duration: Histogram,
    full: IntCounter,
    late: IntCounter,
}

impl Signer {
    /// `at_once` signatures run, `queue` wait.
    pub fn new(at_once: usize, queue: usize, metrics: &Metrics) -> Self {
        let duration =
            |algorithm: Algorithm| metrics.signing_duration.with_label_values(&[algorithm.as_str()]);
        let shed = |reason| metrics.signing_shed.with_label_values(&[reason]);
        Self {
            line: Line::new(at_once, queue, PATIENCE, metrics.signing_queue_depth.clone()),
            wait: metrics.signing_wait.clone(),
            rs256_duration: duration(Algorithm::Rs256),
            rs512_duration: duration(Algorithm::Rs512),
            full: shed("full"),
            late: shed("late"),
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
        let asked = Instant::now();
        let turn = self.line.turn(()).await.map_err(|no_turn| self.refuse(no_turn))?;
        let Turn::Core(core, ()) = turn else { return Err(MintError::Signing(SigningFailed)) };
        if !core.is_only() {
            step_back().await;
        }
        let start = Instant::now();
        self.wait.observe((start - asked).as_secs_f64());
        key.sign(algorithm, message, signature)?;
        let duration = match algorithm {
            Algorithm::Rs256 => &self.rs256_duration,
            Algorithm::Rs512 => &self.rs512_duration,
        };
        duration.observe(start.elapsed().as_secs_f64());
        Ok(())
    }

    fn refuse(&self, no_turn: NoTurn) -> MintError {
        match no_turn {
            NoTurn::Full => self.full.inc(),
            NoTurn::Late => self.late.inc(),
            NoTurn::Lost => return MintError::Signing(SigningFailed),
        }
        MintError::Overloaded
    }
}

/// Lets all run that is ready now. Not tokio's `yield_now`, which with `event_interval(1)` comes back before it.
async fn step_back() {
    let mut stepped = false;
    poll_fn(|context| {
        if std::mem::replace(&mut stepped, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
