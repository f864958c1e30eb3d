//! Single-flight: however many ask for one key, one of them begins the work and all get its outcome.
//!
//! The work runs in a task of its own, so that nobody's going away ends it. moka's own coalescing drops the work together
//! with its first asker: twenty hang-ups were twenty logins.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;

use crate::sync::{Mutex, MutexGuard};

/// The work that is under way, by key.
pub struct SingleFlight<K, T>(Mutex<HashMap<K, watch::Receiver<Option<T>>>>);

/// Waits for the outcome of work that is under way.
pub struct InFlight<T>(watch::Receiver<Option<T>>);

/// The duty to end the work. Dropping it without an outcome, as a panic does, lets the next asker begin anew.
pub struct InFlightGuard<K: Eq + Hash + Copy, T> {
    in_flight: Arc<SingleFlight<K, T>>,
    key: K,
    outcome: watch::Sender<Option<T>>,
}

pub enum Joined<K: Eq + Hash + Copy, T, R> {
    /// Somebody has begun.
    Follower(InFlight<T>),
    /// The asker has to do the work.
    Leader(InFlight<T>, InFlightGuard<K, T>),
    /// No work is needed.
    Resolved(R),
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Copy, T: Clone> SingleFlight<K, T> {
    /// Joins the work for `key`, or begins it unless `resolve` gives an outcome. `resolve` is called under the lock, so it
    /// sees what the last work has left, and blocks nobody for long.
    pub fn join<R>(self: &Arc<Self>, key: K, resolve: impl FnOnce() -> Option<R>) -> Joined<K, T, R> {
        let mut in_flight = self.lock();
        match in_flight.entry(key) {
            Entry::Occupied(flight) => Joined::Follower(InFlight(flight.get().clone())),
            Entry::Vacant(slot) => {
                if let Some(resolve) = resolve() {
                    return Joined::Resolved(resolve);
                }
                let (outcome, flight) = watch::channel(None);
                slot.insert(flight.clone());
                drop(in_flight);
                Joined::Leader(InFlight(flight), InFlightGuard { in_flight: self.clone(), key, outcome })
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
    /// The outcome; `None` where the work has ended without one.
    pub async fn outcome(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone())
    }
}

impl<K: Eq + Hash + Copy, T> InFlightGuard<K, T> {
    /// Ends the work. What it has left for later askers must be there already.
    pub fn complete(self, outcome: T) {
        self.in_flight.lock().remove(&self.key);
        // Kept also where all have hung up: by it, `drop` knows that the work has landed.
        self.outcome.send_replace(Some(outcome));
    }
}

impl<K: Eq + Hash + Copy, T> Drop for InFlightGuard<K, T> {
    fn drop(&mut self) {
        // Work that landed is off the list, and the next may be on it by now.
        if self.outcome.borrow().is_none() {
            self.in_flight.lock().remove(&self.key);
        }
    }
}
