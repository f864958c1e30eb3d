//! One request to Salesforce: bounded in time and size, never redirected, and its answer read as strictly as
//! our own callers' requests.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::Duration;

use http::HeaderMap;
use reqwest::header::{CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use reqwest::{Client, ClientBuilder};
use url::Url;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::HttpsUrl;
use crate::json::Json;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// No request to Salesforce takes longer, from connecting to the answer's last byte.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that one exchange takes: that, and signing and counting it before.
pub(super) const LONGEST_EXCHANGE: Duration = TIMEOUT.saturating_add(Duration::from_secs(1));
const IDLE: Duration = Duration::from_secs(30);
/// No answer of Salesforce's token endpoints comes near.
const LARGEST_ANSWER: usize = 64 << 10;
/// Salesforce sends some 20 headers, 2 KiB in all; proxies add theirs.
const MOST_HEADERS: usize = 256;
const LARGEST_HEADERS: usize = 16 << 10;
/// More than any JWKS needs.
const LARGEST_LOOK: usize = 1 << 20;
/// Of Salesforce's own words, as much as is passed on.
const LONGEST_QUOTE: usize = 200;

const MALFORMED: &str = "the answer's head is not HTTP/1.1 as it should be, or has more than 256 headers";

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How Salesforce is asked: over the network, or in a test by what it is handed.
pub trait Transport: Send + Sync + 'static {
    /// Posts a request. It ends within that time.
    fn send(&self, request: Outgoing, within: Duration) -> BoxFuture<'_, Result<Reply, Fault>>;

    /// Whether the host answers at all; no login.
    fn is_back<'a>(&'a self, address: &'a HttpsUrl) -> BoxFuture<'a, bool>;

    /// Makes ready what the first request needs. May take milliseconds.
    fn prepare(&self) {}
}

/// A request to Salesforce.
pub struct Outgoing {
    pub url: Url,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    pub headers: HeaderMap,
    pub connection: WhichConnection,
}

/// Over which connection a request goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WhichConnection {
    /// One that is kept, or a new one.
    Any,
    New,
}

/// Salesforce's answer, read whole.
pub struct Reply {
    pub status: u16,
    pub body: Json,
    pub retry_after: Option<Duration>,
    /// Of the `Date` header, seconds since the epoch.
    pub date: Option<i64>,
}

/// Why there is no usable answer. Says what came, never its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("Salesforce did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// Nothing of the request has left.
    #[error("Salesforce can't be reached: {0}")]
    NotSent(&'static str),
    /// The connection ended before the whole head of an answer, as an idle one does that is closed at the same moment.
    #[error("Salesforce can't be reached: {0}")]
    Closed(&'static str),
    #[error("Salesforce can't be reached: {0}")]
    Broken(&'static str),
    #[error("Salesforce answered {status} with {what}")]
    Unusable { status: u16, what: String, retry_after: Option<Duration> },
}

impl Fault {
    /// Of the answer, where there is one.
    pub(super) const fn status(&self) -> Option<u16> {
        match self {
            Self::Unusable { status, .. } => Some(*status),
            Self::Timeout | Self::NotSent(_) | Self::Closed(_) | Self::Broken(_) => None,
        }
    }
}

/// Over the network. A client is made when it is first needed: reading the host's certificate authorities takes
/// milliseconds that starting needn't wait for.
pub(super) struct Network {
    client: LazyLock<Client>,
    /// Keeps no connection.
    unpooled: LazyLock<Client>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            client: LazyLock::new(|| client(builder)),
            unpooled: LazyLock::new(|| client(|| builder().pool_max_idle_per_host(0))),
        }
    }
}

impl Transport for Network {
    fn send(&self, request: Outgoing, within: Duration) -> BoxFuture<'_, Result<Reply, Fault>> {
        let client = match request.connection {
            WhichConnection::Any => &self.client,
            WhichConnection::New => &self.unpooled,
        };
        Box::pin(send(client, request, within))
    }

    fn is_back<'a>(&'a self, address: &'a HttpsUrl) -> BoxFuture<'a, bool> {
        Box::pin(async {
            let mut root = address.url().clone();
            root.set_path("/");
            root.set_query(None);
            let answer = self.client.get(root).timeout(CONNECT_TIMEOUT).send().await;
            answer.is_ok_and(|answer| !answer.status().is_server_error() && answer.status().as_u16() != 429)
        })
    }

    fn prepare(&self) {
        LazyLock::force(&self.client);
    }
}

/// A client that follows no redirect and takes no proxy from the environment. It trusts the host's
/// certificate authorities; on a host without any, such as a bare image, it trusts nobody, and minting goes on.
fn client(builder: fn() -> ClientBuilder) -> Client {
    let client = builder().build().or_else(|error| {
        tracing::warn!(
            %error,
            "this host has no certificate authorities, so Salesforce can't be asked: mount a bundle and set SSL_CERT_FILE"
        );
        builder().tls_certs_only([]).build()
    });
    client.expect("a client that trusts nobody needs nothing of the host")
}

