//! `tokenmint completions`: for shells.

use std::io::Write as _;

use clap::{Args, Command};
use clap_complete::Shell;

use super::{Failure, wrote};

/// Print completions for a shell
#[derive(Args)]
#[command(after_help = "Example: tokenmint completions bash > /etc/bash_completion.d/tokenmint")]
pub(super) struct Completions {
    shell: Shell,
}

impl Completions {
    #[expect(clippy::unnecessary_wraps, reason = "every command ends in the same way")]
    pub fn run(self, command: &mut Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "tokenmint", &mut script);
        wrote(std::io::stdout().write_all(&script));
        Ok(())
    }
}
