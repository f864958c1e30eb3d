//! `tokenmint keys new`: creates a key pair with its certificate and JWK.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;

use super::seal::seal_of;
use super::{
    CliContext, CliError, KeysetUsage, NewKey, check_kid_unused, check_remote, create_directory, parse_kid,
    parse_remote, print_stderr, select_keyset,
};
use crate::cli::print_json;
use crate::clock::UnixTime;
use crate::config::{DEFAULT_PUBLISH_LEAD, KeyId, RemoteKeyName};
use crate::keys::{KeyDirectory, SCHEDULE_FILE, SEALED_EXTENSION, ScheduleEntry};

/// Make a key pair: the private key, its certificate, and the JWK to upload to Salesforce
///
/// Writes KID.key (with owner and mode of the keys beside it, otherwise readable by its owner only), KID.crt and
/// KID.jwk. If the keyset has `sealed_by`, writes KID.key.sealed in the place of KID.key. If it has `signed_by`, the store makes the key,
/// and the first key gets its entry in keyset.toml. Nothing is overwritten.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys new WebAppKey1 --keyset web")]
pub(in crate::cli) struct NewKeyCommand {
    /// The key id [default: the key's RFC 7638 thumbprint]
    #[arg(value_parser = parse_kid)]
    kid: Option<KeyId>,
    /// The keyset of the configuration that the key belongs to
    #[arg(long, value_name = "NAME", conflicts_with = "directory")]
    keyset: Option<String>,
    /// The folder to write to, without any configuration
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Fail unless the key is sealed. Keys of a keyset with `sealed_by` always are
    #[arg(long, conflicts_with = "directory")]
    sealed: bool,
    /// Fail unless the key is one of a store. Keys of a keyset with `signed_by` always are: the store makes them and keeps them
    #[arg(long, conflicts_with_all = ["directory", "sealed"])]
    remote: bool,
    /// An existing key of the store, for example crm-key:1 [default: the store makes one, named as the key id]
    #[arg(long, value_name = "KEY", value_parser = parse_remote, conflicts_with_all = ["directory", "sealed", "bits"])]
    remote_key: Option<RemoteKeyName>,
    /// Length of the modulus in bits
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(2048..=8192))]
    bits: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl NewKeyCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let now = context.clock_and_rng.clock.now();
        let keysets;
        let (directory, keyset, usage) = if let Some(directory) = self.directory {
            (directory, None, KeysetUsage::Unknown)
        } else {
            keysets = context.keysets()?;
            let (keyset, directory) = select_keyset(&keysets, self.keyset.as_deref(), context)?;
            if self.sealed {
                seal_of(keyset)?;
            }
            check_remote(keyset, self.remote || self.remote_key.is_some())?;
            (directory.to_path_buf(), Some(keyset), KeysetUsage::of(&keyset.name, context))
        };
        // Both are checked before seconds are spent on a key, and again once the directory is locked.
        reject_unscheduled_key(&directory, self.kid.as_ref(), now)?;
        if let Some(kid) = &self.kid {
            check_kid_unused(&directory, kid)?;
        }
        let key = NewKey::make(keyset, self.kid.as_ref(), self.remote_key.as_ref(), self.bits, context)?;
        let kid = self.kid.map_or_else(|| key.thumbprint(), Ok)?;
        create_directory(&directory)?;
        let locked = KeyDirectory::lock(&directory)?;
        reject_unscheduled_key(&directory, Some(&kid), now)?;
        key.check_is_new(&kid, None, &directory)?;
        let made = key.write(&locked, &kid, keyset, context)?;
        let entry = key.remote().map(|remote| ScheduleEntry {
            sign_from: Some(now),
            remote: Some(remote.clone()),
            ..ScheduleEntry::without_dates(kid)
        });
        let has_schedule = directory.join(SCHEDULE_FILE).exists();
        if let Some(entry) = entry.as_ref().filter(|_| !has_schedule)
            && let Err(error) = locked.create_schedule(entry)
        {
            made.remove_unless_listed(&error);
            return Err(error.into());
        }
        drop(locked);
        if self.json {
            print_json(&made);
            return Ok(());
        }
        made.announce(usage);
        let path = directory.join(SCHEDULE_FILE);
        let schedule = fs::read_to_string(&path).ok();
        if schedule.is_some_and(|text| !text.contains(&format!("\"{}\"", made.kid))) {
            let remote =
                made.remote.map(|remote| format!(", with remote = \"{remote}\"")).unwrap_or_default();
            print_stderr(&format!("Now list `{}` in {}{remote}.", made.kid, path.display()));
        }
        Ok(())
    }
}

/// Rejects a new key `kid` beside one that signs without a schedule.
fn reject_unscheduled_key(directory: &Path, kid: Option<&KeyId>, now: UnixTime) -> Result<(), CliError> {
    let Some(other) = unscheduled_key(directory)? else { return Ok(()) };
    Err(CliError::Failed(format!(
        "{} contains {other}, which signs without a {SCHEDULE_FILE}; `tokenmint keys rotate` creates the \
         next key and writes when each key signs. To do it by hand, first write:\n\n[[key]]\nkid = \
         \"{}\"\nsign_from = {now}\n\n[[key]]\nkid = \"{}\"\nadded = {now}\nsign_from = {}\n",
        directory.display(),
        other.trim_end_matches(".sealed").trim_end_matches(".key"),
        kid.map_or("NEW", KeyId::as_str),
        now.plus(DEFAULT_PUBLISH_LEAD),
    )))
}

/// Returns the name of a key file in a directory without a schedule. A second key beside it would be ambiguous.
fn unscheduled_key(directory: &Path) -> Result<Option<String>, CliError> {
    let listing = match fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CliError::Failed(format!("{}: {error}", directory.display()))),
    };
    if directory.join(SCHEDULE_FILE).exists() {
        return Ok(None);
    }
    let mut names = listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_key = |name: &str| name.ends_with(".key") || name.ends_with(&format!(".{SEALED_EXTENSION}"));
    Ok(names.find(|name| is_key(name) && !name.starts_with('.')))
}
