//! `tokenmint schema`: prints the JSON Schema of the configuration.

use clap::Args;

use super::{CliError, print_json};
use crate::config::schema::json_schema;

/// Print the JSON Schema of tokenmint.toml, for editors and CI
///
/// The schema describes a complete file, without overrides from the environment. `tokenmint check` checks more.
#[derive(Args)]
#[command(after_help = "Example: tokenmint schema > tokenmint.schema.json")]
pub(super) struct SchemaCommand {}

impl SchemaCommand {
    #[expect(clippy::unnecessary_wraps, reason = "every command ends in the same way")]
    pub(crate) fn run(self) -> Result<(), CliError> {
        print_json(&json_schema());
        Ok(())
    }
}
