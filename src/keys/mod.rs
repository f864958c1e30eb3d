//! PEM files -> [`KeyRing`]: keysets, private keys, certificates, and the schedule that says which key signs
//! when. Knows nothing of tokens or HTTP.
//!
//! - Every key in a ring has passed the policy and a test signature.
//! - Key ids are unique across the ring.
//! - A ring never changes; a reload builds another.

mod certificate;
pub mod file;
mod pem;
mod policy;
mod private;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use certificate::{Certificate, SHORTEST_LIFE_LEFT, WARN_LIFE_LEFT, derived_not_after, next_derivation};
pub use pem::Unreadable;
pub use policy::Weakness;
pub use private::{PrivateKey, PublicKey, Refused, SigningFailed, generate};
use schedule::{Entry, lives};
pub use schedule::{FILE as SCHEDULE_FILE, Life, MARGIN, PUBLISH_LEAD, State};

use crate::clock::UnixTime;
use crate::config::{self, Algorithm, KeyId, KeySource, Kind, Name, Problem, ProfileName};

pub struct KeyRing {
    pub keysets: BTreeMap<Name, Arc<Keyset>>,
    pub warnings: Vec<Problem>,
}

/// Keys in order of `sign_from`; never empty.
pub struct Keyset {
    pub name: Name,
    pub algorithm: Algorithm,
    pub keys: Vec<Key>,
    pub used_by: Vec<ProfileName>,
}

pub struct Key {
    pub kid: KeyId,
    pub life: Life,
    pub private: PrivateKey,
    /// That of `KID.crt`.
    given: Option<Certificate>,
}

impl Keyset {
    /// The position of the key that signs now: the one with the latest `sign_from` that has passed. `None`
    /// while all are pending.
    pub fn signing(&self, now: UnixTime) -> Option<usize> {
        self.keys.iter().rposition(|key| key.life.state(now) == State::Signing)
    }

    /// The keys that verifiers must know now.
    pub fn published(&self, now: UnixTime) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.life.state(now) != State::Gone)
    }

    /// When what is published, or its certificates, next become different.
    pub fn next_change(&self, now: UnixTime) -> UnixTime {
        let keys = self.keys.iter().filter_map(|key| key.life.next_change(now));
        let given = self.keys.iter().filter_map(|key| key.given.as_ref()?.next_change(now));
        keys.chain(given).chain([next_derivation(now)]).min().unwrap_or(now)
    }
}

impl Key {
    /// The certificate to publish: the given one while Salesforce would take it, else one derived from the key.
    pub fn certificate(&self, now: UnixTime) -> Certificate {
        match self.given_serving(now) {
            Some(given) => given.clone(),
            None => Certificate::derive(&self.kid, &self.private, now),
        }
    }

    /// When that certificate expires.
    pub fn certificate_not_after(&self, now: UnixTime) -> UnixTime {
        self.given_serving(now).map_or_else(|| derived_not_after(now), |given| given.not_after)
    }

    /// That of `KID.crt`, whether Salesforce would take it or not.
    pub const fn given(&self) -> Option<&Certificate> {
        self.given.as_ref()
    }

    fn given_serving(&self, now: UnixTime) -> Option<&Certificate> {
        self.given.as_ref().filter(|given| given.serves(now))
    }
}

impl KeyRing {
    /// Opens and checks the keys of all keysets.
    ///
    /// # Errors
    /// All that is wrong with any of them, each with its file.
    pub fn load(keysets: &BTreeMap<Name, config::Keyset>, now: UnixTime) -> Result<Self, Vec<Problem>> {
        let mut loader = Loader { now, problems: Vec::new(), warnings: Vec::new() };
        let sets: Vec<Arc<Keyset>> =
            keysets.values().filter_map(|keyset| loader.keyset(keyset)).map(Arc::new).collect();
        loader.distinct_kids(&sets);
        loader.one_door_per_key(&sets);
        if loader.problems.is_empty() {
            let keysets = sets.into_iter().map(|keyset| (keyset.name.clone(), keyset)).collect();
            Ok(Self { keysets, warnings: loader.warnings })
        } else {
            Err(loader.problems)
        }
    }

