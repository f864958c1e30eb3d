//! Several signatures at once, by Intel's library where there is one, and never one that was not verified.
//!
//! - Every signature that the library makes is verified with the public key before it leaves: by the library's own public
//!   operation, which takes a quarter of the time, and one of each batch, each place in turn, by aws-lc as well. Where the two
//!   disagree, aws-lc looks at the whole batch. A signature that is missing or wrong is made again by aws-lc; it is counted, and
//!   from the first on the library is not used again until a restart.
//! - A key comes to the library only after its [trial](BatchSigner::self_test): a thousand random messages, in batches of
//!   every size, signed by both, to the same bytes (RSASSA-PKCS1-v1_5 is deterministic). That takes a second or so of
//!   half a core, so it is done beside, from a key's first signature on, and the start of the service waits for
//!   nothing.
//! - From how many signatures a batch pays is measured in that trial, on the host that it is about.
//! - The padding is ours to make: EMSA-PKCS1-v1_5 of RFC 8017, section 9.2.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntCounterVec, IntGauge};
use zeroize::Zeroizing;

use super::crypto_mb::{BatchLibraryError, CrtKey, CryptoMb, LANES, Lane, ModulusSize};
use super::{MessageHash, PrivateKey, SigningFailed, hash_message};
use crate::clock::Randomness;
use crate::config::Algorithm;
use crate::metrics::Metrics;

/// The library, loaded and fit for this host.
pub struct BatchLibrary(CryptoMb);

impl BatchLibrary {
    /// Loads it from `file`.
    ///
    /// # Errors
    /// Why it can't be used.
    pub fn open(file: &Path) -> Result<Self, BatchLibraryError> {
        CryptoMb::open(file).map(Self)
    }

    pub fn version(&self) -> &str {
        &self.0.version
    }
}

/// Wiped when it goes, as whoever has one is its subject.
type SignatureBytes = Zeroizing<Vec<u8>>;

/// One of the signatures of a batch.
pub struct SignRequest<'a> {
    pub key: &'a PrivateKey,
    pub hash: &'a MessageHash,
}

/// What may go into a batch with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchParams {
    /// Only with keys of the same size.
    size: ModulusSize,
    /// As few signatures as it takes for a batch to be cheaper than one after the other.
    pub min_size: usize,
    /// It takes longer than anything else may wait for the thread that it runs on.
    pub is_slow: bool,
}

impl BatchParams {
    /// As many as go into one batch.
    pub const MAX_SIZE: usize = LANES;

    pub fn is_compatible_with(&self, other: Self) -> bool {
        self.size == other.size
    }
}

/// What a trial found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfTestResult {
    /// The library is right, and quicker from so many signatures on.
    Pays { min_size: usize, is_slow: bool },
    /// It is right, but no quicker here.
    DoesNotPay,
    /// It can't take such a key, or was wrong.
    Unfit,
}

/// What came of a key's trial, kept in the key.
#[derive(Default)]
pub(super) struct SelfTest {
    started: AtomicBool,
    crt: OnceLock<CrtKey>,
    result: OnceLock<SelfTestResult>,
}

impl SelfTest {
    fn params(&self) -> Option<BatchParams> {
        let SelfTestResult::Pays { min_size, is_slow } = *self.result.get()? else { return None };
        Some(BatchParams { size: self.crt.get()?.size, min_size, is_slow })
    }
}

/// Signs in batches with the keys that have stood their trial.
pub struct BatchSigner {
    inner: Arc<BatchEngine>,
    candidates: mpsc::Sender<Arc<PrivateKey>>,
}

struct BatchEngine {
    library: CryptoMb,
    randomness: Arc<dyn Randomness>,
    /// Until the first fault.
    trusted: AtomicBool,
    /// So many were made: whose turn it is to be looked at by aws-lc.
    batches: AtomicUsize,
    enabled: IntGauge,
    faults: IntCounterVec,
    keys_ready: IntCounter,
}

impl BatchSigner {
    /// Tries keys on a thread of its own, which ends with it.
    pub fn new(library: BatchLibrary, randomness: Arc<dyn Randomness>, metrics: &Metrics) -> Self {
        let inner = Arc::new(BatchEngine {
            library: library.0,
            randomness,
            trusted: AtomicBool::new(true),
            batches: AtomicUsize::new(0),
            enabled: metrics.signing_batch_enabled.clone(),
            faults: metrics.signing_batch_faults.clone(),
            keys_ready: metrics.signing_batch_keys.clone(),
        });
        inner.enabled.set(1);
        let (candidates, trials) = mpsc::channel::<Arc<PrivateKey>>();
        let examiner = inner.clone();
        let started = std::thread::Builder::new().name("key-trial".to_owned()).spawn(move || {
            for key in trials {
                // Half a core at most: what is signed meanwhile goes first.
                let trial = AssertUnwindSafe(|| examiner.self_test(&key, std::thread::sleep));
                if catch_unwind(trial).is_err() {
                    examiner.disable("panicked");
                }
            }
        });
        if let Err(error) = started {
            inner.trusted.store(false, Ordering::Release);
            inner.enabled.set(0);
            tracing::warn!(%error, "signs one at a time: no thread to try keys on");
        }
        Self { inner, candidates }
    }

