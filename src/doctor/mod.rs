//! Checks, each a pure function from what is known to what it sees: the configuration, the keys, a token, a
//! JWK that somebody uploaded, the answers of one request. Knows nothing of printing.
//!
//! - The catalogue of [`CASES`] is the one place that says which faults there are, what people see of each, who
//!   asks about it and what to do; the docs' troubleshooting table is made from it.
//! - A check ends as pass, warning or failure, or says why it could not look. None of these is taken for another.
//! - What was given and what is configured are different types, and a token is judged by what was given.
//! - One fault is one finding: a check leaves to the others what is theirs.
//! - No finding repeats a secret or a token.
//!
//! Its files form no circle: `wording` and `numbers` are leaves, then come what people have (`certificate`, `jwk`, `token`,
//! `material`), what is known, the checks, the catalogue, and `examine` on top. This file only names them.

mod answers;
mod case;
mod cases;
mod certificate;
mod checks;
mod examine;
mod finding;
mod jwk;
mod known;
mod material;
mod purpose;
mod token;
mod wording;

pub use answers::{Answer, Fetched, ask, fetch};
pub use case::{Case, Needs, Source};
pub use cases::CASES;
pub use certificate::GivenCertificate;
pub use examine::{Verdict, examine, verify};
pub use finding::{Finding, Outcome, Report, Skipped};
pub use jwk::JwkDocument;
pub use known::{Configured, Given, Known, Purpose};
pub use material::{GivenKey, Material, Readers, UNKNOWN, recognise};
pub use purpose::Taken;
pub use token::{Parts, UnverifiedToken};
pub use wording::{dated, difference, printable, span, visible};
