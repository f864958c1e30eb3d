//! The two kinds of exchange, OAuth JWT bearer and messaging: builds the request, and validates the response.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use url::Url;
use url::form_urlencoded::Serializer;

use super::errors::{self, Diagnosis};
use super::exchange_error::{ExchangeError, SalesforceError};
use super::login_rate_limit::RequestQuota;
use super::token::{ObtainedToken, ReportedExpiry, TokenMetadata};
use super::upstream::{Confidential, ConnectionChoice, UpstreamRequest, UpstreamResponse, quote};
use crate::clock::{Randomness, UnixTime};
use crate::config::{HttpsOrLoopbackUrl, KeyId, MessagingConfig, ProfileName, salesforce};
use crate::json::Json;
use crate::tokens::{Claims, GRANT_TYPE, IdentityProfile, MintError, OauthProfile, Signer, Subject};

/// Lifetime assumed for a messaging access token without an `exp`: the channel's default for verified users.
const DEFAULT_MESSAGING_LIFETIME: Duration = Duration::from_hours(1);

/// Longer than any access token that Salesforce is known to issue. As `rejected_token`, such a token fits in a request body
/// of 16 KiB, the default of `server.limits.body`.
const MAX_TOKEN_BYTES: usize = 12 << 10;

/// Parameters of an exchange. Each attempt signs a new JWT for them.
#[derive(Clone)]
pub(super) enum TokenRequest {
    Oauth(Arc<OauthProfile>),
    Messaging { profile: Arc<IdentityProfile>, subject: Subject, claims: Claims },
}

/// Cache key of a token: a hash of the profile's settings that affect it and, for messaging, of the subject and the claims.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CacheKey([u8; 32]);

