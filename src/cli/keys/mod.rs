//! `tokenmint keys`: makes key pairs, shows what signs and what is published, and changes that.

mod key_folder;
mod list;
mod new;
mod retire;
mod rotate;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::ask::{RunningService, Silence, Status};
use super::{Context, Failure, PATIENCE, complain, say, within};
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, KeySource, Keyset, Name};
use crate::jwks;
use crate::keys::{self, Certificate, DirectoryError, KeyDirectory, PrivateKey};

/// Make keys, show what signs and what is published, and change that
#[derive(Subcommand)]
#[command(after_help = "Example: tokenmint keys list")]
pub(super) enum Keys {
    New(new::New),
    List(list::List),
    Rotate(rotate::Rotate),
    Retire(retire::Retire),
}

impl Keys {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        match self {
            Self::New(command) => command.run(context),
            Self::List(command) => command.run(context),
            Self::Rotate(command) => command.run(context),
            Self::Retire(command) => command.run(context),
        }
    }
}

fn parse_kid(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text)
}

/// The keyset of that name, or the only one, that has a directory.
fn choose<'a>(
    keysets: impl Iterator<Item = &'a Keyset>,
    wanted: Option<&str>,
) -> Result<(&'a Keyset, &'a Path), Failure> {
    let mut keysets = keysets.filter_map(|keyset| match &keyset.keys {
        KeySource::Directory(directory) => Some((keyset, directory.as_path())),
        KeySource::File { .. } | KeySource::Text { .. } => None,
    });
    let chosen = match wanted {
        Some(name) => keysets.find(|(keyset, _)| keyset.name.as_str() == name),
        None => keysets.next().filter(|_| keysets.next().is_none()),
    };
    chosen.ok_or_else(|| {
        Failure::Usage(match wanted {
            Some(name) => format!("there is no sound [keysets.{name}] with a directory in the configuration"),
            None => "name the keyset with --keyset, or a folder with --directory".to_owned(),
        })
    })
}

#[derive(Serialize)]
struct Made {
    kid: KeyId,
    private_key: PathBuf,
    certificate: PathBuf,
    jwk: PathBuf,
}

impl Made {
    /// Takes the files back, unless the schedule may list them already.
    fn remove_unless_listed(&self, error: &DirectoryError) {
        if error.is_written() {
            return;
        }
        for path in [&self.private_key, &self.certificate, &self.jwk] {
            let _ = fs::remove_file(path);
        }
    }

    fn announce(&self) {
        say(&format!("{}  the private key; back it up, show it to nobody", self.private_key.display()));
        say(&format!("{}  its certificate, for an External Client App", self.certificate.display()));
        let jwk = self.jwk.display();
        say(&format!("{jwk}  its JWK, for Setup > Enhanced Chat User Verification > New Key"));
    }
}

/// Makes a key, its certificate and its JWK in `directory`.
pub(super) fn make_for_init(directory: &Path, kid: &KeyId, context: &Context<'_>) -> Result<(), Failure> {
    let pair = KeyPair::generate(2048, context)?;
    create_directory(directory)?;
    pair.write(&KeyDirectory::lock(directory)?, kid, Algorithm::Rs256, context.ambient.clock.now())
        .map(|_| ())
}

/// A key that is on no disk yet. Making it takes seconds, in which no lock is held.
struct KeyPair {
    pem: SecretString,
    private: PrivateKey,
}

impl KeyPair {
    fn generate(bits: usize, context: &Context<'_>) -> Result<Self, Failure> {
        let pem = keys::generate(bits, &*context.ambient.randomness).map_err(Failure::failed)?;
        let private = PrivateKey::parse(&pem, None).map_err(Failure::failed)?;
        Ok(Self { pem, private })
    }

    /// Its RFC 7638 thumbprint, as a key id.
    fn thumbprint(&self) -> Result<KeyId, Failure> {
        KeyId::parse(&jwks::thumbprint(&self.private.public)).map_err(Failure::failed)
    }

