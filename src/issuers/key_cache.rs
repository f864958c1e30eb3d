//! [`KeyCache`], a JWKS cache: the fetched keys of one issuer.
//!
//! - All requests share one fetch (request coalescing). It runs in a task of its own, so a client that disconnects doesn't end it.
//! - Stale while revalidate: a request whose key is cached never waits. Keys that are due for renewal are fetched in the background.
//! - An unknown `kid` causes a fetch, because issuers rotate their keys. If the issuer doesn't have it either, no unknown `kid`
//!   causes another fetch for [`UNKNOWN_KID_COOLDOWN`], however many such tokens arrive.
//! - While the issuer can't be reached, cached keys are used until they are [`MAX_KEY_AGE`] old.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::fetch::{FetchError, FetchKeys, FetchedKeys};
use super::key_set::KeySet;
use super::refusal::VerifyError;
use crate::clock::{Clock, UnixTime};
use crate::config::Name;
use crate::metrics::Metrics;

/// The largest age of cached keys. They are renewed after an hour at most, so the service survives an outage of an hour at least.
const MAX_KEY_AGE: Duration = Duration::from_hours(2);
/// How long no unknown `kid` causes a fetch after one that the issuer didn't have.
const UNKNOWN_KID_COOLDOWN: Duration = Duration::from_secs(5);
/// The shortest time between a failed fetch and the next one.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The keys of one issuer, and the state of their fetch.
pub(super) struct KeyCache<F> {
    issuer: Name,
    fetcher: F,
    state: watch::Sender<State>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// The version of an issuer's keys. A fetch that brings other keys makes another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyVersion(pub(super) u64);

/// The cached keys, with their version.
#[derive(Clone)]
pub(super) struct VersionedKeys {
    pub(super) keys: Arc<KeySet>,
    pub(super) version: KeyVersion,
}

/// A moment by both clocks. The monotonic one may stand still while the host is suspended, and the wall clock may jump.
#[derive(Clone, Copy)]
struct Moment {
    monotonic: Duration,
    wall: UnixTime,
}

impl Moment {
    fn of(clock: &dyn Clock) -> Self {
        Self { monotonic: clock.monotonic(), wall: clock.now() }
    }

    /// The time since `earlier`, by the clock that says more.
    fn since(self, earlier: Self) -> Duration {
        let wall = u64::try_from(earlier.wall.seconds_until(self.wall)).unwrap_or(0);
        self.monotonic.saturating_sub(earlier.monotonic).max(Duration::from_secs(wall))
    }
}

/// The times here are monotonic, except in `cached`.
#[derive(Clone, Default)]
struct State {
    cached: Option<CachedKeys>,
    running: Option<RunningFetch>,
    /// The number of fetches that have ended.
    completed: u64,
    /// When the next fetch may start, if the last one failed.
    retry_at: Option<Duration>,
    /// Until when no unknown `kid` causes a fetch.
    cooldown_until: Duration,
    /// The last failure that was logged, and whether there were cached keys. `None` after a success.
    reported: Option<(String, bool)>,
}

#[derive(Clone)]
struct CachedKeys {
    keys: VersionedKeys,
    /// The SHA-256 of the JWKS.
    digest: [u8; 32],
    fetched_at: Moment,
    /// The age at which they are due for renewal.
    lifetime: Duration,
}

/// A fetch that is running.
#[derive(Clone)]
struct RunningFetch {
    /// The key that a token names, if the fetch was started for it.
    wanted_kid: Option<String>,
}

/// The next step of a request.
enum NextStep {
    Use(VersionedKeys),
    /// Use the keys, and start a fetch in the background.
    UseAndRenew(VersionedKeys),
    /// Start a fetch, unless one is running, and wait for its end.
    Fetch,
    /// The keys don't have the `kid`, and the cooldown lasts so long.
    CoolDown(VersionedKeys, Duration),
}

impl State {
    /// The cached keys, unless they are too old.
    fn usable(&self, now: Moment) -> Option<&CachedKeys> {
        self.cached.as_ref().filter(|cached| now.since(cached.fetched_at) < MAX_KEY_AGE)
    }

    /// How long no fetch may start because the last one failed. `None` if one may.
    fn retry_after(&self, now: Moment) -> Option<Duration> {
        self.retry_at?.checked_sub(now.monotonic).filter(|wait| !wait.is_zero())
    }

