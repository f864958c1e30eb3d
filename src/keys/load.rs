//! Opens and checks the keys of all keysets, and says all that is wrong with any of them.
//!
//! A ring that takes the place of another is held to more: [`History`] says what. What was parsed and checked before is not
//! parsed again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::folder::Contents;
use super::ring::DerivedCertificates;
use super::schedule::{self, Schedule};
use super::transition::{AnnouncedKey, AnnouncedKeyset, History, Material};
use super::{
    Certificate, Key, KeyRing, Keyset, Oddity, PrivateKey, PublicKey, Rules, SCHEDULE_FILE,
    SHORTEST_LIFE_LEFT, State, Usage, WARN_LIFE_LEFT, file, private,
};
use crate::clock::UnixTime;
use crate::config::{self, Code, KeyId, KeySource, Kind, Name, Problem};
use crate::files::{folder_of, only_ours_replaces_files_in};
use crate::hash::Parts;
use crate::shell;

impl KeyRing {
    /// Opens and checks the keys of all keysets. `previous` is the ring whose place it takes.
    ///
    /// # Errors
    /// All that is wrong with any of them, each with its file.
    pub fn load(
        keysets: &BTreeMap<Name, config::Keyset>,
        now: UnixTime,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<Problem>> {
        let mut loader = Loader::new(now, previous);
        let sets: Vec<Arc<Keyset>> =
            keysets.values().filter_map(|keyset| loader.keyset(keyset)).map(Arc::new).collect();
        loader.distinct_kids(&sets);
        loader.no_copies_of_retired(&sets);
        loader.one_door_per_key(&sets);
        if let Some(previous) = previous {
            loader.problems.extend(previous.history.check(&announced(&sets), now));
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
        let history: History = before.after(&announced(keysets.values()), now);
        Self { keysets, warnings, history }
    }
}

/// What verifiers see of `keysets`.
fn announced<'a>(keysets: impl IntoIterator<Item = &'a Arc<Keyset>>) -> Vec<AnnouncedKeyset<'a>> {
    let key = |key: &'a Key| AnnouncedKey { material: key.private.public.material(), life: &key.life };
    let keyset = |keyset: &'a Arc<Keyset>| AnnouncedKeyset {
        name: &keyset.name,
        used_by: &keyset.used_by,
        publish_lead: keyset.rules.publish_lead,
        keys: keyset.keys.iter().map(key).collect(),
        gone: keyset.past.iter().collect(),
    };
    keysets.into_iter().map(keyset).collect()
}

/// How a key is written in a variable, which has no line breaks in many places where variables are set.
const USUAL_IN_A_VARIABLE: &[Oddity] = &[Oddity::EscapedBreaks, Oddity::Base64];

/// How far the clocks of two hosts may be apart.
const CLOCK_DIFFERENCE: Duration = Duration::from_mins(1);

struct Loader<'a> {
    now: UnixTime,
    /// Keys that are open already, by what they were read from.
    known: BTreeMap<[u8; 32], &'a Key>,
    previous: Option<&'a KeyRing>,
    /// The ids of retired keys, by key: of those whose file is there and that this process hasn't published itself. [`History`]
    /// knows the others.
    retired: BTreeMap<Material, KeyId>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// A key as it was found, before the schedule gave it a place.
struct Found {
    private: Arc<PrivateKey>,
    usage: Arc<Usage>,
    source: [u8; 32],
    given: Option<Certificate>,
    /// Under which id the key was known before, and the certificates that were made for it then.
    derived: Option<(KeyId, Arc<DerivedCertificates>)>,
}

impl<'a> Loader<'a> {
    fn new(now: UnixTime, previous: Option<&'a KeyRing>) -> Self {
        let keys = previous.into_iter().flat_map(KeyRing::keys);
        let known = keys.map(|(_, key)| (key.source, key)).collect();
        Self { now, known, previous, retired: BTreeMap::new(), problems: Vec::new(), warnings: Vec::new() }
    }

