//! Model test of access tokens for two replicas: random histories of requests, rejections, disconnects, answers of
//! each kind, reloads, retirements, clock steps, a full disk, and a shared store that is up, down, slow or emptied.
//! Time, randomness, Salesforce and the store are injected. The runtime's clock is paused, so a history of hours
//! takes milliseconds.
//!
//! `MODEL_CASES` sets the number of histories; `make model` runs 100,000. A history that breaks an invariant is
//! shrunk.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics to fail, and says how much it has tried"
)]

mod simulation;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use simulation::{Answer, Counts, Disk, Fixture, Reject, Simulation, StoreMode, USERS};

/// The next event.
#[derive(Clone, Debug)]
enum Op {
    FetchOptions {
        replica: usize,
        user: usize,
        reject: Reject,
        hang_up: bool,
    },
    Pass(Duration),
    Salesforce(Answer, Duration),
    /// A reload of the same configuration, or of one in which the first key is retired.
    Reload {
        replica: usize,
        retire: bool,
    },
    StepClock(i64),
    Disk(Disk),
    Store(StoreMode),
}

fn op() -> impl Strategy<Value = Op> {
    let reject = prop_oneof![
        5 => Just(Reject::Nothing),
        3 => Just(Reject::Last),
        1 => Just(Reject::OfTheOther),
        1 => Just(Reject::Made),
    ];
    let ask = (0..2_usize, 0..USERS, reject, prop::bool::weighted(0.1))
        .prop_map(|(replica, user, reject, hang_up)| Op::FetchOptions { replica, user, reject, hang_up });
    let pass = prop_oneof![
        12 => (1..2_000_u64).prop_map(Duration::from_millis),
        12 => (1..40_u64).prop_map(Duration::from_secs),
        4 => (1..10_u64).prop_map(Duration::from_mins),
        // Replicas check the store twice a second, so long pauses cost the most.
        1 => Just(Duration::from_mins(61)),
    ];
    let answer = prop_oneof![
        8 => Just(Answer::Token),
        1 => Just(Answer::TheSame),
        1 => Just(Answer::LivesFor(5)),
        1 => Just(Answer::Milliseconds),
        1 => Just(Answer::Refused),
        1 => Just(Answer::Stopped),
        1 => Just(Answer::ServiceUnavailable),
        1 => Just(Answer::Html),
        1 => Just(Answer::Foreign),
        1 => Just(Answer::Over),
        1 => Just(Answer::Hangs),
        1 => Just(Answer::NotReached),
        1 => Just(Answer::Closed),
        1 => Just(Answer::Broken),
    ];
    let latency = prop_oneof![3 => 0..50_u64, 1 => 50..4_900_u64].prop_map(Duration::from_millis);
    let store = prop_oneof![
        4 => Just(StoreMode::Up),
        1 => Just(StoreMode::Away),
        1 => Just(StoreMode::Slow),
        1 => Just(StoreMode::Late),
        1 => Just(StoreMode::Emptied),
    ];
    prop_oneof![
        20 => ask,
        12 => pass.prop_map(Op::Pass),
        6 => (answer, latency).prop_map(|(answer, latency)| Op::Salesforce(answer, latency)),
        2 => (0..2_usize, any::<bool>()).prop_map(|(replica, retire)| Op::Reload { replica, retire }),
        1 => prop_oneof![-90_000..90_000_i64, -60..60_i64].prop_map(Op::StepClock),
        1 => prop_oneof![Just(Disk::Full), Just(Disk::Well)].prop_map(Op::Disk),
        2 => store.prop_map(Op::Store),
    ]
}

async fn play(fixture: &Fixture, history: &[Op], shared: bool) -> Result<Counts, String> {
    let mut simulation = Simulation::new(fixture, shared);
    for op in history {
        match op {
            Op::FetchOptions { replica, user, reject, hang_up } => {
                simulation.ask(*replica, *user, *reject, *hang_up);
            }
            Op::Pass(time) => tokio::time::sleep(*time).await,
            Op::Salesforce(answer, latency) => simulation.salesforce.answers(*answer, *latency),
            Op::Reload { replica, retire } => simulation.reload(*replica, *retire),
            Op::StepClock(seconds) => simulation.step_clock(*seconds),
            Op::Disk(disk) => simulation.disk(*disk),
            Op::Store(mode) => simulation.store(*mode),
        }
        simulation.check()?;
    }
    // Everything in progress ends.
    tokio::time::sleep(Duration::from_secs(30)).await;
    simulation.end().await
}

/// Regression tests: histories that once broke an invariant, and whether their replicas share a store.
fn once_broken() -> Vec<(Vec<Op>, bool)> {
    let ask = |user, reject| Op::FetchOptions { replica: 0, user, reject, hang_up: false };
    let millis = Duration::from_millis;
    vec![
        // A whole lifetime passes while an exchange waits for the shared store.
        (
            vec![
                Op::Store(StoreMode::Slow),
                Op::Salesforce(Answer::Token, millis(18)),
                Op::Pass(millis(30)),
                ask(0, Reject::Nothing),
                Op::Pass(millis(79)),
                Op::StepClock(300),
            ],
            true,
        ),
        // Many callers reject one token at once, and Salesforce returns the same one again.
        (
            [
                vec![
                    ask(3, Reject::Nothing),
                    Op::Pass(millis(200)),
                    Op::Salesforce(Answer::TheSame, millis(28)),
                ],
                vec![ask(3, Reject::Last); 8],
            ]
            .concat(),
            false,
        ),
    ]
}

#[test]
fn no_history_that_once_broke_an_invariant_breaks_it_again() {
    let fixture = Fixture::new();
    for (history, shared) in once_broken() {
        run(&fixture, &history, shared).unwrap_or_else(|broken| panic!("{broken}: {history:?}"));
    }
}

fn run(fixture: &Fixture, history: &[Op], shared: bool) -> Result<Counts, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(play(fixture, history, shared))
}

fn cases() -> u32 {
    std::env::var_os("MODEL_CASES").and_then(|cases| cases.to_str()?.parse().ok()).unwrap_or(100)
}

#[test]
fn no_random_history_breaks_an_invariant() {
    let fixture = Fixture::new();
    let counts = Mutex::new(Counts::default());
    let histories = (prop::collection::vec(op(), 1..60), prop::bool::weighted(0.7));
    let config =
        Config { cases: cases(), failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let tried = runner.run(&histories, |(history, shared)| {
        let played = run(&fixture, &history, shared).map_err(TestCaseError::fail)?;
        counts.lock().expect("not poisoned").add(&played);
        Ok(())
    });
    if let Err(broken) = tried {
        panic!("{broken}");
    }
    let counts = counts.into_inner().expect("not poisoned");
    println!("{} histories: {counts:?}", cases());
    // Events that never happen prove nothing.
    let often: BTreeMap<&str, u64> = counts.by_name().into_iter().collect();
    let never: Vec<_> = often.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    assert!(never.is_empty() || cases() < 300, "no history had: {never:?}");
}
