//! `tokenmint keys list`: shows the state of each key, its dates, and who has fetched it.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{CliContext, CliError, print_table};
use crate::cli::admin_client::{AdminClient, KeyMetrics};
use crate::cli::{MAX_LINE_WIDTH, print_json, print_line, print_stderr};
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, Name, ProfileName};
use crate::keys::{KeyState, KeyValidity, Keyset, KeysetKey};
use crate::{app, jwks};

/// Show each key: its profiles, its state, and when the state changes
///
/// Asks the running service, if one answers, who has fetched each key.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys list --json")]
pub(in crate::cli) struct ListKeysCommand {
    /// Print the keys as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct KeyRow {
    keyset: Name,
    kid: KeyId,
    state: KeyState,
    /// Whether `retired` is set in keyset.toml.
    retired: bool,
    emergency: bool,
    algorithm: Algorithm,
    /// `None` for a key in state `Gone`, whose files are not read.
    bits: Option<usize>,
    thumbprint: Option<String>,
    /// The store's name for the key; `None` for a key in this process.
    remote: Option<String>,
    used_by: Vec<String>,
    added: Option<UnixTime>,
    signs_from: Option<UnixTime>,
    signs_until: Option<UnixTime>,
    published_until: Option<UnixTime>,
    certificate_expires_at: Option<UnixTime>,
    /// The last fetch by each class of clients, from the running service; `null` for a gone key, or if no service answers.
    fetched: Option<BTreeMap<String, UnixTime>>,
    /// The upper bound of unexpired tokens that the key signed; `null` for a gone key, or if no service answers.
    live_tokens: Option<u64>,
}

impl ListKeysCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let loaded = context.load()?;
        let now = context.clock_and_rng.clock.now();
        let key_metrics = AdminClient::find(context, &[])?.key_metrics();
        let listed = key_rows(&loaded, key_metrics.as_ref(), now);
        if let Some(reason) = loaded.ring.closed_reason() {
            print_stderr(&format!("warning: {reason}. The keys of this keyset aren't listed"));
        }
        if self.json {
            print_json(&listed);
            return Ok(());
        }
        let rows = listed.iter().map(|key| {
            [
                key.keyset.to_string(),
                key.kid.to_string(),
                state_label(key),
                key.next_change().map_or_else(|| "-".to_owned(), |when| when.to_string()),
                key_label(key),
                key.certificate_expires_at
                    .map_or_else(|| "-".to_owned(), |until| until.date_time().date().to_string()),
                last_fetch(key, now),
                key.used_by.join(" "),
            ]
        });
        let head = ["KEYSET", "KID", "STATE", "NEXT CHANGE", "KEY", "CERT UNTIL", "FETCHED", "USED BY"];
        print_table(&std::iter::once(head.map(str::to_owned)).chain(rows).collect::<Vec<_>>());
        print_line("");
        print_legend(&listed);
        Ok(())
    }
}

/// Explains the states and symbols in the table.
fn print_legend(listed: &[KeyRow]) {
    let has = |holds: fn(&KeyRow) -> bool| listed.iter().any(holds);
    let is = |state: KeyState| listed.iter().any(|key| key.state == state && !key.retired);
    let lines = [
        (is(KeyState::Signing), "signing: signs, and is published; another key takes over at NEXT CHANGE"),
        (is(KeyState::Pending), "pending: is published, and signs from NEXT CHANGE on"),
        (
            is(KeyState::Retiring),
            "retiring: signs no longer, and is published until NEXT CHANGE for unexpired tokens",
        ),
        (is(KeyState::Gone), "gone: neither signs nor is published; its files can be removed"),
        (
            has(|key| key.retired),
            "retired: revoked by `tokenmint keys retire`; neither signs nor is published",
        ),
        (has(|key| key.emergency), "!: `emergency` is set: it may sign before verifiers know it"),
        (
            has(|key| key.fetched.is_some()),
            "FETCHED: the kind of client that last fetched the key from the running service, and how long ago (s, \
            m, h, d); never: no client since it started",
        ),
        (has(|key| key.fetched.is_none() && key.state != KeyState::Gone), "?: no running service answered"),
        (has(|key| key.next_change().is_none()), "-: none"),
    ];
    for (_, line) in lines.iter().filter(|(applies, _)| *applies) {
        print_line(&textwrap::fill(line, textwrap::Options::new(MAX_LINE_WIDTH).subsequent_indent("  ")));
    }
}

