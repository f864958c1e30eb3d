//! Diagnostic checks: each is a pure function from a [`CheckInput`] to its observations.
//!
//! The input holds the configuration, its keys, artifacts that a user supplied (tokens, JWKs, keys, certificates) and the
//! results of online probes (`probe`). The module prints nothing.
//!
//! - The catalogue [`CHECKS`] lists every check with its symptom, its question and its fix. The troubleshooting table
//!   of the docs is generated from it.
//! - A check passes, warns or fails, or it says why it was skipped.
//! - [`GivenArtifacts`] and [`ConfigView`] are separate types. A token is verified by supplied keys if there are any, otherwise
//!   by configured keys.
//! - One fault is one finding: a check ignores the faults that another check reports.
//! - No finding repeats a secret or a token.
//!
//! The files form no import cycle, in this order: `formatting`; the parsers `certificate`, `jwk`, `token` and
//! `artifact`; `probe`, `input` and `purpose`; `finding`; `check_spec`; `checks`;
//! `catalogue`; `runner`.

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

pub(crate) use artifact::Artifact;
pub use artifact::{FileAccess, detect_artifact};
pub use catalogue::CHECKS;
pub(crate) use check_spec::CheckSpec;
pub use check_spec::EvidenceSource;
pub use finding::CheckOutcome;
pub(crate) use finding::{ComparedClaim, Finding, Report, SkippedCheck, TokenComparison};
pub(crate) use formatting::{escape_and_truncate, escape_invisible, lookalike_difference, relative_date};
pub(crate) use input::Purpose;
pub use input::{CheckInput, ConfigView, GivenArtifacts, StoreLogin};
pub use jwk::JwkDocument;
pub(crate) use probe::{ProbeResult, fetch_issuer_keys, fetch_jwks, run_probes};
pub(crate) use runner::ReportSummary;
pub use runner::{run_checks, verify_token};
pub(crate) use token::JwtParts;
pub use token::UnverifiedToken;
