//! Gets AWS credentials from where the environment says. A session has the credentials for as long as they are valid.
//!
//! - [STS `AssumeRoleWithWebIdentity`](https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html): a request
//!   without a signature, whose JWT proves who asks. The answer is XML.
//! - [Container credentials](https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html): EKS Pod Identity and ECS.
//! - [IMDSv2](https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html): a token first, which a
//!   forged request of a browser or a proxy doesn't get.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use reqwest::{Client, RequestBuilder};
use secrecy::SecretString;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::super::error::StoreError;
use super::super::http_api;
use super::super::store::SessionLifetime;
use super::errors::AwsError;
use crate::clock::UnixTime;
use crate::config::{AwsCredentialSource, AwsCredentials, ContainerAuthorization, HttpsOrLoopbackUrl};

/// The longest time of all requests to the instance metadata service. Off EC2, nobody answers there.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest time until a session is renewed. An agent may return credentials that end at once.
const MIN_RENEWAL: Duration = Duration::from_secs(5);

/// Credentials, and how long they are valid.
pub(super) struct Issued {
    pub(super) credentials: AwsCredentials,
    pub(super) lifetime: Option<SessionLifetime>,
}

pub(super) async fn get(
    client: &Client,
    source: &AwsCredentialSource,
    now: UnixTime,
) -> Result<Issued, StoreError> {
    match source {
        AwsCredentialSource::Static(credentials) => {
            Ok(Issued { credentials: credentials.clone(), lifetime: None })
        }
        AwsCredentialSource::WebIdentity { sts, role_arn, session_name, token_file } => {
            assume_role(client, sts, [role_arn, session_name], token_file, now).await
        }
        AwsCredentialSource::Container { url, authorization } => {
            ask_container_agent(client, url, authorization, now).await
        }
        AwsCredentialSource::InstanceMetadata { address } => {
            let asked = tokio::time::timeout(METADATA_TIMEOUT, ask_instance(client, address, now)).await;
            let asked = asked.unwrap_or_else(|_| {
                Err(StoreError::Unavailable(format!("not within {} s", METADATA_TIMEOUT.as_secs())))
            });
            asked.map_err(|error| match error {
                StoreError::Unavailable(reason) => StoreError::Unavailable(format!(
                    "no AWS credentials: the environment has none, and the instance metadata service says: {reason}"
                )),
                error => error,
            })
        }
    }
}

/// Asks STS for credentials of a role.
async fn assume_role(
    client: &Client,
    sts: &HttpsOrLoopbackUrl,
    [role_arn, session_name]: [&str; 2],
    token_file: &Path,
    now: UnixTime,
) -> Result<Issued, StoreError> {
    let token = http_api::read_token("AWS_WEB_IDENTITY_TOKEN_FILE", token_file)?;
    let form = web_identity_form(role_arn, session_name, &token);
    let request = client.post(sts.as_str()).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let (status, body) = http_api::send(request.body(Bytes::from_owner(form))).await?;
    let text = std::str::from_utf8(&body).unwrap_or_default();
    if status.is_success() {
        let reply: WebIdentityReply<'_> = quick_xml::de::from_str(text).map_err(|_| unusable("STS"))?;
        return issued(reply.result.credentials, "STS", now);
    }
    let (code, message) = match quick_xml::de::from_str::<WebIdentityErrors>(text) {
        Ok(errors) => (errors.error.code, errors.error.message),
        Err(_) => (String::new(), String::new()),
    };
    Err(denied(&AwsError::new(status, &code, &message), "STS", "for the web identity"))
}

/// The body of the request, which contains the JWT.
fn web_identity_form(role_arn: &str, session_name: &str, token: &str) -> Zeroizing<Vec<u8>> {
    // Large enough that it doesn't grow, which would leave copies of the token in memory.
    let mut form = Serializer::new(String::with_capacity(3 * token.len() + (4 << 10)));
    form.append_pair("Action", "AssumeRoleWithWebIdentity").append_pair("Version", "2011-06-15");
    form.append_pair("RoleArn", role_arn).append_pair("RoleSessionName", session_name);
    form.append_pair("WebIdentityToken", token);
    Zeroizing::new(form.finish().into_bytes())
}

/// Asks the agent of EKS or ECS.
async fn ask_container_agent(
    client: &Client,
    url: &str,
    authorization: &ContainerAuthorization,
    now: UnixTime,
) -> Result<Issued, StoreError> {
    use secrecy::ExposeSecret as _;
    let mut request = client.get(url);
    let token = match authorization {
        ContainerAuthorization::None => None,
        ContainerAuthorization::Token(token) => Some(Zeroizing::new(token.expose_secret().to_owned())),
        ContainerAuthorization::File(file) => {
            Some(http_api::read_token("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file)?)
        }
    };
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, secret_header(&token, "the container's agent")?);
    }
    let body = expect_success(request, "the container's agent").await?;
    let reply = serde_json::from_slice(&body).map_err(|_| unusable("the container's agent"))?;
    issued(reply, "the container's agent", now)
}

