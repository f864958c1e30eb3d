//! All Prometheus metric families, in a registry of their own that is passed around instead of the global one.
//!
//! - Each name begins with `tokenmint_` (or `process_`) and uses base units. The names of counters end in `_total`.
//! - Label values come from small closed sets: for example the route table, names from the configuration, key ids, and
//!   outcomes. They never contain what a caller sent.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use prometheus::core::{Collector, Desc, MetricVec, MetricVecBuilder};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Buckets of the duration histograms, in seconds. Requests, signatures and exchanges take 0.1 ms to several seconds.
const DURATION_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The name, type, labels and help of one metric family.
pub struct FamilyDescription {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub labels: Vec<String>,
    pub help: String,
}

/// The metric families of one service.
pub struct Metrics {
    registry: Registry,
    /// Describes each family, with or without samples. The families of the process collector are not among them.
    pub descriptions: Vec<FamilyDescription>,
    /// Every family with labels, for the removal of stale series.
    labelled: Vec<Box<dyn LabelledFamily>>,
    /// Tokens minted for callers, access tokens not included, by `profile` (for example `identity.web`) and `caller`.
    pub(crate) tokens_minted: IntCounterVec,
    /// HTTP responses, by `route` (the path in the route table, or `other`) and `status`.
    pub(crate) requests: IntCounterVec,
    /// Seconds from a request's first byte to its response, by `route`.
    pub(crate) request_duration: HistogramVec,
    /// Error responses, by `error`.
    pub(crate) refusals: IntCounterVec,
    /// Requests for a new token rejected because the subject's tokens were minted too often, by `profile` and `caller`.
    pub(crate) remints_refused: IntCounterVec,
    /// Requests rejected because the caller named too many different subjects in a minute, by `caller`.
    pub(crate) subjects_refused: IntCounterVec,
    /// Requests allowed in audit mode that the policy would reject, by `caller` and `rule`.
    pub(crate) would_refuse: IntCounterVec,
    /// Seconds for one RSA signature without its time in the queue, by `algorithm`. In a batch: its share of the batch's time.
    pub(crate) signing_duration: HistogramVec,
    /// Signatures waiting in the signing queue.
    pub(crate) signing_queue_depth: IntGauge,
    /// Seconds that a signature waited in the queue.
    pub(crate) signing_wait: Histogram,
    /// Signatures made, by `path`: `one` (singly) or `batch`.
    pub(crate) signatures: IntCounterVec,
    /// Signatures in each batch.
    pub(crate) signing_batch_size: Histogram,
    /// 1 while the library for batch signing is in use.
    pub signing_batch_enabled: IntGauge,
    /// Keys that passed the self-test of batch signing: the library made the same signatures as aws-lc, and batches are faster.
    pub signing_batch_keys: IntCounter,
    /// Signatures that the library made wrongly or failed to make, and panics of self-tests, by `fault`.
    pub signing_batch_faults: IntCounterVec,
    /// Signatures rejected, by `reason`: the queue was full, or the wait was too long.
    pub(crate) signing_shed: IntCounterVec,
    /// JWKS fetches (`GET`, also if answered 304), by `keyset` (`*` is the union at /.well-known/jwks.json) and `client`.
    pub(crate) jwks_fetches: IntCounterVec,
    /// Unix time at which a JWKS with the key was last fetched (see `jwks_fetches`), by `keyset`, `kid` and `client`.
    pub(crate) key_fetched_at: IntGaugeVec,
    /// Tokens signed since the start that may not have expired yet, by `keyset` and `kid`.
    pub(crate) live_tokens: IntGaugeVec,
    /// Seconds until a published certificate expires, by `keyset` and `kid`.
    pub(crate) certificate_remaining: GaugeVec,
    /// Seconds until a pending key starts to sign, by `keyset` and `kid`.
    pub(crate) key_starts_signing: GaugeVec,
    /// Seconds until the next key takes over from the signing key, by `keyset` and `kid`.
    pub(crate) key_stops_signing: GaugeVec,
    /// Open connections, by `listener`.
    pub(crate) connections: IntGaugeVec,
    /// Connections closed because of their number or memory, by `listener`: the longest idle ones, or new ones if none was idle.
    pub(crate) connections_refused: IntCounterVec,
    /// Requests sent to Salesforce, by `profile` and `outcome`.
    pub(crate) exchanges: IntCounterVec,
    /// Exchanges that ended before any byte of the request was sent, by `profile` and `reason`.
    pub(crate) exchanges_not_sent: IntCounterVec,
    /// Checks of sessions of cached access tokens, by `profile` and `outcome`.
    pub(crate) session_checks: IntCounterVec,
    /// Seconds from a request to Salesforce until its whole response, by `profile`.
    pub(crate) exchange_duration: HistogramVec,
    /// JWTs that were refused or couldn't be verified, by `issuer` and `rule`.
    pub(crate) issuer_refusals: IntCounterVec,
    /// Fetches of issuers' keys, by `issuer` and `outcome`.
    pub(crate) issuer_fetches: IntCounterVec,
    /// Seconds since the keys of an issuer were fetched, by `issuer`.
    pub(crate) issuer_keys_age: GaugeVec,
    /// Requests to stores of keys, by `store`, `operation` and `outcome`.
    pub(crate) store_requests: IntCounterVec,
    /// Seconds that a request to a store took, by `store` and `operation`.
    pub(crate) store_request_duration: HistogramVec,
    /// Requests for access tokens, by `profile` and `result`: hit, miss, coalesced, failure.
    pub(crate) cache_requests: IntCounterVec,
    /// Access tokens in the cache.
    pub cache_entries: IntGauge,
    /// Lookups in the shared cache (Redis), by `result`.
    pub(crate) shared_cache_requests: IntCounterVec,
    /// Signatures that wait for their turn at a store, by `store`.
    pub(crate) store_queue_depth: IntGaugeVec,
    /// 1 while the shared cache is available, by `store`. Exists only if a shared cache is configured.
    pub(crate) shared_cache_up: IntGaugeVec,
    /// Access tokens returned again although a caller of any replica reported them as rejected, by `profile` and `reason`.
    pub(crate) rejected_tokens_kept: IntCounterVec,
    /// The used share of `logins_per_hour` or `requests_per_minute`, 0 to 1, by `profile`.
    pub(crate) login_budget_used: GaugeVec,
    /// Failures to read, write or use the state directory, after which logins are counted in memory only.
    pub(crate) login_budget_write_failures: IntCounter,
    /// Seconds by which our clock was ahead of Salesforce's at its last response.
    pub(crate) clock_skew: Gauge,
    /// Successful reloads.
    pub config_reloads: IntCounter,
    /// Rejected reloads, without the clock's retries of a rejected one. The previous configuration stays in force.
    pub(crate) config_reload_failures: IntCounter,
    /// 1 while the configuration in force is the one in the files, 0 after a rejected reload until the next successful one.
    pub(crate) config_current: IntGauge,
    /// Unix time at which the configuration in force was loaded.
    pub(crate) config_loaded_at: IntGauge,
    /// Unix time at which a check of the files for changes last ended.
    pub(crate) config_looked_at: IntGauge,
    /// Dropped log lines, audit lines included.
    pub(crate) log_lines_dropped: IntCounter,
    /// Requests, exchanges and the sync with other replicas that panicked; each is a bug.
    pub(crate) panics: IntCounter,
}

