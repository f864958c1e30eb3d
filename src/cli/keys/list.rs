//! `tokenmint keys list`: the state of each key, its dates, and who has fetched it.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{Context, Failure, print_table};
use crate::cli::ask::{RunningService, Seen};
use crate::cli::say_json;
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, Name, ProfileName};
use crate::keys::{Key, Keyset, Life, State};
use crate::{app, doctor, jwks};

/// Show each key: what it signs, its state, and when that changes
///
/// Asks the running service, where it can be reached, who has fetched each key.
#[derive(Args)]
#[command(after_help = "Example: tokenmint keys list --json")]
pub(in crate::cli) struct List {
    /// Print the keys as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed {
    keyset: Name,
    kid: KeyId,
    state: State,
    /// By `retired` in keyset.toml, not by its dates.
    retired: bool,
    emergency: bool,
    algorithm: Algorithm,
    /// Of a key that is gone nothing is opened.
    bits: Option<usize>,
    thumbprint: Option<String>,
    used_by: Vec<String>,
    added: Option<UnixTime>,
    signs_from: Option<UnixTime>,
    signs_until: Option<UnixTime>,
    published_until: Option<UnixTime>,
    certificate_expires_at: Option<UnixTime>,
    /// When each class of clients last fetched it from the running service; `null` where that can't be asked.
    fetched: Option<BTreeMap<String, UnixTime>>,
    /// At most so many tokens that it signed may live.
    live_tokens: Option<u64>,
}

impl List {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let loaded = context.load()?;
        let now = context.ambient.clock.now();
        let seen = RunningService::find(context, &[])?.seen();
        let listed = listed(&loaded, seen.as_ref(), now);
        if self.json {
            say_json(&listed);
            return Ok(());
        }
        let rows = listed.iter().map(|key| {
            [
                key.keyset.to_string(),
                key.kid.to_string(),
                state(key),
                key.bits.map(|bits| format!("{} {bits}", key.algorithm.as_str())).unwrap_or_default(),
                key.signs_from.map_or_else(|| "always".to_owned(), |from| from.to_string()),
                until(key),
                key.certificate_expires_at.map(|until| until.to_string()).unwrap_or_default(),
                fetched(key, now),
                key.used_by.join(" "),
            ]
        });
        let head = [
            "KEYSET",
            "KID",
            "STATE",
            "KEY",
            "SIGNS FROM",
            "NEXT CHANGE",
            "CERTIFICATE UNTIL",
            "FETCHED",
            "USED BY",
        ];
        print_table(&std::iter::once(head.map(str::to_owned)).chain(rows).collect::<Vec<_>>());
        Ok(())
    }
}

fn listed(loaded: &app::Loaded, seen: Option<&Seen>, now: UnixTime) -> Vec<Listed> {
    let keysets = loaded.ring.keysets.values();
    keysets
        .flat_map(|keyset| {
            let past = keyset.past.iter().map(|life| gone(keyset, life, now));
            past.chain(keyset.keys.iter().map(|key| opened(keyset, key, seen, now))).collect::<Vec<_>>()
        })
        .collect()
}

fn opened(keyset: &Keyset, key: &Key, seen: Option<&Seen>, now: UnixTime) -> Listed {
    Listed {
        keyset: keyset.name.clone(),
        kid: key.kid.clone(),
        state: key.life.state(now),
        retired: false,
        emergency: key.life.entry.emergency,
        algorithm: keyset.algorithm,
        bits: Some(key.private.public.bits),
        thumbprint: Some(jwks::thumbprint(&key.private.public)),
        used_by: used_by(keyset),
        added: key.life.entry.added,
        signs_from: key.life.signs_from(),
        signs_until: key.life.signs_until(now),
        published_until: key.life.published_until,
        certificate_expires_at: Some(key.certificate_not_after(now)),
        fetched: seen.map(|seen| seen.fetched(&keyset.name, &key.kid)),
        live_tokens: seen.map(|seen| seen.live_tokens(&keyset.name, &key.kid)),
    }
}

fn gone(keyset: &Keyset, life: &Life, now: UnixTime) -> Listed {
    Listed {
        keyset: keyset.name.clone(),
        kid: life.entry.kid.clone(),
        state: State::Gone,
        retired: life.entry.retired.is_some(),
        emergency: false,
        algorithm: keyset.algorithm,
        bits: None,
        thumbprint: None,
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

fn state(key: &Listed) -> String {
    let state = format!("{:?}", key.state).to_lowercase();
    match (key.retired, key.emergency) {
        (true, _) => "retired".to_owned(),
        (false, true) => format!("{state} (emergency)"),
        (false, false) => state,
    }
}

fn until(key: &Listed) -> String {
    let (what, when) = match key.state {
        State::Pending => ("signs from", key.signs_from),
        State::Signing => ("signs until", key.signs_until),
        State::Retiring => ("published until", key.published_until),
        State::Gone => return "none; remove its files".to_owned(),
    };
    when.map_or_else(|| "none planned".to_owned(), |when| format!("{what} {when}"))
}

/// The last fetch, and by whom.
fn fetched(key: &Listed, now: UnixTime) -> String {
    match &key.fetched {
        None => "?".to_owned(),
        Some(fetched) => fetched.iter().max_by_key(|(_, at)| **at).map_or_else(
            || "never".to_owned(),
            |(client, at)| format!("{client}, {} ago", doctor::span(at.seconds_until(now))),
        ),
    }
}
