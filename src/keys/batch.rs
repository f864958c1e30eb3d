//! Batch signing: makes several signatures at once with Intel's Crypto Multi-buffer library, where it is configured. No
//! unverified signature leaves this module.
//!
//! - Every signature that the library makes is verified with the public key before it is returned. The library's own
//!   public operation verifies all of them, in a quarter of the time that aws-lc takes to verify them. aws-lc also verifies
//!   one signature of each batch, at a position that rotates, unless the library's check has rejected that signature. If
//!   aws-lc rejects it, aws-lc verifies the whole batch.
//! - A signature that is missing or wrong is made again by aws-lc, and counted. After the first one the library is disabled
//!   until a restart.
//! - A key is used with the library only after its [self-test](BatchSigner::self_test): at least [`SELF_TEST_MESSAGES`]
//!   messages, in batches of 2 to 8, signed by both. The bytes must be equal, as RSASSA-PKCS1-v1_5 is deterministic.
//! - At half the speed of one core, the self-test takes about a second with RSA-2048, and ten with RSA-4096. One thread runs
//!   the self-tests. A key's is queued with its first signature, so the start of the service doesn't wait for it.
//! - The self-test also measures, on this host, the smallest batch that is faster than single signatures.
//! - This module makes the padding: EMSA-PKCS1-v1_5 (RFC 8017, section 9.2).

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

/// The library, loaded and supported by this host's CPU.
pub struct BatchLibrary(CryptoMb);

impl BatchLibrary {
    /// Loads the library from `file`.
    ///
    /// # Errors
    /// Says why the library can't be used.
    pub fn open(file: &Path) -> Result<Self, BatchLibraryError> {
        CryptoMb::open(file).map(Self)
    }

    pub(crate) fn version(&self) -> &str {
        &self.0.version
    }
}

/// Zeroized when dropped: a signature completes a token, and a token is a secret.
type SignatureBytes = Zeroizing<Vec<u8>>;

/// A request for one signature of a batch.
pub struct SignRequest<'a> {
    pub key: &'a PrivateKey,
    pub hash: &'a MessageHash,
}

/// The parameters of batches that contain a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchParams {
    /// All keys of a batch have this size.
    size: ModulusSize,
    /// The fewest signatures for which a batch is faster than single signatures.
    pub(crate) min_size: usize,
    /// Whether a batch takes longer than `SLOW_BATCH_TIME`, too long for the runtime's own threads.
    pub(crate) is_slow: bool,
}

impl BatchParams {
    /// The most signatures in one batch.
    pub const MAX_SIZE: usize = LANES;

    /// Whether keys with these parameters can be in one batch.
    pub(crate) fn is_compatible_with(&self, other: Self) -> bool {
        self.size == other.size
    }
}

/// The result of a key's self-test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfTestResult {
    /// The library's signatures are correct, and faster in batches of at least `min_size`.
    Pays { min_size: usize, is_slow: bool },
    /// They are correct, but no batch is faster on this host.
    DoesNotPay,
    /// The library doesn't support the key, made a wrong signature or none, or was disabled. Or aws-lc couldn't sign, or the
    /// host gave no randomness.
    Unfit,
}

/// The state of a key's self-test, kept in the key.
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

/// Signs in batches with the keys that have passed their self-test.
pub struct BatchSigner {
    inner: Arc<BatchEngine>,
    candidates: mpsc::Sender<Arc<PrivateKey>>,
}

struct BatchEngine {
    library: CryptoMb,
    randomness: Arc<dyn Randomness>,
    /// Cleared at the first fault, or if the thread for self-tests can't be started.
    trusted: AtomicBool,
    /// The number of batches made, which selects the signature that aws-lc verifies.
    batch_count: AtomicUsize,
    enabled: IntGauge,
    faults: IntCounterVec,
    keys_ready: IntCounter,
}

impl BatchSigner {
    /// Starts the thread that runs the self-tests. After this value is dropped, the thread finishes the queued self-tests
    /// and ends; nobody waits for it.
    pub fn new(library: BatchLibrary, randomness: Arc<dyn Randomness>, metrics: &Metrics) -> Self {
        let inner = Arc::new(BatchEngine {
            library: library.0,
            randomness,
            trusted: AtomicBool::new(true),
            batch_count: AtomicUsize::new(0),
            enabled: metrics.signing_batch_enabled.clone(),
            faults: metrics.signing_batch_faults.clone(),
            keys_ready: metrics.signing_batch_keys.clone(),
        });
        inner.enabled.set(1);
        let (candidates, untested) = mpsc::channel::<Arc<PrivateKey>>();
        let tester = inner.clone();
        let started = std::thread::Builder::new().name("key-self-test".to_owned()).spawn(move || {
            for key in untested {
                // Sleeping as long as each step took leaves half of the core to the signatures of requests.
                let test = AssertUnwindSafe(|| tester.self_test(&key, std::thread::sleep));
                if catch_unwind(test).is_err() {
                    tester.disable("panicked");
                }
            }
        });
        if let Err(error) = started {
            inner.trusted.store(false, Ordering::Release);
            inner.enabled.set(0);
            tracing::warn!(%error, "signs one at a time: the thread that tests keys can't be started");
        }
        Self { inner, candidates }
    }

