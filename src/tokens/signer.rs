//! Where signing runs, so that nothing else waits for it.
//!
//! A signature of RSA-2048 keeps a core busy for a third of a millisecond, or for nearly one on a CPU without AVX-512
//! IFMA; of RSA-4096 for two or for eleven. At most as many run at once as there are cores; the rest stand in a [`Line`]
//! for at most [`PATIENCE`]. Where one runs is decided by the time that its key's own signature took when the key was
//! loaded.
//!
//! - A short one runs on the runtime's own threads. Who has a core [steps back](step_back) before it signs: all that is
//!   ready runs first. So health and JWKS wait for one signature at most, every request reaches the line instead of an
//!   endless queue inside the runtime, and the deadline counts from where it should. It needs a runtime that looks at its
//!   sockets after each task (`event_interval(1)`, see `app`). Of the ways measured this costs nothing in throughput, where
//!   a pool of threads costs a tenth and signing without a bound makes JWKS wait a second.
//! - A [long](LONGEST_INLINE) one runs on a [`Pool`] of threads of lower priority, and the runtime's own stay free.
//! - With a library for [`Batch`]es, who has a core then signs for the others in line too: those that are there, up to
//!   eight with itself, if so many pay. It never waits for more, and who is alone signs as ever. A batch that takes
//!   long runs where a long signature does.
//! - Refusing at once what can't be signed in time would have clients come back at once, and answering them takes
//!   the time for signatures: the wait itself slows them down.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use prometheus::{Histogram, IntCounter};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::line::{Core, Line, NoTurn, Taken, Turn};
use super::minted::MintError;
use super::pool::Pool;
use crate::config::Algorithm;
use crate::keys::{Batch, Fit, MessageHash, PrivateKey, SigningFailed, Wanted, hash};
use crate::metrics::Metrics;

/// How long a signature may wait for its turn.
const PATIENCE: Duration = Duration::from_millis(250);

/// Health and JWKS are to be answered within five milliseconds, whatever is signed: of a key whose signature takes longer
/// than this, none is made on the threads that answer.
const LONGEST_INLINE: Duration = Duration::from_millis(1);

struct Job {
    key: Arc<PrivateKey>,
    hash: MessageHash,
}

type Signature = Result<Zeroizing<Vec<u8>>, SigningFailed>;

/// Who is signed for at the same time.
struct Company<'a> {
    batch: &'a Batch,
    others: Vec<Taken<Job, Signature>>,
}

pub struct Signer {
    line: Arc<Line<Job, Signature>>,
    pool: Pool,
    maker: Arc<Maker>,
    full: IntCounter,
    late: IntCounter,
}

/// Makes signatures, wherever it is called.
struct Maker {
    batch: Option<Batch>,
    /// Signatures that take longer are made on threads of their own.
    longest_inline: Duration,
    wait: Histogram,
    rs256_duration: Histogram,
    rs512_duration: Histogram,
    one: IntCounter,
    several: IntCounter,
    batch_size: Histogram,
}

impl Signer {
    /// `at_once` signatures run, `queue` wait.
    pub fn new(at_once: usize, queue: usize, batch: Option<Batch>, metrics: &Metrics) -> Self {
        Self::with(at_once, queue, batch, metrics, (LONGEST_INLINE, PATIENCE))
    }

    /// As `new`, without any thread or bound on the wait: for tests that hand time in. There it goes on whenever no task is ready,
    /// though a thread works, and stands still however long the machine takes.
    pub fn without_threads(at_once: usize, queue: usize, metrics: &Metrics) -> Self {
        Self::with(at_once, queue, None, metrics, (Duration::MAX, Duration::MAX))
    }

