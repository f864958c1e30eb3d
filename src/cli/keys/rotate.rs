//! `tokenmint keys rotate`: the next key of a keyset, published now and signing later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{
    Context, Failure, KeyPair, Made, check_free, choose, is_taken, parse_kid, wait_for_service,
    warn_of_plain_text,
};
use crate::cli::ask::RunningService;
use crate::cli::{say, say_json};
use crate::clock::UnixTime;
use crate::config::{KeyId, Keyset, Name, Problem};
use crate::doctor::relative_date;
use crate::keys::rotation::{NoRotation, next_kid};
use crate::keys::{Change, DirectoryError, Entry, KeyDirectory, Life, Rules, Schedule, rules};

/// Make the next key of a keyset: published now, signing once verifiers know it
///
/// Writes the key, its certificate and JWK, and its entry in keyset.toml; a running service takes them over by itself, and
/// the command waits until it has. Ends with 1 where it refuses them, or where another key is on its way already.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys rotate --plan")]
pub(in crate::cli) struct Rotate {
    /// The keyset [default: the only one with a directory]
    #[arg(long, value_name = "NAME")]
    keyset: Option<String>,
    /// The new key's id [default: the last one's, counted on; where it has no number, the RFC 7638 thumbprint]
    #[arg(long, value_parser = parse_kid)]
    kid: Option<KeyId>,
    /// When it starts to sign, as 2026-12-01T00:00:00Z [default: `publish_lead` from now]
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    sign_from: Option<UnixTime>,
    /// Let it sign at once, or at --sign-from, though verifiers may not know it yet
    #[arg(long)]
    emergency: bool,
    /// Length of the modulus
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(2048..=8192))]
    bits: u64,
    /// Print dates and effects, and write nothing
    #[arg(long)]
    plan: bool,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

fn parse_date(text: &str) -> Result<UnixTime, String> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339);
    parsed
        .map(UnixTime::from)
        .map_err(|_| "must be a date with time and zone, as 2026-12-01T00:00:00Z".to_owned())
}

/// Something that happens.
#[derive(Serialize)]
struct Step {
    at: UnixTime,
    effect: String,
}

#[derive(Serialize)]
struct Rotation<'a> {
    keyset: &'a str,
    kid: Option<&'a KeyId>,
    sign_from: Option<UnixTime>,
    emergency: bool,
    steps: &'a [Step],
    files: Option<&'a Made>,
    schedule: PathBuf,
}

impl Rotate {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let keysets = context.keysets()?;
        let (keyset, directory_path) = choose(&keysets, self.keyset.as_deref(), context)?;
        let rules = rules(keyset);
        if self.plan {
            let now = context.ambient.clock.now();
            let directory = KeyDirectory::lock(directory_path).map_err(|error| refused(keyset, error))?;
            let schedule =
                directory.schedule(rules.publish_lead, now).map_err(|error| refused(keyset, error))?;
            let before = schedule.schedule().map_err(Failure::of_files)?;
            let kid = self.kid_after(&before, directory_path, &keysets)?;
            let entry =
                self.entry(&rules, &before, kid.clone().unwrap_or_else(|| stand_in(&before)), now, keyset)?;
            let after = before.after(&Change::Add(entry.clone()));
            let steps = steps(&rules, &after, &entry, now);
            self.report(keyset, schedule.path(), kid.as_ref(), &entry, &steps, None, now);
            return Ok(());
        }
        // Refused before seconds are spent on a key, and decided again once the directory is locked.
        {
            let now = context.ambient.clock.now();
            let directory = KeyDirectory::lock(directory_path).map_err(|error| refused(keyset, error))?;
            let schedule =
                directory.schedule(rules.publish_lead, now).map_err(|error| refused(keyset, error))?;
            let before = schedule.schedule().map_err(Failure::of_files)?;
            let named =
                self.kid_after(&before, directory_path, &keysets)?.unwrap_or_else(|| stand_in(&before));
            self.entry(&rules, &before, named, now, keyset)?;
        }
        let bits = usize::try_from(self.bits).map_err(Failure::failed)?;
        let pair = KeyPair::generate(bits, context)?;

        let now = context.ambient.clock.now();
        let locked = KeyDirectory::lock(directory_path).map_err(|error| refused(keyset, error))?;
        let mut schedule =
            locked.schedule(rules.publish_lead, now).map_err(|error| refused(keyset, error))?;
        let before = schedule.schedule().map_err(Failure::of_files)?;
        let kid = self.kid_after(&before, directory_path, &keysets)?.map_or_else(|| pair.thumbprint(), Ok)?;
        let entry = self.entry(&rules, &before, kid.clone(), now, keyset)?;
        // A second key beside a first that nothing says the turn of would be refused: its turn is written first.
        schedule.write_down()?;
        let made = pair.write(&locked, &kid, keyset.algorithm, now)?;
        let after = match schedule.apply(&[Change::Add(entry.clone())]) {
            Ok(after) => after,
            Err(error) => {
                made.remove_unless_listed(&error);
                return Err(error.into());
            }
        };
        let path = schedule.path().to_path_buf();
        drop(locked);
        let steps = steps(&rules, &after, &entry, now);
        self.report(keyset, &path, Some(&kid), &entry, &steps, Some(&made), now);
        warn_of_plain_text(Some(keyset), &made);