    fn keyset(&mut self, keyset: &config::Keyset) -> Option<Keyset> {
        let field = format!("keysets.{}", keyset.name);
        let (mut found, schedule) = match &keyset.keys {
            KeySource::Text { kid, pem, origin } => {
                let found = self.key(&format!("{field}.key"), origin, pem, keyset, USUAL_IN_A_VARIABLE)?;
                sole(kid, found)
            }
            KeySource::File { kid, path } => {
                let found = self.key_file(&field, path.as_path(), &path.to_string(), keyset)?;
                // Comes second: the path of a file that isn't there may be a secret, and is not shown.
                let folder = folder_of(path.as_path());
                self.noted(&field, &folder.display().to_string(), only_ours_replaces_files_in(folder))?;
                sole(kid, found)
            }
            KeySource::Directory(directory) => {
                self.directory(&field, directory.as_path(), &directory.to_string(), keyset)?
            }
        };
        let rules = rules(keyset);
        let lives = rules.lives(&schedule.entries, self.now);
        let mut keys = Vec::new();
        let mut past = Vec::new();
        for life in lives {
            let kid = life.entry.kid.clone();
            if life.state(self.now) == State::Gone {
                past.push(life);
            } else if let Some(Found { private, usage, source, given, derived }) = found.remove(&kid) {
                let derived = derived.filter(|(known_as, _)| *known_as == kid);
                let derived = derived.map(|(_, derived)| derived).unwrap_or_default();
                keys.push(Key { kid, life, private, usage, source, given, derived });
            }
        }
        let keyset = Keyset {
            name: keyset.name.clone(),
            algorithm: keyset.algorithm,
            keys,
            past,
            rules,
            used_by: keyset.used_by.clone(),
        };
        self.emergencies(&field, &keyset);
        if keyset.signing(self.now).is_none() {
            let first = keyset.keys.iter().filter_map(|key| key.life.signs_from()).min();
            let when = first.map_or_else(
                || "; `tokenmint keys rotate --emergency` makes one".to_owned(),
                |first| format!(" until {first}"),
            );
            self.warnings.push(Problem::warning(
                Code::NoKeySigns,
                field,
                SCHEDULE_FILE,
                format!("no key signs{when}"),
            ));
        }
        Some(keyset)
    }

