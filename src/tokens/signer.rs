//! Where signing runs, so that nothing else waits for it.
//!
//! A signature of RSA-2048 keeps a core busy for a third of a millisecond, or for nearly one on a CPU without AVX-512
//! IFMA; of RSA-4096 for two or for eleven. At most as many run at once as there are cores; the rest stand in a [`SigningQueue`]
//! for at most [`QUEUE_TIMEOUT`]. Where one runs is decided by the time that its key's own signature took when the key was
//! loaded.
//!
//! - A short one runs on the runtime's own threads. Who has a core [steps back](yield_to_scheduler) before it signs: all that is
//!   ready runs first. So health and JWKS wait for one signature at most, every request reaches the line instead of an
//!   endless queue inside the runtime, and the deadline counts from where it should. It needs a runtime that looks at its
//!   sockets after each task (`event_interval(1)`, see `app`). Of the ways measured this costs nothing in throughput, where
//!   a pool of threads costs a tenth and signing without a bound makes JWKS wait a second.
//! - A [long](MAX_INLINE_TIME) one runs on a [`ThreadPool`] of threads of lower priority, and the runtime's own stay free.
//! - With a library for [`BatchSigner`]es, who has a core then signs for the others in line too: those that are there, up to
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

use super::minted::MintError;
use super::queue::{AcquireError, Acquired, Permit, SigningQueue, TakenWaiter};
use super::thread_pool::ThreadPool;
use crate::config::Algorithm;
use crate::keys::{
    BatchParams, BatchSigner, MessageHash, PrivateKey, SignRequest, SigningFailed, hash_message,
};
use crate::metrics::Metrics;

/// How long a signature may wait for its turn.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(250);

/// Health and JWKS are to be answered within five milliseconds, whatever is signed: of a key whose signature takes longer
/// than this, none is made on the threads that answer.
const MAX_INLINE_TIME: Duration = Duration::from_millis(1);

struct SignJob {
    key: Arc<PrivateKey>,
    hash: MessageHash,
}

type SignatureResult = Result<Zeroizing<Vec<u8>>, SigningFailed>;

/// Who is signed for at the same time.
struct SigningBatch<'a> {
    batch: &'a BatchSigner,
    others: Vec<TakenWaiter<SignJob, SignatureResult>>,
}

pub struct Signer {
    queue: Arc<SigningQueue<SignJob, SignatureResult>>,
    pool: ThreadPool,
    executor: Arc<SigningExecutor>,
    full: IntCounter,
    late: IntCounter,
}

/// Makes signatures, wherever it is called.
struct SigningExecutor {
    batch: Option<BatchSigner>,
    /// Signatures that take longer are made on threads of their own.
    max_inline_time: Duration,
    wait: Histogram,
    rs256_duration: Histogram,
    rs512_duration: Histogram,
    one: IntCounter,
    several: IntCounter,
    batch_size: Histogram,
}

impl Signer {
    /// `at_once` signatures run, `queue` wait.
    pub fn new(at_once: usize, queue: usize, batch: Option<BatchSigner>, metrics: &Metrics) -> Self {
        Self::with(at_once, queue, batch, metrics, (MAX_INLINE_TIME, QUEUE_TIMEOUT))
    }

    /// As `new`, without any thread or bound on the wait: for tests that hand time in. There it goes on whenever no task is ready,
    /// though a thread works, and stands still however long the machine takes.
    pub fn without_threads(at_once: usize, queue: usize, metrics: &Metrics) -> Self {
        Self::with(at_once, queue, None, metrics, (Duration::MAX, Duration::MAX))
    }