    /// Writes the key, its certificate and its JWK: all of them, or none.
    fn write(
        &self,
        directory: &KeyDirectory,
        kid: &KeyId,
        algorithm: Algorithm,
        now: UnixTime,
    ) -> Result<Made, Failure> {
        let certificate = Certificate::of_new_key(kid, &self.private, now);
        let jwk = jwks::jwk_of(kid, &self.private.public, &certificate, algorithm);
        let jwk = serde_json::to_string_pretty(&jwk).map_err(Failure::failed)? + "\n";
        let files = [
            ("key", self.pem.clone()),
            ("crt", SecretString::from(certificate.pem())),
            ("jwk", SecretString::from(jwk)),
        ];
        let mut made = Vec::new();
        for (extension, content) in files {
            match directory.create(&format!("{kid}.{extension}"), &content) {
                Ok(path) => made.push(path),
                Err(error) => {
                    // Nothing half made is left for the service to find.
                    for path in &made {
                        let _ = fs::remove_file(path);
                    }
                    return Err(error.into());
                }
            }
        }
        let path = |extension: &str| directory.path().join(format!("{kid}.{extension}"));
        Ok(Made { kid: kid.clone(), private_key: path("key"), certificate: path("crt"), jwk: path("jwk") })
    }
}

fn create_directory(directory: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| Failure::Failed(format!("can't make the key folder: {error}")))
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Schedule(problems) => Self::of_files(problems),
            other => Self::failed(other),
        }
    }
}

/// Whether a key of `directory` can't have that id: a file of it lies there, or another keyset has it, as far as those answer.
fn is_taken(kid: &KeyId, directory: &Path, keysets: &BTreeMap<Name, Keyset>) -> bool {
    let has = move |kid: &KeyId, directory: &Path| {
        let is_there =
            |extension: &str| fs::symlink_metadata(directory.join(format!("{kid}.{extension}"))).is_ok();
        is_there("key") || is_there("crt") || is_there("jwk")
    };
    let in_keyset = |keyset: &Keyset| match &keyset.keys {
        KeySource::Directory(directory) => {
            let (kid, path) = (kid.clone(), directory.as_path().to_path_buf());
            let looked = within(PATIENCE, move || {
                let listed = fs::read_to_string(path.join(keys::SCHEDULE_FILE)).unwrap_or_default();
                has(&kid, &path) || (keys::marks(&listed).iter().any(|mark| mark.kid == kid))
            });
            looked.unwrap_or(false)
        }
        KeySource::File { kid: other, .. } | KeySource::Text { kid: other, .. } => other == kid,
    };
    has(kid, directory) || keysets.values().any(in_keyset)
}

/// Says of a new key's file what its neighbours' aren't.
fn warn_of_plain_text(keyset: Option<&Keyset>, made: &Made) {
    if let Some(keyset) = keyset.filter(|keyset| keyset.passphrase.is_some()) {
        complain(&format!(
            "warning: {} isn't encrypted, though keysets.{} has a passphrase: only its mode protects it. To encrypt it: openssl \
             pkey -aes256 -in OLD -out NEW",
            made.private_key.display(),
            keyset.name
        ));
    }
}

/// How long a running service takes at most to take over what a command wrote.
const TAKEOVER: Duration = Duration::from_secs(5);

/// Waits until the service that runs on this host does what a command wrote; `false` where none runs.
///
/// `missing` says what the service doesn't do, if anything: then the command has failed, whatever the files say.
fn wait_for_service(
    service: &RunningService,
    missing: impl Fn(&Status) -> Option<String>,
) -> Result<bool, Failure> {
    let (is_done, status) = match service.wait(TAKEOVER, |status| missing(status).is_none()) {
        Ok(answer) => answer,
        Err(Silence::NobodyThere) => return Ok(false),
        Err(Silence::Failed(reason)) => {
            return Err(Failure::Failed(format!(
                "the files are written, but whether the service at {} has taken them over can't be said: {reason}",
                service.address()
            )));
        }
    };
    let Some(what) = missing(&status).filter(|_| !is_done) else { return Ok(true) };
    let reason = match status.reload.told() {
        none if none.is_empty() => "it gives no reason: does it read these files?".to_owned(),
        reasons => format!("it refuses the files: {reasons}"),
    };
    Err(Failure::Failed(format!(
        "the files are written, but after {} s the service at {} {what}; {reason}",
        TAKEOVER.as_secs(),
        service.address()
    )))
}

/// Writes a file that wasn't there before.
pub(super) fn write_new(path: &Path, mode: u32, content: &SecretString) -> Result<(), Failure> {
    let failed = |error| Failure::Failed(format!("can't write {}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(content.expose_secret().as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)
}

fn print_table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
