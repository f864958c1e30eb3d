//! `tokenmint keys rotate`: creates the next key of a keyset, published now and signing later, except in an emergency.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{
    CliContext, CliError, KeyFiles, KeysetUsage, NewKey, check_kid_unused, check_remote, is_kid_taken,
    parse_kid, parse_remote, select_keyset, wait_for_service, warn_unencrypted_key,
};
use crate::cli::admin_client::{AdminClient, NONE_VISIBLE};
use crate::cli::{print_json, print_line};
use crate::clock::UnixTime;
use crate::config::{KeyId, KeysetConfig, Name, Problem, RemoteKeyName};
use crate::doctor::relative_date;
use crate::keys::rotation::{RotationError, next_kid};
use crate::keys::{
    DirectoryError, KeyDirectory, KeyValidity, RotationRules, Schedule, ScheduleChange, ScheduleEntry,
    rotation_rules,
};

/// Make the next key of a keyset: published now, signing once verifiers know it
///
/// Writes the key, its certificate and JWK, and its entry in keyset.toml. In a keyset with `signed_by`, the store makes the key and
/// keeps it. A running service reloads them by itself,
/// and the command waits until it has. Exits with 1 if the service rejects them or, without --emergency, if another
/// key is already pending.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys rotate --plan")]
pub(in crate::cli) struct RotateKeyCommand {
    /// The keyset [default: the only one with a directory]
    #[arg(long, value_name = "NAME")]
    keyset: Option<String>,
    /// The new key's id [default: the last one's with its number increased; without a number, the RFC 7638
    /// thumbprint]
    #[arg(long, value_parser = parse_kid)]
    kid: Option<KeyId>,
    /// An existing key of the store that signs, for a keyset with `signed_by` [default: a new one, named as the key id]
    #[arg(long, value_name = "KEY", value_parser = parse_remote, conflicts_with = "bits")]
    remote_key: Option<RemoteKeyName>,
    /// When it starts to sign, for example 2026-12-01T00:00:00Z [default: `publish_lead` from now]
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    sign_from: Option<UnixTime>,
    /// Let it sign at once, or at --sign-from, though verifiers may not know it yet
    #[arg(long)]
    emergency: bool,
    /// Length of the modulus in bits
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(2048..=8192))]
    bits: u64,
    /// Print dates and effects, and write nothing
    #[arg(long)]
    pub(super) plan: bool,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

fn parse_date(text: &str) -> Result<UnixTime, String> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339);
    parsed
        .map(UnixTime::from)
        .map_err(|_| "must be a date with time and zone, for example 2026-12-01T00:00:00Z".to_owned())
}

/// An effect of the rotation and its time.
#[derive(Serialize)]
struct RotationStep {
    at: UnixTime,
    effect: String,
}

#[derive(Serialize)]
struct RotationOutput<'a> {
    keyset: &'a str,
    kid: Option<&'a KeyId>,
    sign_from: Option<UnixTime>,
    emergency: bool,
    steps: &'a [RotationStep],
    files: Option<&'a KeyFiles>,
    schedule: PathBuf,
}

