//! A new key of a folder: a key pair of this host, or a key of a store. It becomes files beside each other: the private key unless it is in a
//! store, the certificate and the JWK.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use serde::Serialize;

use super::{CliContext, CliError, KeysetUsage, check_kid_unused, reject_plain_beside_sealed, seal};
use crate::cli::print_line;
use crate::config::{Algorithm, KeyId, KeysetConfig, RemoteKeyName, StoreConfig};
use crate::jwks;
use crate::keys::{
    self, DirectoryError, KeyCertificate, KeyDirectory, PrivateKey, PrivateKeyError, PublicKey,
    SEALED_EXTENSION, UnreadableKey,
};
use crate::metrics::Metrics;
use crate::stores::StoreSessions;

/// The paths of a new key's files.
#[derive(Serialize)]
pub(in crate::cli) struct KeyFiles {
    pub(super) kid: KeyId,
    /// `None` for a key of a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) private_key: Option<PathBuf>,
    /// The store's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<String>,
    pub(crate) certificate: PathBuf,
    pub(crate) jwk: PathBuf,
}

impl KeyFiles {
    /// Removes the files, unless the schedule may list them already.
    pub(super) fn remove_unless_listed(&self, error: &DirectoryError) {
        if error.is_written() {
            return;
        }
        for path in self.paths() {
            let _ = fs::remove_file(path);
        }
    }

    /// The files that were written.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.private_key.iter().chain([&self.certificate, &self.jwk])
    }

    /// Prints what each file is for. `usage` says where its certificate and its JWK go.
    pub(in crate::cli) fn announce(&self, usage: KeysetUsage) {
        if let Some(path) = &self.private_key {
            print_line(&if path.extension().is_some_and(|extension| extension == "sealed") {
                format!(
                    "{}  the sealed private key; back it up, and the store's key that opens it",
                    path.display()
                )
            } else {
                format!("{}  the private key; back it up, show it to nobody", path.display())
            });
        }
        if let Some(remote) = &self.remote {
            print_line(&format!("{remote}  the private key, which stays in the store"));
        }
        let (certificate, jwk) = (self.certificate.display(), self.jwk.display());
        print_line(&match usage {
            KeysetUsage::Identity => format!("{certificate}  its certificate, which the JWK contains"),
            KeysetUsage::Oauth | KeysetUsage::Unknown => {
                format!("{certificate}  its certificate, for an External Client App")
            }
        });
        print_line(&match usage {
            KeysetUsage::Oauth => format!("{jwk}  its JWK, which an External Client App doesn't need"),
            KeysetUsage::Identity | KeysetUsage::Unknown => {
                format!("{jwk}  its JWK, for Setup > Enhanced Chat User Verification > New Key")
            }
        });
    }
}

/// A key pair, before it is written to a key folder. Generating it may take seconds, so no lock is held meanwhile.
pub(in crate::cli) struct KeyPair {
    pem: SecretString,
    private: PrivateKey,
}

impl KeyPair {
    /// Reads an existing key. An encrypted key is an error.
    pub(in crate::cli) fn read(path: &Path) -> Result<Self, CliError> {
        let failed = |reason: &dyn Display| CliError::Failed(format!("{}: {reason}", path.display()));
        let pem = keys::key_file::read_private_key_unchecked(path).map_err(|reason| failed(&reason))?;
        let encrypted = |openssl_options: &str| {
            failed(&format_args!(
                "it is encrypted, and `init` takes no passphrase: decrypt it with `openssl pkey -in KEY -out NEW{openssl_options}` and \
                 give NEW to --key. To keep it encrypted, run `init` without --key, put the key in the place of the new KID.key, \
                 remove KID.crt and KID.jwk, and set `passphrase_file` in [keysets.web]"
            ))
        };
        let private = PrivateKey::parse(&pem, None).map_err(|reason| match reason {
            PrivateKeyError::Unreadable(UnreadableKey::NoPassphrase | UnreadableKey::LegacyEncryption) => {
                encrypted("")
            }
            PrivateKeyError::Unreadable(UnreadableKey::UnknownEncryption(options)) => encrypted(options),
            reason => failed(&reason),
        })?;
        Ok(Self { pem, private })
    }

