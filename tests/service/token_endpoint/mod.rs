//! The OAuth 2.0 token endpoint, with a fake Salesforce and a clock that the test sets.

mod clients;
mod forms;
mod metadata;
mod sessions;
mod token_exchange;

use std::ops::Deref;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokenmint::clock::{ManualClock, UnixTime};

use crate::exchange::Fake;
use crate::in_process::InProcess;
use crate::support::{Answer, sha256_hex};

pub const NOW: i64 = 1_796_083_200;
pub const PATH: &str = "/oauth2/token";
pub const FORM: &str = "application/x-www-form-urlencoded";
pub const CLIENT_CREDENTIALS: &str = "grant_type=client_credentials";
/// The form of the caller `job`.
pub const JOB: &str = "grant_type=client_credentials&client_id=job&client_secret=job-key";

/// The service, with callers `job` (one OAuth profile with `check_session`), `two` (two OAuth profiles) and `page` (no OAuth
/// profile). The API key of each is its name with `-key`.
pub struct TokenEndpoint {
    pub fake: Fake,
    salesforce: String,
    service: InProcess,
}

impl Deref for TokenEndpoint {
    type Target = InProcess;

    fn deref(&self) -> &InProcess {
        &self.service
    }
}

impl TokenEndpoint {
    pub async fn start() -> Self {
        Self::with("").await
    }

    pub async fn with(more: &str) -> Self {
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(NOW)));
        let (fake, salesforce) = Fake::start(clock.clone()).await;
        let caller = |name: &str, allow: &str| {
            let digest = sha256_hex(&format!("{name}-key"));
            format!("[callers.{name}]\napi_key_sha256 = [\"{digest}\"]\nallow = [{allow}]\n")
        };
        let text = format!(
            "[oauth.live]\nkeyset = \"crm\"\nconsumer_key = \"3MVG9.live\"\nusername = \"live@acme.com\"\n\
             audience = \"https://login.salesforce.com\"\ntoken_url = \"{salesforce}/services/oauth2/token\"\n\
             access_token_ttl = \"2h\"\ncheck_session = \"10s\"\n{}{}{}{more}",
            caller("job", "\"oauth.live\""),
            caller("two", "\"oauth.crm\", \"oauth.live\""),
            caller("page", "\"identity.web\""),
        );
        let service = InProcess::start(clock, &salesforce, &text).await;
        Self { fake, salesforce, service }
    }

    /// The URL of a path of the fake Salesforce.
    pub fn salesforce(&self, path: &str) -> String {
        format!("{}{path}", self.salesforce)
    }

    /// Posts a form.
    pub async fn form(&self, body: &str) -> Answer {
        self.form_to(PATH, &[], body).await
    }

    pub async fn form_to(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.client.post(format!("{}{path}", self.url));
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", FORM);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.body(body.to_owned())).await
    }

    /// Posts a form with HTTP Basic.
    pub async fn basic(&self, credentials: &str, body: &str) -> Answer {
        self.form_to(PATH, &[("authorization", &basic(credentials))], body).await
    }
}

pub fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

/// Asserts an error of RFC 6749, section 5.2. Returns its description.
#[track_caller]
pub fn refused(answer: &Answer, status: u16, error: &str) -> String {
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), &body["error"]), (status, &Value::from(error)), "{body}");
    assert_eq!([answer.header("cache-control"), answer.header("pragma")], ["no-store", "no-cache"]);
    assert!(body["request_id"].is_string(), "{body}");
    let description = body["error_description"].as_str().expect("text").to_owned();
    let is_allowed = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    assert!(description.chars().all(is_allowed), "RFC 6749, section 5.2: {description}");
    description
}
