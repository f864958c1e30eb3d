//! [`KeySet`]: the keys of an issuer, from a JWKS (RFC 7517) or a shared secret.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use thiserror::Error;

use super::jwt::UnverifiedJwt;
use super::refusal::Refusal;
use crate::json::Json;

/// The sizes of an RSA modulus that are used, in bits. Larger ones make verification slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The largest number of usable keys. A real JWKS has two to ten.
const MAX_KEYS: usize = 100;
/// The number of keys with which a token without `kid` is verified, at most.
const MAX_TRIES: usize = 8;

/// The keys of an issuer that can verify.
pub(crate) struct KeySet {
    keys: Vec<VerifyingKey>,
    /// Whether the key is a secret, which has no `kid`.
    is_secret: bool,
}

struct VerifyingKey {
    kid: Option<String>,
    /// The configured algorithms that fit the key. Never empty.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why a JWKS can't be used. The messages continue a sentence about it.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum KeySetError {
    #[error("isn't a JWKS: a JSON object with an array `keys`, and no member twice (RFC 7517, section 5)")]
    NotAJwks,
    #[error("has no key for signatures with {0}")]
    NoUsableKey(String),
    #[error("has two keys with the same `kid`")]
    DuplicateKeyId,
    #[error("has more than {MAX_KEYS} keys")]
    TooManyKeys,
}

impl KeySet {
    /// The one key of HS256.
    pub(super) fn of_secret(secret: &[u8]) -> Self {
        let key = DecodingKey::from_secret(secret).expect("a secret of at least 32 bytes isn't empty");
        let key = VerifyingKey { kid: None, algorithms: vec![Algorithm::HS256], key };
        Self { keys: vec![key], is_secret: true }
    }

    /// Parses a JWKS. Skips keys that fit none of `algorithms`: other kinds, weak or malformed ones, and keys for encryption.
    ///
    /// # Errors
    /// It isn't a JWKS, has no usable key, or two usable keys have the same `kid`.
    pub(super) fn parse(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeySetError> {
        let set = Json::parse(text).map_err(|_| KeySetError::NotAJwks)?;
        let Some(Json::Array(jwks)) = set.member("keys") else { return Err(KeySetError::NotAJwks) };
        if set.duplicate_key().is_some() {
            return Err(KeySetError::NotAJwks);
        }
        let keys: Vec<VerifyingKey> =
            jwks.iter().filter_map(|jwk| VerifyingKey::from_jwk(jwk, algorithms)).collect();
        if keys.is_empty() {
            let names: Vec<String> = algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect();
            return Err(KeySetError::NoUsableKey(names.join(" or ")));
        }
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys);
        }
        let mut kids = HashSet::new();
        if keys.iter().filter_map(|key| key.kid.as_deref()).any(|kid| !kids.insert(kid)) {
            return Err(KeySetError::DuplicateKeyId);
        }
        Ok(Self { keys, is_secret: false })
    }

    /// The number of usable keys.
    pub(crate) const fn count(&self) -> usize {
        self.keys.len()
    }

    /// The `kid` of each key that has one.
    pub(crate) fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.kid.as_deref())
    }

    pub(super) fn has_kid(&self, kid: &str) -> bool {
        self.kids().any(|published| published == kid)
    }

    /// Verifies the signature of a token: with the key that its `kid` names, or without `kid` with each key that fits `algorithm`.
    ///
    /// # Errors
    /// There is no such key, its algorithm is another one, or the signature is wrong.
    pub(super) fn verify(&self, jwt: &UnverifiedJwt<'_>, algorithm: Algorithm) -> Result<(), Refusal> {
        let kid = jwt.kid().filter(|_| !self.is_secret);
        if kid.is_some_and(|kid| !self.has_kid(kid)) {
            return Err(Refusal::UnknownKey);
        }
        let is_candidate = |key: &&VerifyingKey| {
            kid.is_none_or(|kid| key.kid.as_deref() == Some(kid)) && key.algorithms.contains(&algorithm)
        };
        let mut fitting = self.keys.iter().filter(is_candidate).peekable();
        if fitting.peek().is_none() {
            return Err(Refusal::Algorithm);
        }
        let is_signed_with = |key: &VerifyingKey| {
            let signed = jwt.signed.as_bytes();
            // An error means that the signature has no valid form.
            jsonwebtoken::crypto::verify(jwt.signature, signed, &key.key, algorithm).unwrap_or(false)
        };
        if fitting.take(MAX_TRIES).any(is_signed_with) { Ok(()) } else { Err(Refusal::Signature) }
    }
}