impl RotateKeyCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let keysets = context.keysets()?;
        let (keyset, directory_path) = select_keyset(&keysets, self.keyset.as_deref(), context)?;
        check_remote(keyset, self.remote_key.is_some())?;
        let rules = rotation_rules(keyset);
        // The plan is checked before seconds are spent on a key, and again once the directory is locked for the change.
        let planned_kid = {
            let now = context.clock_and_rng.clock.now();
            let directory =
                KeyDirectory::lock(directory_path).map_err(|error| config_error(keyset, error))?;
            let schedule =
                directory.schedule(rules.publish_lead, now).map_err(|error| config_error(keyset, error))?;
            let before = schedule.schedule().map_err(CliError::invalid_config)?;
            let kid = self.next_key_id(&before, directory_path, &keysets)?;
            let some_kid = kid.clone().unwrap_or_else(|| placeholder_kid(&before));
            let entry = self.entry(&rules, &before, some_kid, now, keyset)?;
            if self.plan {
                let after = before.with_change(&ScheduleChange::Add(entry.clone()));
                let steps = rotation_steps(&rules, &after, &entry, now);
                self.report(keyset, schedule.path(), kid.as_ref(), &entry, &steps, None, now);
                return Ok(());
            }
            kid
        };
        let key =
            NewKey::make(Some(keyset), planned_kid.as_ref(), self.remote_key.as_ref(), self.bits, context)?;

        let now = context.clock_and_rng.clock.now();
        let locked = KeyDirectory::lock(directory_path).map_err(|error| config_error(keyset, error))?;
        let mut schedule =
            locked.schedule(rules.publish_lead, now).map_err(|error| config_error(keyset, error))?;
        let before = schedule.schedule().map_err(CliError::invalid_config)?;
        let kid =
            self.next_key_id(&before, directory_path, &keysets)?.map_or_else(|| key.thumbprint(), Ok)?;
        key.check_is_new(&kid, planned_kid.as_ref(), directory_path)?;
        let entry = self.entry(&rules, &before, kid.clone(), now, keyset)?;
        let entry = ScheduleEntry { remote: key.remote().cloned(), ..entry };
        // Without an entry for the first key, a second key would be ambiguous. So the first key's entry is written
        // first.
        schedule.write_if_missing()?;
        let made = key.write(&locked, &kid, Some(keyset), context)?;
        let after = match schedule.apply(&[ScheduleChange::Add(entry.clone())]) {
            Ok(after) => after,
            Err(error) => {
                made.remove_unless_listed(&error);
                return Err(error.into());
            }
        };
        let path = schedule.path().to_path_buf();
        drop(locked);
        let steps = rotation_steps(&rules, &after, &entry, now);
        let made_for = KeysetUsage::of(&keyset.name, context);
        self.report(keyset, &path, Some(&kid), &entry, &steps, Some((&made, made_for)), now);
        warn_unencrypted_key(Some(keyset), &made);

        let service = AdminClient::find(context, &[directory_path.to_path_buf()])?;
        let signs_now = entry.sign_from.is_some_and(|from| from <= now);
        let taken = wait_for_service(&service, |status| {
            let served = status.keysets.get(keyset.name.as_str());
            let publishes =
                served.is_some_and(|served| served.published.iter().any(|known| known == kid.as_str()));
            let signing = served.and_then(|served| served.signing.as_deref());
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
            print_line(&if taken {
                format!("The service at {} publishes {kid}.", service.address())
            } else {
                format!(
                    "No service answers at {}, {NONE_VISIBLE}. A service that reads this folder publishes {kid} within 5 \
                     seconds.",
                    service.address()
                )
            });
        }
        Ok(())
    }

    /// Returns the id of the next key; `None` if its thumbprint becomes the id.
    fn next_key_id(
        &self,
        schedule: &Schedule,
        directory: &Path,
        keysets: &BTreeMap<Name, KeysetConfig>,
    ) -> Result<Option<KeyId>, CliError> {
        let is_free = |kid: &KeyId| schedule.entry(kid).is_none() && !is_kid_taken(kid, directory, keysets);
        let Some(kid) = &self.kid else {
            let last = schedule.entries.last();
            return Ok(
                last.and_then(|last| std::iter::successors(next_kid(&last.kid), next_kid).find(is_free))
            );
        };
        check_kid_unused(directory, kid)?;
        if is_free(kid) {
            return Ok(Some(kid.clone()));
        }
        Err(CliError::Failed(format!("a keyset has `{kid}` already: key ids are never reused")))
    }

    fn entry(
        &self,
        rules: &RotationRules,
        schedule: &Schedule,
        kid: KeyId,
        now: UnixTime,
        keyset: &KeysetConfig,
    ) -> Result<ScheduleEntry, CliError> {
        let entry = rules.plan_next_key(schedule, kid, self.sign_from, self.emergency, now);
        entry.map_err(|reason| {
            let message = format!("keysets.{}: {reason}", keyset.name);
            match reason {
                RotationError::TooSoon { .. } | RotationError::InThePast { .. } => CliError::Usage(message),
                RotationError::UnderWay { .. } | RotationError::KidTaken(_) => CliError::Failed(message),
            }
        })
    }

    #[expect(clippy::too_many_arguments, reason = "all that a rotation is, printed in two forms")]
    fn report(
        &self,
        keyset: &KeysetConfig,
        schedule: &Path,
        kid: Option<&KeyId>,
        entry: &ScheduleEntry,
        steps: &[RotationStep],
        files: Option<(&KeyFiles, KeysetUsage)>,
        now: UnixTime,
    ) {
        if self.json {
            print_json(&RotationOutput {
                keyset: keyset.name.as_str(),
                kid,
                sign_from: entry.sign_from,
                emergency: entry.emergency,
                steps,
                files: files.map(|(made, _)| made),
                schedule: schedule.to_path_buf(),
            });
            return;
        }
        if let Some((made, usage)) = files {
            made.announce(usage);
        }
        for RotationStep { at, effect } in steps {
            print_line(&format!("{}  {effect}", relative_date(*at, now)));
        }
        let written = if self.plan { "would be written" } else { "is written" };
        print_line(&format!("{} {written}; a running service reloads it by itself.", schedule.display()));
    }
}

