//! `tokenmint keys retire`: revokes a key at once, although its tokens then fail. It is for compromised keys.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::key_folder::{
    KeyFolder, RetirementResult, create_replacement_key, find_copies, is_in_folder, kids_in,
};
use super::{CliContext, CliError, KeyFiles, parse_kid, wait_for_service, warn_unencrypted_key};
use crate::cli::admin_client::{AdminClient, KeyMetrics, KeysetStatusReply, StatusReply};
use crate::cli::{
    is_same_folder, keyset_directories, list_known_names, print_json, print_line, print_stderr,
};
use crate::clock::Clock;
use crate::config::{KeyId, KeysetConfig, KeysetSource, Name};
use crate::files::is_same_file;
use crate::keys::DirectoryError;
use crate::keys::rotation::Successor;

/// The longest wait for the service's next check of its files.
const RELOAD_WAIT: Duration = Duration::from_secs(4);

/// Take a key out of signing and out of the JWKS at once: for a key that others may have
///
/// Tokens that it signed fail from then on. After a rotation, a key retires by itself. Only the path of the key's
/// folder is needed from the configuration. Waits until the service on this host has dropped the key, and exits
/// with 1 if it hasn't. For a key that is already retired, it completes an interrupted run.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys retire WebAppKey1 --now")]
pub(in crate::cli) struct RetireKeyCommand {
    /// The key's id
    #[arg(value_parser = parse_kid)]
    kid: KeyId,
    /// Retire at once, knowing that its tokens fail
    #[arg(long)]
    now: bool,
    /// The folder with the key, if the configuration can't be read
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct RetireOutput<'a> {
    /// Whether the command ends with 0. The key is retired in any case.
    ok: bool,
    problems: Vec<String>,
    keyset: Option<&'a str>,
    kid: &'a KeyId,
    signs_now: Option<&'a KeyId>,
    /// The upper bound of unexpired tokens that the key signed, counted by the running service; `null` if none
    /// answers.
    live_tokens: Option<u64>,
    files: Option<&'a KeyFiles>,
    /// Whether the service on this host has dropped the key; `false` if none runs.
    confirmed: bool,
    /// The same key under another id or in another folder, also retired.
    copies: Vec<RetiredCopy<'a>>,
}

#[derive(Serialize)]
struct RetiredCopy<'a> {
    keyset: Option<&'a str>,
    kid: &'a KeyId,
    signs_now: Option<&'a KeyId>,
    files: Option<&'a KeyFiles>,
}

