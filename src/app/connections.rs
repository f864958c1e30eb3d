//! Load shedding: limits the number of connections of a listener and their total memory, and evicts idle connections when a
//! limit is reached.
//!
//! The longest idle connections are evicted first. So a flood of connections without requests evicts its own, and a client
//! that sends its request at once is served. A connection counts as idle while its client has to act: during the TLS handshake,
//! while a head or a body is awaited, and while the client receives a response.
//!
//! A connection is charged for the memory that it takes while its client has to act. It isn't for the memory of a request on which
//! the service works, because that ends soon, and closing others wouldn't make it smaller.
//!
//! A request usually updates only atomics of its own connection. The table is locked when a connection opens or closes, and
//! searched only when a limit is reached.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::api::{ApiError, BodyGate};

/// The memory budget of a listener for each connection of its limit, in bytes. So 10,000 connections are charged at most 27 MiB. The
/// process, which has 17 MiB itself, takes less than 48 with a mix of slow clients (case 53 of `tests/chaos`).
const BUDGET_BYTES_PER_CONNECTION: usize = 2816;
/// The smallest memory budget of a listener, in bytes.
const MIN_LISTENER_BYTES: usize = 16 << 20;
// The following charges are rounded up from what a thousand connections of one kind allocate (`mallinfo2`), divided by a thousand:
// 2.3 KiB for a silent connection, 31 more while a body is awaited, 21 more while a response isn't read. The latter two are multiplied by
// 1.2: the allocator keeps as much more when connections are evicted and others opened.
/// The memory of an open connection, in bytes: its task, its socket, its entry in the table.
const CONNECTION_BYTES: usize = 2560;
/// The additional memory of TLS, in bytes: its state and a record buffer.
pub(crate) const TLS_BYTES: usize = 16 << 10;
/// The additional memory while a body is awaited, in bytes: hyper, the head, and the state of the handler.
const REQUEST_BYTES: usize = 37 << 10;
/// The memory of a received byte of a request, in bytes: the buffer that collects a body grows by doubling.
const RECEIVED_FACTOR: usize = 2;
/// The additional memory while a response isn't read, in bytes: hyper and the response.
const RESPONSE_BYTES: usize = 25 << 10;
/// An eviction closes this fraction (1/100) of the connections, at least one. So a flood doesn't cause a search of the table
/// for each new connection.
const EVICTION_DIVISOR: usize = 100;

