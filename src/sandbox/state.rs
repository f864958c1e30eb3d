//! What the sandbox remembers: sessions, replays, limits, faults, and how often it was asked.

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

/// How many reasons are kept for who wonders why a user came out as a guest.
const MAX_KEPT_REASONS: usize = 20;
/// Connecting to the host of a JWK Set, and each read from it.
const JWKS_TIMEOUT: Duration = Duration::from_millis(500);

/// A Salesforce in a box. Copies are handles to one and the same.
#[derive(Clone)]
pub struct Sandbox(Arc<SandboxInner>);

struct SandboxInner {
    org: Org,
    clock: Arc<dyn Clock>,
    /// Those it began with, for `reset`.
    settings: Settings,
    randomness: SystemRandomness,
    key: hmac::Key,
    client: reqwest::Client,
    state: Mutex<SandboxState>,
}

/// How often it was asked, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// `POST /services/oauth2/token`, whatever came of it.
    pub token: u64,
    pub revoke: u64,
    pub userinfo: u64,
    pub data: u64,
    /// `POST` for a messaging access token, whatever came of it.
    pub messaging: u64,
    pub messaging_revoke: u64,
    pub continuation: u64,
    /// Requests for anything else.
    pub other: u64,
    /// Requests that a fault was played on.
    pub faults: u64,
    /// Fetches of JWK Sets, failed ones too.
    pub jwks_fetches: u64,
    /// Successful logins by user name.
    pub logins: BTreeMap<String, u64>,
    /// Refused logins, by `error: error_description`.
    pub refused: BTreeMap<String, u64>,
    /// Messaging sessions of users whose identity token was verified.
    pub verified: u64,
    /// Identity tokens that were not.
    pub unverified: u64,
}

/// An OAuth session.
#[derive(Clone)]
pub(super) struct OauthSession {
    pub user: String,
    pub expires_at: i64,
}

/// A messaging session.
#[derive(Clone)]
pub(super) struct MessagingSession {
    pub deployment: String,
    pub subject: String,
    pub expires_at: i64,
}

#[derive(Default)]
pub(super) struct SandboxState {
    pub settings: Settings,
    pub skew: i64,
    pub counts: RequestCounts,
    pub faults: Vec<Fault>,
    pub sessions: HashMap<String, OauthSession>,
    pub chats: HashMap<String, MessagingSession>,
    /// Consumer key and `jti` of assertions that were accepted.
    pub replayed: HashSet<(String, String)>,
    pub logins: HashMap<String, SlidingWindow>,
    pub failures: SlidingWindow,
    pub blocked_until: Option<i64>,
    pub messaging: SlidingWindow,
    /// When it was fetched, and what it was.
    pub jwks: HashMap<String, (i64, Arc<Value>)>,
    pub reasons: VecDeque<String>,
}

impl Sandbox {
    pub fn new(org: Org, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        // Which library verifies must not depend on what other crates compile in; the first one stays.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        // No proxy and no redirect: it fetches what it was told to, from where it was told to.
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

    /// Why identity tokens were not verified and logins refused; the last twenty.
    pub fn reasons(&self) -> Vec<String> {
        self.state().reasons.iter().cloned().collect()
    }

    /// Plays these faults, in order, in place of any that are left.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.state().faults = faults;
    }

    /// Ends every session; access tokens that were handed out are dead from now on.
    pub fn expire_sessions(&self) {
        let mut state = self.state();
        state.sessions.clear();
        state.chats.clear();
    }

    /// Lets its clock, and the `Date` it sends, be off by so many seconds.
    pub fn skew_clock(&self, seconds: i64) {
        self.state().skew = seconds;
    }

    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.state().settings);
    }

    /// As new: no session, fault, skew or count; the settings are those it began with.
    pub fn reset(&self) {
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

    /// Where the client believes it is; what Salesforce knows of itself.
    pub(super) fn url(&self, headers: &HeaderMap) -> String {
        if let Some(url) = &self.state().settings.url {
            return url.clone();
        }
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        format!("http://{}", host.unwrap_or("localhost"))
    }

    pub(super) fn log_reason(&self, reason: String) {
        let mut state = self.state();
        if state.reasons.len() == MAX_KEPT_REASONS {
            state.reasons.pop_front();
        }
        state.reasons.push_back(reason);
    }

    /// The next fault for a request at this door, used up where it was to be played so many times.
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

    /// 192 random bits, base64url.
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

/// The token of `Authorization: Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    // jsforce says OAuth where others say Bearer; Salesforce takes both.
    (scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("oauth")).then(|| token.trim())
}
