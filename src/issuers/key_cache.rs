//! [`KeyCache`]: the fetched keys of one issuer.
//!
//! - A request that has its key never waits for a fetch. Keys that are due for renewal are fetched behind the answer.
//! - All requests share one fetch. It runs in a task of its own, so a client that disconnects doesn't end it.
//! - An unknown `kid` causes a fetch, because issuers rotate their keys. If the issuer doesn't have it either, no unknown `kid`
//!   causes another fetch for [`UNKNOWN_KID_COOLDOWN`], however many such tokens arrive.
//! - While the issuer can't be reached, its kept keys are used until they are [`MAX_KEY_AGE`] old.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::fetch::{FetchError, FetchKeys, FetchedKeys};
use super::key_set::KeySet;
use super::refusal::VerifyError;
use crate::clock::Clock;
use crate::config::Name;
use crate::metrics::Metrics;

/// How old keys may become. They are renewed after an hour at most, so an outage of an hour is survived at least.
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

/// All times are monotonic.
#[derive(Default)]
struct State {
    kept: Option<KeptKeys>,
    /// The fetch that is running.
    fetching: Option<FetchReason>,
    /// The number of fetches that have ended.
    ended: u64,
    /// Until when no fetch starts, because the last one failed.
    retry_at: Option<Duration>,
    /// Until when no unknown `kid` causes a fetch.
    cooldown_until: Duration,
}

struct KeptKeys {
    keys: Arc<KeySet>,
    version: KeyVersion,
    fetched_at: Duration,
    renew_at: Duration,
}

/// A version of an issuer's keys. Each fetch makes another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyVersion(pub(super) u64);

/// Why keys are fetched.
enum FetchReason {
    /// They are missing, too old, or due for renewal.
    Due,
    /// A token names a key that isn't among them.
    UnknownKid(String),
}

/// The next step of a request.
enum NextStep {
    Use(Arc<KeySet>),
    /// Start a fetch, unless one is running, and wait for its end.
    Fetch(FetchReason),
}

impl State {
    /// The keys, unless they are too old.
    fn usable(&self, now: Duration) -> Option<&KeptKeys> {
        self.kept.as_ref().filter(|kept| now.saturating_sub(kept.fetched_at) < MAX_KEY_AGE)
    }

    /// How long no fetch may start because the last one failed. `None` if one may.
    fn retry_after(&self, now: Duration) -> Option<Duration> {
        self.retry_at?.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    fn is_fetch_due(&self, now: Duration) -> bool {
        self.retry_after(now).is_none() && self.usable(now).is_none_or(|kept| now >= kept.renew_at)
    }

    fn next_step(&self, kid: Option<&str>, now: Duration) -> Result<NextStep, VerifyError> {
        let kept = self.usable(now);
        let has_key = |kept: &&KeptKeys| kid.is_none_or(|kid| kept.keys.has_kid(kid));
        if let Some(kept) = kept.filter(has_key) {
            return Ok(NextStep::Use(kept.keys.clone()));
        }
        if let Some(retry_after) = self.retry_after(now) {
            return Err(VerifyError::KeysUnavailable { retry_after });
        }
        Ok(match (kept, kid) {
            (Some(kept), Some(_)) if now < self.cooldown_until => NextStep::Use(kept.keys.clone()),
            (Some(_), Some(kid)) => NextStep::Fetch(FetchReason::UnknownKid(kid.to_owned())),
            _ => NextStep::Fetch(FetchReason::Due),
        })
    }
}

impl<F: FetchKeys> KeyCache<F> {
    pub(super) fn new(issuer: Name, fetcher: F, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { issuer, fetcher, state: watch::Sender::new(State::default()), clock, metrics })
    }

    pub(super) const fn fetcher(&self) -> &F {
        &self.fetcher
    }

