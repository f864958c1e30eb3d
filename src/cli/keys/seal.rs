//! `tokenmint keys seal` and `keys reseal`: encrypt private keys with the store of their keyset.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::{CliContext, CliError, parse_kid, select_keyset, wait_for_service};
use crate::cli::admin_client::AdminClient;
use crate::cli::{print_json, print_line};
use crate::config::{KeyId, KeysetConfig, SealConfig};
use crate::keys::{
    DirectoryContents, KeyDirectory, KeyFile, PrivateKey, SEALED_EXTENSION, SealedKey, key_file,
};
use crate::metrics::Metrics;
use crate::stores::{SealContext, StoreSessions};

/// Seal a private key: encrypt KID.key with the keyset's store
///
/// Writes KID.key.sealed, waits until a running service uses it, and removes KID.key. If it was interrupted, run it again.
/// Copies of KID.key elsewhere, for example in backups, stay as they are.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys seal WebAppKey1 --keyset web")]
pub(in crate::cli) struct SealKeyCommand {
    /// The key id
    #[arg(value_parser = parse_kid)]
    kid: KeyId,
    /// The keyset [default: the only one with a directory]
    #[arg(long, value_name = "NAME")]
    keyset: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Seal the sealed keys of a keyset again, after its store has another version of the sealing key
///
/// Opens each KID.key.sealed and writes it anew. The keys themselves stay the same.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys reseal --keyset web")]
pub(in crate::cli) struct ResealKeysCommand {
    /// The keyset [default: the only one with a directory]
    #[arg(long, value_name = "NAME")]
    keyset: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct SealedOutput {
    kid: KeyId,
    sealed_key: PathBuf,
    /// The removed file; `None` if the key was sealed again.
    removed: Option<PathBuf>,
}

impl SealKeyCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let keysets = context.keysets()?;
        let (keyset, directory_path) = select_keyset(&keysets, self.keyset.as_deref(), context)?;
        let seal = seal_of(keyset)?;
        let plain = directory_path.join(format!("{}.key", self.kid));
        let failed = |reason: String| CliError::Failed(format!("{}: {reason}", plain.display()));
        let directory = KeyDirectory::lock(directory_path)?;
        let sealed = directory_path.join(format!("{}.{SEALED_EXTENSION}", self.kid));
        let is_sealed = sealed.try_exists().map_err(|error| failed(error.to_string()))?;
        if is_sealed && !plain.exists() {
            return Err(failed("is sealed already; `tokenmint keys reseal` seals it again".to_owned()));
        }
        if plain.is_symlink() {
            return Err(failed(
                "is a symbolic link: seal the key in the folder that has its file".to_owned(),
            ));
        }
        let pem = key_file::read_private_key(&plain).map_err(failed)?;
        let private = PrivateKey::parse(&pem, None).map_err(|error| failed(error.to_string()))?;
        if is_sealed {
            // An earlier run of this command didn't end.
            compare_sealed_key(&sealed, &private, &self.kid, keyset, seal)?;
        } else {
            let text = seal_text(&pem, &private, &self.kid, keyset, context)?;
            directory.create_file(&format!("{}.{SEALED_EXTENSION}", self.kid), &SecretString::from(text))?;
        }
        let written_at = context.clock_and_rng.clock.now();
        drop(directory);
        let service = AdminClient::find(context, &[directory_path.to_path_buf()])?;
        let taken = wait_for_service(&service, |status| {
            let is_checked = status.reload.looked_at.is_some_and(|began| began > written_at.seconds());
            (!is_checked || !status.reload.in_force).then(|| format!("doesn't use {} yet", sealed.display()))
        });
        let taken = taken.map_err(|error| {
            // Otherwise the next start would depend on a key that the service can't open.
            let _ = fs::remove_file(&sealed);
            CliError::Failed(format!(
                "{}; {} stays, and {} is removed again",
                error.summary(),
                plain.display(),
                sealed.display()
            ))
        })?;
        let again = key_file::read_private_key(&plain).map_err(failed)?;
        if again.expose_secret() != pem.expose_secret() {
            return Err(failed(format!(
                "was changed meanwhile, so it stays; {} has the key from before",
                sealed.display()
            )));
        }
        fs::remove_file(&plain).map_err(|error| failed(format!("can't be removed: {error}")))?;
        if self.json {
            print_json(&SealedOutput { kid: self.kid, sealed_key: sealed, removed: Some(plain) });
            return Ok(());
        }
        print_line(&format!(
            "{}  the sealed key, which only the store `{}` opens",
            sealed.display(),
            seal.store.name
        ));
        print_line(&format!("{}  is removed; its copies, for example in backups, are not", plain.display()));
        if taken {
            print_line(&format!("The service at {} uses the sealed key.", service.address()));
        }
        Ok(())
    }
}

