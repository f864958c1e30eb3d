//! Loads PEM files into a [`KeyRing`]: keysets, private keys, certificates, and the schedule that says which key signs
//! when. It has no code for tokens or HTTP.
//!
//! - The state `Retiring` is the normal end of a key, after its time of signing. A *retired* key was revoked at once.
//! - Every key in a ring has passed the strength checks and a test signature.
//! - A sealed key is opened by a store at load. A remote key stays in its store; a load asks for its public half. If the store can't be used
//!   at the start, the keyset is *closed*: it has no keys until the store answers. In a reload, the keyset keeps the keys of the previous
//!   load until then.
//! - Key ids are unique among the ring's keys and the retired keys of its schedules.
//! - A ring's keys and dates never change; a reload builds another ring. `retirement` also builds a new ring, from the ring
//!   in force and `keyset.toml` alone.
//! - A new ring doesn't contain a key that may neither sign nor be published. Such a key leaves memory when the last ring
//!   that had it is dropped, and its last signature or self-test has ended. A load may read a retired key's file for its
//!   modulus hash, to reject copies of the key.
//! - Buffers that hold PEM text, private numbers, passphrases or tokens' signatures are zeroized when dropped (crate
//!   `zeroize`, crate `secrecy`, or aws-lc). Public numbers and the signatures of test messages needn't be.

mod batch;
mod certificate;
mod certificate_checks;
#[allow(unsafe_code, reason = "the only module that calls a C library directly")]
mod crypto_mb;
mod directory;
mod directory_contents;
pub(crate) mod key_file;
mod key_formats;
mod key_strength;
mod keyset_checks;
mod live_tokens;
mod load;
mod message_hash;
mod pem;
mod pem_text;
mod private_key;
mod public_key;
mod public_numbers;
mod publication_history;
mod retirement;
mod ring;
pub mod rotation;
mod schedule;
mod schedule_document;
mod sealed_key;
mod signing_key;
mod timeline;

pub use batch::{BatchLibrary, BatchParams, BatchSigner, SelfTestResult, SignRequest};
pub use certificate::KeyCertificate;
pub(crate) use certificate::{
    CERTIFICATE_MIN_SECONDS_LEFT, CERTIFICATE_WARN_SECONDS_LEFT, ParsedCertificate, parse_certificates,
    parse_listener_certificates,
};
pub(crate) use certificate_checks::SignatureStatus;
pub use crypto_mb::BatchLibraryError;
pub(crate) use directory::{DirectoryError, KeyDirectory, ScheduleFile, held_and_listed_kids, holds_kid};
pub(crate) use directory_contents::{DirectoryContents, KeyFile};
pub(crate) use key_formats::{UnreadableKey, decode_key_text};
pub(crate) use live_tokens::LiveTokenCounter;
pub(crate) use load::{modulus_hash_in, modulus_hash_of_file, rotation_rules};
pub(crate) use message_hash::MessageHash;
pub use message_hash::hash_message;
pub(crate) use pem::{ListenerKey, parse_listener_key, parse_public_key};
pub(crate) use pem_text::{PemQuirk, PemQuirks};
pub use private_key::{PrivateKey, generate_private_key};
pub(crate) use private_key::{PrivateKeyError, SigningFailed, modulus_hash_of_pem};
pub use public_key::PublicKey;
pub(crate) use public_numbers::PublicNumbers;
pub(crate) use publication_history::jwks_max_age;
pub use publication_history::{ModulusHash, PublicationHistory, PublishedKey, PublishedKeyset};
pub use ring::KeyRing;
pub(crate) use ring::{Keyset, KeysetKey};
pub use schedule::{
    RetirementMark, SCHEDULE_FILE, Schedule, ScheduleChange, ScheduleEntry, parse_schedule, retirement_marks,
};
pub use schedule_document::ScheduleDocument;
pub(crate) use sealed_key::{SEALED_EXTENSION, SealedKey};
pub use signing_key::SigningKey;
pub(crate) use signing_key::{RemoteKey, remote_certificate, remote_public_key};
pub use timeline::{KeyState, KeyValidity, RotationRules};
