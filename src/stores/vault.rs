//! The transit secrets engine of HashiCorp Vault and OpenBao.
//!
//! - <https://openbao.org/api-docs/secret/transit/>: `encrypt` and `decrypt` with `associated_data`, which only keys of authenticated
//!   encryption support, for example `aes256-gcm96`. `sign` takes the hash function from its path, and a signature says which version of
//!   the key made it.
//! - <https://openbao.org/api-docs/auth/jwt/#jwt-login>: the login by a JWT. The auth method `kubernetes` has the same request.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret as _, SecretBox};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::StoreError;
use super::http_api;
use super::store::{BoxFuture, DATA_KEY_LEN, DataKey, SealContext, SessionLifetime, Store};
use crate::config::{Algorithm, RemoteKeyName, VaultConfig, VaultLogin};

const TOKEN_HEADER: &str = "X-Vault-Token";
const NAMESPACE_HEADER: &str = "X-Vault-Namespace";
/// Vault requires this header where its agent is configured so, as a protection against request forgery.
const REQUEST_HEADER: &str = "X-Vault-Request";

const SEAL_KEY_ADVICE: &str = "; `seal_key` must exist, and be of type aes256-gcm96";

/// A session with one store.
pub(super) struct Vault {
    client: Client,
    /// `address` with `/v1/`.
    base: String,
    mount: String,
    namespace: Option<HeaderValue>,
    token: Option<HeaderValue>,
    /// Whether the token came from a login, so that it is revoked at the end.
    is_own_token: bool,
    lifetime: Option<SessionLifetime>,
}

/// The outcome of a request: a body, or the status and the errors that the store lists.
enum Answer {
    Success(Zeroizing<Vec<u8>>),
    Failure(StatusCode, Option<String>),
}

/// The errors that a store lists, or else its status.
fn said(status: StatusCode, errors: Option<String>) -> String {
    errors.unwrap_or_else(|| format!("status {}", status.as_u16()))
}

