//! `tokenmint salesforce-metadata`: writes the keysets as deployable Salesforce metadata, or compares them with a
//! retrieved project.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde_json::json;

use super::{CliContext, CliError, print_json, print_line, print_stderr};
use crate::app::LoadedConfig;
use crate::metadata::{self, Component, ExpectedKeyset, MetadataDifference, RetrievedProject};
use crate::shell;

/// Write the keysets as deployable Salesforce metadata, or compare a retrieved project with them
///
/// Writes a project for Salesforce's `sf` command, with a `PublicKeyCertificateSet` for each keyset that signs
/// identity tokens. It contains the address of the JWKS if [server.public] has a `url`, otherwise the keys. The
/// folder fragments/ contains the parts for the channel's `MessagingChannel`. --diff compares issuer and key id
/// byte for byte, and checks each JWK like `doctor`. It prints the differences, and exits with 1 if there are any.
#[derive(Args)]
#[command(
    // clap's own usage line doesn't fit a narrow terminal.
    override_usage = "tokenmint salesforce-metadata [OPTIONS]",
    group = ArgGroup::new("task").args(["out", "diff"]).required(true).multiple(true),
    after_help = "Example: tokenmint salesforce-metadata --out salesforce && cd salesforce && sf project deploy \
     start\n         tokenmint salesforce-metadata --diff ../salesforce-project"
)]
pub(super) struct SalesforceMetadataCommand {
    /// Write the project here
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Compare this project, which `sf project retrieve start` has written
    #[arg(long, value_name = "DIR")]
    diff: Option<PathBuf>,
    /// Upload the keys instead of an address
    #[arg(long)]
    upload: bool,
    /// The name of the User Verification configuration. Channels that share conversations need the same name
    /// [default: the keyset's name followed by `_Verification`]
    #[arg(long, value_name = "NAME", value_parser = parse_configuration_name)]
    configuration_name: Option<String>,
    /// Print the written files and the differences as JSON
    #[arg(long)]
    json: bool,
}

fn parse_configuration_name(text: &str) -> Result<String, String> {
    let fits = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if fits { Ok(text.to_owned()) } else { Err("a letter, then letters, digits and `_`".to_owned()) }
}

impl SalesforceMetadataCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let loaded = context.load_with_all_keys()?;
        let public_url = self.public_url(&loaded)?;
        let now = context.clock_and_rng.clock.now();
        let sets = metadata::expected_keysets(&loaded.config, &loaded.ring, public_url, now)
            .map_err(CliError::Failed)?;
        if sets.is_empty() {
            let reason =
                "no [identity.NAME] is configured, and only identity tokens have keysets in Salesforce";
            return Err(CliError::Failed(reason.to_owned()));
        }
        let written = match &self.out {
            Some(folder) => self.write(&sets, folder)?,
            None => Vec::new(),
        };
        let differences = match &self.diff {
            Some(folder) => {
                let retrieved = RetrievedProject::read(folder).map_err(CliError::Failed)?;
                metadata::differences(&sets, &retrieved, now)
            }
            None => Vec::new(),
        };
        if self.json {
            print_json(
                &json!({"ok": differences.is_empty(), "written": written, "differences": differences}),
            );
        } else {
            self.print_summary(&written, &differences);
        }
        if differences.is_empty() { Ok(()) } else { Err(CliError::ProblemsFound) }
    }

    pub(crate) const fn writes_files(&self) -> bool {
        self.out.is_some()
    }

    /// Returns the base URL of the JWKS that Salesforce fetches, if there is one and --upload isn't set.
    fn public_url<'a>(&self, loaded: &'a LoadedConfig) -> Result<Option<&'a str>, CliError> {
        let url = loaded.config.server.public.as_ref().and_then(|public| public.url.as_ref());
        match url.filter(|_| !self.upload) {
            Some(url) if url.url().scheme() != "https" => Err(CliError::Usage(format!(
                "server.public.url is {}, and Salesforce fetches keys over https only; --upload writes the keys \
                 themselves",
                url.as_str()
            ))),
            url => Ok(url.map(crate::config::HttpsOrLoopbackUrl::as_str)),
        }
    }

    fn write(&self, sets: &[ExpectedKeyset], folder: &Path) -> Result<Vec<PathBuf>, CliError> {
        // A folder that can't be read is new, or has broken files: the command overwrites its own, and names the others below.
        let before = RetrievedProject::read_keys(folder)
            .map(|project| project.uploaded_keys(sets))
            .unwrap_or_default();
        let mut written = Vec::new();
        for component in metadata::build_project(sets, self.configuration_name.as_deref()) {
            written.extend(write_component(folder, component)?);
        }
        let project = RetrievedProject::read_keys(folder).map_err(CliError::Failed)?;
        for file in project.stale_sets(sets) {
            print_stderr(&format!(
                "warning: {} is of another run, and this configuration has no such keyset. If the keyset is gone, \
                 delete it in Salesforce, and then this file",
                folder.join(file).display()
            ));
        }
        for component in project.deactivate_stale_keys(sets, &before) {
            let path = write_component(folder, component)?;
            if let Some(path) = &path {
                print_stderr(&format!(
                    "{}: no keyset uploads this key any more, so it is written as inactive",
                    path.display()
                ));
            }
            written.extend(path);
        }
        Ok(written)
    }

    fn print_summary(&self, written: &[PathBuf], differences: &[MetadataDifference]) {
        for path in written {
            print_line(&path.display().to_string());
        }
        if let Some(folder) = &self.out {
            print_line(&format!(
                "\nDeploy: (cd {} && sf project deploy start). Then merge fragments/ into the channel's own file, \
                which has more settings, and deploy that.",
                shell::quote(folder.display())
            ));
        }
        for difference in differences {
            print_line(&describe_difference(difference));
        }
        if let Some(folder) = &self.diff {
            print_line(&match differences.len() {
                0 => format!("{} matches the configuration", folder.display()),
                1 => "1 difference".to_owned(),
                count => format!("{count} differences"),
            });
        }
    }
}

/// Writes a component below `folder`, and returns its path. Returns `None` if an existing file is kept.
fn write_component(folder: &Path, component: Component) -> Result<Option<PathBuf>, CliError> {
    let path = folder.join(component.path);
    if component.only_if_absent && path.exists() {
        return Ok(None);
    }
    let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", path.display()));
    fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(failed)?;
    fs::write(&path, component.text).map_err(failed)?;
    Ok(Some(path))
}

fn describe_difference(
    MetadataDifference { file, field, configured, retrieved, in_what }: &MetadataDifference,
) -> String {
    let prefix = if file.is_empty() { String::new() } else { format!("{file}: ") };
    let description = match (configured, retrieved) {
        (Some(configured), Some(retrieved)) => {
            format!("{field} is `{}`, and `{configured}` here", crate::doctor::escape_and_truncate(retrieved))
        }
        (Some(configured), None) if *field == "jsonWebKey" => format!("{field} of `{configured}` is wrong"),
        (Some(configured), None) => format!("no {field} for `{configured}`"),
        (None, retrieved) => {
            let retrieved = crate::doctor::escape_and_truncate(retrieved.as_deref().unwrap_or_default());
            format!("{field} `{retrieved}`, which isn't published here")
        }
    };
    let in_what = in_what.as_ref().map(|what| format!(" ({what})")).unwrap_or_default();
    format!("✗ {prefix}{description}{in_what}")
}