    pub(in crate::cli) fn generate(bits: usize, context: &CliContext<'_>) -> Result<Self, CliError> {
        let pem =
            keys::generate_private_key(bits, &*context.clock_and_rng.randomness).map_err(CliError::failed)?;
        let private = PrivateKey::parse(&pem, None).map_err(CliError::failed)?;
        Ok(Self { pem, private })
    }

    /// Writes the files of the key. It is sealed if those of `keyset` are. On an error, no file remains.
    pub(in crate::cli) fn write(
        &self,
        directory: &KeyDirectory,
        kid: &KeyId,
        keyset: Option<&KeysetConfig>,
        context: &CliContext<'_>,
    ) -> Result<KeyFiles, CliError> {
        let sealed_for = keyset.filter(|keyset| keyset.seal.is_some());
        let key = if let Some(keyset) = sealed_for {
            let text = seal::seal_text(&self.pem, &self.private, kid, keyset, context)?;
            (SEALED_EXTENSION, SecretString::from(text))
        } else {
            reject_plain_beside_sealed(directory.path())?;
            ("key", self.pem.clone())
        };
        let certificate = KeyCertificate::for_new_key(kid, &self.private, context.clock_and_rng.clock.now());
        write_files(directory, kid, keyset, &self.private.public, &certificate, Some(key))
    }
}

/// A key of a store.
pub(super) struct StoredKey {
    name: RemoteKeyName,
    public: PublicKey,
    store: Arc<StoreConfig>,
}

impl StoredKey {
    /// Asks the store for the key `name`, or makes one that is named as the key id.
    fn find_or_create(
        store: &Arc<StoreConfig>,
        kid: Option<&KeyId>,
        name: Option<&RemoteKeyName>,
        bits: usize,
    ) -> Result<Self, CliError> {
        let metrics = Metrics::new();
        let mut sessions = StoreSessions::new(&metrics);
        let name = match (name, kid) {
            (Some(name), _) => name.clone(),
            (None, Some(kid)) => {
                let made = sessions.create_key(store, kid.as_str(), bits);
                made.map_err(|error| CliError::Failed(format!("store `{}` {error}", store.name)))?
            }
            (None, None) => {
                return Err(CliError::Usage(
                    "give the key an id (KID of `keys new`, --kid of `keys rotate`): the store's new key gets that name too".to_owned(),
                ));
            }
        };
        // A new key may have taken longer than all requests of one load.
        let mut sessions = StoreSessions::new(&metrics);
        let public = keys::remote_public_key(store, &name, &mut sessions);
        let public = public.map_err(|error| with_name(&name, &error))?;
        Ok(Self { name, public, store: store.clone() })
    }

    /// Writes the certificate and the JWK. On an error, no file remains.
    fn write(
        &self,
        directory: &KeyDirectory,
        kid: &KeyId,
        keyset: Option<&KeysetConfig>,
        context: &CliContext<'_>,
    ) -> Result<KeyFiles, CliError> {
        let metrics = Metrics::new();
        let mut sessions = StoreSessions::new(&metrics);
        let now = context.clock_and_rng.clock.now();
        let certificate =
            keys::remote_certificate(kid, &self.public, now, &self.store, &self.name, &mut sessions);
        let certificate = certificate.map_err(|error| with_name(&self.name, &error))?;
        let made = write_files(directory, kid, keyset, &self.public, &certificate, None);
        let made = made.map_err(|error| with_name(&self.name, &error.summary()))?;
        Ok(KeyFiles { remote: Some(self.name.to_string()), ..made })
    }
}

/// The store may have made the key already, and then it mustn't be forgotten.
fn with_name(name: &RemoteKeyName, error: &dyn Display) -> CliError {
    CliError::Failed(format!(
        "{error}. If the store has the key `{name}`, go on with it by --remote-key {name}"
    ))
}

/// A new key, before its files are written. Generating it may take seconds, so no lock is held meanwhile.
#[expect(clippy::large_enum_variant, reason = "a command makes one")]
pub(super) enum NewKey {
    Pair(KeyPair),
    Stored(StoredKey),
}