impl RetireKeyCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        if !self.now {
            let reason = "after a rotation a key retires by itself when its tokens have expired; to retire it at \
            once, and break them, use --now";
            return Err(CliError::Usage(reason.to_owned()));
        }
        let keysets = context.keysets();
        // An error in finding the service doesn't prevent the retirement.
        let service = AdminClient::find(context, &self.paths(keysets.as_ref().ok())).ok();
        let service = service.as_ref();
        let key_metrics = service.and_then(AdminClient::key_metrics);
        let was_used =
            service.and_then(|service| service.status().ok()).map(|status| is_used(&status, &self.kid));
        let mut folders = self
            .find(keysets.as_ref())
            .map_err(|failure| self.with_hint(failure, service, was_used, context))?;
        let retired_at = context.clock_and_rng.clock.now();
        let done = folders[0].retire_keys(retired_at).map_err(|error| self.not_retired_error(error))?;
        let mut written = vec![done];
        // From here on, the key is retired, and each failure says so.
        let keysets = keysets.unwrap_or_default();
        let (copies, mut failures) = find_copies(&self.kid, &folders, &keysets);
        for other in folders.split_off(1).into_iter().chain(copies) {
            match (
                other.retire_keys(retired_at),
                folders.iter().position(|folder| is_same_file(&folder.directory, &other.directory)),
            ) {
                // The signing key of that folder is determined again.
                (Ok(done), Some(at)) => {
                    written[at] = done;
                    folders[at].kids.extend(other.kids);
                }
                (Ok(done), None) => {
                    written.push(done);
                    folders.push(other);
                }
                (Err(failure), _) => failures.push(format!(
                    "the same key in {} is not: {}",
                    other.directory.display(),
                    failure
                )),
            }
        }
        // The compromised keys are retired first, because generating a replacement takes seconds.
        for (folder, written) in folders.iter().zip(&mut written) {
            if matches!(written.successor, Ok(Successor::New)) {
                match create_replacement_key(folder, &written.schedule, &keysets, context) {
                    Ok(made) => {
                        warn_unencrypted_key(folder.keyset.as_ref(), &made);
                        written.made = Some(made);
                    }
                    Err(failure) => failures.push(format!(
                        "there is no other key yet in {}; fix this, and run the command again: {}",
                        folder.directory.display(),
                        failure.summary()
                    )),
                }
            }
        }
        let gone: Vec<&KeyId> = folders.iter().flat_map(|folder| &folder.kids).collect();
        let dropped = Cell::new(false);
        let clock = &*context.clock_and_rng.clock;
        let written_at = clock.now().seconds();
        let confirmed = service
            .map_or(Ok(false), |service| wait_until_dropped(service, &gone, &folders, clock, &dropped));
        let in_service = match &confirmed {
            Ok(false) => {
                "No service with these files is visible from here (one in a container isn't): a service that reads this \
                folder drops it within 5 seconds"
            }
            _ if !dropped.get() => "The running service has not confirmed it",
            _ if was_used == Some(true) => "The running service has dropped it",
            _ => "The running service doesn't use it",
        };
        let is_confirmed = matches!(confirmed, Ok(true));
        let unread = written.iter().filter_map(|written| written.successor.as_ref().err());
        let unconfirmed = confirmed.as_ref().err();
        let problems = unread.chain(unconfirmed).map(CliError::summary);
        let problems: Vec<String> = failures.iter().cloned().chain(problems).collect();
        self.report(&folders, &written, problems, in_service, is_confirmed, key_metrics.as_ref());
        if matches!(confirmed, Ok(false)) {
            for address in AdminClient::addresses_where(context, |status| is_used(status, &self.kid)) {
                print_stderr(&format!(
                    "warning: the service at {address} runs with other files and uses a key `{}`: if it is this \
                     one, retire it in the folder of that service too",
                    self.kid
                ));
            }
        }
        // The retirement is done. Any other rejected change would prevent the service's next start.
        if let (Some(service), Ok(true)) = (service, &confirmed)
            && let Ok((true, status)) = service.wait_until(RELOAD_WAIT, |status| {
                status.reload.looked_at.is_some_and(|began| began > written_at)
            })
            && !status.reload.in_force
        {
            print_stderr(&format!(
                "warning: the service rejects something else in these files, and would not start with them: {}",
                status.reload.problem_summary()
            ));
        }
        if !failures.is_empty() {
            let folder = folders[0].directory.display();
            let failed = format!("`{}` is retired in {folder}, but {}", self.kid, failures.join("; "));
            // Printed here instead of returned: a schedule error below takes precedence, with its own exit code.
            print_stderr(&format!("tokenmint: {failed}"));
        }
        for written in written {
            written.successor?;
        }
        if !failures.is_empty() {
            return Err(CliError::ProblemsFound);
        }
        confirmed.map(|_| ())
    }

    /// The error for a key that isn't retired, or may not be.
    fn not_retired_error(&self, error: DirectoryError) -> CliError {
        if error.is_written() {
            return error.into();
        }
        CliError::Failed(format!(
            "`{}` is not retired, and a service that uses it still does: {error}",
            self.kid
        ))
    }

    /// Returns the key folders of the configuration, and the folder of --directory.
    fn paths(&self, keysets: Option<&BTreeMap<Name, KeysetConfig>>) -> Vec<PathBuf> {
        let configured =
            keysets.into_iter().flat_map(keyset_directories).map(|(_, directory)| directory.to_path_buf());
        configured.chain(self.directory.clone()).collect()
    }

    /// Adds a hint if the service uses a key that no file lists.
    fn with_hint(
        &self,
        failure: CliError,
        service: Option<&AdminClient>,
        was_used: Option<bool>,
        context: &CliContext<'_>,
    ) -> CliError {
        match (failure, service) {
            (CliError::Failed(reason), Some(service)) if was_used == Some(true) => CliError::Failed(format!(
                "{reason}. The service at {} uses it: if it came from a folder, list it in the keyset.toml there, \
                with kid = \"{}\" and retired = {}, and the service drops it",
                service.address(),
                self.kid,
                context.clock_and_rng.clock.now(),
            )),
            (failure, _) => failure,
        }
    }

    fn report(
        &self,
        folders: &[KeyFolder],
        written: &[RetirementResult],
        problems: Vec<String>,
        in_service: &str,
        is_confirmed: bool,
        key_metrics: Option<&KeyMetrics>,
    ) {
        let kid = &self.kid;
        let (folder, done) = (&folders[0], &written[0]);
        let live_tokens = folder
            .keyset
            .as_ref()
            .zip(key_metrics)
            .map(|(keyset, key_metrics)| key_metrics.live_tokens(&keyset.name, kid));
        let others = || {
            folders.iter().zip(written).enumerate().flat_map(|(at, (folder, written))| {
                // In the first folder, the key's own id is left out.
                folder
                    .kids
                    .iter()
                    .filter(move |other| at > 0 || *other != kid)
                    .map(move |kid| (folder, written, kid))
            })
        };
        if self.json {
            let copies = others().map(|(folder, written, kid)| RetiredCopy {
                keyset: folder.name(),
                kid,
                signs_now: written.signing_kid(),
                files: written.made.as_ref(),
            });
            print_json(&RetireOutput {
                ok: problems.is_empty(),
                problems,
                keyset: folder.name(),
                kid,
                signs_now: done.signing_kid(),
                live_tokens,
                files: done.made.as_ref(),
                confirmed: is_confirmed,
                copies: copies.collect(),
            });
            return;
        }
        print_line(&format!(
            "{kid} is retired in {}. {in_service}; copy the folder to every replica that has a copy of its own.",
            folder.schedule().display(),
        ));
        print_line(&done.signing_summary(is_confirmed));
        for (folder, _, kid) in others() {
            print_line(&format!(
                "{kid} in {} is the same key, and is retired too.",
                folder.schedule().display()
            ));
        }
        for written in &written[1..] {
            print_line(&written.signing_summary(is_confirmed));
        }
        print_line(&match live_tokens {
            Some(count) => format!(
                "At most {count} unexpired tokens that it signed fail from now on, as the running service counts; \
                every other replica has its own."
            ),
            None => format!(
                "The number of unexpired tokens is unknown without the configuration and a running service. They \
                are all that {kid} signed in the last {}.",
                humantime::format_duration(folder.rules().longest_life)
            ),
        });
        print_line(&format!(
            "In Salesforce, where {kid} was uploaded, deactivate it: Setup > Enhanced Chat User Verification > Keys; for \
             OAuth replace the app's certificate: Setup > External Client App Manager."
        ));
    }

    /// Returns the folders with that key id; more than one is a mistake in the configuration.
    fn find(
        &self,
        keysets: Result<&BTreeMap<Name, KeysetConfig>, &CliError>,
    ) -> Result<Vec<KeyFolder>, CliError> {
        let kid = &self.kid;
        let kids = vec![kid.clone()];
        if let Some(directory) = &self.directory {
            if !is_in_folder(kid, directory)? {
                let known = list_known_names(kids_in(directory));
                return Err(CliError::Failed(format!("{} has no key `{kid}`; {known}", directory.display())));
            }
            let mut configured = keysets.ok().into_iter().flat_map(keyset_directories);
            let keyset = configured.find(|(_, other)| is_same_folder(other, directory));
            let keyset = keyset.map(|(keyset, _)| keyset.clone());
            return Ok(vec![KeyFolder { keyset, directory: directory.clone(), kids }]);
        }
        let keysets = keysets.map_err(|failure| {
            CliError::Failed(format!(
                "nothing was changed, because the configuration can't be read ({}); name the key's folder: \
                --directory DIR",
                failure.summary()
            ))
        })?;
        let (mut folders, mut unread) = (Vec::<KeyFolder>::new(), Vec::new());
        for (keyset, directory) in keyset_directories(keysets) {
            match is_in_folder(kid, directory) {
                Ok(true) if !folders.iter().any(|folder| is_same_file(&folder.directory, directory)) => {
                    let (keyset, directory) = (Some(keyset.clone()), directory.to_path_buf());
                    folders.push(KeyFolder { keyset, directory, kids: kids.clone() });
                }
                Ok(_) => {}
                Err(error) => unread.push(error.summary()),
            }
        }
        if !folders.is_empty() {
            return Ok(folders);
        }
        let given = keysets.values().find(|keyset| match &keyset.keys {
            KeysetSource::File { kid: given, .. } | KeysetSource::Text { kid: given, .. } => given == kid,
            KeysetSource::Directory(_) => false,
        });
        Err(CliError::Failed(match given {
            Some(keyset) => format!(
                "nothing was changed: `{kid}` of keysets.{} is given as file or text. Replace it by another key, \
                with an id of its own in `kid`, and restart the service",
                keyset.name
            ),
            None if unread.is_empty() => {
                let known = keyset_directories(keysets).flat_map(|(_, directory)| kids_in(directory));
                format!("no keyset has a key `{kid}`; {}", list_known_names(known))
            }
            None => format!(
                "nothing was changed: no folder that can be read has a key `{kid}`; fix this first: {}",
                unread.join("; ")
            ),
        }))
    }
}

