//! One exchange with Salesforce: checks the circuit breaker, signs, counts the request against the rate limits, sends it,
//! and reads the response. The request is counted just before it is sent (write-ahead), and refunded if it isn't sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::circuit_breaker::{CircuitBreaker, CircuitCheck, CircuitPermit};
use super::deps::ExchangerDeps;
use super::exchange_error::{ExchangeError, TimeoutCause};
use super::login_rate_limit::{CountedRequest, LoginRateLimit, QuotaCheck, RequestReason};
use super::request::TokenRequest;
use super::shared::SharedCache;
use super::token::{AccessToken, MAX_TOKEN_LIFETIME, ObtainedToken, ReportedExpiry};
use super::upstream::{
    Confidential, ConnectionChoice, MAX_EXCHANGE_TIME, Transport, UpstreamError, UpstreamResponse,
};
use crate::clock::UnixTime;
use crate::config::KeyId;
use crate::tokens::MintError;
use crate::traces::{SpanAttribute, Trace};

/// How long an exchange, a refund or the shutdown waits for the login rate limit's file.
const DISK_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends exchanges to Salesforce, subject to the circuit breaker and the rate limits.
pub(super) struct ExchangeClient {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) circuits: CircuitBreaker,
    pub(crate) login_limit: Arc<LoginRateLimit>,
    /// Has one permit, held during access to the rate limit's file: a hanging disk blocks one thread, or two at shutdown,
    /// instead of the whole blocking pool.
    pub(crate) disk_permit: Arc<Semaphore>,
    /// Counts requests across replicas, if configured.
    pub(crate) shared: Option<Arc<SharedCache>>,
    pub(crate) deps: ExchangerDeps,
}

/// An exchange is retried once if the connection closed before a complete response head arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Last,
}

