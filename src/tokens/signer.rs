//! Where signing runs, so that nothing else waits for it.
//!
//! A signature keeps a core busy for a third of a millisecond, of RSA-4096 for nearly two. At most as many run at
//! once as there are cores, on the runtime's own threads; the rest stand in a [`Line`] for at most [`PATIENCE`].
//!
//! - Who has a core [steps back](step_back) before it signs: all that is ready runs first. So health and JWKS
//!   wait for one signature at most, every request reaches the line instead of an endless queue inside the runtime,
//!   and the deadline counts from where it should. It needs a runtime that looks at its sockets after each task
//!   (`event_interval(1)`, see `app`).
//! - With a library for [`Batch`]es, who has a core then signs for the others in line too: those that are there, up to
//!   eight with itself, if so many pay. It never waits for more, and who is alone signs as ever. A batch that takes
//!   long (RSA-4096: ten milliseconds) first hands the rest of the thread's work to another thread.
//! - Of the ways measured this costs nothing in throughput, where a pool of threads costs a tenth and signing
//!   without a bound makes JWKS wait a second.
//! - Refusing at once what can't be signed in time would have clients come back at once, and answering them takes
//!   the time for signatures: the wait itself slows them down.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use prometheus::{Histogram, IntCounter};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;
use zeroize::Zeroizing;

use super::MintError;
use super::line::{Line, NoTurn, Taken, Turn};
use crate::config::Algorithm;
use crate::keys::{Batch, Fit, MessageHash, PrivateKey, SigningFailed, Wanted, hash};
use crate::metrics::Metrics;

/// How long a signature may wait for its turn.
const PATIENCE: Duration = Duration::from_millis(250);

struct Job {
    key: Arc<PrivateKey>,
    hash: MessageHash,
}

type Signature = Result<Zeroizing<Vec<u8>>, SigningFailed>;

/// Who is signed for at the same time.
struct Company<'a> {
    batch: &'a Batch,
    fit: Fit,
    others: Vec<Taken<Job, Signature>>,
}

pub struct Signer {
    line: Arc<Line<Job, Signature>>,
    batch: Option<Batch>,
    wait: Histogram,
    rs256_duration: Histogram,
    rs512_duration: Histogram,
    one: IntCounter,
    several: IntCounter,
    batch_size: Histogram,
    full: IntCounter,
    late: IntCounter,
}

impl Signer {
    /// `at_once` signatures run, `queue` wait.
    pub fn new(at_once: usize, queue: usize, batch: Option<Batch>, metrics: &Metrics) -> Self {
        let duration =
            |algorithm: Algorithm| metrics.signing_duration.with_label_values(&[algorithm.as_str()]);
        let made = |path| metrics.signatures.with_label_values(&[path]);
        let shed = |reason| metrics.signing_shed.with_label_values(&[reason]);
        Self {
            line: Line::new(at_once, queue, PATIENCE, metrics.signing_queue_depth.clone()),
            batch,
            wait: metrics.signing_wait.clone(),
            rs256_duration: duration(Algorithm::Rs256),
            rs512_duration: duration(Algorithm::Rs512),
            one: made("one"),
            several: made("batch"),
            batch_size: metrics.signing_batch_size.clone(),
            full: shed("full"),
            late: shed("late"),
        }
    }

    /// Signs as [`PrivateKey::sign`] does, when it is this message's turn.
    pub(super) async fn sign(
        &self,
        key: &Arc<PrivateKey>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &mut [u8],
    ) -> Result<(), MintError> {
        let asked = Instant::now();
        let job = Job { key: key.clone(), hash: hash(algorithm, message) };
        match self.line.turn(job).await.map_err(|no_turn| self.refuse(no_turn))? {
            Turn::Done(made) => signature.copy_from_slice(&made?),
            Turn::Core(_core, job) => {
                // Also who is alone: on a host with one core everybody is.
                for _ in 0..self.rounds(key) {
                    step_back().await;
                }
                self.lead(&job, asked, signature)?;
            }
            Turn::Late => return Err(self.refuse(NoTurn::Late)),
        }
        Ok(())
    }

    /// Signs `job`, and with it what is waiting and pays.
    fn lead(&self, job: &Job, asked: Instant, signature: &mut [u8]) -> Result<(), SigningFailed> {
        let start = Instant::now();
        self.wait.observe((start - asked).as_secs_f64());
        let Some(Company { batch, fit, others }) = self.companions(job) else {
            job.key.sign_hash(&job.hash, signature)?;
            self.one.inc();
            self.took(job, start);
            return Ok(());
        };
        let jobs = || std::iter::once(job).chain(others.iter().map(|taken| &taken.job));
        let wanted: Vec<Wanted<'_>> = jobs().map(|Job { key, hash }| Wanted { key, hash }).collect();
        let mut made = if fit.long && Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
            block_in_place(|| batch.sign(&wanted)).into_iter()
        } else {
            batch.sign(&wanted).into_iter()
        };
        jobs().for_each(|job| self.took(job, start));
        for other in &others {
            self.wait.observe((start - other.since).as_secs_f64());
        }
        let count = wanted.len();
        self.several.inc_by(count as u64);
        self.batch_size.observe(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        let own = made.next().unwrap_or(Err(SigningFailed));
        others.into_iter().zip(made).for_each(|(other, made)| other.done(made));
        signature.copy_from_slice(&own?);
        Ok(())
    }

    /// Those in line that make a batch with `job`; `None` where it doesn't pay.
    fn companions(&self, job: &Job) -> Option<Company<'_>> {
        let batch = self.batch.as_ref()?;
        let fit = batch.fit(&job.key)?;
        let alike = |other: &Job| batch.fit(&other.key).is_some_and(|other| other.goes_with(fit));
        let others = self.line.take(alike, fit.from - 1, Fit::MOST - 1);
        (!others.is_empty()).then_some(Company { batch, fit, others })
    }

    /// How often to step back. It takes three rounds until a new connection is accepted, watched and read: beside a batch, or a
    /// signature of a key that is longer than usual, they cost nothing.
    fn rounds(&self, key: &PrivateKey) -> usize {
        const USUAL: usize = 2048 / 8;
        if self.batch.is_some() || key.signature_len() > USUAL { 3 } else { 1 }
    }

    fn took(&self, job: &Job, start: Instant) {
        let duration = match job.hash.algorithm {
            Algorithm::Rs256 => &self.rs256_duration,
            Algorithm::Rs512 => &self.rs512_duration,
        };
        duration.observe(start.elapsed().as_secs_f64());
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
