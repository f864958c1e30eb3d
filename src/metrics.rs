//! The names of what is counted, in a registry of our own that is handed in.
//!
//! - Every name begins with `tokenmint_` (or `process_`), uses base units, and ends in `_total` if it counts.
//! - Labels come from small closed sets: routes as they are written in the table, names from the
//!   configuration, outcomes. Never anything that a caller sent.

use std::collections::{BTreeSet, HashMap};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Requests and signatures take from a tenth of a millisecond to seconds.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

pub struct Metrics {
    registry: Registry,
    /// Tokens that left, by `profile` (`identity.web`) and `caller`.
    pub tokens_minted: IntCounterVec,
    /// Answers, by `route` as written in the route table (`other` for none of them) and `status`.
    pub requests: IntCounterVec,
    /// From a request's first byte to its answer, by `route`.
    pub request_duration: HistogramVec,
    /// Refused requests, by `error`.
    pub refusals: IntCounterVec,
    /// Tokens refused because one subject's were asked for too often, by `profile` and `caller`.
    pub remints_refused: IntCounterVec,
    /// Tokens refused because the caller named too many different subjects in a minute, by `caller`.
    pub subjects_refused: IntCounterVec,
    /// Requests let through that the policy would refuse, by `caller` and `rule`.
    pub would_refuse: IntCounterVec,
    /// One signature, without its wait, by `algorithm`; in a batch, its share of the time.
    pub signing_duration: HistogramVec,
    /// Signatures that wait for a core.
    pub signing_queue_depth: IntGauge,
    /// From when a signature was wanted until it began.
    pub signing_wait: Histogram,
    /// Signatures made, by `path`: one at a time, or in a batch.
    pub signatures: IntCounterVec,
    /// Signatures in each batch.
    pub signing_batch_size: Histogram,
    /// 1 while the library for batches is in use.
    pub signing_batch_enabled: IntGauge,
    /// Keys that it has been tried with, to the same bytes as aws-lc.
    pub signing_batch_keys: IntCounter,
    /// Signatures that it owed, by `fault`: wrong or failed.
    pub signing_batch_faults: IntCounterVec,
    /// Signatures refused, by `reason`: the line was full, or the wait too long.
    pub signing_shed: IntCounterVec,
    /// Fetches of a JWKS, by `keyset` (`*` is the union at /.well-known/jwks.json) and `client`.
    pub jwks_fetches: IntCounterVec,
    /// When a JWKS with a key in it was last fetched, by `keyset`, `kid` and `client`.
    pub key_fetched_at: IntGaugeVec,
    /// Tokens signed since the start that may still live, by `keyset` and `kid`.
    pub live_tokens: IntGaugeVec,
    /// Until each published certificate expires, by `keyset` and `kid`.
    pub certificate_remaining: GaugeVec,
    /// Until a pending key starts to sign, by `keyset` and `kid`.
    pub key_starts_signing: GaugeVec,
    /// Until the next key takes over, by `keyset` and `kid`.
    pub key_stops_signing: GaugeVec,
    /// Open connections, by `listener`.
    pub connections: IntGaugeVec,
    /// Connections closed at once because there were too many, by `listener`.
    pub connections_refused: IntCounterVec,
    /// Requests sent to Salesforce, by `profile` and `outcome`.
    pub exchanges: IntCounterVec,
    /// Exchanges that ended before anything was sent, by `profile` and `reason`.
    pub exchanges_not_sent: IntCounterVec,
    /// From the request to Salesforce to its answer, by `profile`.
    pub exchange_duration: HistogramVec,
    /// Requests for access tokens, by `profile` and `result`: hit, miss, coalesced, failure.
    pub cache_requests: IntCounterVec,
    /// Access tokens that are kept.
    pub cache_entries: IntGauge,
    /// Questions to the cache that replicas share, by `result`.
    pub shared_cache_requests: IntCounterVec,
    /// 1 while the shared cache answers, by `store`; there only where one is configured.
    pub shared_cache_up: IntGaugeVec,
    /// Tokens handed out although they were called rejected, by `profile` and `reason`.
    pub rejected_tokens_kept: IntCounterVec,
    /// The share of the login budget that is used, by `profile`.
    pub login_budget_used: GaugeVec,
    /// Logins that couldn't be recorded in `state_directory`.
    pub login_budget_write_failures: IntCounter,
    /// Our clock minus Salesforce's.
    pub clock_skew: Gauge,
    /// Reloads that took effect.
    pub config_reloads: IntCounter,
    /// Reloads that were refused; what ran before goes on.
    pub config_reload_failures: IntCounter,
    /// 1 while the files are those in force, 0 from a refused reload on until the next good one.
    pub config_current: IntGauge,
    /// When the configuration in force was loaded.
    pub config_loaded_at: IntGauge,
    /// When a look at the files last ended.
    pub config_looked_at: IntGauge,
    /// Log lines, audit lines among them, that were dropped because nobody read them in time.
    pub log_lines_dropped: IntCounter,
    /// Requests and exchanges that panicked; each is a bug.
    pub panics: IntCounter,
}

