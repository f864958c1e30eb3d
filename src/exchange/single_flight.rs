//! Single-flight (request coalescing, against a thundering herd): concurrent requests for one key share one execution of
//! the work and its outcome.
//!
//! Cancellation safety: the leader must run the work in a task of its own, so that a disconnect doesn't cancel it. With
//! moka's `get_with`, a disconnect drops the work, and another request starts it again: each disconnect costs a login.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;

use crate::sync::{Mutex, MutexGuard};

/// The work in flight, by key.
pub(crate) struct SingleFlight<K, T>(Mutex<HashMap<K, watch::Receiver<Option<T>>>>);

/// Waits for the outcome of work in flight.
pub(crate) struct InFlight<T>(watch::Receiver<Option<T>>);

/// Held by the task that does the work, which must call [`complete`](Self::complete). Dropping the guard without an
/// outcome, for example in a panic, fails the waiting requests and lets the next one start the work again.
pub(crate) struct InFlightGuard<K: Eq + Hash + Copy, T> {
    in_flight: Arc<SingleFlight<K, T>>,
    key: K,
    outcome: watch::Sender<Option<T>>,
}

/// Result of [`SingleFlight::join`].
pub(crate) enum Joined<K: Eq + Hash + Copy, T, R> {
    /// Another request has started the work.
    Follower(InFlight<T>),
    /// This request must start the work.
    Leader(InFlight<T>, InFlightGuard<K, T>),
    /// No work is needed: `resolve` gave a result.
    Resolved(R),
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Copy, T: Clone> SingleFlight<K, T> {
    /// Joins the work for `key`. If there is none, calls `resolve`, and starts the work unless that gives a result.
    /// `resolve` is called under the lock, so it sees what earlier work has stored. It must be fast.
    pub(crate) fn join<R>(self: &Arc<Self>, key: K, resolve: impl FnOnce() -> Option<R>) -> Joined<K, T, R> {
        let mut in_flight = self.lock();
        match in_flight.entry(key) {
            Entry::Occupied(entry) => Joined::Follower(InFlight(entry.get().clone())),
            Entry::Vacant(slot) => {
                if let Some(result) = resolve() {
                    return Joined::Resolved(result);
                }
                let (outcome, receiver) = watch::channel(None);
                slot.insert(receiver.clone());
                drop(in_flight);
                Joined::Leader(InFlight(receiver), InFlightGuard { in_flight: self.clone(), key, outcome })
            }
        }
    }
}

impl<K, T> SingleFlight<K, T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> InFlight<T> {
    /// Waits for the outcome; `None` if the guard was dropped without one.
    pub(crate) async fn outcome(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone())
    }
}

impl<K: Eq + Hash + Copy, T> InFlightGuard<K, T> {
    /// Publishes the outcome and removes the key. The work must have stored its result before, where `resolve` finds it.
    pub(crate) fn complete(self, outcome: T) {
        self.in_flight.lock().remove(&self.key);
        // `send_replace` stores the outcome even if nobody waits: `drop` checks it.
        self.outcome.send_replace(Some(outcome));
    }
}

impl<K: Eq + Hash + Copy, T> Drop for InFlightGuard<K, T> {
    fn drop(&mut self) {
        // After `complete` the key is removed already, and may belong to the next work.
        if self.outcome.borrow().is_none() {
            self.in_flight.lock().remove(&self.key);
        }
    }
}
