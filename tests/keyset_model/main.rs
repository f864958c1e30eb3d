//! A model test of keysets: random histories of files, clocks, operators, hand edits, reloads and restarts, and
//! invariants of all of them. `MODEL_CASES` sets the number of histories. A failure is shrunk to the shortest one.
//! The schedule, its timeline, the retirement step and the history of published keys are the service's own code.
//! RSA, sockets and the disk are left out.
//!
//! 1. A retired key neither signs nor is published once a process has read that it is.
//! 2. A key that was gone never comes back within one process without `emergency`.
//! 3. A command that ends with 0 has changed what the service then does.
//! 4. Whoever keeps a JWKS as long as it says verifies all that its process signs, emergencies excepted; and a key stays
//!    published while a token that it signed may live, retirements excepted.
//! 5. A reload leaves a process that signs with a signing key, retirements of that key and emergencies excepted.

#![allow(clippy::print_stdout, reason = "says what was tried")]

mod oracle;
mod process;
mod simulation;

use std::cell::RefCell;
use std::env;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use simulation::{Command, Edit, Simulation, Spoiled, Step};

/// How often each event happened. An invariant that no history exercises proves nothing.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    histories: u64,
    steps: u64,
    commands: u64,
    ended_with_0: u64,
    ended_with_1: u64,
    changed_meanwhile: u64,
    keys_taken_away: u64,
    reloads: u64,
    refused_reloads: u64,
    refused_by_history: u64,
    restarts: u64,
    agreed_with_oracle: u64,
    invariant_1: u64,
    invariant_2: u64,
    invariant_3: u64,
    invariant_4_signing: u64,
    invariant_4_published: u64,
    /// The files would leave a process without a signing key.
    invariant_5: u64,
    /// A key signed that a verifier may lack: in an emergency, or where its entry says that others have published
    /// it before.
    knowingly_unknown: u64,
    /// The period in which a key has signed was given to another, by hand or by a late copy.
    rewritten: u64,
}

fn seconds() -> impl Strategy<Value = i64> {
    select(vec![1, 2, 3, 5, 6, 60, 200, 250, 300, 400, 500, 999, 1000, 1001, 1400, 3000])
}

fn command() -> impl Strategy<Value = Command> {
    let ahead = proptest::option::of(seconds());
    prop_oneof![
        3 => (any::<bool>(), ahead).prop_map(|(emergency, ahead)| Command::Rotate { emergency, ahead }),
        2 => Just(Command::Rotate { emergency: false, ahead: None }),
        4 => (0..6_usize).prop_map(Command::Retire),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let key = || 0..6_usize;
    let ahead = || prop_oneof![seconds(), seconds().prop_map(|seconds| -seconds), Just(0)];
    let added = proptest::option::of(Just(0));
    prop_oneof![
        2 => (key(), ahead()).prop_map(|(key, ahead)| Edit::Retire { key, ahead }),
        2 => key().prop_map(Edit::Unretire),
        2 => key().prop_map(Edit::Remove),
        2 => Just(Edit::PutBack),
        3 => (added, ahead(), any::<bool>()).prop_map(|(added, ahead, emergency)| Edit::Add { added, ahead, emergency }),
        1 => key().prop_map(Edit::Twin),
        2 => (key(), ahead()).prop_map(|(key, ahead)| Edit::Move { key, ahead }),
        1 => key().prop_map(Edit::Emergency),
        1 => key().prop_map(Edit::NewMaterial),
        1 => key().prop_map(Edit::RemoveFile),
        2 => select(vec![Spoiled::No, Spoiled::NoToml, Spoiled::UnknownField]).prop_map(Edit::Spoil),
        1 => any::<bool>().prop_map(Edit::Inline),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(schedule, readable)| Edit::Access { schedule, readable }),
        3 => Just(Edit::AllReadable),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let replica = || 0..3_usize;
    let operator = || 0..2_usize;
    prop_oneof![
        10 => seconds().prop_map(Step::Wait),
        3 => replica().prop_map(Step::Look),
        1 => replica().prop_map(Step::Restart),
        1 => Just(Step::Bring),
        6 => (operator(), command()).prop_map(|(operator, command)| Step::Run(operator, command)),
        10 => operator().prop_map(Step::Continue),
        5 => edit().prop_map(Step::Edit),
        1 => (replica(), any::<bool>()).prop_map(|(replica, broken)| Step::Configuration { replica, broken }),
        1 => (replica(), seconds()).prop_map(|(replica, seconds)| Step::SetClockBack { replica, seconds }),
    ]
}

/// Runs random histories. Returns the shortest one that breaks an invariant, if any.
fn play(cases: u32, locks: bool) -> (Counts, Option<String>) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let seed: u8 = env::var_os("MODEL_SEED").and_then(|seed| seed.to_str()?.parse().ok()).unwrap_or(1);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let counts = RefCell::new(Counts::default());
    let result = runner.run(&vec(step(), 1..40), |steps| {
        let mut counts = counts.borrow_mut();
        counts.histories += 1;
        let mut simulation = Simulation::new(locks);
        for step in &steps {
            simulation.step(step, &mut counts).map_err(TestCaseError::fail)?;
        }
        Ok(())
    });
    let failure = result.err().map(|error| match error {
        TestError::Fail(reason, steps) => format!("{reason}\nafter {steps:#?}"),
        TestError::Abort(reason) => reason.to_string(),
    });
    (counts.into_inner(), failure)
}

#[test]
fn the_invariants_hold_in_random_histories() {
    let cases = env::var_os("MODEL_CASES").and_then(|cases| cases.to_str()?.parse().ok()).unwrap_or(3000);
    let (counts, failure) = play(cases, true);
    println!("{counts:#?}");
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    let exercised = [
        counts.ended_with_0,
        counts.ended_with_1,
        counts.changed_meanwhile,
        counts.keys_taken_away,
        counts.refused_by_history,
        counts.restarts,
        counts.invariant_1,
        counts.invariant_2,
        counts.invariant_3,
        counts.invariant_4_signing,
        counts.invariant_4_published,
        counts.invariant_5,
    ];
    assert!(
        exercised.iter().all(|count| *count > u64::from(cases) / 100),
        "something was hardly tried: {counts:?}"
    );
}

/// Shows that the model finds lost updates.
#[test]
fn without_the_lock_and_the_comparison_a_command_undoes_another() {
    let (_, failure) = play(3000, false);
    let failure = failure.expect("two operators at once");
    assert!(failure.contains("3: a command was undone"), "{failure}");
}