impl CacheKey {
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TokenRequest {
    pub(crate) fn profile(&self) -> &ProfileName {
        match self {
            Self::Oauth(profile) => &profile.name,
            Self::Messaging { profile, .. } => &profile.name,
        }
    }

    /// The URL of the token endpoint, or the base URL of the messaging API.
    pub(crate) fn endpoint(&self) -> &HttpsOrLoopbackUrl {
        match self {
            Self::Oauth(profile) => &profile.token_url,
            Self::Messaging { profile, .. } => &channel(profile).scrt_url,
        }
    }

    /// Returns the id of the key that signs at `now`.
    ///
    /// # Errors
    /// No key signs at `now`.
    pub(crate) fn signing_kid(&self, now: UnixTime) -> Result<&KeyId, MintError> {
        match self {
            Self::Oauth(profile) => profile.signing_kid(now),
            Self::Messaging { profile, .. } => profile.signing_kid(now),
        }
    }

    /// Whether the profile's keyset contains this key. A token obtained with another key isn't served.
    pub(crate) fn contains_kid(&self, kid: &KeyId) -> bool {
        match self {
            Self::Oauth(profile) => profile.contains_kid(kid),
            Self::Messaging { profile, .. } => profile.contains_kid(kid),
        }
    }

    /// The lifetime of a token whose expiry Salesforce doesn't report.
    pub(crate) fn default_lifetime(&self) -> Duration {
        match self {
            Self::Oauth(profile) => profile.access_token_ttl,
            Self::Messaging { .. } => DEFAULT_MESSAGING_LIFETIME,
        }
    }

    /// Whether a token from the shared cache is valid for this request. Its token, URLs and session subject pass the same
    /// checks as in Salesforce's response.
    pub(crate) fn accepts(&self, token: &str, metadata: &TokenMetadata) -> bool {
        is_token(token)
            && match (self, metadata) {
                (Self::Oauth(profile), TokenMetadata::Oauth { instance_url, api_instance_url, id, .. }) => {
                    let origin = |url: &String| origin(url, &profile.token_url).is_ok();
                    origin(instance_url)
                        && api_instance_url.as_ref().is_none_or(origin)
                        && id.as_ref().is_none_or(|id| salesforce_url(id, &profile.token_url).is_ok())
                }
                (Self::Messaging { subject, .. }, TokenMetadata::Messaging { subject: session, .. }) => {
                    is_verified(session, subject)
                }
                _ => false,
            }
    }

    pub(crate) fn cache_key(&self) -> CacheKey {
        let scope = match self {
            Self::Oauth(profile) => profile.cache_scope,
            Self::Messaging { profile, subject, claims } => {
                profile.cache_scope.subscope([subject.as_str().as_bytes(), &claims.canonical_bytes()])
            }
        };
        CacheKey(*scope.as_bytes())
    }

    /// Scheme, host and port of the endpoint, the scope of its circuit breaker.
    pub(crate) fn origin(&self) -> String {
        self.endpoint().url().origin().ascii_serialization()
    }

    /// The account whose limit at Salesforce the request counts against, and tokenmint's own quota for it.
    pub(crate) fn quota(&self) -> (String, RequestQuota) {
        match self {
            Self::Oauth(profile) => login_quota(profile),
            Self::Messaging { profile, .. } => messaging_quota(channel(profile)),
        }
    }

    /// Builds the HTTP request, with a newly signed assertion or identity token.
    pub(crate) async fn to_upstream_request(
        &self,
        now: UnixTime,
        randomness: &dyn Randomness,
        signer: &Signer,
    ) -> Result<UpstreamRequest, MintError> {
        match self {
            Self::Oauth(profile) => {
                let assertion = profile.mint(now, randomness, signer).await?;
                let mut form = Serializer::new(String::new());
                form.append_pair("grant_type", GRANT_TYPE);
                form.append_pair("assertion", assertion.minted.token.expose_secret());
                // A response doesn't say which request it belongs to. If a proxy sent one twice on a kept-alive
                // connection, another profile's request would take the duplicate.
                let headers = HeaderMap::from_iter([(CONNECTION, HeaderValue::from_static("close"))]);
                Ok(UpstreamRequest {
                    url: profile.token_url.url().clone(),
                    content_type: "application/x-www-form-urlencoded",
                    body: form.finish().into_bytes(),
                    headers,
                    connection: ConnectionChoice::Any,
                    confidential: Confidential { jwt: assertion.minted.token, subject: None },
                })
            }
            Self::Messaging { profile, subject, claims } => {
                let channel = channel(profile);
                let lifetime = profile.default_lifetime();
                let minted = profile.mint(subject, lifetime, claims, now, signer).await?;
                let mut url = channel.scrt_url.url().clone();
                url.set_path("/iamessage/api/v2/authorization/authenticated/access-token");
                let body = json!({
                    "orgId": channel.org_id.as_str(),
                    "esDeveloperName": channel.es_developer_name,
                    "capabilitiesVersion": "1",
                    "platform": "Web",
                    "context": {"appName": "tokenmint", "clientVersion": env!("CARGO_PKG_VERSION")},
                    "authorizationType": "JWT",
                    "customerIdentityToken": minted.token.expose_secret(),
                });
                Ok(UpstreamRequest {
                    url,
                    content_type: "application/json",
                    body: body.to_string().into_bytes(),
                    headers: HeaderMap::new(),
                    connection: ConnectionChoice::Any,
                    confidential: Confidential { jwt: minted.token, subject: Some(subject.clone()) },
                })
            }
        }
    }

    /// Parses and validates a response. An error quotes it without what is `confidential`.
    ///
    /// # Errors
    /// Salesforce refused, the response is malformed or has a foreign URL, or the messaging session isn't verified.
    pub(crate) fn parse_response(
        &self,
        response: &UpstreamResponse,
        confidential: &Confidential,
    ) -> Result<ObtainedToken, ExchangeError> {
        if !(200..300).contains(&response.status) {
            return Err(ExchangeError::Rejected {
                diagnosis: self.diagnosis(response),
                upstream: self.salesforce_error(response, confidential),
                request_summary: self.summary(),
                retry_after: response.retry_after,
            });
        }
        match self {
            Self::Oauth(profile) => {
                parse_oauth(profile, response).map_err(|what| self.unusable_response(response, what))
            }
            Self::Messaging { subject, .. } => {
                let obtained = parse_messaging(subject, response)
                    .map_err(|what| self.unusable_response(response, what))?;
                obtained.map_err(|diagnosis| ExchangeError::Unverified { diagnosis })
            }
        }
    }

    /// Makes the error for a complete response without a usable token.
    pub(crate) fn unusable_response(
        &self,
        response: &UpstreamResponse,
        what: impl Into<String>,
    ) -> ExchangeError {
        let (status, retry_after) = (response.status, response.retry_after);
        ExchangeError::Unusable { status, what: what.into(), request_summary: self.summary(), retry_after }
    }

    /// The error code and the description of an error response.
    fn error_fields<'a>(&self, response: &'a UpstreamResponse) -> (Option<&'a str>, Option<&'a str>) {
        match self {
            Self::Oauth(_) => (response.body.text("error"), response.body.text("error_description")),
            Self::Messaging { .. } => (
                response.body.text("error").or_else(|| response.body.text("code")),
                response.body.text("message"),
            ),
        }
    }

    fn salesforce_error(&self, response: &UpstreamResponse, confidential: &Confidential) -> SalesforceError {
        let (error, description) = self.error_fields(response);
        SalesforceError {
            status: response.status,
            error: error.map(|error| confidential.quote(error)),
            error_description: description.map(|description| confidential.quote(description)),
        }
    }