        let service = RunningService::find(context, &[directory_path.to_path_buf()])?;
        let signs_now = entry.sign_from.is_some_and(|from| from <= now);
        let taken = wait_for_service(&service, |status| {
            let seen = status.keysets.get(keyset.name.as_str());
            let publishes = seen.is_some_and(|seen| seen.published.iter().any(|known| known == kid.as_str()));
            let signing = seen.and_then(|seen| seen.signing.as_deref());
            match signing {
                _ if !publishes => Some(format!("doesn't publish `{kid}`")),
                Some(other) if signs_now && other != kid.as_str() => {
                    Some(format!("publishes `{kid}`, but `{other}` signs"))
                }
                None if signs_now => Some(format!("publishes `{kid}`, but no key signs")),
                _ => None,
            }
        })?;
        if !self.json {
            say(&if taken {
                format!("The service at {} publishes {kid}.", service.address())
            } else {
                format!("No service runs at {}: nothing has taken this over yet.", service.address())
            });
        }
        Ok(())
    }

    /// The id that the next key gets; `None` where it is the key's thumbprint.
    fn kid_after(
        &self,
        schedule: &Schedule,
        directory: &Path,
        keysets: &BTreeMap<Name, Keyset>,
    ) -> Result<Option<KeyId>, Failure> {
        let is_free = |kid: &KeyId| schedule.entry(kid).is_none() && !is_taken(kid, directory, keysets);
        let Some(kid) = &self.kid else {
            let last = schedule.entries.last();
            return Ok(
                last.and_then(|last| std::iter::successors(next_kid(&last.kid), next_kid).find(is_free))
            );
        };
        check_free(directory, kid)?;
        if is_free(kid) {
            return Ok(Some(kid.clone()));
        }
        Err(Failure::Failed(format!("a keyset has `{kid}` already: a key id stays with its key")))
    }

    fn entry(
        &self,
        rules: &Rules,
        schedule: &Schedule,
        kid: KeyId,
        now: UnixTime,
        keyset: &Keyset,
    ) -> Result<Entry, Failure> {
        let entry = rules.next(schedule, kid, self.sign_from, self.emergency, now);
        entry.map_err(|reason| {
            let message = format!("keysets.{}: {reason}", keyset.name);
            match reason {
                NoRotation::TooSoon { .. } | NoRotation::Past { .. } => Failure::Usage(message),
                NoRotation::UnderWay { .. } | NoRotation::Taken(_) => Failure::Failed(message),
            }
        })
    }

    #[expect(clippy::too_many_arguments, reason = "all that a rotation is, printed in two forms")]
    fn report(
        &self,
        keyset: &Keyset,
        schedule: &Path,
        kid: Option<&KeyId>,
        entry: &Entry,
        steps: &[Step],
        files: Option<&Made>,
        now: UnixTime,
    ) {
        if self.json {
            say_json(&Rotation {
                keyset: keyset.name.as_str(),
                kid,
                sign_from: entry.sign_from,
                emergency: entry.emergency,
                steps,
                files,
                schedule: schedule.to_path_buf(),
            });
            return;
        }
        if let Some(made) = files {
            made.announce();
        }
        for Step { at, effect } in steps {
            say(&format!("{}  {effect}", relative_date(*at, now)));
        }
        let written = if self.plan { "would be written" } else { "says so" };
        say(&format!("{} {written}; a running service takes it over by itself.", schedule.display()));
    }
}

/// A folder that `serve` would not load either is bad configuration.
fn refused(keyset: &Keyset, error: DirectoryError) -> Failure {
    match error {
        DirectoryError::NoDirectory(_) | DirectoryError::Unclear { .. } => {
            let field = format!("keysets.{}.directory", keyset.name);
            Failure::of_files(vec![Problem::new(field, "the configuration", error.to_string())])
        }
        other => other.into(),
    }
}

/// An id that no key has, in the place of a thumbprint, which is known once there is a key.
fn stand_in(schedule: &Schedule) -> KeyId {
    let first = KeyId::parse("NEW0").expect("four letters are an id");
    std::iter::successors(Some(first), next_kid)
        .find(|kid| schedule.entry(kid).is_none())
        .expect("there are more ids than keys")
}

/// What the rotation does, in order of time.
fn steps(rules: &Rules, schedule: &Schedule, entry: &Entry, now: UnixTime) -> Vec<Step> {
    let lives = rules.lives(&schedule.entries, now);
    let keys: Vec<(&KeyId, Life)> = schedule.entries.iter().map(|entry| &entry.kid).zip(lives).collect();
    let kid = &entry.kid;
    let mut steps = vec![Step {
        at: now,
        effect: format!(
            "{kid} is published. Where Setup has the keys themselves (type Keys), upload {kid}.jwk and add it to the \
             keyset now"
        ),
    }];
    let signs_from = entry.sign_from.unwrap_or(now);
    let before =
        keys.iter().find(|(_, life)| life.turns.last().is_some_and(|turn| turn.until == Some(signs_from)));
    let before_kid = before.map(|(kid, _)| kid.as_str()).unwrap_or_default();
    let mut effect = match before {
        Some(_) => format!("{kid} signs in place of {before_kid}, which stays published"),
        None => format!("{kid} signs"),
    };
    if entry.emergency {
        effect.push_str(
            ". Verifiers that keep a JWKS may not know it yet: their chats are guests' until they fetch",
        );
    }
    steps.push(Step { at: signs_from, effect });
    if let Some(gone) = before.and_then(|(_, life)| life.published_until) {
        steps.push(Step {
            at: gone,
            effect: format!("{before_kid} is gone; then remove its files and its entry"),
        });
    }
    steps
}
