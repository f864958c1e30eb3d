//! Health checks and metrics: `GET /livez`, `/readyz`, `/healthz` and `/metrics`.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use prometheus::GaugeVec;
use serde_json::json;

use super::{AppState, SharedState};
use crate::clock::UnixTime;
use crate::keys::KeyState;
use crate::metrics::Metrics;

const NO_STORE_HEADER: [(http::HeaderName, HeaderValue); 1] =
    [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];

pub(super) async fn livez() -> Response {
    (NO_STORE_HEADER, Json(json!({"status": "ok"}))).into_response()
}

/// Ready means that each profile has a key that signs, and that the service isn't shutting down. Whether Salesforce can be
/// reached doesn't matter.
pub(super) async fn readyz(State(state): State<SharedState>) -> Response {
    if state.ready() {
        return (NO_STORE_HEADER, Json(json!({"status": "ready"}))).into_response();
    }
    let body = match state.snapshot.load().ring.closed_reason() {
        _ if state.draining.load(Ordering::Acquire) => json!({"status": "draining"}),
        Some(reason) => json!({"status": "keys are unavailable", "reason": reason}),
        None => json!({"status": "no key signs yet"}),
    };
    let retry = [(RETRY_AFTER, HeaderValue::from_static("1"))];
    (StatusCode::SERVICE_UNAVAILABLE, NO_STORE_HEADER, retry, Json(body)).into_response()
}

pub(super) async fn metrics(State(state): State<SharedState>) -> Response {
    refresh_gauges(&state);
    let text = state.metrics.render();
    ([(CONTENT_TYPE, HeaderValue::from_static(Metrics::CONTENT_TYPE))], NO_STORE_HEADER, text).into_response()
}

/// Updates the metrics that are computed at each scrape: the dropped log lines, and the gauges of the exchanger and of the keys.
fn refresh_gauges(state: &AppState) {
    let metrics = &state.metrics;
    let dropped = (state.dropped_lines)().saturating_sub(metrics.log_lines_dropped.get());
    metrics.log_lines_dropped.inc_by(dropped);

    state.snapshot.load().issuers.record_key_ages();
    state.exchanger.refresh_metrics(&state.snapshot.load().profiles);
    let now = state.clock.now();
    #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit")]
    let until = |moment| now.seconds_until(moment) as f64;
    for keyset in state.snapshot.load().ring.keysets.values() {
        for key in &keyset.keys {
            let labels = [keyset.name.as_str(), key.kid.as_str()];
            let show = |gauge: &GaugeVec, moment: Option<UnixTime>| match moment {
                Some(moment) => gauge.with_label_values(&labels).set(until(moment)),
                // An error means that the series doesn't exist.
                None => _ = gauge.remove_label_values(&labels),
            };
            let state = key.validity.state(now);
            let published = state != KeyState::Gone;
            show(&metrics.certificate_remaining, published.then(|| key.certificate_not_after(now)));
            let starts = key.validity.signs_from().filter(|_| state == KeyState::Pending);
            show(&metrics.key_starts_signing, starts);
            let stops = key.validity.signs_until(now).filter(|_| state == KeyState::Signing);
            show(&metrics.key_stops_signing, stops);
            let live = i64::try_from(key.live_tokens.count(now)).unwrap_or(i64::MAX);
            metrics.live_tokens.with_label_values(&labels).set(live);
        }
    }
}