impl Metrics {
    /// Registers all families in a new registry.
    ///
    /// # Panics
    /// Never: the names are constant, valid and distinct.
    #[expect(clippy::new_without_default, reason = "a second registry by way of `default()` would be a bug")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let builder = MetricsBuilder {
            registry: &registry,
            descriptions: RefCell::default(),
            labelled: RefCell::default(),
        };
        let mut metrics = Self {
            tokens_minted: builder.counters(
                "tokens_minted_total",
                "Tokens minted, by profile and caller.",
                &["profile", "caller"],
            ),
            requests: builder.counters(
                "requests_total",
                "HTTP answers, by route and status.",
                &["route", "status"],
            ),
            request_duration: builder.histograms(
                "request_duration_seconds",
                "Time from a request's first byte to its answer, by route.",
                &["route"],
            ),
            refusals: builder.counters("refusals_total", "Error responses (4xx and 5xx), by error code.", &["error"]),
            remints_refused: builder.counters(
                "remints_refused_total",
                "Requests rejected because one subject's tokens were requested too often, by profile and caller.",
                &["profile", "caller"],
            ),
            subjects_refused: builder.counters(
                "subjects_refused_total",
                "Requests rejected because the caller named too many different subjects in a minute.",
                &["caller"],
            ),
            would_refuse: builder.counters(
                "would_refuse_total",
                "Requests allowed under policy = audit that a rule would reject, by caller and rule.",
                &["caller", "rule"],
            ),
            signing_duration: builder.histograms(
                "signing_duration_seconds",
                "Time of one RSA signature without its wait in the queue, by algorithm; in a batch, its share.",
                &["algorithm"],
            ),
            signing_queue_depth: builder.gauge("signing_queue_depth", "Signatures waiting in the signing queue."),
            signing_wait: builder.histogram(
                "signing_wait_seconds",
                "Time that a signature waited in the queue.",
                DURATION_BUCKETS,
            ),
            signatures: builder.counters(
                "signatures_total",
                "Signatures made, by path: one (singly) or batch.",
                &["path"],
            ),
            signing_batch_size: builder.histogram(
                "signing_batch_size",
                "Signatures in each batch.",
                &[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            ),
            signing_batch_enabled: builder.gauge(
                "signing_batch_enabled",
                "1 while the library for batch signing is in use, 0 without it or after its first fault.",
            ),
            signing_batch_keys: builder
                .counter("signing_batch_keys_total", "Keys that passed the self-test of batch signing."),
            signing_batch_faults: builder.counters(
                "signing_batch_faults_total",
                "Signatures that the library made wrongly or failed to make; none was given out.",
                &["fault"],
            ),
            signing_shed: builder.counters(
                "signing_shed_total",
                "Signatures rejected, by reason: full (the queue was full) or late (waited too long).",
                &["reason"],
            ),
            jwks_fetches: builder.counters(
                "jwks_fetches_total",
                "JWKS fetches, by keyset (* is the union of all) and kind of client.",
                &["keyset", "client"],
            ),
            key_fetched_at: builder.int_gauges(
                "key_fetched_timestamp_seconds",
                "When a JWKS with this key was last fetched, by kind of client.",
                &["keyset", "kid", "client"],
            ),
            live_tokens: builder.int_gauges(
                "live_tokens",
                "Tokens signed with this key since the start that may not have expired yet.",
                &["keyset", "kid"],
            ),
            certificate_remaining: builder.gauges(
                "certificate_remaining_seconds",
                "Seconds until the published certificate of a key expires.",
                &["keyset", "kid"],
            ),
            key_starts_signing: builder.gauges(
                "key_starts_signing_seconds",
                "Seconds until a pending key starts to sign.",
                &["keyset", "kid"],
            ),
            key_stops_signing: builder.gauges(
                "key_stops_signing_seconds",
                "Seconds until the next key takes over from this one.",
                &["keyset", "kid"],
            ),
            connections: builder.int_gauges("connections", "Open connections, by listener.", &["listener"]),
            connections_refused: builder.counters(
                "connections_refused_total",
                "Connections closed because of their number or memory, by listener: the longest idle ones, or new ones if none was idle.",
                &["listener"],
            ),
            exchanges: builder.counters(
                "exchanges_total",
                "Requests sent to Salesforce, by profile and outcome.",
                &["profile", "outcome"],
            ),
            exchanges_not_sent: builder.counters(
                "exchanges_not_sent_total",
                "Exchanges that ended before anything was sent to Salesforce, by profile and reason.",
                &["profile", "reason"],
            ),
            session_checks: builder.counters(
                "session_checks_total",
                "Checks of the session of a cached access token (check_session), by profile and outcome.",
                &["profile", "outcome"],
            ),
            exchange_duration: builder.histograms(
                "exchange_duration_seconds",
                "Time from a request to Salesforce until its whole response, by profile.",
                &["profile"],
            ),
            issuer_refusals: builder.counters(
                "issuer_refusals_total",
                "JWTs that were refused or could not be verified, by issuer (empty: of none in the configuration) and rule.",
                &["issuer", "rule"],
            ),
            issuer_fetches: builder.counters(
                "issuer_fetches_total",
                "Fetches of the keys of an issuer, by issuer and outcome: success or failure.",
                &["issuer", "outcome"],
            ),
            store_requests: builder.counters(
                "store_requests_total",
                "Requests to stores of keys, by store, operation (login, lookup, seal, unseal, sign, public_key or create_key) and outcome.",
                &["store", "operation", "outcome"],
            ),
            store_request_duration: builder.histograms(
                "store_request_duration_seconds",
                "Seconds from a request to a store of keys until its whole answer, by store and operation.",
                &["store", "operation"],
            ),
            issuer_keys_age: builder.gauges(
                "issuer_keys_age_seconds",
                "Seconds since the keys of an issuer were fetched, by issuer.",
                &["issuer"],
            ),
            cache_requests: builder.counters(
                "token_cache_requests_total",
                "Requests for access tokens, by profile and result: hit, miss, coalesced or failure (a cached one).",
                &["profile", "result"],
            ),
            cache_entries: builder.gauge("token_cache_entries", "Access tokens in the cache."),
            shared_cache_requests: builder.counters(
                "shared_cache_requests_total",
                "Requests to the shared cache, by result.",
                &["result"],
            ),
            store_queue_depth: builder.int_gauges(
                "store_queue_depth",
                "Signatures that wait for their turn at a store, by store.",
                &["store"],
            ),
            shared_cache_up: builder.int_gauges(
                "shared_cache_up",
                "1 while the shared cache is available, 0 while each replica uses only its own cache.",
                &["store"],
            ),
            rejected_tokens_kept: builder.counters(
                "rejected_tokens_kept_total",
                "Access tokens returned again although the caller reported them as rejected, by profile and reason.",
                &["profile", "reason"],
            ),
            login_budget_write_failures: builder.counter(
                "login_budget_write_failures_total",
                "Failures to read, write or use the state directory, after which logins are counted in memory only.",
            ),
            login_budget_used: builder.gauges(
                "login_budget_used_ratio",
                "Used share (0 to 1) of logins_per_hour or requests_per_minute, by profile; at 1 tokenmint stops asking Salesforce.",
                &["profile"],
            ),
            clock_skew: builder.add(
                "gauge",
                Gauge::with_opts(MetricsBuilder::opts(
                    "salesforce_clock_skew_seconds",
                    "Our clock minus the clock of Salesforce's last response.",
                ))
                .expect("constant and valid"),
            ),
            config_reloads: builder.counter("config_reloads_total", "Successful reloads."),
            config_reload_failures: builder.counter(
                "config_reload_failures_total",
                "Rejected reloads; the previous configuration stays in force.",
            ),
            config_current: builder.gauge(
                "config_last_reload_successful",
                "1 while the configuration in force is the one in the files, 0 after a rejected reload.",
            ),
            config_loaded_at: builder.gauge(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in force was loaded.",
            ),
            config_looked_at: builder.gauge(
                "config_last_look_timestamp_seconds",
                "When the files were last checked for changes.",
            ),
            log_lines_dropped: builder
                .counter("log_lines_dropped_total", "Log lines dropped because they could not be written in time."),
            panics: builder.counter("panics_total", "Requests and exchanges that panicked; each is a bug."),
            registry: registry.clone(),
            descriptions: Vec::new(),
            labelled: Vec::new(),
        };
        let build = builder.int_gauges("build_info", "The version that runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        builder.add_boxed(Box::new(ProcessCollector::for_self()));
        metrics.descriptions = builder.descriptions.into_inner();
        metrics.labelled = builder.labelled.into_inner();
        metrics
    }

    /// Renders all families in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory succeeds, and every collector is consistent");
        text
    }

    /// Removes the series of callers, profiles, grants, keysets and keys that `old` has and `new` doesn't. Otherwise they would
    /// accumulate over reloads. Series of other labels stay.
    ///
    /// Series that neither has stay: another thread may be building the configuration that has them.
    pub(crate) fn remove_stale_series(&self, old: &LabelValues, new: &LabelValues) {
        for family in &self.labelled {
            family.remove_if(&|labels| old.has(labels) && !new.has(labels));
        }
    }

    /// Removes the series with a `profile` and no `caller`, for all profiles except `known`: an exchange may end after the
    /// reload that removed its profile. Series with a `caller` stay, because a new configuration creates them before it is in
    /// force.
    pub(crate) fn remove_series_of_other_profiles(&self, known: &BTreeSet<&str>) {
        let is_other = |labels: &Labels<'_>| {
            !labels.contains_key("caller")
                && labels.get("profile").is_some_and(|profile| !known.contains(profile))
        };
        for family in &self.labelled {
            family.remove_if(&is_other);
        }
    }

    /// The media type of [`render`](Self::render)'s output.
    pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
}

