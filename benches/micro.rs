//! The steps of a page load one by one, by criterion: `cargo bench --bench micro`.
//!
//! `mint/…` and `authenticate/…` call the room itself; `answer/…` goes through the axum router, which is all
//! of a request but the HTTP/1.1 parser, the socket and the writing of the log.

#![expect(clippy::panic, reason = "criterion shows it")]

mod support;

use std::hint::black_box;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, StatusCode};
use criterion::{Criterion, criterion_group, criterion_main};
use secrecy::ExposeSecret as _;
use serde_json::json;
use support::{House, api_key, get, identity, messaging, post_json, subject};
use tokenmint::clock::{Clock as _, SystemRandomness};
use tokenmint::config::{Algorithm, Name};
use tokenmint::keys;
use tokenmint::tokens::{Claims, MintError, Signer, Subject};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn key() -> String {
    let key = keys::generate(2048, &SystemRandomness::default()).expect("random bytes");
    key.expose_secret().to_owned()
}

/// The body of the answer, which must be 200.
async fn fetch(house: &House, request: Request<Body>) -> Bytes {
    let answer = house.ask(request).await;
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 1 << 20).await.expect("a body in memory");
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    body
}

fn mint(criterion: &mut Criterion) {
    let runtime = runtime();
    let house = runtime.block_on(House::build(&key(), 1));
    let rooms = house.service.rooms.load();
    let profile = &rooms.profiles.identity[&Name::parse("web").expect("a name")];
    let user = Subject::parse("sub", subject(1)).expect("a subject");
    let (lifetime, claims, now) = (profile.default_lifetime(), Claims::default(), house.clock.now());
    let mut group = criterion.benchmark_group("mint");

    // A signer with no room: the token is written up to its signature, and then refused.
    let full = Signer::new(0, 0, None, &house.service.metrics);
    group.bench_function("identity token up to its signature", |bench| {
        bench.to_async(&runtime).iter(|| async {
            let refused = profile.mint(&user, lifetime, &claims, now, &full).await;
            assert_eq!(refused.err(), Some(MintError::Overloaded));
        });
    });
    let signer = &house.service.signer;
    group.bench_function("identity token", |bench| {
        bench.to_async(&runtime).iter(|| profile.mint(&user, lifetime, &claims, now, signer));
    });
    let key = &rooms.ring.find("WebAppKey1").expect("the only key").1.private;
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
        let house = runtime.block_on(House::build(&key, callers));
        let rooms = house.service.rooms.load();
        let api_key = api_key(callers / 2);
        group.bench_function(format!("one of {callers}"), |bench| {
            bench.iter(|| assert!(rooms.callers.by_api_key(black_box(api_key.as_bytes())).is_some()));
        });
    }
    group.finish();
}

fn answer(criterion: &mut Criterion) {
    let runtime = runtime();
    let house = runtime.block_on(House::build(&key(), 1));
    runtime.block_on(house.access_token(0));
    let mut group = criterion.benchmark_group("answer");
    let mut user = 0;
    group.bench_function("identity token", |bench| {
        bench.to_async(&runtime).iter(|| {
            user += 1;
            fetch(&house, identity(user))
        });
    });
    group.bench_function("intercom user JWT", |bench| {
        bench.to_async(&runtime).iter(|| {
            user += 1;
            fetch(&house, post_json("/intercom-user-jwt", &json!({"user_id": subject(user)})))
        });
    });
    group.bench_function("JWKS", |bench| {
        bench.to_async(&runtime).iter(|| fetch(&house, get("/keysets/web/jwks.json")));
    });
    group.bench_function("kept access token", |bench| {
        bench.to_async(&runtime).iter(|| fetch(&house, messaging(0)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = mint, authenticate, answer
}
criterion_main!(benches);
