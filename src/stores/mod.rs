//! Stores of keys outside of this host, which seal private keys by envelope encryption: a data key encrypts the private key for its file, and
//! the store encrypts the data key. The private key itself is never sent.
//!
//! - A data key is bound to a keyset and a key id ([`SealContext`]) by authenticated encryption.
//! - A store is used at load and by commands, never by a request. Each load logs in anew, so no session is kept.
//! - [`Unsealer`] opens the keys of one load. After a store didn't answer, it isn't asked again, so that an outage costs one timeout,
//!   however many keys there are.
//!
//! Each kind of store has a file of its own, and implements the trait of `store`.

mod error;
mod store;
mod unsealer;
mod vault;

pub(crate) use error::StoreError;
pub(crate) use store::{DATA_KEY_LEN, DataKey, SealContext};
pub(crate) use unsealer::Unsealer;