    /// Returns the keys for a token with this `kid`. Waits for a fetch only if there are no keys, or if none of them has this
    /// `kid`.
    ///
    /// # Errors
    /// There are no keys, or none with this `kid`, and the issuer can't be asked.
    pub(super) async fn keys_for(self: &Arc<Self>, kid: Option<&str>) -> Result<Arc<KeySet>, VerifyError> {
        self.fetch_if_due();
        let mut receiver = self.state.subscribe();
        loop {
            let (step, ended) = {
                let state = receiver.borrow_and_update();
                (state.next_step(kid, self.clock.monotonic())?, state.ended)
            };
            let reason = match step {
                NextStep::Use(keys) => return Ok(keys),
                NextStep::Fetch(reason) => reason,
            };
            self.start_fetch(reason);
            // The sender lives as long as `self`. If the keys lack this `kid` because the fetch was running before for another
            // reason, the next round starts one for it.
            let _ = receiver.wait_for(|state| state.ended > ended).await;
        }
    }

    /// Starts a fetch if the keys are missing, too old, or due for renewal.
    pub(super) fn fetch_if_due(self: &Arc<Self>) {
        let is_due = self.state.borrow().is_fetch_due(self.clock.monotonic());
        if is_due {
            self.start_fetch(FetchReason::Due);
        }
    }

    /// Starts a fetch, unless one is running.
    fn start_fetch(self: &Arc<Self>, reason: FetchReason) {
        let mut starts = false;
        self.state.send_if_modified(|state| {
            starts = state.fetching.is_none();
            state.fetching.get_or_insert(reason);
            // Nobody waits for the start of a fetch.
            false
        });
        if starts {
            tokio::spawn(RunningFetch { cache: self.clone(), outcome: None }.run());
        }
    }

    fn end_fetch(&self, outcome: Option<Result<FetchedKeys, FetchError>>) {
        let now = self.clock.monotonic();
        let label = if matches!(outcome, Some(Ok(_))) { "success" } else { "failure" };
        self.metrics.issuer_fetches.with_label_values(&[self.issuer.as_str(), label]).inc();
        self.state.send_modify(|state| {
            let had_failed = state.retry_at.is_some();
            let reason = state.fetching.take();
            state.ended += 1;
            if let Some(Ok(FetchedKeys { keys, lifetime })) = outcome {
                if let Some(FetchReason::UnknownKid(kid)) = reason
                    && !keys.has_kid(&kid)
                {
                    state.cooldown_until = now + UNKNOWN_KID_COOLDOWN;
                }
                let (keys, version) = (Arc::new(keys), KeyVersion(state.ended));
                state.kept = Some(KeptKeys { keys, version, fetched_at: now, renew_at: now + lifetime });
                state.retry_at = None;
                if had_failed {
                    tracing::info!(issuer = %self.issuer, "the keys of an issuer can be fetched again");
                }
                return;
            }
            state.retry_at = Some(now + RETRY_INTERVAL);
            // One line for a series of failures. A panic has a line of its own.
            if let Some(Err(error)) = outcome.filter(|_| !had_failed) {
                tracing::warn!(
                    issuer = %self.issuer,
                    %error,
                    has_keys = state.usable(now).is_some(),
                    "the keys of an issuer can't be fetched; keys that were fetched before are used for two hours after their fetch"
                );
            }
        });
    }

    /// The version of the keys; `None` if there are none, or if they are too old.
    pub(super) fn version(&self) -> Option<KeyVersion> {
        self.state.borrow().usable(self.clock.monotonic()).map(|kept| kept.version)
    }

    /// Whether one of the keys has this `kid`.
    pub(super) fn has_kid(&self, kid: &str) -> bool {
        self.state.borrow().usable(self.clock.monotonic()).is_some_and(|kept| kept.keys.has_kid(kid))
    }

    pub(super) fn record_age(&self) {
        if let Some(kept) = &self.state.borrow().kept {
            let age = self.clock.monotonic().saturating_sub(kept.fetched_at);
            self.metrics.issuer_keys_age.with_label_values(&[self.issuer.as_str()]).set(age.as_secs_f64());
        }
    }
}

/// A fetch that is running. When it is dropped, the fetch has ended, even by a panic.
struct RunningFetch<F: FetchKeys> {
    cache: Arc<KeyCache<F>>,
    outcome: Option<Result<FetchedKeys, FetchError>>,
}

impl<F: FetchKeys> RunningFetch<F> {
    async fn run(mut self) {
        self.outcome = Some(self.cache.fetcher.fetch().await);
    }
}