impl Metrics {
    /// # Panics
    /// Never: the names are constant, valid and distinct.
    #[expect(clippy::new_without_default, reason = "a registry is handed in; it must not appear by itself")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let make = Make(&registry);
        let metrics = Self {
            tokens_minted: make.counters(
                "tokens_minted_total",
                "Tokens minted, by profile and caller.",
                &["profile", "caller"],
            ),
            requests: make.counters(
                "requests_total",
                "HTTP answers, by route and status.",
                &["route", "status"],
            ),
            request_duration: make.histograms(
                "request_duration_seconds",
                "Time from a request's first byte to its answer, by route.",
                &["route"],
            ),
            refusals: make.counters("refusals_total", "Requests refused, by error.", &["error"]),
            remints_refused: make.counters(
                "remints_refused_total",
                "Tokens refused because one subject's were asked for too often, by profile and caller.",
                &["profile", "caller"],
            ),
            subjects_refused: make.counters(
                "subjects_refused_total",
                "Tokens refused because the caller named too many different subjects in a minute.",
                &["caller"],
            ),
            would_refuse: make.counters(
                "would_refuse_total",
                "Requests let through by policy = audit, by caller and the rule that says no.",
                &["caller", "rule"],
            ),
            signing_duration: make.histograms(
                "signing_duration_seconds",
                "Time of one RSA signature without its wait, by algorithm; in a batch, its share.",
                &["algorithm"],
            ),
            signing_queue_depth: make.gauge("signing_queue_depth", "Signatures that wait for a core."),
            signing_wait: make.histogram(
                "signing_wait_seconds",
                "Time from when a signature was wanted until it began.",
                SECONDS,
            ),
            signatures: make.counters(
                "signatures_total",
                "Signatures made, by path: one (at a time) or batch.",
                &["path"],
            ),
            signing_batch_size: make.histogram(
                "signing_batch_size",
                "Signatures in each batch.",
                &[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            ),
            signing_batch_enabled: make.gauge(
                "signing_batch_enabled",
                "1 while the library for batch signing is in use, 0 without it or after its first fault.",
            ),
            signing_batch_keys: make
                .counter("signing_batch_keys_total", "Keys that passed their trial for batch signing."),
            signing_batch_faults: make.counters(
                "signing_batch_faults_total",
                "Signatures that the library got wrong or failed to make; none has left.",
                &["fault"],
            ),
            signing_shed: make.counters(
                "signing_shed_total",
                "Signatures refused, by reason: full (too many wait) or late (waited too long).",
                &["reason"],
            ),
            jwks_fetches: make.counters(
                "jwks_fetches_total",
                "JWKS fetches, by keyset (* is the union of all) and class of client.",
                &["keyset", "client"],
            ),
            key_fetched_at: make.int_gauges(
                "key_fetched_timestamp_seconds",
                "When a JWKS with this key in it was last fetched, by class of client.",
                &["keyset", "kid", "client"],
            ),
            live_tokens: make.int_gauges(
                "live_tokens",
                "Tokens signed with this key since the start that may still live.",
                &["keyset", "kid"],
            ),
            certificate_remaining: make.gauges(
                "certificate_remaining_seconds",
                "Seconds until the published certificate of a key expires.",
                &["keyset", "kid"],
            ),
            key_starts_signing: make.gauges(
                "key_starts_signing_seconds",
                "Seconds until a pending key starts to sign.",
                &["keyset", "kid"],
            ),
            key_stops_signing: make.gauges(
                "key_stops_signing_seconds",
                "Seconds until the next key takes over from this one.",
                &["keyset", "kid"],
            ),
            connections: make.int_gauges("connections", "Open connections, by listener.", &["listener"]),
            connections_refused: make.counters(
                "connections_refused_total",
                "Connections closed for being too many, by listener: those that idled longest, or the new one where none idles.",
                &["listener"],
            ),
            exchanges: make.counters(
                "exchanges_total",
                "Requests sent to Salesforce, by profile and outcome.",
                &["profile", "outcome"],
            ),
            exchanges_not_sent: make.counters(
                "exchanges_not_sent_total",
                "Exchanges that ended before anything was sent, by profile and reason.",
                &["profile", "reason"],
            ),
            exchange_duration: make.histograms(
                "exchange_duration_seconds",
                "Time from a request to Salesforce to its whole answer, by profile.",
                &["profile"],
            ),
            cache_requests: make.counters(
                "token_cache_requests_total",
                "Requests for access tokens, by profile and result.",
                &["profile", "result"],
            ),
            cache_entries: make.gauge("token_cache_entries", "Access tokens that are kept."),
            shared_cache_requests: make.counters(
                "shared_cache_requests_total",
                "Questions to the cache that replicas share, by result.",
                &["result"],
            ),
            shared_cache_up: make.int_gauges(
                "shared_cache_up",
                "1 while the cache that replicas share answers, 0 while each replica keeps its own tokens.",
                &["store"],
            ),
            rejected_tokens_kept: make.counters(
                "rejected_tokens_kept_total",
                "Tokens handed out although they were called rejected, by profile and reason.",
                &["profile", "reason"],
            ),
            login_budget_write_failures: make.counter(
                "login_budget_write_failures_total",
                "Logins that could not be recorded in the state directory: memory alone counts them.",
            ),
            login_budget_used: make.gauges(
                "login_budget_used_ratio",
                "Used share of the budget of requests to Salesforce, by profile.",
                &["profile"],
            ),
            clock_skew: make.add(
                Gauge::with_opts(Make::opts(
                    "salesforce_clock_skew_seconds",
                    "Our clock minus that of Salesforce's last answer.",
                ))
                .expect("constant and valid"),
            ),
            config_reloads: make.counter("config_reloads_total", "Reloads that took effect."),
            config_reload_failures: make.counter(
                "config_reload_failures_total",
                "Reloads that were refused; what ran before goes on.",
            ),
            config_current: make.gauge(
                "config_last_reload_successful",
                "1 while the configuration in force is that of the files, 0 after a refused reload.",
            ),
            config_loaded_at: make.gauge(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in force was loaded.",
            ),
            config_looked_at: make.gauge(
                "config_last_look_timestamp_seconds",
                "When a look at the files, for changes to take over, last ended.",
            ),
            log_lines_dropped: make
                .counter("log_lines_dropped_total", "Log lines dropped because nobody read them in time."),
            panics: make.counter("panics_total", "Requests and exchanges that panicked; each is a bug."),
            registry: registry.clone(),
        };
        let build = make.int_gauges("build_info", "The version that runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        make.add_boxed(Box::new(ProcessCollector::for_self()));
        metrics
    }

    /// The exposition format of Prometheus, version 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory succeeds, and every collector is consistent");
        text
    }

