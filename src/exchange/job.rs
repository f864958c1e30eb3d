//! The two exchanges: what is asked of Salesforce, and what its answer must be to count.

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

use super::error::{ExchangeError, Upstream};
use super::login_budget::Allowance;
use super::meaning::{self, Meaning};
use super::token::{About, Life, Obtained};
use super::upstream::{Outgoing, Reply, WhichConnection, quoted};
use crate::clock::{Randomness, UnixTime};
use crate::config::{HttpsUrl, KeyId, MessagingConfig, ProfileName, salesforce};
use crate::json::Json;
use crate::tokens::{Claims, GRANT_TYPE, IdentityProfile, MintError, OauthProfile, Signer, Subject};

/// The life of a messaging access token that says nothing of it: the channel's default for verified users.
const CHANNEL_DEFAULT: Duration = Duration::from_hours(1);

/// Longer than any access token that Salesforce is known to give, and short enough to be sent back as
/// `rejected_token`.
const LONGEST_TOKEN: usize = 12 << 10;

/// One exchange that can be made, again and again.
#[derive(Clone)]
pub(super) enum Job {
    Oauth(Arc<OauthProfile>),
    Messaging { profile: Arc<IdentityProfile>, subject: Subject, claims: Claims },
}

/// Everything that makes a token somebody's, hashed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CacheKey([u8; 32]);

impl CacheKey {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Job {
    pub fn profile(&self) -> &ProfileName {
        match self {
            Self::Oauth(profile) => &profile.name,
            Self::Messaging { profile, .. } => &profile.name,
        }
    }

    /// Where the request goes.
    pub fn address(&self) -> &HttpsUrl {
        match self {
            Self::Oauth(profile) => &profile.token_url,
            Self::Messaging { profile, .. } => &channel(profile).scrt_url,
        }
    }

    /// The key that signs at `now`.
    ///
    /// # Errors
    /// None does yet.
    pub fn signing_kid(&self, now: UnixTime) -> Result<&KeyId, MintError> {
        match self {
            Self::Oauth(profile) => profile.signing_kid(now),
            Self::Messaging { profile, .. } => profile.signing_kid(now),
        }
    }

    /// Whether a token that was got with that key may be handed out: it isn't retired, nor of another keyset.
    pub fn knows(&self, kid: &KeyId) -> bool {
        match self {
            Self::Oauth(profile) => profile.knows(kid),
            Self::Messaging { profile, .. } => profile.knows(kid),
        }
    }

    /// The life of a token of which Salesforce says nothing.
    pub fn assumed_life(&self) -> Duration {
        match self {
            Self::Oauth(profile) => profile.access_token_ttl,
            Self::Messaging { .. } => CHANNEL_DEFAULT,
        }
    }

    /// Whether a token and what came with it are what Salesforce gives for this job, and for nobody else.
    pub fn accepts(&self, token: &str, about: &About) -> bool {
        is_token(token)
            && match (self, about) {
                (Self::Oauth(profile), About::Oauth { instance_url, api_instance_url, id, .. }) => {
                    let origin = |url: &String| origin(url, &profile.token_url).is_ok();
                    origin(instance_url)
                        && api_instance_url.as_ref().is_none_or(origin)
                        && id.as_ref().is_none_or(|id| salesforce_url(id, &profile.token_url).is_ok())
                }
                (Self::Messaging { subject, .. }, About::Messaging { subject: session, .. }) => {
                    is_verified(session, subject)
                }
                _ => false,
            }
    }

    /// Whose token it is.
    pub fn cache_key(&self) -> CacheKey {
        let owner = match self {
            Self::Oauth(profile) => profile.owner,
            Self::Messaging { profile, subject, claims } => {
                profile.owner.within([subject.as_str().as_bytes(), &claims.sorted()])
            }
        };
        CacheKey(*owner.as_bytes())
    }

    /// Scheme, host and port of that: what fails together.
    pub fn origin(&self) -> String {
        self.address().url().origin().ascii_serialization()
    }

    /// Whose limit at Salesforce a request counts against, and how much of it is ours.
    pub fn allowance(&self) -> (String, Allowance) {
        match self {
            Self::Oauth(profile) => login_allowance(profile),
            Self::Messaging { profile, .. } => messaging_allowance(channel(profile)),
        }
    }