fn builder() -> ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .pool_idle_timeout(IDLE)
        .http1_max_headers(MOST_HEADERS)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("tokenmint/", env!("CARGO_PKG_VERSION")))
}

async fn send(client: &Client, request: Outgoing, within: Duration) -> Result<Reply, Fault> {
    let Outgoing { url, content_type, body, headers, connection: _ } = request;
    let request = client.post(url).headers(headers).header(CONTENT_TYPE, content_type).body(body);
    let sent = request.timeout(within.min(TIMEOUT)).send().await;
    let mut response = sent.map_err(|error| match fault(&error) {
        Fault::Broken(_) if is_malformed(&error) => Fault::Broken(MALFORMED),
        Fault::Broken(reason) => Fault::Closed(reason),
        other => other,
    })?;
    let status = response.status().as_u16();
    let date = response.headers().get(DATE).and_then(|value| http_date(value.to_str().ok()?));
    let retry_after =
        response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, date));
    let unusable = |what: String| Fault::Unusable { status, what, retry_after };
    let header_bytes = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    if header_bytes.sum::<usize>() > LARGEST_HEADERS {
        return Err(unusable("more than 16 KiB of headers".to_owned()));
    }
    if response.status().is_redirection() {
        let location =
            response.headers().get(LOCATION).and_then(|value| Url::parse(value.to_str().ok()?).ok());
        let host = location.as_ref().and_then(Url::host_str).map(quoted);
        let to = host.map_or_else(String::new, |host| format!(" to {host}"));
        return Err(unusable(format!("a redirect{to}, which is not followed")));
    }
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| fault(&error))? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
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
    Ok(Reply { status, body: json, retry_after, date })
}

/// An answer to a look at some address: nothing of it is followed or believed.
pub struct Seen {
    pub status: u16,
    pub location: Option<String>,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
    /// Of the `Date` header, seconds since the epoch.
    pub date: Option<i64>,
    /// From connecting to the last byte.
    pub took: Duration,
}

/// What a GET answers, redirects included.
///
/// # Errors
/// Says why there is no answer.
pub async fn look(url: &str, clock: &dyn Clock) -> Result<Seen, String> {
    let client = client(builder);
    let failed = |error: reqwest::Error| match fault(&error) {
        Fault::Timeout => format!("does not answer within {} s", TIMEOUT.as_secs()),
        Fault::NotSent(why) | Fault::Closed(why) | Fault::Broken(why) => format!("can't be reached: {why}"),
        unusable @ Fault::Unusable { .. } => unusable.to_string(),
    };
    let begun = clock.monotonic();
    let mut response = client.get(url).send().await.map_err(failed)?;
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let date = header(DATE).and_then(http_date);
    let location = header(LOCATION).map(str::to_owned);
    let content_type = header(CONTENT_TYPE).map(str::to_owned);
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST_LOOK {
            break;
        }
    }
    Ok(Seen { status, location, content_type, body, date, took: clock.monotonic().saturating_sub(begun) })
}

/// Whether an answer came that isn't HTTP.
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

fn fault(error: &reqwest::Error) -> Fault {
    // A connection that isn't made in time is no answer that is late: nothing was sent.
    if error.is_connect() {
        Fault::NotSent("the connection or its TLS handshake failed; check DNS, firewall and certificates")
    } else if error.is_timeout() {
        Fault::Timeout
    } else {
        Fault::Broken("the connection broke before the answer was whole")
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3), which counts from the answer's own.
fn retry_after(value: &str, date: Option<i64>) -> Option<Duration> {
    let value = value.trim();
    let seconds = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        value.parse().unwrap_or(u64::MAX)
    } else {
        u64::try_from(http_date(value)? - date?).unwrap_or(0)
    };
    Some(Duration::from_secs(seconds))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
fn http_date(value: &str) -> Option<i64> {
    let moment =
        time::OffsetDateTime::parse(value.trim(), &time::format_description::well_known::Rfc2822).ok();
    moment.map(time::OffsetDateTime::unix_timestamp)
}

/// Salesforce's own words, fit for a log and a header: short, and printable.
pub(super) fn quoted(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(LONGEST_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = http_date("Fri, 20 Nov 2026 12:00:00 GMT");
        assert_eq!(date, Some(1_795_176_000));
        assert_eq!(retry_after(" 7 ", date), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Fri, 20 Nov 2026 12:00:30 GMT", date), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Fri, 20 Nov 2026 11:00:00 GMT", date), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999999999999999", date), Some(Duration::from_secs(u64::MAX)));
        for garbage in ["", "-1", "soon", "1.5"] {
            assert_eq!(retry_after(garbage, date), None, "{garbage}");
        }
    }
}
