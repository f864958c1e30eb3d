//! Key folders for `keys retire`: finds copies of a key, writes retirements and creates replacement keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CliContext, CliError, KeyFiles, NewKey, is_kid_taken};
use crate::cli::{FILE_TIMEOUT, print_stderr, run_with_timeout};
use crate::clock::UnixTime;
use crate::config::{
    DEFAULT_PUBLISH_LEAD, DEFAULT_RETIRE_MARGIN, KeyId, KeysetConfig, KeysetSource, Name, Problem,
};
use crate::files::is_same_file;
use crate::keys::rotation::{Successor, next_kid};
use crate::keys::{
    self, DirectoryError, KeyDirectory, ModulusHash, RotationRules, SCHEDULE_FILE, Schedule, ScheduleChange,
    ScheduleEntry, ScheduleFile, holds_kid, key_file, modulus_hash_in, modulus_hash_of_file, parse_schedule,
    rotation_rules,
};

/// A folder with the key to retire.
pub(crate) struct KeyFolder {
    /// `None` if the folder was named on the command line and no keyset uses it.
    pub(crate) keyset: Option<KeysetConfig>,
    pub(crate) directory: PathBuf,
    /// The ids of the key in this folder: usually one, more for copies.
    pub(crate) kids: Vec<KeyId>,
}

impl KeyFolder {
    pub(crate) fn rules(&self) -> RotationRules {
        let by_hand = RotationRules {
            publish_lead: DEFAULT_PUBLISH_LEAD,
            longest_life: Duration::from_hours(1),
            retire_margin: DEFAULT_RETIRE_MARGIN,
        };
        self.keyset.as_ref().map_or(by_hand, rotation_rules)
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.keyset.as_ref().map(|keyset| keyset.name.as_str())
    }

    pub(crate) fn schedule(&self) -> PathBuf {
        self.directory.join(SCHEDULE_FILE)
    }

    /// Returns the key that signs at `now` according to the files.
    pub(crate) fn signing(&self, now: UnixTime) -> Option<KeyId> {
        let (path, rules) = (self.schedule(), self.rules());
        let text = key_file::read_schedule_unchecked(&path).ok()??;
        let schedule = parse_schedule(&path.display().to_string(), &text, rules.publish_lead).ok()?;
        rules.signing_kid(&schedule, now).cloned()
    }

    /// Writes the retirements. If `keyset.toml` has other errors, only the retirements are written, and the result
    /// contains the errors.
    ///
    /// # Errors
    /// A retirement isn't written, unless [`DirectoryError::is_written`] is true.
    pub(crate) fn retire_keys(&self, now: UnixTime) -> Result<RetirementResult, DirectoryError> {
        let directory = KeyDirectory::lock_for_retirement(&self.directory)?;
        if directory.is_locked_by_another() {
            let folder = self.directory.display();
            print_stderr(&format!(
                "warning: another process has locked {folder}, and the retirement doesn't wait for it; `fuser -v \
                 {folder}` names the process"
            ));
        }
        let mut written =
            RetirementResult { successor: Ok(Successor::Nobody), schedule: Schedule::default(), made: None };
        for kid in &self.kids {
            (written.schedule, written.successor) = self.retire_key(&directory, kid, now)?;
        }
        Ok(written)
    }

