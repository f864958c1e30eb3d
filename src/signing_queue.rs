//! A bounded FIFO queue in front of a fixed number of permits: of the cores, or of the requests to a store. When it is full, it rejects jobs at once
//! (backpressure).
//!
//! - A [`Permit`] is the right to sign. Dropping a permit hands it to the oldest waiter, or returns it to
//!   the queue when nobody waits. So a permit is only free while the queue is empty.
//! - Expired waiters are rejected when they reach the front, so no timer is needed. The front waiter is always the
//!   oldest, so the rejection comes at most one signature or batch late. A waiter that a batch takes is signed however
//!   long it has waited.
//! - Cancellation safety: a cancelled waiter leaves the queue at once. A permit that was already on its way to it goes to
//!   the next waiter.
//! - The holder of a permit may complete the jobs of other waiters too ([`SigningQueue::take_matching`]), which is how a
//!   batch is collected.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use tokio::sync::oneshot;

use crate::sync::{Mutex, MutexGuard};

/// A job is a `J`; its outcome is an `R`.
pub(crate) struct SigningQueue<J, R> {
    state: Mutex<QueueState<J, R>>,
    /// The most waiters at a time.
    capacity: usize,
    /// A waiter that has waited for longer is rejected when it reaches the front.
    max_wait: Duration,
    depth: IntGauge,
}

struct QueueState<J, R> {
    free_permits: usize,
    next_ticket: u64,
    /// In order of `ticket`, the oldest first.
    waiters: VecDeque<Waiter<J, R>>,
}

struct Waiter<J, R> {
    ticket: u64,
    enqueued_at: Instant,
    job: J,
    sender: oneshot::Sender<Result<Acquired<J, R>, AcquireError>>,
}

/// A waiter whose job the holder of a permit does for it.
pub(crate) struct TakenWaiter<J, R> {
    pub(crate) enqueued_at: Instant,
    pub(crate) job: J,
    sender: oneshot::Sender<Result<Acquired<J, R>, AcquireError>>,
}

impl<J, R> TakenWaiter<J, R> {
    /// Ends the wait with `outcome`.
    pub(crate) fn complete(self, outcome: R) {
        // The send fails if the waiter was cancelled meanwhile, and then nobody needs the outcome.
        let _ = self.sender.send(Ok(Acquired::Done(outcome)));
    }
}

/// The successful end of a wait.
pub(crate) enum Acquired<J, R> {
    /// A permit, and the job back: the caller does it itself.
    Permit(Permit<J, R>, J),
    /// The holder of another permit did the job in its batch.
    Done(R),
}

/// The reasons why a wait ends without a permit or an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcquireError {
    /// `capacity` waiters are there already.
    Full,
    /// The wait took longer than `max_wait`.
    TimedOut,
    /// The permit holder that took the job dropped it without an outcome, for example by a panic.
    Abandoned,
}

