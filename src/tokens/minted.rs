//! The results of minting: a token, or an error.

use secrecy::SecretString;
use thiserror::Error;

use crate::clock::{NoRandomness, UnixTime};
use crate::keys::SigningFailed;
use crate::stores::RemoteSigningError;

/// A signed token, and the data that the response states about it.
pub struct MintedToken {
    pub(crate) token: SecretString,
    /// The header's `kid`: the id of the key that signed. `None` for an HS256 token whose secret has no id.
    pub(crate) kid: Option<String>,
    pub(crate) issued_at: UnixTime,
    pub(crate) expires_at: UnixTime,
}

impl MintedToken {
    /// The lifetime in seconds.
    pub(crate) const fn expires_in(&self) -> i64 {
        self.issued_at.seconds_until(self.expires_at)
    }

    /// The time at which to fetch the next token: after four fifths of the lifetime, or 30 seconds before its end if that is
    /// earlier. A token of less than a minute is renewed after half of it, so that no page asks again at once.
    /// A page has those 30 seconds to answer `onEmbeddedMessagingIdentityTokenExpired`.
    pub(crate) fn renew_at(&self) -> UnixTime {
        let before = (self.expires_in() / 5).max(30).min(self.expires_in() / 2);
        UnixTime::from_seconds(self.expires_at.seconds() - before)
    }
}

/// Why minting a token fails although the request is valid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MintError {
    #[error("no key of the keyset signs yet")]
    NoSigningKey { seconds_until_next: Option<i64> },
    #[error("the store of the keyset's keys hasn't answered yet")]
    KeysetClosed,
    #[error("more signatures are waiting than the service can make in time")]
    Overloaded,
    #[error(transparent)]
    Remote(#[from] RemoteSigningError),
    #[error(transparent)]
    Signing(#[from] SigningFailed),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minted(lifetime: i64) -> MintedToken {
        let issued_at = UnixTime::from_seconds(1_000);
        let expires_at = UnixTime::from_seconds(1_000 + lifetime);
        MintedToken { token: SecretString::from("t"), kid: None, issued_at, expires_at }
    }

    #[test]
    fn a_token_is_renewed_thirty_seconds_before_its_end_or_earlier() {
        assert_eq!(minted(60).renew_at().seconds(), 1_030);
        assert_eq!(minted(3_600).renew_at().seconds(), 1_000 + 2_880);
        assert_eq!(minted(59).renew_at().seconds(), 1_030);
        assert_eq!(minted(5).renew_at().seconds(), 1_003);
        assert_eq!(minted(1).renew_at().seconds(), 1_001);
    }
}