impl Vault {
    /// Reads the token, or logs in with the JWT.
    ///
    /// # Errors
    /// A file can't be used, or the store refuses the login or doesn't answer.
    pub(super) async fn log_in(config: &VaultConfig) -> Result<Self, StoreError> {
        let namespace = config.namespace.as_deref().map(|name| {
            HeaderValue::from_str(name).expect("a namespace has letters, digits and a few other characters")
        });
        let mut vault = Self {
            client: http_api::client(config.ca_file.as_ref())?,
            base: format!("{}/v1/", config.address.as_str().trim_end_matches('/')),
            mount: config.mount.clone(),
            namespace,
            token: None,
            is_own_token: false,
            lifetime: None,
        };
        match &config.login {
            VaultLogin::TokenFile(file) => {
                vault.token = Some(token_header(&http_api::read_token("token_file", file.as_path())?)?);
            }
            VaultLogin::Jwt { mount, role, jwt_file } => {
                let jwt = http_api::read_token("jwt_file", jwt_file.as_path())?;
                let login = vault.post(&format!("auth/{mount}/login"), &Login { role, jwt: &jwt }).await?;
                let body = match login {
                    Answer::Success(body) => body,
                    // Vault answers 400 to a JWT or role that it doesn't accept.
                    Answer::Failure(status, errors) => {
                        let said = said(status, errors);
                        return Err(StoreError::Denied(format!("the login as `{role}` failed: {said}")));
                    }
                };
                let reply: LoginReply<'_> = parse(&body)?;
                vault.token = Some(token_header(reply.auth.client_token)?);
                vault.is_own_token = true;
                // Zero means that the token doesn't expire.
                let seconds = Some(reply.auth.lease_duration).filter(|seconds| *seconds > 0);
                vault.lifetime = seconds
                    .map(Duration::from_secs)
                    .map(|ends_after| SessionLifetime { renew_after: ends_after / 2, ends_after });
            }
        }
        Ok(vault)
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, StoreError> {
        let request = self.client.post(format!("{}{path}", self.base));
        self.send(path, request.header(CONTENT_TYPE, "application/json").body(http_api::json(body))).await
    }

    async fn get(&self, path: &str) -> Result<Answer, StoreError> {
        self.send(path, self.client.get(format!("{}{path}", self.base))).await
    }

    /// Sends a request. Any status but 2xx, 400 and 404 is an error.
    async fn send(&self, path: &str, request: RequestBuilder) -> Result<Answer, StoreError> {
        let mut request = request.header(REQUEST_HEADER, "true");
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE_HEADER, namespace.clone());
        }
        if let Some(token) = &self.token {
            request = request.header(TOKEN_HEADER, token.clone());
        }
        let (status, body) = http_api::send(request).await?;
        if status.is_success() {
            return Ok(Answer::Success(body));
        }
        let errors = listed_errors(&body);
        if matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) {
            // A proxy may answer so too.
            parse::<Errors>(&body)?;
            return Ok(Answer::Failure(status, errors));
        }
        let said = said(status, errors);
        match status {
            // A path that doesn't exist is forbidden too, for a token whose policy doesn't name it.
            StatusCode::FORBIDDEN => Err(StoreError::Denied(format!("{said}, at {path}"))),
            StatusCode::TOO_MANY_REQUESTS => Err(StoreError::Throttled(said)),
            // 503 is a sealed store, 3xx a standby that doesn't forward requests, 500 a failure of the store.
            _ => Err(StoreError::Unavailable(said)),
        }
    }

    /// Sends a request to the transit engine. `advice` ends the message about one that it refuses.
    async fn transit(
        &self,
        operation: &str,
        seal_key: &str,
        body: &impl Serialize,
        advice: &str,
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let mount = &self.mount;
        match self.post(&format!("{mount}/{operation}/{seal_key}"), body).await? {
            Answer::Success(body) => Ok(body),
            Answer::Failure(StatusCode::NOT_FOUND, errors) => {
                Err(self.no_engine(&said(StatusCode::NOT_FOUND, errors)))
            }
            Answer::Failure(status, errors) => Err(StoreError::Refused(format!(
                "can't {operation} with the key `{seal_key}`: {}{advice}",
                said(status, errors)
            ))),
        }
    }

    fn no_engine(&self, said: &str) -> StoreError {
        StoreError::Refused(format!(
            "has no transit secrets engine at `{}` ({said}): set `mount`",
            self.mount
        ))
    }

    /// Returns the versions of a key and its type; `None` if there is no such key.
    async fn versions(&self, name: &str) -> Result<Option<KeyReply>, StoreError> {
        let body = match self.get(&format!("{}/keys/{name}", self.mount)).await? {
            Answer::Success(body) => body,
            // The list is empty for a key that doesn't exist, and not for a mount that doesn't exist.
            Answer::Failure(StatusCode::NOT_FOUND, None) => return Ok(None),
            Answer::Failure(status, errors) => return Err(self.no_engine(&said(status, errors))),
        };
        let reply: Reply<KeyReply> = parse(&body)?;
        Ok(Some(reply.data))
    }
}