impl<F: FetchKeys> Drop for RunningFetch<F> {
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
    use crate::clock::{ManualClock, UnixTime};

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
            let keys = KeySet::parse(jwks.to_string().as_bytes(), &[Algorithm::EdDSA])?;
            Ok(FetchedKeys { keys, lifetime: Duration::from_mins(10) })
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// The issuer publishes these keys.
        Publish(BTreeSet<u8>),
        GoDown,
        Wait(u64),
        /// As many requests at once, with a token of this key.
        Request {
            kid: u8,
            at_once: usize,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => prop::collection::btree_set(0..6_u8, 1..4).prop_map(Step::Publish),
            1 => Just(Step::GoDown),
            3 => prop_oneof![Just(1), Just(6), Just(300), Just(3_500), Just(7_300)].prop_map(Step::Wait),
            6 => (0..6_u8, 1..4_usize).prop_map(|(kid, at_once)| Step::Request { kid, at_once }),
        ];
        prop::collection::vec(step, 1..40)
    }

    /// What the model knows, by the rules of the module's head.
    struct Model {
        /// The keys of the last successful fetch, and its time.
        kept: Option<(BTreeSet<u8>, u64)>,
        /// The time of the last fetch, if it failed.
        failed_at: Option<u64>,
        cooldown_until: u64,
    }

    impl Model {
        fn fetch(&mut self, published: Option<&BTreeSet<u8>>, now: u64) {
            match published {
                Some(published) => (self.kept, self.failed_at) = (Some((published.clone(), now)), None),
                None => self.failed_at = Some(now),
            }
        }

        /// A request's result: whether the keys that it gets have its kid. `None` is a 503.
        fn request(&mut self, kid: u8, published: Option<&BTreeSet<u8>>, now: u64) -> Option<bool> {
            let may_fetch = |model: &Self| model.failed_at.is_none_or(|failed_at| now >= failed_at + 2);
            let usable = |model: &Self| model.kept.clone().filter(|(_, fetched_at)| now - fetched_at < 7_200);
            let is_due = usable(self).is_none_or(|(_, fetched_at)| now >= fetched_at + 600);
            let has_kid = usable(self).is_some_and(|(kids, _)| kids.contains(&kid));
            if is_due && may_fetch(self) {
                self.fetch(published, now);
            }
            if has_kid {
                return Some(true);
            }
            let kept = usable(self);
            if kept.as_ref().is_some_and(|(kids, _)| kids.contains(&kid)) {
                return Some(true);
            }
            if !may_fetch(self) {
                return None;
            }
            if now >= self.cooldown_until {
                self.fetch(published, now);
                let has_kid = usable(self).is_some_and(|(kids, _)| kids.contains(&kid));
                if self.failed_at.is_none() && !has_kid {
                    self.cooldown_until = now + 5;
                }
                return if self.failed_at.is_some() { None } else { Some(has_kid) };
            }
            Some(false)
        }
    }

    async fn follow(steps: Vec<Step>) {
        let issuer = Arc::new(FakeIssuer::default());
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(0)));
        let name = Name::parse("corp").expect("a name");
        let cache = KeyCache::new(name, issuer.clone(), clock.clone(), Arc::new(Metrics::new()));
        let mut model = Model { kept: None, failed_at: None, cooldown_until: 0 };
        for step in steps {
            match step {
                Step::Publish(kids) => *issuer.published.lock().expect("not poisoned") = Some(kids),
                Step::GoDown => *issuer.published.lock().expect("not poisoned") = None,
                Step::Wait(seconds) => clock.advance(Duration::from_secs(seconds)),
                Step::Request { kid, at_once } => {
                    let published = issuer.published.lock().expect("not poisoned").clone();
                    let expected = model.request(kid, published.as_ref(), clock.monotonic().as_secs());
                    let kid = format!("{kid}");
                    let fetches = issuer.fetches.load(Ordering::Relaxed);
                    let requests = (0..at_once).map(|_| cache.keys_for(Some(&kid)));
                    for got in futures_util::future::join_all(requests).await {
                        assert_eq!(got.ok().map(|keys| keys.has_kid(&kid)), expected, "kid {kid}");
                    }
                    // A renewal behind the answer ends before the next step.
                    while cache.state.borrow().fetching.is_some() {
                        tokio::task::yield_now().await;
                    }
                    // One that was due, and one for the kid.
                    assert!(issuer.fetches.load(Ordering::Relaxed) - fetches <= 2);
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
}
