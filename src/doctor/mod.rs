//! Checks, each a pure function from what is known to what it sees: the configuration, the keys, a token, a
//! JWK that somebody uploaded, the answers of one request. Knows nothing of printing.
//!
//! - The catalogue of [`CHECKS`] is the one place that says which faults there are, what people see of each, who
//!   asks about it and what to do; the docs' troubleshooting table is made from it.
//! - A check ends as pass, warning or failure, or says why it could not look. None of these is taken for another.
//! - What was given and what is configured are different types, and a token is judged by what was given.
//! - One fault is one finding: a check leaves to the others what is theirs.
//! - No finding repeats a secret or a token.
//!
//! Its files form no circle: `wording` and `numbers` are leaves, then come what people have (`certificate`, `jwk`, `token`,
//! `material`), what is known, the checks, the catalogue, and `run_checks` on top. This file only names them.

mod artifact;
mod catalogue;
mod certificate;
mod check_spec;
mod checks;
mod finding;
mod formatting;
mod input;
mod jwk;
mod probe;
mod purpose;
mod runner;
mod token;

pub use artifact::{Artifact, FileAccess, GivenKey, UNRECOGNISED, detect_artifact};
pub use catalogue::CHECKS;
pub use certificate::GivenCertificate;
pub use check_spec::{CheckSpec, EvidenceSource, Requirement};
pub use finding::{CheckOutcome, Finding, Report, SkippedCheck};
pub use formatting::{
    escape_and_truncate, escape_invisible, format_duration, lookalike_difference, relative_date,
};
pub use input::{CheckInput, ConfigView, GivenArtifacts, Purpose};
pub use jwk::JwkDocument;
pub use probe::{FetchedJwks, ProbeResult, fetch_jwks, run_probes};
pub use purpose::InferredPurpose;
pub use runner::{ReportSummary, run_checks, verify_token};
pub use token::{JwtParts, UnverifiedToken};