impl ExchangeClient {
    /// Exchanges a signed JWT for an access token. Retries once if the connection closed before a complete response head
    /// arrived: Salesforce may close an idle connection at the moment it is reused.
    ///
    /// # Errors
    /// Salesforce refused, didn't answer, or couldn't be asked.
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        token_request: &TokenRequest,
        reason: RequestReason,
        trace: &Trace,
    ) -> Result<AccessToken, ExchangeError> {
        let deadline = Instant::now() + MAX_EXCHANGE_TIME;
        let first = match self.attempt(token_request, reason, deadline, trace, Attempt::First).await? {
            Err(error @ UpstreamError::Closed(_)) => to_exchange_error(&error),
            first => return first.map_err(|error| to_exchange_error(&error)),
        };
        let second = self.attempt(token_request, reason, deadline, trace, Attempt::Last).await;
        let second = second.and_then(|read| read.map_err(|error| to_exchange_error(&error)));
        // If the retry wasn't sent, the first failure is the cause, and the first request counts as sent.
        second.map_err(|error| if error.was_sent() { error } else { first })
    }

    /// Makes one attempt. The outer `Err` is final; the inner one is a transport error. The caller retries after
    /// [`UpstreamError::Closed`].
    async fn attempt(
        self: &Arc<Self>,
        token_request: &TokenRequest,
        reason: RequestReason,
        deadline: Instant,
        trace: &Trace,
        attempt: Attempt,
    ) -> Result<Result<AccessToken, UpstreamError>, ExchangeError> {
        let ExchangerDeps { signer, clock, randomness, metrics } = &self.deps;
        let permit = self.check_circuit(token_request)?;
        let now = clock.now();
        let kid = token_request.signing_kid(now)?.clone();
        let signing = trace.child_span("sign");
        let mut request = token_request.to_upstream_request(now, &**randomness, signer).await?;
        drop(signing);
        let counted = self.count_request(token_request, reason).await?;

        let start = Instant::now();
        let within = deadline.saturating_duration_since(start);
        if within.is_zero() {
            self.refund(counted).await;
            return Err(ExchangeError::Interrupted);
        }
        let span = trace.client_span(token_request.endpoint(), &**randomness);
        request.headers.extend(span.headers());
        if attempt == Attempt::Last {
            // Other pooled connections may be closed as well.
            request.connection = ConnectionChoice::New;
        }
        let confidential = request.confidential.clone();
        let response = self.transport.send(request, within).await;
        let took = start.elapsed();
        let status = response.as_ref().map_or_else(UpstreamError::status, |response| Some(response.status));
        let read = self.interpret(token_request, kid, &confidential, response);
        let (outcome, sent) = match &read {
            Ok(read) => (outcome_label(read), true),
            Err(error) => ("unavailable", !matches!(error, UpstreamError::NotSent(_))),
        };
        let profile = token_request.profile();
        let attributes = [SpanAttribute::Profile(profile), SpanAttribute::Outcome(outcome)];
        status
            .map(SpanAttribute::UpstreamStatus)
            .into_iter()
            .chain(attributes)
            .for_each(|attribute| span.trace().set_attribute(attribute));
        drop(span);
        if sent {
            metrics.exchanges.with_label_values(&[profile.as_str(), outcome]).inc();
            metrics.exchange_duration.with_label_values(&[profile.as_str()]).observe(took.as_secs_f64());
        } else {
            self.refund(counted).await;
        }
        match &read {
            Ok(Err(error)) if error.is_host_failure() => permit.record_failure(clock.monotonic()),
            Ok(_) => permit.record_answer(),
            // The retry decides.
            Err(UpstreamError::Closed(_)) if attempt == Attempt::First => drop(permit),
            Err(_) => permit.record_failure(clock.monotonic()),
        }
        match read {
            Ok(read) => read.map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Turns a response into a token or an [`ExchangeError`]. The outer `Err` is a transport error other than a timeout
    /// or an unusable response.
    fn interpret(
        &self,
        token_request: &TokenRequest,
        kid: KeyId,
        confidential: &Confidential,
        response: Result<UpstreamResponse, UpstreamError>,
    ) -> Result<Result<AccessToken, ExchangeError>, UpstreamError> {
        match response {
            Ok(response) => {
                self.record_clock_skew(&response);
                Ok(token_request
                    .parse_response(&response, confidential)
                    .and_then(|obtained| self.with_expiry(token_request, &response, obtained, kid)))
            }
            Err(UpstreamError::Timeout) => {
                Ok(Err(ExchangeError::Timeout { waited_for: TimeoutCause::Salesforce, retry_after: None }))
            }
            Err(UpstreamError::Unusable { status, what, retry_after }) => Ok(Err(ExchangeError::Unusable {
                status,
                what,
                request_summary: token_request.summary(),
                retry_after,
            })),
            Err(error) => Err(error),
        }
    }

    /// Takes a permit from the circuit breaker. If the circuit is open, probes the host in the background when due.
    fn check_circuit(
        self: &Arc<Self>,
        token_request: &TokenRequest,
    ) -> Result<CircuitPermit<'_>, ExchangeError> {
        match self.circuits.check(
            &token_request.origin(),
            token_request.cache_key(),
            self.deps.clock.monotonic(),
        ) {
            CircuitCheck::Allowed(permit) => Ok(permit),
            CircuitCheck::Open { retry_after, probe } => {
                if probe {
                    let (client, token_request) = (self.clone(), token_request.clone());
                    tokio::spawn(async move {
                        if client.transport.is_reachable(token_request.endpoint()).await {
                            client
                                .circuits
                                .record_recovery(&token_request.origin(), client.deps.clock.monotonic());
                        }
                    });
                }
                Err(ExchangeError::CircuitOpen { host: token_request.origin(), retry_after })
            }
        }
    }

    /// Counts a request against the replicas' common rate limit, if they share a cache, and then against this host's. Both
    /// must allow it; an unavailable store is skipped. If this host's limit doesn't allow it, the common count is refunded.
    async fn count_request(
        self: &Arc<Self>,
        token_request: &TokenRequest,
        reason: RequestReason,
    ) -> Result<CountedRequest, ExchangeError> {
        let (account, quota) = token_request.quota();
        let id = self.deps.unique_id().map_err(MintError::from)?;
        let counted = CountedRequest { account, id, quota, reason };
        let used_up = |retry_after| {
            Err(ExchangeError::LoginRateLimited { profile: token_request.profile().to_string(), retry_after })
        };
        let shared_check = match &self.shared {
            Some(shared) => shared.count_request(&counted).await,
            None => None,
        };
        if let Some(QuotaCheck::Exhausted { retry_after }) = shared_check {
            if reason == RequestReason::Needed {
                self.login_limit.record_shared_usage(
                    &counted.account,
                    1.0,
                    self.deps.clock.monotonic() + retry_after,
                );
            }
            return used_up(retry_after);
        }
        let (login_limit, local_request, clock) =
            (self.login_limit.clone(), counted.clone(), self.deps.clock.clone());
        let on_disk = async {
            let disk = self.disk_permit.clone().acquire_owned().await;
            let taken = tokio::task::spawn_blocking(move || {
                let _disk = disk;
                login_limit.try_acquire(&local_request, clock.now(), clock.monotonic())
            });
            taken.await
        };
        let local_check = timeout(DISK_TIMEOUT, on_disk).await.unwrap_or_else(|_| {
            tracing::warn!(
                "the disk of state_directory hangs: this login is counted in memory only, so a restart may forget it; check the disk"
            );
            Ok(self.login_limit.try_acquire_in_memory(
                &counted,
                self.deps.clock.now(),
                self.deps.clock.monotonic(),
            ))
        });
        if let (Ok(QuotaCheck::Allowed { .. }), Some(QuotaCheck::Allowed { used })) =
            (&local_check, shared_check)
        {
            self.login_limit.record_shared_usage(
                &counted.account,
                used,
                self.deps.clock.monotonic() + quota.window,
            );
        }
        match local_check {
            Ok(QuotaCheck::Allowed { .. }) => Ok(counted),
            rejected => {
                if let (Some(shared), Some(_)) = (&self.shared, shared_check) {
                    shared.refund(&counted).await;
                }
                match rejected {
                    Ok(QuotaCheck::Exhausted { retry_after }) => used_up(retry_after),
                    _ => Err(ExchangeError::Interrupted),
                }
            }
        }
    }

    /// Removes a request that wasn't sent from the counts.
    async fn refund(&self, counted: CountedRequest) {
        if let Some(shared) = &self.shared {
            shared.refund(&counted).await;
        }
        let login_limit = self.login_limit.clone();
        let on_disk = async {
            let disk = self.disk_permit.clone().acquire_owned().await;
            // If the task panics, the request stays counted.
            let refunded = tokio::task::spawn_blocking(move || {
                let _disk = disk;
                login_limit.refund(&counted);
            });
            let _ = refunded.await;
        };
        // If the disk hangs, the request stays counted.
        let _ = timeout(DISK_TIMEOUT, on_disk).await;
    }

    /// Writes logins that couldn't be written before. Gives up after [`DISK_TIMEOUT`].
    pub(crate) async fn flush_login_counts(&self) {
        let login_limit = self.login_limit.clone();
        let on_disk = async {
            let _disk = self.disk_permit.acquire().await;
            let _ = tokio::task::spawn_blocking(move || login_limit.flush()).await;
        };
        let _ = timeout(DISK_TIMEOUT, on_disk).await;
    }

    /// Exports, as a metric, how far this host's clock is ahead of Salesforce's. No lifetime is computed from it.
    fn record_clock_skew(&self, response: &UpstreamResponse) {
        if let Some(theirs) = response.date {
            #[expect(clippy::cast_precision_loss, reason = "a skew is small")]
            self.deps.metrics.clock_skew.set((self.deps.clock.now().seconds() - theirs) as f64);
        }
    }

    /// Computes when the token expires, from what the response reports or the default lifetime, at most
    /// [`MAX_TOKEN_LIFETIME`].
    ///
    /// # Errors
    /// The token has expired already.
    fn with_expiry(
        &self,
        token_request: &TokenRequest,
        response: &UpstreamResponse,
        obtained: ObtainedToken,
        kid: KeyId,
    ) -> Result<AccessToken, ExchangeError> {
        let reading = self.deps.clock_reading();
        let until =
            |end: UnixTime| Duration::from_secs(u64::try_from(reading.now.seconds_until(end)).unwrap_or(0));
        let ReportedExpiry { expires_at: end, expires_in } = obtained.reported_expiry;
        let life = end
            .map(until)
            .into_iter()
            .chain(expires_in)
            .min()
            .unwrap_or_else(|| token_request.default_lifetime());
        if life.is_zero() {
            let what = if expires_in.is_some_and(|expires_in| expires_in.is_zero()) {
                "a token with an expires_in of nothing"
            } else {
                "a token that has expired already; compare this host's clock with Salesforce's (NTP)"
            };
            return Err(token_request.unusable_response(response, what));
        }
        Ok(AccessToken::new(obtained, kid, reading.now, life.min(MAX_TOKEN_LIFETIME), &reading))
    }
}

/// The value of the label `outcome` in metrics, logs and spans.
pub(super) fn outcome_label<T>(exchanged: &Result<T, ExchangeError>) -> &'static str {
    exchanged.as_ref().err().map_or("success", ExchangeError::outcome_label)
}

const fn to_exchange_error(error: &UpstreamError) -> ExchangeError {
    let sent = !matches!(error, UpstreamError::NotSent(_));
    match *error {
        UpstreamError::NotSent(reason) | UpstreamError::Closed(reason) | UpstreamError::Broken(reason) => {
            ExchangeError::Unreachable { reason, sent, retry_after: None }
        }
        // `interpret` has turned these into other errors.
        UpstreamError::Timeout | UpstreamError::Unusable { .. } => ExchangeError::Interrupted,
    }
}