    /// Whether signatures by `key` can go into a batch now. A key that is seen for the first time is put on trial.
    pub fn params_for(&self, key: &Arc<PrivateKey>) -> Option<BatchParams> {
        if !self.inner.trusted.load(Ordering::Acquire) {
            return None;
        }
        let SelfTest { started, result, .. } = &key.self_test;
        if result.get().is_none() && !started.swap(true, Ordering::AcqRel) {
            self.candidates
                .send(key.clone())
                .expect("the thread of a trusted library ends when this sender goes");
        }
        key.self_test.params()
    }

    /// The trial of a key, here and now.
    pub fn self_test(&self, key: &PrivateKey) -> SelfTestResult {
        self.inner.self_test(key, |_| {})
    }

    /// Signs all, each with its key. All keys have [passed](Self::params_for), and go with each other.
    pub fn sign(&self, wanted: &[SignRequest<'_>]) -> Vec<Result<SignatureBytes, SigningFailed>> {
        self.inner.sign(wanted)
    }
}

impl BatchEngine {
    fn sign(&self, wanted: &[SignRequest<'_>]) -> Vec<Result<SignatureBytes, SigningFailed>> {
        let alone = |wanted: &SignRequest<'_>| {
            let mut signature = Zeroizing::new(vec![0; wanted.key.signature_len()]);
            wanted.key.sign_hash(wanted.hash, &mut signature).map(|()| signature)
        };
        let Some(made) = self.sign_and_verify(wanted) else { return wanted.iter().map(alone).collect() };
        let settle = |(wanted, made): (&SignRequest<'_>, Result<_, &str>)| {
            made.or_else(|fault| {
                self.disable(fault);
                alone(wanted)
            })
        };
        wanted.iter().zip(made).map(settle).collect()
    }

    /// What the library makes of it, verified; the fault where a signature isn't right. `None` where the library isn't asked.
    fn sign_and_verify(
        &self,
        wanted: &[SignRequest<'_>],
    ) -> Option<Vec<Result<SignatureBytes, &'static str>>> {
        if !self.trusted.load(Ordering::Acquire) {
            return None;
        }
        let messages: Vec<Vec<u8>> =
            wanted.iter().map(|wanted| emsa_pkcs1_v1_5(wanted.hash, wanted.key.signature_len())).collect();
        let mut lanes: Vec<Lane<'_>> = Vec::with_capacity(wanted.len());
        for (wanted, message) in wanted.iter().zip(&messages) {
            lanes.push((wanted.key.self_test.crt.get()?, message));
        }
        let made = self.library.private(lanes.first()?.0.size, &lanes);
        let mut passed = self.verify_with_library(&lanes, &made);

        let stands = |lane: usize| {
            let SignRequest { key, hash } = &wanted[lane];
            made[lane].as_ref().is_some_and(|signature| key.verifies(hash, signature))
        };
        let spot = self.batches.fetch_add(1, Ordering::Relaxed) % wanted.len();
        if passed[spot] && !stands(spot) {
            // What the library says of the others is worth nothing either.
            passed = (0..wanted.len()).map(stands).collect();
        }
        let judge = |(made, passed): (Option<SignatureBytes>, bool)| match made {
            Some(signature) if passed => Ok(signature),
            Some(_) => Err("wrong"),
            None => Err("failed"),
        };
        Some(made.into_iter().zip(passed).map(judge).collect())
    }

