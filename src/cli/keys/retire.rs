//! `tokenmint keys retire`: takes a key away at once, whatever that breaks. For a key that others may have.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Context, Failure, KeyPair, Made, is_taken, parse_kid, wait_for_service, warn_of_plain_text};
use crate::cli::ask::{KeysetStatus, RunningService, Seen, Status};
use crate::cli::{PATIENCE, complain, say, say_json, within};
use crate::clock::{Clock, UnixTime};
use crate::config::{Algorithm, KeyId, KeySource, Keyset, Name, PUBLISH_LEAD, RETIRE_MARGIN};
use crate::keys::rotation::{Successor, next_kid};
use crate::keys::{
    self, Change, Entry, KeyDirectory, Material, Rules, SCHEDULE_FILE, Schedule, file, kids_in, material_of,
    parse_schedule, rules,
};

/// How long the service may take to look at the files once more.
const NEXT_LOOK: Duration = Duration::from_secs(4);

/// Take a key out of signing and out of the JWKS at once: for a key that others may have
///
/// Tokens that it signed fail from then on. In a rotation a key retires by itself when its time has come. Needs nothing of
/// the configuration but where the key's folder is. Waits until the service that runs on this host has dropped the key, and
/// ends with 1 where it hasn't. Where the key is retired already, it does what is still to do: an earlier run may have been
/// interrupted.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys retire WebAppKey1 --now")]
pub(in crate::cli) struct Retire {
    /// The key's id
    #[arg(value_parser = parse_kid)]
    kid: KeyId,
    /// At once, knowing that tokens that it signed fail
    #[arg(long)]
    now: bool,
    /// The folder with the key, where the configuration can't be read
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Retired<'a> {
    keyset: Option<&'a str>,
    kid: &'a KeyId,
    signs_now: Option<&'a KeyId>,
    /// At most so many tokens may live that it signed, as the running service counts; `null` where it can't be asked.
    live_tokens: Option<u64>,
    files: Option<&'a Made>,
    /// Whether the service that runs on this host has dropped it; `false` where none runs.
    confirmed: bool,
    /// The same key under another id or in another folder, which is retired too.
    copies: Vec<RetiredCopy<'a>>,
}

#[derive(Serialize)]
struct RetiredCopy<'a> {
    keyset: Option<&'a str>,
    kid: &'a KeyId,
    signs_now: Option<&'a KeyId>,
    files: Option<&'a Made>,
}

/// A folder with the key.
struct Place {
    /// Without one, the folder was named by hand.
    keyset: Option<Keyset>,
    directory: PathBuf,
    /// The key's id, or those of its copies; mostly one.
    kids: Vec<KeyId>,
}

impl Place {
    fn rules(&self) -> Rules {
        let by_hand = Rules {
            publish_lead: PUBLISH_LEAD,
            longest_life: Duration::from_hours(1),
            retire_margin: RETIRE_MARGIN,
        };
        self.keyset.as_ref().map_or(by_hand, rules)
    }

    fn name(&self) -> Option<&str> {
        self.keyset.as_ref().map(|keyset| keyset.name.as_str())
    }

    fn schedule(&self) -> PathBuf {
        self.directory.join(SCHEDULE_FILE)
    }

    /// The key that signs at `now` by what the files say.
    fn signing(&self, now: UnixTime) -> Option<KeyId> {
        let (path, rules) = (self.schedule(), self.rules());
        let text = file::read_schedule_of_anyone(&path).ok()??;
        let schedule = parse_schedule(&path.display().to_string(), &text, rules.publish_lead).ok()?;
        rules.signing(&schedule, now).cloned()
    }

    /// Writes the retirements. Where something else is wrong with `keyset.toml`, just those; the error within says what.
    fn write(&self, context: &Context<'_>) -> Result<Written, Failure> {
        let now = context.ambient.clock.now();
        let rules = self.rules();
        let directory = KeyDirectory::lock(&self.directory)?;
        let mut written =
            Written { successor: Ok(Successor::Nobody), schedule: Schedule::default(), made: None };
        for kid in &self.kids {
            let mut file = directory.schedule(rules.publish_lead, now)?;
            match file.schedule() {
                Ok(schedule) => {
                    let (changes, successor) = rules.retire(&schedule, kid, now);
                    written.schedule = file.apply(&changes)?;
                    written.successor = Ok(successor);
                }
                Err(problems) => {
                    file.mark_retired(kid, now)?;
                    written.successor = Err(Failure::of_files(problems));
                }
            }
        }
        Ok(written)
    }
}