impl VerifyingKey {
    /// A key of a JWKS; `None` if it fits none of `algorithms`.
    fn from_jwk(jwk: &Json, algorithms: &[Algorithm]) -> Option<Self> {
        if jwk.member("use").is_some() && jwk.text("use") != Some("sig") {
            return None;
        }
        if let Some(operations) = jwk.member("key_ops") {
            let Json::Array(operations) = operations else { return None };
            if !operations.iter().any(|operation| matches!(operation, Json::String(text) if text == "verify"))
            {
                return None;
            }
        }
        let kid = match jwk.member("kid") {
            None => None,
            Some(Json::String(kid)) => Some(kid.clone()),
            Some(_) => return None,
        };
        let coordinate = |name: &str, length: usize| {
            let text = jwk.text(name)?;
            (URL_SAFE_NO_PAD.decode(text).ok()?.len() == length).then_some(text)
        };
        let (key, fits): (DecodingKey, fn(Algorithm) -> bool) = match (jwk.text("kty")?, jwk.text("crv")) {
            ("RSA", _) => {
                let (n, e) = (jwk.text("n")?, jwk.text("e")?);
                if !is_usable_rsa(&URL_SAFE_NO_PAD.decode(n).ok()?, &URL_SAFE_NO_PAD.decode(e).ok()?) {
                    return None;
                }
                let key = DecodingKey::from_rsa_components(n, e).ok()?;
                (key, |algorithm| algorithm.family() == AlgorithmFamily::Rsa)
            }
            ("EC", Some("P-256")) => {
                let key = DecodingKey::from_ec_components(coordinate("x", 32)?, coordinate("y", 32)?).ok()?;
                (key, |algorithm| algorithm == Algorithm::ES256)
            }
            ("EC", Some("P-384")) => {
                let key = DecodingKey::from_ec_components(coordinate("x", 48)?, coordinate("y", 48)?).ok()?;
                (key, |algorithm| algorithm == Algorithm::ES384)
            }
            ("OKP", Some("Ed25519")) => {
                let key = DecodingKey::from_ed_components(coordinate("x", 32)?).ok()?;
                (key, |algorithm| algorithm == Algorithm::EdDSA)
            }
            _ => return None,
        };
        let named = match jwk.member("alg") {
            None => None,
            Some(Json::String(name)) => Some(name.parse::<Algorithm>().ok()?),
            Some(_) => return None,
        };
        let is_usable =
            |algorithm: &Algorithm| fits(*algorithm) && named.is_none_or(|named| named == *algorithm);
        let algorithms: Vec<Algorithm> = algorithms.iter().copied().filter(is_usable).collect();
        (!algorithms.is_empty()).then_some(Self { kid, algorithms, key })
    }
}

/// Whether an RSA key with this modulus and exponent is neither weak nor slow.
fn is_usable_rsa(modulus: &[u8], exponent: &[u8]) -> bool {
    let leading_zeros = modulus.first().map_or(8, |byte| byte.leading_zeros() as usize);
    let bits = (modulus.len() * 8).saturating_sub(leading_zeros);
    let is_usable_exponent = match exponent {
        [] | [0, ..] => false,
        [one] => *one >= 3 && one % 2 == 1,
        all => all.len() <= 4 && all.last().is_some_and(|last| last % 2 == 1),
    };
    leading_zeros < 8 && RSA_BITS.contains(&bits) && is_usable_exponent
}
