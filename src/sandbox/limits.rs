//! Salesforce's limits: so many events in any span of time.

use std::collections::VecDeque;

/// The events of the span that ends now.
#[derive(Default)]
pub(super) struct SlidingWindow(VecDeque<i64>);

impl SlidingWindow {
    /// How many there were in the last `span` seconds.
    pub fn count(&mut self, now: i64, span: i64) -> usize {
        while self.0.front().is_some_and(|first| first.saturating_add(span) <= now) {
            self.0.pop_front();
        }
        self.0.len()
    }

    pub fn add(&mut self, now: i64) {
        self.0.push_back(now);
    }

    /// Counts one more.
    ///
    /// # Errors
    /// There were `limit` already; the seconds until there is a place.
    pub fn try_add(&mut self, now: i64, span: i64, limit: usize) -> Result<(), i64> {
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
    fn a_place_comes_free_when_its_event_has_left_the_window() {
        let mut window = SlidingWindow::default();
        assert_eq!(window.try_add(0, 60, 2), Ok(()));
        assert_eq!(window.try_add(20, 60, 2), Ok(()));
        assert_eq!(window.try_add(59, 60, 2), Err(1));
        assert_eq!(window.try_add(60, 60, 2), Ok(()));
        assert_eq!(window.try_add(60, 60, 2), Err(20));
        assert_eq!(window.try_add(60, 60, 0), Err(60));
    }
}
