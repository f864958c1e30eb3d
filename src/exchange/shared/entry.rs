//! An access token as text, and what must hold of one that another replica wrote: the same as of Salesforce's own
//! answer, and never a longer life than the rules of this replica give it. And a failure as text.

use std::borrow::Cow;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::error::{ExchangeError, Upstream, WaitedFor};
use super::super::job::{Job, expiry};
use super::super::meaning;
use super::super::negative_cache::{CachedFailure, LONGEST_WAIT, ToldFailure};
use super::super::token::{About, AccessToken, LONGEST_LIFE, Life, Obtained};
use super::super::tools::Moment;
use crate::clock::UnixTime;
use crate::config::KeyId;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    about: Cow<'a, About>,
    kid: Cow<'a, str>,
    obtained_at: i64,
    expires_at: i64,
    /// Salesforce said nothing of its life.
    assumed: bool,
}

/// Why an entry that is authentic is of no use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Useless {
    /// Not what Salesforce would give for this job.
    Unfit,
    /// Its life is over, or its key was taken away.
    Stale,
}

pub fn write(token: &AccessToken) -> Zeroizing<Vec<u8>> {
    let entry = Entry {
        token: token.secret.expose_secret().into(),
        about: Cow::Borrowed(&token.about),
        kid: token.kid.as_str().into(),
        obtained_at: token.obtained_at.seconds(),
        expires_at: token.expires_at.seconds(),
        assumed: token.assumed,
    };
    let mut text = Zeroizing::new(Vec::with_capacity(2 * token.weight() as usize));
    serde_json::to_writer(&mut *text, &entry).expect("strings can be written to memory");
    text
}

/// The token of `text`, if it counts for `job`. The store lets it go after `left`, if it says so.
pub fn read(text: &[u8], job: &Job, left: Option<Duration>, moment: &Moment) -> Result<AccessToken, Useless> {
    let entry: Entry<'_> = serde_json::from_slice(text).map_err(|_| Useless::Unfit)?;
    let kid = KeyId::parse(&entry.kid).map_err(|_| Useless::Unfit)?;
    if !job.accepts(&entry.token, &entry.about) {
        return Err(Useless::Unfit);
    }
    if !job.contains_kid(&kid) {
        return Err(Useless::Stale);
    }
    let between = |from: UnixTime, to: UnixTime| {
        Duration::from_secs(u64::try_from(from.seconds_until(to)).unwrap_or(0))
    };
    let (obtained_at, claimed_end) =
        (UnixTime::from_seconds(entry.obtained_at), UnixTime::from_seconds(entry.expires_at));
    let mut life = between(obtained_at, claimed_end);
    if entry.assumed {
        life = life.min(job.assumed_life());
    }
    // Whoever wrote it may have a clock that is ahead.
    let obtained_at = obtained_at.min(moment.now);
    let end = obtained_at.plus(life).min(claimed_end);
    let end = expiry(&entry.token).map_err(|_| Useless::Unfit)?.map_or(end, |expiry| expiry.min(end));
    let here = between(moment.now, end).min(LONGEST_LIFE);
    let left = left.map_or(here, |left| left.min(here));
    if left < Duration::from_secs(1) {
        return Err(Useless::Stale);
    }
    let life = Life { lasts: Some(left).filter(|_| !entry.assumed), until: None };
    let obtained =
        Obtained { secret: SecretString::from(&*entry.token), about: entry.about.into_owned(), life };
    Ok(AccessToken::new(obtained, kid, obtained_at, left, moment))
}

/// A failure that Salesforce's answer, or the lack of it, was; none of this replica's own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Failure {
    Rejected { upstream: Upstream, meaning: String, asked: String },
    Unusable { status: u16, what: String, asked: String },
    Unverified { meaning: String },
    Timeout,
}

/// With the wall time of its beginning and end.
#[derive(Serialize, Deserialize)]
struct Told {
    failure: Failure,
    kid: Option<String>,
    at: i64,
    until: i64,
}

/// The failure as text, where it is one that others meet too. It has just come.
pub fn write_failure(failed: &CachedFailure, now: UnixTime) -> Option<Vec<u8>> {
    let failure = match failed.error.clone() {
        ExchangeError::Rejected { upstream, meaning, asked, .. } => {
            Failure::Rejected { upstream, meaning: meaning.id.to_owned(), asked }
        }
        ExchangeError::Unusable { status, what, asked, .. } => Failure::Unusable { status, what, asked },
        ExchangeError::Unverified { meaning } => Failure::Unverified { meaning: meaning.id.to_owned() },
        ExchangeError::Timeout { waited_for: WaitedFor::Salesforce, .. } => Failure::Timeout,
        _ => return None,
    };
    let kid = failed.kid.as_ref().map(|kid| kid.as_str().to_owned());
    let told = Told { failure, kid, at: now.seconds(), until: now.plus(failed.wait()).seconds() };
    Some(serde_json::to_vec(&told).expect("strings can be written to memory"))
}

/// The failure of `text`, and how long it stands yet.
pub fn read_failure(text: &[u8], left: Option<Duration>, moment: &Moment) -> Option<ToldFailure> {
    let Told { failure, kid, at, until } = serde_json::from_slice(text).ok()?;
    let kid = kid.map(|kid| KeyId::parse(&kid)).transpose().ok()?;
    let past = UnixTime::from_seconds(at).seconds_until(moment.now);
    let past = Duration::from_secs(u64::try_from(past).unwrap_or(0));
    let claimed = u64::try_from(moment.now.seconds_until(UnixTime::from_seconds(until))).ok()?;
    let claimed = Duration::from_secs(claimed).min(LONGEST_WAIT);
    let left = left.map_or(claimed, |left| left.min(claimed));
    let retry_after = Some(left);
    let error = match failure {
        Failure::Rejected { upstream, meaning, asked } => {
            let meaning = meaning::by_id(&meaning)?;
            ExchangeError::Rejected { upstream, meaning, asked, retry_after }
        }
        Failure::Unusable { status, what, asked } => {
            ExchangeError::Unusable { status, what, asked, retry_after }
        }
        Failure::Unverified { meaning } => ExchangeError::Unverified { meaning: meaning::by_id(&meaning)? },
        Failure::Timeout => ExchangeError::Timeout { waited_for: WaitedFor::Salesforce, retry_after },
    };
    Some(ToldFailure { error, kid, at: moment.steady.saturating_sub(past), left })
}
