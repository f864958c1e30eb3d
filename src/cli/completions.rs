//! `tokenmint completions`: completion scripts for shells.

use std::io::Write as _;

use clap::{Args, Command};
use clap_complete::Shell;

use super::{CliError, record_stdout_result};

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "Example: tokenmint completions bash > /etc/bash_completion.d/tokenmint")]
pub(super) struct CompletionsCommand {
    /// The shell to print the script for
    shell: Shell,
}

impl CompletionsCommand {
    #[expect(clippy::unnecessary_wraps, reason = "every command ends in the same way")]
    pub(crate) fn run(self, command: &mut Command) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "tokenmint", &mut script);
        record_stdout_result(std::io::stdout().write_all(&script));
        Ok(())
    }
}
