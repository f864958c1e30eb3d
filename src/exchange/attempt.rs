//! One exchange from its turn to its end: whose turn it is, whether it may be tried, what it costs, and what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Taken;
use super::circuit::Admission;
use super::exchanger::{Inner, Outcome, interrupted};
use super::job::{CacheKey, Job, Life, Obtained};
use super::meaning::Class;
use super::shared::Turn;
use super::upstream::{self, Fault, Reply};
use super::{AccessToken, ExchangeError, Moment, Served};
use crate::clock::UnixTime;
use crate::config::KeyId;
use crate::traces::{Fact, Trace};

/// The word for metrics, logs and spans.
fn outcome<T>(exchanged: &Result<T, ExchangeError>) -> &'static str {
    exchanged.as_ref().err().map_or("success", ExchangeError::outcome)
}

impl Inner {
    /// Another replica's token, or one of our own.
    pub(super) async fn obtain(self: &Arc<Self>, key: &CacheKey, job: &Job, trace: &Trace) -> Outcome {
        let Some(shared) = &self.shared else { return self.exchange(key, job, trace).await };
        let lock = match shared.turn(key, job, self.live(key).as_deref()).await {
            Turn::Theirs(token) => {
                let token = Arc::new(token);
                self.keep(key, &token);
                // Somebody may have rejected it just now.
                if shared.was_dropped(&token.secret) {
                    self.tokens.invalidate(key);
                }
                return Ok(Served { token, cached: true });
            }
            Turn::Ours(lock) => lock,
        };
        let exchanged = self.exchange(key, job, trace).await;
        match &exchanged {
            Ok(Served { token, .. }) if !self.is_withdrawn(token) => shared.keep(key, token, lock).await,
            _ => shared.give_up(key, lock).await,
        }
        exchanged
    }

    async fn exchange(self: &Arc<Self>, key: &CacheKey, job: &Job, trace: &Trace) -> Outcome {
        let start = Instant::now();
        let exchanged = self.attempt(job, trace).await;
        let profile = job.profile().to_string();
        let (outcome, trace_id) = (outcome(&exchanged), trace.trace_id());
        self.metrics.exchanges.with_label_values(&[&profile, outcome]).inc();
        self.metrics.exchange_duration.with_label_values(&[&profile]).observe(start.elapsed().as_secs_f64());
        match exchanged {
            Ok(token) => {
                let token = Arc::new(token);
                let expires_at = token.expires_at.seconds();
                tracing::info!(target: "tokenmint::audit", trace_id, profile, outcome, expires_at, "exchanged");
                self.keep(key, &token);
                Ok(Served { token, cached: false })
            }
            Err(error) => {
                tracing::warn!(target: "tokenmint::audit", trace_id, profile, outcome, %error, "exchange failed");
                Err(self.remember(key, error))
            }
        }
    }

    fn keep(&self, key: &CacheKey, token: &Arc<AccessToken>) {
        self.failures.invalidate(key);
        if !self.is_withdrawn(token) {
            self.tokens.insert(*key, token.clone());
        }
    }

    /// Whether the key that it was got with has been taken away.
    fn is_withdrawn(&self, token: &AccessToken) -> bool {
        self.withdrawn.load().contains(&token.kid)
    }

    async fn attempt(self: &Arc<Self>, job: &Job, trace: &Trace) -> Result<AccessToken, ExchangeError> {
        self.admit(job)?;
        self.spend(job).await?;
        let now = self.clock.now();
        let kid = job.signing_kid(now)?.clone();
        let signing = trace.step("sign");
        let request = job.request(&self.client, now, &*self.randomness, &self.signer).await?;
        drop(signing);
        let span = trace.request_to(job.address(), &*self.randomness);
        let reply = upstream::send(request.headers(span.headers())).await;
        let read = match &reply {
            Ok(reply) => {
                self.watch_clock(now, reply);
                job.read(reply).and_then(|obtained| self.dated(job, obtained, kid))
            }
            Err(fault) => Err(ExchangeError::from(fault.clone())),
        };
        let status = reply.as_ref().map_or_else(Fault::status, |reply| Some(reply.status));
        let facts = status
            .map(Fact::Reply)
            .into_iter()
            .chain([Fact::Profile(job.profile()), Fact::Outcome(outcome(&read))]);
        facts.for_each(|fact| span.trace().note(fact));
        drop(span);
        match &read {
            Err(ExchangeError::Unavailable { .. } | ExchangeError::Timeout { .. }) => self.failed(job),
            Err(ExchangeError::Rejected { meaning, .. }) if meaning.class == Class::Transient => {
                self.failed(job);
            }
            _ => self.circuits.answered(&job.origin()),
        }
        read
    }

