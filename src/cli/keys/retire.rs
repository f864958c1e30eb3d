//! `tokenmint keys retire`: takes a key away at once, whatever that breaks. For a key that others may have.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Context, Failure, KeyPair, Made, is_taken, parse_kid, wait_for_service};
use crate::cli::ask::{KeysetStatus, RunningService, Status};
use crate::cli::{say, say_json};
use crate::config::{Algorithm, KeyId, KeySource, Keyset, PUBLISH_LEAD, RETIRE_MARGIN};
use crate::keys::rotation::{Successor, next_kid};
use crate::keys::{Change, DirectoryError, Entry, KeyDirectory, Rules, SCHEDULE_FILE, Schedule, rules};

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
}

/// Where the key is.
struct Place {
    /// Without one, the folder was named by hand.
    keyset: Option<Keyset>,
    directory: PathBuf,
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
}

impl Retire {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        if !self.now {
            let reason = "after a rotation a key retires by itself when its tokens are over; to take it away at once, and \
                          break them, say --now";
            return Err(Failure::Usage(reason.to_owned()));
        }
        // Nothing that goes wrong on the way to the service may keep the key from being taken away.
        let service = context.ops_address().map(RunningService::at);
        let seen = service.as_ref().ok().and_then(RunningService::seen);
        let was_used = service
            .as_ref()
            .ok()
            .and_then(|service| service.status().ok())
            .map(|status| self.is_used(&status));
        let places = self.find(context).map_err(|failure| match (failure, &service) {
            (Failure::Failed(reason), Ok(service)) if was_used == Some(true) => Failure::Failed(format!(
                "{reason}. The service at {} uses it: list it in the keyset.toml of its folder, with kid = \"{}\" and \
                 retired = {}, and the service drops it",
                service.address(),
                self.kid,
                context.ambient.clock.now(),
            )),
            (failure, _) => failure,
        })?;
        let (place, others) = places.split_first().expect("find gives one, or an error");
        let live_tokens =
            place.keyset.as_ref().zip(seen).map(|(keyset, seen)| seen.live_tokens(&keyset.name, &self.kid));