    /// Writes the retirement of one key. Returns the schedule after it, and the key that signs then or the reason why
    /// that is unknown.
    fn retire_key(
        &self,
        directory: &KeyDirectory,
        kid: &KeyId,
        now: UnixTime,
    ) -> Result<(Schedule, Result<Successor, CliError>), DirectoryError> {
        let rules = self.rules();
        let reason = match directory.schedule(rules.publish_lead, now) {
            Ok(mut file) => match retire_in_file(&mut file, &rules, kid, now) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if reason.is_written() {
            return Err(reason);
        }
        directory.append_retirement(kid, now)?;
        let path = self.schedule().display().to_string();
        let appended = format!(
            "its last [[key]] retires `{kid}`: keep that `retired` when you fix or restore the file, then run the command \
             again"
        );
        let mut problems = match reason {
            DirectoryError::Schedule(problems) => problems,
            DirectoryError::File { reason, .. } => vec![Problem::new("", &path, reason)],
            other => vec![Problem::new("", &path, other.to_string())],
        };
        problems.push(Problem::new("", path, appended));
        Ok((Schedule::default(), Err(CliError::invalid_config(problems))))
    }
}

/// Edits `keyset.toml`: retires `kid`, and lets its successor sign.
///
/// # Errors
/// The file can't be written, or can't be edited as it is.
fn retire_in_file(
    file: &mut ScheduleFile<'_>,
    rules: &RotationRules,
    kid: &KeyId,
    now: UnixTime,
) -> Result<(Schedule, Result<Successor, CliError>), DirectoryError> {
    let mut schedule = match file.schedule() {
        Ok(schedule) => schedule,
        Err(problems) => {
            match file.mark_retired(kid, now) {
                // The file doesn't list the key.
                Err(DirectoryError::NotEdited { .. }) => return Err(DirectoryError::Schedule(problems)),
                other => other?,
            }
            match file.schedule() {
                // The only problem was that an earlier run had appended an entry.
                Ok(schedule) => schedule,
                Err(problems) => {
                    return Ok((Schedule::default(), Err(CliError::invalid_config(problems))));
                }
            }
        }
    };
    let mut changes = Vec::new();
    if schedule.entry(kid).is_none() {
        let entry = ScheduleEntry::without_dates(kid.clone());
        let listed = ScheduleChange::Add(ScheduleEntry { retired: Some(now), ..entry });
        schedule = schedule.with_change(&listed);
        changes.push(listed);
    }
    let (planned, successor) = rules.plan_retirement(&schedule, kid, now);
    changes.extend(planned);
    Ok((file.apply(&changes)?, Ok(successor)))
}

/// The result of retiring keys in one folder.
pub(crate) struct RetirementResult {
    /// The key that signs now, or the other errors of the schedule.
    pub(crate) successor: Result<Successor, CliError>,
    pub(crate) schedule: Schedule,
    /// The replacement key, if there was no other key.
    pub(crate) made: Option<KeyFiles>,
}

impl RetirementResult {
    pub(crate) fn signing_kid(&self) -> Option<&KeyId> {
        match &self.successor {
            Ok(Successor::Same(kid) | Successor::Former(kid) | Successor::Pending(kid)) => Some(kid),
            Ok(Successor::New) => self.made.as_ref().map(|made| &made.kid),
            Ok(Successor::Nobody) | Err(_) => None,
        }
    }