/// The names and values of the labels of a series.
type Labels<'a> = HashMap<&'a str, &'a str>;

/// The values that a configuration and its keys give to the labels `caller`, `profile`, `keyset`, `kid` and `issuer`.
pub(crate) struct LabelValues {
    pub(crate) callers: BTreeSet<String>,
    pub(crate) profiles: BTreeSet<String>,
    /// The granted pairs of `caller` and `profile`.
    pub(crate) grants: BTreeSet<(String, String)>,
    /// The names of the keysets, and the name of their union.
    pub(crate) keysets: BTreeSet<String>,
    /// The pairs of `keyset` and `kid`.
    pub(crate) keys: BTreeSet<(String, String)>,
    pub(crate) issuers: BTreeSet<String>,
}

impl LabelValues {
    /// Whether a series with these labels can belong to the configuration.
    fn has(&self, labels: &Labels<'_>) -> bool {
        let has = |name: &str, values: &BTreeSet<String>| {
            labels.get(name).is_none_or(|value| values.contains(*value))
        };
        let has_pair = |names: [&str; 2], pairs: &BTreeSet<(String, String)>| {
            let [Some(&one), Some(&other)] = names.map(|name| labels.get(name)) else { return true };
            pairs.contains(&(one.to_owned(), other.to_owned()))
        };
        has("caller", &self.callers)
            && has("profile", &self.profiles)
            && has("keyset", &self.keysets)
            && has("issuer", &self.issuers)
            && has_pair(["caller", "profile"], &self.grants)
            && has_pair(["keyset", "kid"], &self.keys)
    }
}

