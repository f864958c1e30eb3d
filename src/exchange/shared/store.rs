//! Interface of a store for the shared cache: a few atomic operations on opaque bytes. It is implemented by Redis, and
//! in memory for tests.

use std::time::Duration;

use super::super::upstream::BoxFuture;

/// Why an operation of the store gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedStoreError {
    /// The store is marked as unavailable, so nothing was sent.
    NotTried,
    /// The command failed or timed out. It may have been executed.
    Failed,
}

/// The store's keys for one cache key.
pub struct StoreKeys {
    pub token: String,
    pub lock: String,
    pub failure: String,
}

/// Parameters of [`SharedStore::try_lock`].
pub struct LockRequest<'a> {
    pub keys: &'a StoreKeys,
    /// The id that would hold the lock.
    pub owner: &'a str,
    /// How long the lock lasts.
    pub lock_ttl: Duration,
    /// The entry and the failure that this replica rejected last, or empty. They are skipped while the store has them.
    pub rejected_entry: &'a [u8],
    pub rejected_failure: &'a [u8],
}

/// Result of [`SharedStore::try_lock`], with the remaining time in the store, if known.
pub enum LockOutcome {
    Entry(Vec<u8>, Option<Duration>),
    Failure(Vec<u8>, Option<Duration>),
    /// The lock was acquired.
    Locked,
    /// Another owner holds the lock.
    Busy,
}

/// The result of an exchange that is stored when the lock is released.
pub enum ExchangeResult {
    /// A token with its time to live. A failure has one too.
    Entry(Vec<u8>, Duration),
    Failure(Vec<u8>, Duration),
    Nothing,
}

impl ExchangeResult {
    /// Returns the result with its time to live reduced by `past`; [`Nothing`](Self::Nothing) if it has expired by then.
    pub(super) fn after(&self, past: Duration) -> Self {
        // Redis counts whole milliseconds, and rejects a time to live of zero.
        let rest = |left: &Duration| left.checked_sub(past).filter(|rest| rest.as_millis() > 0);
        match self {
            Self::Entry(entry, left) => rest(left).map(|rest| Self::Entry(entry.clone(), rest)),
            Self::Failure(failure, left) => rest(left).map(|rest| Self::Failure(failure.clone(), rest)),
            Self::Nothing => None,
        }
        .unwrap_or(Self::Nothing)
    }
}

/// Result of [`SharedStore::count_request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowCount {
    /// The number of requests in the window, including this one.
    Allowed(u64),
    /// The limit is reached; the time until another request is allowed.
    Exhausted(Duration),
}

/// The messages after a cursor, the oldest first.
pub struct Messages {
    pub payloads: Vec<Vec<u8>>,
    /// The id of the last of them, or the given cursor if there are none.
    pub cursor: String,
}

/// The cursor before the first message.
pub const STREAM_START: &str = "0-0";
/// Maximum number of messages in the stream (approximately); each has a cache key and a token hash.
pub const MAX_MESSAGES: usize = 10_000;
/// Maximum size of an entry: a token of at most 12 KiB with its metadata. Longer ones are ignored.
pub(crate) const MAX_ENTRY_BYTES: usize = 64 << 10;
/// Maximum size of a message. Longer ones are ignored.
pub(crate) const MAX_MESSAGE_BYTES: usize = 256;

/// A key-value store with locks, counters and a message stream.
pub trait SharedStore: Send + Sync + 'static {
    /// Reads the entry or the failure, or else tries to acquire the lock.
    fn try_lock<'a>(
        &'a self,
        request: LockRequest<'a>,
    ) -> BoxFuture<'a, Result<LockOutcome, SharedStoreError>>;

    /// Stores the result and releases the lock, if `owner` still holds it. Otherwise stores the result only if there is
    /// no entry and no lock, so that a late exchange doesn't overwrite a later one's result (fencing). An entry
    /// replaces a failure.
    fn release<'a>(
        &'a self,
        keys: &'a StoreKeys,
        owner: Option<&'a str>,
        result: &'a ExchangeResult,
    ) -> BoxFuture<'a, Result<(), SharedStoreError>>;

    /// Counts a request under `id` in a sliding window, unless the window has `limit` already.
    fn count_request<'a>(
        &'a self,
        name: &'a str,
        id: &'a str,
        limit: usize,
        window: Duration,
    ) -> BoxFuture<'a, Result<WindowCount, SharedStoreError>>;

    /// Removes the request `id` from the window.
    fn refund<'a>(&'a self, name: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), SharedStoreError>>;

    /// Publishes `payloads`, and reads the messages after `cursor`. Also acts as the health check: if the store was
    /// unavailable, it opens a new connection, which requests use from then on. Over a new connection it reads from the
    /// start, because the store may have lost messages or be another one.
    fn sync_messages<'a>(
        &'a self,
        name: &'a str,
        payloads: &'a [Vec<u8>],
        cursor: &'a str,
    ) -> BoxFuture<'a, Result<Messages, SharedStoreError>>;
}
