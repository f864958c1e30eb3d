//! The line before the cores: first come, first served, and nobody waits for long.
//!
//! - A [`Core`] is the right to keep one core busy. There are so many and no more; it goes, when dropped, to
//!   whoever stands first, or lies free. It lies free only while nobody waits.
//! - Who has waited too long is sent away when it would be their turn, so no timer is needed: as the first is
//!   always the oldest, that is at most one signature late.
//! - Who goes away while waiting leaves the line at once, and a core that was already on its way to them goes on to
//!   the next.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use tokio::sync::oneshot;

/// `J` is what somebody wants done.
pub(super) struct Line<J> {
    state: Mutex<State<J>>,
    cores: usize,
    /// How many may wait.
    places: usize,
    /// For how long.
    patience: Duration,
    depth: IntGauge,
}

struct State<J> {
    free: usize,
    tickets: u64,
    /// By ticket, and so by age.
    waiting: VecDeque<Place<J>>,
}

struct Place<J> {
    ticket: u64,
    since: Instant,
    job: J,
    turn: oneshot::Sender<Turn<J>>,
}

/// How a wait ends.
pub(super) enum Turn<J> {
    /// With a core, to do it oneself.
    Core(Core<J>, J),
    /// Without: it took too long.
    Late,
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// All places in line are taken.
    Full,
    Late,
    /// Who should have done it died over it.
    Lost,
}

impl<J> Line<J> {
    pub fn new(cores: usize, places: usize, patience: Duration, depth: IntGauge) -> Arc<Self> {
        let state = State { free: cores, tickets: 0, waiting: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state), cores, places, patience, depth })
    }

    /// Waits until it is `job`'s turn.
    pub async fn turn(self: &Arc<Self>, job: J) -> Result<Turn<J>, NoTurn> {
        let (ticket, turn) = {
            let mut state = self.state();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                let busy = self.cores - free;
                drop(state);
                return Ok(Turn::Core(Core { line: self.clone(), busy }, job));
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
        match turn {
            Ok(Turn::Late) => Err(NoTurn::Late),
            Ok(turn) => Ok(turn),
            Err(_) => Err(NoTurn::Lost),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().expect("nothing panics while it holds the line")
    }

    fn show_depth(&self, state: &State<J>) {
        self.depth.set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
    }

    /// Takes out the first, and all before it who have waited too long; where nobody is left, a core lies free.
    fn pop(&self) -> (Vec<Place<J>>, Option<Place<J>>) {
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
        (late, first)
    }
}

/// The right to keep one core busy.
pub(super) struct Core<J> {
    line: Arc<Line<J>>,
    /// Cores in use when this was taken, with it.
    busy: usize,
}

impl<J> Core<J> {
    /// Whether nobody else had a core.
    pub const fn is_only(&self) -> bool {
        self.busy == 1
    }
}

impl<J> Drop for Core<J> {
    fn drop(&mut self) {
        let (late, first) = self.line.pop();
        // Outside of the lock: if the receiver has just gone, its turn is dropped here, and goes to the next.
        for place in late {
            let _ = place.turn.send(Turn::Late);
        }
        if let Some(Place { job, turn, .. }) = first {
            let core = Self { line: self.line.clone(), busy: self.line.cores };
            let _ = turn.send(Turn::Core(core, job));
        }
    }
}

/// One who waits, and goes away before it is their turn.
struct Leaving<'a, J> {
    line: &'a Line<J>,
    ticket: u64,
}

impl<J> Drop for Leaving<'_, J> {
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

    type TestLine = Arc<Line<u32>>;

    fn line(cores: usize, places: usize) -> TestLine {
        Line::new(
            cores,
            places,
            Duration::from_mins(1),
            IntGauge::new("depth", "of the line").expect("a name"),
        )
    }

    #[track_caller]
    fn core(turn: Option<Result<Turn<u32>, NoTurn>>, job: u32) -> Core<u32> {
        let Some(Ok(Turn::Core(core, own))) = turn else { unreachable!("no core for {job}") };
        assert_eq!(own, job);
        core
    }

    #[test]
    fn who_comes_first_is_served_first_and_no_core_serves_two() {
        let line = line(2, 10);
        let first = core(line.turn(1).now_or_never(), 1);
        let second = core(line.turn(2).now_or_never(), 2);
        assert!(first.is_only() && !second.is_only());
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
}