    /// Notes why there is none.
    fn noted<T, E: ToString>(&mut self, field: &str, source: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problems.push(Problem::new(field, source, error.to_string()))).ok()
    }

    fn key_file(&mut self, field: &str, path: &Path, origin: &str, keyset: &config::Keyset) -> Option<Found> {
        let text = self.noted(field, origin, file::read_private(path))?;
        self.key(field, origin, &text, keyset, &[])
    }

    /// Parses and checks a key, unless just that text was parsed and checked before. What is odd about the text, but for what is
    /// `usual` there, is a warning.
    fn key(
        &mut self,
        field: &str,
        origin: &str,
        text: &SecretString,
        keyset: &config::Keyset,
        usual: &[Oddity],
    ) -> Option<Found> {
        let passphrase = keyset.passphrase.as_ref();
        let source = fingerprint(text, passphrase);
        let found = if let Some(key) = self.known.get(&source) {
            let derived = Some((key.kid.clone(), key.derived.clone()));
            Found { private: key.private.clone(), usage: key.usage.clone(), source, given: None, derived }
        } else {
            let private = self.noted(field, origin, PrivateKey::parse(text, passphrase))?;
            let (private, usage) = (Arc::new(private), Arc::default());
            Found { private, usage, source, given: None, derived: None }
        };
        let warning = found.private.oddities.without(usual).warning();
        self.warnings.extend(warning.map(|message| Problem::warning(Code::KeyForm, field, origin, message)));
        Some(found)
    }

    fn directory(
        &mut self,
        field: &str,
        directory: &Path,
        source: &str,
        keyset: &config::Keyset,
    ) -> Option<(BTreeMap<KeyId, Found>, Schedule)> {
        let contents = Contents::of(directory).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                format!(
                    "can't be listed: {error}; `tokenmint keys new KID --keyset {}` makes it",
                    keyset.name
                )
            }
            _ => format!("can't be listed: {error}"),
        });
        let contents = self.noted(field, source, contents)?;
        self.noted(field, source, only_ours_replaces_files_in(directory))?;
        for (path, message) in &contents.misnamed {
            self.problems.push(Problem::new(field, path.display(), message));
        }
        if contents.keys.is_empty() && contents.misnamed.is_empty() {
            let there = contents.ignored.iter().filter_map(|path| path.file_name());
            let there: Vec<String> = there.map(|name| format!("`{}`", name.display())).collect();
            let message = if there.is_empty() {
                format!(
                    "holds no key: put KID.key there, or `tokenmint keys new KID --keyset {}`",
                    keyset.name
                )
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
        for path in &contents.ignored {
            let message = "is ignored: keys are named KID.key, their certificates KID.crt";
            self.warnings.push(Problem::warning(Code::IgnoredFile, field, path.display(), message));
        }
        let schedule = self.schedule(field, directory, &contents, keyset);
        let over = schedule.as_ref().map(|schedule| self.over(schedule, keyset)).unwrap_or_default();
        let mut found = BTreeMap::new();
        // What isn't listed neither signs nor is published, and is nobody's concern.
        let is_listed = |kid: &KeyId| schedule.as_ref().is_none_or(|schedule| schedule.entry(kid).is_some());
        let wanted = contents.keys.iter().filter(|(kid, _)| is_listed(kid) && !over.contains(kid));
        for (kid, path) in wanted {
            let Some(mut key) = self.key_file(field, path, &path.display().to_string(), keyset) else {
                continue;
            };
            key.given = self.certificate_file(field, &beside(path, kid), &key.private.public);
            found.insert(kid.clone(), key);
        }
        let schedule = schedule?;
        for entry in schedule.entries.iter().filter(|entry| !over.contains(&entry.kid)) {
            if !contents.keys.contains_key(&entry.kid) {
                let message = format!("lists `{}`, but there is no {}.key beside it", entry.kid, entry.kid);
                self.problems.push(Problem::new(field, directory.join(SCHEDULE_FILE).display(), message));
            }
        }
        for (inside, message) in &schedule.warnings {
            let problem = Problem::warning(
                Code::RetiredWithoutDate,
                format!("{field}.{inside}"),
                directory.join(SCHEDULE_FILE).display(),
                message,
            );
            self.warnings.push(problem);
        }
        for entry in schedule
            .entries
            .iter()
            .filter(|entry| entry.retired.is_some_and(|at| at > self.now.plus(CLOCK_DIFFERENCE)))
        {
            let message = format!(
                "`{}` is retired from now on, but its date lies ahead: write when it was taken away, now or before (or is this \
                 host's clock wrong?)",
                entry.kid
            );
            let source = directory.join(SCHEDULE_FILE);
            self.problems.push(Problem::new(format!("{field}.key.retired"), source.display(), message));
        }
        for entry in schedule.entries.iter().filter(|entry| entry.retired.is_some()) {
            let is_known = self.previous.is_some_and(|previous| previous.history.knows(&entry.kid));
            let path = contents.keys.get(&entry.kid).filter(|_| !is_known);
            let material = path.and_then(|path| material_of(path, keyset.passphrase.as_ref()));
            self.retired.extend(material.map(|material| (material, entry.kid.clone())));
        }
        for kid in contents.keys.keys().filter(|kid| schedule.entry(kid).is_none()) {
            let message = format!("doesn't list `{kid}`, so that key neither signs nor is published");
            self.warnings.push(Problem::warning(
                Code::UnlistedKey,
                field,
                directory.join(SCHEDULE_FILE).display(),
                message,
            ));
        }
        Some((found, schedule))
    }

    /// The keys of `schedule` that need not be opened, nor be there, any more.
    fn over(&self, schedule: &Schedule, keyset: &config::Keyset) -> BTreeSet<KeyId> {
        let lives = rules(keyset).lives(&schedule.entries, self.now);
        let entries = schedule.entries.iter().zip(lives);
        let gone = entries.filter(|(_, life)| life.state(self.now) == State::Gone);
        gone.map(|(entry, _)| entry.kid.clone()).collect()
    }

    fn schedule(
        &mut self,
        field: &str,
        directory: &Path,
        contents: &Contents,
        keyset: &config::Keyset,
    ) -> Option<Schedule> {
        let path = directory.join(SCHEDULE_FILE);
        if !contents.has_schedule {
            let mut kids = contents.keys.keys();
            return match (kids.next(), kids.next()) {
                (Some(kid), None) => Some(Schedule::of_sole(kid.clone())),
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
        let text = self.noted(field, &path.display().to_string(), file::read_schedule(&path))?;
        match schedule::parse(&path.display().to_string(), &text, keyset.publish_lead) {
            Ok(schedule) => Some(schedule),
            Err(problems) => {
                let under =
                    |problem: Problem| Problem { field: format!("{field}.{}", problem.field), ..problem };
                self.problems.extend(problems.into_iter().map(under));
                None
            }
        }
    }

    /// The certificate beside a key, if there is one. One that has run out is only warned of: the key is
    /// good, and a derived certificate takes its place.
    fn certificate_file(&mut self, field: &str, path: &Path, key: &PublicKey) -> Option<Certificate> {
        // A link that leads nowhere is a mistake to tell of, not the absence of a certificate.
        if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return None;
        }
        let source = path.display().to_string();
        let text = self.noted(field, &source, file::read_public(path))?;
        let (certificate, odd) = self.noted(field, &source, Certificate::parse(&text, key))?;
        let odd = odd.map(|message| Problem::warning(Code::CertificateForm, field, &source, message));
        self.warnings.extend(odd);
        let left = self.now.seconds_until(certificate.not_after);
        let until = certificate.not_after;
        let warning = if certificate.not_before > self.now {
            Some(format!(
                "isn't valid before {}; until then a derived one is published",
                certificate.not_before
            ))
        } else if left <= SHORTEST_LIFE_LEFT {
            Some(format!(
                "runs out {until}, and Salesforce wants 10 days more; a derived one is published in its place. \
                 Renew it, or remove the file"
            ))
        } else if left <= WARN_LIFE_LEFT {
            Some(format!("runs out {until}; renew it, or remove the file and tokenmint derives one"))
        } else {
            None
        };
        self.warnings
            .extend(warning.map(|message| Problem::warning(Code::CertificateDates, field, source, message)));
        Some(certificate)
    }

    /// A key that signs before verifiers can be sure to know it is said aloud as long as that holds.
    fn emergencies(&mut self, field: &str, keyset: &Keyset) {
        for key in keyset.keys.iter().filter(|key| key.life.entry.emergency) {
            let from = key.life.signs_from();
            let (Some(from), Some(added)) = (from, key.life.entry.added.or(from)) else {
                continue;
            };
            let safe = added.plus(keyset.rules.publish_lead);
            if from < safe && self.now < safe {
                let message = format!(
                    "`{}` signs from {from} by `emergency`: verifiers that keep a JWKS may not know it before {safe}",
                    key.kid
                );
                self.warnings.push(Problem::warning(Code::EmergencyKey, field, SCHEDULE_FILE, message));
            }
        }
    }

    fn distinct_kids(&mut self, keysets: &[Arc<Keyset>]) {
        let mut owners: BTreeMap<&KeyId, &Name> = BTreeMap::new();
        for keyset in keysets {
            let retired = keyset
                .past
                .iter()
                .map(|life| &life.entry)
                .filter(|entry| entry.retired.is_some())
                .map(|entry| &entry.kid);
            for kid in keyset.keys.iter().map(|key| &key.kid).chain(retired) {
                if let Some(other) = owners.insert(kid, &keyset.name) {
                    let message = format!(
                        "its key id `{kid}` is also in keyset `{other}`; key ids are unique across the service"
                    );
                    self.problems.push(Problem::new(format!("keysets.{}", keyset.name), "keys", message));
                }
            }
        }
    }

    /// A copy of a retired key is as leaked as that key.
    fn no_copies_of_retired(&mut self, keysets: &[Arc<Keyset>]) {
        for (keyset, key) in
            keysets.iter().flat_map(|keyset| keyset.keys.iter().map(move |key| (keyset, key)))
        {
            let Some(retired) = self.retired.get(&key.private.public.material()) else { continue };
            let kid = &key.kid;
            let message = format!(
                "`{kid}` is the key that is retired as `{retired}`: `tokenmint keys retire {} --now` takes it away too; one that \
                 is given as text or file must be another key",
                shell::quoted(kid)
            );
            self.problems.push(Problem::new(format!("keysets.{}", keyset.name), "keys", message));
        }
    }

    /// RFC 8725, section 3.12: a key that signs identity tokens should not sign assertions too.
    fn one_door_per_key(&mut self, keysets: &[Arc<Keyset>]) {
        let signs = |kind: Kind| {
            let used = move |keyset: &&Arc<Keyset>| keyset.used_by.iter().any(|user| user.kind == kind);
            keysets.iter().filter(used).flat_map(|keyset| keyset.keys.iter().map(move |key| (keyset, key)))
        };
        let mut warned = BTreeSet::new();
        for (identity, key) in signs(Kind::Identity) {
            for (oauth, other) in signs(Kind::Oauth) {
                let same = key.private.public.n == other.private.public.n;
                if same && identity.name != oauth.name && warned.insert(&key.kid) {
                    let message = format!(
                        "its key `{}` is the same as `{}` of keyset `{}`: identity tokens and OAuth assertions \
                         are signed by one key, and one leak opens both doors; make another for one of them",
                        key.kid, other.kid, oauth.name
                    );
                    self.warnings.push(Problem::warning(
                        Code::OneKeyForTwoKinds,
                        format!("keysets.{}", identity.name),
                        "keys",
                        message,
                    ));
                }
            }
        }
    }
}

fn sole(kid: &KeyId, found: Found) -> (BTreeMap<KeyId, Found>, Schedule) {
    (BTreeMap::from([(kid.clone(), found)]), Schedule::of_sole(kid.clone()))
}

/// How the keys of `keyset` come and go.
pub const fn rules(keyset: &config::Keyset) -> Rules {
    let config::Keyset { publish_lead, longest_life, retire_margin, .. } = *keyset;
    Rules { publish_lead, longest_life, retire_margin }
}

/// Which key lies at `path`; `None` where none can be read.
pub fn material_of(path: &Path, passphrase: Option<&SecretString>) -> Option<Material> {
    private::material(&file::read_private_of_anyone(path).ok()?, passphrase)
}

/// Tells apart what a key is read from.
fn fingerprint(text: &SecretString, passphrase: Option<&SecretString>) -> [u8; 32] {
    let parts = [Some(text), passphrase].into_iter().flatten();
    Parts::of(parts.map(|part| part.expose_secret().as_bytes()))
}

/// The certificate beside a key. Not `with_extension`, which would cut a key id at its last dot.
fn beside(key: &Path, kid: &KeyId) -> PathBuf {
    key.with_file_name(format!("{kid}.crt"))
}
