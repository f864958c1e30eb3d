//! Opens and checks the keys of all keysets, and reports the problems of all of them together.
//!
//! A ring that replaces another is checked further, see [`PublicationHistory`]. A key of the replaced ring isn't parsed again if its
//! text and passphrase are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::directory_contents::{DirectoryContents, KeyFile};
use super::publication_history::{ModulusHash, PublicationHistory, PublishedKey, PublishedKeyset};
use super::ring::{DerivedCertificateCache, UnopenedKey};
use super::schedule::{self, EntryOrigins, Schedule};
use super::sealed_key::SealedKey;
use super::{
    CERTIFICATE_MIN_SECONDS_LEFT, CERTIFICATE_WARN_SECONDS_LEFT, KeyCertificate, KeyRing, KeyState, Keyset,
    KeysetKey, LiveTokenCounter, PemQuirk, PrivateKey, PublicKey, RemoteKey, RotationRules, SCHEDULE_FILE,
    SigningKey, key_file, keyset_checks, parse_certificates, private_key,
};
use crate::clock::UnixTime;
use crate::config::{
    self, KeyId, KeysetSource, Name, Problem, RemoteKeyName, StoreConfig, ValueOrigin, WarningCode,
};
use crate::files::{parent_directory, reject_replaceable_by_others};
use crate::hash::PartsHasher;
use crate::metrics::Metrics;
use crate::shell;
use crate::stores::{SealContext, StoreConnection, StoreSessions};

impl KeyRing {
    /// Opens and checks the keys of all keysets. `previous` is the ring that it replaces. The requests to stores are counted in `metrics`.
    ///
    /// # Errors
    /// Lists the problems of all of them, each with its source.
    pub fn load(
        keysets: &BTreeMap<Name, config::KeysetConfig>,
        now: UnixTime,
        previous: Option<&Self>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Vec<Problem>> {
        let mut loader = Loader::new(now, previous, metrics);
        let sets: Vec<Arc<Keyset>> =
            keysets.values().filter_map(|keyset| loader.keyset(keyset)).map(Arc::new).collect();
        loader.problems.extend(keyset_checks::duplicate_kids(&sets));
        loader.problems.extend(keyset_checks::copies_of_retired(&sets, &loader.retired));
        loader.warnings.extend(keyset_checks::shared_key_warnings(&sets));
        if let Some(previous) = previous {
            let in_force = published_keysets(previous.keysets.values());
            loader.problems.extend(previous.history.check_transition(
                &in_force,
                &published_keysets(&sets),
                now,
            ));
        }
        if !loader.problems.is_empty() {
            return Err(loader.problems);
        }
        let keysets = sets.into_iter().map(|keyset| (keyset.name.clone(), keyset)).collect();
        let ring = Self::new(keysets, loader.warnings, previous, now);
        ring.prepare(now);
        Ok(ring)
    }

    pub(super) fn new(
        keysets: BTreeMap<Name, Arc<Keyset>>,
        warnings: Vec<Problem>,
        previous: Option<&Self>,
        now: UnixTime,
    ) -> Self {
        let before = previous.map(|previous| previous.history.clone()).unwrap_or_default();
        let history: PublicationHistory = before.with_published(&published_keysets(keysets.values()), now);
        Self { keysets, warnings, history }
    }
}

/// Collects the keys of `keysets` that verifiers see, and those that they no longer see.
fn published_keysets<'a>(keysets: impl IntoIterator<Item = &'a Arc<Keyset>>) -> Vec<PublishedKeyset<'a>> {
    let key = |key: &'a KeysetKey| PublishedKey {
        modulus_hash: key.public().modulus_hash(),
        validity: &key.validity,
    };
    let keyset = |keyset: &'a Arc<Keyset>| PublishedKeyset {
        name: &keyset.name,
        used_by: &keyset.used_by,
        algorithm: keyset.algorithm,
        publish_lead: keyset.rules.publish_lead,
        keys: keyset.keys.iter().map(key).collect(),
        gone: keyset.gone.iter().collect(),
    };
    // A closed keyset shows nothing, and opens like a new one.
    keysets.into_iter().filter(|keyset| !keyset.is_closed()).map(keyset).collect()
}