/// The connections of one listener.
pub(crate) struct Connections {
    /// The largest number of connections.
    limit: usize,
    /// One permit per possible connection. An evicted connection holds its permit until it is closed.
    slots: Arc<Semaphore>,
    /// The memory that all connections together may take, in bytes.
    budget: usize,
    /// The memory that all connections together are charged for now, in bytes.
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

/// The state of one connection, shared by its task, the stream below hyper, and the service above hyper.
pub(crate) struct Connection {
    connections: Arc<Connections>,
    /// Since when the connection is idle, in microseconds since `connections.epoch`; 0 from a checked head to the response.
    idle_since: AtomicU64,
    /// The memory that the connection is charged for, in bytes.
    bytes: AtomicUsize,
    /// The charge for the buffer of bytes that hyper hasn't taken yet, in bytes.
    pending_charge: AtomicUsize,
    /// The charge for the current request or response while it waits for the client, in bytes.
    request_charge: AtomicUsize,
    evicted: Notify,
    /// When the first byte of the current request arrived, in microseconds since `connections.epoch`.
    request_started: AtomicU64,
    /// Whether a part of a response isn't written to the socket yet.
    writing: AtomicBool,
    /// Whether a head was checked, and hyper hasn't called the service for it yet.
    head_checked: AtomicBool,
    /// Why the current request is rejected. Such a request is the last of its connection.
    pub(crate) error: OnceLock<Box<ApiError>>,
    pub(crate) body_gate: Arc<BodyGate>,
}

impl Connections {
    pub(crate) fn new(limit: usize, open_gauge: IntGauge, shed_counter: IntCounter) -> Arc<Self> {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            limit,
            slots: Arc::new(Semaphore::new(limit)),
            budget: limit.saturating_mul(BUDGET_BYTES_PER_CONNECTION).max(MIN_LISTENER_BYTES),
            bytes: AtomicUsize::new(0),
            table: Mutex::default(),
            epoch: Instant::now(),
            open_gauge,
            shed_counter,
        })
    }

    /// Acquires a permit for a new connection. If the limit is reached, it evicts the longest idle connections and waits until
    /// one is closed. Returns `None` if the limit is reached and no connection is idle.
    pub(crate) async fn acquire_permit(self: &Arc<Self>) -> Option<ConnectionPermit> {
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
            pending_charge: AtomicUsize::new(0),
            request_charge: AtomicUsize::new(0),
            evicted: Notify::new(),
            request_started: AtomicU64::new(0),
            writing: AtomicBool::new(false),
            head_checked: AtomicBool::new(false),
            error: OnceLock::new(),
            body_gate: Arc::default(),
        });
        table.open.insert(id, connection.clone());
        drop(table);
        self.open_gauge.inc();
        connection.charge(CONNECTION_BYTES);
        Some(ConnectionPermit { id, connection, _slot: slot })
    }

    /// Makes room for a connection, evicting idle ones if the limit is reached. Returns `false` if none is idle.
    fn ensure_capacity(&self) -> bool {
        let mut table = self.table();
        table.open.len() < self.limit || self.evict(&mut table) > 0
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time in microseconds since `epoch`, plus one, so that it is never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Evicts the longest idle connections. Returns how many.
    fn evict(&self, table: &mut Table) -> usize {
        let mut idle: Vec<(u64, u64)> = table
            .open
            .iter()
            .map(|(id, connection)| (connection.idle_since(), *id))
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

    /// The charges of all connections together, in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// Charges the connection for `bytes` more memory. Evicts the longest idle connections while the listener is over its budget
    /// and any is idle.
    pub(crate) fn charge(&self, bytes: usize) {
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
        // Fails for an evicted connection, whose charge was released as a whole.
        let given =
            self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| all.checked_sub(bytes));
        if given.is_ok() {
            self.connections.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Charges the connection for a buffer of `capacity` bytes that hyper hasn't taken yet, and a quarter more for the allocator.
    pub(crate) fn charge_pending(&self, capacity: usize) {
        self.set_charge(&self.pending_charge, capacity + capacity / 4);
    }

    /// Sets one of the connection's charges to `bytes`.
    fn set_charge(&self, charge: &AtomicUsize, bytes: usize) {
        let before = charge.swap(bytes, Ordering::Relaxed);
        if bytes > before {
            self.charge(bytes - before);
        } else if bytes < before {
            self.release(before - bytes);
        }
    }

    /// Charges the connection for a request whose handler has `received` bytes of the body and waits for more.
    pub(crate) fn charge_request(&self, received: usize) {
        self.set_charge(&self.request_charge, REQUEST_BYTES + RECEIVED_FACTOR * received);
    }

    /// Ends the charge for the current request or response, because it waits for the client no longer.
    pub(crate) fn end_request_charge(&self) {
        self.set_charge(&self.request_charge, 0);
    }

    /// Charges the connection for a response that waits for the client to read. An interim response costs nothing.
    pub(crate) fn charge_response(&self) {
        if self.is_writing() {
            self.set_charge(&self.request_charge, RESPONSE_BYTES);
        }
    }

    /// Since when the connection waits for its client; 0 if it doesn't. Unlike the field, this is the start of the request while its
    /// body is awaited.
    fn idle_since(&self) -> u64 {
        match self.idle_since.load(Ordering::Relaxed) {
            0 if self.body_gate.is_awaited() => self.request_started.load(Ordering::Relaxed),
            since => since,
        }
    }

    /// Records that the first byte of a request arrived.
    pub(crate) fn start_request(&self) {
        self.request_started.store(self.connections.now(), Ordering::Relaxed);
    }

    /// When the first byte of the current request arrived.
    pub(crate) fn request_started_at(&self) -> Instant {
        self.connections.epoch + Duration::from_micros(self.request_started.load(Ordering::Relaxed))
    }

    /// Records that a head was checked, which hyper gets next. From now on the connection isn't idle.
    pub(crate) fn mark_head_checked(&self, has_body: bool) {
        self.body_gate.close(has_body);
        self.idle_since.store(0, Ordering::Relaxed);
        self.head_checked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_checked_head(&self) -> bool {
        self.head_checked.load(Ordering::Relaxed)
    }

    /// Whether hyper's request is the one whose head was checked. Resets the mark.
    pub(crate) fn take_checked_head(&self) -> bool {
        self.head_checked.swap(false, Ordering::Relaxed)
    }

    /// Whether a handler works on a request.
    pub(crate) fn is_answering(&self) -> bool {
        self.idle_since.load(Ordering::Relaxed) == 0
    }

    /// Records that hyper writes a response, until [`finish_response`](Self::finish_response). From now on the connection is idle.
    pub(crate) fn start_response(&self) {
        self.writing.store(true, Ordering::Relaxed);
        self.idle_since.store(self.connections.now(), Ordering::Relaxed);
    }

    /// Records that hyper has no more to write. After an interim response this changes nothing.
    pub(crate) fn finish_response(&self) {
        if self.writing.swap(false, Ordering::Relaxed) {
            self.end_request_charge();
        }
    }

    fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    /// Whether no handler works on a request, and the last response was written to the socket.
    pub(crate) fn is_answered(&self) -> bool {
        !self.is_answering() && !self.is_writing()
    }

    /// Whether the connection is idle, its last response is written, and no byte of another request has arrived.
    pub(crate) fn is_unused(&self) -> bool {
        self.is_answered() && self.pending_charge.load(Ordering::Relaxed) == 0
    }

    /// Waits until the connection is evicted.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

/// The permit of an open connection. Dropping it lets another one open.
pub(crate) struct ConnectionPermit {
    id: u64,
    connection: Arc<Connection>,
    _slot: OwnedSemaphorePermit,
}

impl ConnectionPermit {
    pub(crate) const fn connection(&self) -> &Arc<Connection> {
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
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::Bytes;
    use futures_util::poll;
    use http_body_util::BodyExt as _;
    use hyper::body::{Body, Frame};

    use super::*;
    use crate::api::GatedBody;

    /// A body whose next bytes never arrive.
    struct Unfinished;

    impl Body for Unfinished {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

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
        // After its response it is the connection that has been idle for the shortest time.
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
            // An incomplete head of up to 8 KiB, or a response that isn't read.
            permit.connection.charge_pending(n % 8192);
            if n % 3 == 0 {
                permit.connection.charge_pending(0);
                permit.connection.charge_response();
            }
            // A part of a body, for whose rest the handler waits.
            if n % 3 == 1 {
                permit.connection.charge_pending(0);
                permit.connection.start_request();
                permit.connection.mark_head_checked(true);
                let mut body = GatedBody::new(Unfinished, permit.connection.body_gate.clone());
                assert!(poll!(body.frame()).is_pending());
                permit.connection.charge_request(8 << 10);
            }
            assert!(connections.bytes() <= 10_000 * BUDGET_BYTES_PER_CONNECTION);
            open.push(permit);
        }
        assert!(connections.shed_counter.get() > 1000);
        drop(open);
        assert_eq!((connections.open_gauge.get(), connections.bytes()), (0, 0));
    }
}