    /// Returns the parameters of batches with `key`; `None` while it can't be in one. Queues the self-test of a key that it sees
    /// for the first time.
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

    /// Runs the self-test of `key` on the calling thread.
    pub fn self_test(&self, key: &PrivateKey) -> SelfTestResult {
        self.inner.self_test(key, |_| {})
    }

    /// Signs each request with its key. All keys must have [passed](Self::params_for) and be compatible. Takes at most
    /// [`BatchParams::MAX_SIZE`] requests.
    pub fn sign(&self, requests: &[SignRequest<'_>]) -> Vec<Result<SignatureBytes, SigningFailed>> {
        self.inner.sign(requests)
    }
}

impl BatchEngine {
    fn sign(&self, requests: &[SignRequest<'_>]) -> Vec<Result<SignatureBytes, SigningFailed>> {
        let sign_alone = |request: &SignRequest<'_>| {
            let mut signature = Zeroizing::new(vec![0; request.key.signature_len()]);
            request.key.sign_hash(request.hash, &mut signature).map(|()| signature)
        };
        let Some(made) = self.sign_and_verify(requests) else {
            return requests.iter().map(sign_alone).collect();
        };
        let or_sign_alone = |(request, made): (&SignRequest<'_>, Result<_, &str>)| {
            made.or_else(|fault| {
                self.disable(fault);
                sign_alone(request)
            })
        };
        requests.iter().zip(made).map(or_sign_alone).collect()
    }

    /// Returns the library's signatures, verified, and a fault for each that is missing or wrong. `None` if the library
    /// is disabled, or no self-test has set a key's [`SelfTest::crt`].
    fn sign_and_verify(
        &self,
        requests: &[SignRequest<'_>],
    ) -> Option<Vec<Result<SignatureBytes, &'static str>>> {
        if !self.trusted.load(Ordering::Acquire) {
            return None;
        }
        let messages: Vec<Vec<u8>> = requests
            .iter()
            .map(|request| emsa_pkcs1_v1_5(request.hash, request.key.signature_len()))
            .collect();
        let mut lanes: Vec<Lane<'_>> = Vec::with_capacity(requests.len());
        for (request, message) in requests.iter().zip(&messages) {
            lanes.push((request.key.self_test.crt.get()?, message));
        }
        let made = self.library.rsa_private(lanes.first()?.0.size, &lanes);
        let mut passed = self.verify_with_library(&lanes, &made);

        let verifies = |lane: usize| {
            let SignRequest { key, hash } = &requests[lane];
            made[lane].as_ref().is_some_and(|signature| key.public.verifies(hash, signature))
        };
        let spot = self.batch_count.fetch_add(1, Ordering::Relaxed) % requests.len();
        if passed[spot] && !verifies(spot) {
            // The library's verdict on the other signatures can't be trusted either.
            passed = (0..requests.len()).map(verifies).collect();
        }
        let to_result = |(made, passed): (Option<SignatureBytes>, bool)| match made {
            Some(signature) if passed => Ok(signature),
            Some(_) => Err("wrong"),
            None => Err("failed"),
        };
        Some(made.into_iter().zip(passed).map(to_result).collect())
    }

