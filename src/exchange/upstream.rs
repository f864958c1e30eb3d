//! HTTP transport to Salesforce: limits the time of each request and the size of its response, and follows no redirects.
//! A token response must be JSON without duplicate members; unknown members are accepted. [`probe`] returns any body.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reqwest::header::{CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use reqwest::{Client, ClientBuilder};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::HttpsOrLoopbackUrl;
use crate::http_client::{self, CONNECT_TIMEOUT};
use crate::json::Json;
use crate::tokens::Subject;

/// Timeout of a request to Salesforce, from connecting to the last byte of the response.
pub(super) const UPSTREAM_TIMEOUT: Duration = http_client::REQUEST_TIMEOUT;
/// Timeout of an exchange with its retry: [`UPSTREAM_TIMEOUT`], plus a second to sign and count the request before.
pub(super) const MAX_EXCHANGE_TIME: Duration = UPSTREAM_TIMEOUT.saturating_add(Duration::from_secs(1));
/// Timeout of a check of a session. A client waits for it, so it is short.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// The body with which Salesforce's user info endpoint refuses a token, with status 403 (Salesforce Help, "Query for User
/// Information").
const BAD_OAUTH_TOKEN: &str = "Bad_OAuth_Token";
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum body of a token response; real ones are far smaller.
const MAX_TOKEN_RESPONSE_BYTES: usize = 64 << 10;
/// Maximum number of headers. Salesforce sends about 20, 2 KiB in all; proxies add more.
const MAX_RESPONSE_HEADERS: usize = 256;
const MAX_RESPONSE_HEADER_BYTES: usize = 16 << 10;
/// Approximate maximum of the body that [`probe`] reads, more than any JWKS needs.
const MAX_PROBE_BYTES: usize = 1 << 20;
/// Maximum length of Salesforce's texts in errors.
const MAX_QUOTE_CHARS: usize = 200;

const MALFORMED_RESPONSE: &str = "the response head is not HTTP/1.1, or has more than 256 headers";

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Sends requests to Salesforce: over the network, or to a fake in tests.
pub trait Transport: Send + Sync + 'static {
    /// Sends a POST request. Must end within the given time.
    fn send(
        &self,
        request: UpstreamRequest,
        within: Duration,
    ) -> BoxFuture<'_, Result<UpstreamResponse, UpstreamError>>;

    /// Health probe for the circuit breaker: whether the host answers, with a status below 500 other than 429. Must not be a
    /// login.
    fn is_reachable<'a>(&'a self, address: &'a HttpsOrLoopbackUrl) -> BoxFuture<'a, bool>;

    /// Asks Salesforce whether it still accepts an access token: a GET of `user_info`, which is no login.
    fn check_session<'a>(&'a self, user_info: Url, token: &'a SecretString) -> BoxFuture<'a, SessionState>;

    /// Initializes what the first request needs. May block for milliseconds.
    fn warm_up(&self) {}
}

/// The state of the session of an access token, by an answer of Salesforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    Live,
    /// The session expired, or was revoked.
    Ended,
    /// There was no answer, or one that doesn't say it.
    Unknown,
}

impl SessionState {
    /// The value of the label `outcome` in metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ended => "ended",
            Self::Unknown => "unknown",
        }
    }
}

/// A request to Salesforce.
pub struct UpstreamRequest {
    pub(crate) url: Url,
    pub(crate) content_type: &'static str,
    pub body: Vec<u8>,
    pub(crate) headers: HeaderMap,
    pub(crate) connection: ConnectionChoice,
    /// Texts that no error made from the response may quote.
    pub(crate) confidential: Confidential,
}

/// The signed JWT of a request, and for messaging its subject. They are redacted in texts of Salesforce: error messages and logs
/// of callers must not have them.
#[derive(Clone)]
pub(crate) struct Confidential {
    pub(crate) jwt: SecretString,
    pub(crate) subject: Option<Subject>,
}

/// Which connection a request may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionChoice {
    /// A pooled connection, or a new one.
    Any,
    New,
}

/// A complete response of Salesforce.
pub struct UpstreamResponse {
    pub status: u16,
    pub body: Json,
    pub retry_after: Option<Duration>,
    /// The `Date` header, in seconds since the epoch.
    pub date: Option<i64>,
}

