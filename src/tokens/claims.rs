//! The extra claims that a caller may set.

use super::invalid_field::InvalidField;
use crate::json::Members;

/// Claims that the profile lists, in the caller's order, unaltered. None of the registered ones can be here:
/// the configuration lets no profile list them.
#[derive(Clone, Default)]
pub struct Claims(Members);

impl Claims {
    /// # Errors
    /// The first claim that `allowed` doesn't list.
    pub fn validate(asked: Members, allowed: &[String]) -> Result<Self, InvalidField> {
        match asked.iter().find(|(name, _)| !allowed.contains(name)) {
            None => Ok(Self(asked)),
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

    /// The same claims, in whatever order they came, as the same bytes.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut bytes = Vec::new();
        for claim in sorted {
            write_json(&mut bytes, claim);
        }
        bytes
    }

    /// Writes them behind other members, each with a comma before it.
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
