//! `tokenmint check`: loads everything that `serve` would load, and reports what is wrong.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::admin_client::{AdminClient, QueryError, ReloadStatusReply};
use super::{CliContext, CliError, print_json, print_line, print_stderr};
use crate::app;

/// The longest wait for the service's next check of its files.
const CHECK_RELOAD_TIMEOUT: Duration = Duration::from_secs(15);

/// The notice that a running service has further checks, which the files alone can't show.
const RUNNING_NOT_CHECKED: &str = "not checked: whether the running service accepts these files. It \
    compares them with what it runs, and rejects, for example, changes that need a restart; `tokenmint check --running` asks it";

/// Load everything that `serve` would load, and report what is wrong
///
/// Exits with 64 if something is wrong, and with 0 if there are only warnings. With --running, exits with 1 if the
/// service rejects the files or doesn't answer.
#[derive(Args)]
#[command(after_help = "Example: tokenmint check --config tokenmint.toml && systemctl restart tokenmint")]
pub(super) struct CheckCommand {
    /// Wait until the service on this host has read the files, and exit with 1 if it rejects them
    #[arg(long)]
    running: bool,
    /// Print problems and warnings as JSON
    #[arg(long)]
    json: bool,
}

impl CheckCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let loaded = match context.load() {
            Err(CliError::Configuration { problems, warnings }) if self.json => {
                print_json(&json!({"ok": false, "problems": problems, "warnings": warnings}));
                return Err(CliError::Configuration { problems, warnings });
            }
            other => other?,
        };
        let state_directory = app::shared_state_directory(&loaded.config);
        let warnings: Vec<_> = loaded.warnings().chain(&state_directory).collect();
        let running = self.running.then(|| wait_for_reload(context)).transpose()?;
        let refused = running.as_ref().is_some_and(|running| !running.in_force);
        if self.json {
            let problems: Vec<_> = running.iter().flat_map(|running| &running.problems).collect();
            print_json(&json!({"ok": !refused, "problems": problems, "warnings": warnings}));
            return if refused { Err(CliError::ProblemsFound) } else { Ok(()) };
        }
        for warning in &warnings {
            print_stderr(&format!("warning: {warning}"));
        }
        let keys: usize = loaded.ring.keysets.values().map(|keyset| keyset.keys.len()).sum();
        let config = &loaded.config;
        print_line(&format!(
            "ok: {}, {}, {}, {}",
            pluralize(keys, "key"),
            pluralize(config.keysets.len(), "keyset"),
            pluralize(config.profiles().count(), "profile"),
            pluralize(config.callers.len(), "caller"),
        ));
        print_line(&format!("read from {}", context.config_description()));
        let Some(running) = running else {
            if !matches!(AdminClient::find(context, &[])?.status(), Err(QueryError::NotRunning)) {
                print_stderr(RUNNING_NOT_CHECKED);
            }
            return Ok(());
        };
        if running.in_force {
            print_line("The running service uses these files.");
            return Ok(());
        }
        for problem in &running.problems {
            let at = config.origin(&problem.field).map(|origin| format!(" ({origin})")).unwrap_or_default();
            print_stderr(&format!("{}{at}: {}", problem.field, problem.message));
        }
        Err(CliError::Failed(
            "the running service rejects these files, and keeps the previous ones".to_owned(),
        ))
    }
}

/// Waits until the running service has checked the current files, and returns the result.
fn wait_for_reload(context: &CliContext<'_>) -> Result<ReloadStatusReply, CliError> {
    let service = AdminClient::find(context, &[])?;
    let now = context.clock_and_rng.clock.now().seconds();
    let result = service
        .wait_until(CHECK_RELOAD_TIMEOUT, |status| status.reload.looked_at.is_some_and(|began| began > now));
    match result {
        Ok((true, status)) => Ok(status.reload),
        Ok((false, _)) => Err(CliError::Failed(format!(
            "the service at {} has not checked its files for {} s: does a mount hang?",
            service.address(),
            CHECK_RELOAD_TIMEOUT.as_secs()
        ))),
        Err(QueryError::NotRunning) => {
            Err(CliError::Failed(format!("no service runs at {}", service.address())))
        }
        Err(QueryError::Failed(reason)) => {
            Err(CliError::Failed(format!("the service at {} can't be reached: {reason}", service.address())))
        }
    }
}

fn pluralize(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
