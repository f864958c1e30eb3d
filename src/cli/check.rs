//! `tokenmint check`: loads everything that `serve` would load, and reports what is wrong.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::admin_client::{AdminClient, QueryError, ReloadStatusReply};
use super::{CliContext, CliError, is_same_folder, keyset_directories, print_json, print_line, print_stderr};
use crate::app::discovery::RunningService;
use crate::app::{self, LoadedConfig};
use crate::config::Config;
use crate::doctor::escape_invisible;

/// The longest wait for the service's next check of its files.
const CHECK_RELOAD_TIMEOUT: Duration = Duration::from_secs(15);

/// The notice that a running service has further checks, which the files alone can't show.
const RUNNING_NOT_CHECKED: &str = "not checked: whether the running service accepts these files. It \
    compares them with what it runs, and rejects, for example, changes that need a restart; `tokenmint check --running` asks it";

/// Load everything that `serve` would load, and report what is wrong
///
/// Exits with 64 if something is wrong, and with 0 if there are only warnings. With --running, exits with 1 if the
/// service rejects the files, reads others or doesn't answer.
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

/// Rejects keys that no store opens until something is changed. A store that doesn't answer is only a warning.
fn reject_unopened_keys(loaded: LoadedConfig) -> Result<LoadedConfig, CliError> {
    let rejected: Vec<_> = loaded
        .ring
        .unopened_keys()
        .filter(|unopened| !unopened.is_transient)
        .map(|unopened| unopened.problem.clone())
        .collect();
    if rejected.is_empty() {
        return Ok(loaded);
    }
    let other_warnings = loaded.warnings().filter(|warning| !rejected.contains(warning)).cloned().collect();
    Err(CliError::Configuration { problems: rejected, warnings: other_warnings })
}

impl CheckCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let loaded = match context.load().and_then(reject_unopened_keys) {
            Err(CliError::Configuration { problems, warnings }) if self.json => {
                print_json(&json!({"ok": false, "problems": problems, "warnings": warnings}));
                return Err(CliError::Configuration { problems, warnings });
            }
            other => other?,
        };
        let state_directory = app::shared_state_directory(&loaded.config);
        let warnings: Vec<_> = loaded.warnings().chain(&state_directory).collect();
        let running = self.running.then(|| wait_for_reload(context, &loaded.config)).transpose()?;
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
///
/// # Errors
/// The service reads other files, doesn't answer, or doesn't check its files.
fn wait_for_reload(context: &CliContext<'_>, config: &Config) -> Result<ReloadStatusReply, CliError> {
    let service = AdminClient::find_readers(context)?;
    let now = context.clock_and_rng.clock.now().seconds();
    let result = service
        .wait_until(CHECK_RELOAD_TIMEOUT, |status| status.reload.looked_at.is_some_and(|began| began > now));
    let reload = match result {
        Ok((true, status)) => status.reload,
        Ok((false, _)) => {
            return Err(CliError::Failed(format!(
                "the service at {} has not checked its files for {} s: does a mount hang?",
                service.address(),
                CHECK_RELOAD_TIMEOUT.as_secs()
            )));
        }
        Err(QueryError::NotRunning) => {
            return Err(CliError::Failed(format!("no service answers at {}", service.address())));
        }
        Err(QueryError::Failed(reason)) => {
            return Err(CliError::Failed(format!(
                "the service at {} can't be reached: {reason}",
                service.address()
            )));
        }
    };
    if reload.in_force {
        // The service may have read another `directory` only now.
        check_key_folders(config, &AdminClient::readers(context))?;
    }
    Ok(reload)
}

/// Rejects services that have other key folders than `config`. Environment variables can cause that, since they override the
/// file.
fn check_key_folders(config: &Config, services: &[RunningService]) -> Result<(), CliError> {
    let ours: Vec<&Path> = keyset_directories(&config.keysets).map(|(_, directory)| directory).collect();
    for service in services {
        let theirs = service.key_folders();
        let missing = ours.iter().find(|folder| !theirs.iter().any(|other| is_same_folder(other, folder)));
        let extra = theirs.iter().find(|folder| !ours.iter().any(|other| is_same_folder(other, folder)));
        let (which, folder) = match (missing, extra) {
            (Some(folder), _) => ("doesn't read", *folder),
            (None, Some(folder)) => ("also reads", folder.as_path()),
            (None, None) => continue,
        };
        return Err(CliError::Failed(format!(
            "the running service {which} the key folder {}: an environment variable of the service or of this command \
             overrides the configuration file",
            escape_invisible(&folder.display().to_string())
        )));
    }
    Ok(())
}

fn pluralize(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