    fn is_fetch_due(&self, now: Moment) -> bool {
        let is_due = |cached: &CachedKeys| now.since(cached.fetched_at) >= cached.lifetime;
        self.retry_after(now).is_none() && self.usable(now).is_none_or(is_due)
    }

    /// Decides for a token with this `kid`.
    ///
    /// # Errors
    /// There are no keys, or none with this `kid`, and the last fetch has just failed.
    fn next_step(&self, kid: Option<&str>, now: Moment) -> Result<NextStep, VerifyError> {
        let cached = self.usable(now);
        let is_due = self.is_fetch_due(now);
        if let Some(cached) = cached.filter(|cached| kid.is_none_or(|kid| cached.keys.keys.has_kid(kid))) {
            let keys = cached.keys.clone();
            return Ok(if is_due { NextStep::UseAndRenew(keys) } else { NextStep::Use(keys) });
        }
        if let Some(retry_after) = self.retry_after(now) {
            return Err(VerifyError::KeysUnavailable { retry_after });
        }
        let cooldown = self.cooldown_until.saturating_sub(now.monotonic);
        Ok(match cached {
            Some(cached) if !is_due && !cooldown.is_zero() => {
                NextStep::CoolDown(cached.keys.clone(), cooldown)
            }
            _ => NextStep::Fetch,
        })
    }
}

impl<F: FetchKeys> KeyCache<F> {
    pub(super) fn new(issuer: Name, fetcher: F, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { issuer, fetcher, state: watch::Sender::new(State::default()), clock, metrics })
    }

    /// Makes a cache for another fetcher of the same keys, for example with other certificate authorities. It has the keys of
    /// `previous`, which are due for renewal.
    pub(super) fn with_fetcher(previous: &Self, fetcher: F) -> Arc<Self> {
        let mut state = State { running: None, retry_at: None, ..previous.state.borrow().clone() };
        if let Some(cached) = &mut state.cached {
            cached.lifetime = Duration::ZERO;
        }
        let (clock, metrics) = (previous.clock.clone(), previous.metrics.clone());
        Arc::new(Self {
            issuer: previous.issuer.clone(),
            fetcher,
            state: watch::Sender::new(state),
            clock,
            metrics,
        })
    }

    fn now(&self) -> Moment {
        Moment::of(&*self.clock)
    }

    pub(super) const fn fetcher(&self) -> &F {
        &self.fetcher
    }

    /// Returns the keys for a token with this `kid`. Waits for a fetch only if there are no keys, or if none of them has this
    /// `kid`. Then the keys may lack it.
    ///
    /// # Errors
    /// There are no keys, or none with this `kid`, and the issuer can't be asked.
    pub(super) async fn keys_for(self: &Arc<Self>, kid: Option<&str>) -> Result<VersionedKeys, VerifyError> {
        let mut receiver = self.state.subscribe();
        let mut has_waited = false;
        // Set while the only fetch that this request waited for began before it, for another key. The issuer may have published the
        // key after that fetch, so it must not be refused.
        let mut is_outdated = false;
        loop {
            let (step, completed, is_joining) = {
                let state = receiver.borrow_and_update();
                let is_of_another = |running: &RunningFetch| running.wanted_kid.as_deref() != kid;
                let step = state.next_step(kid, self.now())?;
                (step, state.completed, state.running.as_ref().is_some_and(is_of_another))
            };
            match step {
                NextStep::UseAndRenew(keys) => {
                    self.start_fetch(None, completed);
                    return Ok(keys);
                }
                NextStep::CoolDown(_, retry_after) if is_outdated => {
                    return Err(VerifyError::KeysUnavailable { retry_after });
                }
                NextStep::Use(keys) | NextStep::CoolDown(keys, _) => return Ok(keys),
                NextStep::Fetch => {
                    is_outdated = is_joining && !has_waited;
                    has_waited = true;
                    self.start_fetch(kid, completed);
                    // The sender lives as long as `self`.
                    let _ = receiver.wait_for(|state| state.completed > completed).await;
                }
            }
        }
    }

    /// Starts a fetch if the keys are missing, too old, or due for renewal.
    pub(super) fn fetch_if_due(self: &Arc<Self>) {
        let due = {
            let state = self.state.borrow();
            state.is_fetch_due(self.now()).then_some(state.completed)
        };
        if let Some(completed) = due {
            self.start_fetch(None, completed);
        }
    }

