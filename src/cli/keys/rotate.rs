//! `tokenmint keys rotate`: the next key of a keyset, published now and signing later.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Context, Failure, Made, Scheduled, choose, make, parse_kid};
use crate::cli::{say, say_json};
use crate::clock::UnixTime;
use crate::config::KeyId;
use crate::doctor::dated;
use crate::keys::rotation::next_kid;
use crate::keys::{Entry, Life, Schedule};

/// Make the next key of a keyset: published now, signing once verifiers know it
///
/// Writes the key, its certificate and JWK, and its entry in keyset.toml; a running service takes them over by itself.
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
        let config = context.config()?;
        let now = context.ambient.clock.now();
        let (keyset, directory) = choose(config.keysets.values(), self.keyset.as_deref())?;
        let mut scheduled = Scheduled::open(keyset, directory, now)?;
        let counted =
            || scheduled.schedule.entries.last().and_then(|last| free_kid(&last.kid, &scheduled.schedule));
        let kid = self.kid.clone().or_else(counted);

        // A thumbprint is known once there is a key, and taken by none before it.
        let stand_in = || KeyId::parse("NEW").expect("three letters are an id");
        let named = kid.clone().unwrap_or_else(stand_in);
        let entry = scheduled.rules().next(&scheduled.schedule, named, self.sign_from, self.emergency, now);
        let mut entry =
            entry.map_err(|reason| Failure::Usage(format!("keysets.{}: {reason}", keyset.name)))?;

        let made = if self.plan {
            None
        } else {
            // A second key beside a first that nobody says the turn of would be refused: its turn is written first.
            scheduled.save()?;
            let bits = usize::try_from(self.bits).map_err(Failure::failed)?;
            let made = make(directory, kid.clone(), keyset.algorithm, bits, context)?;
            entry.kid = made.kid.clone();
            if self.sign_from.is_none() {
                // It is published from now on, and not from before it was made.
                entry = entry.delayed_to(context.ambient.clock.now());
            }
            Some(made)
        };
        scheduled.file.append(&entry);
        if !self.plan {
            scheduled.save()?;
        }
        let steps = steps(&scheduled, &entry, now)?;
        if self.json {
            say_json(&Rotation {
                keyset: keyset.name.as_str(),
                kid: made.as_ref().map(|made| &made.kid).or(kid.as_ref()),
                sign_from: entry.sign_from,
                emergency: entry.emergency,
                steps: &steps,
                files: made.as_ref(),
                schedule: scheduled.file.path().to_path_buf(),
            });
            return Ok(());
        }
        if let Some(made) = &made {
            made.announce();
        }
        let written = if self.plan { "would be written" } else { "says so" };
        for Step { at, effect } in &steps {
            say(&format!("{}  {effect}", dated(*at, now)));
        }
        say(&format!(
            "{} {written}; a running service takes it over by itself.",
            scheduled.file.path().display()
        ));
        Ok(())
    }
}

/// The next id that nobody has.
fn free_kid(last: &KeyId, schedule: &Schedule) -> Option<KeyId> {
    std::iter::successors(next_kid(last), next_kid).find(|kid| !schedule.names(kid))
}

/// What the rotation does, in order of time.
fn steps(scheduled: &Scheduled, entry: &Entry, now: UnixTime) -> Result<Vec<Step>, Failure> {
    let schedule = scheduled.file.schedule(scheduled.keyset.publish_lead).map_err(Failure::of_files)?;
    let lives = scheduled.rules().lives(&schedule);
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
    let before = keys.iter().find(|(_, life)| life.signs_until == Some(signs_from));
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
    Ok(steps)
}
