//! For whoever watches: is it alive, can it mint, what has it counted.

use std::sync::atomic::Ordering;

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderValue, StatusCode};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use prometheus::GaugeVec;
use serde_json::json;

use super::{Now, Service};
use crate::clock::UnixTime;
use crate::keys::KeyState;
use crate::metrics::Metrics;

const FRESH: [(::http::HeaderName, HeaderValue); 1] = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];

pub(super) async fn livez() -> Response {
    (FRESH, Json(json!({"status": "ok"}))).into_response()
}

/// Ready means that it can mint, not that Salesforce can be reached.
pub(super) async fn readyz(State(service): Now) -> Response {
    if service.ready() {
        return (FRESH, Json(json!({"status": "ready"}))).into_response();
    }
    let status = if service.draining.load(Ordering::Acquire) { "draining" } else { "no key signs yet" };
    let retry = [(RETRY_AFTER, HeaderValue::from_static("1"))];
    (StatusCode::SERVICE_UNAVAILABLE, FRESH, retry, Json(json!({"status": status}))).into_response()
}

pub(super) async fn metrics(State(service): Now) -> Response {
    refresh(&service);
    let text = service.metrics.render();
    ([(CONTENT_TYPE, HeaderValue::from_static(Metrics::CONTENT_TYPE))], FRESH, text).into_response()
}

/// Sets what follows from the clock rather than from an event.
fn refresh(service: &Service) {
    let metrics = &service.metrics;
    let dropped = (service.dropped_lines)().saturating_sub(metrics.log_lines_dropped.get());
    metrics.log_lines_dropped.inc_by(dropped);

    service.exchanger.refresh_metrics(&service.rooms.load().profiles);
    let now = service.clock.now();
    #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit")]
    let until = |moment| now.seconds_until(moment) as f64;
    for keyset in service.rooms.load().ring.keysets.values() {
        for key in &keyset.keys {
            let labels = [keyset.name.as_str(), key.kid.as_str()];
            let show = |gauge: &GaugeVec, moment: Option<UnixTime>| match moment {
                Some(moment) => gauge.with_label_values(&labels).set(until(moment)),
                // One that was never shown can't be removed, and needn't.
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