    fn failed(&self, job: &Job) {
        self.circuits.failed(&job.origin(), self.clock.steady());
    }

    /// Asks the circuit of the host; finds out behind the answer whether a host in trouble is back.
    fn admit(self: &Arc<Self>, job: &Job) -> Result<(), ExchangeError> {
        match self.circuits.admit(&job.origin(), self.clock.steady()) {
            Admission::Go => Ok(()),
            Admission::Wait { retry_after, probe } => {
                if probe {
                    let (inner, address) = (self.clone(), job.address().clone());
                    tokio::spawn(async move {
                        if upstream::is_back(&inner.client, &address).await {
                            let origin = address.url().origin().ascii_serialization();
                            inner.circuits.is_back(&origin, inner.clock.steady());
                        }
                    });
                }
                let reason = format!("{} fails again and again; it is left alone for a moment", job.origin());
                Err(ExchangeError::Unavailable { reason, retry_after: Some(retry_after) })
            }
        }
    }

    /// Counts one more request against Salesforce's limits: those of this host and those of all replicas, where they
    /// share a cache. The stricter counts.
    async fn spend(self: &Arc<Self>, job: &Job) -> Result<(), ExchangeError> {
        let (who, allowance) = job.allowance();
        let (inner, now, of_host) = (self.clone(), self.clock.now(), who.clone());
        let taken = tokio::task::spawn_blocking(move || inner.budget.take(&of_host, allowance, now));
        let mut taken = taken.await.map_err(|_| interrupted())?;
        if let (Taken::Within { used }, Some(shared)) = (taken, &self.shared) {
            taken = match shared.spend(&who, allowance).await {
                Some(Taken::Within { used: by_all }) => Taken::Within { used: used.max(by_all) },
                Some(exhausted) => exhausted,
                None => taken,
            };
        }
        let used = self.metrics.login_budget_used.with_label_values(&[&job.profile().to_string()]);
        match taken {
            Taken::Within { used: share } => {
                used.set(share);
                Ok(())
            }
            Taken::Exhausted { retry_after } => {
                used.set(1.0);
                let reason = format!(
                    "tokenmint's own budget of requests for {} is used up, so that Salesforce doesn't lock it out; find \
                     who asks so often",
                    job.profile()
                );
                Err(ExchangeError::Unavailable { reason, retry_after: Some(retry_after) })
            }
        }
    }

    /// Salesforce's clock is looked at, never followed.
    fn watch_clock(&self, now: UnixTime, reply: &Reply) {
        if let Some(theirs) = reply.date {
            #[expect(clippy::cast_precision_loss, reason = "a skew is small")]
            self.metrics.clock_skew.set((now.seconds() - theirs) as f64);
        }
    }

    /// Gives a token its end.
    fn dated(&self, job: &Job, obtained: Obtained, kid: KeyId) -> Result<AccessToken, ExchangeError> {
        let moment = Moment::new(&*self.clock, &*self.randomness);
        let life = match obtained.life {
            Life::For(life) => life,
            Life::Until(end) => {
                Duration::from_secs(u64::try_from(moment.now.seconds_until(end)).unwrap_or(0))
            }
            Life::Unsaid => job.assumed_life(),
        };
        if life.is_zero() {
            let reason =
                "Salesforce answered with a token that has expired already; compare the clocks".to_owned();
            return Err(ExchangeError::Unavailable { reason, retry_after: None });
        }
        Ok(AccessToken::new(obtained, kid, moment.now, life, &moment))
    }
}
