//! The extra claims that callers may set in a token: validated against the profile's `claims`, and written as JSON. Their
//! canonical form is part of a messaging access token's cache key.

use super::invalid_field::InvalidField;
use crate::json::Members;

/// Extra claims, all listed by the profile, in the caller's order and unaltered. Registered claims (`iss`, `exp`, …) can't be
/// among them: the configuration rejects a profile that lists one.
#[derive(Clone, Default)]
pub struct Claims(Members);

impl Claims {
    /// Accepts `requested` if `allowed` lists every claim.
    ///
    /// # Errors
    /// Names the first claim that `allowed` doesn't list.
    pub(crate) fn validate(requested: Members, allowed: &[String]) -> Result<Self, InvalidField> {
        match requested.iter().find(|(name, _)| !allowed.contains(name)) {
            None => Ok(Self(requested)),
            Some((name, _)) => {
                let message = if allowed.is_empty() {
                    "isn't allowed: the profile lists no `claims` that callers may set".to_owned()
                } else {
                    format!("isn't allowed: callers of this profile may set {}", allowed.join(", "))
                };
                Err(InvalidField::new(format!("claims.{name}"), message))
            }
        }
    }

    /// Serializes the claims sorted by name, so that their order doesn't matter. Objects in their values aren't sorted.
    pub(crate) fn canonical_bytes(&self) -> Vec<u8> {
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut bytes = Vec::new();
        for claim in sorted {
            write_json(&mut bytes, claim);
        }
        bytes
    }

    /// Appends the claims to a JSON object that already has members: each with a comma before it.
    pub(super) fn write(&self, payload: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            payload.push(b',');
            write_json(payload, name);
            payload.push(b':');
            write_json(payload, value);
        }
    }
}

pub(super) fn write_json(payload: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(payload, value).expect("strings and parsed JSON can be written to memory");
}
