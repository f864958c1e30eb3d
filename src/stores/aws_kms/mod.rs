//! AWS Key Management Service.
//!
//! - <https://docs.aws.amazon.com/kms/latest/APIReference/>: `Encrypt` and `Decrypt` with an `EncryptionContext`, which symmetric keys
//!   authenticate; `GetPublicKey` and `Sign` of RSA keys.
//! - A key of KMS has no versions: its material never changes, except the material of a symmetric key, which KMS then finds by itself.

mod credentials;
mod errors;
mod sigv4;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use pem::{EncodeConfig, LineEnding, Pem};
use reqwest::Client;
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::credentials::Issued;
use self::errors::AwsError;
use self::sigv4::Scope;
use super::error::StoreError;
use super::http_api;
use super::store::{BoxFuture, DATA_KEY_LEN, DataKey, SealContext, SessionLifetime, Store};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Algorithm, AwsKmsConfig, RemoteKeyName};

const MEDIA_TYPE: &str = "application/x-amz-json-1.1";

/// A session with KMS in one region.
pub(super) struct AwsKms {
    client: Client,
    clock: SystemClock,
    /// The address, without a slash at its end.
    endpoint: String,
    host: String,
    region: String,
    issued: Issued,
}

/// The outcome of a request: a body, or the reason why KMS refuses the request as it is.
enum Answer {
    Success(Zeroizing<Vec<u8>>),
    Refused(AwsError),
}

impl AwsKms {
    /// Gets credentials.
    ///
    /// # Errors
    /// Nobody returns credentials, or a file can't be used.
    pub(super) async fn log_in(config: &AwsKmsConfig) -> Result<Self, StoreError> {
        let client = http_api::client(config.ca_file.as_ref())?;
        let clock = SystemClock::default();
        // `ca_file` is for the address of KMS. STS and the container's agent have others.
        let other_hosts = http_api::client(None)?;
        let issued = credentials::get(&other_hosts, &config.credentials, clock.now()).await?;
        let url = config.endpoint.url();
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Self {
            client,
            clock,
            endpoint: config.endpoint.as_str().trim_end_matches('/').to_owned(),
            host,
            region: config.region.clone(),
            issued,
        })
    }

    /// Sends a request of `TrentService`, the name of KMS in its interface.
    async fn request(&self, operation: &str, body: &impl Serialize) -> Result<Answer, StoreError> {
        let body = http_api::json(body);
        let credentials = &self.issued.credentials;
        let date_time = sigv4::date_time(self.clock.now());
        let target = format!("TrentService.{operation}");
        let token = credentials.session_token.as_ref().map(SecretString::expose_secret);
        let mut headers =
            vec![("content-type", MEDIA_TYPE), ("host", &self.host), ("x-amz-date", &date_time)];
        headers.extend(token.map(|token| ("x-amz-security-token", token)));
        headers.push(("x-amz-target", &target));
        let scope = Scope { region: &self.region, service: "kms" };
        let authorization = sigv4::authorization(credentials, scope, &date_time, &headers, &body);
        let mut request = self.client.post(format!("{}/", self.endpoint)).header(CONTENT_TYPE, MEDIA_TYPE);
        request = request.header("x-amz-date", &date_time).header("x-amz-target", &target);
        if let Some(token) = token {
            let mut header = HeaderValue::from_str(token).expect("credentials consist of visible characters");
            header.set_sensitive(true);
            request = request.header("x-amz-security-token", header);
        }
        let (status, body) = http_api::send(request.header(AUTHORIZATION, authorization).body(body)).await?;
        if status.is_success() {
            return Ok(Answer::Success(body));
        }
        let error = aws_error(status, &body);
        error.unless_refused().map_or(Ok(Answer::Refused(error)), Err)
    }

    /// Sends a request about a key. `attempt` begins the message about one that KMS refuses, for example "can't sign with".
    async fn call(
        &self,
        operation: &str,
        key: &str,
        attempt: &str,
        body: &impl Serialize,
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        match self.request(operation, body).await? {
            Answer::Success(body) => Ok(body),
            Answer::Refused(error) => {
                Err(StoreError::Refused(format!("{attempt} the key `{key}`: {}", error.said())))
            }
        }
    }

    /// Returns the public key that an id, an ARN or an alias names.
    async fn get_public_key(&self, key: &str) -> Result<Result<PublicKeyReply, AwsError>, StoreError> {
        match self.request("GetPublicKey", &KeyId { key_id: key }).await? {
            Answer::Success(body) => parse(&body).map(Ok),
            Answer::Refused(error) => Ok(Err(error)),
        }
    }
}

