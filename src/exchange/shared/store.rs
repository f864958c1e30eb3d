//! What the shared cache asks of a store: few operations on bytes, each atomic, so that a store in a test's memory and
//! Redis are one to everything else. Nothing here knows what the bytes mean.

use std::time::Duration;

use super::super::upstream::BoxFuture;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedStoreError {
    /// It was not asked.
    Unavailable,
    /// It was, in vain.
    Failed,
}

/// The names of what lies there for one cache key.
pub struct StoreKeys {
    pub token: String,
    pub lock: String,
    pub failure: String,
}

/// Asks for an entry, a failure, or the lock.
pub struct Claim<'a> {
    pub keys: &'a StoreKeys,
    /// Who wants the lock.
    pub owner: &'a str,
    /// The lock ends by itself after so long.
    pub lock_ttl: Duration,
    /// An entry and a failure that were looked at already and are of no use.
    pub rejected_entry: &'a [u8],
    pub rejected_failure: &'a [u8],
}

/// What is found, and for how long the store will keep it; `None` where it says nothing of that.
pub enum Claimed {
    Entry(Vec<u8>, Option<Duration>),
    Failure(Vec<u8>, Option<Duration>),
    /// The lock is the asker's now.
    Locked,
    /// Somebody else has the lock.
    Busy,
}

/// What an exchange leaves behind.
pub enum Released {
    /// For how long it is to be kept.
    Entry(Vec<u8>, Duration),
    Failure(Vec<u8>, Duration),
    Nothing,
}

impl Released {
    /// The same so much later: nothing, where it is over by then.
    pub(super) fn after(&self, past: Duration) -> Self {
        // A store counts milliseconds.
        let rest = |left: &Duration| left.checked_sub(past).filter(|rest| rest.as_millis() > 0);
        match self {
            Self::Entry(entry, left) => rest(left).map(|rest| Self::Entry(entry.clone(), rest)),
            Self::Failure(failure, left) => rest(left).map(|rest| Self::Failure(failure.clone(), rest)),
            Self::Nothing => None,
        }
        .unwrap_or(Self::Nothing)
    }
}

/// What one more request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowCount {
    /// So many there are in the window, this one included.
    Allowed(u64),
    /// There may be another after so long.
    Exhausted(Duration),
}

/// Messages since one that was seen.
pub struct Messages {
    pub payloads: Vec<Vec<u8>>,
    /// The last of them, or what was asked with.
    pub cursor: String,
}

/// Where messages begin.
pub const STREAM_START: &str = "0-0";
/// As many messages are kept as there are; each is a hash.
pub const MAX_MESSAGES: usize = 10_000;
/// No entry of ours is longer: a token of 12 KiB, and what came with it. Nothing longer is read.
pub const MAX_ENTRY_BYTES: usize = 64 << 10;
/// Nor is a message.
pub const MAX_MESSAGE_BYTES: usize = 256;

pub trait SharedStore: Send + Sync + 'static {
    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Claimed, SharedStoreError>>;

    /// Leaves something, and gives the lock back if it is still the owner's; if it isn't, leaves something only where there is
    /// no entry, and nobody has the lock: an exchange that ended late must not hide a later one's. An entry takes the place of a
    /// failure.
    fn release<'a>(
        &'a self,
        keys: &'a StoreKeys,
        owner: Option<&'a str>,
        released: &'a Released,
    ) -> BoxFuture<'a, Result<(), SharedStoreError>>;

    /// Counts one more request under `id` in a sliding window, unless there are `most`.
    fn count_request<'a>(
        &'a self,
        name: &'a str,
        id: &'a str,
        limit: usize,
        window: Duration,
    ) -> BoxFuture<'a, Result<WindowCount, SharedStoreError>>;

    /// Uncounts the request of that id.
    fn refund<'a>(&'a self, name: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), SharedStoreError>>;

    /// Leaves `tell` for the others, and reads what they have left since `seen`; from the first, over a connection that is
    /// new, because it may be another store now, or the same with an older memory. Requests use it from then on.
    fn sync_messages<'a>(
        &'a self,
        name: &'a str,
        payloads: &'a [Vec<u8>],
        cursor: &'a str,
    ) -> BoxFuture<'a, Result<Messages, SharedStoreError>>;
}