    /// The request, with an assertion or identity token made for it alone.
    pub async fn request(
        &self,
        now: UnixTime,
        randomness: &dyn Randomness,
        signer: &Signer,
    ) -> Result<Outgoing, MintError> {
        match self {
            Self::Oauth(profile) => {
                let assertion = profile.mint(now, randomness, signer).await?;
                let mut form = Serializer::new(String::new());
                form.append_pair("grant_type", GRANT_TYPE);
                form.append_pair("assertion", assertion.minted.token.expose_secret());
                // Nothing in an answer tells whose it is: one that a proxy sends twice must find no other profile's request.
                let headers = HeaderMap::from_iter([(CONNECTION, HeaderValue::from_static("close"))]);
                Ok(Outgoing {
                    url: profile.token_url.url().clone(),
                    content_type: "application/x-www-form-urlencoded",
                    body: form.finish().into_bytes(),
                    headers,
                    connection: WhichConnection::Any,
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
                Ok(Outgoing {
                    url,
                    content_type: "application/json",
                    body: body.to_string().into_bytes(),
                    headers: HeaderMap::new(),
                    connection: WhichConnection::Any,
                })
            }
        }
    }

    /// What `reply` gives, if it counts.
    pub fn read(&self, reply: &Reply) -> Result<Obtained, ExchangeError> {
        if !(200..300).contains(&reply.status) {
            return Err(ExchangeError::Rejected {
                meaning: self.meaning(reply),
                upstream: self.said(reply),
                asked: self.asked(),
                retry_after: reply.retry_after,
            });
        }
        match self {
            Self::Oauth(profile) => read_oauth(profile, reply).map_err(|what| self.unusable(reply, what)),
            Self::Messaging { subject, .. } => {
                let obtained = read_messaging(subject, reply).map_err(|what| self.unusable(reply, what))?;
                obtained.map_err(|meaning| ExchangeError::Unverified { meaning })
            }
        }
    }

    /// Why a whole answer gives no token.
    pub fn unusable(&self, reply: &Reply, what: impl Into<String>) -> ExchangeError {
        let (status, retry_after) = (reply.status, reply.retry_after);
        ExchangeError::Unusable { status, what: what.into(), asked: self.asked(), retry_after }
    }

    /// The code and the description of an error answer, in full.
    fn words<'a>(&self, reply: &'a Reply) -> (Option<&'a str>, Option<&'a str>) {
        match self {
            Self::Oauth(_) => (reply.body.text("error"), reply.body.text("error_description")),
            Self::Messaging { .. } => {
                (reply.body.text("error").or_else(|| reply.body.text("code")), reply.body.text("message"))
            }
        }
    }

    fn said(&self, reply: &Reply) -> Upstream {
        let (error, description) = self.words(reply);
        Upstream {
            status: reply.status,
            error: error.map(quoted),
            error_description: description.map(quoted),
        }
    }

    fn meaning(&self, reply: &Reply) -> &'static Meaning {
        let (error, description) = self.words(reply);
        let (error, description) = (error.unwrap_or_default(), description.unwrap_or_default());
        match self {
            Self::Oauth(_) => meaning::of_oauth(reply.status, error, description),
            Self::Messaging { .. } => meaning::of_messaging(reply.status, &format!("{error} {description}")),
        }
    }

