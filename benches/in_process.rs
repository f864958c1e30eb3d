//! Runs single operations of the service in this process, for measurements from outside (callgrind) or longer than criterion's.
//!
//!     in_process count mint|jwks|hit OPERATIONS KEY.pem
//!     in_process cache TOKENS ROUNDS KEY.pem
//!
//! `count` repeats one operation within [`counted`], so that callgrind can count its instructions (`make guard`).
//!
//! `cache` requests cached access tokens, in turn from a cache of one token and from a cache of TOKENS. It prints the time of a
//! hit in microseconds and the memory of a token in bytes.

#![expect(clippy::panic, clippy::print_stdout, reason = "the harness reads stdout and shows panics")]

mod support;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::json;
use support::{InProcessService, get, identity, messaging};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse().unwrap_or_else(|_| usage());
    let key = |path: &String| fs::read_to_string(path).expect("the key's file can be read");
    match &arguments[..] {
        [command, operation, operations, path] if command == "count" => {
            count(operation, number(operations), &key(path));
        }
        [command, tokens, rounds, path] if command == "cache" => {
            cache(number(tokens), number(rounds), &key(path));
        }
        _ => usage(),
    }
}

fn usage() -> ! {
    println!(
        "usage: in_process count mint|jwks|hit OPERATIONS KEY.pem\n       in_process cache TOKENS ROUNDS KEY.pem"
    );
    std::process::exit(2);
}

fn count(operation: &str, operations: usize, key: &str) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let in_process = runtime.block_on(InProcessService::build(key, 1));
    let request = |n| match operation {
        "mint" => identity(n),
        "jwks" => get("/keysets/web/jwks.json"),
        "hit" => messaging(0),
        _ => usage(),
    };
    // Warms up, so that one-time costs aren't counted.
    let warm = (0..100).map(&request).collect();
    runtime.block_on(send_all(&in_process, warm));
    let requests = (100..100 + operations).map(&request).collect();
    assert_eq!(counted(&runtime, &in_process, requests), operations, "every answer is 200");
}

/// Callgrind counts from the start of this function to its end (`--toggle-collect`), so it does nothing else.
#[inline(never)]
fn counted(runtime: &Runtime, in_process: &InProcessService, requests: Vec<Request<Body>>) -> usize {
    runtime.block_on(send_all(in_process, requests))
}

/// Sends all requests, and returns the number of responses with status 200.
async fn send_all(in_process: &InProcessService, requests: Vec<Request<Body>>) -> usize {
    let mut succeeded = 0;
    for request in requests {
        succeeded += usize::from(in_process.send(request).await.status() == StatusCode::OK);
    }
    succeeded
}

/// The number of hits in one measurement.
const HITS: usize = 20_000;

fn cache(tokens: usize, rounds: usize, key: &str) {
    let runtime = tokenmint::app::runtime().expect("a runtime");
    runtime.block_on(async {
        let (one, many) = (InProcessService::build(key, 1).await, InProcessService::build(key, 1).await);
        let (one, many) = (Arc::new(one), Arc::new(many));
        fill_cache(&one, 0, 1).await;
        // The memory of the first tokens is the fixed cost of the service.
        let some = tokens.min(1000);
        fill_cache(&many, 0, some).await;
        let before = resident_bytes();
        fill_cache(&many, some, tokens).await;
        let per_token = (resident_bytes().saturating_sub(before)) / (tokens - some).max(1);
        many.service.exchanger.refresh_metrics(&many.service.snapshot.load().profiles);
        assert_eq!(
            many.service.metrics.cache_entries.get(),
            i64::try_from(tokens).expect("small"),
            "all are kept"
        );

        let (mut with_one, mut with_many) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            with_one.push(microseconds_per_hit(&one, 1, round).await);
            with_many.push(microseconds_per_hit(&many, tokens, round).await);
        }
        let figures = json!({
            "tokens": tokens, "bytes_per_token": per_token, "hit_us_one": with_one, "hit_us_many": with_many,
        });
        println!("{figures}");
    });
}

/// Fetches the access tokens of users `from..to`.
async fn fill_cache(in_process: &Arc<InProcessService>, from: usize, to: usize) {
    const AT_ONCE: usize = 200;
    for begin in (from..to).step_by(AT_ONCE) {
        // Keeps the request window of the login budget short.
        in_process.clock.advance(Duration::from_secs(61));
        let mut fetches = JoinSet::new();
        for n in begin..to.min(begin + AT_ONCE) {
            let in_process = in_process.clone();
            fetches.spawn(async move { in_process.access_token(n).await });
        }
        assert!(fetches.join_all().await.iter().all(|cached| !cached), "each of these is asked for once");
    }
}

/// Measures cache hits of tokens in pseudo-random order.
async fn microseconds_per_hit(in_process: &InProcessService, tokens: usize, round: usize) -> f64 {
    // A prime far from a power of two, so that the processor can't predict the order.
    let requests =
        (0..HITS).map(|n| messaging((n + round * HITS).wrapping_mul(7_368_787) % tokens)).collect();
    let begin = Instant::now();
    let succeeded = send_all(in_process, requests).await;
    let took = begin.elapsed();
    assert_eq!(succeeded, HITS, "every answer is 200");
    assert!(in_process.access_token(tokens - 1).await, "they were hits");
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let hits = HITS as f64;
    took.as_secs_f64() * 1e6 / hits
}

fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    let kibibytes = line.trim().trim_end_matches(" kB").parse::<usize>().expect("kibibytes");
    kibibytes << 10
}