/// What was written in a place.
struct Written {
    /// Who signs now, or what else is wrong with the schedule.
    successor: Result<Successor, Failure>,
    schedule: Schedule,
    /// A key that was made because there is no other.
    made: Option<Made>,
}

impl Written {
    fn signs_now(&self) -> Option<&KeyId> {
        match &self.successor {
            Ok(Successor::Same(kid) | Successor::Former(kid) | Successor::Pending(kid)) => Some(kid),
            Ok(Successor::New) => self.made.as_ref().map(|made| &made.kid),
            Ok(Successor::Nobody) | Err(_) => None,
        }
    }

    fn says_who_signs(&self, is_confirmed: bool) -> String {
        let how = match &self.successor {
            Ok(Successor::Same(_)) => "signs, as before",
            Ok(Successor::Former(_)) => {
                "signs again, as it did before; verifiers that have fetched it since know it"
            }
            Ok(Successor::Pending(_)) => {
                "signs from now on, before its time; verifiers that have fetched it know it"
            }
            Ok(Successor::New) => {
                "was made and signs from now on; chats are anonymous until verifiers fetch it"
            }
            Ok(Successor::Nobody) | Err(_) => {
                return "No key signs: `tokenmint keys list` says why.".to_owned();
            }
        };
        let who = self.signs_now().map_or_else(String::new, |kid| format!("{kid} "));
        if is_confirmed { format!("{who}{how}.") } else { format!("As the files say, {who}{how}.") }
    }
}

