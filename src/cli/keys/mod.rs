//! `tokenmint keys`: makes key pairs, shows what signs and what is published, and changes that.

mod list;
mod new;
mod retire;
mod rotate;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::{Context, Failure, complain, say};
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, KeySource, Keyset};
use crate::jwks;
use crate::keys::rotation::Rules;
use crate::keys::{self, Certificate, PrivateKey, Schedule, ScheduleFile};

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

/// A keyset with a directory, and what its schedule says.
struct Scheduled {
    keyset: Keyset,
    directory: PathBuf,
    file: ScheduleFile,
    schedule: Schedule,
}

impl Scheduled {
    fn open(keyset: &Keyset, directory: &Path, now: UnixTime) -> Result<Self, Failure> {
        let file = ScheduleFile::open(directory, now).map_err(Failure::Failed)?;
        let schedule = file.schedule(keyset.publish_lead).map_err(Failure::of_files)?;
        Ok(Self { keyset: keyset.clone(), directory: directory.to_path_buf(), file, schedule })
    }

    const fn rules(&self) -> Rules {
        let Keyset { publish_lead, longest_life, retire_margin, .. } = self.keyset;
        Rules { publish_lead, longest_life, retire_margin }
    }

    /// Puts the schedule, once it was tried, in the place of the one before.
    fn save(&self) -> Result<(), Failure> {
        self.file.schedule(self.keyset.publish_lead).map_err(Failure::of_files)?;
        let failed = |error| Failure::Failed(format!("can't write {}: {error}", self.file.path().display()));
        self.file.save().map_err(failed)
    }
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
    fn announce(&self) {
        say(&format!("{}  the private key; back it up, show it to nobody", self.private_key.display()));
        say(&format!("{}  its certificate, for an External Client App", self.certificate.display()));
        let jwk = self.jwk.display();
        say(&format!("{jwk}  its JWK, for Setup > Enhanced Chat User Verification > New Key"));
    }
}

/// Makes a key, its certificate and its JWK in `directory`.
pub(super) fn make_for_init(directory: &Path, kid: &KeyId, context: &Context<'_>) -> Result<(), Failure> {
    make(directory, Some(kid.clone()), Algorithm::Rs256, 2048, context).map(|_| ())
}

fn make(
    directory: &Path,
    kid: Option<KeyId>,
    algorithm: Algorithm,
    bits: usize,
    context: &Context<'_>,
) -> Result<Made, Failure> {
    let pem = keys::generate(bits, &*context.ambient.randomness).map_err(Failure::failed)?;
    let private = PrivateKey::parse(&pem, None).map_err(Failure::failed)?;
    let kid = match kid {
        Some(kid) => kid,
        None => KeyId::parse(&jwks::thumbprint(&private.public)).map_err(Failure::failed)?,
    };
    let now = context.ambient.clock.now();
    let certificate = Certificate::derive(&kid, &private, now);
    let jwk = jwks::jwk_of(&kid, &private.public, &certificate, algorithm);

    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(Failure::failed)?;
    let path = |extension: &str| directory.join(format!("{kid}.{extension}"));
    let made =
        Made { private_key: path("key"), certificate: path("crt"), jwk: path("jwk"), kid: kid.clone() };
    let jwk = SecretString::from(serde_json::to_string_pretty(&jwk).map_err(Failure::failed)? + "\n");
    write_new(&made.private_key, 0o600, &pem)?;
    write_new(&made.certificate, 0o644, &SecretString::from(certificate.pem()))?;
    write_new(&made.jwk, 0o644, &jwk)?;
    Ok(made)
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
