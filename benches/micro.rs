//! Criterion benchmarks of the steps of a page load: `cargo bench --bench micro`.
//!
//! `mint/…` and `authenticate/…` call the modules `tokens` and `callers`. `answer/…` goes through the axum router: a whole request
//! without the HTTP/1.1 parser, the socket and the writing of the log.

#![expect(clippy::panic, reason = "criterion shows it")]

mod support;

use std::hint::black_box;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, StatusCode};
use criterion::{Criterion, criterion_group, criterion_main};
use secrecy::ExposeSecret as _;
use serde_json::json;
use support::{InProcessService, api_key, get, identity, messaging, post_json, subject};
use tokenmint::clock::{Clock as _, SystemRandomness};
use tokenmint::config::{Algorithm, Name};
use tokenmint::keys;
use tokenmint::tokens::{Claims, MintError, Signer, Subject};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn key() -> String {
    let key = keys::generate_private_key(2048, &SystemRandomness::default()).expect("random bytes");
    key.expose_secret().to_owned()
}

/// The body of the answer, which must be 200.
async fn fetch(in_process: &InProcessService, request: Request<Body>) -> Bytes {
    let answer = in_process.send(request).await;
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 1 << 20).await.expect("a body in memory");
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    body
}

fn mint(criterion: &mut Criterion) {
    let runtime = runtime();
    let in_process = runtime.block_on(InProcessService::build(&key(), 1));
    let snapshot = in_process.service.snapshot.load();
    let profile = &snapshot.profiles.identity[&Name::parse("web").expect("a name")];
    let user = Subject::parse("sub", subject(1)).expect("a subject");
    let (lifetime, claims, now) = (profile.default_lifetime(), Claims::default(), in_process.clock.now());
    let mut group = criterion.benchmark_group("mint");

    // A signer with a full queue: the token is encoded up to its signature, and then refused.
    let full = Signer::new(0, 0, None, &in_process.service.metrics);
    group.bench_function("identity token up to its signature", |bench| {
        bench.to_async(&runtime).iter(|| async {
            let refused = profile.mint(&user, lifetime, &claims, now, &full).await;
            assert_eq!(refused.err(), Some(MintError::Overloaded));
        });
    });
    let signer = &in_process.service.signer;
    group.bench_function("identity token", |bench| {
        bench.to_async(&runtime).iter(|| profile.mint(&user, lifetime, &claims, now, signer));
    });
    let key =
        snapshot.ring.find("WebAppKey1").expect("the only key").1.signing.private().expect("in this process");
    let mut signature = vec![0; key.signature_len()];
    group.bench_function("signature alone", |bench| {
        bench.iter(|| key.sign(Algorithm::Rs256, black_box(&[b'x'; 260]), &mut signature));
    });
    group.finish();
}

fn authenticate(criterion: &mut Criterion) {
    let (runtime, key) = (runtime(), key());
    let mut group = criterion.benchmark_group("authenticate");
    for callers in [1, 100, 10_000] {
        let in_process = runtime.block_on(InProcessService::build(&key, callers));
        let snapshot = in_process.service.snapshot.load();
        let api_key = api_key(callers / 2);
        group.bench_function(format!("one of {callers}"), |bench| {
            bench.iter(|| assert!(snapshot.callers.by_api_key(black_box(api_key.as_bytes())).is_some()));
        });
    }
    group.finish();
}

fn answer(criterion: &mut Criterion) {
    let runtime = runtime();
    let in_process = runtime.block_on(InProcessService::build(&key(), 1));
    runtime.block_on(in_process.access_token(0));
    let mut group = criterion.benchmark_group("answer");
    let mut user = 0;
    group.bench_function("identity token", |bench| {
        bench.to_async(&runtime).iter(|| {
            user += 1;
            fetch(&in_process, identity(user))
        });
    });
    group.bench_function("intercom user JWT", |bench| {
        bench.to_async(&runtime).iter(|| {
            user += 1;
            fetch(&in_process, post_json("/intercom-user-jwt", &json!({"user_id": subject(user)})))
        });
    });
    group.bench_function("JWKS", |bench| {
        bench.to_async(&runtime).iter(|| fetch(&in_process, get("/keysets/web/jwks.json")));
    });
    group.bench_function("kept access token", |bench| {
        bench.to_async(&runtime).iter(|| fetch(&in_process, messaging(0)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = mint, authenticate, answer
}
criterion_main!(benches);
