//! `tokenmint keys`: creates, lists, rotates and retires keys.

mod key_folder;
mod list;
mod new;
mod new_key;
mod retire;
mod rotate;
mod seal;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use secrecy::{ExposeSecret as _, SecretString};

use super::admin_client::{AdminClient, QueryError, StatusReply};
use super::{
    CliContext, CliError, FILE_TIMEOUT, MAX_LINE_WIDTH, WithConfig, keyset_directories, list_known_names,
    print_line, print_stderr, run_with_timeout,
};
use crate::config::{KeyId, KeysetConfig, KeysetSource, Name, RemoteKeyName};
use crate::keys::{self, DirectoryContents, DirectoryError, KeyFile, SEALED_EXTENSION};
use new_key::NewKey;
pub(super) use new_key::{KeyFiles, KeyPair};

/// Make, list, rotate and retire keys
#[derive(Subcommand)]
#[command(after_help = "Example: tokenmint keys list")]
pub(super) enum KeysCommand {
    New(WithConfig<new::NewKeyCommand>),
    List(WithConfig<list::ListKeysCommand>),
    Rotate(WithConfig<rotate::RotateKeyCommand>),
    Retire(WithConfig<retire::RetireKeyCommand>),
    Seal(WithConfig<seal::SealKeyCommand>),
    Reseal(WithConfig<seal::ResealKeysCommand>),
}

impl KeysCommand {
    pub(crate) const fn writes_files(&self) -> bool {
        match self {
            Self::New(_) | Self::Retire(_) | Self::Seal(_) | Self::Reseal(_) => true,
            Self::List(_) => false,
            Self::Rotate(rotate) => !rotate.command.plan,
        }
    }

    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        match self {
            Self::New(command) => command.run(context, new::NewKeyCommand::run),
            Self::List(command) => command.run(context, list::ListKeysCommand::run),
            Self::Rotate(command) => command.run(context, rotate::RotateKeyCommand::run),
            Self::Retire(command) => command.run(context, retire::RetireKeyCommand::run),
            Self::Seal(command) => command.run(context, seal::SealKeyCommand::run),
            Self::Reseal(command) => command.run(context, seal::ResealKeysCommand::run),
        }
    }
}

fn parse_kid(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text)
}

fn parse_remote(text: &str) -> Result<RemoteKeyName, String> {
    RemoteKeyName::parse(text)
}

/// Rejects `--remote` and `--remote-key` for a keyset without `signed_by`.
fn check_remote(keyset: &KeysetConfig, is_wanted: bool) -> Result<(), CliError> {
    if is_wanted && keyset.signed_by.is_none() {
        return Err(CliError::Failed(format!(
            "keysets.{} has no `signed_by`: name a [stores.NAME] that signs",
            keyset.name
        )));
    }
    Ok(())
}

/// Returns the keyset with that name, or the only one with a directory, and its directory.
fn select_keyset<'a>(
    keysets: &'a BTreeMap<Name, KeysetConfig>,
    wanted: Option<&str>,
    context: &CliContext<'_>,
) -> Result<(&'a KeysetConfig, &'a Path), CliError> {
    let with_directory: Vec<_> = keyset_directories(keysets).collect();
    match (wanted, with_directory.as_slice()) {
        (None, [only]) => return Ok(*only),
        (None, [_, _, ..]) => {
            let known = list_known_names(with_directory.iter().map(|(keyset, _)| &keyset.name));
            return Err(CliError::Usage(format!("name the keyset with --keyset; {known}")));
        }
        _ => {}
    }
    let chosen = with_directory.iter().find(|(keyset, _)| Some(keyset.name.as_str()) == wanted);
    if let Some(chosen) = chosen {
        return Ok(*chosen);
    }
    // An invalid keyset is missing here too, so its problems come first.
    context.config()?;
    Err(match wanted {
        Some(name) if keysets.contains_key(name) => CliError::Failed(format!(
            "keysets.{name} has one key, given as file or text: give it a `directory` for several"
        )),
        Some(name) => {
            CliError::Usage(format!("there is no keyset `{name}`; {}", list_known_names(keysets.keys())))
        }
        None => CliError::Failed("no keyset of the configuration has a `directory`".to_owned()),
    })
}

