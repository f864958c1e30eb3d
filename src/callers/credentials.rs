//! By what a caller is known: an API key, a name in its certificate, or the user that it runs as.
//!
//! Each credential is one caller's; the configuration sees to that.

use std::collections::{BTreeMap, HashMap};

use crate::config::{CallerConfig, ClientSan};
use crate::hash::sha256;

/// What a connection says of who is at its other end, as it was verified when it was made.
#[derive(Default)]
pub struct Peer {
    /// The names in the client's certificate.
    pub names: Vec<ClientSan>,
    /// Of a Unix socket: the user that the client ran as when it connected.
    pub uid: Option<u32>,
}

/// Whose each credential is, by the caller's place in the list.
#[derive(Default)]
pub(super) struct Credentials {
    /// By the SHA-256 of each API key. How long a look takes says nothing of a key: whoever sends one can't choose its
    /// digest, and knows none that would come near.
    keys: HashMap<[u8; 32], u32>,
    names: BTreeMap<ClientSan, u32>,
    uids: BTreeMap<u32, u32>,
}

impl Credentials {
    pub fn of<'a>(callers: impl Iterator<Item = &'a CallerConfig>) -> Self {
        let mut credentials = Self::default();
        for (caller, owner) in callers.zip(0..) {
            credentials.keys.extend(caller.api_key_sha256.iter().map(|digest| (*digest, owner)));
            credentials.names.extend(caller.client_san.iter().map(|name| (name.clone(), owner)));
            credentials.uids.extend(caller.peer_uid.map(|uid| (uid, owner)));
        }
        credentials
    }

    /// One look, however many callers there are.
    pub fn by_api_key(&self, api_key: &[u8]) -> Option<u32> {
        self.keys.get(&sha256(api_key)).copied()
    }

    /// Nobody, where what is known of the peer speaks of several callers.
    pub fn by_peer(&self, peer: &Peer) -> Option<u32> {
        let by_name = peer.names.iter().filter_map(|name| self.names.get(name));
        let mut owners = by_name.chain(peer.uid.and_then(|uid| self.uids.get(&uid)));
        let owner = *owners.next()?;
        owners.all(|other| *other == owner).then_some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PolicyMode;

    #[test]
    fn each_of_many_keys_is_its_caller_s_and_no_other_is_anybody_s() {
        let hash = |n: u32| sha256(format!("key {n}").as_bytes());
        let caller = |n: u32| CallerConfig {
            name: crate::config::Name::parse(&format!("c{n}")).expect("a name"),
            api_key_sha256: vec![hash(2 * n), hash(2 * n + 1)],
            client_san: Vec::new(),
            peer_uid: None,
            allow: Vec::new(),
            subjects: None,
            subjects_per_minute: None,
            policy: PolicyMode::Enforce,
            rate_limit: None,
        };
        let callers: Vec<CallerConfig> = (0..1_000).map(caller).collect();
        let credentials = Credentials::of(callers.iter());
        for n in 0..2_000 {
            assert_eq!(credentials.by_api_key(format!("key {n}").as_bytes()), Some(n / 2));
        }
        for wrong in ["key 2000", "key", "", "key 1 "] {
            assert_eq!(credentials.by_api_key(wrong.as_bytes()), None);
        }
    }
}