impl ResealKeysCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let keysets = context.keysets()?;
        let (keyset, directory_path) = select_keyset(&keysets, self.keyset.as_deref(), context)?;
        let seal = seal_of(keyset)?;
        let directory = KeyDirectory::lock(directory_path)?;
        let contents = DirectoryContents::list(directory_path).map_err(|error| {
            CliError::Failed(format!("{}: can't be listed: {error}", directory_path.display()))
        })?;
        let metrics = Metrics::new();
        let mut sessions = StoreSessions::new(&metrics);
        let mut done = Vec::new();
        for (kid, file) in contents.keys {
            let KeyFile::Sealed(path) = file else { continue };
            let failed = |reason: String| CliError::Failed(format!("{}: {reason}", path.display()));
            let sealed = SealedKey::read(&path).map_err(|error| failed(error.to_string()))?;
            let resealed =
                sealed.reseal(SealContext { keyset: &keyset.name, kid: &kid }, seal, &mut sessions);
            let resealed = resealed.map_err(|error| failed(error.to_string()))?;
            directory.replace_file(&path, resealed.to_text().as_bytes())?;
            done.push(SealedOutput { kid, sealed_key: path, removed: None });
        }
        if done.is_empty() {
            return Err(CliError::Failed(format!("{}: holds no sealed key", directory_path.display())));
        }
        if self.json {
            print_json(&done);
            return Ok(());
        }
        for SealedOutput { sealed_key, .. } in done {
            print_line(&format!("{}  is sealed again", sealed_key.display()));
        }
        Ok(())
    }
}

/// The seal of a keyset.
pub(super) fn seal_of(keyset: &KeysetConfig) -> Result<&SealConfig, CliError> {
    keyset.seal.as_ref().ok_or_else(|| {
        CliError::Failed(format!(
            "keysets.{} has no `sealed_by`: name a [stores.NAME], and its `seal_key`",
            keyset.name
        ))
    })
}

/// Opens a sealed key, and compares it with the plain one.
///
/// # Errors
/// It can't be opened, or is another key.
fn compare_sealed_key(
    path: &Path,
    plain: &PrivateKey,
    kid: &KeyId,
    keyset: &KeysetConfig,
    seal: &SealConfig,
) -> Result<(), CliError> {
    let metrics = Metrics::new();
    let mut sessions = StoreSessions::new(&metrics);
    let context = SealContext { keyset: &keyset.name, kid };
    let opened = SealedKey::read(path).and_then(|sealed| sealed.open(context, seal, &mut sessions));
    let reason = match opened {
        Ok(opened) if opened.public.n == plain.public.n => return Ok(()),
        Ok(_) => "is another key than the one in the clear beside it: move one of them away".to_owned(),
        Err(error) => format!("isn't opened: {error}. If it can't be, remove it, and run the command again"),
    };
    Err(CliError::Failed(format!("{}: {reason}", path.display())))
}

/// Seals a key for its keyset, and returns the text of its file.
///
/// # Errors
/// The keyset has no seal, or its store can't be used.
pub(super) fn seal_text(
    pem: &SecretString,
    private: &PrivateKey,
    kid: &KeyId,
    keyset: &KeysetConfig,
    context: &CliContext<'_>,
) -> Result<String, CliError> {
    let seal = seal_of(keyset)?;
    let metrics = Metrics::new();
    let mut sessions = StoreSessions::new(&metrics);
    let randomness = &*context.clock_and_rng.randomness;
    let context = SealContext { keyset: &keyset.name, kid };
    let sealed = SealedKey::seal(pem, private, context, seal, &mut sessions, randomness);
    let sealed =
        sealed.map_err(|error| CliError::Failed(format!("the key `{kid}` can't be sealed: {error}")))?;
    Ok(sealed.to_text())
}
