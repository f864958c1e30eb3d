//! Concurrency test of the single-flight and the signing queue with three threads, in many orders of their steps.
//! shuttle runs one thread at a time, chooses the next at each lock and each wait, and fails when all threads wait,
//! since a wake-up was lost.
//!
//! The service's own source is compiled here, with shuttle's lock as its `crate::sync`. tokio's channels are the
//! real ones, and each of their calls is one step; tokio tests their inside. `tests/model` tests the exchanger,
//! which never returns the token that a caller rejected. Here a late caller that rejects a token finds the next one
//! instead of beginning another exchange.
//!
//! `MODEL_CASES` sets the number of orders of each; `make model` runs 100,000. A failure prints the order that
//! shows it.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics to fail, and says how much it has tried"
)]

#[path = "../../src/signing_queue.rs"]
#[allow(dead_code, unused_imports, reason = "its unit tests aren't run here")]
mod queue;
#[path = "../../src/exchange/single_flight.rs"]
mod single_flight;

mod sync {
    pub use shuttle::sync::{Mutex, MutexGuard};
}

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures_util::FutureExt as _;
use prometheus::IntGauge;
use shuttle::future::block_on;
use shuttle::rand::Rng as _;
use shuttle::thread;

use queue::{AcquireError, Acquired, Permit, SigningQueue};
use single_flight::{InFlightGuard, Joined, SingleFlight};

const THREADS: usize = 3;

fn main() {
    let cases = std::env::var_os("MODEL_CASES");
    let cases = cases.and_then(|cases| cases.to_str()?.parse().ok()).unwrap_or(10_000);
    for (name, model) in [("single flight", single_flight as fn()), ("signing queue", signing_queue)] {
        // Half of the orders are random. The other half has few thread switches, at the worst moments (PCT).
        shuttle::check_random(model, cases / 2);
        shuttle::check_pct(model, cases / 2, 3);
        println!("{name}: {cases} orders of {THREADS} threads");
    }
}

fn chance() -> bool {
    shuttle::rand::thread_rng().gen_bool(0.5)
}

/// The state that the three callers share.
#[derive(Default)]
struct Salesforce {
    /// The number of the cached token. Each caller rejects the first, 0.
    kept: shuttle::sync::Mutex<usize>,
    under_way: AtomicUsize,
    begun: AtomicUsize,
    failed: AtomicUsize,
}

/// How the work ends.
enum End {
    Token,
    /// Nothing is cached: the next caller begins another exchange.
    Refusal,
    Panic,
}

impl Salesforce {
    fn work(&self, guard: InFlightGuard<u8, Option<usize>>, end: &End) {
        assert_eq!(self.under_way.fetch_add(1, SeqCst), 0, "one flight at a time");
        thread::yield_now();
        assert_eq!(self.under_way.fetch_sub(1, SeqCst), 1, "one flight at a time");
        let token = self.begun.load(SeqCst);
        match end {
            End::Token => {
                *self.kept.lock().expect("nothing panics") = token;
                guard.complete(Some(token));
            }
            End::Refusal => {
                self.failed.fetch_add(1, SeqCst);
                guard.complete(None);
            }
            End::Panic => {
                self.failed.fetch_add(1, SeqCst);
                drop(guard);
            }
        }
    }
}

