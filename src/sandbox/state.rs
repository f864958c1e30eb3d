//! The state of the sandbox: sessions, used `jti`s, limits, faults and request counts.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use serde::Serialize;
use serde_json::Value;

use super::faults::{Fault, FaultTarget};
use super::limits::SlidingWindow;
use super::org::{Org, Settings};
use crate::clock::{Clock, Randomness as _, SystemRandomness};

/// The number of reasons that are kept, the newest ones: see [`Sandbox::refusal_reasons`].
const MAX_KEPT_REASONS: usize = 20;
/// The timeout for connecting to a JWKS endpoint, and for each read.
const JWKS_TIMEOUT: Duration = Duration::from_millis(500);

/// A fake Salesforce. Clones share one state.
#[derive(Clone)]
pub struct Sandbox(Arc<SandboxInner>);

struct SandboxInner {
    org: Org,
    clock: Arc<dyn Clock>,
    /// The initial settings, for `reset`.
    settings: Settings,
    randomness: SystemRandomness,
    key: hmac::Key,
    client: reqwest::Client,
    state: Mutex<SandboxState>,
}

/// Counts of requests and of their results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// `POST /services/oauth2/token`, failed requests included.
    pub token: u64,
    pub(crate) revoke: u64,
    pub(crate) userinfo: u64,
    pub(crate) data: u64,
    /// Requests for a messaging access token, failed requests included. `DELETE` counts as `messaging_revoke`.
    pub messaging: u64,
    pub(crate) messaging_revoke: u64,
    pub(crate) continuation: u64,
    /// Requests to other paths.
    pub(crate) other: u64,
    /// Requests with an injected fault.
    pub(crate) faults: u64,
    /// Fetches of JWK Sets, failed fetches included.
    pub jwks_fetches: u64,
    /// Successful logins by user name.
    pub logins: BTreeMap<String, u64>,
    /// Refused logins, by `error: error_description`.
    pub refused: BTreeMap<String, u64>,
    /// Messaging sessions of users whose identity token was verified.
    pub verified: u64,
    /// Identity tokens that weren't verified.
    pub unverified: u64,
}

/// An OAuth session.
#[derive(Clone)]
pub(super) struct OauthSession {
    pub(crate) user: String,
    pub(crate) expires_at: i64,
}

/// A messaging session.
#[derive(Clone)]
pub(super) struct MessagingSession {
    pub(crate) deployment: String,
    pub(crate) subject: String,
    pub(crate) expires_at: i64,
}

#[derive(Default)]
pub(super) struct SandboxState {
    pub(crate) settings: Settings,
    pub(crate) skew: i64,
    pub(crate) counts: RequestCounts,
    pub(crate) faults: Vec<Fault>,
    pub(crate) sessions: HashMap<String, OauthSession>,
    pub(crate) chats: HashMap<String, MessagingSession>,
    /// Consumer key and `jti` of assertions that reached the replay check, refused logins included.
    pub(crate) seen_assertions: HashSet<(String, String)>,
    pub(crate) logins: HashMap<String, SlidingWindow>,
    pub(crate) failures: SlidingWindow,
    pub(crate) blocked_until: Option<i64>,
    pub(crate) messaging: SlidingWindow,
    /// Cached JWK Sets by URL, with the time of the fetch.
    pub(crate) jwks: HashMap<String, (i64, Arc<Value>)>,
    pub(crate) refusal_reasons: VecDeque<String>,
}

impl Sandbox {
    pub fn new(org: Org, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        // The crypto provider must not depend on the features of other crates. The first installed provider stays.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        // Without proxies and redirects, every fetch goes to the configured URL.
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(JWKS_TIMEOUT)
            .read_timeout(JWKS_TIMEOUT)
            .build()
            .expect("a client without certificates of its own can be built");
        let state = SandboxState { settings: settings.clone(), ..SandboxState::default() };
        let randomness = SystemRandomness::default();
        let mut secret = [0; 32];
        randomness.fill(&mut secret).expect("the host gives random bytes");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Self(Arc::new(SandboxInner {
            org,
            clock,
            settings,
            randomness,
            key,
            client,
            state: Mutex::new(state),
        }))
    }

    pub fn counts(&self) -> RequestCounts {
        self.state().counts.clone()
    }

    /// Why identity tokens weren't verified, logins were refused or deployments weren't found: the last [`MAX_KEPT_REASONS`]
    /// reasons.
    pub fn refusal_reasons(&self) -> Vec<String> {
        self.state().refusal_reasons.iter().cloned().collect()
    }

    /// Replaces the remaining faults. They are injected in order.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.state().faults = faults;
    }

    /// Ends every session, so that no issued access token is valid any more.
    pub fn expire_sessions(&self) {
        let mut state = self.state();
        state.sessions.clear();
        state.chats.clear();
    }

    /// Sets the shift of the clock and of the `Date` header to `seconds`.
    pub fn skew_clock(&self, seconds: i64) {
        self.state().skew = seconds;
    }

    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.state().settings);
    }

    /// Resets the state: no session, fault, clock skew or count, and the initial settings.
    pub(crate) fn reset(&self) {
        *self.state() = SandboxState { settings: self.0.settings.clone(), ..SandboxState::default() };
    }

    pub(super) fn org(&self) -> &Org {
        &self.0.org
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.0.client
    }

    pub(super) fn key(&self) -> &hmac::Key {
        &self.0.key
    }

    pub(super) fn state(&self) -> MutexGuard<'_, SandboxState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> i64 {
        self.0.clock.now().seconds().saturating_add(self.state().skew)
    }

    /// The URL of the sandbox: from the settings, or from the `Host` of the request.
    pub(super) fn url(&self, headers: &HeaderMap) -> String {
        if let Some(url) = &self.state().settings.url {
            return url.clone();
        }
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        format!("http://{}", host.unwrap_or("localhost"))
    }

    pub(super) fn log_reason(&self, reason: String) {
        let mut state = self.state();
        if state.refusal_reasons.len() == MAX_KEPT_REASONS {
            state.refusal_reasons.pop_front();
        }
        state.refusal_reasons.push_back(reason);
    }

    /// The next fault for a request to `target`. Counts it, and removes it after its last time.
    pub(super) fn next_fault(&self, target: FaultTarget) -> Option<Fault> {
        let mut state = self.state();
        let at =
            state.faults.iter().position(|fault| fault.times != Some(0) && fault.path.matches(target))?;
        let fault = state.faults[at].clone();
        match &mut state.faults[at].times {
            Some(1) => _ = state.faults.remove(at),
            Some(times) => *times -= 1,
            None => {}
        }
        state.counts.faults += 1;
        Some(fault)
    }

    /// 192 random bits in base64url.
    pub(super) fn random_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.random::<24>())
    }

    /// A random UUID (RFC 9562, section 5.4).
    pub(super) fn uuid(&self) -> String {
        let mut bytes = self.random::<16>();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = HEXLOWER.encode(&bytes);
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.randomness.fill(&mut bytes).expect("the host gives random bytes");
        bytes
    }
}

/// The token of `Authorization: Bearer` or `Authorization: OAuth`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    // jsforce sends the scheme `OAuth`. Salesforce accepts both.
    (scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("oauth")).then(|| token.trim())
}
