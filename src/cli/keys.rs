//! `tokenmint keys`: makes key pairs and shows what signs and what is published.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::{Context, Failure, complain, say, say_json};
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, KeySource, Name, ProfileName};
use crate::keys::{self, Certificate, PrivateKey, SCHEDULE_FILE, State};
use crate::{app, jwks};

/// Make keys, and show what signs and what is published
#[derive(Subcommand)]
#[command(after_help = "Example: tokenmint keys list")]
pub(super) enum Keys {
    New(New),
    List(List),
}

impl Keys {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        match self {
            Self::New(command) => command.run(context),
            Self::List(command) => command.run(context),
        }
    }
}

/// Make a key pair: the private key, its certificate, and the JWK to upload to Salesforce
///
/// Writes KID.key (readable by you only), KID.crt and KID.jwk. Nothing is overwritten.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys new WebAppKey1 --keyset web")]
pub(super) struct New {
    /// The key id [default: the key's RFC 7638 thumbprint]
    #[arg(value_parser = parse_kid)]
    kid: Option<KeyId>,
    /// The keyset of the configuration that it belongs to
    #[arg(long, value_name = "NAME", conflicts_with = "directory")]
    keyset: Option<String>,
    /// The folder to write to, without any configuration
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Length of the modulus
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(2048..=8192))]
    bits: u64,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

fn parse_kid(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text)
}

#[derive(Serialize)]
struct Made {
    kid: KeyId,
    private_key: PathBuf,
    certificate: PathBuf,
    jwk: PathBuf,
}

impl New {
    fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let (directory, algorithm) = self.target(context)?;
        let now = context.ambient.clock.now();
        if let Some(other) = lone_key(&directory)? {
            return Err(Failure::Failed(format!(
                "{} already holds {other}, and a second key needs a {SCHEDULE_FILE} beside it that says from when \
                 each signs. Write that first:\n\n[[key]]\nkid = \"{}\"\nsign_from = {now}\n\n[[key]]\nkid = \
                 \"{}\"\nadded = {now}\nsign_from = {}\n",
                directory.display(),
                other.trim_end_matches(".key"),
                self.kid.as_ref().map_or("NEW", KeyId::as_str),
                now.plus(keys::PUBLISH_LEAD),
            )));
        }
        let bits = usize::try_from(self.bits).map_err(Failure::failed)?;
        let made = make(&directory, self.kid, algorithm, bits, context)?;
        if self.json {
            say_json(&made);
            return Ok(());
        }
        say(&format!("{}  the private key; back it up, show it to nobody", made.private_key.display()));
        say(&format!("{}  its certificate, for an External Client App", made.certificate.display()));
        say(&format!(
            "{}  its JWK, for Setup > Enhanced Chat User Verification > New Key",
            made.jwk.display()
        ));
        let schedule = fs::read_to_string(directory.join(SCHEDULE_FILE)).ok();
        if schedule.is_some_and(|text| !text.contains(&format!("\"{}\"", made.kid))) {
            complain(&format!("Now list `{}` in {}.", made.kid, directory.join(SCHEDULE_FILE).display()));
        }
        Ok(())
    }

    fn target(&self, context: &Context<'_>) -> Result<(PathBuf, Algorithm), Failure> {
        if let Some(directory) = &self.directory {
            return Ok((directory.clone(), Algorithm::Rs256));
        }
        let keysets = context.keysets()?;
        let mut keysets = keysets.values().filter_map(|keyset| match &keyset.keys {
            KeySource::Directory(directory) => Some((keyset, directory)),
            _ => None,
        });
        let wanted = self.keyset.as_deref();
        let chosen = match wanted {
            Some(name) => keysets.find(|(keyset, _)| keyset.name.as_str() == name),
            None => keysets.next().filter(|_| keysets.next().is_none()),
        };
        let (keyset, directory) = chosen.ok_or_else(|| {
            let reason = match wanted {
                Some(name) => {
                    format!("there is no sound [keysets.{name}] with a directory in the configuration")
                }
                None => "name the keyset with --keyset, or a folder with --directory".to_owned(),
            };
            Failure::Usage(reason)
        })?;
        Ok((directory.clone(), keyset.algorithm))
    }
}

/// A key beside which another could not be told when to sign.
fn lone_key(directory: &Path) -> Result<Option<String>, Failure> {
    let listing = match fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::Failed(format!("{}: {error}", directory.display()))),
    };
    if directory.join(SCHEDULE_FILE).exists() {
        return Ok(None);
    }
    let names = listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.into_iter().find(|name| name.ends_with(".key") && !name.starts_with('.')))
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

/// Show each key: what it signs, its state, and when that changes
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys list --json")]
pub(super) struct List {
    /// Print the keys as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed {
    keyset: Name,
    kid: KeyId,
    state: State,
    algorithm: Algorithm,
    bits: usize,
    used_by: Vec<String>,
    thumbprint: String,
    signs_from: Option<UnixTime>,
    signs_until: Option<UnixTime>,
    published_until: Option<UnixTime>,
    certificate_expires_at: UnixTime,
}

impl List {
    fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let loaded = context.load()?;
        let now = context.ambient.clock.now();
        let listed: Vec<Listed> = listed(&loaded, now);
        if self.json {
            say_json(&listed);
            return Ok(());
        }
        let rows = listed.iter().map(|key| {
            [
                key.keyset.to_string(),
                key.kid.to_string(),
                format!("{:?}", key.state).to_lowercase(),
                format!("{} {}", key.algorithm.as_str(), key.bits),
                until(key),
                key.certificate_expires_at.to_string(),
                key.used_by.join(" "),
            ]
        });
        let head = ["KEYSET", "KID", "STATE", "KEY", "NEXT CHANGE", "CERTIFICATE UNTIL", "USED BY"];
        print_table(&std::iter::once(head.map(str::to_owned)).chain(rows).collect::<Vec<_>>());
        Ok(())
    }
}

fn listed(loaded: &app::Loaded, now: UnixTime) -> Vec<Listed> {
    let keysets = loaded.ring.keysets.values();
    let keys = keysets.flat_map(|keyset| keyset.keys.iter().map(move |key| (keyset, key)));
    keys.map(|(keyset, key)| Listed {
        keyset: keyset.name.clone(),
        kid: key.kid.clone(),
        state: key.life.state(now),
        algorithm: keyset.algorithm,
        bits: key.private.public.bits,
        used_by: keyset.used_by.iter().map(ProfileName::to_string).collect(),
        thumbprint: jwks::thumbprint(&key.private.public),
        signs_from: key.life.signs_from,
        signs_until: key.life.signs_until,
        published_until: key.life.published_until,
        certificate_expires_at: key.certificate_not_after(now),
    })
    .collect()
}

fn until(key: &Listed) -> String {
    let (what, when) = match key.state {
        State::Pending => ("signs from", key.signs_from),
        State::Signing => ("signs until", key.signs_until),
        State::Retiring => ("published until", key.published_until),
        State::Gone => return "none; remove its files".to_owned(),
    };
    when.map_or_else(|| "none planned".to_owned(), |when| format!("{what} {when}"))
}

fn print_table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