    /// The key of that id, and its keyset.
    pub fn find(&self, kid: &str) -> Option<(&Keyset, &Key)> {
        self.keysets
            .values()
            .flat_map(|keyset| keyset.keys.iter().map(move |key| (keyset.as_ref(), key)))
            .find(|(_, key)| key.kid.as_str() == kid)
    }
}

struct Loader {
    now: UnixTime,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// A key as it was found, before the schedule gave it a place.
struct Found {
    private: PrivateKey,
    given: Option<Certificate>,
}

impl Loader {
    fn keyset(&mut self, keyset: &config::Keyset) -> Option<Keyset> {
        let field = format!("keysets.{}", keyset.name);
        let (mut found, entries) = match &keyset.keys {
            KeySource::Text { kid, pem, origin } => {
                let private = PrivateKey::parse_pasted(pem, keyset.passphrase.as_ref());
                let private = self.noted(&format!("{field}.key"), origin, private)?;
                sole(kid, Found { private, given: None })
            }
            KeySource::File { kid, path } => {
                let private = self.key_file(&field, path, keyset)?;
                sole(kid, Found { private, given: None })
            }
            KeySource::Directory(directory) => self.directory(&field, directory, keyset)?,
        };
        let lives = lives(&entries, keyset.longest_life);
        let keys: Vec<Key> = entries
            .into_iter()
            .zip(lives)
            .filter_map(|(entry, life)| {
                let Found { private, given } = found.remove(&entry.kid)?;
                Some(Key { kid: entry.kid, life, private, given })
            })
            .collect();
        let keyset = Keyset {
            name: keyset.name.clone(),
            algorithm: keyset.algorithm,
            keys,
            used_by: keyset.used_by.clone(),
        };
        if keyset.signing(self.now).is_none() {
            let first = keyset.keys.iter().filter_map(|key| key.life.signs_from).min();
            let when = first.map(|first| format!(" until {first}")).unwrap_or_default();
            self.warnings.push(Problem::new(field, SCHEDULE_FILE, format!("no key signs{when}")));
        }
        Some(keyset)
    }

    /// Notes why there is none.
    fn noted<T, E: ToString>(&mut self, field: &str, source: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problems.push(Problem::new(field, source, error.to_string()))).ok()
    }

    fn key_file(&mut self, field: &str, path: &Path, keyset: &config::Keyset) -> Option<PrivateKey> {
        let source = path.display().to_string();
        let text = self.noted(field, &source, file::read_private(path))?;
        self.noted(field, &source, PrivateKey::parse(&text, keyset.passphrase.as_ref()))
    }

    fn directory(
        &mut self,
        field: &str,
        directory: &Path,
        keyset: &config::Keyset,
    ) -> Option<(BTreeMap<KeyId, Found>, Vec<Entry>)> {
        let source = directory.display().to_string();
        let contents = self.noted(field, &source, Contents::of(directory, &keyset.name))?;
        for (path, message) in &contents.misnamed {
            self.problems.push(Problem::new(field, path.display(), message));
        }
        for path in &contents.ignored {
            let message = "is ignored: keys are named KID.key, their certificates KID.crt";
            self.warnings.push(Problem::new(field, path.display(), message));
        }
        if contents.keys.is_empty() && contents.misnamed.is_empty() {
            let message = format!(
                "holds no key: put KID.key there, or `tokenmint keys new KID --keyset {}`",
                keyset.name
            );
            self.problems.push(Problem::new(field, &source, message));
            return None;
        }
        let schedule = self.schedule(field, directory, &contents);
        let mut found = BTreeMap::new();
        for (kid, path) in &contents.keys {
            let Some(private) = self.key_file(field, path, keyset) else { continue };
            let given = self.certificate_file(field, &beside(path, kid), &private.public);
            found.insert(kid.clone(), Found { private, given });
        }
        let schedule = schedule?;
        for entry in &schedule {
            if !contents.keys.contains_key(&entry.kid) {
                let message = format!("lists `{}`, but there is no {}.key beside it", entry.kid, entry.kid);
                self.problems.push(Problem::new(field, directory.join(SCHEDULE_FILE).display(), message));
            }
        }
        for kid in contents.keys.keys().filter(|kid| !schedule.iter().any(|entry| entry.kid == **kid)) {
            let message = format!("doesn't list `{kid}`, so that key neither signs nor is published");
            self.warnings.push(Problem::new(field, directory.join(SCHEDULE_FILE).display(), message));
        }
        Some((found, schedule))
    }