/// The kind of profiles that use a keyset. It decides what Salesforce needs of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeysetUsage {
    /// Identity profiles only: Setup needs the JWK.
    Identity,
    /// OAuth profiles only: the External Client App needs the certificate.
    Oauth,
    /// Profiles of both kinds, none, or a configuration that doesn't load.
    Unknown,
}

impl KeysetUsage {
    fn of(keyset: &Name, context: &CliContext<'_>) -> Self {
        let source = context.source();
        let Some(Ok(config)) = run_with_timeout(FILE_TIMEOUT, move || source.load()) else {
            return Self::Unknown;
        };
        let identity = config.identity.values().any(|profile| profile.keyset == *keyset);
        let oauth = config.oauth.values().any(|profile| profile.keyset == *keyset);
        match (identity, oauth) {
            (true, false) => Self::Identity,
            (false, true) => Self::Oauth,
            _ => Self::Unknown,
        }
    }
}

/// Rejects a key in the clear in a folder with sealed keys: the configuration that seals them wasn't found, or has a mistake.
fn reject_plain_beside_sealed(directory: &Path) -> Result<(), CliError> {
    let contents = DirectoryContents::list(directory);
    let keys = contents.map(|contents| contents.keys).unwrap_or_default();
    if !keys.values().any(|file| matches!(file, KeyFile::Sealed(_))) {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{} has sealed keys, and a new key would lie there in the clear; no key was written. Set `sealed_by` of its keyset, and name \
         the keyset with --keyset",
        directory.display()
    )))
}

/// The extensions of a key's files in its folder.
const KEY_FILE_EXTENSIONS: &[&str] = &["key", SEALED_EXTENSION, "crt", "jwk"];

/// Rejects a key id if one of its files exists, before anything is written.
pub(super) fn check_kid_unused(directory: &Path, kid: &KeyId) -> Result<(), CliError> {
    let mut paths = KEY_FILE_EXTENSIONS.iter().map(|extension| directory.join(format!("{kid}.{extension}")));
    match paths.find(|path| fs::symlink_metadata(path).is_ok()) {
        None => Ok(()),
        Some(path) => Err(CliError::Failed(format!(
            "{} exists already, and nothing is overwritten; nothing was written. Move it away, or give the new key \
            another id",
            path.display()
        ))),
    }
}

pub(super) fn create_directory(directory: &Path) -> Result<(), CliError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| CliError::Failed(format!("can't create the key folder: {error}")))
}

impl From<DirectoryError> for CliError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Schedule(problems) => Self::invalid_config(problems),
            other => Self::failed(other),
        }
    }
}

/// Whether the key id is unavailable for `directory`: one of its files exists there, or a keyset has or lists it. Folders
/// of keysets that don't answer are ignored.
fn is_kid_taken(kid: &KeyId, directory: &Path, keysets: &BTreeMap<Name, KeysetConfig>) -> bool {
    let has = |kid: &KeyId, directory: &Path| check_kid_unused(directory, kid).is_err();
    let in_keyset = |keyset: &KeysetConfig| match &keyset.keys {
        KeysetSource::Directory(directory) => {
            let (kid, path) = (kid.clone(), directory.as_path().to_path_buf());
            let found = run_with_timeout(FILE_TIMEOUT, move || {
                let listed = fs::read_to_string(path.join(keys::SCHEDULE_FILE)).unwrap_or_default();
                has(&kid, &path) || (keys::retirement_marks(&listed).iter().any(|mark| mark.kid == kid))
            });
            found.unwrap_or(false)
        }
        KeysetSource::File { kid: other, .. } | KeysetSource::Text { kid: other, .. } => other == kid,
    };
    has(kid, directory) || keysets.values().any(in_keyset)
}