impl Store for Vault {
    fn seal<'a>(
        &'a self,
        seal_key: &'a str,
        data_key: &'a DataKey,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async move {
            let mut plaintext = Zeroizing::new(String::with_capacity(DATA_KEY_LEN.div_ceil(3) * 4));
            STANDARD.encode_string(data_key.expose_secret(), &mut plaintext);
            let associated_data = STANDARD.encode(context.to_string());
            let request = Encrypt { plaintext: &plaintext, associated_data: &associated_data };
            let body = self.transit("encrypt", seal_key, &request, SEAL_KEY_ADVICE).await?;
            let reply: Reply<EncryptReply<'_>> = parse(&body)?;
            Ok(reply.data.ciphertext.to_owned())
        })
    }

    fn unseal<'a>(
        &'a self,
        seal_key: &'a str,
        sealed: &'a str,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<DataKey, StoreError>> {
        Box::pin(async move {
            let associated_data = STANDARD.encode(context.to_string());
            let request = Decrypt { ciphertext: sealed, associated_data: &associated_data };
            let body = self.transit("decrypt", seal_key, &request, "").await?;
            let reply: Reply<DecryptReply<'_>> = parse(&body)?;
            let encoded = reply.data.plaintext;
            let mut bytes = Zeroizing::new(Vec::with_capacity(encoded.len()));
            if STANDARD.decode_vec(encoded, &mut bytes).is_err() || bytes.len() != DATA_KEY_LEN {
                return Err(StoreError::Refused("decrypts it to something else than a data key".to_owned()));
            }
            Ok(SecretBox::init_with_mut(|key: &mut [u8; DATA_KEY_LEN]| key.copy_from_slice(&bytes)))
        })
    }

    fn public_key<'a>(&'a self, key: &'a RemoteKeyName) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async move {
            let (name, version) = name_and_version(key)?;
            let reply = self.versions(name).await?.ok_or_else(|| {
                StoreError::Refused(format!(
                    "has no key `{name}` at `{}`: `tokenmint keys new KID --remote` makes one",
                    self.mount
                ))
            })?;
            if !reply.kind.starts_with("rsa-") {
                return Err(StoreError::Refused(format!(
                    "has the key `{name}` with type {}: Salesforce needs an RSA key",
                    http_api::shorten(&reply.kind).unwrap_or_default()
                )));
            }
            let has: Vec<&str> = reply.keys.keys().map(String::as_str).collect();
            let wanted =
                reply.keys.get(&version.to_string()).and_then(|version| version.get("public_key")?.as_str());
            wanted.map(str::to_owned).ok_or_else(|| {
                StoreError::Refused(format!(
                    "has no version {version} of the key `{name}`, but {}",
                    http_api::shorten(&has.join(", ")).unwrap_or_default()
                ))
            })
        })
    }

    fn sign<'a>(
        &'a self,
        key: &'a RemoteKeyName,
        algorithm: Algorithm,
        digest: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, StoreError>> {
        Box::pin(async move {
            let (name, version) = name_and_version(key)?;
            let hash = match algorithm {
                Algorithm::Rs256 => "sha2-256",
                Algorithm::Rs512 => "sha2-512",
            };
            let request = Sign {
                input: &STANDARD.encode(digest),
                prehashed: true,
                key_version: version,
                signature_algorithm: "pkcs1v15",
                marshaling_algorithm: "jws",
            };
            let path = format!("{}/sign/{name}/{hash}", self.mount);
            let body = match self.post(&path, &request).await? {
                Answer::Success(body) => body,
                Answer::Failure(status, errors) => {
                    let said = said(status, errors);
                    return Err(StoreError::Refused(format!("can't sign with the key `{key}`: {said}")));
                }
            };
            let reply: Reply<SignReply<'_>> = parse(&body)?;
            let encoded = reply.data.signature.strip_prefix(&format!("vault:v{version}:"));
            let signature = encoded.and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok());
            signature.ok_or_else(|| StoreError::Unavailable("its answer isn't one of Vault's".to_owned()))
        })
    }

    fn create_key<'a>(
        &'a self,
        name: &'a str,
        bits: usize,
    ) -> BoxFuture<'a, Result<RemoteKeyName, StoreError>> {
        Box::pin(async move {
            check_name(name)?;
            if self.versions(name).await?.is_some() {
                return Err(StoreError::Refused(format!(
                    "has a key `{name}` already: list it with --remote-key {name}:1, or take another key id"
                )));
            }
            let path = format!("{}/keys/{name}", self.mount);
            match self.post(&path, &CreateKey { kind: &format!("rsa-{bits}") }).await? {
                Answer::Success(_) => Ok(RemoteKeyName { name: name.to_owned(), version: Some(1) }),
                Answer::Failure(status, errors) => {
                    let said = said(status, errors);
                    Err(StoreError::Refused(format!("can't make the key `{name}`: {said}")))
                }
            }
        })
    }

    fn lifetime(&self) -> Option<SessionLifetime> {
        self.lifetime
    }

    fn remaining(&self) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(async move {
            let body = match self.get("auth/token/lookup-self").await? {
                Answer::Success(body) => body,
                Answer::Failure(status, errors) => return Err(StoreError::Denied(said(status, errors))),
            };
            let reply: Reply<TokenReply> = parse(&body)?;
            Ok(Some(reply.data.ttl).filter(|ttl| *ttl > 0).map(Duration::from_secs))
        })
    }

    fn log_out(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.is_own_token {
                // The token expires by itself if this fails.
                let _ = self.post("auth/token/revoke-self", &()).await;
            }
        })
    }
}