impl<J, R> SigningQueue<J, R> {
    pub(crate) fn new(permits: usize, capacity: usize, max_wait: Duration, depth: IntGauge) -> Arc<Self> {
        let state = QueueState { free_permits: permits, next_ticket: 0, waiters: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state), capacity, max_wait, depth })
    }

    /// Waits for a permit for `job`, or until the holder of another permit has done the job.
    ///
    /// # Errors
    /// The queue is full, the wait took too long, or the job was taken and dropped.
    pub(crate) async fn acquire(self: &Arc<Self>, job: J) -> Result<Acquired<J, R>, AcquireError> {
        let (ticket, receiver) = {
            let mut state = self.state();
            if let Some(free_permits) = state.free_permits.checked_sub(1) {
                state.free_permits = free_permits;
                drop(state);
                return Ok(Acquired::Permit(Permit { queue: self.clone() }, job));
            }
            if state.waiters.len() >= self.capacity {
                return Err(AcquireError::Full);
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiters.push_back(Waiter { ticket, enqueued_at: Instant::now(), job, sender });
            self.report_depth(&state);
            (ticket, receiver)
        };
        let guard = CancelGuard { queue: self, ticket };
        let acquired = receiver.await;
        // The sender removed the waiter from the queue already.
        std::mem::forget(guard);
        acquired.unwrap_or(Err(AcquireError::Abandoned))
    }

    /// Removes the oldest waiters whose jobs match, at most `max`, for the holder of a permit to do their jobs too.
    /// Removes none if fewer than `min` match.
    pub(crate) fn take_matching(
        &self,
        matches: impl Fn(&J) -> bool,
        min: usize,
        max: usize,
    ) -> Vec<TakenWaiter<J, R>> {
        let mut state = self.state();
        let found: Vec<usize> =
            (0..state.waiters.len()).filter(|at| matches(&state.waiters[*at].job)).take(max).collect();
        if found.len() < min {
            return Vec::new();
        }
        // From the back, so that the earlier positions stay valid.
        let mut taken: Vec<TakenWaiter<J, R>> = found
            .into_iter()
            .rev()
            .filter_map(|at| state.waiters.remove(at))
            .map(|Waiter { enqueued_at, job, sender, .. }| TakenWaiter { enqueued_at, job, sender })
            .collect();
        taken.reverse();
        self.report_depth(&state);
        taken
    }

    fn state(&self) -> MutexGuard<'_, QueueState<J, R>> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    fn report_depth(&self, state: &QueueState<J, R>) {
        self.depth.set(i64::try_from(state.waiters.len()).unwrap_or(i64::MAX));
    }

    /// Removes the expired waiters at the front and the first that is not expired. If none is left, one more permit is free.
    fn pop_waiter(&self) -> PoppedWaiters<J, R> {
        let mut state = self.state();
        let mut expired = Vec::new();
        let now = Instant::now();
        let next = loop {
            match state.waiters.pop_front() {
                Some(waiter) if now.duration_since(waiter.enqueued_at) > self.max_wait => {
                    expired.push(waiter);
                }
                next => break next,
            }
        };
        if next.is_none() {
            state.free_permits += 1;
        }
        self.report_depth(&state);
        PoppedWaiters { expired, next }
    }
}

struct PoppedWaiters<J, R> {
    expired: Vec<Waiter<J, R>>,
    next: Option<Waiter<J, R>>,
}

/// The right to sign. Dropping it hands it to the oldest waiter.
pub(crate) struct Permit<J, R> {
    queue: Arc<SigningQueue<J, R>>,
}

impl<J, R> Permit<J, R> {
    /// The queue that handed it out.
    pub(crate) fn queue(&self) -> &SigningQueue<J, R> {
        &self.queue
    }
}

impl<J, R> Drop for Permit<J, R> {
    fn drop(&mut self) {
        let PoppedWaiters { expired, next } = self.queue.pop_waiter();
        // Outside of the lock: if the receiver was just cancelled, the send drops the new permit here, and it goes to the next.
        for waiter in expired {
            let _ = waiter.sender.send(Err(AcquireError::TimedOut));
        }
        if let Some(Waiter { job, sender, .. }) = next {
            let permit = Self { queue: self.queue.clone() };
            let _ = sender.send(Ok(Acquired::Permit(permit, job)));
        }
    }
}

/// Removes a waiter that is cancelled before its wait ends.
struct CancelGuard<'a, J, R> {
    queue: &'a SigningQueue<J, R>,
    ticket: u64,
}

