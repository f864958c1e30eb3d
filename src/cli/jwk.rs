//! `tokenmint jwk` and `jwks`: print public keys, as a JWK for Salesforce Setup or as a JWK Set.

use clap::Args;
use serde_json::{Value, json};

use super::{CliContext, CliError, list_known_names, print_json};
use crate::jwks;

/// Print the single JWK of a key, to upload to Salesforce
///
/// In Setup: Enhanced Chat User Verification > New Key. Salesforce accepts one key in each file, never a set.
#[derive(Args)]
#[command(after_help = "Example: tokenmint jwk WebAppKey1 > WebAppKey1.jwk")]
pub(super) struct JwkCommand {
    /// The key id
    kid: String,
    /// Add the literal y, crv, d and k of Salesforce's sample, for a Setup page that insists on them
    #[arg(long)]
    upload_form: bool,
}

impl JwkCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let loaded = context.load_with_all_keys()?;
        let Some((keyset, key)) = loaded.ring.find(&self.kid) else {
            let keys = loaded.ring.keysets.values().flat_map(|keyset| &keyset.keys);
            let known = list_known_names(keys.map(|key| &key.kid));
            return Err(CliError::Failed(format!("there is no key `{}`; {known}", self.kid)));
        };
        let jwk = jwks::jwk(keyset, key, context.clock_and_rng.clock.now());
        let mut jwk = serde_json::to_value(jwk).map_err(CliError::failed)?;
        if self.upload_form {
            add_placeholders(&mut jwk);
        }
        print_json(&jwk);
        Ok(())
    }
}

/// Adds the literal words that Salesforce's sample has as members of other key types (Salesforce Help,
/// "Troubleshooting User Verification"). Nothing private is added: `d` is the letter d.
fn add_placeholders(jwk: &mut Value) {
    if let Value::Object(members) = jwk {
        for name in ["y", "crv", "d", "k"] {
            members.insert(name.to_owned(), json!(name));
        }
    }
}

/// Print the published keys as a JWK Set, like the JWKS endpoint
#[derive(Args)]
#[command(after_help = "Example: tokenmint jwks --keyset web")]
pub(super) struct JwksCommand {
    /// Only this keyset [default: all keysets together]
    #[arg(long, value_name = "NAME")]
    keyset: Option<String>,
}

impl JwksCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let loaded = context.load_with_all_keys()?;
        let now = context.clock_and_rng.clock.now();
        let set = match &self.keyset {
            None => jwks::jwk_set(loaded.ring.keysets.values(), now),
            Some(name) => {
                let keyset = loaded.ring.keysets.get(name.as_str());
                let known = || list_known_names(loaded.ring.keysets.keys());
                let missing = || CliError::Failed(format!("there is no keyset `{name}`; {}", known()));
                jwks::jwk_set([keyset.ok_or_else(missing)?], now)
            }
        };
        print_json(&set);
        Ok(())
    }
}
