//! Why a store can't do what it is asked for.

use thiserror::Error;

/// The messages contain the errors that a store lists, shortened, and the types and versions of keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// There was no usable answer. Another attempt may succeed.
    #[error("doesn't answer: {0}")]
    Unavailable(String),
    /// The store asks for fewer requests.
    #[error("asks for fewer requests: {0}")]
    Throttled(String),
    /// The store refused the login, or the token that it gave. Somebody can change that in the store, so another attempt may succeed.
    #[error("refuses tokenmint: {0}")]
    Denied(String),
    /// The store refuses the request as it is: the key, the mount or the sealed text is wrong.
    #[error("{0}")]
    Refused(String),
    /// A file of `[stores.NAME]` can't be used.
    #[error("`{key}` {reason}")]
    File { key: &'static str, reason: String },
    /// The store returned what the key's public key doesn't verify.
    #[error(
        "returned a signature that the public key doesn't verify, so it isn't used: compare the key in the store"
    )]
    WrongSignature,
}

impl StoreError {
    /// Whether the same attempt may succeed later, without a change here.
    pub(crate) const fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Throttled(_) | Self::Denied(_) => true,
            Self::Refused(_) | Self::File { .. } | Self::WrongSignature => false,
        }
    }

    /// The value of the label `outcome`.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Throttled(_) => "throttled",
            Self::Denied(_) => "denied",
            Self::Refused(_) => "refused",
            Self::File { .. } => "file",
            Self::WrongSignature => "wrong_signature",
        }
    }
}
