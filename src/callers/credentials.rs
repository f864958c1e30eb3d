//! By what a caller is known: an API key, a name in its certificate, or the user that it runs as.
//!
//! Each credential is one caller's; the configuration sees to that.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::config::{Caller, ClientName};

/// What a connection says of who is at its other end, as it was verified when it was made.
#[derive(Default)]
pub struct Peer {
    /// The names in the client's certificate.
    pub names: Vec<ClientName>,
    /// Of a Unix socket: the user that the client ran as when it connected.
    pub uid: Option<u32>,
}

/// Whose each credential is, by the caller's place in the list.
#[derive(Default)]
pub(super) struct Credentials {
    /// SHA-256 of an API key.
    keys: Vec<([u8; 32], u32)>,
    names: BTreeMap<ClientName, u32>,
    uids: BTreeMap<u32, u32>,
}

impl Credentials {
    pub fn of<'a>(callers: impl Iterator<Item = &'a Caller>) -> Self {
        let mut credentials = Self::default();
        for (caller, owner) in callers.zip(0..) {
            credentials.keys.extend(caller.api_key_sha256.iter().map(|digest| (*digest, owner)));
            credentials.names.extend(caller.client_san.iter().map(|name| (name.clone(), owner)));
            credentials.uids.extend(caller.peer_uid.map(|uid| (uid, owner)));
        }
        credentials
    }

    /// Takes as long for a wrong key as for a right one, whosever it is.
    pub fn by_api_key(&self, api_key: &[u8]) -> Option<u32> {
        let presented = digest(&SHA256, api_key);
        let mut found = Choice::from(0);
        let mut owner = 0_u32;
        for (known, whose) in &self.keys {
            let same = known.ct_eq(presented.as_ref());
            owner.conditional_assign(whose, same);
            found |= same;
        }
        bool::from(found).then_some(owner)
    }

    /// Nobody, where what is known of the peer speaks of several callers.
    pub fn by_peer(&self, peer: &Peer) -> Option<u32> {
        let by_name = peer.names.iter().filter_map(|name| self.names.get(name));
        let mut owners = by_name.chain(peer.uid.and_then(|uid| self.uids.get(&uid)));
        let owner = *owners.next()?;
        owners.all(|other| *other == owner).then_some(owner)
    }
}