    /// Verifies each signature with the library's public operation: it must give the message of its lane (RFC 8017,
    /// section 8.2.2).
    fn verify_with_library(&self, lanes: &[Lane<'_>], made: &[Option<SignatureBytes>]) -> Vec<bool> {
        let none = vec![0; lanes[0].1.len()];
        let signed = made.iter().map(|made| made.as_ref().map_or(none.as_slice(), |made| made));
        let signed: Vec<Lane<'_>> =
            lanes.iter().zip(signed).map(|((crt, _), signed)| (*crt, signed)).collect();
        let opened = self.library.rsa_public(lanes[0].0.size, &signed);
        let agrees = |((lane, signed), opened): ((&Lane<'_>, &Lane<'_>), Option<SignatureBytes>)| {
            signed.0.modulus_exceeds(signed.1) && opened.is_some_and(|opened| opened.as_slice() == lane.1)
        };
        lanes.iter().zip(&signed).zip(opened).map(agrees).collect()
    }

    /// Counts the fault and disables the library until a restart.
    fn disable(&self, fault: &str) {
        self.faults.with_label_values(&[fault]).inc();
        if self.trusted.swap(false, Ordering::AcqRel) {
            self.enabled.set(0);
            tracing::error!(
                fault,
                library = self.library.version,
                "the library for batch signing is broken: its signatures were discarded and made again, and tokenmint signs one \
                 at a time from now on; replace the library or the host, then restart"
            );
        }
    }

    /// Runs the self-test of `key` and stores its result in the key. Calls `pause` with the duration of each
    /// step but the last.
    fn self_test(&self, key: &PrivateKey, pause: fn(Duration)) -> SelfTestResult {
        let result = self.run_self_test(key, pause).unwrap_or(SelfTestResult::Unfit);
        if let SelfTestResult::Pays { .. } = result {
            self.keys_ready.inc();
        }
        // A second self-test keeps the first result.
        let _ = key.self_test.result.set(result);
        let (modulus, bits) = (key.public.n.get(..8).unwrap_or_default(), key.public.bits);
        let outcome = match result {
            SelfTestResult::Pays { min_size, .. } => format!("signs in batches of {min_size} or more"),
            SelfTestResult::DoesNotPay => "signs one at a time: no batch is faster on this host".to_owned(),
            SelfTestResult::Unfit => {
                "signs one at a time: the library can't be used with this key".to_owned()
            }
        };
        tracing::info!(
            modulus,
            bits,
            result = outcome,
            "a key was tested with the library for batch signing"
        );
        result
    }

    /// Returns `None` where the result is [`SelfTestResult::Unfit`].
    fn run_self_test(&self, key: &PrivateKey, pause: fn(Duration)) -> Option<SelfTestResult> {
        let crt = key.crt().filter(|crt| self.library.supports(crt.size))?;
        let _ = key.self_test.crt.set(crt);
        let mut signature = Zeroizing::new(vec![0; key.signature_len()]);
        let (mut one, mut all) = (Duration::MAX, Duration::MAX);
        let mut tried = 0;
        for size in (2..=LANES).rev().cycle() {
            let begin = Instant::now();
            let hashes: Option<Vec<MessageHash>> =
                (0..size).map(|lane| self.test_message(tried + lane)).collect();
            let hashes = hashes?;
            let requests: Vec<SignRequest<'_>> =
                hashes.iter().map(|hash| SignRequest { key, hash }).collect();
            let start = Instant::now();
            let made = self.sign(&requests);
            let took = start.elapsed();
            if size == LANES {
                all = all.min(took);
            }
            for (hash, made) in hashes.iter().zip(made) {
                let start = Instant::now();
                key.sign_hash(hash, &mut signature).ok()?;
                one = one.min(start.elapsed());
                // `sign` returns only signatures that verify, and each message has exactly one such signature (RFC 8017, section 8.2).
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
            pause(begin.elapsed());
        }
        let pays = |min_size| SelfTestResult::Pays { min_size, is_slow: all > SLOW_BATCH_TIME };
        Some(break_even_size(one, all).map_or(SelfTestResult::DoesNotPay, pays))
    }

    /// The message of that number: the first is all zeros, the others are random. They alternate between RS256 and RS512.
    fn test_message(&self, number: usize) -> Option<MessageHash> {
        let mut message = [0; 64];
        if number > 0 {
            self.randomness.fill(&mut message).ok()?;
        }
        let algorithm = if number.is_multiple_of(2) { Algorithm::Rs256 } else { Algorithm::Rs512 };
        Some(hash_message(algorithm, &message))
    }
}

/// A slower batch doesn't run on the runtime's own threads: health and JWKS must be answered within five milliseconds.
const SLOW_BATCH_TIME: Duration = Duration::from_millis(3);

const SELF_TEST_MESSAGES: usize = 1000;

/// The fewest signatures for which a batch is faster than single signatures. A batch takes the same time whatever its size.
fn break_even_size(one: Duration, batch: Duration) -> Option<usize> {
    (2..=LANES).find(|count| one.saturating_mul(u32::try_from(*count).unwrap_or(u32::MAX)) > batch)
}

/// Encodes a hash by EMSA-PKCS1-v1_5 (RFC 8017, section 9.2) into `length` bytes.
fn emsa_pkcs1_v1_5(hash: &MessageHash, length: usize) -> Vec<u8> {
    // The DigestInfo before the hash, from note 1 of that section.
    let prefix: &[u8; 19] = match hash.algorithm {
        Algorithm::Rs256 => b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
        Algorithm::Rs512 => b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
    };
    let info = prefix.len() + hash.as_bytes().len();
    let mut message = vec![0xff; length - info - 1];
    message[0] = 0;
    message[1] = 1;
    message.push(0);
    message.extend_from_slice(prefix);
    message.extend_from_slice(hash.as_bytes());
    message
}