/// A folder that `serve` would not load is a configuration error.
fn config_error(keyset: &KeysetConfig, error: DirectoryError) -> CliError {
    match error {
        DirectoryError::NoDirectory(_) | DirectoryError::Unclear { .. } => {
            let field = format!("keysets.{}.directory", keyset.name);
            CliError::invalid_config(vec![Problem::new(field, "the configuration", error.to_string())])
        }
        other => other.into(),
    }
}

/// Returns an unused id that stands for the thumbprint, which is unknown until the key exists.
fn placeholder_kid(schedule: &Schedule) -> KeyId {
    let first = KeyId::parse("NEW0").expect("four letters are an id");
    std::iter::successors(Some(first), next_kid)
        .find(|kid| schedule.entry(kid).is_none())
        .expect("there are more ids than keys")
}

/// Returns the effects of the rotation in order of time.
fn rotation_steps(
    rules: &RotationRules,
    schedule: &Schedule,
    entry: &ScheduleEntry,
    now: UnixTime,
) -> Vec<RotationStep> {
    let lives = rules.validities(&schedule.entries, now);
    let keys: Vec<(&KeyId, KeyValidity)> =
        schedule.entries.iter().map(|entry| &entry.kid).zip(lives).collect();
    let kid = &entry.kid;
    let mut steps = vec![RotationStep {
        at: now,
        effect: format!(
            "a service that reads this folder publishes {kid}. If Setup has the keys themselves (type Keys), upload {kid}.jwk and add it to the \
            keyset now"
        ),
    }];
    let signs_from = entry.sign_from.unwrap_or(now);
    let before = keys
        .iter()
        .find(|(_, life)| life.signing_periods.last().is_some_and(|turn| turn.until == Some(signs_from)));
    let before_kid = before.map(|(kid, _)| kid.as_str()).unwrap_or_default();
    let mut effect = match before {
        Some(_) => format!("{kid} signs in place of {before_kid}, which stays published"),
        None => format!("{kid} signs"),
    };
    if entry.emergency {
        effect.push_str(
            ". Verifiers that cache a JWKS may not know it yet: chats are anonymous until they fetch it",
        );
    }
    steps.push(RotationStep { at: signs_from, effect });
    if let Some(gone) = before.and_then(|(_, life)| life.published_until) {
        steps.push(RotationStep {
            at: gone,
            effect: format!("{before_kid} is gone; then remove its files and its entry"),
        });
    }
    steps
}