impl Retire {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        if !self.now {
            let reason = "after a rotation a key retires by itself when its tokens are over; to take it away at once, and \
                          break them, say --now";
            return Err(Failure::Usage(reason.to_owned()));
        }
        let keysets = context.keysets();
        // Nothing that goes wrong on the way to the service may keep the key from being taken away.
        let service = RunningService::find(context, &self.folders(keysets.as_ref().ok())).ok();
        let service = service.as_ref();
        let seen = service.and_then(RunningService::seen);
        let was_used =
            service.and_then(|service| service.status().ok()).map(|status| is_used(&status, &self.kid));
        let mut places = self
            .find(keysets.as_ref())
            .map_err(|failure| self.with_hint(failure, service, was_used, context))?;
        let mut written = vec![places[0].write(context)?];
        // From here on the key is retired, and each failure says so.
        let (copies, mut failures) = self.copies(&places, &keysets.unwrap_or_default());
        for other in places.split_off(1).into_iter().chain(copies) {
            match (other.write(context), places.iter().position(|place| place.directory == other.directory)) {
                // Who signs there is reckoned anew.
                (Ok(done), Some(at)) => {
                    written[at] = done;
                    places[at].kids.extend(other.kids);
                }
                (Ok(done), None) => {
                    written.push(done);
                    places.push(other);
                }
                (Err(failure), _) => failures.push(format!(
                    "the same key in {} is not: {}",
                    other.directory.display(),
                    failure.reason()
                )),
            }
        }
        // The leaked key goes first: making another takes seconds.
        for (place, written) in places.iter().zip(&mut written) {
            if matches!(written.successor, Ok(Successor::New)) {
                match make_another(place, &written.schedule, context) {
                    Ok(made) => {
                        warn_of_plain_text(place.keyset.as_ref(), &made);
                        written.made = Some(made);
                    }
                    Err(failure) => failures.push(format!(
                        "there is no other key yet in {}; mend this, and run the command again: {}",
                        place.directory.display(),
                        failure.reason()
                    )),
                }
            }
        }
        let gone: Vec<&KeyId> = places.iter().flat_map(|place| &place.kids).collect();
        let dropped = Cell::new(false);
        let clock = &*context.ambient.clock;
        let written_at = clock.now().seconds();
        let confirmed =
            service.map_or(Ok(false), |service| confirm(service, &gone, &places, clock, &dropped));
        let in_service = match &confirmed {
            Ok(false) => {
                "No service that runs with these files is found on this host: one that reads this folder drops it \
                          within 5 seconds"
            }
            _ if !dropped.get() => "The service that runs here has not confirmed it",
            _ if was_used == Some(true) => "The service that runs here has dropped it",
            _ => "The service that runs here doesn't use it",
        };
        self.report(&places, &written, in_service, matches!(confirmed, Ok(true)), seen.as_ref());
        // All that was asked for is done; what else the service refuses would keep it from its next start.
        if let (Some(service), Ok(true)) = (service, &confirmed)
            && let Ok((true, status)) = service
                .wait(NEXT_LOOK, |status| status.reload.looked_at.is_some_and(|began| began > written_at))
            && !status.reload.in_force
        {
            complain(&format!(
                "warning: the service refuses something else in these files, and would not start with them: {}",
                status.reload.told()
            ));
        }
        for written in written {
            written.successor?;
        }
        if !failures.is_empty() {
            let place = places[0].directory.display();
            return Err(Failure::Failed(format!(
                "`{}` is retired in {place}, but {}",
                self.kid,
                failures.join("; ")
            )));
        }
        confirmed.map(|_| ())
    }

    /// The key folders of the configuration, and the one that was named.
    fn folders(&self, keysets: Option<&BTreeMap<Name, Keyset>>) -> Vec<PathBuf> {
        let configured =
            keysets.into_iter().flat_map(directories).map(|(_, directory)| directory.to_path_buf());
        configured.chain(self.directory.clone()).collect()
    }

    /// Of a key that the service uses and no file lists, what to do.
    fn with_hint(
        &self,
        failure: Failure,
        service: Option<&RunningService>,
        was_used: Option<bool>,
        context: &Context<'_>,
    ) -> Failure {
        match (failure, service) {
            (Failure::Failed(reason), Some(service)) if was_used == Some(true) => Failure::Failed(format!(
                "{reason}. The service at {} uses it: where it came from a folder, list it in the keyset.toml there, with kid = \
                 \"{}\" and retired = {}, and the service drops it",
                service.address(),
                self.kid,
                context.ambient.clock.now(),
            )),
            (failure, _) => failure,
        }
    }

    fn report(
        &self,
        places: &[Place],
        written: &[Written],
        in_service: &str,
        is_confirmed: bool,
        seen: Option<&Seen>,
    ) {
        let kid = &self.kid;
        let (place, done) = (&places[0], &written[0]);
        let live_tokens =
            place.keyset.as_ref().zip(seen).map(|(keyset, seen)| seen.live_tokens(&keyset.name, kid));
        let others = || {
            places.iter().zip(written).enumerate().flat_map(|(at, (place, written))| {
                // Of the first place all but the key itself.
                place
                    .kids
                    .iter()
                    .filter(move |other| at > 0 || *other != kid)
                    .map(move |kid| (place, written, kid))
            })
        };
        if self.json {
            let copies = others().map(|(place, written, kid)| RetiredCopy {
                keyset: place.name(),
                kid,
                signs_now: written.signs_now(),
                files: written.made.as_ref(),
            });
            say_json(&Retired {
                keyset: place.name(),
                kid,
                signs_now: done.signs_now(),
                live_tokens,
                files: done.made.as_ref(),
                confirmed: is_confirmed,
                copies: copies.collect(),
            });
            return;
        }
        say(&format!(
            "{kid} is retired in {}. {in_service}; bring the folder to every replica that has a copy of its own.",
            place.schedule().display(),
        ));
        say(&done.says_who_signs(is_confirmed));
        for (place, written, kid) in others() {
            say(&format!("{kid} in {} is the same key, and is retired too.", place.schedule().display()));
            say(&written.says_who_signs(is_confirmed));
        }
        say(&match live_tokens {
            Some(count) => format!(
                "At most {count} live tokens that it signed fail from now on, as the service that runs here counts; every \
                 other replica has its own."
            ),
            None => format!(
                "How many live tokens that hits can't be said without the configuration and a service that runs here. It is \
                 all that {kid} signed in the last {}.",
                humantime::format_duration(place.rules().longest_life)
            ),
        });
        say(&format!(
            "In Salesforce, where {kid} was uploaded, deactivate it: Setup > Enhanced Chat User Verification > Keys; for \
             OAuth replace the app's certificate: Setup > External Client App Manager."
        ));
    }

    /// The folders that have a key of that id: one, but for a mistake.
    fn find(&self, keysets: Result<&BTreeMap<Name, Keyset>, &Failure>) -> Result<Vec<Place>, Failure> {
        let kid = &self.kid;
        let kids = vec![kid.clone()];
        if let Some(directory) = &self.directory {
            if !is_listed(kid, directory)? {
                return Err(Failure::Failed(format!("{} has no key `{kid}`", directory.display())));
            }
            let is_it = |other: &&Path| {
                fs::canonicalize(other)
                    .ok()
                    .is_some_and(|other| fs::canonicalize(directory).ok() == Some(other))
            };
            let keyset =
                keysets.ok().and_then(|keysets| directories(keysets).find(|(_, other)| is_it(other)));
            let keyset = keyset.map(|(keyset, _)| keyset.clone());
            return Ok(vec![Place { keyset, directory: directory.clone(), kids }]);
        }
        let keysets = keysets.map_err(|failure| {
            Failure::Failed(format!(
                "nothing was changed, as the configuration can't be read ({}); name the key's folder: --directory DIR",
                failure.reason()
            ))
        })?;
        let (mut places, mut unread) = (Vec::<Place>::new(), Vec::new());
        for (keyset, directory) in directories(keysets) {
            match is_listed(kid, directory) {
                Ok(true) if places.iter().all(|place| place.directory != directory) => places.push(Place {
                    keyset: Some(keyset.clone()),
                    directory: directory.to_path_buf(),
                    kids: kids.clone(),
                }),
                Ok(_) => {}
                Err(error) => unread.push(error.reason()),
            }
        }
        if !places.is_empty() {
            return Ok(places);
        }
        let given = keysets.values().find(|keyset| match &keyset.keys {
            KeySource::File { kid: given, .. } | KeySource::Text { kid: given, .. } => given == kid,
            KeySource::Directory(_) => false,
        });
        Err(Failure::Failed(match given {
            Some(keyset) => format!(
                "nothing was changed: `{kid}` of keysets.{} is given as file or text. Put another key in its place, with an id of \
                 its own in `kid`, and restart the service",
                keyset.name
            ),
            None if unread.is_empty() => {
                format!("no keyset has a key `{kid}`; `tokenmint keys list` shows them all")
            }
            None => format!(
                "nothing was changed: no folder that can be read has a key `{kid}`; mend this first: {}",
                unread.join("; ")
            ),
        }))
    }

    /// The folders with the same key under other ids, and what is to be said of those that are no file in a folder.
    fn copies(&self, places: &[Place], keysets: &BTreeMap<Name, Keyset>) -> (Vec<Place>, Vec<String>) {
        let key = |place: &Place| {
            let passphrase = place.keyset.as_ref().and_then(|keyset| keyset.passphrase.as_ref());
            material_of(&place.directory.join(format!("{}.key", self.kid)), passphrase)
        };
        let (mut copies, mut failures) = (Vec::<Place>::new(), Vec::new());
        let Some(material) = places.iter().find_map(key) else {
            complain(&format!(
                "warning: whether other ids have the same key can't be said, as {}.key can't be read in {}",
                self.kid,
                places[0].directory.display()
            ));
            return (copies, failures);
        };
        for keyset in keysets.values() {
            let (wanted, other) = (self.kid.clone(), keyset.clone());
            let Some(found) = within(PATIENCE, move || copies_in(&other, &wanted, material)) else {
                failures.push(format!(
                    "whether keysets.{} has it too can't be said: does a mount hang?",
                    keyset.name
                ));
                continue;
            };
            match &keyset.keys {
                KeySource::Directory(directory) => {
                    let directory = directory.as_path().to_path_buf();
                    if !found.is_empty() && copies.iter().all(|copy| copy.directory != directory) {
                        copies.push(Place { keyset: Some(keyset.clone()), directory, kids: found });
                    }
                }
                KeySource::File { .. } | KeySource::Text { .. } => failures.extend(found.iter().map(|kid| {
                    format!(
                        "`{kid}` of keysets.{} is the same key, given as file or text: put another in its place, with an id of \
                         its own, before the next start",
                        keyset.name
                    )
                })),
            }
        }
        (copies, failures)
    }
}

