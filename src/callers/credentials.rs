//! Authentication: finds the caller by its API key, by a name in its client certificate, or by the user of its process.
//!
//! Each credential belongs to one caller, which the configuration's validation ensures.

use std::collections::{BTreeMap, HashMap};

use crate::config::{CallerConfig, ClientSan};

/// The verified identity of a connection's client.
#[derive(Default)]
pub(crate) struct Peer {
    /// The DNS names and URIs among the subject alternative names of the client certificate.
    pub(crate) names: Vec<ClientSan>,
    /// On a Unix socket: the user id of the client process when it connected.
    pub(crate) uid: Option<u32>,
}

/// Maps each credential to the index of its caller.
#[derive(Default)]
pub(super) struct Credentials {
    /// By SHA-256 of the API key. No constant-time comparison is needed: an attacker can't choose digests that share a
    /// prefix with an unknown one.
    keys: HashMap<[u8; 32], u32>,
    names: BTreeMap<ClientSan, u32>,
    uids: BTreeMap<u32, u32>,
}

impl Credentials {
    pub(crate) fn of<'a>(callers: impl Iterator<Item = &'a CallerConfig>) -> Self {
        let mut credentials = Self::default();
        for (caller, caller_index) in callers.zip(0..) {
            credentials.keys.extend(caller.api_key_sha256.iter().map(|digest| (*digest, caller_index)));
            credentials.names.extend(caller.client_san.iter().map(|name| (name.clone(), caller_index)));
            credentials.uids.extend(caller.peer_uid.map(|uid| (uid, caller_index)));
        }
        credentials
    }

    /// Finds the caller with the API key of this SHA-256.
    pub(crate) fn by_api_key_digest(&self, digest: &[u8; 32]) -> Option<u32> {
        self.keys.get(digest).copied()
    }

    /// Finds the caller of a connection; `None` if its names and user id belong to no caller, or to different ones.
    pub(crate) fn by_peer(&self, peer: &Peer) -> Option<u32> {
        let by_name = peer.names.iter().filter_map(|name| self.names.get(name));
        let mut caller_indices = by_name.chain(peer.uid.and_then(|uid| self.uids.get(&uid)));
        let caller_index = *caller_indices.next()?;
        caller_indices.all(|other| *other == caller_index).then_some(caller_index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PolicyMode;
    use crate::hash::sha256;

    #[test]
    fn each_api_key_finds_its_caller_and_an_unknown_key_finds_none() {
        let hash = |n: u32| sha256(format!("key {n}").as_bytes());
        let caller = |n: u32| CallerConfig {
            name: crate::config::Name::parse(&format!("c{n}")).expect("a name"),
            api_key_sha256: vec![hash(2 * n), hash(2 * n + 1)],
            client_san: Vec::new(),
            peer_uid: None,
            jwt: None,
            subject_token: None,
            allow: Vec::new(),
            subjects: None,
            subjects_per_minute: None,
            policy: PolicyMode::Enforce,
            rate_limit: None,
        };
        let callers: Vec<CallerConfig> = (0..1_000).map(caller).collect();
        let credentials = Credentials::of(callers.iter());
        for n in 0..2_000 {
            assert_eq!(credentials.by_api_key_digest(&hash(n)), Some(n / 2));
        }
        for wrong in ["key 2000", "key", "", "key 1 "] {
            assert_eq!(credentials.by_api_key_digest(&sha256(wrong.as_bytes())), None);
        }
    }
}
