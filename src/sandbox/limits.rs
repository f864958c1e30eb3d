//! A sliding-window rate limiter for Salesforce's limits.

use std::collections::VecDeque;

/// The times of recent events, in seconds since the epoch, oldest first.
#[derive(Default)]
pub(super) struct SlidingWindow(VecDeque<i64>);

impl SlidingWindow {
    /// The number of events in the last `span` seconds. Drops older events.
    pub(crate) fn count(&mut self, now: i64, span: i64) -> usize {
        while self.0.front().is_some_and(|first| first.saturating_add(span) <= now) {
            self.0.pop_front();
        }
        self.0.len()
    }

    pub(crate) fn add(&mut self, now: i64) {
        self.0.push_back(now);
    }

    /// Adds an event at `now`.
    ///
    /// # Errors
    /// The last `span` seconds have `limit` events already. Holds the seconds until another event is allowed, at least 1.
    pub(crate) fn try_add(&mut self, now: i64, span: i64, limit: usize) -> Result<(), i64> {
        let count = self.count(now, span);
        if count < limit {
            self.add(now);
            return Ok(());
        }
        let freed = self.0.get(count - limit).map_or(span, |event| event.saturating_add(span) - now);
        Err(freed.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_allowed_again_when_an_old_one_has_left_the_window() {
        let mut window = SlidingWindow::default();
        assert_eq!(window.try_add(0, 60, 2), Ok(()));
        assert_eq!(window.try_add(20, 60, 2), Ok(()));
        assert_eq!(window.try_add(59, 60, 2), Err(1));
        assert_eq!(window.try_add(60, 60, 2), Ok(()));
        assert_eq!(window.try_add(60, 60, 2), Err(20));
        assert_eq!(window.try_add(60, 60, 0), Err(60));
    }
}
