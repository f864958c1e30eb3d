//! `tokenmint openapi`: prints the description of the HTTP interface.

use clap::Args;

use super::{CliError, print_line};
use crate::api::OPENAPI;

/// Print the description of the HTTP interface (`OpenAPI` 3.1), the same as GET /openapi.yaml
#[derive(Args)]
#[command(after_help = "Example: tokenmint openapi > openapi.yaml")]
pub(super) struct OpenapiCommand {}

impl OpenapiCommand {
    #[expect(clippy::unnecessary_wraps, reason = "every command ends in the same way")]
    pub(crate) fn run(self) -> Result<(), CliError> {
        print_line(OPENAPI.trim_end_matches('\n'));
        Ok(())
    }
}