    /// Whether each signature that was made is, by the library's public operation, that of the message in its lane
    /// (RFC 8017, section 8.2.2).
    fn verify_with_library(&self, lanes: &[Lane<'_>], made: &[Option<SignatureBytes>]) -> Vec<bool> {
        let none = vec![0; lanes[0].1.len()];
        let signed = made.iter().map(|made| made.as_ref().map_or(none.as_slice(), |made| made));
        let signed: Vec<Lane<'_>> =
            lanes.iter().zip(signed).map(|((crt, _), signed)| (*crt, signed)).collect();
        let opened = self.library.public(lanes[0].0.size, &signed);
        let agrees = |((lane, signed), opened): ((&Lane<'_>, &Lane<'_>), Option<SignatureBytes>)| {
            signed.0.modulus_exceeds(signed.1) && opened.is_some_and(|opened| opened.as_slice() == lane.1)
        };
        lanes.iter().zip(&signed).zip(opened).map(agrees).collect()
    }

    fn disable(&self, fault: &str) {
        self.faults.with_label_values(&[fault]).inc();
        if self.trusted.swap(false, Ordering::AcqRel) {
            self.enabled.set(0);
            tracing::error!(
                fault,
                library = self.library.version,
                "the library for batch signing is broken: what it made was thrown away and signed again, and from now \
                 on tokenmint signs one at a time; replace the library or the host, then restart"
            );
        }
    }

    /// Tries `key` and keeps what came of it. `rest` is told how long each piece of work took.
    fn self_test(&self, key: &PrivateKey, rest: fn(Duration)) -> SelfTestResult {
        let result = self.run_self_test(key, rest).unwrap_or(SelfTestResult::Unfit);
        if let SelfTestResult::Pays { .. } = result {
            self.keys_ready.inc();
        }
        // A second trial changes nothing.
        let _ = key.self_test.result.set(result);
        let (modulus, bits) = (key.public.n.get(..8).unwrap_or_default(), key.public.bits);
        tracing::info!(modulus, bits, standing = ?result, "a key was tried with the library for batch signing");
        result
    }

    /// `None` where the library can't have such a key, or had to be given up.
    fn run_self_test(&self, key: &PrivateKey, rest: fn(Duration)) -> Option<SelfTestResult> {
        let crt = key.crt().filter(|crt| self.library.supports(crt.size))?;
        let _ = key.self_test.crt.set(crt);
        let mut signature = Zeroizing::new(vec![0; key.signature_len()]);
        let (mut one, mut all) = (Duration::MAX, Duration::MAX);
        let mut tried = 0;
        for size in (2..=LANES).rev().cycle() {
            let begin = Instant::now();
            let hashes: Option<Vec<MessageHash>> = (0..size).map(|lane| self.message(tried + lane)).collect();
            let hashes = hashes?;
            let wanted: Vec<SignRequest<'_>> = hashes.iter().map(|hash| SignRequest { key, hash }).collect();
            let start = Instant::now();
            let made = self.sign(&wanted);
            let took = start.elapsed();
            if size == LANES {
                all = all.min(took);
            }
            for (hash, made) in hashes.iter().zip(made) {
                let start = Instant::now();
                key.sign_hash(hash, &mut signature).ok()?;
                one = one.min(start.elapsed());
                // What `sign` lets out verifies, and of one message one signature does (RFC 8017, section 8.2).
                if made.ok()? != signature {
                    self.disable("wrong");
                }
            }
            if !self.trusted.load(Ordering::Acquire) {
                return None;
            }
            tried += size;
            if tried >= SELF_TEST_MESSAGES {
                break;
            }
            rest(begin.elapsed());
        }
        let pays = |min_size| SelfTestResult::Pays { min_size, is_slow: all > SLOW_BATCH_TIME };
        Some(break_even_size(one, all).map_or(SelfTestResult::DoesNotPay, pays))
    }

    /// The first is known, the rest are random; half of them each for RS256 and RS512.
    fn message(&self, number: usize) -> Option<MessageHash> {
        let mut message = [0; 64];
        if number > 0 {
            self.randomness.fill(&mut message).ok()?;
        }
        let algorithm = if number.is_multiple_of(2) { Algorithm::Rs256 } else { Algorithm::Rs512 };
        Some(hash_message(algorithm, &message))
    }
}

/// Health and JWKS are to be answered within five milliseconds, whatever is signed.
const SLOW_BATCH_TIME: Duration = Duration::from_millis(3);

const SELF_TEST_MESSAGES: usize = 1000;

/// From how many signatures on a batch, which takes as long whatever is in it, is cheaper than one at a time.
fn break_even_size(one: Duration, batch: Duration) -> Option<usize> {
    (2..=LANES).find(|count| one.saturating_mul(u32::try_from(*count).unwrap_or(u32::MAX)) > batch)
}

/// EMSA-PKCS1-v1_5 (RFC 8017, section 9.2) of `length` bytes.
fn emsa_pkcs1_v1_5(hash: &MessageHash, length: usize) -> Vec<u8> {
    // DigestInfo up to the hash, as in note 1 there.
    let head: &[u8; 19] = match hash.algorithm {
        Algorithm::Rs256 => b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
        Algorithm::Rs512 => b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
    };
    let info = head.len() + hash.as_bytes().len();
    let mut message = vec![0xff; length - info - 1];
    message[0] = 0;
    message[1] = 1;
    message.push(0);
    message.extend_from_slice(head);
    message.extend_from_slice(hash.as_bytes());
    message
}