    fn diagnosis(&self, response: &UpstreamResponse) -> &'static Diagnosis {
        let (error, description) = self.error_fields(response);
        let (error, description) = (error.unwrap_or_default(), description.unwrap_or_default());
        match self {
            Self::Oauth(_) => errors::diagnose_oauth(response.status, error, description),
            Self::Messaging { .. } => {
                errors::diagnose_messaging(response.status, &format!("{error} {description}"))
            }
        }
    }

    /// The endpoint and the settings that Salesforce compares, for error messages.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Oauth(profile) => {
                format!("asked {} with aud {}", profile.token_url.as_str(), profile.audience)
            }
            Self::Messaging { profile, .. } => {
                let channel = channel(profile);
                format!(
                    "asked {} for deployment {} with iss {}",
                    channel.scrt_url.as_str(),
                    channel.es_developer_name,
                    profile.issuer
                )
            }
        }
    }
}

pub(super) fn login_quota(profile: &OauthProfile) -> (String, RequestQuota) {
    // Salesforce compares user names without regard to case.
    let account = format!("login {} {}", profile.token_url.as_str(), profile.username.to_lowercase());
    (account, RequestQuota { requests: profile.logins_per_hour, window: Duration::from_hours(1) })
}

pub(super) fn messaging_quota(channel: &MessagingConfig) -> (String, RequestQuota) {
    let account = format!("messaging {} {}", channel.scrt_url.as_str(), channel.org_id.as_str());
    (account, RequestQuota { requests: channel.requests_per_minute, window: Duration::from_mins(1) })
}

const fn channel(profile: &IdentityProfile) -> &MessagingConfig {
    profile.messaging.as_ref().expect("a messaging request has a profile with [messaging]")
}

fn parse_oauth(profile: &OauthProfile, response: &UpstreamResponse) -> Result<ObtainedToken, String> {
    let body = &response.body;
    let token = body
        .text("access_token")
        .filter(|token| is_token(token))
        .ok_or_else(|| missing_token("access_token"))?;
    let bearer = body.text("token_type").is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    if !bearer {
        return Err("a token_type other than Bearer".to_owned());
    }
    let named = |name: &str, why: String| format!("{name} {why}, so the token is not trusted");
    let origin_of = |name: &str| {
        let text = body.text(name);
        text.map(|url| origin(url, &profile.token_url).map_err(|why| named(name, why))).transpose()
    };
    let instance_url = origin_of("instance_url")?.ok_or("no instance_url, so the token is not trusted")?;
    let id = body.text("id").map(|id| salesforce_url(id, &profile.token_url)).transpose();
    let id = id.map_err(|why| named("id", why))?;
    let printable =
        |name| body.text(name).filter(|text| text.len() <= 2048 && !text.chars().any(char::is_control));
    let seconds = whole_seconds(body.member("expires_in")).map_err(|()| "an expires_in that is no number")?;
    let expires_in = seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let reported_expiry = ReportedExpiry { expires_at: jwt_expiry(token)?, expires_in };
    Ok(ObtainedToken {
        secret: SecretString::from(token),
        metadata: TokenMetadata::Oauth {
            instance_url,
            api_instance_url: origin_of("api_instance_url")?,
            token_format: printable("token_format").map(str::to_owned),
            scope: printable("scope").map(str::to_owned),
            id: id.map(|id| id.to_string()),
        },
        reported_expiry,
    })
}

/// Parses a messaging response. The inner `Err` is a session that is anonymous or another user's.
fn parse_messaging(
    subject: &Subject,
    response: &UpstreamResponse,
) -> Result<Result<ObtainedToken, &'static Diagnosis>, String> {
    let body = &response.body;
    let token = body
        .text("accessToken")
        .filter(|token| is_token(token))
        .ok_or_else(|| missing_token("accessToken"))?;
    let session = body.member("context").and_then(|context| context.member("endUser")?.text("subject"));
    let session = session.ok_or("no context.endUser.subject")?;
    if !is_verified(session, subject) {
        let is_authenticated = session.split('/').nth(2) == Some("AUTH");
        return Ok(Err(if is_authenticated {
            &errors::table::SESSION_OF_ANOTHER_USER
        } else {
            &errors::table::UNVERIFIED_SESSION
        }));
    }
    let last_event_id = match body.member("lastEventId") {
        Some(Json::String(id)) if id.len() <= 256 && !id.chars().any(char::is_control) => id.clone(),
        Some(Json::Number(id)) if id.as_str().len() <= 256 => id.as_str().to_owned(),
        _ => return Err("no usable lastEventId".to_owned()),
    };
    Ok(Ok(ObtainedToken {
        secret: SecretString::from(token),
        metadata: TokenMetadata::Messaging { last_event_id, subject: session.to_owned() },
        reported_expiry: ReportedExpiry { expires_at: jwt_expiry(token)?, expires_in: None },
    }))
}