impl NewKey {
    /// Makes a key of the kind that `keyset` has: one of its store if it has `signed_by`, or else a key pair. `name` is an existing key of
    /// the store.
    pub(super) fn make(
        keyset: Option<&KeysetConfig>,
        kid: Option<&KeyId>,
        name: Option<&RemoteKeyName>,
        bits: u64,
        context: &CliContext<'_>,
    ) -> Result<Self, CliError> {
        let bits = usize::try_from(bits).map_err(CliError::failed)?;
        match keyset.and_then(|keyset| keyset.signed_by.as_ref()) {
            Some(store) => StoredKey::find_or_create(store, kid, name, bits).map(Self::Stored),
            None => KeyPair::generate(bits, context).map(Self::Pair),
        }
    }

    /// The store's name for the key.
    pub(super) const fn remote(&self) -> Option<&RemoteKeyName> {
        match self {
            Self::Pair(_) => None,
            Self::Stored(stored) => Some(&stored.name),
        }
    }

    /// Rejects a store's key that the folder has under another id, and one that another command made at the same time: its id was
    /// `planned`, and is `kid` now. A rotation to the same key would change nothing.
    pub(super) fn check_is_new(
        &self,
        kid: &KeyId,
        planned: Option<&KeyId>,
        directory: &Path,
    ) -> Result<(), CliError> {
        let Self::Stored(stored) = self else { return Ok(()) };
        if let Some(planned) = planned.filter(|planned| *planned != kid) {
            return Err(CliError::Failed(format!(
                "another command has made `{planned}` meanwhile; nothing was written: run the command again"
            )));
        }
        let is_same = |other: &KeyId| {
            keys::modulus_hash_in(directory, other, None) == Some(stored.public.modulus_hash())
        };
        match keys::held_and_listed_kids(directory).into_iter().find(is_same) {
            None => Ok(()),
            Some(other) => Err(CliError::Failed(format!(
                "`{}` is the key of `{other}` already, and a key has one id; nothing was written",
                stored.name
            ))),
        }
    }

    /// Returns the RFC 7638 thumbprint as a key id.
    pub(super) fn thumbprint(&self) -> Result<KeyId, CliError> {
        let public = match self {
            Self::Pair(pair) => &pair.private.public,
            Self::Stored(stored) => &stored.public,
        };
        KeyId::parse(&jwks::thumbprint(public)).map_err(CliError::failed)
    }

    /// Writes the files of the key. On an error, no file remains.
    pub(super) fn write(
        &self,
        directory: &KeyDirectory,
        kid: &KeyId,
        keyset: Option<&KeysetConfig>,
        context: &CliContext<'_>,
    ) -> Result<KeyFiles, CliError> {
        match self {
            Self::Pair(pair) => pair.write(directory, kid, keyset, context),
            Self::Stored(stored) => stored.write(directory, kid, keyset, context),
        }
    }
}

/// Writes the certificate, the JWK and, last, the key: a service that sees the key finds the others. On an error, no file remains.
fn write_files(
    directory: &KeyDirectory,
    kid: &KeyId,
    keyset: Option<&KeysetConfig>,
    public: &PublicKey,
    certificate: &KeyCertificate,
    key: Option<(&str, SecretString)>,
) -> Result<KeyFiles, CliError> {
    let algorithm = keyset.map_or(Algorithm::Rs256, |keyset| keyset.algorithm);
    let jwk = jwks::jwk_from_parts(kid, public, certificate, algorithm);
    let jwk = serde_json::to_string_pretty(&jwk).map_err(CliError::failed)? + "\n";
    let path = |extension: &str| directory.path().join(format!("{kid}.{extension}"));
    let private_key = key.as_ref().map(|(extension, _)| path(extension));
    let files = [("crt", SecretString::from(certificate.pem())), ("jwk", SecretString::from(jwk))];
    check_kid_unused(directory.path(), kid)?;
    let mut made = Vec::new();
    for (extension, content) in files.into_iter().chain(key) {
        let name = format!("{kid}.{extension}");
        let created = directory.create_file(&name, &content);
        if created.as_ref().map_or_else(DirectoryError::is_written, |_| true) {
            made.push(directory.path().join(name));
        }
        if let Err(error) = created {
            // No partial result remains.
            for path in &made {
                let _ = fs::remove_file(path);
            }
            return Err(error.into());
        }
    }
    Ok(KeyFiles { kid: kid.clone(), private_key, remote: None, certificate: path("crt"), jwk: path("jwk") })
}
