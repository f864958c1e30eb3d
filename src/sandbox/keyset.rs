//! Verifies identity tokens against a keyset: fetched from its endpoint and cached, or uploaded in Setup.
//!
//! Salesforce documents no timeout, size limit or cache lifetime. The values here are strict: `JWKS_TIMEOUT` in `state`,
//! `MAX_JWKS_BYTES`, and the setting `jwks_cache`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::Sandbox;
use super::jwt::Jwt;
use super::org::{Deployment, KeySource};
use crate::clock::UnixTime;

const MAX_JWKS_BYTES: usize = 50 << 10;
const MIN_CERTIFICATE_SECONDS: i64 = 10 * 86_400;
/// The minimum for RS256 (RFC 7518, section 3.3).
const MIN_KEY_BITS: usize = 2048;

/// Verifies an identity token against the keyset of `deployment`. Returns its `sub`.
///
/// # Errors
/// The token isn't verified. The reason is for users of the sandbox, because Salesforce tells no reason.
pub(super) async fn verify_identity_token(
    sandbox: &Sandbox,
    deployment: &Deployment,
    token: &str,
) -> Result<String, String> {
    let jwt = Jwt::read(token)?;
    let algorithm = match jwt.header("alg") {
        Some("RS256") => Algorithm::RS256,
        Some("RS512") => Algorithm::RS512,
        _ => return Err("has an `alg` other than RS256 and RS512".to_owned()),
    };
    let kid = jwt.header("kid").ok_or("has no `kid` in its header")?;
    if jwt.claim("iss") != Some(deployment.issuer.as_str()) {
        return Err("has an `iss` that isn't, byte for byte, the issuer of the keyset".to_owned());
    }
    let (set, uploaded) = match &deployment.keys {
        KeySource::Uploaded(set) => (Arc::new(set.clone()), true),
        KeySource::Url(url) => (cached_jwks(sandbox, url).await?, false),
    };
    let keys = set["keys"].as_array().ok_or("has a keyset without `keys`")?;
    let jwk = keys.iter().find(|jwk| jwk["kid"] == kid);
    let jwk = jwk.ok_or("has a `kid` that no key of the keyset has")?;
    let key = public_key(jwk, uploaded).map_err(|why| format!("has a `kid` whose JWK {why}"))?;
    if jwk.get("alg").is_some_and(|alg| Some(alg) != jwt.header.get("alg")) {
        return Err("has another `alg` than its JWK".to_owned());
    }
    if !jwt.verified_by(&key, algorithm) {
        return Err("has a signature that the keyset's key doesn't verify".to_owned());
    }
    // The chat widget compares numbers: it treats a string or a duration as expired.
    let exp = jwt.claims.get("exp").and_then(Value::as_f64).ok_or("has no `exp` that is a number")?;
    #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit")]
    if exp <= sandbox.now() as f64 {
        return Err("has expired".to_owned());
    }
    match jwt.claim("sub") {
        Some(sub) if !sub.is_empty() => Ok(sub.to_owned()),
        _ => Err("has no `sub`".to_owned()),
    }
}

/// Validates a JWK like the upload form of Setup (Salesforce Help, "Troubleshooting User Verification").
///
/// A JWK without `x5c` is accepted, but never verifies a token. That was seen in live orgs.
///
/// # Errors
/// The JWK fails to upload. Says why.
pub fn upload_key(text: &str, now: UnixTime) -> Result<Value, String> {
    let jwk: Value = serde_json::from_str(text).map_err(|error| format!("isn't JSON: {error}"))?;
    if !jwk.is_object() || jwk.get("keys").is_some() {
        return Err("isn't one key: each is uploaded individually".to_owned());
    }
    if let Some(missing) = ["kty", "kid", "alg"].into_iter().find(|name| !jwk[*name].is_string()) {
        return Err(format!("lacks `{missing}`"));
    }
    if jwk.get("x5c").is_some() {
        let text = jwk["x5c"][0].as_str().ok_or("has an `x5c` that is no array of text")?;
        let der = STANDARD.decode(text).map_err(|_| "has an `x5c` that isn't plain base64")?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|_| "has an `x5c` that holds no certificate")?;
        let validity = certificate.validity();
        if validity.not_before.timestamp() > now.seconds() {
            return Err("has a certificate that isn't valid yet".to_owned());
        }
        if validity.not_after.timestamp() < now.seconds() + MIN_CERTIFICATE_SECONDS {
            return Err("has a certificate that isn't valid for another 10 days".to_owned());
        }
    }
    Ok(jwk)
}

