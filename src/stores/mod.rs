//! Stores of keys outside of this host. They seal private keys, or sign with keys that never leave them.
//!
//! Sealing is envelope encryption: a data key encrypts the private key for its file, and the store encrypts the data key. The private key
//! itself is never sent. A data key is bound to a keyset and a key id ([`SealContext`]). The authenticated encryption of the file binds it,
//! and the one of the store too, where it has that.
//!
//! - Loads and commands use [`StoreSessions`], which logs in anew each time; only a PKCS#11 token keeps its login. After a store didn't answer, it isn't
//!   asked again in that load, so that an outage costs one timeout, however many keys there are.
//! - Requests use a [`RemoteSigner`] for each key that signs in a store. All keys of a store share its [`StoreConnection`].
//!
//! Each kind of store has a file or a folder of its own, and implements the trait of `store`.

mod aws_kms;
mod circuit_breaker;
mod connection;
mod error;
mod http_api;
#[cfg_attr(target_env = "musl", path = "pkcs11_static.rs")]
mod pkcs11;
#[cfg(not(target_env = "musl"))]
mod pkcs11_module;
mod remote_signer;
mod sessions;
mod store;
mod vault;

pub(crate) use connection::StoreConnection;
pub(crate) use error::StoreError;
pub(crate) use pkcs11::finalize_modules;
pub(crate) use remote_signer::{RemoteSigner, RemoteSigningError};
pub(crate) use sessions::StoreSessions;
pub(crate) use store::{DATA_KEY_LEN, DataKey, SealContext};
