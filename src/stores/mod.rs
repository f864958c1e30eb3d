//! Stores of keys outside of this host, which seal private keys: they encrypt a key for its file, and decrypt it at load.
//!
//! - A sealed key is bound to its keyset and its key id ([`SealContext`]) by authenticated encryption. So a sealed file that was moved to
//!   another name doesn't open.
//! - A store is used at load and by commands, never by a request. Each load logs in anew, so no session is kept.
//! - [`Unsealer`] opens the keys of one load. After a store didn't answer, the load doesn't ask it again, so that an outage costs one
//!   timeout, however many keys there are.
//!
//! Each kind of store has a file of its own, and implements the trait of `store`.

mod error;
mod store;
mod unsealer;
mod vault;

pub(crate) use error::StoreError;
pub(crate) use store::SealContext;
pub(crate) use unsealer::Unsealer;
