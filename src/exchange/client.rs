//! One exchange with Salesforce: circuit, signature, budget, request and answer, in this order. Nothing is spent before all is
//! ready to be sent, and what wasn't sent is given back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::circuit_breaker::{Admission, CircuitBreaker, Permit};
use super::error::{ExchangeError, WaitedFor};
use super::job::Job;
use super::login_budget::{LoginBudget, Spend, Taken};
use super::shared::SharedCache;
use super::token::{AccessToken, LONGEST_LIFE, Life, Obtained};
use super::tools::Tools;
use super::upstream::{Fault, LONGEST_EXCHANGE, Reply, Transport, WhichConnection};
use crate::clock::UnixTime;
use crate::config::KeyId;
use crate::tokens::MintError;
use crate::traces::{Fact, Trace};

/// How long an exchange waits for the budget's file.
const DISK_DEADLINE: Duration = Duration::from_secs(1);

/// Asks Salesforce for tokens, within what each host and each login can bear.
pub(super) struct ExchangeClient {
    pub transport: Box<dyn Transport>,
    pub circuits: CircuitBreaker,
    pub budget: Arc<LoginBudget>,
    /// Held while the budget's file is read and written, so that a disk that hangs has one thread and not all of them.
    pub disk: Arc<Semaphore>,
    /// Where other replicas count, too.
    pub shared: Option<Arc<SharedCache>>,
    pub tools: Tools,
}

/// An exchange is sent once more where the connection ended before the whole head of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Last,
}

impl ExchangeClient {
    /// Asks Salesforce; once more where the connection ended before the whole head of an answer, as an idle one does that
    /// is closed at the same moment.
    ///
    /// # Errors
    /// Salesforce's no, or why it wasn't asked or didn't answer.
    pub async fn exchange(self: &Arc<Self>, job: &Job, trace: &Trace) -> Result<AccessToken, ExchangeError> {
        let deadline = Instant::now() + LONGEST_EXCHANGE;
        let first = match self.attempt(job, deadline, trace, Attempt::First).await? {
            Err(fault @ Fault::Closed(_)) => unreachable(&fault),
            first => return first.map_err(|fault| unreachable(&fault)),
        };
        match self.attempt(job, deadline, trace, Attempt::Last).await {
            Ok(second) => second.map_err(|fault| unreachable(&fault)),
            // What keeps it from being sent again isn't why there is no token.
            Err(error) if !error.was_sent() => Err(first),
            Err(error) => Err(error),
        }
    }

    /// Signs first and spends last. What can't be sent is given back.
    async fn attempt(
        self: &Arc<Self>,
        job: &Job,
        deadline: Instant,
        trace: &Trace,
        attempt: Attempt,
    ) -> Result<Result<AccessToken, Fault>, ExchangeError> {
        let Tools { signer, clock, randomness, metrics } = &self.tools;
        let permit = self.admit(job)?;
        let now = clock.now();
        let kid = job.signing_kid(now)?.clone();
        let signing = trace.step("sign");
        let mut request = job.request(now, &**randomness, signer).await?;
        drop(signing);
        let spend = self.spend(job).await?;

        let start = Instant::now();
        let within = deadline.saturating_duration_since(start);
        if within.is_zero() {
            self.give_back(spend).await;
            return Err(ExchangeError::Interrupted);
        }
        let span = trace.request_to(job.address(), &**randomness);
        request.headers.extend(span.headers());
        if attempt == Attempt::Last {
            // Another that was kept may have ended as well.
            request.connection = WhichConnection::New;
        }
        let reply = self.transport.send(request, within).await;
        let took = start.elapsed();
        let status = reply.as_ref().map_or_else(Fault::status, |reply| Some(reply.status));
        let read = self.read(job, kid, reply);
        let (outcome, sent) = match &read {
            Ok(read) => (outcome(read), true),
            Err(fault) => ("unavailable", !matches!(fault, Fault::NotSent(_))),
        };
        let profile = job.profile();
        let facts = [Fact::Profile(profile), Fact::Outcome(outcome)];
        status.map(Fact::Reply).into_iter().chain(facts).for_each(|fact| span.trace().note(fact));
        drop(span);
        if sent {
            metrics.exchanges.with_label_values(&[profile.as_str(), outcome]).inc();
            metrics.exchange_duration.with_label_values(&[profile.as_str()]).observe(took.as_secs_f64());
        } else {
            self.give_back(spend).await;
        }
        match &read {
            Ok(Err(error)) if error.blames_host() => permit.failed(clock.monotonic()),
            Ok(_) => permit.answered(),
            // It is tried again.
            Err(Fault::Closed(_)) if attempt == Attempt::First => drop(permit),
            Err(_) => permit.failed(clock.monotonic()),
        }
        match read {
            Ok(read) => read.map(Ok),
            Err(fault) => Ok(Err(fault)),
        }
    }