/// Warns that a new key file isn't encrypted although the keyset has a passphrase.
fn warn_unencrypted_key(keyset: Option<&KeysetConfig>, made: &KeyFiles) {
    let Some(private_key) = &made.private_key else { return };
    if let Some(keyset) = keyset.filter(|keyset| keyset.passphrase.is_some()) {
        print_stderr(&format!(
            "warning: {} isn't encrypted, though keysets.{} has a passphrase: only its mode protects it. To encrypt \
             it: openssl pkey -aes256 -in OLD -out NEW",
            private_key.display(),
            keyset.name
        ));
    }
}

/// The longest wait until a running service has reloaded the written files.
const SERVICE_RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits until the service on this host has applied the written files; `false` if none runs.
///
/// `missing` describes what the service hasn't applied yet. If something is still missing at the end, the command
/// fails.
fn wait_for_service(
    service: &AdminClient,
    missing: impl Fn(&StatusReply) -> Option<String>,
) -> Result<bool, CliError> {
    let (is_done, status) =
        match service.wait_until(SERVICE_RELOAD_TIMEOUT, |status| missing(status).is_none()) {
            Ok(answer) => answer,
            Err(QueryError::NotRunning) => return Ok(false),
            Err(QueryError::Failed(reason)) => {
                return Err(CliError::Failed(format!(
                    "the files are written, but it is unknown whether the service at {} uses them: {reason}",
                    service.address()
                )));
            }
        };
    let Some(what) = missing(&status).filter(|_| !is_done) else { return Ok(true) };
    let reason = match status.reload.problem_summary() {
        none if none.is_empty() => "it gives no reason: does it read these files?".to_owned(),
        reasons => format!("it rejects the files: {reasons}"),
    };
    Err(CliError::Failed(format!(
        "the files are written, but after {} s the service at {} {what}; {reason}",
        SERVICE_RELOAD_TIMEOUT.as_secs(),
        service.address()
    )))
}

/// Writes a new file; an existing one is an error.
pub(super) fn write_new(path: &Path, mode: u32, content: &SecretString) -> Result<(), CliError> {
    let failed = |error| CliError::Failed(format!("can't write {}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    let written = file.write_all(content.expose_secret().as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = fs::remove_file(path);
        failed(error)
    })
}

/// Prints a table at most [`MAX_LINE_WIDTH`] columns wide. If the cells need more, the widest columns are wrapped
/// at blanks, and within words if necessary.
fn print_table<const N: usize>(rows: &[[String; N]]) {
    let widest = |length: fn(&str) -> usize| -> [usize; N] {
        std::array::from_fn(|column| rows.iter().map(|row| length(&row[column])).max().unwrap_or_default())
    };
    let mut widths = widest(textwrap::core::display_width);
    let words = widest(|cell| cell.split(' ').map(textwrap::core::display_width).max().unwrap_or_default());
    for least in [words, [1; N]] {
        while widths.iter().sum::<usize>() + 2 * (N - 1) > MAX_LINE_WIDTH {
            let broken =
                (0..N).filter(|column| widths[*column] > least[*column]).max_by_key(|column| widths[*column]);
            let Some(column) = broken else { break };
            widths[column] -= 1;
        }
    }
    let wrapped = |cell: &str, width: usize| {
        let options = textwrap::Options::new(width).word_splitter(textwrap::WordSplitter::NoHyphenation);
        textwrap::wrap(cell, options).into_iter().map(std::borrow::Cow::into_owned).collect::<Vec<_>>()
    };
    for row in rows {
        let cells: [Vec<String>; N] = std::array::from_fn(|column| wrapped(&row[column], widths[column]));
        for line in 0..cells.iter().map(Vec::len).max().unwrap_or_default() {
            let part = |column: usize| cells[column].get(line).map_or("", String::as_str);
            let parts = (0..N).map(|column| format!("{:1$}", part(column), widths[column]));
            print_line(parts.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}
