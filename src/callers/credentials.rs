//! By what a caller is known: an API key, a name in its certificate, or the user that it runs as.
//!
//! Each credential is one caller's; the configuration sees to that.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};

use aws_lc_rs::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use crate::config::{Caller, ClientName};

/// What a connection says of who is at its other end, as it was verified when it was made.
#[derive(Default)]
pub struct Peer {
    /// The names in the client's certificate.
    pub names: Vec<ClientName>,
    /// Of a Unix socket: the user that the client ran as when it connected.
    pub uid: Option<u32>,
}

/// In the place of a key that isn't there: no text is known to have this digest.
const NOBODY: ([u8; 32], u32) = ([0; 32], 0);

/// Whose each credential is, by the caller's place in the list.
#[derive(Default)]
pub(super) struct Credentials {
    /// SHA-256 of each API key, in the place that `places` gives it.
    keys: HashMap<u64, ([u8; 32], u32)>,
    /// Keyed anew at each load: nobody can choose a key that comes near another's place.
    places: RandomState,
    names: BTreeMap<ClientName, u32>,
    uids: BTreeMap<u32, u32>,
}

impl Credentials {
    pub fn of<'a>(callers: impl Iterator<Item = &'a Caller>) -> Self {
        let mut credentials = Self::default();
        let mut keys = Vec::new();
        for (caller, owner) in callers.zip(0..) {
            keys.extend(caller.api_key_sha256.iter().map(|digest| (*digest, owner)));
            credentials.names.extend(caller.client_san.iter().map(|name| (name.clone(), owner)));
            credentials.uids.extend(caller.peer_uid.map(|uid| (uid, owner)));
        }
        // Two in one place are one chance in 2^64 for each pair; then places are dealt again.
        while credentials.keys.len() < keys.len() {
            credentials.places = RandomState::new();
            let place = |key: &([u8; 32], u32)| (credentials.places.hash_one(key.0), *key);
            credentials.keys = keys.iter().map(place).collect();
        }
        credentials
    }

    /// One look and one comparison, however many callers there are. It takes as long for a wrong key as for a right one,
    /// and no longer for one whose digest begins like another's.
    pub fn by_api_key(&self, api_key: &[u8]) -> Option<u32> {
        let presented = digest(&SHA256, api_key);
        let place = self.places.hash_one(presented.as_ref());
        let (known, owner) = self.keys.get(&place).unwrap_or(&NOBODY);
        bool::from(known.ct_eq(presented.as_ref())).then_some(*owner)
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
    use crate::config::Policy;

    #[test]
    fn each_of_many_keys_is_its_caller_s_and_no_other_is_anybody_s() {
        let hash =
            |n: u32| digest(&SHA256, format!("key {n}").as_bytes()).as_ref().try_into().expect("32 bytes");
        let caller = |n: u32| Caller {
            name: crate::config::Name::parse(&format!("c{n}")).expect("a name"),
            api_key_sha256: vec![hash(2 * n), hash(2 * n + 1)],
            client_san: Vec::new(),
            peer_uid: None,
            allow: Vec::new(),
            subjects: None,
            subjects_per_minute: None,
            policy: Policy::Enforce,
            pace: None,
        };
        let callers: Vec<Caller> = (0..1_000).map(caller).collect();
        let credentials = Credentials::of(callers.iter());
        for n in 0..2_000 {
            assert_eq!(credentials.by_api_key(format!("key {n}").as_bytes()), Some(n / 2));
        }
        for wrong in ["key 2000", "key", "", "key 1 "] {
            assert_eq!(credentials.by_api_key(wrong.as_bytes()), None);
        }
    }
}
