//! Runs signatures so that nothing else waits for them: a bounded queue, cooperative scheduling, and load shedding.
//!
//! A signature of RSA-2048 keeps a core busy for a third of a millisecond, or for nearly one on a CPU without AVX-512
//! IFMA. One of RSA-4096 takes two milliseconds, or eleven on such a CPU. At most `concurrency` signatures or batches run at once. The rest wait
//! in a [`SigningQueue`] for at most [`QUEUE_TIMEOUT`]; beyond that, and beyond its capacity, requests are shed.
//! The time that the key's own signature took when the key was loaded decides where a signature runs. A key with slow
//! batches always uses the thread pool.
//!
//! - A short signature runs on the runtime's own threads. The holder of a permit [yields](yield_to_scheduler) before it
//!   signs, so that all ready tasks run first. So health and JWKS wait for one signature or one short batch at most.
//!   Every request reaches this queue instead of an unbounded one inside the runtime, and its deadline counts from its
//!   arrival. This needs a runtime that looks at its sockets after each task (`event_interval(1)`, see `app`). It costs
//!   no throughput as measured. For short signatures, a pool of threads would cost a tenth of it, and signing without a
//!   bound would make JWKS wait a second.
//! - A signature by a key that took longer than [`MAX_INLINE_TIME`] runs on a [`ThreadPool`] of lower priority.
//! - With a [`BatchSigner`], the holder of a permit also signs for other waiters, if enough are there for a batch to pay:
//!   up to eight signatures with its own ([`BatchParams::MAX_SIZE`]). It never waits for more waiters.
//! - A key of a store signs there. The store has a queue like this one, of its own length (`stores::connection`).
//! - Only a full queue rejects at once. A job that can't be signed in time isn't rejected before its time is over: an early
//!   rejection would make clients retry at once, and answering retries takes time from signatures. The wait slows them down.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use prometheus::{Histogram, IntCounter};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::minted::MintError;

use super::thread_pool::ThreadPool;
use crate::config::Algorithm;
use crate::keys::{
    BatchParams, BatchSigner, MessageHash, PrivateKey, SignRequest, SigningFailed, SigningKey, hash_message,
};
use crate::metrics::Metrics;
use crate::signing_queue::{AcquireError, Acquired, Permit, SigningQueue, TakenWaiter};

/// How long a signature may wait for a permit.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(250);

/// The longest signature that runs on the runtime's own threads: health and JWKS must be answered within five
/// milliseconds, whatever is signed meanwhile.
const MAX_INLINE_TIME: Duration = Duration::from_millis(1);

struct SignJob {
    key: Arc<PrivateKey>,
    hash: MessageHash,
}

type SignatureResult = Result<Zeroizing<Vec<u8>>, SigningFailed>;

/// The other waiters whose jobs are signed in one batch with the permit holder's own.
struct SigningBatch<'a> {
    signer: &'a BatchSigner,
    others: Vec<TakenWaiter<SignJob, SignatureResult>>,
}

pub struct Signer {
    queue: Arc<SigningQueue<SignJob, SignatureResult>>,
    slow_signature_pool: ThreadPool,
    executor: Arc<SigningExecutor>,
    shed_full: IntCounter,
    shed_timed_out: IntCounter,
}

/// Makes signatures on the thread that calls it.
struct SigningExecutor {
    batch_signer: Option<BatchSigner>,
    /// Signatures that take longer run on the thread pool.
    max_inline_time: Duration,
    wait: Histogram,
    rs256_duration: Histogram,
    rs512_duration: Histogram,
    single_signatures: IntCounter,
    batched_signatures: IntCounter,
    batch_size: Histogram,
}

impl Signer {
    /// At most `concurrency` signatures or batches run at once, and at most `queue_capacity` jobs wait.
    pub fn new(
        concurrency: usize,
        queue_capacity: usize,
        batch_signer: Option<BatchSigner>,
        metrics: &Metrics,
    ) -> Self {
        Self::with(concurrency, queue_capacity, batch_signer, metrics, (MAX_INLINE_TIME, QUEUE_TIMEOUT))
    }

