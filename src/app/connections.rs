//! Load shedding for one listener's connections: how many there are, how much memory they take together, and which of
//! them are closed when that is too much.
//!
//! The connection that has been idle for the longest time gives way: so a flood of connections that ask for nothing
//! closes its own, and a client that asks at once is answered. A connection is idle while no request of it is being
//! answered: in its TLS handshake, while a head is waited for, and while its client takes an answer.
//!
//! Nothing here is touched by a request but atomics of its own connection. The table is locked when a connection opens
//! or closes, and searched only when it is full.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::api::{ApiError, BodyGate};

/// What each connection of the limit may take on average. So ten thousand take 30 MiB at most, and the process, with what
/// its allocator keeps of connections that are gone, less than 48.
const BYTES_PER_CONNECTION: usize = 3 << 10;
/// What a listener may take that has few connections.
const MIN_LISTENER_BYTES: usize = 16 << 20;
/// What an open connection takes: its task, its socket, its entry in the table. This and the next two were measured with a
/// thousand of them, as the growth of `RssAnon`: 2.6 KiB, 9.2 KiB and 16.3 KiB.
const OPEN_BYTES: usize = 5 << 9;
/// What hyper takes as well, from a connection's first request on: a read buffer of 8 KiB, and its state.
pub const HYPER_BYTES: usize = 10 << 10;
/// What TLS takes as well: its state and a buffer for a record.
pub const TLS_BYTES: usize = 16 << 10;
/// Of how many connections one is closed at a time, so that the table isn't searched for each new connection of a flood.
const EVICTION_DIVISOR: usize = 100;

/// The connections of one listener.
pub struct Connections {
    /// How many there may be.
    limit: usize,
    /// One for each that there may be. Those that are evicted hold theirs until they are gone.
    slots: Arc<Semaphore>,
    /// How many bytes they may take.
    budget: usize,
    bytes: AtomicUsize,
    table: Mutex<Table>,
    epoch: Instant,
    open_gauge: IntGauge,
    shed_counter: IntCounter,
}

#[derive(Default)]
struct Table {
    last: u64,
    open: HashMap<u64, Arc<Connection>>,
}

/// What the parts of one connection share: its task, the stream under hyper, and the service above hyper.
pub struct Connection {
    connections: Arc<Connections>,
    /// Microseconds since `connections.epoch`; 0 while a request is answered.
    idle_since: AtomicU64,
    bytes: AtomicUsize,
    /// Bytes of a head that isn't whole yet.
    partial: AtomicUsize,
    evicted: Notify,
    /// When the first byte of the request came, as `idle_since`.
    began: AtomicU64,
    /// Whether the host has not taken all of an answer yet.
    writing: AtomicBool,
    /// Whether hyper was given a head that passed all checks, and hasn't asked the service yet.
    head_checked: AtomicBool,
    /// Why the connection's last request is refused.
    pub error: OnceLock<Box<ApiError>>,
    pub body: Arc<BodyGate>,
}