/// All callers reject the cached token and want another. One may give up, and the work may fail.
fn single_flight() {
    let flights: Arc<SingleFlight<u8, Option<usize>>> = Arc::default();
    let salesforce: Arc<Salesforce> = Arc::default();
    let ask = |hangs_up: bool| {
        let (flights, salesforce) = (flights.clone(), salesforce.clone());
        move || {
            let before = *salesforce.kept.lock().expect("nothing panics");
            let kept = || Some(*salesforce.kept.lock().expect("nothing panics")).filter(|token| *token != 0);
            let (flight, worker) = match flights.join(0, kept) {
                Joined::Resolved(token) => {
                    assert!(token >= before, "the newest token");
                    return;
                }
                Joined::Follower(flight) => (flight, None),
                Joined::Leader(flight, guard) => {
                    salesforce.begun.fetch_add(1, SeqCst);
                    let salesforce = salesforce.clone();
                    let end = match shuttle::rand::thread_rng().gen_range(0..4) {
                        0 => End::Refusal,
                        1 => End::Panic,
                        _ => End::Token,
                    };
                    (flight, Some(thread::spawn(move || salesforce.work(guard, &end))))
                }
            };
            if hangs_up {
                let _ = flight.outcome().now_or_never();
            } else if let Some(token) = block_on(flight.outcome()).flatten() {
                assert!(
                    token > 0 && token >= before,
                    "not the rejected token, and none older than was kept before"
                );
            } else {
                assert!(
                    salesforce.failed.load(SeqCst) > 0,
                    "nobody goes without a token while all work brings one"
                );
            }
            if let Some(worker) = worker {
                worker.join().expect("the work ends");
            }
        }
    };
    let callers: Vec<_> = (0..THREADS).map(|caller| thread::spawn(ask(caller == 0 && chance()))).collect();
    for caller in callers {
        caller.join().expect("each caller ends");
    }
    let (begun, failed) = (salesforce.begun.load(SeqCst), salesforce.failed.load(SeqCst));
    assert!(begun - failed <= 1, "{begun} began and {failed} failed: nobody repeats what has been done");
    assert!(matches!(flights.join(0, || Some(())), Joined::Resolved(())), "no flight is left over");
}

/// All callers want a signature, with one or two permits. One may give up. A caller with a permit may sign for
/// others too, or panic.
fn signing_queue() {
    let (cores, capacity) = (if chance() { 1 } else { 2 }, if chance() { 1 } else { THREADS });
    let max_wait = if chance() { Duration::ZERO } else { Duration::MAX };
    let queue: Arc<SigningQueue<usize, usize>> =
        SigningQueue::new(cores, capacity, max_wait, IntGauge::new("depth", "of the line").expect("a name"));
    let busy = Arc::new(AtomicUsize::new(0));
    let done: Arc<[AtomicUsize; THREADS]> = Arc::default();
    let lost = Arc::new(AtomicUsize::new(0));

    let ask = |own: usize, goes_away: bool| {
        let (queue, busy, done, lost) = (queue.clone(), busy.clone(), done.clone(), lost.clone());
        move || {
            let mut turn = pin!(queue.acquire(own));
            let turn = if goes_away {
                let first = turn.as_mut().now_or_never();
                thread::yield_now();
                // The caller gives up, though it may have got the permit by now.
                let Some(turn) = first else { return };
                turn
            } else {
                block_on(turn)
            };
            let answered = match turn {
                Ok(Acquired::Permit(core, job)) => {
                    assert_eq!(job, own, "each does its own job");
                    assert!(busy.fetch_add(1, SeqCst) < cores, "no core serves two");
                    lead(&core, &done, &lost);
                    done[own].fetch_add(1, SeqCst);
                    busy.fetch_sub(1, SeqCst);
                    drop(core);
                    1
                }
                Ok(Acquired::Done(answer)) => {
                    assert_eq!(answer, own, "each gets its own answer");
                    1
                }
                Err(refusal) => {
                    match refusal {
                        AcquireError::Full => assert!(capacity < THREADS, "there was a place"),
                        AcquireError::TimedOut => {
                            assert_eq!(max_wait, Duration::ZERO, "nobody waited for long");
                        }
                        AcquireError::Abandoned => assert!(lost.load(SeqCst) > 0, "nobody died over it"),
                    }
                    0
                }
            };
            assert_eq!(done[own].load(SeqCst), answered, "done once where it is answered, and else never");
        }
    };
    let callers: Vec<_> = (0..THREADS).map(|own| thread::spawn(ask(own, own == 1 && chance()))).collect();
    for caller in callers {
        caller.join().expect("each caller ends");
    }
    let free: Vec<_> = (0..cores).map(|_| queue.acquire(0).now_or_never()).collect();
    assert!(
        free.iter().all(|turn| matches!(turn, Some(Ok(Acquired::Permit(..))))),
        "every core is free again"
    );
}

/// Does nothing for others, does their work, or takes it and panics.
fn lead(core: &Permit<usize, usize>, done: &[AtomicUsize; THREADS], lost: &AtomicUsize) {
    thread::yield_now();
    if chance() {
        return;
    }
    for taken in core.queue().take_matching(|_| true, 1, THREADS) {
        if chance() {
            done[taken.job].fetch_add(1, SeqCst);
            let answer = taken.job;
            taken.complete(answer);
        } else {
            lost.fetch_add(1, SeqCst);
            drop(taken);
        }
    }
}
