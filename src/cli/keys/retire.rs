//! `tokenmint keys retire`: takes a key away at once, whatever that breaks. For a key that others may have.

use clap::Args;
use serde::Serialize;

use super::{Context, Failure, Made, Scheduled, make, parse_kid};
use crate::cli::ask;
use crate::cli::{say, say_json};
use crate::config::{Config, KeyId, KeySource, Keyset};
use crate::keys::Entry;
use crate::keys::rotation::{Successor, next_kid};

/// Take a key out of signing and out of the JWKS at once: for a key that others may have
///
/// Tokens that it signed fail from then on. In a rotation a key retires by itself when its time has come.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys retire WebAppKey1 --now")]
pub(in crate::cli) struct Retire {
    /// The key's id
    #[arg(value_parser = parse_kid)]
    kid: KeyId,
    /// At once, knowing that tokens that it signed fail
    #[arg(long)]
    now: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Retired<'a> {
    keyset: &'a str,
    kid: &'a KeyId,
    signs_now: &'a KeyId,
    /// At most so many tokens may live that it signed, as the running service counts; `null` where it can't be asked.
    live_tokens: Option<u64>,
    files: Option<&'a Made>,
}

impl Retire {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        if !self.now {
            let reason = "after a rotation a key retires by itself when its tokens are over; to take it away at once, and \
                          break them, say --now";
            return Err(Failure::Usage(reason.to_owned()));
        }
        let config = context.config()?;
        let now = context.ambient.clock.now();
        let mut scheduled = self.find(&config, context)?;
        let keyset = scheduled.keyset.clone();
        let live_tokens = ask::seen(&config).map(|seen| seen.live_tokens(&keyset.name, &self.kid));

        let successor = scheduled.rules().successor(&scheduled.schedule, &self.kid, now);
        scheduled.file.retire(&self.kid);
        let mut made = None;
        let (signs_now, how) = match successor {
            Successor::Same(kid) => (kid, "signs, as before"),
            Successor::Former(kid) => (kid, "signs again; verifiers know it"),
            Successor::Pending(kid) => {
                scheduled.file.promote(&kid, now);
                (kid, "signs from now on, before its time; verifiers that have fetched it know it")
            }
            Successor::New => {
                // The leaked key goes first: making another takes a second.
                scheduled.save()?;
                let free = std::iter::successors(next_kid(&self.kid), next_kid)
                    .find(|kid| !scheduled.schedule.names(kid));
                let new = make(&scheduled.directory, free, keyset.algorithm, 2048, context)?;
                let kid = new.kid.clone();
                let sign_from = Some(now);
                scheduled.file.append(&Entry {
                    kid: kid.clone(),
                    sign_from,
                    added: sign_from,
                    emergency: true,
                });
                made = Some(new);
                (kid, "was made and signs from now on; chats are guests' until verifiers fetch it")
            }
        };
        scheduled.save()?;
        if self.json {
            let (keyset, kid) = (keyset.name.as_str(), &self.kid);
            say_json(&Retired { keyset, kid, signs_now: &signs_now, live_tokens, files: made.as_ref() });
            return Ok(());
        }
        let kid = &self.kid;
        say(&format!(
            "{kid} is retired in {}: a service that reads this folder drops it within 5 seconds; bring the folder to \
             every replica that has a copy of its own.",
            scheduled.file.path().display()
        ));
        say(&format!("{signs_now} {how}."));
        say(&match live_tokens {
            Some(count) => format!(
                "At most {count} live tokens that it signed fail from now on, as the service that runs here counts; every \
                 other replica has its own."
            ),
            None => format!(
                "How many live tokens that hits can't be said: the service that runs here could not be asked. It is all \
                 that {kid} signed in the last {}.",
                humantime::format_duration(keyset.longest_life)
            ),
        });
        say(&format!(
            "In Salesforce, where {kid} was uploaded, deactivate it: Setup > Enhanced Chat User Verification > Keys; for \
             OAuth replace the app's certificate: Setup > External Client App Manager."
        ));
        Ok(())
    }

    /// The keyset that has the key in its directory.
    fn find(&self, config: &Config, context: &Context<'_>) -> Result<Scheduled, Failure> {
        let now = context.ambient.clock.now();
        let directories = config.keysets.values().filter_map(|keyset: &Keyset| match &keyset.keys {
            KeySource::Directory(directory) => Some((keyset, directory.as_path())),
            KeySource::File { .. } | KeySource::Text { .. } => None,
        });
        for (keyset, directory) in directories {
            let scheduled = Scheduled::open(keyset, directory, now)?;
            if scheduled.schedule.retired.contains(&self.kid) {
                return Err(Failure::Failed(format!("`{}` is retired already", self.kid)));
            }
            if scheduled.schedule.names(&self.kid) {
                return Ok(scheduled);
            }
        }
        Err(Failure::Failed(format!(
            "no keyset with a directory has a key `{}`; `tokenmint keys list` shows them all. A key that is given as text \
             or file is retired by giving another, and a restart",
            self.kid
        )))
    }
}
