//! `tokenmint openapi`: the description of the HTTP interface.

use clap::Args;

use super::{Failure, say};
use crate::api::OPENAPI;

/// Print the description of the HTTP interface (`OpenAPI` 3.1), as GET /openapi.yaml serves it
#[derive(Args)]
#[command(after_help = "Example: tokenmint openapi > openapi.yaml")]
pub(super) struct Openapi {}

impl Openapi {
    #[expect(clippy::unnecessary_wraps, reason = "every command ends in the same way")]
    pub fn run(self) -> Result<(), Failure> {
        say(OPENAPI.trim_end_matches('\n'));
        Ok(())
    }
}
