//! Timing side channels, after dudect (Reparaz, Balasch and Verbauwhede, 2017): two classes of input, drawn at
//! random for each sample, and Welch's t-test between their times.
//!
//! With equal times, t is a draw from the normal distribution, on a noisy machine too: the noise falls on both classes. So
//! a bound on it is no bound on times. `TIMING_SAMPLES=1000000 cargo test --release --test timing`, as `make chaos FULL=1`
//! does, sees differences of about a thousandth of the spread; CI makes do with a few thousand samples.

#![allow(clippy::print_stdout, clippy::panic, reason = "says what was measured, and shows what went wrong")]

#[path = "../../benches/support/mod.rs"]
#[allow(dead_code, reason = "the benchmarks use the rest")]
mod support;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use secrecy::{ExposeSecret as _, SecretString};
use support::{InProcessService, api_key};
use tokenmint::clock::{Randomness as _, SystemRandomness};
use tokenmint::config::Algorithm;
use tokenmint::keys::{
    self, BatchLibrary, BatchParams, BatchSigner, PrivateKey, SelfTestResult, SignRequest,
};
use tokenmint::metrics::Metrics;

/// dudect takes 10 as proof of a leak. By chance alone t gets there once in 10^22 runs.
const LEAK: f64 = 10.0;
/// And 4.5 as the first sign of one, over a million samples. By chance alone t gets there once in 100,000 draws.
const SIGN: f64 = 4.5;

/// The bound of t.
const fn bound(samples: usize) -> f64 {
    if samples < 1_000_000 { LEAK } else { SIGN }
}

fn samples(few: usize) -> usize {
    std::env::var_os("TIMING_SAMPLES")
        .map_or(few, |count| count.to_string_lossy().parse().expect("TIMING_SAMPLES is a number"))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandomness::default().fill(&mut bytes).expect("random bytes");
    bytes
}

/// Times `act` on inputs of both classes, each made anew: what is peculiar to a single one, as its place in a map, must not
/// be taken for its class. The largest t of the times as they are and without their slowest parts, which are the
/// machine's doing.
fn t<T>(what: &str, samples: usize, make: impl Fn(bool) -> T, mut act: impl FnMut(&T)) -> f64 {
    let mut times: Vec<(f64, bool)> = Vec::with_capacity(samples);
    while times.len() < samples {
        // All are made first: what `make` has done last, for one class this and for the other that, the processor's
        // predictions still know in what comes next.
        let classes = random::<64>().map(|chance| chance & 1 == 1);
        let inputs: Vec<T> = classes.iter().map(|second| make(*second)).collect();
        for (input, second) in black_box(inputs).into_iter().zip(classes) {
            let begin = Instant::now();
            act(&input);
            times.push((begin.elapsed().as_secs_f64(), second));
        }
    }
    // Caches are cold at first.
    times.drain(..samples / 10);
    let mut order: Vec<f64> = times.iter().map(|(time, _)| *time).collect();
    order.sort_by(f64::total_cmp);
    let worst = [1.0, 0.95, 0.8, 0.5].map(|share| welch(&times, order[share_of(order.len() - 1, share)]));
    let worst = worst.into_iter().fold(0.0, f64::max);
    println!("{what}: t = {worst:.2} over {samples} samples, median {:.2} µs", order[order.len() / 2] * 1e6);
    worst
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place in a list"
)]
fn share_of(last: usize, share: f64) -> usize {
    (last as f64 * share) as usize
}

/// Welch's t of the times up to `most`.
fn welch(times: &[(f64, bool)], most: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "of millions")]
    let moments = |second: bool| {
        let kept: Vec<f64> = times
            .iter()
            .filter(|(time, class)| *class == second && *time <= most)
            .map(|(time, _)| *time)
            .collect();
        let count = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / count;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((one, spread_one), (two, spread_two)) = (moments(false), moments(true));
    let spread = (spread_one + spread_two).sqrt();
    // A clock that is too coarse shows no difference.
    if spread > 0.0 { (one - two).abs() / spread } else { 0.0 }
}