    fn schedule(&mut self, field: &str, directory: &Path, contents: &Contents) -> Option<Vec<Entry>> {
        let path = directory.join(SCHEDULE_FILE);
        if !contents.has_schedule {
            let mut kids = contents.keys.keys();
            return match (kids.next(), kids.next()) {
                (Some(kid), None) => Some(vec![Entry { kid: kid.clone(), sign_from: None }]),
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
        let text = self.noted(field, &path.display().to_string(), file::read_public(&path))?;
        match schedule::parse(&path.display().to_string(), &text) {
            Ok(entries) => Some(entries),
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
        if !path.exists() {
            return None;
        }
        let source = path.display().to_string();
        let text = self.noted(field, &source, file::read_public(path))?;
        let certificate = self.noted(field, &source, Certificate::parse(&text, key))?;
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
        self.warnings.extend(warning.map(|message| Problem::new(field, source, message)));
        Some(certificate)
    }

    fn distinct_kids(&mut self, keysets: &[Arc<Keyset>]) {
        let mut owners: BTreeMap<&KeyId, &Name> = BTreeMap::new();
        for keyset in keysets {
            for key in &keyset.keys {
                if let Some(other) = owners.insert(&key.kid, &keyset.name) {
                    let message = format!(
                        "its key id `{}` is also in keyset `{other}`; key ids are unique across the service",
                        key.kid
                    );
                    self.problems.push(Problem::new(format!("keysets.{}", keyset.name), "keys", message));
                }
            }
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
                    self.warnings.push(Problem::new(format!("keysets.{}", identity.name), "keys", message));
                }
            }
        }
    }
}

fn sole(kid: &KeyId, found: Found) -> (BTreeMap<KeyId, Found>, Vec<Entry>) {
    let entries = vec![Entry { kid: kid.clone(), sign_from: None }];
    (BTreeMap::from([(kid.clone(), found)]), entries)
}

/// What lies in a key directory.
struct Contents {
    keys: BTreeMap<KeyId, PathBuf>,
    has_schedule: bool,
    misnamed: Vec<(PathBuf, String)>,
    ignored: Vec<PathBuf>,
}

impl Contents {
    fn of(directory: &Path, keyset: &Name) -> Result<Self, String> {
        let hint = format!("`tokenmint keys new KID --keyset {keyset}` makes it");
        let listing = fs::read_dir(directory).map_err(|error| format!("can't be listed: {error}; {hint}"))?;
        let mut contents =
            Self { keys: BTreeMap::new(), has_schedule: false, misnamed: Vec::new(), ignored: Vec::new() };
        for item in listing {
            let path = item.map_err(|error| format!("can't be listed: {error}"))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if let Some(kid) = name.strip_suffix(".key").filter(|_| !name.starts_with('.')) {
                match KeyId::parse(kid) {
                    Ok(kid) => _ = contents.keys.insert(kid, path),
                    Err(message) => contents.misnamed.push((path, message)),
                }
            } else if name == SCHEDULE_FILE {
                contents.has_schedule = true;
            } else if name.ends_with(".pem") || name.ends_with(".p12") || name.ends_with(".pfx") {
                contents.ignored.push(path);
            }
        }
        Ok(contents)
    }
}

/// The certificate beside a key. Not `with_extension`, which would cut a key id at its last dot.
fn beside(key: &Path, kid: &KeyId) -> PathBuf {
    key.with_file_name(format!("{kid}.crt"))
}