impl Store for AwsKms {
    fn seal<'a>(
        &'a self,
        seal_key: &'a str,
        data_key: &'a DataKey,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async move {
            let mut plaintext = Zeroizing::new(String::with_capacity(DATA_KEY_LEN.div_ceil(3) * 4));
            STANDARD.encode_string(data_key.expose_secret(), &mut plaintext);
            let request = Encrypt {
                key_id: seal_key,
                plaintext: &plaintext,
                encryption_context: EncryptionContext { tokenmint: context.to_string() },
            };
            let body = self.call("Encrypt", seal_key, "can't encrypt with", &request).await?;
            let reply: EncryptReply<'_> = parse(&body)?;
            Ok(reply.ciphertext_blob.to_owned())
        })
    }

    fn unseal<'a>(
        &'a self,
        seal_key: &'a str,
        sealed: &'a str,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<DataKey, StoreError>> {
        Box::pin(async move {
            let request = Decrypt {
                // Without it, KMS would decrypt with any key of the account that the text names.
                key_id: seal_key,
                ciphertext_blob: sealed,
                encryption_context: EncryptionContext { tokenmint: context.to_string() },
            };
            let body = self.call("Decrypt", seal_key, "can't decrypt with", &request).await?;
            let reply: DecryptReply<'_> = parse(&body)?;
            let mut bytes = Zeroizing::new(Vec::with_capacity(reply.plaintext.len()));
            if STANDARD.decode_vec(reply.plaintext, &mut bytes).is_err() || bytes.len() != DATA_KEY_LEN {
                return Err(StoreError::Refused("decrypts it to something else than a data key".to_owned()));
            }
            Ok(SecretBox::init_with_mut(|key: &mut [u8; DATA_KEY_LEN]| key.copy_from_slice(&bytes)))
        })
    }

    fn public_key<'a>(&'a self, key: &'a RemoteKeyName) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async move {
            let name = without_version(key)?;
            if is_alias(name) {
                let arn = match self.get_public_key(name).await {
                    Ok(Ok(reply)) => format!(": `{}` is its key", reply.key_id),
                    _ => String::new(),
                };
                return Err(StoreError::Refused(format!(
                    "has the alias `{name}`, which somebody can point at another key: list the key's ARN{arn}"
                )));
            }
            let reply = self.get_public_key(name).await?.map_err(|error| {
                StoreError::Refused(format!("can't return the public key of `{name}`: {}", error.said()))
            })?;
            let is_rsa = ["RSA_2048", "RSA_3072", "RSA_4096"].contains(&reply.key_spec.as_str());
            if reply.key_usage != "SIGN_VERIFY" || !is_rsa {
                return Err(StoreError::Refused(format!(
                    "has the key `{name}` with KeyUsage {} and KeySpec {}: Salesforce needs an RSA key for SIGN_VERIFY",
                    http_api::shorten(&reply.key_usage).unwrap_or_default(),
                    http_api::shorten(&reply.key_spec).unwrap_or_default()
                )));
            }
            let der = STANDARD.decode(&reply.public_key).map_err(|_| not_aws())?;
            let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
            Ok(pem::encode_config(&Pem::new("PUBLIC KEY", der), config))
        })
    }

    fn sign<'a>(
        &'a self,
        key: &'a RemoteKeyName,
        algorithm: Algorithm,
        digest: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, StoreError>> {
        Box::pin(async move {
            let name = without_version(key)?;
            let request = Sign {
                key_id: name,
                message: &STANDARD.encode(digest),
                message_type: "DIGEST",
                signing_algorithm: match algorithm {
                    Algorithm::Rs256 => "RSASSA_PKCS1_V1_5_SHA_256",
                    Algorithm::Rs512 => "RSASSA_PKCS1_V1_5_SHA_512",
                },
            };
            let body = self.call("Sign", name, "can't sign with", &request).await?;
            let reply: SignReply<'_> = parse(&body)?;
            STANDARD.decode(reply.signature).map_err(|_| not_aws())
        })
    }

    fn create_key<'a>(
        &'a self,
        name: &'a str,
        bits: usize,
    ) -> BoxFuture<'a, Result<RemoteKeyName, StoreError>> {
        Box::pin(async move {
            // Key ids may have characters that an alias can't have.
            let is_valid = |char: char| char.is_ascii_alphanumeric() || "-_/".contains(char);
            let alias = format!("alias/{}", name.replace(|char| !is_valid(char), "-"));
            // A key costs money each month, so none is made for a name that is in use.
            match self.get_public_key(&alias).await {
                Ok(Err(error)) if error.code == "NotFoundException" => {}
                // Who may make keys needn't be allowed to read all.
                Err(StoreError::Denied(_)) => {}
                Err(error) => return Err(error),
                Ok(Err(error)) => {
                    return Err(StoreError::Refused(format!("can't look for `{alias}`: {}", error.said())));
                }
                Ok(Ok(known)) => {
                    return Err(StoreError::Refused(format!(
                        "has `{alias}` already: list its key with --remote-key {}, or take another key id",
                        known.key_id
                    )));
                }
            }
            let request = CreateKey {
                key_spec: &format!("RSA_{bits}"),
                key_usage: "SIGN_VERIFY",
                description: &format!("tokenmint: signs as {name}"),
            };
            let body = self.call("CreateKey", name, "can't make", &request).await?;
            let reply: CreateKeyReply = parse(&body)?;
            let arn = reply.key_metadata.arn;
            let request = CreateAlias { alias_name: &alias, target_key_id: &arn };
            let named = match self.request("CreateAlias", &request).await {
                Ok(Answer::Success(_)) => Ok(()),
                Ok(Answer::Refused(error)) => Err(error.said()),
                Err(error) => Err(format!("it {error}")),
            };
            named.map_err(|reason| {
                StoreError::Refused(format!(
                    "has made the key `{arn}`, but not its name `{alias}`: {reason}. List the key with --remote-key {arn}"
                ))
            })?;
            RemoteKeyName::parse(&arn).map_err(|_| not_aws())
        })
    }

    fn lifetime(&self) -> Option<SessionLifetime> {
        self.issued.lifetime
    }

    fn log_out(&self) -> BoxFuture<'_, ()> {
        // AWS has no call that ends credentials.
        Box::pin(std::future::ready(()))
    }
}