/// The name of a key, which is one segment of a path, and its version. Without a version, a rotation in the store would change which
/// key signs.
fn name_and_version(key: &RemoteKeyName) -> Result<(&str, u32), StoreError> {
    let version = key.version.ok_or_else(|| {
        StoreError::Refused(format!(
            "has versions of each key, and `remote` must say which one: for example `{key}:1`"
        ))
    })?;
    check_name(&key.name)?;
    Ok((&key.name, version))
}

/// Rejects a name that the transit engine doesn't allow.
fn check_name(name: &str) -> Result<(), StoreError> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.bytes().all(is_valid) && !name.starts_with('.') && !name.ends_with('.') {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "can't have a key `{name}`: its names have letters, digits and any of `-_.`; take another, with --remote-key"
    )))
}

fn token_header(token: &str) -> Result<HeaderValue, StoreError> {
    let header = HeaderValue::from_str(token);
    let mut header = header
        .map_err(|_| StoreError::Unavailable("its answer to the login has no usable token".to_owned()))?;
    header.set_sensitive(true);
    Ok(header)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, StoreError> {
    serde_json::from_slice(body)
        .map_err(|_| StoreError::Unavailable("its answer isn't one of Vault's".to_owned()))
}

/// The errors that an answer lists, shortened.
fn listed_errors(body: &[u8]) -> Option<String> {
    let Errors { errors } = serde_json::from_slice(body).ok()?;
    let text = http_api::shorten(&errors.join("; "))?;
    // Some errors are a list of one.
    Some(text.strip_prefix("1 error occurred: * ").unwrap_or(&text).to_owned())
}

#[derive(Serialize)]
struct Login<'a> {
    role: &'a str,
    jwt: &'a str,
}

#[derive(Deserialize)]
struct LoginReply<'a> {
    #[serde(borrow)]
    auth: Auth<'a>,
}

#[derive(Deserialize)]
struct Auth<'a> {
    client_token: &'a str,
    /// In seconds.
    #[serde(default)]
    lease_duration: u64,
}

/// A token of the store.
#[derive(Deserialize)]
struct TokenReply {
    /// In seconds. Zero means that it doesn't end.
    ttl: u64,
}

#[derive(Serialize)]
struct Sign<'a> {
    input: &'a str,
    prehashed: bool,
    key_version: u32,
    signature_algorithm: &'a str,
    marshaling_algorithm: &'a str,
}

#[derive(Deserialize)]
struct SignReply<'a> {
    signature: &'a str,
}

#[derive(Serialize)]
struct CreateKey<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

/// A key of the transit engine.
#[derive(Deserialize)]
struct KeyReply {
    #[serde(rename = "type")]
    kind: String,
    /// By version. A key that only encrypts has times in the place of public keys.
    keys: BTreeMap<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Encrypt<'a> {
    plaintext: &'a str,
    associated_data: &'a str,
}

#[derive(Serialize)]
struct Decrypt<'a> {
    ciphertext: &'a str,
    associated_data: &'a str,
}

#[derive(Deserialize)]
struct Reply<T> {
    data: T,
}

#[derive(Deserialize)]
struct EncryptReply<'a> {
    ciphertext: &'a str,
}

#[derive(Deserialize)]
struct DecryptReply<'a> {
    plaintext: &'a str,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}
