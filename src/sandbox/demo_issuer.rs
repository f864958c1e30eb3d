//! [`DemoIssuer`]: a made-up identity provider for `tokenmint dev`. Like the rest of the sandbox, it shares no code with the modules
//! that verify JWTs.

use std::io;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::server::serve_router;

const KID: &str = "demo";
/// How long its tokens live, in seconds.
const TOKEN_LIFETIME: i64 = 3_600;

/// An issuer with one ES256 key, which exists only in memory.
pub(crate) struct DemoIssuer {
    url: String,
    key: EcdsaKeyPair,
    randomness: SystemRandom,
    jwk: Value,
}

impl DemoIssuer {
    /// Generates the key. `url` is the address of the issuer, and the `iss` of its tokens.
    ///
    /// # Errors
    /// The host gives no random bytes.
    pub(crate) fn new(url: String) -> io::Result<Self> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let randomness = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &randomness).map_err(io::Error::other)?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).map_err(io::Error::other)?;
        // An uncompressed point (SEC 1, section 2.3.3): the byte 4, then both coordinates.
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({
            "kty": "EC",
            "crv": "P-256",
            "kid": KID,
            "use": "sig",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        });
        Ok(Self { url, key, randomness, jwk })
    }

    /// Issues a JWT for `sub` and `aud` that is valid for an hour from `now`, in seconds since 1970.
    ///
    /// # Errors
    /// The token can't be signed.
    pub(crate) fn token(&self, sub: &str, aud: &str, now: i64) -> io::Result<String> {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": KID});
        let claims =
            json!({"iss": self.url, "aud": aud, "sub": sub, "iat": now, "exp": now + TOKEN_LIFETIME});
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.key.sign(&self.randomness, signed.as_bytes()).map_err(io::Error::other)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Serves the metadata (`OpenID` Connect Discovery 1.0) and the JWKS on `listener`.
    ///
    /// # Errors
    /// The listener fails.
    pub(crate) async fn serve(self, listener: TcpListener) -> io::Result<()> {
        let metadata = json!({
            "issuer": self.url,
            "jwks_uri": format!("{}/jwks.json", self.url),
            "id_token_signing_alg_values_supported": ["ES256"],
        });
        let jwks = json!({"keys": [self.jwk]});
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(async || axum::Json(metadata)))
            .route("/jwks.json", get(async || axum::Json(jwks)));
        serve_router(listener, router, CancellationToken::new()).await
    }
}