    /// Takes away the series of access tokens of all profiles but these.
    pub fn forget_other_profiles(&self, known: &BTreeSet<&str>) {
        forget_others(&self.exchanges, known, |labels| self.exchanges.remove(labels));
        forget_others(&self.exchanges_not_sent, known, |labels| self.exchanges_not_sent.remove(labels));
        forget_others(&self.exchange_duration, known, |labels| self.exchange_duration.remove(labels));
        forget_others(&self.cache_requests, known, |labels| self.cache_requests.remove(labels));
        forget_others(&self.rejected_tokens_kept, known, |labels| self.rejected_tokens_kept.remove(labels));
        forget_others(&self.login_budget_used, known, |labels| self.login_budget_used.remove(labels));
    }

    /// What `render` is, in HTTP.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
}

/// Removes each series whose `profile` isn't known.
fn forget_others(
    family: &impl Collector,
    known: &BTreeSet<&str>,
    remove: impl Fn(&HashMap<&str, &str>) -> prometheus::Result<()>,
) {
    for series in family.collect().iter().flat_map(MetricFamily::get_metric) {
        let labels = series.get_label().iter().map(|label| (label.name(), label.value())).collect();
        let profile = HashMap::get(&labels, "profile");
        if profile.is_some_and(|profile| !known.contains(profile)) {
            // Somebody else may have been faster.
            let _ = remove(&labels);
        }
    }
}

struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.add_boxed(Box::new(collector.clone()));
        collector
    }

    fn add_boxed(&self, collector: Box<dyn Collector>) {
        self.0.register(collector).expect("names are constant and distinct");
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("tokenmint_{name}"), help)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Self::opts(name, help), labels).expect("constant and valid"))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(Self::opts(name, help)).expect("constant and valid"))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Self::opts(name, help)).expect("constant and valid"))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Self::opts(name, help), labels).expect("constant and valid"))
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Self::opts(name, help), labels).expect("constant and valid"))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts).expect("constant and valid"))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(SECONDS.to_vec());
        self.add(HistogramVec::new(opts, labels).expect("constant and valid"))
    }
}