    /// Like `new`, without threads of its own, without batches, and without a bound on the wait. It is for tests with a paused
    /// clock: tokio advances that clock whenever no task is ready, even while a thread works.
    pub fn without_threads(concurrency: usize, queue_capacity: usize, metrics: &Metrics) -> Self {
        Self::with(concurrency, queue_capacity, None, metrics, (Duration::MAX, Duration::MAX))
    }

    fn with(
        concurrency: usize,
        queue_capacity: usize,
        batch_signer: Option<BatchSigner>,
        metrics: &Metrics,
        (max_inline_time, max_wait): (Duration, Duration),
    ) -> Self {
        let duration =
            |algorithm: Algorithm| metrics.signing_duration.with_label_values(&[algorithm.as_str()]);
        let signatures = |path| metrics.signatures.with_label_values(&[path]);
        let shed = |reason| metrics.signing_shed.with_label_values(&[reason]);
        let executor = SigningExecutor {
            batch_signer,
            max_inline_time,
            wait: metrics.signing_wait.clone(),
            rs256_duration: duration(Algorithm::Rs256),
            rs512_duration: duration(Algorithm::Rs512),
            single_signatures: signatures("one"),
            batched_signatures: signatures("batch"),
            batch_size: metrics.signing_batch_size.clone(),
        };
        Self {
            queue: SigningQueue::new(
                concurrency,
                queue_capacity,
                max_wait,
                metrics.signing_queue_depth.clone(),
            ),
            slow_signature_pool: ThreadPool::new(concurrency),
            executor: Arc::new(executor),
            shed_full: shed("full"),
            shed_timed_out: shed("late"),
        }
    }

    /// Signs `message` by RSASSA-PKCS1-v1_5.
    ///
    /// # Errors
    /// The request was shed, the cryptographic library failed, or the store of the key can't be used.
    pub(super) async fn sign(
        &self,
        key: &SigningKey,
        algorithm: Algorithm,
        message: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, MintError> {
        let hash = hash_message(algorithm, message);
        match key {
            SigningKey::Private(key) => self.sign_here(key, hash).await,
            // A store's key has a queue of its own: waiting for a store keeps no core busy.
            SigningKey::Remote(key) => Ok(Zeroizing::new(key.sign(hash).await?)),
        }
    }

    /// Signs in this process, once it has a permit or is part of another's batch.
    async fn sign_here(
        &self,
        key: &Arc<PrivateKey>,
        hash: MessageHash,
    ) -> Result<Zeroizing<Vec<u8>>, MintError> {
        let requested_at = Instant::now();
        let job = SignJob { key: key.clone(), hash };
        let signature = match self.queue.acquire(job).await.map_err(|error| self.acquire_failed(error))? {
            Acquired::Done(signature) => signature,
            Acquired::Permit(permit, job) if self.executor.exceeds_inline_time(&job.key) => {
                let (sender, signature) = oneshot::channel();
                let executor = self.executor.clone();
                self.slow_signature_pool.run(move || {
                    let signature = executor.sign_batch(&permit, &job, requested_at);
                    drop(permit);
                    // The send fails if the request was cancelled meanwhile.
                    let _ = sender.send(signature);
                });
                signature.await.map_err(|_| self.acquire_failed(AcquireError::Abandoned))?
            }
            Acquired::Permit(permit, job) => {
                // It yields even where nothing waits: on a host with one core, requests that arrived meanwhile haven't been
                // read yet.
                for _ in 0..self.executor.yield_rounds(key) {
                    yield_to_scheduler().await;
                }
                self.executor.sign_batch(&permit, &job, requested_at)
            }
        };
        Ok(signature?)
    }

    fn acquire_failed(&self, error: AcquireError) -> MintError {
        match error {
            AcquireError::Full => self.shed_full.inc(),
            AcquireError::TimedOut => self.shed_timed_out.inc(),
            AcquireError::Abandoned => return MintError::Signing(SigningFailed),
        }
        MintError::Overloaded
    }
}

impl SigningExecutor {
    /// Whether a signature by `key`, or a batch that it begins, takes too long for the runtime's own threads.
    fn exceeds_inline_time(&self, key: &Arc<PrivateKey>) -> bool {
        let params = self.batch_signer.as_ref().and_then(|signer| signer.params_for(key));
        key.signing_time > self.max_inline_time || params.is_some_and(|params| params.is_slow)
    }