    pub(crate) fn signing_summary(&self, is_confirmed: bool) -> String {
        let how = match &self.successor {
            Ok(Successor::Same(_)) => "signs, as before",
            Ok(Successor::Former(_)) => "signs again; verifiers that have fetched it know it",
            Ok(Successor::Pending(_)) => {
                "signs from now on, before its date; verifiers that have fetched it know it"
            }
            Ok(Successor::New) if self.made.is_none() => {
                return "No key signs: the replacement could not be made.".to_owned();
            }
            Ok(Successor::New) => {
                "was created and signs from now on; chats are anonymous until verifiers fetch it, and logins fail \
                 until its certificate is in the app"
            }
            Ok(Successor::Nobody) => return "No key signs: `tokenmint keys list` says why.".to_owned(),
            Err(_) => {
                return "Which key signs now is unknown; perhaps none. Fix what is said below, then run the command \
                        again."
                    .to_owned();
            }
        };
        let who = self.signing_kid().map_or_else(String::new, |kid| format!("{kid} "));
        if is_confirmed { format!("{who}{how}.") } else { format!("According to the files, {who}{how}.") }
    }
}

/// Finds the folders with the same key under other ids. The second value has a message for each copy that can't be retired (a key
/// given as file or text), and for each keyset that can't be searched. Both are empty, with a warning, if the key can't be read.
pub(crate) fn find_copies(
    kid: &KeyId,
    folders: &[KeyFolder],
    keysets: &BTreeMap<Name, KeysetConfig>,
) -> (Vec<KeyFolder>, Vec<String>) {
    let key = |folder: &KeyFolder| {
        let passphrase = folder.keyset.as_ref().and_then(|keyset| keyset.passphrase.as_ref());
        modulus_hash_in(&folder.directory, kid, passphrase)
    };
    let (mut copies, mut failures) = (Vec::<KeyFolder>::new(), Vec::new());
    let Some(material) = folders.iter().find_map(key) else {
        print_stderr(&format!(
            "warning: other ids with the same key can't be found, because neither {kid}.key nor {kid}.crt can be read in {}",
            folders[0].directory.display()
        ));
        return (copies, failures);
    };
    for keyset in keysets.values() {
        let (wanted, other) = (kid.clone(), keyset.clone());
        let Some(found) = run_with_timeout(FILE_TIMEOUT, move || copies_in_keyset(&other, &wanted, material))
        else {
            failures.push(format!(
                "keysets.{} can't be searched for the same key: does a mount hang?",
                keyset.name
            ));
            continue;
        };
        match &keyset.keys {
            KeysetSource::Directory(directory) => {
                let directory = directory.as_path().to_path_buf();
                if !found.is_empty() && !copies.iter().any(|copy| is_same_file(&copy.directory, &directory)) {
                    copies.push(KeyFolder { keyset: Some(keyset.clone()), directory, kids: found });
                }
            }
            KeysetSource::File { .. } | KeysetSource::Text { .. } => failures.extend(found.iter().map(|kid| {
                format!(
                    "`{kid}` of keysets.{} is the same key, given as file or text: replace it by a key with an id \
                    of its own before the next start",
                    keyset.name
                )
            })),
        }
    }
    (copies, failures)
}

/// Returns the ids under which `keyset` has the key with this `material`, in a directory except `kid`.
fn copies_in_keyset(keyset: &KeysetConfig, kid: &KeyId, material: ModulusHash) -> Vec<KeyId> {
    let passphrase = keyset.passphrase.as_ref();
    match &keyset.keys {
        KeysetSource::Directory(directory) => {
            let directory = directory.as_path();
            let is_it = |other: &KeyId| modulus_hash_in(directory, other, passphrase) == Some(material);
            keys::held_and_listed_kids(directory)
                .into_iter()
                .filter(|other| other != kid && is_it(other))
                .collect()
        }
        KeysetSource::File { kid, path }
            if modulus_hash_of_file(path.as_path(), passphrase) == Some(material) =>
        {
            vec![kid.clone()]
        }
        KeysetSource::Text { kid, pem, .. }
            if keys::modulus_hash_of_pem(pem, passphrase) == Some(material) =>
        {
            vec![kid.clone()]
        }
        KeysetSource::File { .. } | KeysetSource::Text { .. } => Vec::new(),
    }
}

/// Whether `directory` has the key, whatever its `keyset.toml` holds.
pub(crate) fn is_in_folder(kid: &KeyId, directory: &Path) -> Result<bool, CliError> {
    let (kid, path) = (kid.clone(), directory.to_path_buf());
    match run_with_timeout(FILE_TIMEOUT, move || holds_kid(&path, &kid)) {
        Some(held) => Ok(held?),
        None => Err(CliError::Failed(format!("{} doesn't answer: does a mount hang?", directory.display()))),
    }
}

/// Returns the ids of the keys that `directory` contains or lists; none if it doesn't answer.
pub(crate) fn kids_in(directory: &Path) -> BTreeSet<KeyId> {
    let path = directory.to_path_buf();
    run_with_timeout(FILE_TIMEOUT, move || keys::held_and_listed_kids(&path)).unwrap_or_default()
}

/// Creates a key that replaces the retired one and signs immediately.
///
/// # Errors
/// The key can't be generated or written.
pub(crate) fn create_replacement_key(
    folder: &KeyFolder,
    schedule: &Schedule,
    keysets: &BTreeMap<Name, KeysetConfig>,
    context: &CliContext<'_>,
) -> Result<KeyFiles, CliError> {
    let free = std::iter::successors(next_kid(&folder.kids[0]), next_kid)
        .find(|kid| schedule.entry(kid).is_none() && !is_kid_taken(kid, &folder.directory, keysets));
    let key = NewKey::make(folder.keyset.as_ref(), free.as_ref(), None, 2048, context)?;
    let kid = free.map_or_else(|| key.thumbprint(), Ok)?;
    let now = context.clock_and_rng.clock.now();
    let directory = KeyDirectory::lock_for_retirement(&folder.directory)?;
    let mut file = directory.schedule(folder.rules().publish_lead, now)?;
    let made = key.write(&directory, &kid, folder.keyset.as_ref(), context)?;
    let sign_from = Some(schedule.first_free_second(now));
    let entry = ScheduleEntry {
        sign_from,
        added: Some(now),
        emergency: true,
        remote: key.remote().cloned(),
        ..ScheduleEntry::without_dates(kid)
    };
    if let Err(error) = file.apply(&[ScheduleChange::Add(entry)]) {
        made.remove_unless_listed(&error);
        return Err(error.into());
    }
    Ok(made)
}