fn is_used(status: &StatusReply, kid: &KeyId) -> bool {
    let uses = |keyset: &KeysetStatusReply| {
        keyset.signing.as_deref() == Some(kid.as_str())
            || keyset.published.iter().any(|known| known == kid.as_str())
    };
    status.keysets.values().any(uses)
}

/// Waits until the service has dropped the keys and the successors sign. Sets `dropped` once the keys are dropped.
fn wait_until_dropped(
    service: &AdminClient,
    gone: &[&KeyId],
    folders: &[KeyFolder],
    clock: &dyn Clock,
    dropped: &Cell<bool>,
) -> Result<bool, CliError> {
    let signs = |status: &StatusReply, kid: &KeyId| {
        status.keysets.values().any(|keyset| keyset.signing.as_deref() == Some(kid.as_str()))
    };
    wait_for_service(service, |status| {
        let used = gone.iter().find(|kid| is_used(status, kid));
        dropped.set(used.is_none());
        if let Some(kid) = used {
            return Some(format!("still uses `{kid}`"));
        }
        // The files are read again, because another command may have written meanwhile.
        let soon = clock.now().plus(Duration::from_secs(1));
        let successors = folders.iter().filter_map(|folder| folder.signing(soon));
        let successor = successors.into_iter().find(|kid| !signs(status, kid))?;
        Some(format!("has dropped `{}`, but `{successor}` doesn't sign in its place", gone[0]))
    })
}
