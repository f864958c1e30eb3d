//! `tokenmint keys new`: creates a key pair with its certificate and JWK.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;

use super::seal::seal_of;
use super::{
    CliContext, CliError, KeyPair, KeysetUsage, check_kid_unused, create_directory, parse_kid, print_stderr,
    select_keyset,
};
use crate::cli::print_json;
use crate::clock::UnixTime;
use crate::config::{DEFAULT_PUBLISH_LEAD, KeyId};
use crate::keys::{KeyDirectory, SCHEDULE_FILE, SEALED_EXTENSION};

/// Make a key pair: the private key, its certificate, and the JWK to upload to Salesforce
///
/// Writes KID.key (with owner and mode of the keys beside it, otherwise readable by its owner only), KID.crt and
/// KID.jwk. If the keyset has `sealed_by`, writes KID.key.sealed in the place of KID.key. Nothing is overwritten.
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
            (directory.to_path_buf(), Some(keyset), KeysetUsage::of(&keyset.name, context))
        };
        // Both are checked before seconds are spent on a key, and again once the directory is locked.
        reject_unscheduled_key(&directory, self.kid.as_ref(), now)?;
        if let Some(kid) = &self.kid {
            check_kid_unused(&directory, kid)?;
        }
        let bits = usize::try_from(self.bits).map_err(CliError::failed)?;
        let pair = KeyPair::generate(bits, context)?;
        let kid = self.kid.map_or_else(|| pair.thumbprint(), Ok)?;
        create_directory(&directory)?;
        let locked = KeyDirectory::lock(&directory)?;
        reject_unscheduled_key(&directory, Some(&kid), now)?;
        let made = pair.write(&locked, &kid, keyset, context)?;
        drop(locked);
        if self.json {
            print_json(&made);
            return Ok(());
        }
        made.announce(usage);
        let schedule = fs::read_to_string(directory.join(SCHEDULE_FILE)).ok();
        if schedule.is_some_and(|text| !text.contains(&format!("\"{}\"", made.kid))) {
            print_stderr(&format!("Now list `{}` in {}.", made.kid, directory.join(SCHEDULE_FILE).display()));
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
