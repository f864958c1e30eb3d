//! `tokenmint healthcheck`: sends `GET /livez` to the running service, for images without a shell.

use std::time::Duration;

use clap::Args;

use super::{CliContext, CliError, admin_client, parse_duration_arg, print_line};

/// Ask the running service whether it is alive
///
/// Reads only the service's address from the configuration, so errors elsewhere in it don't matter. Exits with 0 if
/// the service is alive, with 64 if the configuration can't be read or has an invalid address, and with 1 otherwise. In a Dockerfile: `HEALTHCHECK
/// CMD ["/usr/local/bin/tokenmint", "healthcheck"]`.
#[derive(Args)]
#[command(after_help = "Example: tokenmint healthcheck --config /etc/tokenmint/tokenmint.toml")]
pub(super) struct HealthcheckCommand {
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration_arg)]
    timeout: Duration,
}

impl HealthcheckCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let address = context.ops_address()?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
        let response =
            async { tokio::time::timeout(self.timeout, admin_client::get(&address, "/livez")).await };
        match runtime.block_on(response) {
            Ok(Ok((status, _))) if status.is_success() => {
                print_line("ok");
                Ok(())
            }
            Ok(Ok((status, _))) => Err(CliError::Failed(format!("/livez answered {status}"))),
            Ok(Err(error)) => Err(CliError::Failed(format!("/livez can't be reached: {error}"))),
            Err(_) => {
                Err(CliError::Failed(format!("/livez did not answer within {} s", self.timeout.as_secs())))
            }
        }
    }
}