impl Connections {
    pub fn new(limit: usize, open_gauge: IntGauge, shed_counter: IntCounter) -> Arc<Self> {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            limit,
            slots: Arc::new(Semaphore::new(limit)),
            budget: limit.saturating_mul(BYTES_PER_CONNECTION).max(MIN_LISTENER_BYTES),
            bytes: AtomicUsize::new(0),
            table: Mutex::default(),
            epoch: Instant::now(),
            open_gauge,
            shed_counter,
        })
    }

    /// A permit for one more connection, in whose favour the one that idled longest is closed where there are too many;
    /// `None` where none idles.
    pub async fn acquire_permit(self: &Arc<Self>) -> Option<ConnectionPermit> {
        if !self.ensure_capacity() {
            self.shed_counter.inc();
            return None;
        }
        let slot = self.slots.clone().acquire_owned().await.ok()?;
        let mut table = self.table();
        let id = table.last;
        table.last += 1;
        let connection = Arc::new(Connection {
            connections: self.clone(),
            idle_since: AtomicU64::new(self.now()),
            bytes: AtomicUsize::new(0),
            partial: AtomicUsize::new(0),
            evicted: Notify::new(),
            began: AtomicU64::new(0),
            writing: AtomicBool::new(false),
            head_checked: AtomicBool::new(false),
            error: OnceLock::new(),
            body: Arc::default(),
        });
        table.open.insert(id, connection.clone());
        drop(table);
        self.open_gauge.inc();
        connection.charge(OPEN_BYTES);
        Some(ConnectionPermit { id, connection, _slot: slot })
    }

    /// Whether there is room for one more, or will be once those are gone that it evicts.
    fn ensure_capacity(&self) -> bool {
        let mut table = self.table();
        table.open.len() < self.limit || self.evict(&mut table) > 0
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds, and never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Has the connections closed that have been idle for the longest time; how many.
    fn evict(&self, table: &mut Table) -> usize {
        let mut idle: Vec<(u64, u64)> = table
            .open
            .iter()
            .map(|(id, connection)| (connection.idle_since.load(Ordering::Relaxed), *id))
            .filter(|(since, _)| *since != 0)
            .collect();
        let count = (table.open.len() / EVICTION_DIVISOR).max(1).min(idle.len());
        if count == 0 {
            return 0;
        }
        idle.select_nth_unstable(count - 1);
        for (_, id) in &idle[..count] {
            if let Some(connection) = table.open.remove(id) {
                self.bytes.fetch_sub(connection.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                connection.evicted.notify_one();
                self.shed_counter.inc();
            }
        }
        count
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// Counts what the connection takes more. Where all of them take too much, those that idled longest are closed.
    pub fn charge(&self, bytes: usize) {
        let connections = &*self.connections;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if connections.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= connections.budget {
            return;
        }
        let mut table = connections.table();
        while connections.bytes.load(Ordering::Relaxed) > connections.budget {
            if connections.evict(&mut table) == 0 {
                return;
            }
        }
    }

    fn release(&self, bytes: usize) {
        // What was evicted has given back all.
        let given =
            self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| all.checked_sub(bytes));
        if given.is_ok() {
            self.connections.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// How many bytes of a head wait for the rest of it.
    pub fn set_partial_head(&self, bytes: usize) {
        let before = self.partial.swap(bytes, Ordering::Relaxed);
        if bytes > before {
            self.charge(bytes - before);
        } else if bytes < before {
            self.release(before - bytes);
        }
    }

    /// The first byte of a request came.
    pub fn start_request(&self) {
        self.began.store(self.connections.now(), Ordering::Relaxed);
    }

    /// When the first byte of the request came.
    pub fn request_started_at(&self) -> Instant {
        self.connections.epoch + Duration::from_micros(self.began.load(Ordering::Relaxed))
    }

    /// hyper is given a head that passed all checks.
    pub fn mark_head_checked(&self, has_body: bool) {
        self.body.close(has_body);
        self.idle_since.store(0, Ordering::Relaxed);
        self.head_checked.store(true, Ordering::Relaxed);
    }

    pub fn has_checked_head(&self) -> bool {
        self.head_checked.load(Ordering::Relaxed)
    }

    /// Whether the request that hyper has is the one whose head was checked.
    pub fn take_checked_head(&self) -> bool {
        self.head_checked.swap(false, Ordering::Relaxed)
    }

    /// Whether a request of it is being answered.
    pub fn is_answered(&self) -> bool {
        self.idle_since.load(Ordering::Relaxed) == 0
    }

    /// An answer is written, until [`finish_response`](Self::finish_response).
    pub fn start_response(&self) {
        self.writing.store(true, Ordering::Relaxed);
        if !self.has_checked_head() {
            self.idle_since.store(self.connections.now(), Ordering::Relaxed);
        }
    }

    /// The host has taken all that was written.
    pub fn finish_response(&self) {
        self.writing.store(false, Ordering::Relaxed);
    }

    /// Whether it idles, and nothing of a request has come.
    pub fn is_unused(&self) -> bool {
        self.idle_since.load(Ordering::Relaxed) != 0
            && !self.writing.load(Ordering::Relaxed)
            && self.partial.load(Ordering::Relaxed) == 0
    }

    /// Waits until it must be closed in favour of others.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

/// Lets a connection be open, and counts it, while it is held.
pub struct ConnectionPermit {
    id: u64,
    connection: Arc<Connection>,
    _slot: OwnedSemaphorePermit,
}

impl ConnectionPermit {
    pub const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let connections = &self.connection.connections;
        connections.open_gauge.dec();
        connections.table().open.remove(&self.id);
        connections.bytes.fetch_sub(self.connection.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(limit: usize) -> Arc<Connections> {
        let open_gauge = IntGauge::new("open", "open").expect("a gauge");
        Connections::new(limit, open_gauge, IntCounter::new("shed", "shed").expect("a counter"))
    }

    async fn admitted(connections: &Arc<Connections>) -> ConnectionPermit {
        tokio::time::timeout(Duration::from_secs(5), connections.acquire_permit())
            .await
            .expect("in time")
            .expect("a permit")
    }

    async fn is_evicted(permit: &ConnectionPermit) -> bool {
        tokio::time::timeout(Duration::ZERO, permit.connection.evicted()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_is_evicted_and_none_that_is_being_answered() {
        let connections = connections(3);
        let step = || tokio::time::advance(Duration::from_millis(1));
        let busy = admitted(&connections).await;
        step().await;
        let first = admitted(&connections).await;
        step().await;
        let second = admitted(&connections).await;
        busy.connection.mark_head_checked(false);
        assert!(busy.connection.take_checked_head());
        step().await;
        let waits = tokio::time::timeout(Duration::from_secs(1), connections.acquire_permit()).await;
        assert!(waits.is_err() && is_evicted(&first).await, "there are no more than three at any time");
        drop(first);
        let third = admitted(&connections).await;
        assert!(!is_evicted(&second).await && !is_evicted(&busy).await);
        step().await;
        // An answer makes it the youngest of those that idle.
        busy.connection.start_response();
        step().await;
        let mut more = Vec::new();
        for permit in [second, third, busy] {
            let (new, ()) = tokio::join!(admitted(&connections), async {
                assert!(is_evicted(&permit).await);
                drop(permit);
            });
            more.push(new);
            step().await;
        }
        assert_eq!((connections.shed_counter.get(), connections.open_gauge.get()), (4, 3));
        drop(more);
        assert_eq!((connections.open_gauge.get(), connections.bytes()), (0, 0));
    }

    #[tokio::test]
    async fn a_new_connection_is_refused_when_none_is_idle() {
        let connections = connections(2);
        let busy = [admitted(&connections).await, admitted(&connections).await];
        for permit in &busy {
            permit.connection.mark_head_checked(false);
        }
        assert!(connections.acquire_permit().await.is_none());
        assert_eq!((connections.shed_counter.get(), connections.open_gauge.get()), (1, 2));
    }

    #[tokio::test]
    async fn waiting_connections_stay_within_the_memory_budget() {
        let connections = connections(10_000);
        let mut open = Vec::new();
        for n in 0..10_000_usize {
            let permit = admitted(&connections).await;
            // A head of up to 8 KiB that isn't whole, or a request that was answered.
            permit.connection.set_partial_head(n % 8192);
            if n % 3 == 0 {
                permit.connection.set_partial_head(0);
                permit.connection.charge(HYPER_BYTES);
            }
            assert!(connections.bytes() <= 10_000 * BYTES_PER_CONNECTION);
            open.push(permit);
        }
        assert!(connections.shed_counter.get() > 1000);
        drop(open);
        assert_eq!((connections.open_gauge.get(), connections.bytes()), (0, 0));
    }
}