impl<J, R> Drop for CancelGuard<'_, J, R> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let position = state.waiters.binary_search_by_key(&self.ticket, |waiter| waiter.ticket);
        let waiter = position.ok().and_then(|position| state.waiters.remove(position));
        self.queue.report_depth(&state);
        drop(state);
        // Outside of the lock: the waiter's job may hold the last reference to a private key.
        drop(waiter);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    type TestQueue = Arc<SigningQueue<u32, u32>>;

    fn queue(permits: usize, capacity: usize) -> TestQueue {
        SigningQueue::new(
            permits,
            capacity,
            Duration::from_mins(1),
            IntGauge::new("depth", "waiters").expect("a name"),
        )
    }

    #[track_caller]
    fn permit(acquired: Option<Result<Acquired<u32, u32>, AcquireError>>, job: u32) -> Permit<u32, u32> {
        let Some(Ok(Acquired::Permit(permit, own))) = acquired else { unreachable!("no permit for {job}") };
        assert_eq!(own, job);
        permit
    }

    #[test]
    fn the_oldest_waiter_gets_the_permit_first() {
        let queue = queue(2, 10);
        let first = permit(queue.acquire(1).now_or_never(), 1);
        let second = permit(queue.acquire(2).now_or_never(), 2);
        let (mut third, mut fourth) = (pin!(queue.acquire(3)), pin!(queue.acquire(4)));
        assert!(third.as_mut().now_or_never().is_none() && fourth.as_mut().now_or_never().is_none());
        assert_eq!(queue.depth.get(), 2);
        drop(second);
        assert!(fourth.as_mut().now_or_never().is_none(), "the third came first");
        let third = permit(third.now_or_never(), 3);
        drop((first, third));
        drop(permit(fourth.now_or_never(), 4));
        assert_eq!((queue.depth.get(), queue.state().free_permits), (0, 2));
    }

    #[test]
    fn a_full_queue_rejects_at_once() {
        let queue = queue(1, 1);
        let _busy = permit(queue.acquire(1).now_or_never(), 1);
        let mut second = pin!(queue.acquire(2));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(queue.acquire(3).now_or_never().and_then(Result::err), Some(AcquireError::Full));
    }

    /// Otherwise clients that give up would fill the queue.
    #[test]
    fn a_cancelled_waiter_leaves_the_queue_at_once() {
        let queue = queue(1, 1);
        let busy = permit(queue.acquire(1).now_or_never(), 1);
        for impatient in 2..100 {
            assert!(queue.acquire(impatient).now_or_never().is_none(), "{impatient} waits, and is cancelled");
            assert_eq!(queue.depth.get(), 0);
        }
        let mut last = pin!(queue.acquire(100));
        assert!(last.as_mut().now_or_never().is_none());
        drop(busy);
        drop(permit(last.now_or_never(), 100));
    }

    /// Otherwise each client that hangs up at the wrong moment would lose a permit.
    #[test]
    fn a_permit_sent_to_a_cancelled_waiter_goes_to_the_next() {
        let queue = queue(1, 10);
        let busy = permit(queue.acquire(1).now_or_never(), 1);
        let mut gone = Box::pin(queue.acquire(2));
        let mut next = pin!(queue.acquire(3));
        assert!(gone.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
        drop(busy);
        drop(gone);
        drop(permit(next.now_or_never(), 3));
        assert_eq!(queue.state().free_permits, 1);
    }

    #[test]
    fn an_expired_waiter_is_rejected_when_it_reaches_the_front() {
        let queue: TestQueue =
            SigningQueue::new(1, 10, Duration::from_millis(20), IntGauge::new("d", "d").expect("a name"));
        let busy = permit(queue.acquire(1).now_or_never(), 1);
        let mut old = pin!(queue.acquire(2));
        assert!(old.as_mut().now_or_never().is_none());
        std::thread::sleep(Duration::from_millis(30));
        let mut young = pin!(queue.acquire(3));
        assert!(young.as_mut().now_or_never().is_none());
        drop(busy);
        assert_eq!(old.now_or_never().expect("at once").err(), Some(AcquireError::TimedOut));
        drop(permit(young.now_or_never(), 3));
    }

    #[test]
    fn a_permit_holder_completes_the_jobs_of_matching_waiters() {
        let queue = queue(1, 20);
        let busy = permit(queue.acquire(0).now_or_never(), 0);
        let mut waiting: Vec<_> = (1..=10).map(|job| Box::pin(queue.acquire(job))).collect();
        assert!(waiting.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
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
        drop(permit(waiting.remove(0).now_or_never(), 2));
    }

    #[test]
    fn dropping_a_taken_waiter_ends_its_wait_with_an_error() {
        let queue = queue(1, 20);
        let _busy = permit(queue.acquire(0).now_or_never(), 0);
        let mut waiting = pin!(queue.acquire(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(queue.take_matching(|_| true, 1, 7));
        assert_eq!(waiting.now_or_never().expect("at once").err(), Some(AcquireError::Abandoned));
    }
}