/// The usual quirks of a key in an environment variable: many tools can't put line breaks into variables.
const USUAL_TEXT_QUIRKS: &[PemQuirk] = &[PemQuirk::EscapedBreaks, PemQuirk::Base64];

/// How far ahead the date of a retirement may lie: the largest expected difference between the clocks of two hosts.
const RETIREMENT_DATE_TOLERANCE: Duration = Duration::from_mins(1);

struct Loader<'a> {
    now: UnixTime,
    /// The keys of the previous ring, by [`source_fingerprint`].
    opened: BTreeMap<[u8; 32], &'a KeysetKey>,
    previous: Option<&'a KeyRing>,
    /// The key ids of retired keys, by modulus: those whose file can be read and that this process hasn't published.
    /// [`PublicationHistory`] has those that it has published.
    retired: BTreeMap<ModulusHash, KeyId>,
    sessions: StoreSessions<'a>,
    metrics: &'a Arc<Metrics>,
    /// The connections to stores that sign.
    connections: Vec<Arc<StoreConnection>>,
    /// The key of the keyset that is being loaded that its store couldn't open or use.
    unopened: Option<UnopenedKey>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// An opened key whose validity isn't computed yet.
struct LoadedKey {
    signing: SigningKey,
    live_tokens: Arc<LiveTokenCounter>,
    source: [u8; 32],
    configured_certificate: Option<KeyCertificate>,
    /// The key id in the previous ring, and the certificates that were derived for it.
    derived: Option<(KeyId, Arc<DerivedCertificateCache>)>,
}

impl LoadedKey {
    fn new(signing: SigningKey, source: [u8; 32]) -> Self {
        Self { signing, live_tokens: Arc::default(), source, configured_certificate: None, derived: None }
    }

    fn of_private(private: PrivateKey, source: [u8; 32]) -> Self {
        Self::new(SigningKey::Private(Arc::new(private)), source)
    }
}

