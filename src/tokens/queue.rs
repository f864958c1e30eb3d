//! The line before the cores: first come, first served, and nobody waits for long.
//!
//! - A [`Permit`] is the right to keep one core busy. There are so many and no more; it goes, when dropped, to
//!   whoever stands first, or lies free. It lies free only while nobody waits.
//! - Who has waited too long is sent away when it would be their turn, so no timer is needed: as the first is
//!   always the oldest, that is at most one signature late.
//! - Who goes away while waiting leaves the line at once, and a core that was already on its way to them goes on to
//!   the next.
//! - Who has a core may answer others in line as well.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use tokio::sync::oneshot;

use crate::sync::{Mutex, MutexGuard};

/// `J` is what somebody wants done, `R` what becomes of it.
pub(super) struct SigningQueue<J, R> {
    state: Mutex<QueueState<J, R>>,
    /// How many may wait.
    capacity: usize,
    /// For how long.
    max_wait: Duration,
    depth: IntGauge,
}

struct QueueState<J, R> {
    free: usize,
    tickets: u64,
    /// By ticket, and so by age.
    waiting: VecDeque<Waiter<J, R>>,
}

struct Waiter<J, R> {
    ticket: u64,
    enqueued_at: Instant,
    job: J,
    turn: oneshot::Sender<Result<Acquired<J, R>, AcquireError>>,
}

/// A job that somebody else does.
pub(super) struct TakenWaiter<J, R> {
    pub enqueued_at: Instant,
    pub job: J,
    turn: oneshot::Sender<Result<Acquired<J, R>, AcquireError>>,
}

impl<J, R> TakenWaiter<J, R> {
    pub fn complete(self, outcome: R) {
        // Who has gone away meanwhile needs none.
        let _ = self.turn.send(Ok(Acquired::Done(outcome)));
    }
}

/// How a wait ends.
pub(super) enum Acquired<J, R> {
    /// With a core, to do it oneself.
    Permit(Permit<J, R>, J),
    /// Somebody who had a core did it too.
    Done(R),
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcquireError {
    /// All places in line are taken.
    Full,
    /// The wait took too long.
    TimedOut,
    /// Who should have done it died over it.
    Abandoned,
}

impl<J, R> SigningQueue<J, R> {
    pub fn new(cores: usize, capacity: usize, max_wait: Duration, depth: IntGauge) -> Arc<Self> {
        let state = QueueState { free: cores, tickets: 0, waiting: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state), capacity, max_wait, depth })
    }

    /// Waits until it is `job`'s turn, or somebody else has done it.
    pub async fn acquire(self: &Arc<Self>, job: J) -> Result<Acquired<J, R>, AcquireError> {
        let (ticket, turn) = {
            let mut state = self.state();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                drop(state);
                return Ok(Acquired::Permit(Permit { queue: self.clone() }, job));
            }
            if state.waiting.len() >= self.capacity {
                return Err(AcquireError::Full);
            }
            let (sender, turn) = oneshot::channel();
            let ticket = state.tickets;
            state.tickets += 1;
            state.waiting.push_back(Waiter { ticket, enqueued_at: Instant::now(), job, turn: sender });
            self.report_depth(&state);
            (ticket, turn)
        };
        let leaving = CancelGuard { queue: self, ticket };
        let turn = turn.await;
        // Whoever sent it took the place out of the line.
        std::mem::forget(leaving);
        turn.unwrap_or(Err(AcquireError::Abandoned))
    }

    /// Takes out the first `most` jobs that are `alike`, if there are `least` of them, for who has a core to do them as
    /// well: each with how long it has waited and where its outcome goes.
    pub fn take_matching(
        &self,
        alike: impl Fn(&J) -> bool,
        least: usize,
        most: usize,
    ) -> Vec<TakenWaiter<J, R>> {
        let mut state = self.state();
        let found: Vec<usize> =
            (0..state.waiting.len()).filter(|at| alike(&state.waiting[*at].job)).take(most).collect();
        if found.len() < least {
            return Vec::new();
        }
        // From the back, so that the positions hold.
        let mut taken: Vec<TakenWaiter<J, R>> = found
            .into_iter()
            .rev()
            .filter_map(|at| state.waiting.remove(at))
            .map(|Waiter { enqueued_at, job, turn, .. }| TakenWaiter { enqueued_at, job, turn })
            .collect();
        taken.reverse();
        self.report_depth(&state);
        taken
    }

    fn state(&self) -> MutexGuard<'_, QueueState<J, R>> {
        self.state.lock().expect("nothing panics while it holds the line")
    }

    fn report_depth(&self, state: &QueueState<J, R>) {
        self.depth.set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
    }

    /// Takes out the first, and all before it who have waited too long; where nobody is left, a core lies free.
    fn pop_waiter(&self) -> PoppedWaiters<J, R> {
        let mut state = self.state();
        let mut late = Vec::new();
        let now = Instant::now();
        let first = loop {
            match state.waiting.pop_front() {
                Some(place) if now.duration_since(place.enqueued_at) > self.max_wait => late.push(place),
                first => break first,
            }
        };
        if first.is_none() {
            state.free += 1;
        }
        self.report_depth(&state);
        PoppedWaiters { late, first }
    }
}