    fn with(
        at_once: usize,
        queue: usize,
        batch: Option<BatchSigner>,
        metrics: &Metrics,
        (max_inline_time, max_wait): (Duration, Duration),
    ) -> Self {
        let duration =
            |algorithm: Algorithm| metrics.signing_duration.with_label_values(&[algorithm.as_str()]);
        let made = |path| metrics.signatures.with_label_values(&[path]);
        let shed = |reason| metrics.signing_shed.with_label_values(&[reason]);
        let executor = SigningExecutor {
            batch,
            max_inline_time,
            wait: metrics.signing_wait.clone(),
            rs256_duration: duration(Algorithm::Rs256),
            rs512_duration: duration(Algorithm::Rs512),
            one: made("one"),
            several: made("batch"),
            batch_size: metrics.signing_batch_size.clone(),
        };
        Self {
            queue: SigningQueue::new(at_once, queue, max_wait, metrics.signing_queue_depth.clone()),
            pool: ThreadPool::new(at_once),
            executor: Arc::new(executor),
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
        let job = SignJob { key: key.clone(), hash: hash_message(algorithm, message) };
        let made = match self.queue.acquire(job).await.map_err(|error| self.acquire_failed(error))? {
            Acquired::Done(made) => made,
            Acquired::Permit(core, job) if self.executor.exceeds_inline_time(&job.key) => {
                let (sender, made) = oneshot::channel();
                let executor = self.executor.clone();
                self.pool.run(move || {
                    let made = executor.sign_batch(&core, &job, asked);
                    drop(core);
                    // Who has gone away meanwhile needs none.
                    let _ = sender.send(made);
                });
                made.await.map_err(|_| self.acquire_failed(AcquireError::Abandoned))?
            }
            Acquired::Permit(core, job) => {
                // Also who is alone: on a host with one core everybody is.
                for _ in 0..self.executor.yield_rounds(key) {
                    yield_to_scheduler().await;
                }
                self.executor.sign_batch(&core, &job, asked)
            }
        };
        Ok(made?)
    }

    fn acquire_failed(&self, error: AcquireError) -> MintError {
        match error {
            AcquireError::Full => self.full.inc(),
            AcquireError::TimedOut => self.late.inc(),
            AcquireError::Abandoned => return MintError::Signing(SigningFailed),
        }
        MintError::Overloaded
    }
}

impl SigningExecutor {
    /// Whether nothing else may wait behind a signature by `key`, or behind the batch that it may lead.
    fn exceeds_inline_time(&self, key: &Arc<PrivateKey>) -> bool {
        let batch = self.batch.as_ref().and_then(|batch| batch.params_for(key));
        key.signing_time > self.max_inline_time || batch.is_some_and(|params| params.is_slow)
    }

    /// Signs `job`, and with it what is waiting and pays.
    fn sign_batch(
        &self,
        core: &Permit<SignJob, SignatureResult>,
        job: &SignJob,
        asked: Instant,
    ) -> SignatureResult {
        let start = Instant::now();
        self.wait.observe((start - asked).as_secs_f64());
        let Some(SigningBatch { batch, others }) = self.collect_batch(core, job) else {
            let mut signature = Zeroizing::new(vec![0; job.key.signature_len()]);
            job.key.sign_hash(&job.hash, &mut signature)?;
            self.one.inc();
            self.observe_duration(job, start.elapsed());
            return Ok(signature);
        };
        let jobs = || std::iter::once(job).chain(others.iter().map(|taken| &taken.job));
        let wanted: Vec<SignRequest<'_>> =
            jobs().map(|SignJob { key, hash }| SignRequest { key, hash }).collect();
        let mut made = batch.sign(&wanted).into_iter();
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let share = start.elapsed() / count;
        jobs().for_each(|job| self.observe_duration(job, share));
        for other in &others {
            self.wait.observe((start - other.enqueued_at).as_secs_f64());
        }
        self.several.inc_by(u64::from(count));
        self.batch_size.observe(f64::from(count));
        let own = made.next().unwrap_or(Err(SigningFailed));
        others.into_iter().zip(made).for_each(|(other, made)| other.complete(made));
        own
    }

    /// Those in line that make a batch with `job`; `None` where it doesn't pay.
    fn collect_batch(
        &self,
        core: &Permit<SignJob, SignatureResult>,
        job: &SignJob,
    ) -> Option<SigningBatch<'_>> {
        let batch = self.batch.as_ref()?;
        let params = batch.params_for(&job.key)?;
        let alike = |other: &SignJob| {
            batch.params_for(&other.key).is_some_and(|other| other.is_compatible_with(params))
        };
        let others = core.queue().take_matching(alike, params.min_size - 1, BatchParams::MAX_SIZE - 1);
        (!others.is_empty()).then_some(SigningBatch { batch, others })
    }

    /// How often to step back. It takes three rounds until a new connection is accepted, watched and read: beside a batch, or a
    /// signature of a key that is longer than usual, they cost nothing.
    fn yield_rounds(&self, key: &PrivateKey) -> usize {
        const USUAL: usize = 2048 / 8;
        if self.batch.is_some() || key.signature_len() > USUAL { 3 } else { 1 }
    }

    /// Counts the time of one signature; in a batch, its share.
    fn observe_duration(&self, job: &SignJob, time: Duration) {
        let duration = match job.hash.algorithm {
            Algorithm::Rs256 => &self.rs256_duration,
            Algorithm::Rs512 => &self.rs512_duration,
        };
        duration.observe(time.as_secs_f64());
    }
}

/// Lets all run that is ready now. Not tokio's `yield_now`, which with `event_interval(1)` comes back before it.
async fn yield_to_scheduler() {
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