/// Why there is no usable response. The message describes the response, but never quotes its body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    #[error("Salesforce did not answer within {} s", UPSTREAM_TIMEOUT.as_secs())]
    Timeout,
    /// No byte of the request was sent.
    #[error("Salesforce can't be reached: {0}")]
    NotSent(&'static str),
    /// The connection closed before a complete response head arrived. For example, Salesforce closes an idle connection
    /// at the moment it is reused.
    #[error("Salesforce was reached, but {0}")]
    Closed(&'static str),
    #[error("Salesforce was reached, but {0}")]
    Broken(&'static str),
    #[error("Salesforce answered {status} with {what}")]
    Unusable { status: u16, what: String, retry_after: Option<Duration> },
}

impl UpstreamError {
    /// The status of an unusable response; `None` for the other errors.
    pub(super) const fn status(&self) -> Option<u16> {
        match self {
            Self::Unusable { status, .. } => Some(*status),
            Self::Timeout | Self::NotSent(_) | Self::Closed(_) | Self::Broken(_) => None,
        }
    }
}

/// Transport over the network. The clients are created lazily: loading the host's certificate authorities takes
/// milliseconds, which would delay startup.
pub(super) struct HttpTransport {
    client: LazyLock<Client>,
    /// Opens a new connection for each request.
    unpooled: LazyLock<Client>,
    clock: Arc<dyn Clock>,
}

impl HttpTransport {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            client: LazyLock::new(|| build_client(client_builder)),
            unpooled: LazyLock::new(|| build_client(|| client_builder().pool_max_idle_per_host(0))),
            clock,
        }
    }
}

impl Transport for HttpTransport {
    fn send(
        &self,
        request: UpstreamRequest,
        within: Duration,
    ) -> BoxFuture<'_, Result<UpstreamResponse, UpstreamError>> {
        let client = match request.connection {
            ConnectionChoice::Any => &self.client,
            ConnectionChoice::New => &self.unpooled,
        };
        Box::pin(send_with(client, &*self.clock, request, within))
    }

    fn is_reachable<'a>(&'a self, address: &'a HttpsOrLoopbackUrl) -> BoxFuture<'a, bool> {
        Box::pin(async {
            let mut root = address.url().clone();
            root.set_path("/");
            root.set_query(None);
            let response = self.client.get(root).timeout(CONNECT_TIMEOUT).send().await;
            response.is_ok_and(|response| {
                !response.status().is_server_error() && response.status().as_u16() != 429
            })
        })
    }

    fn check_session<'a>(&'a self, user_info: Url, token: &'a SecretString) -> BoxFuture<'a, SessionState> {
        Box::pin(async {
            let request =
                self.client.get(user_info).bearer_auth(token.expose_secret()).timeout(CHECK_TIMEOUT);
            let Ok(response) = request.send().await else { return SessionState::Unknown };
            match response.status() {
                StatusCode::UNAUTHORIZED => SessionState::Ended,
                StatusCode::FORBIDDEN if is_text(response, BAD_OAUTH_TOKEN).await => SessionState::Ended,
                status if status.is_success() => SessionState::Live,
                _ => SessionState::Unknown,
            }
        })
    }

    fn warm_up(&self) {
        LazyLock::force(&self.client);
    }
}

/// Whether the body of a response is `text`, maybe as JSON text.
async fn is_text(mut response: reqwest::Response, text: &str) -> bool {
    const MAX_BODY: usize = 1 << 10;
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            return false;
        }
    }
    let body = body.trim_ascii();
    let body = body.strip_prefix(b"\"").and_then(|body| body.strip_suffix(b"\"")).unwrap_or(body);
    body == text.as_bytes()
}

fn build_client(builder: fn() -> ClientBuilder) -> Client {
    http_client::build_with_host_authorities(builder, "requests to Salesforce")
}

/// A client that follows no redirects.
fn client_builder() -> ClientBuilder {
    http_client::builder()
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .http1_max_headers(MAX_RESPONSE_HEADERS)
        .redirect(reqwest::redirect::Policy::none())
}