fn key() -> SecretString {
    keys::generate_private_key(2048, &SystemRandomness::default()).expect("random bytes")
}

fn private_key() -> PrivateKey {
    PrivateKey::parse(&key(), None).unwrap_or_else(|refused| panic!("{refused}"))
}

/// Eight messages: always the same ones, or other ones each time.
fn messages() -> impl Fn(bool) -> [[u8; 64]; 8] {
    let same: [[u8; 64]; 8] = std::array::from_fn(|_| random());
    move |others| {
        if others { std::array::from_fn(|_| random()) } else { std::array::from_fn(|n| copied(&same[n])) }
    }
}

/// As much work as `random`, so that the caches are as cold.
fn copied(message: &[u8; 64]) -> [u8; 64] {
    black_box(random::<64>());
    *message
}

/// Without this check, a test that detects nothing would look like a service that leaks nothing.
#[test]
fn a_comparison_that_stops_at_the_first_difference_is_detected() {
    let secret = random::<4096>();
    let guess = |far: bool| {
        let mut guess = secret;
        guess[if far { 0 } else { 4095 }] ^= 1;
        guess
    };
    let stops_early = |guess: &[u8; 4096]| {
        black_box(secret.iter().zip(guess).all(|(one, two)| black_box(one) == black_box(two)));
    };
    assert!(t("early exit", 5_000, guess, stops_early) > LEAK);
}

/// reliability.md, case 2: otherwise a key could be guessed one character at a time.
#[tokio::test]
async fn an_api_key_that_is_nearly_right_is_refused_as_fast_as_any() {
    let house = InProcessService::build(key().expose_secret(), 100).await;
    let callers = &house.service.snapshot.load().callers;
    let right = api_key(7);
    assert!(callers.by_api_key(right.as_bytes()).is_some());
    let wrong = |far: bool| {
        let chance = format!("{:016x}", u64::from_ne_bytes(random()));
        let alike = if far { &chance } else { &right };
        format!("{}{}x", &alike[..right.len() - 4], &chance[13..])
    };
    let samples = samples(100_000);
    let seen = t("API keys", samples, wrong, |key| {
        assert!(callers.by_api_key(black_box(key.as_bytes())).is_none());
    });
    assert!(seen < bound(samples), "t = {seen:.1}");
}

#[test]
fn a_signature_takes_as_long_for_one_message_as_for_another() {
    let key = private_key();
    let mut signature = vec![0; key.signature_len()];
    let samples = samples(2_000);
    let seen = t("one signature", samples, messages(), |messages| {
        key.sign(Algorithm::Rs256, &messages[0], &mut signature).expect("a good key signs");
    });
    assert!(seen < bound(samples), "t = {seen:.1}");
}

/// Batches of eight signatures, without blinding. Without Intel's library or a CPU for it, prints that it is left
/// out.
#[test]
fn a_batch_takes_as_long_for_one_message_as_for_others() {
    let tools = std::env::var_os("TOKENMINT_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"), PathBuf::from);
    let library = match BatchLibrary::open(&tools.join("crypto_mb/lib/libcrypto_mb.so.13")) {
        Ok(library) => library,
        Err(reason) => return println!("left out: {reason}"),
    };
    let batch = BatchSigner::new(library, Arc::new(SystemRandomness::default()), &Metrics::new());
    let key = private_key();
    assert_ne!(batch.self_test(&key), SelfTestResult::Unfit);
    let samples = samples(1_000);
    let seen = t("eight signatures", samples, messages(), |messages| {
        let hashes: [_; BatchParams::MAX_SIZE] =
            std::array::from_fn(|n| keys::hash_message(Algorithm::Rs256, &messages[n]));
        let wanted: Vec<_> = hashes.iter().map(|hash| SignRequest { key: &key, hash }).collect();
        assert!(batch.sign(&wanted).iter().all(Result::is_ok), "a good key signs");
    });
    assert!(seen < bound(samples), "t = {seen:.1}");
}