/// A metric family with labels.
trait LabelledFamily: Send + Sync {
    /// Removes the series whose labels fulfil `is_stale`.
    fn remove_if(&self, is_stale: &dyn Fn(&Labels<'_>) -> bool);

    /// Creates the series in which each label has the value that `value` gives for its name.
    #[cfg(test)]
    fn create_series(&self, value: &dyn Fn(&str) -> String);
}

impl<T: MetricVecBuilder> LabelledFamily for MetricVec<T>
where
    Self: Collector,
{
    fn remove_if(&self, is_stale: &dyn Fn(&Labels<'_>) -> bool) {
        for series in self.collect().iter().flat_map(MetricFamily::get_metric) {
            let labels = series.get_label().iter().map(|label| (label.name(), label.value())).collect();
            if is_stale(&labels) {
                // An error means that another thread has removed it already.
                let _ = self.remove(&labels);
            }
        }
    }

    #[cfg(test)]
    fn create_series(&self, value: &dyn Fn(&str) -> String) {
        let names = &self.desc()[0].variable_labels;
        let values: Vec<String> = names.iter().map(|name| value(name)).collect();
        let _ = self.with_label_values(&values);
    }
}

/// Creates metric families and registers them.
struct MetricsBuilder<'a> {
    registry: &'a Registry,
    descriptions: RefCell<Vec<FamilyDescription>>,
    labelled: RefCell<Vec<Box<dyn LabelledFamily>>>,
}

impl MetricsBuilder<'_> {
    fn add<C: Collector + Clone + 'static>(&self, kind: &'static str, collector: C) -> C {
        let describe = |family: &&Desc| FamilyDescription {
            name: family.fq_name.clone(),
            kind,
            labels: family.variable_labels.clone(),
            help: family.help.clone(),
        };
        self.descriptions.borrow_mut().extend(collector.desc().iter().map(describe));
        self.add_boxed(Box::new(collector.clone()));
        collector
    }

