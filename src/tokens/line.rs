//! The line before the cores: first come, first served, and nobody waits for long.
//!
//! - A [`Core`] is the right to keep one core busy. There are so many and no more; it goes, when dropped, to
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
pub(super) struct Line<J, R> {
    state: Mutex<State<J, R>>,
    /// How many may wait.
    places: usize,
    /// For how long.
    patience: Duration,
    depth: IntGauge,
}

struct State<J, R> {
    free: usize,
    tickets: u64,
    /// By ticket, and so by age.
    waiting: VecDeque<Place<J, R>>,
}

struct Place<J, R> {
    ticket: u64,
    since: Instant,
    job: J,
    turn: oneshot::Sender<Result<Turn<J, R>, NoTurn>>,
}

/// A job that somebody else does.
pub(super) struct Taken<J, R> {
    pub since: Instant,
    pub job: J,
    turn: oneshot::Sender<Result<Turn<J, R>, NoTurn>>,
}

impl<J, R> Taken<J, R> {
    pub fn done(self, outcome: R) {
        // Who has gone away meanwhile needs none.
        let _ = self.turn.send(Ok(Turn::Done(outcome)));
    }
}

/// How a wait ends.
pub(super) enum Turn<J, R> {
    /// With a core, to do it oneself.
    Core(Core<J, R>, J),
    /// Somebody who had a core did it too.
    Done(R),
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// All places in line are taken.
    Full,
    /// The wait took too long.
    Late,
    /// Who should have done it died over it.
    Lost,
}

impl<J, R> Line<J, R> {
    pub fn new(cores: usize, places: usize, patience: Duration, depth: IntGauge) -> Arc<Self> {
        let state = State { free: cores, tickets: 0, waiting: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state), places, patience, depth })
    }

    /// Waits until it is `job`'s turn, or somebody else has done it.
    pub async fn turn(self: &Arc<Self>, job: J) -> Result<Turn<J, R>, NoTurn> {
        let (ticket, turn) = {
            let mut state = self.state();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                drop(state);
                return Ok(Turn::Core(Core { line: self.clone() }, job));
            }
            if state.waiting.len() >= self.places {
                return Err(NoTurn::Full);
            }
            let (sender, turn) = oneshot::channel();
            let ticket = state.tickets;
            state.tickets += 1;
            state.waiting.push_back(Place { ticket, since: Instant::now(), job, turn: sender });
            self.show_depth(&state);
            (ticket, turn)
        };
        let leaving = Leaving { line: self, ticket };
        let turn = turn.await;
        // Whoever sent it took the place out of the line.
        std::mem::forget(leaving);
        turn.unwrap_or(Err(NoTurn::Lost))
    }

    /// Takes out the first `most` jobs that are `alike`, if there are `least` of them, for who has a core to do them as
    /// well: each with how long it has waited and where its outcome goes.
    pub fn take(&self, alike: impl Fn(&J) -> bool, least: usize, most: usize) -> Vec<Taken<J, R>> {
        let mut state = self.state();
        let found: Vec<usize> =
            (0..state.waiting.len()).filter(|at| alike(&state.waiting[*at].job)).take(most).collect();
        if found.len() < least {
            return Vec::new();
        }
        // From the back, so that the positions hold.
        let mut taken: Vec<Taken<J, R>> = found
            .into_iter()
            .rev()
            .filter_map(|at| state.waiting.remove(at))
            .map(|Place { since, job, turn, .. }| Taken { since, job, turn })
            .collect();
        taken.reverse();
        self.show_depth(&state);
        taken
    }

    fn state(&self) -> MutexGuard<'_, State<J, R>> {
        self.state.lock().expect("nothing panics while it holds the line")
    }

    fn show_depth(&self, state: &State<J, R>) {
        self.depth.set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
    }

    /// Takes out the first, and all before it who have waited too long; where nobody is left, a core lies free.
    fn pop(&self) -> Popped<J, R> {
        let mut state = self.state();
        let mut late = Vec::new();
        let now = Instant::now();
        let first = loop {
            match state.waiting.pop_front() {
                Some(place) if now.duration_since(place.since) > self.patience => late.push(place),
                first => break first,
            }
        };
        if first.is_none() {
            state.free += 1;
        }
        self.show_depth(&state);
        Popped { late, first }
    }
}

struct Popped<J, R> {
    late: Vec<Place<J, R>>,
    first: Option<Place<J, R>>,
}

/// The right to keep one core busy.
pub(super) struct Core<J, R> {
    line: Arc<Line<J, R>>,
}

impl<J, R> Core<J, R> {
    /// The line that it came from.
    pub fn line(&self) -> &Line<J, R> {
        &self.line
    }
}

impl<J, R> Drop for Core<J, R> {
    fn drop(&mut self) {
        let Popped { late, first } = self.line.pop();
        // Outside of the lock: if the receiver has just gone, its turn is dropped here, and goes to the next.
        for place in late {
            let _ = place.turn.send(Err(NoTurn::Late));
        }
        if let Some(Place { job, turn, .. }) = first {
            let core = Self { line: self.line.clone() };
            let _ = turn.send(Ok(Turn::Core(core, job)));
        }
    }
}

/// One who waits, and goes away before it is their turn.
struct Leaving<'a, J, R> {
    line: &'a Line<J, R>,
    ticket: u64,
}