/// The ids, but for `kid`, under which `keyset` uses the key that is `material`.
fn copies_in(keyset: &Keyset, kid: &KeyId, material: Material) -> Vec<KeyId> {
    let passphrase = keyset.passphrase.as_ref();
    let is_it = |path: &Path| material_of(path, passphrase) == Some(material);
    match &keyset.keys {
        KeySource::Directory(directory) => {
            let directory = directory.as_path();
            let mut kids = kids_in(directory).unwrap_or_default();
            kids.retain(|other| {
                other != kid
                    && is_it(&directory.join(format!("{other}.key")))
                    && is_listed(other, directory).unwrap_or(false)
            });
            kids
        }
        KeySource::File { kid, path } if is_it(path.as_path()) => vec![kid.clone()],
        KeySource::Text { kid, pem, .. }
            if keys::material(&keys::unfold(pem), passphrase) == Some(material) =>
        {
            vec![kid.clone()]
        }
        KeySource::File { .. } | KeySource::Text { .. } => Vec::new(),
    }
}

fn directories(keysets: &BTreeMap<Name, Keyset>) -> impl Iterator<Item = (&Keyset, &Path)> {
    keysets.values().filter_map(|keyset| match &keyset.keys {
        KeySource::Directory(directory) => Some((keyset, directory.as_path())),
        KeySource::File { .. } | KeySource::Text { .. } => None,
    })
}