    fn add_labelled<C: Collector + LabelledFamily + Clone + 'static>(
        &self,
        kind: &'static str,
        family: C,
    ) -> C {
        self.labelled.borrow_mut().push(Box::new(family.clone()));
        self.add(kind, family)
    }

    fn add_boxed(&self, collector: Box<dyn Collector>) {
        self.registry.register(collector).expect("names are constant and distinct");
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("tokenmint_{name}"), help)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add_labelled(
            "counter",
            IntCounterVec::new(Self::opts(name, help), labels).expect("constant and valid"),
        )
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add("counter", IntCounter::with_opts(Self::opts(name, help)).expect("constant and valid"))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add("gauge", IntGauge::with_opts(Self::opts(name, help)).expect("constant and valid"))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add_labelled("gauge", GaugeVec::new(Self::opts(name, help), labels).expect("constant and valid"))
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add_labelled(
            "gauge",
            IntGaugeVec::new(Self::opts(name, help), labels).expect("constant and valid"),
        )
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.add("histogram", Histogram::with_opts(opts).expect("constant and valid"))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(DURATION_BUCKETS.to_vec());
        self.add_labelled("histogram", HistogramVec::new(opts, labels).expect("constant and valid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str) -> LabelValues {
        let one = || BTreeSet::from([name.to_owned()]);
        let pair = || BTreeSet::from([(name.to_owned(), name.to_owned())]);
        LabelValues {
            callers: one(),
            profiles: one(),
            grants: pair(),
            keysets: one(),
            keys: pair(),
            issuers: one(),
        }
    }

    /// Completeness: no family with such a label keeps a series of a name that is gone.
    #[test]
    fn every_series_of_a_removed_name_is_removed_and_every_other_stays() {
        const CONFIGURED: [&str; 4] = ["caller", "profile", "keyset", "kid"];
        let metrics = Metrics::new();
        for family in &metrics.labelled {
            for name in ["gone", "kept"] {
                let value = |label: &str| {
                    if CONFIGURED.contains(&label) { name.to_owned() } else { "other".to_owned() }
                };
                family.create_series(&value);
            }
        }
        let series = |name: &str| {
            let text = String::from_utf8(metrics.render()).expect("text");
            text.lines()
                .filter(|line| line.contains(&format!("\"{name}\"")))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let (gone, kept, others) = (series("gone"), series("kept"), series("other"));
        assert!(gone.len() > 15 && gone.len() == kept.len(), "{gone:#?}");
        metrics.remove_stale_series(&values("gone"), &values("kept"));
        assert_eq!(series("gone"), Vec::<String>::new());
        assert_eq!(series("kept"), kept);
        let is_of_gone = |line: &String| line.contains("\"gone\"");
        assert_eq!(series("other").len(), others.iter().filter(|line| !is_of_gone(line)).count());
    }

    /// A grant that is gone, of a caller and a profile that stay.
    #[test]
    fn the_series_of_a_removed_grant_are_removed() {
        let metrics = Metrics::new();
        for family in &metrics.labelled {
            family.create_series(&|_| "kept".to_owned());
        }
        let without_grant = LabelValues { grants: BTreeSet::new(), ..values("kept") };
        metrics.remove_stale_series(&values("kept"), &without_grant);
        let text = String::from_utf8(metrics.render()).expect("text");
        assert!(!text.contains("caller=\"kept\",profile=\"kept\""), "{text}");
        assert!(text.contains("{caller=\"kept\"}") && text.contains("{profile=\"kept\"}"), "{text}");
    }
}