impl<J, R> Drop for Leaving<'_, J, R> {
    fn drop(&mut self) {
        let mut state = self.line.state();
        let place = state.waiting.binary_search_by_key(&self.ticket, |place| place.ticket);
        let place = place.ok().and_then(|position| state.waiting.remove(position));
        self.line.show_depth(&state);
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

    type TestLine = Arc<Line<u32, u32>>;

    fn line(cores: usize, places: usize) -> TestLine {
        Line::new(
            cores,
            places,
            Duration::from_mins(1),
            IntGauge::new("depth", "of the line").expect("a name"),
        )
    }

    #[track_caller]
    fn core(turn: Option<Result<Turn<u32, u32>, NoTurn>>, job: u32) -> Core<u32, u32> {
        let Some(Ok(Turn::Core(core, own))) = turn else { unreachable!("no core for {job}") };
        assert_eq!(own, job);
        core
    }

    #[test]
    fn who_comes_first_is_served_first_and_no_core_serves_two() {
        let line = line(2, 10);
        let first = core(line.turn(1).now_or_never(), 1);
        let second = core(line.turn(2).now_or_never(), 2);
        let (mut third, mut fourth) = (pin!(line.turn(3)), pin!(line.turn(4)));
        assert!(third.as_mut().now_or_never().is_none() && fourth.as_mut().now_or_never().is_none());
        assert_eq!(line.depth.get(), 2);
        drop(second);
        assert!(fourth.as_mut().now_or_never().is_none(), "the third came first");
        let third = core(third.now_or_never(), 3);
        drop((first, third));
        drop(core(fourth.now_or_never(), 4));
        assert_eq!((line.depth.get(), line.state().free), (0, 2));
    }

    #[test]
    fn a_full_line_refuses_at_once() {
        let line = line(1, 1);
        let _busy = core(line.turn(1).now_or_never(), 1);
        let mut second = pin!(line.turn(2));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(line.turn(3).now_or_never().and_then(Result::err), Some(NoTurn::Full));
    }

    /// The place is given back too: else clients that give up would fill the line for those who stay.
    #[test]
    fn who_goes_away_leaves_the_line() {
        let line = line(1, 1);
        let busy = core(line.turn(1).now_or_never(), 1);
        for impatient in 2..100 {
            assert!(line.turn(impatient).now_or_never().is_none(), "{impatient} waits, and goes");
            assert_eq!(line.depth.get(), 0);
        }
        let mut last = pin!(line.turn(100));
        assert!(last.as_mut().now_or_never().is_none());
        drop(busy);
        drop(core(last.now_or_never(), 100));
    }

    /// Else a core would be lost for ever with each client that hangs up at the wrong moment.
    #[test]
    fn a_core_on_its_way_to_one_who_has_gone_goes_to_the_next() {
        let line = line(1, 10);
        let busy = core(line.turn(1).now_or_never(), 1);
        let mut gone = Box::pin(line.turn(2));
        let mut next = pin!(line.turn(3));
        assert!(gone.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
        drop(busy);
        drop(gone);
        drop(core(next.now_or_never(), 3));
        assert_eq!(line.state().free, 1);
    }

    #[test]
    fn who_has_waited_too_long_is_sent_away_when_the_turn_comes() {
        let line: TestLine =
            Line::new(1, 10, Duration::from_millis(20), IntGauge::new("d", "d").expect("a name"));
        let busy = core(line.turn(1).now_or_never(), 1);
        let mut old = pin!(line.turn(2));
        assert!(old.as_mut().now_or_never().is_none());
        std::thread::sleep(Duration::from_millis(30));
        let mut young = pin!(line.turn(3));
        assert!(young.as_mut().now_or_never().is_none());
        drop(busy);
        assert_eq!(old.now_or_never().expect("at once").err(), Some(NoTurn::Late));
        drop(core(young.now_or_never(), 3));
    }
    #[test]
    fn who_has_a_core_may_do_what_others_want() {
        let line = line(1, 20);
        let busy = core(line.turn(0).now_or_never(), 0);
        let mut waiting: Vec<_> = (1..=10).map(|job| Box::pin(line.turn(job))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        assert!(line.take(|job| job % 2 == 1, 6, 7).is_empty(), "there are five");
        let odd = line.take(|job| job % 2 == 1, 2, 3);
        assert_eq!(odd.iter().map(|taken| taken.job).collect::<Vec<_>>(), [1, 3, 5], "the oldest, in order");
        assert_eq!(line.depth.get(), 7);
        let gone = waiting.remove(4);
        drop(gone);
        for taken in odd {
            let outcome = taken.job * 100;
            taken.done(outcome);
        }
        assert!(matches!(waiting.remove(2).now_or_never(), Some(Ok(Turn::Done(300)))));
        assert!(matches!(waiting.remove(0).now_or_never(), Some(Ok(Turn::Done(100)))));
        drop(busy);
        drop(core(waiting.remove(0).now_or_never(), 2));
    }

    #[test]
    fn who_is_let_down_hears_of_it() {
        let line = line(1, 20);
        let _busy = core(line.turn(0).now_or_never(), 0);
        let mut waiting = pin!(line.turn(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(line.take(|_| true, 1, 7));
        assert_eq!(waiting.now_or_never().expect("at once").err(), Some(NoTurn::Lost));
    }
}