    /// What came of a request: a token or Salesforce's no, or a fault where nobody answered.
    fn read(
        &self,
        job: &Job,
        kid: KeyId,
        reply: Result<Reply, Fault>,
    ) -> Result<Result<AccessToken, ExchangeError>, Fault> {
        match reply {
            Ok(reply) => {
                self.watch_clock(&reply);
                Ok(job.read(&reply).and_then(|obtained| self.dated(job, &reply, obtained, kid)))
            }
            Err(Fault::Timeout) => {
                Ok(Err(ExchangeError::Timeout { waited_for: WaitedFor::Salesforce, retry_after: None }))
            }
            Err(Fault::Unusable { status, what, retry_after }) => {
                Ok(Err(ExchangeError::Unusable { status, what, asked: job.asked(), retry_after }))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Asks the circuit of the host; finds out behind the answer whether a host in trouble is back.
    fn admit(self: &Arc<Self>, job: &Job) -> Result<Permit<'_>, ExchangeError> {
        match self.circuits.admit(&job.origin(), job.cache_key(), self.tools.clock.monotonic()) {
            Admission::Go(permit) => Ok(permit),
            Admission::Wait { retry_after, probe } => {
                if probe {
                    let (client, job) = (self.clone(), job.clone());
                    tokio::spawn(async move {
                        if client.transport.is_back(job.address()).await {
                            client.circuits.is_back(&job.origin(), client.tools.clock.monotonic());
                        }
                    });
                }
                Err(ExchangeError::LeftAlone { host: job.origin(), retry_after })
            }
        }
    }

    /// Counts one more request against Salesforce's limits: those of all replicas, where they share a cache, and those of
    /// this host. The stricter counts, and where one says no the other isn't charged.
    async fn spend(self: &Arc<Self>, job: &Job) -> Result<Spend, ExchangeError> {
        let (who, allowance) = job.allowance();
        let id = self.tools.unique().map_err(MintError::from)?;
        let spend = Spend { who, id, allowance };
        let used_up = |retry_after| {
            Err(ExchangeError::BudgetUsedUp { profile: job.profile().to_string(), retry_after })
        };
        let by_all = match &self.shared {
            Some(shared) => shared.spend(&spend).await,
            None => None,
        };
        if let Some(Taken::Exhausted { retry_after }) = by_all {
            self.budget.note_shared(&spend.who, 1.0, self.tools.clock.monotonic() + retry_after);
            return used_up(retry_after);
        }
        let (budget, here, clock) = (self.budget.clone(), spend.clone(), self.tools.clock.clone());
        let on_disk = async {
            let disk = self.disk.clone().acquire_owned().await;
            let taken = tokio::task::spawn_blocking(move || {
                let _disk = disk;
                budget.spend(&here, clock.now(), clock.monotonic())
            });
            taken.await
        };
        let here = timeout(DISK_DEADLINE, on_disk).await.unwrap_or_else(|_| {
            tracing::warn!("the disk of state_directory hangs: memory alone counts a login");
            Ok(self.budget.spend_in_memory(&spend, self.tools.clock.now(), self.tools.clock.monotonic()))
        });
        if let (Ok(Taken::Within { .. }), Some(Taken::Within { used })) = (&here, by_all) {
            self.budget.note_shared(&spend.who, used, self.tools.clock.monotonic() + allowance.window);
        }
        match here {
            Ok(Taken::Within { .. }) => Ok(spend),
            refused => {
                if let (Some(shared), Some(_)) = (&self.shared, by_all) {
                    shared.give_back(&spend).await;
                }
                match refused {
                    Ok(Taken::Exhausted { retry_after }) => used_up(retry_after),
                    _ => Err(ExchangeError::Interrupted),
                }
            }
        }
    }

    /// What wasn't sent counts nowhere.
    async fn give_back(&self, spend: Spend) {
        if let Some(shared) = &self.shared {
            shared.give_back(&spend).await;
        }
        let budget = self.budget.clone();
        let on_disk = async {
            let disk = self.disk.clone().acquire_owned().await;
            // Where that panics, the request counts on.
            let given = tokio::task::spawn_blocking(move || {
                let _disk = disk;
                budget.give_back(&spend);
            });
            let _ = given.await;
        };
        // On a disk that hangs it counts on.
        let _ = timeout(DISK_DEADLINE, on_disk).await;
    }

    /// Writes what the disk didn't take. Gives up on one that hangs.
    pub async fn flush_budget(&self) {
        let budget = self.budget.clone();
        let on_disk = async {
            let _disk = self.disk.acquire().await;
            let _ = tokio::task::spawn_blocking(move || budget.flush()).await;
        };
        let _ = timeout(DISK_DEADLINE, on_disk).await;
    }

    /// Salesforce's clock is looked at when its answer is there, and never followed.
    fn watch_clock(&self, reply: &Reply) {
        if let Some(theirs) = reply.date {
            #[expect(clippy::cast_precision_loss, reason = "a skew is small")]
            self.tools.metrics.clock_skew.set((self.tools.clock.now().seconds() - theirs) as f64);
        }
    }

    /// Gives a token its end.
    fn dated(
        &self,
        job: &Job,
        reply: &Reply,
        obtained: Obtained,
        kid: KeyId,
    ) -> Result<AccessToken, ExchangeError> {
        let moment = self.tools.moment();
        let until =
            |end: UnixTime| Duration::from_secs(u64::try_from(moment.now.seconds_until(end)).unwrap_or(0));
        let Life { until: end, lasts } = obtained.life;
        let life = end.map(until).into_iter().chain(lasts).min().unwrap_or_else(|| job.assumed_life());
        if life.is_zero() {
            let what = if lasts.is_some_and(|lasts| lasts.is_zero()) {
                "a token with an expires_in of nothing"
            } else {
                "a token that has expired already; compare this host's clock with Salesforce's (NTP)"
            };
            return Err(job.unusable(reply, what));
        }
        Ok(AccessToken::new(obtained, kid, moment.now, life.min(LONGEST_LIFE), &moment))
    }
}

/// The word for metrics, logs and spans.
pub(super) fn outcome<T>(exchanged: &Result<T, ExchangeError>) -> &'static str {
    exchanged.as_ref().err().map_or("success", ExchangeError::outcome)
}

const fn unreachable(fault: &Fault) -> ExchangeError {
    let sent = !matches!(fault, Fault::NotSent(_));
    match *fault {
        Fault::NotSent(reason) | Fault::Closed(reason) | Fault::Broken(reason) => {
            ExchangeError::Unreachable { reason, sent, retry_after: None }
        }
        // `read` has made errors of these.
        Fault::Timeout | Fault::Unusable { .. } => ExchangeError::Interrupted,
    }
}
