//! `tokenmint check`: loads everything that `serve` would load, and says what is wrong.

use clap::Args;
use serde_json::json;

use super::{Context, Failure, complain, say, say_json};

/// Load everything that `serve` would load, and say what is wrong
///
/// Ends with 64 where something is; warnings alone are fine.
#[derive(Args)]
#[command(after_help = "Example: tokenmint check --config tokenmint.toml && systemctl restart tokenmint")]
pub(super) struct Check {
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
        if self.json {
            say_json(&json!({"ok": true, "problems": [], "warnings": warnings}));
            return Ok(());
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
            counted(config.identity.len() + config.oauth.len() + config.intercom.len(), "profile"),
            counted(config.callers.len(), "caller"),
        ));
        Ok(())
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
