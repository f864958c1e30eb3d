//! The compact serialisation of RFC 7515, section 7.1, in one pass: a head that was made at load, the payload
//! in base64url behind it, then the signature over both.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Header;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::claims::write_json;
use super::minted::MintError;
use super::signer::Signer;
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId};
use crate::keys::Keyset;

/// A keyset as a profile signs with it.
pub(super) struct Template {
    keyset: Arc<Keyset>,
    /// `base64url(header).`, one for each key of the set, in its order.
    heads: Vec<String>,
}

impl Template {
    pub fn new(keyset: Arc<Keyset>) -> Self {
        let algorithm = match keyset.algorithm {
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
        };
        let heads = keyset.keys.iter().map(|key| head(algorithm, Some(&key.kid))).collect();
        Self { keyset, heads }
    }

    /// The key whose turn it is at `now`.
    pub fn signing_kid(&self, now: UnixTime) -> Result<&KeyId, MintError> {
        self.position(now).map(|position| &self.keyset.keys[position].kid)
    }

    /// Whether a key of that id is one of the set, or was until its life was over; a retired one is none.
    pub fn contains_kid(&self, kid: &KeyId) -> bool {
        let past = self
            .keyset
            .past
            .iter()
            .map(|life| &life.entry)
            .filter(|entry| entry.retired.is_none())
            .map(|entry| &entry.kid);
        self.keyset.keys.iter().map(|key| &key.kid).chain(past).any(|known| known == kid)
    }

    fn position(&self, now: UnixTime) -> Result<usize, MintError> {
        self.keyset.signing(now).ok_or_else(|| {
            let next = self.keyset.keys.iter().filter_map(|key| key.life.next_signature(now)).min();
            MintError::NoSigningKey { seconds: next.map(|next| now.seconds_until(next)) }
        })
    }

    /// Signs `payload`, which says that it ends at `expires_at`, with the key whose turn it is at `now`.
    pub async fn sign(
        &self,
        payload: &[u8],
        now: UnixTime,
        expires_at: UnixTime,
        signer: &Signer,
    ) -> Result<(SecretString, KeyId), MintError> {
        let position = self.position(now)?;
        let key = &self.keyset.keys[position];
        let mut token = begin(&self.heads[position], payload, key.private.signature_len());
        let signature = signer.sign(&key.private, self.keyset.algorithm, token.as_bytes()).await?;
        end(&mut token, &signature);
        key.usage.signed(expires_at);
        Ok((SecretString::from(std::mem::take(&mut *token)), key.kid.clone()))
    }
}

/// `alg`, `typ` and, where the key has one, `kid`.
pub(super) fn head(algorithm: jsonwebtoken::Algorithm, kid: Option<&KeyId>) -> String {
    let header = Header { kid: kid.map(KeyId::to_string), ..Header::new(algorithm) };
    let header = serde_json::to_vec(&header).expect("strings can be written to memory");
    let mut head = URL_SAFE_NO_PAD.encode(header);
    head.push('.');
    head
}

/// The signing input, with room for the signature, so that nothing is copied later.
pub(super) fn begin(head: &str, payload: &[u8], signature_len: usize) -> Zeroizing<String> {
    let encoded = |len: usize| len.div_ceil(3) * 4;
    let capacity = head.len() + encoded(payload.len()) + 1 + encoded(signature_len);
    let mut token = Zeroizing::new(String::with_capacity(capacity));
    token.push_str(head);
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    token
}

pub(super) fn end(token: &mut String, signature: &[u8]) {
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, token);
}

/// The fixed claims of a profile, `{"name":"value",…`, open at the end.
pub(super) fn open_payload(fixed: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut payload = vec![b'{'];
    for (name, value) in fixed.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        write_json(&mut payload, name);
        payload.push(b':');
        write_json(&mut payload, value);
        payload.push(b',');
    }
    payload
}

/// `"iat":…,"exp":…` (RFC 7519, sections 4.1.4 and 4.1.6).
pub(super) fn write_times(payload: &mut Vec<u8>, issued_at: UnixTime, expires_at: UnixTime) {
    payload.extend_from_slice(b"\"iat\":");
    write_json(payload, &issued_at);
    payload.extend_from_slice(b",\"exp\":");
    write_json(payload, &expires_at);
}