    /// Starts a fetch, unless one is running, or has ended since `completed` was read.
    fn start_fetch(self: &Arc<Self>, wanted_kid: Option<&str>, completed: u64) {
        let mut starts = false;
        self.state.send_if_modified(|state| {
            starts = state.running.is_none() && state.completed == completed;
            if starts {
                state.running = Some(RunningFetch { wanted_kid: wanted_kid.map(str::to_owned) });
            }
            // Nobody waits for the start of a fetch.
            false
        });
        if starts {
            tokio::spawn(FetchTask { cache: self.clone(), outcome: None }.run());
        }
    }

    /// Ends the running fetch. `outcome` is `None` if it panicked.
    fn end_fetch(&self, outcome: Option<Result<FetchedKeys, FetchError>>) {
        let now = self.now();
        let label = if matches!(outcome, Some(Ok(_))) { "success" } else { "failure" };
        self.metrics.issuer_fetches.with_label_values(&[self.issuer.as_str(), label]).inc();
        // Logged after the state is unlocked.
        let mut failure = None;
        let mut has_recovered = false;
        self.state.send_modify(|state| {
            let wanted_kid = state.running.take().and_then(|running| running.wanted_kid);
            state.completed += 1;
            match outcome {
                Some(Ok(fetched)) => {
                    if wanted_kid.is_some_and(|kid| !fetched.keys.has_kid(&kid)) {
                        state.cooldown_until = now.monotonic + UNKNOWN_KID_COOLDOWN;
                    }
                    state.store(fetched, now);
                    has_recovered = state.reported.take().is_some();
                }
                Some(Err(error)) => {
                    state.retry_at = Some(now.monotonic + RETRY_INTERVAL);
                    let report = (error.to_string(), state.usable(now).is_some());
                    if state.reported.as_ref() != Some(&report) {
                        state.reported = Some(report.clone());
                        failure = Some(report);
                    }
                }
                // The panic has a log line of its own.
                None => state.retry_at = Some(now.monotonic + RETRY_INTERVAL),
            }
        });
        if let Some((error, has_keys)) = failure {
            tracing::warn!(
                issuer = %self.issuer,
                error,
                has_keys,
                "the keys of an issuer can't be fetched; keys that were fetched before are used for two hours after their fetch"
            );
        }
        if has_recovered {
            tracing::info!(issuer = %self.issuer, "the keys of an issuer can be fetched again");
        }
    }

    /// The version of the keys; `None` if there are none, or if they are too old.
    pub(super) fn version(&self) -> Option<KeyVersion> {
        self.state.borrow().usable(self.now()).map(|cached| cached.keys.version)
    }

    /// Whether one of the keys has this `kid`.
    pub(super) fn has_kid(&self, kid: &str) -> bool {
        self.state.borrow().usable(self.now()).is_some_and(|cached| cached.keys.keys.has_kid(kid))
    }

    /// Exports the age of the keys. Without keys there is no series.
    pub(super) fn record_age(&self) {
        let labels = [self.issuer.as_str()];
        match &self.state.borrow().cached {
            Some(cached) => {
                let age = self.now().since(cached.fetched_at);
                self.metrics.issuer_keys_age.with_label_values(&labels).set(age.as_secs_f64());
            }
            // An error means that the series doesn't exist.
            None => _ = self.metrics.issuer_keys_age.remove_label_values(&labels),
        }
    }
}

impl State {
    fn store(&mut self, fetched: FetchedKeys, now: Moment) {
        let FetchedKeys { keys, digest, lifetime } = fetched;
        let unchanged = self.cached.take().filter(|cached| cached.digest == digest);
        let keys = unchanged.map_or_else(
            || VersionedKeys { keys: Arc::new(keys), version: KeyVersion(self.completed) },
            |cached| cached.keys,
        );
        self.cached = Some(CachedKeys { keys, digest, fetched_at: now, lifetime });
        self.retry_at = None;
    }
}

/// The task of a fetch. When it is dropped, the fetch has ended, even by a panic.
struct FetchTask<F: FetchKeys> {
    cache: Arc<KeyCache<F>>,
    outcome: Option<Result<FetchedKeys, FetchError>>,
}

impl<F: FetchKeys> FetchTask<F> {
    async fn run(mut self) {
        self.outcome = Some(self.cache.fetcher.fetch().await);
    }
}