impl<'a> Loader<'a> {
    fn new(now: UnixTime, previous: Option<&'a KeyRing>, metrics: &'a Arc<Metrics>) -> Self {
        let keysets = previous.into_iter().flat_map(|ring| ring.keysets.values());
        let keys = keysets.flat_map(|keyset| {
            keyset.keys.iter().chain(keyset.unopened.iter().flat_map(|unopened| &unopened.opened))
        });
        let opened: BTreeMap<[u8; 32], &KeysetKey> = keys.map(|key| (key.source, key)).collect();
        let connections = opened.values().filter_map(|key| key.signing.connection().cloned()).collect();
        Self {
            now,
            opened,
            previous,
            retired: BTreeMap::new(),
            sessions: StoreSessions::new(metrics),
            metrics,
            connections,
            unopened: None,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn keyset(&mut self, keyset: &config::KeysetConfig) -> Option<Keyset> {
        let field = format!("keysets.{}", keyset.name);
        let (mut found, schedule) = match &keyset.keys {
            KeysetSource::Text { kid, pem, origin } => {
                let found = self.key(&format!("{field}.key"), origin, pem, keyset, USUAL_TEXT_QUIRKS)?;
                single_key(kid, found)
            }
            KeysetSource::File { kid, path } => {
                let found = self.key_file(&field, path.as_path(), &path.to_string(), keyset)?;
                // This check comes after the read: if the file doesn't exist, the path may be a misplaced secret and must not be shown.
                let folder = parent_directory(path.as_path());
                self.ok_or_record(
                    &field,
                    &folder.display().to_string(),
                    reject_replaceable_by_others(folder),
                )?;
                single_key(kid, found)
            }
            KeysetSource::Directory(directory) => {
                self.directory(&field, directory.as_path(), &directory.to_string(), keyset)?
            }
        };
        let rules = rotation_rules(keyset);
        let validities = rules.validities(&schedule.entries, self.now);
        let unopened = self.unopened.take();
        let mut keys = Vec::new();
        let mut gone = Vec::new();
        for validity in validities {
            let kid = validity.entry.kid.clone();
            if validity.state(self.now) == KeyState::Gone {
                gone.push(validity);
            } else if let Some(LoadedKey { signing, live_tokens, source, configured_certificate, derived }) =
                found.remove(&kid)
            {
                let derived = derived.filter(|(previous_kid, _)| *previous_kid == kid);
                let derived = derived.map(|(_, derived)| derived).unwrap_or_default();
                keys.push(KeysetKey {
                    kid,
                    validity,
                    signing,
                    live_tokens,
                    source,
                    configured_certificate,
                    derived,
                });
            }
        }
        let keyset = Keyset {
            name: keyset.name.clone(),
            algorithm: keyset.algorithm,
            keys,
            gone,
            rules,
            used_by: keyset.used_by.clone(),
            unopened,
        };
        if keyset.unopened.is_some() {
            return Some(self.with_previous_keys(keyset));
        }
        self.warnings.extend(keyset_checks::early_signing_warnings(&field, &keyset, self.now));
        if keyset.signing_position(self.now).is_none() {
            let first = keyset.keys.iter().filter_map(|key| key.validity.signs_from()).min();
            let when = first.map_or_else(
                || "; `tokenmint keys rotate --emergency` makes one".to_owned(),
                |first| format!(" until {first}"),
            );
            self.warnings.push(Problem::warning(
                WarningCode::NoKeySigns,
                field,
                SCHEDULE_FILE,
                format!("no key signs{when}"),
            ));
        }
        Some(keyset)
    }

    /// Returns the value, or records the error as a problem.
    fn ok_or_record<T, E: ToString>(&mut self, field: &str, source: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problems.push(Problem::new(field, source, error.to_string()))).ok()
    }

    fn key_file(
        &mut self,
        field: &str,
        path: &Path,
        origin: &str,
        keyset: &config::KeysetConfig,
    ) -> Option<LoadedKey> {
        let text = self.ok_or_record(field, origin, key_file::read_private_key(path))?;
        self.key(field, origin, &text, keyset, &[])
    }

    /// Opens a sealed key, unless the previous ring has it. `None` if that was reported, or closes the keyset.
    fn sealed_key(
        &mut self,
        field: &str,
        path: &Path,
        kid: &KeyId,
        keyset: &config::KeysetConfig,
    ) -> Option<LoadedKey> {
        let origin = path.display().to_string();
        let Some(seal) = &keyset.seal else {
            let message =
                "is a sealed key, and the keyset has no `sealed_by`: set `sealed_by` and `seal_key`";
            self.problems.push(Problem::new(field, origin, message));
            return None;
        };
        let sealed = self.ok_or_record(field, &origin, SealedKey::read(path))?;
        let context = SealContext { keyset: &keyset.name, kid };
        self.ok_or_record(field, &origin, sealed.check_names(context, seal))?;
        let source = sealed.fingerprint(context);
        if let Some(known) = self.opened_key(source) {
            return Some(known);
        }
        match sealed.open(context, seal, &mut self.sessions) {
            Ok(private) => Some(LoadedKey::of_private(private, source)),
            Err(error) => {
                let message = format!("isn't opened: {error}");
                self.record_unopened(field, &origin, keyset, message, error.store_is_transient());
                None
            }
        }
    }

    /// Asks the store of `signed_by` for a key, unless the previous ring has it. `None` if that was reported, or closes the keyset.
    fn remote_key(
        &mut self,
        field: &str,
        origin: &str,
        kid: &KeyId,
        keyset: &config::KeysetConfig,
        remote: &RemoteKeyName,
    ) -> Option<LoadedKey> {
        let Some(store) = &keyset.signed_by else {
            let message =
                format!("says that `{kid}` is a key of a store, and the keyset has no `signed_by`: set it");
            self.problems.push(Problem::new(format!("{field}.key.remote"), origin, message));
            return None;
        };
        let connection = self.connection(store);
        let source =
            PartsHasher::of([store.name.as_str(), &remote.to_string(), kid.as_str()].map(str::as_bytes));
        let is_current = |signing: &SigningKey| matches!(signing, SigningKey::Remote(key) if key.is_current(&connection, self.now));
        let known = self.opened_key(source);
        if known.as_ref().is_some_and(|known| is_current(&known.signing)) {
            return known;
        }
        match RemoteKey::load(kid, &connection, remote, self.now, &mut self.sessions) {
            Ok(key) => {
                let signing = SigningKey::Remote(Arc::new(key));
                Some(match known {
                    Some(known) => LoadedKey { signing, ..known },
                    None => LoadedKey::new(signing, source),
                })
            }
            Err(error) => {
                let message = format!("can't sign with `{remote}` for `{kid}`: {error}");
                self.record_unopened(field, origin, keyset, message, error.store_is_transient());
                None
            }
        }
    }

    /// The connection to a store: the one of the previous ring, if its settings are the same.
    fn connection(&mut self, store: &Arc<StoreConfig>) -> Arc<StoreConnection> {
        if let Some(known) = self.connections.iter().find(|known| known.config() == store) {
            return known.clone();
        }
        let new = Arc::new(StoreConnection::new(store.clone(), self.metrics.clone()));
        self.connections.push(new.clone());
        new
    }

    /// Records a key that its store can't open or use: the keyset is then loaded without it. It is a problem of the configuration if the
    /// store isn't the cause (`store_is_transient` is `None`), or if the keyset is new in a reload.
    fn record_unopened(
        &mut self,
        field: &str,
        origin: &str,
        keyset: &config::KeysetConfig,
        message: String,
        store_is_transient: Option<bool>,
    ) {
        let Some(is_transient) = store_is_transient.filter(|_| self.may_be_unopened(&keyset.name)) else {
            self.problems.push(Problem::new(field, origin, message));
            return;
        };
        // A key that nobody can open later counts more.
        if self.unopened.as_ref().is_none_or(|unopened| unopened.is_transient && !is_transient) {
            let problem = Problem::warning(WarningCode::StoreUnavailable, field, origin, message);
            self.warnings.push(problem.clone());
            self.unopened = Some(UnopenedKey { problem, is_transient, opened: Vec::new() });
        }
    }

    /// Whether a key of the keyset may stay unopened. A reload must not add a keyset without keys, because the service would become unready.
    fn may_be_unopened(&self, name: &Name) -> bool {
        self.previous.is_none_or(|ring| ring.keysets.contains_key(name))
    }

    /// Returns a keyset of which a key couldn't be opened with the keys of the previous load, or without any.
    fn with_previous_keys(&self, keyset: Keyset) -> Keyset {
        let Keyset { keys: opened, unopened, .. } = keyset;
        let unopened = unopened.map(|unopened| UnopenedKey { opened, ..unopened });
        let previous = self.previous.and_then(|ring| ring.keysets.get(&keyset.name));
        match previous.filter(|previous| !previous.keys.is_empty()) {
            Some(previous) => {
                Keyset { keys: previous.keys.clone(), gone: previous.gone.clone(), unopened, ..keyset }
            }
            None => Keyset { keys: Vec::new(), unopened, ..keyset },
        }
    }

    /// The key of the previous ring that was read from this source.
    fn opened_key(&self, source: [u8; 32]) -> Option<LoadedKey> {
        let key = self.opened.get(&source)?;
        Some(LoadedKey {
            signing: key.signing.clone(),
            live_tokens: key.live_tokens.clone(),
            source,
            configured_certificate: None,
            derived: Some((key.kid.clone(), key.derived.clone())),
        })
    }

    /// Parses and checks a key, unless the previous ring has it. Warns of quirks of the text that aren't `usual`.
    fn key(
        &mut self,
        field: &str,
        origin: &str,
        text: &SecretString,
        keyset: &config::KeysetConfig,
        usual: &[PemQuirk],
    ) -> Option<LoadedKey> {
        let passphrase = keyset.passphrase.as_ref();
        let source = source_fingerprint(text, passphrase);
        let found = if let Some(known) = self.opened_key(source) {
            known
        } else {
            let private = self.ok_or_record(field, origin, PrivateKey::parse(text, passphrase))?;
            LoadedKey::of_private(private, source)
        };
        let private = found.signing.private();
        let warning = private.and_then(|private| private.pem_quirks.without(usual).warning());
        self.warnings
            .extend(warning.map(|message| Problem::warning(WarningCode::KeyForm, field, origin, message)));
        Some(found)
    }

    fn directory(
        &mut self,
        field: &str,
        directory: &Path,
        source: &str,
        keyset: &config::KeysetConfig,
    ) -> Option<(BTreeMap<KeyId, LoadedKey>, Schedule)> {
        let remote = if keyset.signed_by.is_some() { "--remote " } else { "" };
        let command = format!("`tokenmint keys new KID {remote}--keyset {}`", keyset.name);
        let contents = DirectoryContents::list(directory).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                format!("can't be listed: {error}; {command} makes it")
            }
            ErrorKind::NotADirectory => {
                "must be a directory, and is a file: set `key_file` and `kid` for one key".to_owned()
            }
            _ => format!("can't be listed: {error}"),
        });
        let contents = self.ok_or_record(field, source, contents)?;
        self.ok_or_record(field, source, reject_replaceable_by_others(directory))?;
        for (path, message) in &contents.misnamed {
            self.problems.push(Problem::new(field, path.display(), message));
        }
        let schedule = self.schedule(field, directory, &contents, keyset);
        let lists_remote = schedule
            .as_ref()
            .is_some_and(|schedule| schedule.entries.iter().any(|entry| entry.remote.is_some()));
        let is_reported = contents.has_schedule && schedule.is_none();
        if contents.keys.is_empty() && contents.misnamed.is_empty() && !lists_remote && !is_reported {
            let there = contents.ignored.iter().filter_map(|path| path.file_name());
            let there: Vec<String> = there.map(|name| format!("`{}`", name.display())).collect();
            let message = if there.is_empty() {
                format!("holds no key: put KID.key there, or {command} makes one")
            } else {
                format!(
                    "holds no KID.key, but {}: a key file is PEM text, and its name is its key id and `.key`, as Salesforce Setup \
                     has that id. Rename it, for example `mv {} WebAppKey1.key`",
                    there.join(", "),
                    there[0].trim_matches('`')
                )
            };
            self.problems.push(Problem::new(field, source, message));
            return None;
        }
        if keyset.seal.is_some() {
            let only_plain = contents.keys.iter().filter_map(|(kid, file)| match file {
                KeyFile::Plain(path) => Some((kid, path)),
                KeyFile::Sealed(_) => None,
            });
            for (kid, path) in only_plain.chain(&contents.plain_beside_sealed) {
                let message = format!(
                    "lies in the clear, though `sealed_by` is set: `tokenmint keys seal {} --keyset {}` seals it and removes this file",
                    shell::quote(kid),
                    keyset.name
                );
                let warning = Problem::warning(WarningCode::UnsealedKey, field, path.display(), message);
                self.warnings.push(warning);
            }
        }
        for path in &contents.ignored {
            let message = "is ignored: keys are named KID.key, their certificates KID.crt";
            self.warnings.push(Problem::warning(WarningCode::IgnoredFile, field, path.display(), message));
        }
        let gone_kids =
            schedule.as_ref().map(|schedule| self.gone_kids(schedule, keyset)).unwrap_or_default();
        let mut found = BTreeMap::new();
        // An unlisted key neither signs nor is published, so its file isn't read.
        let is_listed = |kid: &KeyId| schedule.as_ref().is_none_or(|schedule| schedule.entry(kid).is_some());
        let wanted = contents.keys.iter().filter(|(kid, _)| is_listed(kid) && !gone_kids.contains(kid));
        for (kid, file) in wanted {
            let path = file.path();
            let opened = match file {
                KeyFile::Plain(path) => self.key_file(field, path, &path.display().to_string(), keyset),
                KeyFile::Sealed(path) => self.sealed_key(field, path, kid, keyset),
            };
            let Some(mut key) = opened else { continue };
            key.configured_certificate =
                self.certificate_file(field, &certificate_path(path, kid), key.signing.public());
            found.insert(kid.clone(), key);
        }
        let schedule = schedule?;
        for entry in schedule.entries.iter().filter(|entry| !gone_kids.contains(&entry.kid)) {
            let Some(remote) = &entry.remote else { continue };
            let origin = schedule
                .origins
                .get(&entry.kid)
                .map_or_else(String::new, |origins| origins.remote.to_string());
            if let Some(file) = contents.keys.get(&entry.kid) {
                let message = format!(
                    "says that `{}` is a key of a store, and {} is there too: remove one of them",
                    entry.kid,
                    file.path().display()
                );
                self.problems.push(Problem::new(format!("{field}.key.remote"), origin, message));
                continue;
            }
            let Some(mut key) = self.remote_key(field, &origin, &entry.kid, keyset, remote) else { continue };
            let certificate = directory.join(format!("{}.crt", entry.kid));
            key.configured_certificate = self.certificate_file(field, &certificate, key.signing.public());
            found.insert(entry.kid.clone(), key);
        }
        let source_of = |kid: &KeyId, field: fn(&EntryOrigins) -> &ValueOrigin| {
            let path = || directory.join(SCHEDULE_FILE).display().to_string();
            schedule.origins.get(kid).map_or_else(path, |origins| field(origins).to_string())
        };
        for entry in schedule.entries.iter().filter(|entry| !gone_kids.contains(&entry.kid)) {
            if entry.remote.is_none() && !contents.keys.contains_key(&entry.kid) {
                let message = format!("lists `{}`, but there is no {}.key beside it", entry.kid, entry.kid);
                self.problems.push(Problem::new(
                    field,
                    source_of(&entry.kid, |origins| &origins.kid),
                    message,
                ));
            }
        }
        // Without this check, an emptied file to which a retirement was appended would remove the other published keys in a
        // reload. A start has nothing to lose, and must work after a `keys retire` that was killed between its two writes.
        let is_published =
            |kid: &&KeyId| self.previous.is_some_and(|previous| previous.history.contains_kid(kid));
        let unlisted = contents.keys.keys().filter(is_published).find(|kid| schedule.entry(kid).is_none());
        if let Some(kid) = unlisted.filter(|_| schedule.entries.iter().all(|entry| entry.retired.is_some())) {
            let message = format!(
                "lists retired keys only, but the service publishes `{kid}`: list `{kid}` too, with `sign_from`, or move its files away"
            );
            self.problems.push(Problem::new(field, directory.join(SCHEDULE_FILE).display(), message));
        }
        for warning in &schedule.warnings {
            let problem = Problem::warning(
                WarningCode::RetiredWithoutDate,
                format!("{field}.{}", warning.field),
                &warning.origin,
                &warning.message,
            );
            self.warnings.push(problem);
        }
        for entry in schedule
            .entries
            .iter()
            .filter(|entry| entry.retired.is_some_and(|at| at > self.now.plus(RETIREMENT_DATE_TOLERANCE)))
        {
            let message = format!(
                "`{}` is retired from now on, but its date lies ahead: write when it was taken away, now or before (or is this \
                 host's clock wrong?)",
                entry.kid
            );
            let source = source_of(&entry.kid, |origins| &origins.retired);
            self.problems.push(Problem::new(format!("{field}.key.retired"), source, message));
        }
        for entry in schedule.entries.iter().filter(|entry| entry.retired.is_some()) {
            let is_known = self.previous.is_some_and(|previous| previous.history.contains_kid(&entry.kid));
            let passphrase = keyset.passphrase.as_ref();
            let of_files = || modulus_hash_in(directory, &entry.kid, passphrase);
            let by_name = |remote: &RemoteKeyName| {
                let same = found.values().find(|key| key.signing.remote() == Some(remote))?;
                Some(same.signing.public().modulus_hash())
            };
            let modulus_hash =
                if is_known { None } else { of_files().or_else(|| entry.remote.as_ref().and_then(by_name)) };
            self.retired.extend(modulus_hash.map(|modulus_hash| (modulus_hash, entry.kid.clone())));
        }
        for kid in contents.keys.keys().filter(|kid| schedule.entry(kid).is_none()) {
            let message = format!("doesn't list `{kid}`, so that key neither signs nor is published");
            self.warnings.push(Problem::warning(
                WarningCode::UnlistedKey,
                field,
                directory.join(SCHEDULE_FILE).display(),
                message,
            ));
        }
        Some((found, schedule))
    }

    /// The keys of `schedule` that neither sign nor are published: they aren't loaded, and their files may be missing.
    /// The file of a retired key may be read for its modulus hash.
    fn gone_kids(&self, schedule: &Schedule, keyset: &config::KeysetConfig) -> BTreeSet<KeyId> {
        let validities = rotation_rules(keyset).validities(&schedule.entries, self.now);
        let entries = schedule.entries.iter().zip(validities);
        let gone = entries.filter(|(_, validity)| validity.state(self.now) == KeyState::Gone);
        gone.map(|(entry, _)| entry.kid.clone()).collect()
    }

    fn schedule(
        &mut self,
        field: &str,
        directory: &Path,
        contents: &DirectoryContents,
        keyset: &config::KeysetConfig,
    ) -> Option<Schedule> {
        let path = directory.join(SCHEDULE_FILE);
        if !contents.has_schedule {
            let mut kids = contents.keys.keys();
            return match (kids.next(), kids.next()) {
                (Some(kid), None) => Some(Schedule::for_single_key(kid.clone())),
                (Some(_), Some(_)) => {
                    let names: Vec<&str> = contents.keys.keys().map(KeyId::as_str).collect();
                    let message = format!(
                        "holds {} keys ({}) and no {SCHEDULE_FILE} that says from when each signs",
                        names.len(),
                        names.join(", ")
                    );
                    self.problems.push(Problem::new(field, directory.display(), message));
                    None
                }
                _ => None,
            };
        }
        let text = self.ok_or_record(field, &path.display().to_string(), key_file::read_schedule(&path))?;
        match schedule::parse_schedule(&path.display().to_string(), &text, keyset.publish_lead) {
            Ok(schedule) => Some(schedule),
            Err(problems) => {
                let under = |problem: Problem| match problem.field.as_str() {
                    "" => Problem {
                        field: field.to_owned(),
                        message: format!("{SCHEDULE_FILE} {}", problem.message),
                        ..problem
                    },
                    inside => Problem { field: format!("{field}.{inside}"), ..problem },
                };
                self.problems.extend(problems.into_iter().map(under));
                None
            }
        }
    }

    /// Reads the certificate beside a key, if there is one. One whose dates Salesforce rejects is only a warning: the key is good,
    /// and a derived certificate is published instead.
    fn certificate_file(&mut self, field: &str, path: &Path, key: &PublicKey) -> Option<KeyCertificate> {
        // A broken symbolic link is reported as an error, not treated as a missing certificate.
        if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return None;
        }
        let source = path.display().to_string();
        let text = self.ok_or_record(field, &source, key_file::read_certificate_text(path))?;
        let (certificate, odd) = self.ok_or_record(field, &source, KeyCertificate::parse(&text, key))?;
        let odd = odd.map(|message| Problem::warning(WarningCode::CertificateForm, field, &source, message));
        self.warnings.extend(odd);
        let left = self.now.seconds_until(certificate.not_after);
        let until = certificate.not_after;
        let warning = if certificate.not_before > self.now {
            Some(format!(
                "isn't valid before {}; until then a derived one is published",
                certificate.not_before
            ))
        } else if left <= CERTIFICATE_MIN_SECONDS_LEFT {
            Some(format!(
                "runs out {until}, and Salesforce wants 10 days more; a derived one is published in its place. \
                 Renew it, or remove the file"
            ))
        } else if left <= CERTIFICATE_WARN_SECONDS_LEFT {
            Some(format!("runs out {until}; renew it, or remove the file and tokenmint derives one"))
        } else {
            None
        };
        self.warnings.extend(
            warning.map(|message| Problem::warning(WarningCode::CertificateDates, field, source, message)),
        );
        Some(certificate)
    }
}