/// The id or the ARN of a key.
fn without_version(key: &RemoteKeyName) -> Result<&str, StoreError> {
    match key.version {
        None => Ok(&key.name),
        Some(version) => Err(StoreError::Refused(format!(
            "has no versions of keys: write `{}` without `:{version}`, and make another key for a rotation",
            key.name
        ))),
    }
}

/// Whether it names an alias, by its name or its ARN.
fn is_alias(key: &str) -> bool {
    key.rsplit(':').next().is_some_and(|name| name.starts_with("alias/"))
}

fn not_aws() -> StoreError {
    StoreError::Unavailable("its answer isn't one of AWS KMS".to_owned())
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, StoreError> {
    serde_json::from_slice(body).map_err(|_| not_aws())
}

fn aws_error(status: StatusCode, body: &[u8]) -> AwsError {
    let error: ErrorReply = serde_json::from_slice(body).unwrap_or_default();
    AwsError::new(status, &error.code.unwrap_or_default(), &error.message.unwrap_or_default())
}

#[derive(Default, Deserialize)]
struct ErrorReply {
    #[serde(rename = "__type")]
    code: Option<String>,
    #[serde(alias = "Message")]
    message: Option<String>,
}

#[derive(Serialize)]
struct EncryptionContext {
    tokenmint: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct KeyId<'a> {
    key_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Encrypt<'a> {
    key_id: &'a str,
    plaintext: &'a str,
    encryption_context: EncryptionContext,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptReply<'a> {
    ciphertext_blob: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Decrypt<'a> {
    key_id: &'a str,
    ciphertext_blob: &'a str,
    encryption_context: EncryptionContext,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DecryptReply<'a> {
    plaintext: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublicKeyReply {
    /// The ARN of the key.
    key_id: String,
    key_usage: String,
    key_spec: String,
    public_key: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Sign<'a> {
    key_id: &'a str,
    message: &'a str,
    message_type: &'a str,
    signing_algorithm: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SignReply<'a> {
    signature: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreateKey<'a> {
    key_spec: &'a str,
    key_usage: &'a str,
    description: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateKeyReply {
    key_metadata: KeyMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeyMetadata {
    arn: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreateAlias<'a> {
    alias_name: &'a str,
    target_key_id: &'a str,
}
