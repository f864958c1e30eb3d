//! PEM files -> [`KeyRing`]: keysets, private keys, certificates, and the schedule that says which key signs
//! when. Knows nothing of tokens or HTTP.
//!
//! - Every key in a ring has passed the policy and a test signature.
//! - Key ids are unique across the ring.
//! - A ring never changes; a reload builds another. So does a `retirement`, from the ring that is in force and
//!   `keyset.toml` alone.
//! - A key that may neither sign nor be published is not opened, so that it leaves memory with the ring that had it.

mod armor;
mod batch;
mod certificate;
mod certificate_checks;
#[allow(unsafe_code, reason = "the one place where foreign code is called")]
mod crypto_mb;
mod directory;
mod edit;
pub mod file;
mod folder;
mod load;
mod numbers;
mod pem;
mod policy;
mod private;
mod recognise;
mod retirement;
mod ring;
pub mod rotation;
mod schedule;
mod timeline;
mod transition;
mod usage;

pub use armor::{Oddities, Oddity};
pub use batch::{Batch, BatchLibrary, Fit, Standing, Wanted};
pub use certificate::{
    Certificate, ReadCertificate, SHORTEST_LIFE_LEFT, WARN_LIFE_LEFT, certificates_of_listener,
    derived_not_after, next_derivation, read_certificates,
};
pub use certificate_checks::CertificateSignature;
pub use crypto_mb::Unavailable;
pub use directory::{DirectoryError, KeyDirectory, ScheduleFile};
pub use edit::ScheduleDocument;
pub use folder::Contents;
pub use load::{material_of, rules};
pub use numbers::Numbers;
pub use pem::{KeyOfListener, key_of_listener, public_numbers};
pub use policy::Weakness;
pub use private::{MessageHash, PrivateKey, PublicKey, Refused, SigningFailed, generate, hash, material};
pub use recognise::{Unreadable, text};
pub use ring::{Key, KeyRing, Keyset};
pub use schedule::{Change, Entry, FILE as SCHEDULE_FILE, Mark, Schedule, marks, parse as parse_schedule};
pub use timeline::{Life, Rules, State, Turn};
pub use transition::{AnnouncedKey, AnnouncedKeyset, History, Material};
pub use usage::Usage;