/// Asks the instance metadata service for the credentials of the instance's role.
async fn ask_instance(client: &Client, address: &str, now: UnixTime) -> Result<Issued, StoreError> {
    const WHO: &str = "the instance metadata service";
    let request = client.put(format!("{address}/latest/api/token"));
    let body = expect_success(request.header("X-aws-ec2-metadata-token-ttl-seconds", "60"), WHO).await?;
    let token = secret_header(std::str::from_utf8(&body).unwrap_or_default(), WHO)?;
    let get = |path: &str| {
        let url = format!("{address}/latest/meta-data/iam/security-credentials/{path}");
        client.get(url).header("X-aws-ec2-metadata-token", token.clone())
    };
    let (status, body) = http_api::send(get("")).await?;
    let role = std::str::from_utf8(&body).unwrap_or_default().trim();
    let is_role =
        |role: &str| role.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte));
    if status == StatusCode::NOT_FOUND || role.is_empty() {
        let reason =
            "the instance has no IAM role: attach one, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
        return Err(StoreError::Denied(reason.to_owned()));
    }
    if !status.is_success() || !is_role(role) {
        return Err(StoreError::Unavailable(format!("status {}", status.as_u16())));
    }
    let body = expect_success(get(role), WHO).await?;
    let reply = serde_json::from_slice(&body).map_err(|_| unusable(WHO))?;
    issued(reply, WHO, now)
}

async fn expect_success(request: RequestBuilder, who: &str) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let (status, body) = http_api::send(request).await?;
    if status.is_success() {
        return Ok(body);
    }
    let error = serde_json::from_slice::<AgentError>(&body).unwrap_or_default();
    let error = AwsError::new(status, &error.code, &error.message);
    // The answers of the agents have no code that says more than the status.
    if error.code.is_empty() && status.is_client_error() {
        return Err(StoreError::Denied(format!("{who} returns no credentials: {}", error.said())));
    }
    Err(denied(&error, who, ""))
}

/// The error of a request for credentials. Somebody can change in AWS what it refuses.
fn denied(error: &AwsError, who: &str, what: &str) -> StoreError {
    let said = || format!("{who} returns no credentials {what}").trim_end().to_owned() + ": " + &error.said();
    match error.unless_refused() {
        Some(StoreError::Unavailable(_)) => StoreError::Unavailable(said()),
        Some(StoreError::Throttled(_)) => StoreError::Throttled(said()),
        _ => StoreError::Denied(said()),
    }
}

fn unusable(who: &str) -> StoreError {
    StoreError::Unavailable(format!("the answer of {who} has no usable credentials"))
}

fn secret_header(token: &str, who: &str) -> Result<HeaderValue, StoreError> {
    let mut header = HeaderValue::from_str(token).map_err(|_| unusable(who))?;
    header.set_sensitive(true);
    Ok(header)
}

fn issued(reply: Reply<'_>, who: &str, now: UnixTime) -> Result<Issued, StoreError> {
    let Reply { access_key_id, secret_access_key, session_token, expiration } = reply;
    let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let all = [&access_key_id, &secret_access_key, &session_token];
    if access_key_id.is_empty() || secret_access_key.is_empty() || !all.iter().all(|text| is_visible(text)) {
        return Err(unusable(who));
    }
    let expiration = OffsetDateTime::parse(&expiration, &Rfc3339).map_err(|_| unusable(who))?;
    let left = now.seconds_until(UnixTime::from(expiration));
    let ends_after = Duration::from_secs(u64::try_from(left).unwrap_or_default());
    let renew_after = (ends_after / 2).max(MIN_RENEWAL);
    Ok(Issued {
        credentials: AwsCredentials {
            access_key_id: access_key_id.into_owned(),
            secret_access_key: SecretString::from(secret_access_key.as_ref()),
            session_token: Some(session_token.as_ref())
                .filter(|token| !token.is_empty())
                .map(SecretString::from),
        },
        lifetime: Some(SessionLifetime { renew_after, ends_after }),
    })
}

/// Credentials, in JSON and in XML.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply<'a> {
    #[serde(borrow)]
    access_key_id: Cow<'a, str>,
    #[serde(borrow)]
    secret_access_key: Cow<'a, str>,
    /// May be missing.
    #[serde(borrow, default, alias = "Token")]
    session_token: Cow<'a, str>,
    #[serde(borrow)]
    expiration: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WebIdentityReply<'a> {
    #[serde(borrow, rename = "AssumeRoleWithWebIdentityResult")]
    result: WebIdentityResult<'a>,
}

#[derive(Deserialize)]
struct WebIdentityResult<'a> {
    #[serde(borrow, rename = "Credentials")]
    credentials: Reply<'a>,
}

#[derive(Deserialize)]
struct WebIdentityErrors {
    #[serde(rename = "Error")]
    error: StsError,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StsError {
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Default, Deserialize)]
struct AgentError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}
