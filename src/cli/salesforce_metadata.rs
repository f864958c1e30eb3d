//! `tokenmint salesforce-metadata`: the keysets as deployable Salesforce metadata, and what a retrieved project has
//! otherwise.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Context, Failure, say, say_json};
use crate::app::Loaded;
use crate::metadata::{self, Difference, Expected, Retrieved};
use crate::shell;

/// Write the keysets as deployable Salesforce metadata, or compare a retrieved project with them
///
/// Writes a project for Salesforce's `sf` command: a `PublicKeyCertificateSet` for each keyset that signs identity
/// tokens, with the address of its JWKS where [server.public] has a `url`, else with its keys, and in fragments/ what
/// goes into the channel's `MessagingChannel`. --diff compares issuer and key id byte for byte, says what differs, and exits 1.
#[derive(Args)]
#[command(
    after_help = "Example: tokenmint salesforce-metadata --out salesforce && cd salesforce && sf project deploy start\n         \
                  tokenmint salesforce-metadata --diff ../salesforce-project"
)]
pub(super) struct SalesforceMetadata {
    /// Write the project here
    #[arg(long, value_name = "DIR", required_unless_present = "diff")]
    out: Option<PathBuf>,
    /// Compare this project, as `sf project retrieve start` leaves it
    #[arg(long, value_name = "DIR")]
    diff: Option<PathBuf>,
    /// Upload the keys, in place of an address
    #[arg(long)]
    upload: bool,
    /// The name of the User Verification configuration, the same in every channel in which a conversation goes on
    /// [default: the keyset's, and `_Verification`]
    #[arg(long, value_name = "NAME", value_parser = parse_configuration_name)]
    configuration_name: Option<String>,
    /// Print what was written and what differs as JSON
    #[arg(long)]
    json: bool,
}

fn parse_configuration_name(text: &str) -> Result<String, String> {
    let fits = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if fits { Ok(text.to_owned()) } else { Err("a letter, then letters, digits and `_`".to_owned()) }
}

impl SalesforceMetadata {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let loaded = context.load()?;
        let public_url = self.public_url(&loaded)?;
        let now = context.ambient.clock.now();
        let sets =
            metadata::expected(&loaded.config, &loaded.ring, public_url, now).map_err(Failure::Failed)?;
        if sets.is_empty() {
            let reason =
                "no [identity.NAME] is configured, and only identity tokens have keysets in Salesforce";
            return Err(Failure::Failed(reason.to_owned()));
        }
        let written = match &self.out {
            Some(folder) => self.write(&sets, folder)?,
            None => Vec::new(),
        };
        let differences = match &self.diff {
            Some(folder) => metadata::differences(&sets, &Retrieved::read(folder).map_err(Failure::Failed)?),
            None => Vec::new(),
        };
        if self.json {
            say_json(&json!({"ok": differences.is_empty(), "written": written, "differences": differences}));
        } else {
            self.tell(&written, &differences);
        }
        if differences.is_empty() { Ok(()) } else { Err(Failure::Found) }
    }

    /// Where Salesforce fetches the keys, if it does.
    fn public_url<'a>(&self, loaded: &'a Loaded) -> Result<Option<&'a str>, Failure> {
        let url = loaded.config.server.public.as_ref().and_then(|public| public.url.as_ref());
        match url.filter(|_| !self.upload) {
            Some(url) if url.url().scheme() != "https" => Err(Failure::Usage(format!(
                "server.public.url is {}, and Salesforce fetches keys over https only; --upload writes the keys \
                 themselves",
                url.as_str()
            ))),
            url => Ok(url.map(crate::config::HttpsUrl::as_str)),
        }
    }

    fn write(&self, sets: &[Expected], folder: &Path) -> Result<Vec<PathBuf>, Failure> {
        let mut written = Vec::new();
        for component in metadata::project(sets, self.configuration_name.as_deref()) {
            let path = folder.join(component.path);
            if component.once && path.exists() {
                continue;
            }
            let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", path.display()));
            fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(failed)?;
            fs::write(&path, component.text).map_err(failed)?;
            written.push(path);
        }
        Ok(written)
    }

    fn tell(&self, written: &[PathBuf], differences: &[Difference]) {
        for path in written {
            say(&path.display().to_string());
        }
        if let Some(folder) = &self.out {
            say(&format!(
                "\nDeploy: (cd {} && sf project deploy start). Then merge fragments/ into the channel's own file, \
                 which the org knows more of, and deploy that.",
                shell::quoted(folder.display())
            ));
        }
        for difference in differences {
            say(&sentence(difference));
        }
        if let Some(folder) = &self.diff {
            say(&match differences.len() {
                0 => format!("{} is as the configuration has it", folder.display()),
                1 => "1 difference".to_owned(),
                count => format!("{count} differences"),
            });
        }
    }
}

fn sentence(Difference { file, field, configured, retrieved, in_what }: &Difference) -> String {
    let place = if file.is_empty() { String::new() } else { format!("{file}: ") };
    let seen = match (configured, retrieved) {
        (Some(configured), Some(retrieved)) => {
            format!("{field} is `{}`, and `{configured}` here", crate::doctor::escape_and_truncate(retrieved))
        }
        (Some(configured), None) => format!("no {field} for `{configured}`"),
        (None, retrieved) => {
            let retrieved = crate::doctor::escape_and_truncate(retrieved.as_deref().unwrap_or_default());
            format!("{field} `{retrieved}`, which isn't published here")
        }
    };
    let in_what = in_what.as_ref().map(|what| format!(" ({what})")).unwrap_or_default();
    format!("✗ {place}{seen}{in_what}")
}
