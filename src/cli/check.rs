//! `tokenmint check`: loads everything that `serve` would load, and says what is wrong.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::ask::{ReloadStatus, RunningService, Silence};
use super::{Context, Failure, complain, say, say_json};

/// How long `--running` waits for the service's next look at its files.
const NEXT_LOOK: Duration = Duration::from_secs(15);

/// What no look at the files alone can judge, where a service runs.
const NOT_JUDGED: &str = "not judged: whether the service that runs here takes this over, as it refuses changes of what is settled \
                          at its start, and keys that its verifiers don't know yet; `tokenmint check --running` asks it";

/// Load everything that `serve` would load, and say what is wrong
///
/// Ends with 64 where something is; warnings alone are fine.
#[derive(Args)]
#[command(after_help = "Example: tokenmint check --config tokenmint.toml && systemctl restart tokenmint")]
pub(super) struct Check {
    /// Wait until the service that runs on this host has looked at the files, and end with 1 where it refuses them
    #[arg(long)]
    running: bool,
    /// Print problems and warnings as JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let loaded = match context.load() {
            Err(Failure::Configuration { problems, warnings }) if self.json => {
                say_json(&json!({"ok": false, "problems": problems, "warnings": warnings}));
                return Err(Failure::Configuration { problems, warnings });
            }
            other => other?,
        };
        let warnings: Vec<_> = loaded.warnings().collect();
        let running = self.running.then(|| ask(context)).transpose()?;
        let refused = running.as_ref().is_some_and(|running| !running.in_force);
        if self.json {
            let problems: Vec<_> = running.iter().flat_map(|running| &running.problems).collect();
            say_json(&json!({"ok": !refused, "problems": problems, "warnings": warnings}));
            return if refused { Err(Failure::Found) } else { Ok(()) };
        }
        for warning in &warnings {
            complain(&format!("warning: {warning}"));
        }
        let keys: usize = loaded.ring.keysets.values().map(|keyset| keyset.keys.len()).sum();
        let config = &loaded.config;
        say(&format!(
            "ok: {}, {}, {}, {}",
            counted(keys, "key"),
            counted(config.keysets.len(), "keyset"),
            counted(config.profiles().count(), "profile"),
            counted(config.callers.len(), "caller"),
        ));
        say(&format!("read from {}", context.configuration()));
        let Some(running) = running else {
            if !matches!(RunningService::find(context, &[])?.status(), Err(Silence::NobodyThere)) {
                complain(NOT_JUDGED);
            }
            return Ok(());
        };
        if running.in_force {
            say("The service that runs has taken all of it over.");
            return Ok(());
        }
        for problem in &running.problems {
            complain(&format!("{}: {}", problem.field, problem.message));
        }
        Err(Failure::Failed(
            "the service that runs refuses these files, and goes on with those before".to_owned(),
        ))
    }
}

/// What the service that runs says once it has looked at the files as they are now.
fn ask(context: &Context<'_>) -> Result<ReloadStatus, Failure> {
    let service = RunningService::find(context, &[])?;
    let now = context.ambient.clock.now().seconds();
    let looked = service.wait(NEXT_LOOK, |status| status.reload.looked_at.is_some_and(|began| began > now));
    match looked {
        Ok((true, status)) => Ok(status.reload),
        Ok((false, _)) => Err(Failure::Failed(format!(
            "the service at {} has not looked at its files for {} s: does a mount hang?",
            service.address(),
            NEXT_LOOK.as_secs()
        ))),
        Err(Silence::NobodyThere) => {
            Err(Failure::Failed(format!("no service runs at {}", service.address())))
        }
        Err(Silence::Failed(reason)) => {
            Err(Failure::Failed(format!("the service at {} can't be asked: {reason}", service.address())))
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
