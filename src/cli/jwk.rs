//! `tokenmint jwk` and `jwks`: the public keys, for Salesforce Setup and for people.

use clap::Args;
use serde_json::{Value, json};

use super::{Context, Failure, say_json, there_are};
use crate::jwks;

/// Print the single JWK of a key, to upload to Salesforce
///
/// In Setup: Enhanced Chat User Verification > New Key. Salesforce takes one key a file, never a set.
#[derive(Args)]
#[command(after_help = "Example: tokenmint jwk WebAppKey1 > WebAppKey1.jwk")]
pub(super) struct Jwk {
    /// The key id
    kid: String,
    /// Add the literal y, crv, d and k of Salesforce's sample, for a Setup page that insists on them
    #[arg(long)]
    upload_form: bool,
}

impl Jwk {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let loaded = context.load()?;
        let Some((keyset, key)) = loaded.ring.find(&self.kid) else {
            let keys = loaded.ring.keysets.values().flat_map(|keyset| &keyset.keys);
            let known = there_are(keys.map(|key| &key.kid));
            return Err(Failure::Failed(format!("there is no key `{}`; {known}", self.kid)));
        };
        let jwk = jwks::jwk(keyset, key, context.clock_and_rng.clock.now());
        let mut jwk = serde_json::to_value(jwk).map_err(Failure::failed)?;
        if self.upload_form {
            add_placeholders(&mut jwk);
        }
        say_json(&jwk);
        Ok(())
    }
}

/// The words that Salesforce's sample has where other kinds of key have numbers (Salesforce Help,
/// "Troubleshooting User Verification"). Nothing private: `d` is the letter d.
fn add_placeholders(jwk: &mut Value) {
    if let Value::Object(members) = jwk {
        for name in ["y", "crv", "d", "k"] {
            members.insert(name.to_owned(), json!(name));
        }
    }
}

/// Print the published keys as a JWK Set, as the JWKS endpoint serves them
#[derive(Args)]
#[command(after_help = "Example: tokenmint jwks --keyset web")]
pub(super) struct Jwks {
    /// Only this keyset [default: the union of all]
    #[arg(long, value_name = "NAME")]
    keyset: Option<String>,
}

impl Jwks {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let loaded = context.load()?;
        let now = context.clock_and_rng.clock.now();
        let set = match &self.keyset {
            None => jwks::set(loaded.ring.keysets.values(), now),
            Some(name) => {
                let keyset = loaded.ring.keysets.get(name.as_str());
                let known = || there_are(loaded.ring.keysets.keys());
                let missing = || Failure::Failed(format!("there is no keyset `{name}`; {}", known()));
                jwks::set([keyset.ok_or_else(missing)?], now)
            }
        };
        say_json(&set);
        Ok(())
    }
}
