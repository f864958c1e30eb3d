//! `tokenmint keys`: makes key pairs, shows what signs and what is published, and changes that.

mod key_folder;
mod list;
mod new;
mod retire;
mod rotate;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::ask::{RunningService, Silence, Status};
use super::{Context, Failure, PATIENCE, Reads, WIDEST, complain, say, there_are, within};
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, KeySource, Keyset, Name};
use crate::jwks;
use crate::keys::{self, Certificate, DirectoryError, KeyDirectory, PrivateKey};

/// Make keys, show what signs and what is published, and change that
#[derive(Subcommand)]
#[command(after_help = "Example: tokenmint keys list")]
pub(super) enum Keys {
    New(Reads<new::New>),
    List(Reads<list::List>),
    Rotate(Reads<rotate::Rotate>),
    Retire(Reads<retire::Retire>),
}

impl Keys {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        match self {
            Self::New(command) => command.run(context, new::New::run),
            Self::List(command) => command.run(context, list::List::run),
            Self::Rotate(command) => command.run(context, rotate::Rotate::run),
            Self::Retire(command) => command.run(context, retire::Retire::run),
        }
    }
}

fn parse_kid(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text)
}

/// The keyset of that name, or the only one, that has a directory.
fn choose<'a>(
    keysets: &'a BTreeMap<Name, Keyset>,
    wanted: Option<&str>,
    context: &Context<'_>,
) -> Result<(&'a Keyset, &'a Path), Failure> {
    let with_directory: Vec<_> = key_folder::directories(keysets).collect();
    match (wanted, with_directory.as_slice()) {
        (None, [only]) => return Ok(*only),
        (None, [_, _, ..]) => {
            let known = there_are(with_directory.iter().map(|(keyset, _)| &keyset.name));
            return Err(Failure::Usage(format!("name the keyset with --keyset; {known}")));
        }
        _ => {}
    }
    let chosen = with_directory.iter().find(|(keyset, _)| Some(keyset.name.as_str()) == wanted);
    if let Some(chosen) = chosen {
        return Ok(*chosen);
    }
    // A keyset with a mistake in it is missing here too.
    context.config()?;
    Err(match wanted {
        Some(name) if keysets.contains_key(name) => Failure::Failed(format!(
            "keysets.{name} has one key, given as file or text: give it a `directory` for several"
        )),
        Some(name) => Failure::Usage(format!("there is no keyset `{name}`; {}", there_are(keysets.keys()))),
        None => Failure::Failed("no keyset of the configuration has a `directory`".to_owned()),
    })
}

#[derive(Serialize)]
pub(super) struct Made {
    kid: KeyId,
    pub private_key: PathBuf,
    pub certificate: PathBuf,
    pub jwk: PathBuf,
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

    pub(super) fn announce(&self) {
        say(&format!("{}  the private key; back it up, show it to nobody", self.private_key.display()));
        say(&format!("{}  its certificate, for an External Client App", self.certificate.display()));
        let jwk = self.jwk.display();
        say(&format!("{jwk}  its JWK, for Setup > Enhanced Chat User Verification > New Key"));
    }
}

/// A key that is in no key folder yet. Making it takes seconds, in which no lock is held.
pub(super) struct KeyPair {
    pem: SecretString,
    private: PrivateKey,
}

impl KeyPair {
    /// Reads a key that somebody has.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |reason: &dyn Display| Failure::Failed(format!("{}: {reason}", path.display()));
        let pem = keys::file::read_private_of_anyone(path).map_err(|reason| failed(&reason))?;
        let private = PrivateKey::parse(&pem, None).map_err(|reason| failed(&reason))?;
        Ok(Self { pem, private })
    }

    pub(super) fn generate(bits: usize, context: &Context<'_>) -> Result<Self, Failure> {
        let pem = keys::generate(bits, &*context.ambient.randomness).map_err(Failure::failed)?;
        let private = PrivateKey::parse(&pem, None).map_err(Failure::failed)?;
        Ok(Self { pem, private })
    }

    /// Its RFC 7638 thumbprint, as a key id.
    fn thumbprint(&self) -> Result<KeyId, Failure> {
        KeyId::parse(&jwks::thumbprint(&self.private.public)).map_err(Failure::failed)
    }

    /// Writes the certificate, the JWK and then the key, so that a service that reads the key finds all of them; or none.
    pub(super) fn write(
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
            ("crt", SecretString::from(certificate.pem())),
            ("jwk", SecretString::from(jwk)),
            ("key", self.pem.clone()),
        ];
        check_free(directory.path(), kid)?;
        let mut made = Vec::new();
        for (extension, content) in files {
            let name = format!("{kid}.{extension}");
            let created = directory.create(&name, &content);
            if created.as_ref().map_or_else(DirectoryError::is_written, |_| true) {
                made.push(directory.path().join(name));
            }
            if let Err(error) = created {
                // Nothing half made is left.
                for path in &made {
                    let _ = fs::remove_file(path);
                }
                return Err(error.into());
            }
        }
        let path = |extension: &str| directory.path().join(format!("{kid}.{extension}"));
        Ok(Made { kid: kid.clone(), private_key: path("key"), certificate: path("crt"), jwk: path("jwk") })
    }
}

/// What a key of that id is made of, in its folder.
const EXTENSIONS: &[&str] = &["key", "crt", "jwk"];

/// Refuses a key id of which a file is there already, before anything is written.
pub(super) fn check_free(directory: &Path, kid: &KeyId) -> Result<(), Failure> {
    let mut paths = EXTENSIONS.iter().map(|extension| directory.join(format!("{kid}.{extension}")));
    match paths.find(|path| fs::symlink_metadata(path).is_ok()) {
        None => Ok(()),
        Some(path) => Err(Failure::Failed(format!(
            "{} is there already, and nothing is overwritten; nothing was written. Move it away, or give the new key another id",
            path.display()
        ))),
    }
}

pub(super) fn create_directory(directory: &Path) -> Result<(), Failure> {
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
    let has = |kid: &KeyId, directory: &Path| check_free(directory, kid).is_err();
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
    let written = file.write_all(content.expose_secret().as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = fs::remove_file(path);
        failed(error)
    })
}

/// Prints lines of at most [`WIDEST`] columns: where the cells need more, the widest columns are broken at blanks, and
/// inside of words where that isn't enough.
fn print_table<const N: usize>(rows: &[[String; N]]) {
    let widest = |length: fn(&str) -> usize| -> [usize; N] {
        std::array::from_fn(|column| rows.iter().map(|row| length(&row[column])).max().unwrap_or_default())
    };
    let mut widths = widest(textwrap::core::display_width);
    let words = widest(|cell| cell.split(' ').map(textwrap::core::display_width).max().unwrap_or_default());
    for least in [words, [1; N]] {
        while widths.iter().sum::<usize>() + 2 * (N - 1) > WIDEST {
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
            say(parts.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}
