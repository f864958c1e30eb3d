//! Diagnostic checks: each is a pure function from a [`CheckInput`] to its observations.
//!
//! The input holds the configuration, the keys, artifacts that a user supplied (tokens, JWKs, certificates) and the
//! results of online probes. The module prints nothing.
//!
//! - The catalogue [`CHECKS`] lists every check with its symptom, its question and its fix. The troubleshooting table
//!   of the docs is generated from it.
//! - A check passes, warns or fails, or it says why it was skipped.
//! - [`GivenArtifacts`] and [`ConfigView`] are separate types. A token is judged by the artifacts if there are any.
//! - One fault is one finding: a check ignores the faults that another check reports.
//! - No finding repeats a secret or a token.
//!
//! The files form no import cycle, in this order: `formatting`; the parsers `certificate`, `jwk`, `token` and
//! `artifact`; `probe`, `input` and `purpose`; `finding`; `checks`; `catalogue`; `runner`.

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