/// Whether a session subject has the form `v2/iamessage/AUTH/<configuration>/uid:<sub>` with exactly this `sub`. The first
/// two segments may be anything. Only this proves that Salesforce verified the user.
fn is_verified(session: &str, subject: &Subject) -> bool {
    let of_user = session.strip_suffix(subject.as_str()).and_then(|rest| rest.strip_suffix("/uid:"));
    let segments: Vec<&str> = of_user.unwrap_or_default().split('/').collect();
    matches!(segments[..], [_, _, "AUTH", configuration] if !configuration.is_empty())
}

fn missing_token(name: &str) -> String {
    format!("no {name} of 1 to {MAX_TOKEN_BYTES} visible ASCII characters")
}

/// Whether a token is 1 to [`MAX_TOKEN_BYTES`] visible ASCII characters, so that a header can hold it.
fn is_token(token: &str) -> bool {
    (1..=MAX_TOKEN_BYTES).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic())
}

/// Parses a URL in Salesforce's domains or on the host of `token_url`. It must be written in normalized form, because
/// parsers differ: for example, some read `\@evil.example` as part of the path, and some as the host. Case, the default
/// port and a trailing slash may differ.
///
/// # Errors
/// The URL is malformed, ambiguous, or has a foreign host. For the last two, the message names the host.
fn salesforce_url(written: &str, token_url: &HttpsOrLoopbackUrl) -> Result<Url, String> {
    let parsed = HttpsOrLoopbackUrl::parse(written).map_err(|_| "that is no https URL".to_owned())?;
    let url = parsed.url();
    let host = url.host_str().ok_or("that names no host")?;
    let is_token_host = token_url.url().host_str() == Some(host);
    let is_salesforce_host =
        url.scheme() == "https" && salesforce::SalesforceHost::from_url(url).is_trusted_in_responses();
    if !is_token_host && !is_salesforce_host {
        return Err(format!("of the host {}, which is none of Salesforce's", quote(host)));
    }
    let normalized = |url: &str| url.trim_end_matches('/').replace(":443", "").to_ascii_lowercase();
    if normalized(url.as_str()) != normalized(written) {
        return Err(format!(
            "of the host {}, written in a way that other programs may read as another host's",
            quote(host)
        ));
    }
    Ok(url.clone())
}

/// Parses a URL by the rules of [`salesforce_url`]. It must be an origin alone, without path, query or fragment.
fn origin(written: &str, token_url: &HttpsOrLoopbackUrl) -> Result<String, String> {
    let url = salesforce_url(written, token_url)?;
    let names_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
    if names_more {
        Err("that names more than a host".to_owned())
    } else {
        Ok(url.origin().ascii_serialization())
    }
}

/// Reads the `exp` of an access token that is a JWT; `None` if it isn't a JWT or has no `exp`. The signature isn't
/// verified: Salesforce issued the token and is the only one that accepts it.
///
/// # Errors
/// `exp` isn't a number, so the expiry is unknown.
pub(super) fn jwt_expiry(unverified_token: &str) -> Result<Option<UnixTime>, &'static str> {
    let payload = unverified_token.split('.').nth(1).filter(|_| unverified_token.matches('.').count() == 2);
    let payload = payload.and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    let Some(claims) = payload.and_then(|payload| Json::parse(&payload).ok()) else { return Ok(None) };
    let seconds = whole_seconds(claims.member("exp")).map_err(|()| "a token whose exp is no number")?;
    Ok(seconds.map(UnixTime::from_seconds))
}

