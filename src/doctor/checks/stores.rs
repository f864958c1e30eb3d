//! The checks of stores of keys: `stores`, `sealed-keys` and `remote-keys`.

use crate::config::KeysetConfig;
use crate::doctor::finding::{Observation, Observations};
use crate::doctor::input::{CheckInput, StoreLogin};
use crate::keys::{Keyset, KeysetKey};

pub(crate) fn logins(input: &CheckInput<'_>) -> Observations {
    let logins = input.configured.store_logins.iter();
    logins
        .map(|login| {
            let about = format!("stores.{}", login.store);
            match &login.remaining {
                Ok(Some(remaining)) => {
                    Observation::pass(about, format!("is logged in until {}", input.now.plus(*remaining)))
                }
                Ok(None) => Observation::pass(about, "is logged in, and that doesn't end by itself"),
                Err(error) => Observation::fail(about, error.to_string()),
            }
        })
        .collect()
}

pub(crate) fn sealed_keys(input: &CheckInput<'_>) -> Observations {
    let seal = |keyset: &KeysetConfig| keyset.seal.as_ref().map(|seal| seal.store.name.to_string());
    keysets(input, seal, |store, _| format!("store `{store}` opens its sealed keys"))
}

pub(crate) fn remote_keys(input: &CheckInput<'_>) -> Observations {
    let signed_by = |keyset: &KeysetConfig| keyset.signed_by.as_ref().map(|store| store.name.to_string());
    let key = |key: &KeysetKey| {
        let remote = key.signing.remote()?;
        Some(format!("`{remote}` for `{}` (RSA, {} bits)", key.kid, key.public().bits))
    };
    keysets(input, signed_by, |store, keyset| {
        let keys: Vec<String> = keyset.keys.iter().filter_map(key).collect();
        match keys.as_slice() {
            [] => format!("no key of keyset.toml has `remote`, so store `{store}` signs for nobody"),
            keys => format!("store `{store}` signs with {}", keys.join(", ")),
        }
    })
}

/// Observes each keyset of which `store` returns a store.
fn keysets(
    input: &CheckInput<'_>,
    store: impl Fn(&KeysetConfig) -> Option<String>,
    passed: impl Fn(&str, &Keyset) -> String,
) -> Observations {
    let (Some(ring), Some(config)) = (input.configured.ring, input.configured.config) else {
        return Vec::new();
    };
    let with_store = config.keysets.values().filter_map(|keyset| Some((keyset, store(keyset)?)));
    with_store
        .filter_map(|(keyset, store)| {
            let about = format!("keysets.{}", keyset.name);
            let loaded = ring.keysets.get(&keyset.name)?;
            let is_login_refused =
                |login: &StoreLogin| *login.store.as_str() == *store && login.remaining.is_err();
            Some(match &loaded.unopened {
                Some(_) if input.configured.store_logins.iter().any(is_login_refused) => {
                    Observation::skipped(about, format!("store `{store}` can't be used (stores says why)"))
                }
                Some(unopened) => Observation::fail(
                    about,
                    format!("{}: {}", unopened.problem.source, unopened.problem.message),
                ),
                None => Observation::pass(about, passed(&store, loaded)),
            })
        })
        .collect()
}