struct PoppedWaiters<J, R> {
    late: Vec<Waiter<J, R>>,
    first: Option<Waiter<J, R>>,
}

/// The right to keep one core busy.
pub(super) struct Permit<J, R> {
    queue: Arc<SigningQueue<J, R>>,
}

impl<J, R> Permit<J, R> {
    /// The line that it came from.
    pub fn queue(&self) -> &SigningQueue<J, R> {
        &self.queue
    }
}

impl<J, R> Drop for Permit<J, R> {
    fn drop(&mut self) {
        let PoppedWaiters { late, first } = self.queue.pop_waiter();
        // Outside of the lock: if the receiver has just gone, its turn is dropped here, and goes to the next.
        for place in late {
            let _ = place.turn.send(Err(AcquireError::TimedOut));
        }
        if let Some(Waiter { job, turn, .. }) = first {
            let core = Self { queue: self.queue.clone() };
            let _ = turn.send(Ok(Acquired::Permit(core, job)));
        }
    }
}

/// One who waits, and goes away before it is their turn.
struct CancelGuard<'a, J, R> {
    queue: &'a SigningQueue<J, R>,
    ticket: u64,
}

impl<J, R> Drop for CancelGuard<'_, J, R> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let place = state.waiting.binary_search_by_key(&self.ticket, |place| place.ticket);
        let place = place.ok().and_then(|position| state.waiting.remove(position));
        self.queue.report_depth(&state);
        drop(state);
        // Not under the lock: it may hold the last reference to a key.
        drop(place);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    type TestQueue = Arc<SigningQueue<u32, u32>>;

    fn queue(cores: usize, capacity: usize) -> TestQueue {
        SigningQueue::new(
            cores,
            capacity,
            Duration::from_mins(1),
            IntGauge::new("depth", "of the line").expect("a name"),
        )
    }

    #[track_caller]
    fn core(turn: Option<Result<Acquired<u32, u32>, AcquireError>>, job: u32) -> Permit<u32, u32> {
        let Some(Ok(Acquired::Permit(core, own))) = turn else { unreachable!("no core for {job}") };
        assert_eq!(own, job);
        core
    }

    #[test]
    fn who_comes_first_is_served_first_and_no_core_serves_two() {
        let queue = queue(2, 10);
        let first = core(queue.acquire(1).now_or_never(), 1);
        let second = core(queue.acquire(2).now_or_never(), 2);
        let (mut third, mut fourth) = (pin!(queue.acquire(3)), pin!(queue.acquire(4)));
        assert!(third.as_mut().now_or_never().is_none() && fourth.as_mut().now_or_never().is_none());
        assert_eq!(queue.depth.get(), 2);
        drop(second);
        assert!(fourth.as_mut().now_or_never().is_none(), "the third came first");
        let third = core(third.now_or_never(), 3);
        drop((first, third));
        drop(core(fourth.now_or_never(), 4));
        assert_eq!((queue.depth.get(), queue.state().free), (0, 2));
    }

    #[test]
    fn a_full_line_refuses_at_once() {
        let queue = queue(1, 1);
        let _busy = core(queue.acquire(1).now_or_never(), 1);
        let mut second = pin!(queue.acquire(2));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(queue.acquire(3).now_or_never().and_then(Result::err), Some(AcquireError::Full));
    }

    /// The place is given back too: else clients that give up would fill the line for those who stay.
    #[test]
    fn who_goes_away_leaves_the_line() {
        let queue = queue(1, 1);
        let busy = core(queue.acquire(1).now_or_never(), 1);
        for impatient in 2..100 {
            assert!(queue.acquire(impatient).now_or_never().is_none(), "{impatient} waits, and goes");
            assert_eq!(queue.depth.get(), 0);
        }
        let mut last = pin!(queue.acquire(100));
        assert!(last.as_mut().now_or_never().is_none());
        drop(busy);
        drop(core(last.now_or_never(), 100));
    }

    /// Else a core would be lost for ever with each client that hangs up at the wrong moment.
    #[test]
    fn a_core_on_its_way_to_one_who_has_gone_goes_to_the_next() {
        let queue = queue(1, 10);
        let busy = core(queue.acquire(1).now_or_never(), 1);
        let mut gone = Box::pin(queue.acquire(2));
        let mut next = pin!(queue.acquire(3));
        assert!(gone.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
        drop(busy);
        drop(gone);
        drop(core(next.now_or_never(), 3));
        assert_eq!(queue.state().free, 1);
    }

    #[test]
    fn who_has_waited_too_long_is_sent_away_when_the_turn_comes() {
        let queue: TestQueue =
            SigningQueue::new(1, 10, Duration::from_millis(20), IntGauge::new("d", "d").expect("a name"));
        let busy = core(queue.acquire(1).now_or_never(), 1);
        let mut old = pin!(queue.acquire(2));
        assert!(old.as_mut().now_or_never().is_none());
        std::thread::sleep(Duration::from_millis(30));
        let mut young = pin!(queue.acquire(3));
        assert!(young.as_mut().now_or_never().is_none());
        drop(busy);
        assert_eq!(old.now_or_never().expect("at once").err(), Some(AcquireError::TimedOut));
        drop(core(young.now_or_never(), 3));
    }
    #[test]
    fn who_has_a_core_may_do_what_others_want() {
        let queue = queue(1, 20);
        let busy = core(queue.acquire(0).now_or_never(), 0);
        let mut waiting: Vec<_> = (1..=10).map(|job| Box::pin(queue.acquire(job))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        assert!(queue.take_matching(|job| job % 2 == 1, 6, 7).is_empty(), "there are five");
        let odd = queue.take_matching(|job| job % 2 == 1, 2, 3);
        assert_eq!(odd.iter().map(|taken| taken.job).collect::<Vec<_>>(), [1, 3, 5], "the oldest, in order");
        assert_eq!(queue.depth.get(), 7);
        let gone = waiting.remove(4);
        drop(gone);
        for taken in odd {
            let outcome = taken.job * 100;
            taken.complete(outcome);
        }
        assert!(matches!(waiting.remove(2).now_or_never(), Some(Ok(Acquired::Done(300)))));
        assert!(matches!(waiting.remove(0).now_or_never(), Some(Ok(Acquired::Done(100)))));
        drop(busy);
        drop(core(waiting.remove(0).now_or_never(), 2));
    }

    #[test]
    fn who_is_let_down_hears_of_it() {
        let queue = queue(1, 20);
        let _busy = core(queue.acquire(0).now_or_never(), 0);
        let mut waiting = pin!(queue.acquire(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(queue.take_matching(|_| true, 1, 7));
        assert_eq!(waiting.now_or_never().expect("at once").err(), Some(AcquireError::Abandoned));
    }
}