/// Reads seconds, rounded down: a number, which may have a fraction (RFC 7519, section 2), or a string that contains
/// one, like in some of Salesforce's responses.
fn whole_seconds(member: Option<&Json>) -> Result<Option<i64>, ()> {
    match member {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Number(number)) => Ok(Some(number.floor())),
        Some(Json::String(text)) => match Json::parse(text.as_bytes()) {
            Ok(Json::Number(number)) => Ok(Some(number.floor())),
            _ => Err(()),
        },
        Some(_) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        Subject::parse("sub", text.to_owned()).expect("a subject")
    }

    #[test]
    fn only_a_session_of_exactly_that_user_is_verified() {
        let verified = |session: &str| is_verified(session, &subject("user-1"));
        assert!(verified("v2/iamessage/AUTH/Web_Config/uid:user-1"));
        for session in [
            "v2/iamessage/ANON/6f1a",
            "v2/iamessage/UNAUTH/NA/uid:user-1",
            "v2/iamessage/AUTH/Web_Config/uid:user-12",
            "v2/iamessage/AUTH/Web_Config/uid:xuser-1",
            "v2/iamessage/AUTH/Web_Config/user-1",
            "v2/iamessage/AUTH/uid:user-1",
            "v2/iamessage/auth/Web_Config/uid:user-1",
            "v2/iamessage/AUTH//uid:user-1",
            "v2/iamessage/UNAUTH/AUTH/x/uid:user-1",
            "v2/iamessage/ANON/AUTH/uid:z/uid:user-1",
            "uid:user-1",
            "",
        ] {
            assert!(!verified(session), "{session}");
        }
        // A subject that looks like a session subject doesn't count as one.
        let sneaky = subject("x/AUTH/y/uid:admin");
        assert!(!is_verified("v2/iamessage/ANON/uid:x/AUTH/y/uid:admin", &sneaky));
    }

    #[test]
    fn seconds_are_rounded_down_and_anything_unclear_is_rejected() {
        let seconds = |json: &str| {
            let json = Json::parse(format!("{{\"exp\": {json}}}").as_bytes()).expect("JSON");
            whole_seconds(json.member("exp"))
        };
        for (written, read) in [
            ("90", 90),
            ("2.0", 2),
            ("1795916839.5", 1_795_916_839),
            ("1.79e9", 1_790_000_000),
            ("-5", -5),
            ("-0.5", -1),
            ("\"90\"", 90),
            ("\" 90.7 \"", 90),
            ("1795916839000", 1_795_916_839_000),
        ] {
            assert_eq!(seconds(written), Ok(Some(read)), "{written}");
        }
        assert_eq!(seconds("null"), Ok(None));
        for unclear in ["true", "\"soon\"", "\"\"", "\"inf\"", "[90]", "{}"] {
            assert_eq!(seconds(unclear), Err(()), "{unclear}");
        }
    }

    #[test]
    fn an_instance_url_must_be_an_origin_of_salesforce_or_of_the_token_host() {
        let token_url =
            HttpsOrLoopbackUrl::parse("https://acme.my.salesforce.com/services/oauth2/token").expect("a URL");
        for url in [
            "https://acme.my.salesforce.com",
            "https://na1.salesforce.com",
            "https://acme.lightning.force.com",
            "https://acme.my.sfcrmproducts.cn",
            "https://acme.my.sfcrmapps.cn",
        ] {
            assert_eq!(origin(url, &token_url).as_deref(), Ok(url));
        }
        for url in [
            "https://acme.my.salesforce.com/",
            "https://acme.my.salesforce.com:443",
            "https://ACME.my.salesforce.com:443/",
        ] {
            assert_eq!(origin(url, &token_url).as_deref(), Ok("https://acme.my.salesforce.com"), "{url}");
        }
        for url in [
            "http://acme.my.salesforce.com",
            "https://salesforce.com.evil.example",
            "https://evilsalesforce.com",
            "https://acme.my.salesforce.com\\@evil.example",
            "https://acme.my.salesforce.com\\.evil.example",
            "https:\\\\acme.my.salesforce.com",
            "https://acme.my.salesforce.com/services",
            "https://acme.my.salesforce.com?x",
            "https:acme.my.salesforce.com",
            "https://acme%2emy.salesforce.com",
            "https://evil.com;.salesforce.com",
            "https://evil.com'.salesforce.com",
            "https://evil.com$x.salesforce.com",
            "https://evil_com.salesforce.com",
            "https://*.salesforce.com",
            "https://.salesforce.com",
            "https://a..salesforce.com",
            "https://-a.salesforce.com",
            "https://a-.salesforce.com",
            "http://127.0.0.1",
            "x",
            "",
        ] {
            assert!(origin(url, &token_url).is_err(), "{url}");
        }
        let evil = origin("https://evil.example", &token_url).expect_err("foreign");
        assert!(evil.contains("evil.example"), "the host that came is named: {evil}");
        let id = "https://login.salesforce.com/id/00D/005";
        assert_eq!(salesforce_url(id, &token_url).as_ref().map(Url::as_str), Ok(id));
        for id in [
            "https://login.salesforce.com\\@evil.example/id",
            "https://evil.example/id",
            "https://login.salesforce.com/a/../id",
        ] {
            assert!(salesforce_url(id, &token_url).is_err(), "{id}");
        }
    }
}