/// Whether `directory` lists the key, whatever else is wrong there.
fn is_listed(kid: &KeyId, directory: &Path) -> Result<bool, Failure> {
    let (kid, path) = (kid.clone(), directory.to_path_buf());
    match within(PATIENCE, move || KeyDirectory::lock(&path)?.lists(&kid)) {
        Some(listed) => Ok(listed?),
        None => Err(Failure::Failed(format!("{} doesn't answer: does a mount hang?", directory.display()))),
    }
}

fn make_another(place: &Place, schedule: &Schedule, context: &Context<'_>) -> Result<Made, Failure> {
    let algorithm = place.keyset.as_ref().map_or(Algorithm::Rs256, |keyset| keyset.algorithm);
    let pair = KeyPair::generate(2048, context)?;
    let others = context.keysets().unwrap_or_default();
    let free = std::iter::successors(next_kid(&place.kids[0]), next_kid)
        .find(|kid| schedule.entry(kid).is_none() && !is_taken(kid, &place.directory, &others));
    let kid = free.map_or_else(|| pair.thumbprint(), Ok)?;
    let now = context.ambient.clock.now();
    let directory = KeyDirectory::lock(&place.directory)?;
    let mut file = directory.schedule(place.rules().publish_lead, now)?;
    let made = pair.write(&directory, &kid, algorithm, now)?;
    let sign_from = Some(schedule.free_moment(now));
    let entry = Entry { kid, sign_from, added: Some(now), emergency: true, retired: None };
    if let Err(error) = file.apply(&[Change::Add(entry)]) {
        made.remove_unless_listed(&error);
        return Err(error.into());
    }
    Ok(made)
}

fn is_used(status: &Status, kid: &KeyId) -> bool {
    let uses = |keyset: &KeysetStatus| {
        keyset.signing.as_deref() == Some(kid.as_str())
            || keyset.published.iter().any(|known| known == kid.as_str())
    };
    status.keysets.values().any(uses)
}

/// Waits until the service has dropped the keys, and those sign of which the files say so. Says of the first in `dropped`.
fn confirm(
    service: &RunningService,
    gone: &[&KeyId],
    places: &[Place],
    clock: &dyn Clock,
    dropped: &Cell<bool>,
) -> Result<bool, Failure> {
    let signs = |status: &Status, kid: &KeyId| {
        status.keysets.values().any(|keyset| keyset.signing.as_deref() == Some(kid.as_str()))
    };
    wait_for_service(service, |status| {
        let used = gone.iter().find(|kid| is_used(status, kid));
        dropped.set(used.is_none());
        if let Some(kid) = used {
            return Some(format!("still uses `{kid}`"));
        }
        // Read anew: another command may have written meanwhile.
        let soon = clock.now().plus(Duration::from_secs(1));
        let successors = places.iter().filter_map(|place| place.signing(soon));
        let silent = successors.into_iter().find(|kid| !signs(status, kid))?;
        Some(format!("has dropped `{}`, but `{silent}` doesn't sign in its place", gone[0]))
    })
}