    /// Signs `job`, in one batch with matching waiters where that is cheaper.
    fn sign_batch(
        &self,
        permit: &Permit<SignJob, SignatureResult>,
        job: &SignJob,
        requested_at: Instant,
    ) -> SignatureResult {
        let start = Instant::now();
        self.wait.observe((start - requested_at).as_secs_f64());
        let Some(SigningBatch { signer, others }) = self.collect_batch(permit, job) else {
            let mut signature = Zeroizing::new(vec![0; job.key.signature_len()]);
            job.key.sign_hash(&job.hash, &mut signature)?;
            self.single_signatures.inc();
            self.observe_duration(job, start.elapsed());
            return Ok(signature);
        };
        let jobs = || std::iter::once(job).chain(others.iter().map(|taken| &taken.job));
        let requests: Vec<SignRequest<'_>> =
            jobs().map(|SignJob { key, hash }| SignRequest { key, hash }).collect();
        let mut signatures = signer.sign(&requests).into_iter();
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let share = start.elapsed() / count;
        jobs().for_each(|job| self.observe_duration(job, share));
        for other in &others {
            self.wait.observe((start - other.enqueued_at).as_secs_f64());
        }
        self.batched_signatures.inc_by(u64::from(count));
        self.batch_size.observe(f64::from(count));
        let own = signatures.next().unwrap_or(Err(SigningFailed));
        others.into_iter().zip(signatures).for_each(|(other, signature)| other.complete(signature));
        own
    }

    /// Takes the waiters that can be signed in one batch with `job`. `None` if the key doesn't sign in batches, or if too few
    /// wait for a batch to be cheaper.
    fn collect_batch(
        &self,
        permit: &Permit<SignJob, SignatureResult>,
        job: &SignJob,
    ) -> Option<SigningBatch<'_>> {
        let signer = self.batch_signer.as_ref()?;
        let params = signer.params_for(&job.key)?;
        let compatible = |other: &SignJob| {
            signer.params_for(&other.key).is_some_and(|other| other.is_compatible_with(params))
        };
        let others = permit.queue().take_matching(compatible, params.min_size - 1, BatchParams::MAX_SIZE - 1);
        (!others.is_empty()).then_some(SigningBatch { signer, others })
    }

    /// How often to yield before signing: once, or three times where batches or a key longer than 2048 bits make that cheap in
    /// comparison. A new connection is accepted, registered and read after three rounds.
    fn yield_rounds(&self, key: &PrivateKey) -> usize {
        const USUAL_SIGNATURE_LEN: usize = 2048 / 8;
        if self.batch_signer.is_some() || key.signature_len() > USUAL_SIGNATURE_LEN { 3 } else { 1 }
    }

    /// Records the duration of one signature; for a batch, each signature's equal share.
    fn observe_duration(&self, job: &SignJob, time: Duration) {
        let duration = match job.hash.algorithm {
            Algorithm::Rs256 => &self.rs256_duration,
            Algorithm::Rs512 => &self.rs512_duration,
        };
        duration.observe(time.as_secs_f64());
    }
}

/// Lets the tasks that are ready on this thread run before it returns. tokio's own `yield_now` isn't used: with
/// `event_interval(1)` it returns before those tasks have run.
async fn yield_to_scheduler() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