/// The public key of a JWK. An uploaded JWK needs a certificate. If there is one, it must match the key (RFC 7517, section 4.7).
fn public_key(jwk: &Value, uploaded: bool) -> Result<DecodingKey, String> {
    if jwk["kty"] != "RSA" {
        return Err("isn't an RSA key".to_owned());
    }
    if jwk.get("use").is_some_and(|used| used != "sig") {
        return Err("has a `use` other than sig".to_owned());
    }
    let certified = match &jwk["x5c"][0] {
        Value::String(text) => Some(certificate_numbers(text)?),
        Value::Null if uploaded => return Err("has no `x5c`, and was uploaded".to_owned()),
        Value::Null => None,
        _ => return Err("has an `x5c` that isn't text".to_owned()),
    };
    let number = |name: &str| jwk[name].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let (n, e) = match (number("n"), number("e"), certified) {
        (Some(n), Some(e), Some(certified)) if (&n, &e) != (&certified.0, &certified.1) => {
            return Err("has a certificate of another key".to_owned());
        }
        (Some(n), Some(e), _) => (n, e),
        // A JWK may have `x5c` alone.
        (None, None, Some(certified)) if jwk.get("n").is_none() => certified,
        _ => return Err("has an `n` or `e` that isn't base64url without padding".to_owned()),
    };
    if n.len() * 8 < MIN_KEY_BITS {
        return Err("is shorter than 2048 bits".to_owned());
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

/// `n` and `e` of the certificate in an `x5c`, which is plain base64 (not base64url) without PEM lines.
fn certificate_numbers(text: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
    let der = STANDARD.decode(text).map_err(|_| "has an `x5c` that isn't plain base64")?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|_| "has an `x5c` that holds no certificate")?;
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => {
            let unsigned = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            Ok((unsigned(key.modulus), unsigned(key.exponent)))
        }
        _ => Err("has a certificate without an RSA key".to_owned()),
    }
}

async fn cached_jwks(sandbox: &Sandbox, url: &str) -> Result<Arc<Value>, String> {
    let now = sandbox.now();
    {
        let mut state = sandbox.state();
        let life = i64::try_from(state.settings.jwks_cache.as_secs()).unwrap_or(i64::MAX);
        if let Some((at, set)) = state.jwks.get(url)
            && now < at.saturating_add(life)
        {
            return Ok(set.clone());
        }
        state.counts.jwks_fetches += 1;
    }
    let set = fetch_jwks(sandbox.client(), url).await;
    let set = set.map_err(|why| format!("has a keyset whose endpoint {url} {why}"))?;
    let set = Arc::new(json!({"keys": set["keys"]}));
    sandbox.state().jwks.insert(url.to_owned(), (now, set.clone()));
    Ok(set)
}

/// Fetches a JWKS without following redirects and without credentials. Ignores the media type.
async fn fetch_jwks(client: &reqwest::Client, url: &str) -> Result<Value, String> {
    let unreachable = |error: reqwest::Error| {
        let why = if error.is_timeout() { "is too slow" } else { "can't be reached" };
        why.to_owned()
    };
    let mut response = client.get(url).send().await.map_err(unreachable)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("answers {}", response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_JWKS_BYTES {
            return Err("sends more than 50 KiB".to_owned());
        }
    }
    serde_json::from_slice(&body).map_err(|_| "doesn't send JSON".to_owned())
}
