//! Writes the JWS Compact Serialization (RFC 7515, section 7.1) in one pass: a header that was encoded at load, the payload
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

/// Signs a profile's tokens with its keyset.
pub(super) struct KeysetSigner {
    keyset: Arc<Keyset>,
    /// `base64url(header).` of each key, in the order of `keyset.keys`.
    encoded_headers: Vec<String>,
}

impl KeysetSigner {
    pub(crate) fn new(keyset: Arc<Keyset>) -> Self {
        let algorithm = match keyset.algorithm {
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
        };
        let encoded_headers =
            keyset.keys.iter().map(|key| encode_header(&header(algorithm, &key.kid))).collect();
        Self { keyset, encoded_headers }
    }

    /// Returns the id of the key that signs at `now`.
    pub(crate) fn signing_kid(&self, now: UnixTime) -> Result<&KeyId, MintError> {
        self.signing_position(now).map(|position| &self.keyset.keys[position].kid)
    }

    /// Whether the keyset has a key of that id, expired keys included and retired keys excluded.
    pub(crate) fn contains_kid(&self, kid: &KeyId) -> bool {
        let gone = self
            .keyset
            .gone
            .iter()
            .map(|validity| &validity.entry)
            .filter(|entry| entry.retired.is_none())
            .map(|entry| &entry.kid);
        self.keyset.keys.iter().map(|key| &key.kid).chain(gone).any(|one| one == kid)
    }

    fn signing_position(&self, now: UnixTime) -> Result<usize, MintError> {
        if self.keyset.is_closed() {
            return Err(MintError::KeysetClosed);
        }
        self.keyset.signing_position(now).ok_or_else(|| {
            let next = self.keyset.keys.iter().filter_map(|key| key.validity.next_signing_time(now)).min();
            MintError::NoSigningKey { seconds_until_next: next.map(|next| now.seconds_until(next)) }
        })
    }

    /// Signs `payload` with the key that signs at `now`, and counts the token until `expires_at`, the payload's `exp`.
    pub(crate) async fn sign(
        &self,
        payload: &[u8],
        now: UnixTime,
        expires_at: UnixTime,
        signer: &Signer,
    ) -> Result<(SecretString, KeyId), MintError> {
        let position = self.signing_position(now)?;
        let key = &self.keyset.keys[position];
        let mut token = signing_input(&self.encoded_headers[position], payload, key.public().signature_len());
        let signature = signer.sign(&key.signing, self.keyset.algorithm, token.as_bytes()).await?;
        append_signature(&mut token, &signature);
        key.live_tokens.record(expires_at);
        Ok((SecretString::from(std::mem::take(&mut *token)), key.kid.clone()))
    }
}

/// The header `alg`, `typ` and `kid`.
fn header(algorithm: jsonwebtoken::Algorithm, kid: &KeyId) -> Header {
    Header { kid: Some(kid.to_string()), ..Header::new(algorithm) }
}

/// Encodes a header, with the dot behind it.
pub(super) fn encode_header(header: &Header) -> String {
    let header = serde_json::to_vec(header).expect("strings can be written to memory");
    let mut header = URL_SAFE_NO_PAD.encode(header);
    header.push('.');
    header
}

/// Returns the JWS signing input, with capacity for the signature, so that the token is never copied.
pub(super) fn signing_input(header: &str, payload: &[u8], signature_len: usize) -> Zeroizing<String> {
    let encoded = |len: usize| len.div_ceil(3) * 4;
    let capacity = header.len() + encoded(payload.len()) + 1 + encoded(signature_len);
    let mut token = Zeroizing::new(String::with_capacity(capacity));
    token.push_str(header);
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    token
}

/// Appends the dot and the encoded signature.
pub(super) fn append_signature(token: &mut String, signature: &[u8]) {
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, token);
}

/// Encodes a profile's fixed claims as the beginning of a JSON object: `{"name":"value",`.
pub(super) fn encode_fixed_claims(fixed: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut payload = vec![b'{'];
    for (name, value) in fixed.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        write_json(&mut payload, name);
        payload.push(b':');
        write_json(&mut payload, value);
        payload.push(b',');
    }
    payload
}

/// Appends `"iat":…,"exp":…` (RFC 7519, sections 4.1.4 and 4.1.6).
pub(super) fn write_time_claims(payload: &mut Vec<u8>, issued_at: UnixTime, expires_at: UnixTime) {
    payload.extend_from_slice(b"\"iat\":");
    write_json(payload, &issued_at);
    payload.extend_from_slice(b",\"exp\":");
    write_json(payload, &expires_at);
}