        let (successor, schedule) = self.write(place, context)?;
        for other in others {
            self.write(other, context)?.0?;
        }
        // The leaked key goes first: making another takes seconds.
        let made = match &successor {
            Ok(Successor::New) => Some(
                self.make_another(place, &schedule, context)
                    .map_err(|failure| self.but_retired(place, failure))?,
            ),
            _ => None,
        };
        let signs_now = match &successor {
            Ok(Successor::Same(kid) | Successor::Former(kid) | Successor::Pending(kid)) => Some(kid),
            Ok(Successor::New) => made.as_ref().map(|made| &made.kid),
            Ok(Successor::Nobody) | Err(_) => None,
        };
        let dropped = Cell::new(false);
        let confirmed = service.and_then(|service| {
            let address = service.address();
            self.confirm(&service, signs_now, &dropped).map(|is_there| (is_there, address))
        });
        if self.json {
            let (keyset, kid, files) = (place.name(), &self.kid, made.as_ref());
            let confirmed = matches!(confirmed, Ok((true, _)));
            say_json(&Retired { keyset, kid, signs_now, live_tokens, files, confirmed });
        } else {
            let in_service = match &confirmed {
                Ok((false, address)) => format!(
                    "Nothing answers at {address} to confirm it; a service that reads this folder drops it within 5 seconds"
                ),
                Ok((true, _)) | Err(_) if !dropped.get() => {
                    "The service that runs here has not confirmed it".to_owned()
                }
                _ if was_used == Some(true) => "The service that runs here has dropped it".to_owned(),
                _ => "The service that runs here doesn't use it".to_owned(),
            };
            // Where the service refuses who should sign now, the error says so.
            let signs = confirmed.is_ok().then_some((&successor, signs_now));
            self.report(place, &in_service, signs, live_tokens);
        }
        successor?;
        confirmed.map(|_| ())
    }

    /// Writes the retirement. Where something else is wrong with `keyset.toml`, just that; the error says what.
    fn write(
        &self,
        place: &Place,
        context: &Context<'_>,
    ) -> Result<(Result<Successor, Failure>, Schedule), Failure> {
        let now = context.ambient.clock.now();
        let rules = place.rules();
        let directory = KeyDirectory::lock(&place.directory)?;
        let mut file = directory.schedule(rules.publish_lead, now)?;
        match file.schedule() {
            Ok(schedule) => {
                let (changes, successor) = rules.retire(&schedule, &self.kid, now);
                let schedule = file.apply(&changes)?;
                Ok((Ok(successor), schedule))
            }
            Err(problems) => {
                file.mark_retired(&self.kid, now)?;
                Ok((Err(Failure::of_files(problems)), Schedule::of_sole(self.kid.clone())))
            }
        }
    }

    fn make_another(
        &self,
        place: &Place,
        schedule: &Schedule,
        context: &Context<'_>,
    ) -> Result<Made, Failure> {
        let algorithm = place.keyset.as_ref().map_or(Algorithm::Rs256, |keyset| keyset.algorithm);
        let pair = KeyPair::generate(2048, context)?;
        let others = context.keysets().unwrap_or_default();
        let free = std::iter::successors(next_kid(&self.kid), next_kid)
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

    /// What a failure is told with that comes once the key is retired.
    fn but_retired(&self, place: &Place, failure: Failure) -> Failure {
        let retired = format!(
            "`{}` is retired in {}, but there is no other key yet; mend this, and run the command again",
            self.kid,
            place.directory.display()
        );
        match failure {
            Failure::Failed(reason) => Failure::Failed(format!("{retired}: {reason}")),
            other => other,
        }
    }

    fn is_used(&self, status: &Status) -> bool {
        let kid = self.kid.as_str();
        let uses = |keyset: &KeysetStatus| {
            keyset.signing.as_deref() == Some(kid) || keyset.published.iter().any(|known| known == kid)
        };
        status.keysets.values().any(uses)
    }

    /// Waits until the service has dropped the key, and the other signs. Says of the first in `dropped`.
    fn confirm(
        &self,
        service: &RunningService,
        signs_now: Option<&KeyId>,
        dropped: &Cell<bool>,
    ) -> Result<bool, Failure> {
        let kid = &self.kid;
        let signs = |status: &Status, kid: &KeyId| {
            status.keysets.values().any(|keyset| keyset.signing.as_deref() == Some(kid.as_str()))
        };
        wait_for_service(service, |status| {
            dropped.set(!self.is_used(status));
            match signs_now {
                _ if !dropped.get() => Some(format!("still uses `{kid}`")),
                Some(successor) if !signs(status, successor) => {
                    Some(format!("has dropped `{kid}`, but `{successor}` doesn't sign in its place"))
                }
                _ => None,
            }
        })
    }

    fn report(
        &self,
        place: &Place,
        in_service: &str,
        signs: Option<(&Result<Successor, Failure>, Option<&KeyId>)>,
        live_tokens: Option<u64>,
    ) {
        let kid = &self.kid;
        say(&format!(
            "{kid} is retired in {}. {in_service}; bring the folder to every replica that has a copy of its own.",
            place.directory.join(SCHEDULE_FILE).display(),
        ));
        if let Some((successor, signs_now)) = signs {
            let how = match successor {
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
                Ok(Successor::Nobody) | Err(_) => "No key signs: `tokenmint keys list` says why",
            };
            say(&signs_now.map_or_else(|| format!("{how}."), |kid| format!("{kid} {how}.")));
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

    /// The directories that have the key: one, but for a mistake or a copy.
    fn find(&self, context: &Context<'_>) -> Result<Vec<Place>, Failure> {
        let kid = &self.kid;
        if let Some(directory) = &self.directory {
            if !self.is_listed_in(directory)? {
                return Err(Failure::Failed(format!("{} has no key `{kid}`", directory.display())));
            }
            return Ok(vec![Place { keyset: None, directory: directory.clone() }]);
        }
        let keysets = context.keysets().map_err(|failure| match failure {
            Failure::Configuration { problems, .. } => {
                let problems = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                let hint = "name the key's folder: --directory DIR";
                Failure::Failed(format!(
                    "nothing was changed, as the configuration can't be read ({problems}); {hint}"
                ))
            }
            other => other,
        })?;
        let directories = keysets.values().filter_map(|keyset| match &keyset.keys {
            KeySource::Directory(directory) => Some((keyset, directory.as_path())),
            KeySource::File { .. } | KeySource::Text { .. } => None,
        });
        let (mut places, mut unread) = (Vec::<Place>::new(), Vec::new());
        for (keyset, directory) in directories {
            match self.is_listed_in(directory) {
                Ok(true) if places.iter().all(|place| place.directory != directory) => {
                    places.push(Place { keyset: Some(keyset.clone()), directory: directory.to_path_buf() });
                }
                Ok(_) => {}
                Err(error) => unread.push(error.to_string()),
            }
        }
        match (places.is_empty(), unread.is_empty()) {
            (false, _) => Ok(places),
            (true, true) => Err(Failure::Failed(format!(
                "no keyset with a directory has a key `{kid}`; `tokenmint keys list` shows them all. A key that is given as \
                 text or file is retired by giving another, and a restart"
            ))),
            (true, false) => Err(Failure::Failed(format!(
                "nothing was changed: no folder that can be read has a key `{kid}`; mend this first: {}",
                unread.join("; ")
            ))),
        }
    }

    /// Whether `directory` lists the key, whatever else is wrong there.
    fn is_listed_in(&self, directory: &Path) -> Result<bool, DirectoryError> {
        KeyDirectory::lock(directory)?.lists(&self.kid)
    }
}