fn single_key(kid: &KeyId, found: LoadedKey) -> (BTreeMap<KeyId, LoadedKey>, Schedule) {
    (BTreeMap::from([(kid.clone(), found)]), Schedule::for_single_key(kid.clone()))
}

pub(crate) const fn rotation_rules(keyset: &config::KeysetConfig) -> RotationRules {
    let config::KeysetConfig { publish_lead, longest_life, retire_margin, .. } = *keyset;
    RotationRules { publish_lead, longest_life, retire_margin }
}

/// The modulus hash of a key in `directory`, from its private key, the text of its sealed key, or its certificate; `None` if none of them
/// can be read.
pub(crate) fn modulus_hash_in(
    directory: &Path,
    kid: &KeyId,
    passphrase: Option<&SecretString>,
) -> Option<ModulusHash> {
    let of_key = match KeyFile::of(directory, kid) {
        KeyFile::Plain(path) => key_file::read_private_key_unchecked(&path)
            .ok()
            .and_then(|text| private_key::modulus_hash_of_pem(&text, passphrase)),
        KeyFile::Sealed(path) => SealedKey::read(&path).ok().map(|key| key.modulus_hash()),
    };
    // A key of a store has no file of its own.
    of_key.or_else(|| {
        let text = key_file::read_certificate_text(&directory.join(format!("{kid}.crt"))).ok()?;
        let (certificates, _) = parse_certificates(&text).ok()?;
        Some(certificates.first()?.rsa_numbers.as_ref()?.modulus_hash())
    })
}

/// The modulus hash of the private key in a file; `None` if it can't be read.
pub(crate) fn modulus_hash_of_file(path: &Path, passphrase: Option<&SecretString>) -> Option<ModulusHash> {
    private_key::modulus_hash_of_pem(&key_file::read_private_key_unchecked(path).ok()?, passphrase)
}

/// Hashes the text and the passphrase that a key is read from.
fn source_fingerprint(text: &SecretString, passphrase: Option<&SecretString>) -> [u8; 32] {
    let parts = [Some(text), passphrase].into_iter().flatten();
    PartsHasher::of(parts.map(|part| part.expose_secret().as_bytes()))
}

/// The path of the certificate beside a key. `with_extension` would cut a key id at its last dot.
fn certificate_path(key: &Path, kid: &KeyId) -> PathBuf {
    key.with_file_name(format!("{kid}.crt"))
}