fn key_rows(loaded: &app::LoadedConfig, key_metrics: Option<&KeyMetrics>, now: UnixTime) -> Vec<KeyRow> {
    let keysets = loaded.ring.keysets.values();
    keysets
        .flat_map(|keyset| {
            let past = keyset.gone.iter().map(|life| gone_key_row(keyset, life, now));
            past.chain(keyset.keys.iter().map(|key| loaded_key_row(keyset, key, key_metrics, now)))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn loaded_key_row(
    keyset: &Keyset,
    key: &KeysetKey,
    key_metrics: Option<&KeyMetrics>,
    now: UnixTime,
) -> KeyRow {
    KeyRow {
        keyset: keyset.name.clone(),
        kid: key.kid.clone(),
        state: key.validity.state(now),
        retired: false,
        emergency: key.validity.entry.emergency,
        algorithm: keyset.algorithm,
        bits: Some(key.public().bits),
        thumbprint: Some(jwks::thumbprint(key.public())),
        remote: key.signing.remote().map(ToString::to_string),
        used_by: used_by(keyset),
        added: key.validity.entry.added,
        signs_from: key.validity.signs_from(),
        signs_until: key.validity.signs_until(now),
        published_until: key.validity.published_until,
        certificate_expires_at: Some(key.certificate_not_after(now)),
        fetched: key_metrics.map(|key_metrics| key_metrics.fetched(&keyset.name, &key.kid)),
        live_tokens: key_metrics.map(|key_metrics| key_metrics.live_tokens(&keyset.name, &key.kid)),
    }
}

fn gone_key_row(keyset: &Keyset, life: &KeyValidity, now: UnixTime) -> KeyRow {
    KeyRow {
        keyset: keyset.name.clone(),
        kid: life.entry.kid.clone(),
        state: KeyState::Gone,
        retired: life.entry.retired.is_some(),
        emergency: false,
        algorithm: keyset.algorithm,
        bits: None,
        thumbprint: None,
        remote: life.entry.remote.as_ref().map(ToString::to_string),
        used_by: used_by(keyset),
        added: None,
        signs_from: life.signs_from(),
        signs_until: life.signs_until(now),
        published_until: life.published_until,
        certificate_expires_at: None,
        fetched: None,
        live_tokens: None,
    }
}

fn used_by(keyset: &Keyset) -> Vec<String> {
    keyset.used_by.iter().map(ProfileName::to_string).collect()
}

fn state_label(key: &KeyRow) -> String {
    let state = format!("{:?}", key.state).to_lowercase();
    match (key.retired, key.emergency) {
        (true, _) => "retired".to_owned(),
        (false, true) => format!("{state}!"),
        (false, false) => state,
    }
}

impl KeyRow {
    /// Returns when the state changes next, if that is planned.
    const fn next_change(&self) -> Option<UnixTime> {
        match self.state {
            KeyState::Pending => self.signs_from,
            KeyState::Signing => self.signs_until,
            KeyState::Retiring => self.published_until,
            KeyState::Gone => None,
        }
    }
}

/// Algorithm, bits, and the store's name of a key that a store has.
fn key_label(key: &KeyRow) -> String {
    let Some(bits) = key.bits else { return "-".to_owned() };
    let remote = key.remote.as_ref().map(|remote| format!(" {remote}")).unwrap_or_default();
    format!("{} {bits}{remote}", key.algorithm.as_str())
}

/// Describes the last fetch: the class of the client, and how long ago it was.
fn last_fetch(key: &KeyRow, now: UnixTime) -> String {
    match &key.fetched {
        None if key.state == KeyState::Gone => "-".to_owned(),
        None => "?".to_owned(),
        Some(fetched) => fetched.iter().max_by_key(|(_, at)| **at).map_or_else(
            || "never".to_owned(),
            |(client, at)| format!("{client} {}", short_age(at.seconds_until(now))),
        ),
    }
}

/// Formats a duration in the largest unit that gives at least two, or in seconds.
fn short_age(seconds: i64) -> String {
    let (count, unit) = match seconds {
        ..120 => (seconds.max(0), "s"),
        120..7_200 => (seconds / 60, "m"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{count}{unit}")
}
