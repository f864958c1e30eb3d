//! What the shared cache asks of a store: few operations on bytes, each atomic, so that a store in a test's memory and
//! Redis are one to everything else. Nothing here knows what the bytes mean.

use std::time::Duration;

use super::super::upstream::BoxFuture;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It was not asked.
    Away,
    /// It was, in vain.
    Failed,
}

/// The names of what lies there for one cache key.
pub struct Names {
    pub token: String,
    pub lock: String,
    pub failure: String,
}

/// Asks for an entry, a failure, or the lock.
pub struct Claim<'a> {
    pub names: &'a Names,
    /// Who wants the lock.
    pub owner: &'a str,
    /// The lock ends by itself after so long.
    pub lock_for: Duration,
    /// An entry and a failure that were looked at already and are of no use.
    pub refused: &'a [u8],
    pub refused_failure: &'a [u8],
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
pub enum Counted {
    /// So many there are in the window, this one included.
    Within(u64),
    /// There may be another after so long.
    Exhausted(Duration),
}

/// Messages since one that was seen.
pub struct News {
    pub messages: Vec<Vec<u8>>,
    /// The last of them, or what was asked with.
    pub seen: String,
}

/// Where messages begin.
pub const FROM_THE_FIRST: &str = "0-0";
/// As many messages are kept as there are; each is a hash.
pub const MOST_MESSAGES: usize = 10_000;
/// No entry of ours is longer: a token of 12 KiB, and what came with it. Nothing longer is read.
pub const LONGEST_ENTRY: usize = 64 << 10;
/// Nor is a message.
pub const LONGEST_MESSAGE: usize = 256;

pub trait SharedStore: Send + Sync + 'static {
    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Claimed, Trouble>>;

    /// Leaves something, and gives the lock back if it is still the owner's; if it isn't, leaves something only where there is
    /// no entry, and nobody has the lock: an exchange that ended late must not hide a later one's. An entry takes the place of a
    /// failure.
    fn release<'a>(
        &'a self,
        names: &'a Names,
        owner: Option<&'a str>,
        released: &'a Released,
    ) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Counts one more request under `id` in a sliding window, unless there are `most`.
    fn spend<'a>(
        &'a self,
        name: &'a str,
        id: &'a str,
        most: usize,
        window: Duration,
    ) -> BoxFuture<'a, Result<Counted, Trouble>>;

    /// Uncounts the request of that id.
    fn give_back<'a>(&'a self, name: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Leaves `tell` for the others, and reads what they have left since `seen`; from the first, over a connection that is
    /// new, because it may be another store now, or the same with an older memory. Requests use it from then on.
    fn synchronize<'a>(
        &'a self,
        name: &'a str,
        tell: &'a [Vec<u8>],
        seen: &'a str,
    ) -> BoxFuture<'a, Result<News, Trouble>>;
}