async fn send_with(
    client: &Client,
    clock: &dyn Clock,
    request: UpstreamRequest,
    within: Duration,
) -> Result<UpstreamResponse, UpstreamError> {
    let UpstreamRequest { url, content_type, body, headers, connection: _, confidential } = request;
    let request = client.post(url).headers(headers).header(CONTENT_TYPE, content_type).body(body);
    let sent = request.timeout(within.min(UPSTREAM_TIMEOUT)).send().await;
    let mut response = sent.map_err(|error| match classify(&error) {
        UpstreamError::Broken(_) if is_malformed(&error) => UpstreamError::Broken(MALFORMED_RESPONSE),
        UpstreamError::Broken(reason) => UpstreamError::Closed(reason),
        other => other,
    })?;
    let status = response.status().as_u16();
    let date = response.headers().get(DATE).and_then(|value| parse_http_date(value.to_str().ok()?));
    let sent_at = date.unwrap_or_else(|| clock.now().seconds());
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| parse_retry_after(value.to_str().ok()?, sent_at));
    let unusable = |what: String| UpstreamError::Unusable { status, what, retry_after };
    let header_bytes = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    if header_bytes.sum::<usize>() > MAX_RESPONSE_HEADER_BYTES {
        return Err(unusable("more than 16 KiB of headers".to_owned()));
    }
    if response.status().is_redirection() {
        let location =
            response.headers().get(LOCATION).and_then(|value| Url::parse(value.to_str().ok()?).ok());
        let host = location.as_ref().and_then(Url::host_str).map(|host| confidential.quote(host));
        let to = host.map_or_else(String::new, |host| format!(" to {host}"));
        return Err(unusable(format!("a redirect{to}, which is not followed")));
    }
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| classify(&error))? {
        if body.len() + chunk.len() > MAX_TOKEN_RESPONSE_BYTES {
            return Err(unusable("more than 64 KiB".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    if body.is_empty() {
        return Err(unusable("no body".to_owned()));
    }
    let json = Json::parse(&body).map_err(|_| unusable("a body that isn't JSON".to_owned()))?;
    if json.duplicate_key().is_some() {
        return Err(unusable("JSON that names a member twice".to_owned()));
    }
    Ok(UpstreamResponse { status, body: json, retry_after, date })
}

/// The response to [`probe`]. It is untrusted, and redirects aren't followed.
pub(crate) struct ProbeResponse {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Vec<u8>,
    /// The `Date` header, in seconds since the epoch.
    pub(crate) date: Option<i64>,
    /// Time from connecting to the last byte read.
    pub(crate) took: Duration,
}

/// Sends a GET request to `url` and returns the response, even if it is a redirect. The body is cut off after about 1 MiB.
///
/// # Errors
/// There was no complete response; the message says why.
pub(crate) async fn probe(url: &str, clock: &dyn Clock) -> Result<ProbeResponse, String> {
    let client = build_client(client_builder);
    let failed = |error: reqwest::Error| match classify(&error) {
        UpstreamError::Timeout => format!("does not answer within {} s", UPSTREAM_TIMEOUT.as_secs()),
        UpstreamError::NotSent(why) | UpstreamError::Closed(why) | UpstreamError::Broken(why) => {
            format!("can't be reached: {why}")
        }
        unusable @ UpstreamError::Unusable { .. } => unusable.to_string(),
    };
    let started = clock.monotonic();
    let mut response = client.get(url).send().await.map_err(failed)?;
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let date = header(DATE).and_then(parse_http_date);
    let location = header(LOCATION).map(str::to_owned);
    let content_type = header(CONTENT_TYPE).map(str::to_owned);
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_PROBE_BYTES {
            break;
        }
    }
    Ok(ProbeResponse {
        status,
        location,
        content_type,
        body,
        date,
        took: clock.monotonic().saturating_sub(started),
    })
}

/// Whether a response arrived that isn't valid HTTP.
fn is_malformed(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn classify(error: &reqwest::Error) -> UpstreamError {
    // A connect timeout isn't a late response: nothing was sent.
    if error.is_connect() {
        UpstreamError::NotSent(
            "the connection or its TLS handshake failed; check DNS, firewall and certificates",
        )
    } else if error.is_timeout() {
        UpstreamError::Timeout
    } else {
        UpstreamError::Broken("the connection broke before the response was complete")
    }
}

/// Parses `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3), which is compared with `sent_at`: the response's `Date`, or
/// without one this host's clock.
fn parse_retry_after(value: &str, sent_at: i64) -> Option<Duration> {
    let value = value.trim();
    let seconds = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        value.parse().unwrap_or(u64::MAX)
    } else {
        u64::try_from(parse_http_date(value)?.saturating_sub(sent_at)).unwrap_or(0)
    };
    Some(Duration::from_secs(seconds))
}

/// Parses a date like `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
fn parse_http_date(value: &str) -> Option<i64> {
    let date = time::OffsetDateTime::parse(value.trim(), &time::format_description::well_known::Rfc2822).ok();
    date.map(time::OffsetDateTime::unix_timestamp)
}

/// The shortest part of a JWT that is redacted, in bytes. A subject of at least this length is redacted within words too.
const MIN_REDACTED_BYTES: usize = 12;
/// How much of a text is searched, in bytes.
const MAX_SEARCHED_BYTES: usize = 4 << 10;

impl Confidential {
    /// Like [`quote`], with the subject redacted, and each word that has a part of the JWT. A short subject inside a word stays.
    pub(super) fn quote(&self, words: &str) -> String {
        let words = &words[..words.floor_char_boundary(MAX_SEARCHED_BYTES)];
        let jwt = self.jwt.expose_secret();
        let has_part = |word: &str| {
            word.as_bytes()
                .windows(MIN_REDACTED_BYTES)
                .any(|part| std::str::from_utf8(part).is_ok_and(|part| jwt.contains(part)))
        };
        let is_word_char = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let mut redacted = String::with_capacity(words.len());
        for piece in words.split_inclusive(|c| !is_word_char(c)) {
            let (word, end) = match piece.char_indices().next_back() {
                Some((at, last)) if !is_word_char(last) => piece.split_at(at),
                _ => (piece, ""),
            };
            redacted.push_str(if has_part(word) { "[token]" } else { word });
            redacted.push_str(end);
        }
        let redacted = match &self.subject {
            Some(subject) => redact_word(&redacted, subject.as_str(), "[subject]"),
            None => redacted,
        };
        quote(&redacted)
    }
}

/// Replaces `word` in `text`. A short one is replaced only where no letter or digit is beside it, so that a subject like `1`
/// doesn't take a number apart.
fn redact_word(text: &str, word: &str, replacement: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut end = 0;
    for (at, found) in text.match_indices(word) {
        let is_beside = |next: Option<char>| next.is_some_and(char::is_alphanumeric);
        let rest = &text[at + found.len()..];
        let is_inside = word.len() < MIN_REDACTED_BYTES
            && (is_beside(text[..at].chars().next_back()) || is_beside(rest.chars().next()));
        if !is_inside {
            redacted.push_str(&text[end..at]);
            redacted.push_str(replacement);
            end = at + found.len();
        }
    }
    redacted.push_str(&text[end..]);
    redacted
}

/// Truncates a text of Salesforce and removes control characters, so that logs and responses can quote it.
pub(super) fn quote(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(MAX_QUOTE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_repeats_the_request_is_redacted() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1c2VyLTQ3MTEifQ.c2lnbmF0dXJlLW9mLWEtdG9rZW4";
        let confidential = |subject: &str| Confidential {
            jwt: SecretString::from(jwt),
            subject: Some(Subject::parse("sub", subject.to_owned()).expect("a subject")),
        };
        let quote = |words: &str| confidential("user-4711").quote(words);
        assert_eq!(quote(jwt), "[token]");
        assert_eq!(quote(&jwt[..30]), "[token]");
        assert_eq!(quote(&format!("bad \"{}\": {}!", &jwt[40..], &jwt[3..15])), "bad \"[token]\": [token]!");
        assert_eq!(quote("no user-4711, user-4711"), "no [subject], [subject]");
        assert_eq!(quote("no uid:user-4711/user-47112/xuser-4711"), "no uid:[subject]/user-47112/xuser-4711");
        assert_eq!(confidential("1").quote("1 of 11, not 1"), "[subject] of 11, not [subject]");
        assert_eq!(confidential("customer-4711").quote("xcustomer-47112"), "x[subject]2");
        assert_eq!(confidential("é b").quote("(é b)"), "([subject])");
        // It is redacted before it is truncated: no part is left at the end.
        let long = format!("{} user-4711", "x".repeat(MAX_QUOTE_CHARS - 5));
        assert!(quote(&long).ends_with(" [sub"), "{}", quote(&long));
        for harmless in ["", "user hasn\u{2019}t approved this consumer", "acme.my.salesforce.com", "a\n b"] {
            assert_eq!(quote(harmless), super::quote(harmless));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = 1_795_176_000;
        assert_eq!(parse_http_date("Fri, 20 Nov 2026 12:00:00 GMT"), Some(date));
        assert_eq!(parse_retry_after(" 7 ", date), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Fri, 20 Nov 2026 12:00:30 GMT", date), Some(Duration::from_secs(30)));
        assert_eq!(parse_retry_after("Fri, 20 Nov 2026 11:00:00 GMT", date), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("99999999999999999999", date), Some(Duration::from_secs(u64::MAX)));
        for garbage in ["", "-1", "soon", "1.5"] {
            assert_eq!(parse_retry_after(garbage, date), None, "{garbage}");
        }
    }
}