    /// The pair that matters when Salesforce says no.
    pub fn asked(&self) -> String {
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

pub(super) fn login_allowance(profile: &OauthProfile) -> (String, Allowance) {
    // Salesforce tells no `a@ACME.com` from `a@acme.com`.
    let who = format!("login {} {}", profile.token_url.as_str(), profile.username.to_lowercase());
    (who, Allowance { requests: profile.logins_per_hour, window: Duration::from_hours(1) })
}

pub(super) fn messaging_allowance(channel: &MessagingConfig) -> (String, Allowance) {
    let who = format!("messaging {} {}", channel.scrt_url.as_str(), channel.org_id.as_str());
    (who, Allowance { requests: channel.requests_per_minute, window: Duration::from_mins(1) })
}

const fn channel(profile: &IdentityProfile) -> &MessagingConfig {
    profile.messaging.as_ref().expect("a messaging job is made only of a profile with [messaging]")
}

fn read_oauth(profile: &OauthProfile, reply: &Reply) -> Result<Obtained, String> {
    let body = &reply.body;
    let token =
        body.text("access_token").filter(|token| is_token(token)).ok_or_else(|| no_token("access_token"))?;
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
    let lasts = seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let life = Life { until: expiry(token)?, lasts };
    Ok(Obtained {
        secret: SecretString::from(token),
        about: About::Oauth {
            instance_url,
            api_instance_url: origin_of("api_instance_url")?,
            token_format: printable("token_format").map(str::to_owned),
            scope: printable("scope").map(str::to_owned),
            id: id.map(|id| id.to_string()),
        },
        life,
    })
}

/// The token of a verified session; what it means where the session is anonymous, or another user's.
fn read_messaging(subject: &Subject, reply: &Reply) -> Result<Result<Obtained, &'static Meaning>, String> {
    let body = &reply.body;
    let token =
        body.text("accessToken").filter(|token| is_token(token)).ok_or_else(|| no_token("accessToken"))?;
    let session = body.member("context").and_then(|context| context.member("endUser")?.text("subject"));
    let session = session.ok_or("no context.endUser.subject")?;
    if !is_verified(session, subject) {
        let is_somebody_s = session.split('/').nth(2) == Some("AUTH");
        return Ok(Err(if is_somebody_s { &meaning::ANOTHER_USER } else { &meaning::UNVERIFIED }));
    }
    let last_event_id = match body.member("lastEventId") {
        Some(Json::String(id)) if id.len() <= 256 && !id.chars().any(char::is_control) => id.clone(),
        Some(Json::Number(id)) if id.as_str().len() <= 256 => id.as_str().to_owned(),
        _ => return Err("no usable lastEventId".to_owned()),
    };
    Ok(Ok(Obtained {
        secret: SecretString::from(token),
        about: About::Messaging { last_event_id, subject: session.to_owned() },
        life: Life { until: expiry(token)?, lasts: None },
    }))
}

/// `v2/iamessage/AUTH/<configuration>/uid:<sub>`, whatever the first two, and that very `sub`: the only proof that the session
/// is the user's.
fn is_verified(session: &str, subject: &Subject) -> bool {
    let of_user = session.strip_suffix(subject.as_str()).and_then(|rest| rest.strip_suffix("/uid:"));
    let segments: Vec<&str> = of_user.unwrap_or_default().split('/').collect();
    matches!(segments[..], [_, _, "AUTH", configuration] if !configuration.is_empty())
}

fn no_token(name: &str) -> String {
    format!("no {name} of 1 to {LONGEST_TOKEN} visible ASCII characters")
}

/// Visible ASCII, fit for a header.
fn is_token(token: &str) -> bool {
    (1..=LONGEST_TOKEN).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic())
}

/// An address in Salesforce's domains, or where the token came from, as it is read. It must be written like that: what one
/// parser takes for a path, such as `\@evil.example`, another takes for a host.
///
/// # Errors
/// Says what is wrong with it, and names the host that came.
fn salesforce_url(written: &str, token_url: &HttpsUrl) -> Result<Url, String> {
    let parsed = HttpsUrl::parse(written).map_err(|_| "that is no https URL".to_owned())?;
    let url = parsed.url();
    let host = url.host_str().ok_or("that names no host")?;
    let from_there = token_url.url().host_str() == Some(host);
    let ours = url.scheme() == "https" && salesforce::SalesforceHost::from_url(url).is_trusted_in_responses();
    if !from_there && !ours {
        return Err(format!("of the host {}, which is none of Salesforce's", quoted(host)));
    }
    // The same but for capitals, its own port and a slash at the end.
    let spelt = |url: &str| url.trim_end_matches('/').replace(":443", "").to_ascii_lowercase();
    if spelt(url.as_str()) != spelt(written) {
        return Err(format!(
            "of the host {}, written in a way that other programs may read as another host's",
            quoted(host)
        ));
    }
    Ok(url.clone())
}

/// The origin of such an address, which must name nothing else.
fn origin(written: &str, token_url: &HttpsUrl) -> Result<String, String> {
    let url = salesforce_url(written, token_url)?;
    let names_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
    if names_more {
        Err("that names more than a host".to_owned())
    } else {
        Ok(url.origin().ascii_serialization())
    }
}

/// The `exp` of an access token that is a JWT; `None` where it has none. Unverified: it is Salesforce's to us, and only
/// shortens what we keep.
///
/// # Errors
/// There is one that can't be read: nobody knows when the token ends.
pub(super) fn expiry(unverified_token: &str) -> Result<Option<UnixTime>, &'static str> {
    let payload = unverified_token.split('.').nth(1).filter(|_| unverified_token.matches('.').count() == 2);
    let payload = payload.and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    let Some(claims) = payload.and_then(|payload| Json::parse(&payload).ok()) else { return Ok(None) };
    let seconds = whole_seconds(claims.member("exp")).map_err(|()| "a token whose exp is no number")?;
    Ok(seconds.map(UnixTime::from_seconds))
}

/// Seconds, rounded down: a number, which may have a fraction (RFC 7519, section 2), or its text, as Salesforce writes some.
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
    fn only_the_very_user_s_session_is_verified() {
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
        // A subject that looks like a session makes none.
        let sneaky = subject("x/AUTH/y/uid:admin");
        assert!(!is_verified("v2/iamessage/ANON/uid:x/AUTH/y/uid:admin", &sneaky));
    }

    #[test]
    fn a_life_is_read_as_whole_seconds_or_refused() {
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
    fn an_instance_url_is_the_origin_of_salesforce_s_or_of_the_token_s_own_host() {
        let token_url =
            HttpsUrl::parse("https://acme.my.salesforce.com/services/oauth2/token").expect("a URL");
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