    fn with(
        at_once: usize,
        queue: usize,
        batch: Option<Batch>,
        metrics: &Metrics,
        (longest_inline, patience): (Duration, Duration),
    ) -> Self {
        let duration =
            |algorithm: Algorithm| metrics.signing_duration.with_label_values(&[algorithm.as_str()]);
        let made = |path| metrics.signatures.with_label_values(&[path]);
        let shed = |reason| metrics.signing_shed.with_label_values(&[reason]);
        let maker = Maker {
            batch,
            longest_inline,
            wait: metrics.signing_wait.clone(),
            rs256_duration: duration(Algorithm::Rs256),
            rs512_duration: duration(Algorithm::Rs512),
            one: made("one"),
            several: made("batch"),
            batch_size: metrics.signing_batch_size.clone(),
        };
        Self {
            line: Line::new(at_once, queue, patience, metrics.signing_queue_depth.clone()),
            pool: Pool::new(at_once),
            maker: Arc::new(maker),
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
    ) -> Result<Zeroizing<Vec<u8>>, MintError> {
        let asked = Instant::now();
        let job = Job { key: key.clone(), hash: hash(algorithm, message) };
        let made = match self.line.turn(job).await.map_err(|no_turn| self.refuse(no_turn))? {
            Turn::Done(made) => made,
            Turn::Core(core, job) if self.maker.is_long(&job.key) => {
                let (sender, made) = oneshot::channel();
                let maker = self.maker.clone();
                self.pool.run(move || {
                    let made = maker.lead(&core, &job, asked);
                    drop(core);
                    // Who has gone away meanwhile needs none.
                    let _ = sender.send(made);
                });
                made.await.map_err(|_| self.refuse(NoTurn::Lost))?
            }
            Turn::Core(core, job) => {
                // Also who is alone: on a host with one core everybody is.
                for _ in 0..self.maker.rounds(key) {
                    step_back().await;
                }
                self.maker.lead(&core, &job, asked)
            }
        };
        Ok(made?)
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

impl Maker {
    /// Whether nothing else may wait behind a signature by `key`, or behind the batch that it may lead.
    fn is_long(&self, key: &Arc<PrivateKey>) -> bool {
        let batch = self.batch.as_ref().and_then(|batch| batch.fit(key));
        key.signing_time > self.longest_inline || batch.is_some_and(|fit| fit.long)
    }

    /// Signs `job`, and with it what is waiting and pays.
    fn lead(&self, core: &Core<Job, Signature>, job: &Job, asked: Instant) -> Signature {
        let start = Instant::now();
        self.wait.observe((start - asked).as_secs_f64());
        let Some(Company { batch, others }) = self.companions(core, job) else {
            let mut signature = Zeroizing::new(vec![0; job.key.signature_len()]);
            job.key.sign_hash(&job.hash, &mut signature)?;
            self.one.inc();
            self.took(job, start.elapsed());
            return Ok(signature);
        };
        let jobs = || std::iter::once(job).chain(others.iter().map(|taken| &taken.job));
        let wanted: Vec<Wanted<'_>> = jobs().map(|Job { key, hash }| Wanted { key, hash }).collect();
        let mut made = batch.sign(&wanted).into_iter();
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let share = start.elapsed() / count;
        jobs().for_each(|job| self.took(job, share));
        for other in &others {
            self.wait.observe((start - other.since).as_secs_f64());
        }
        self.several.inc_by(u64::from(count));
        self.batch_size.observe(f64::from(count));
        let own = made.next().unwrap_or(Err(SigningFailed));
        others.into_iter().zip(made).for_each(|(other, made)| other.done(made));
        own
    }

    /// Those in line that make a batch with `job`; `None` where it doesn't pay.
    fn companions(&self, core: &Core<Job, Signature>, job: &Job) -> Option<Company<'_>> {
        let batch = self.batch.as_ref()?;
        let fit = batch.fit(&job.key)?;
        let alike = |other: &Job| batch.fit(&other.key).is_some_and(|other| other.goes_with(fit));
        let others = core.line().take(alike, fit.from - 1, Fit::MOST - 1);
        (!others.is_empty()).then_some(Company { batch, others })
    }

    /// How often to step back. It takes three rounds until a new connection is accepted, watched and read: beside a batch, or a
    /// signature of a key that is longer than usual, they cost nothing.
    fn rounds(&self, key: &PrivateKey) -> usize {
        const USUAL: usize = 2048 / 8;
        if self.batch.is_some() || key.signature_len() > USUAL { 3 } else { 1 }
    }

    /// Counts the time of one signature; in a batch, its share.
    fn took(&self, job: &Job, time: Duration) {
        let duration = match job.hash.algorithm {
            Algorithm::Rs256 => &self.rs256_duration,
            Algorithm::Rs512 => &self.rs512_duration,
        };
        duration.observe(time.as_secs_f64());
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