impl<F: FetchKeys> Drop for FetchTask<F> {
    fn drop(&mut self) {
        self.cache.end_fetch(self.outcome.take());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use jsonwebtoken::Algorithm;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::ManualClock;
    use crate::hash::sha256;

    /// A fake issuer: the kids that it publishes, or `None` while it is down.
    #[derive(Default)]
    struct FakeIssuer {
        published: Mutex<Option<BTreeSet<u8>>>,
        fetches: AtomicU32,
    }

    impl FetchKeys for Arc<FakeIssuer> {
        async fn fetch(&self) -> Result<FetchedKeys, FetchError> {
            self.fetches.fetch_add(1, Ordering::Relaxed);
            let published = self.published.lock().expect("not poisoned").clone();
            let kids = published.ok_or(FetchError::Timeout { what: "the JWKS" })?;
            let point = "A".repeat(43);
            let jwk = |kid| serde_json::json!({"kty": "OKP", "crv": "Ed25519", "kid": format!("{kid}"), "x": point});
            let jwks = serde_json::json!({"keys": kids.iter().map(jwk).collect::<Vec<_>>()});
            let text = jwks.to_string();
            let keys = KeySet::parse(text.as_bytes(), &[Algorithm::EdDSA])?;
            Ok(FetchedKeys { keys, digest: sha256(text.as_bytes()), lifetime: Duration::from_mins(10) })
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// The issuer publishes these keys.
        Publish(BTreeSet<u8>),
        GoDown,
        Wait(u64),
        /// Clients send `at_once` requests at the same time, with tokens of this key, or without `kid`.
        Request {
            kid: Option<u8>,
            at_once: usize,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let kid = prop_oneof![1 => Just(None), 6 => (0..6_u8).prop_map(Some)];
        let step = prop_oneof![
            2 => prop::collection::btree_set(0..6_u8, 1..4).prop_map(Step::Publish),
            1 => Just(Step::GoDown),
            3 => prop_oneof![Just(1), Just(6), Just(300), Just(3_500), Just(7_300)].prop_map(Step::Wait),
            6 => (kid, 1..4_usize).prop_map(|(kid, at_once)| Step::Request { kid, at_once }),
        ];
        prop::collection::vec(step, 1..40)
    }

    /// The rules of the module's head, for one request after another.
    #[derive(Default)]
    struct Model {
        /// The keys of the last successful fetch, and its time.
        cached: Option<(BTreeSet<u8>, u64)>,
        /// The time of the last fetch, if it failed.
        failed_at: Option<u64>,
        cooldown_until: u64,
        fetches: u32,
    }

    impl Model {
        fn fetch(&mut self, published: Option<&BTreeSet<u8>>, now: u64) {
            self.fetches += 1;
            match published {
                Some(published) => (self.cached, self.failed_at) = (Some((published.clone(), now)), None),
                None => self.failed_at = Some(now),
            }
        }

        fn has(&self, kid: Option<u8>, now: u64) -> Option<bool> {
            let (kids, _) = self.cached.as_ref().filter(|(_, fetched_at)| now - fetched_at < 7_200)?;
            Some(kid.is_none_or(|kid| kids.contains(&kid)))
        }

        /// Whether the keys that a request gets have its kid. `None` is a 503.
        fn request(&mut self, kid: Option<u8>, published: Option<&BTreeSet<u8>>, now: u64) -> Option<bool> {
            let may_fetch = self.failed_at.is_none_or(|failed_at| now >= failed_at + 2);
            let is_due = self.cached.as_ref().is_none_or(|(_, fetched_at)| now >= fetched_at + 600);
            if self.has(kid, now) == Some(true) {
                if is_due && may_fetch {
                    self.fetch(published, now);
                }
                return Some(true);
            }
            if !may_fetch {
                return None;
            }
            if !is_due && now < self.cooldown_until {
                return Some(false);
            }
            self.fetch(published, now);
            self.failed_at.is_none().then(|| {
                let has_kid = self.has(kid, now) == Some(true);
                if !has_kid {
                    self.cooldown_until = now + 5;
                }
                has_kid
            })
        }
    }

    async fn follow(steps: Vec<Step>) {
        let issuer = Arc::new(FakeIssuer::default());
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(0)));
        let name = Name::parse("corp").expect("a name");
        let cache = KeyCache::new(name, issuer.clone(), clock.clone(), Arc::new(Metrics::new()));
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Publish(kids) => *issuer.published.lock().expect("not poisoned") = Some(kids),
                Step::GoDown => *issuer.published.lock().expect("not poisoned") = None,
                Step::Wait(seconds) => clock.advance(Duration::from_secs(seconds)),
                Step::Request { kid, at_once } => {
                    let published = issuer.published.lock().expect("not poisoned").clone();
                    let expected = model.request(kid, published.as_ref(), clock.monotonic().as_secs());
                    let kid = kid.map(|kid| format!("{kid}"));
                    let requests = (0..at_once).map(|_| cache.keys_for(kid.as_deref()));
                    for got in futures_util::future::join_all(requests).await {
                        let has_kid =
                            got.ok().map(|got| kid.as_ref().is_none_or(|kid| got.keys.has_kid(kid)));
                        assert_eq!(has_kid, expected, "kid {kid:?}");
                    }
                    // A renewal in the background ends before the next step.
                    while cache.state.borrow().running.is_some() {
                        tokio::task::yield_now().await;
                    }
                    assert_eq!(issuer.fetches.load(Ordering::Relaxed), model.fetches);
                }
            }
        }
    }

    proptest! {
        /// Rotations, outages, unknown keys and the passing of time, in any order.
        #[test]
        fn requests_get_the_keys_that_the_rules_promise(steps in steps()) {
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(follow(steps));
        }
    }

    /// A fetch for a forged `kid` that began before a rotation proves nothing about the new key.
    #[tokio::test]
    async fn a_request_that_joins_a_fetch_for_another_key_is_not_refused_for_its_result() {
        let issuer = Arc::new(FakeIssuer::default());
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(0)));
        let name = Name::parse("corp").expect("a name");
        let cache = KeyCache::new(name, issuer.clone(), clock.clone(), Arc::new(Metrics::new()));
        *issuer.published.lock().expect("not poisoned") = Some(BTreeSet::from([1]));
        cache.keys_for(Some("1")).await.expect("keys");
        // Both requests begin before the fetch of the first one has run.
        let (forged, late) = tokio::join!(cache.keys_for(Some("9")), cache.keys_for(Some("2")));
        assert!(!forged.expect("the issuer was asked").keys.has_kid("9"));
        let late = late.err();
        assert_eq!(late, Some(VerifyError::KeysUnavailable { retry_after: UNKNOWN_KID_COOLDOWN }));
        *issuer.published.lock().expect("not poisoned") = Some(BTreeSet::from([1, 2]));
        clock.advance(UNKNOWN_KID_COOLDOWN);
        assert!(cache.keys_for(Some("2")).await.expect("keys").keys.has_kid("2"));
    }

    /// A suspended host's monotonic clock stands still.
    #[tokio::test]
    async fn keys_age_by_the_clock_that_says_more() {
        let issuer = Arc::new(FakeIssuer::default());
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(0)));
        let name = Name::parse("corp").expect("a name");
        let cache = KeyCache::new(name, issuer.clone(), clock.clone(), Arc::new(Metrics::new()));
        *issuer.published.lock().expect("not poisoned") = Some(BTreeSet::from([1]));
        cache.keys_for(Some("1")).await.expect("keys");
        *issuer.published.lock().expect("not poisoned") = None;
        clock.set(UnixTime::from_seconds(7_199));
        assert!(cache.keys_for(Some("1")).await.is_ok());
        clock.set(UnixTime::from_seconds(7_200));
        assert!(cache.keys_for(Some("1")).await.is_err());
        clock.set(UnixTime::from_seconds(-7_200));
        assert!(cache.keys_for(Some("1")).await.is_ok());
    }

    /// So remembered JWTs aren't verified again for nothing.
    #[tokio::test]
    async fn a_fetch_of_the_same_keys_keeps_their_version() {
        let issuer = Arc::new(FakeIssuer::default());
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(0)));
        let name = Name::parse("corp").expect("a name");
        let cache = KeyCache::new(name, issuer.clone(), clock.clone(), Arc::new(Metrics::new()));
        let mut versions = Vec::new();
        for (kids, requested) in [([1, 2], "1"), ([1, 2], "9"), ([1, 3], "3")] {
            *issuer.published.lock().expect("not poisoned") = Some(BTreeSet::from(kids));
            cache.keys_for(Some(requested)).await.expect("keys");
            versions.push(cache.version().expect("keys"));
            clock.advance(UNKNOWN_KID_COOLDOWN);
        }
        assert!(versions[0] == versions[1] && versions[1] != versions[2], "{versions:?}");
    }
}
