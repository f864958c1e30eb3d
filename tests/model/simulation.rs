//! The simulated system: two replicas, a Salesforce that records which tokens it gave to which user, and a store in
//! memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokenmint::app::LoadedConfig;
use tokenmint::clock::{Clock, ManualClock, NoRandomness, Randomness, SystemRandomness, UnixTime};
use tokenmint::config::{Config, Environment, HttpsOrLoopbackUrl, KeyId};
use tokenmint::exchange::store::{
    ExchangeResult, LockOutcome, LockRequest, MAX_MESSAGES, Messages, STREAM_START, SharedStore,
    SharedStoreError, StoreKeys, WindowCount,
};
use tokenmint::exchange::{
    BoxFuture, ExchangeError, Exchanger, ExchangerDeps, FetchOptions, ServedToken, SessionState,
    TimeoutCause, Transport, UpstreamError, UpstreamRequest, UpstreamResponse,
};
use tokenmint::json::Json;
use tokenmint::metrics::Metrics;
use tokenmint::tokens::{IdentityProfile, OauthProfile, Profiles, Signer, Subject};
use tokenmint::traces::Trace;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use url::Url;

const BEGIN: i64 = 1_795_176_000;
const LOGINS_PER_HOUR: usize = 8;
const REQUESTS_PER_MINUTE: usize = 6;
/// The default of `server.limits.request_timeout`, minus the time reserved for the response.
const REQUEST: Duration = Duration::from_millis(9_750);
/// Two integrations and two chat users.
const NAMES: [&str; 4] = ["crm@acme.com", "erp@acme.com", "user-1", "user-2"];
pub const USERS: usize = NAMES.len();
const DAY: i64 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    Nothing,
    /// The token that this replica returned last.
    Last,
    /// The other replica's token.
    OfTheOther,
    Made,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Token,
    /// The token that this user got last, like in a continued session.
    TheSame,
    LivesFor(u64),
    /// `exp` in milliseconds.
    Milliseconds,
    Refused,
    Stopped,
    ServiceUnavailable,
    Html,
    Foreign,
    Over,
    Hangs,
    NotReached,
    Closed,
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    Well,
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    Up,
    Away,
    Slow,
    /// It executes the command, and its answer comes too late.
    Late,
    /// It is up and has lost its data.
    Emptied,
}

/// How often each event happened.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

const COUNTED: [&str; 17] = [
    "asks",
    "hits",
    "fresh",
    "theirs",
    "kept",
    "hang-ups",
    "sent",
    "not sent",
    "reloads",
    "rejected",
    "unusable",
    "unreachable",
    "left alone",
    "budget",
    "timeout",
    "strict budgets",
    "single flights",
];

impl Counts {
    fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    pub fn by_name(&self) -> Vec<(&'static str, u64)> {
        COUNTED.map(|name| (name, self.0.get(name).copied().unwrap_or_default())).into()
    }
}

/// The profiles before and after the first key was retired.
pub struct Fixture {
    variants: [Profiles; 2],
    retired: BTreeSet<KeyId>,
}

impl Fixture {
    pub fn new() -> Self {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let folder = tempfile::tempdir().expect("a folder");
        for kid in ["Key1", "Key2"] {
            let pem = tokenmint::keys::generate_private_key(2048, &SystemRandomness::default())
                .expect("random bytes");
            for keyset in ["crm", "web"] {
                write(&folder.path().join(format!("keys/{keyset}/{keyset}{kid}.key")), pem.expose_secret());
            }
        }
        let oauth = |name: &str, user: &str| {
            format!(
                "[oauth.{name}]\nkeyset = \"crm\"\nconsumer_key = \"3MVG9.{name}\"\nusername = \"{user}\"\n\
                 audience = \"https://login.salesforce.com\"\ntoken_url = \"https://acme.my.salesforce.com/services/oauth2/token\"\n\
                 access_token_ttl = \"300s\"\nlogins_per_hour = {LOGINS_PER_HOUR}\n"
            )
        };
        let text = format!(
            "[keysets.crm]\ndirectory = \"keys/crm\"\n[keysets.web]\ndirectory = \"keys/web\"\n{}{}[identity.web]\n\
             keyset = \"web\"\nissuer = \"intercom.com\"\n[identity.web.messaging]\nscrt_url = \"https://acme.my.salesforce-scrt.com\"\n\
             org_id = \"00D000000000001\"\nes_developer_name = \"Web_Channel\"\nrequests_per_minute = {REQUESTS_PER_MINUTE}\n",
            oauth("crm", NAMES[0]),
            oauth("erp", NAMES[1]),
        );
        std::fs::write(folder.path().join("tokenmint.toml"), text).expect("written");
        let load = |first: &str, second: &str| {
            for keyset in ["crm", "web"] {
                let schedule = format!(
                    "[[key]]\nkid = \"{keyset}Key1\"\nsign_from = 2026-01-01T00:00:00Z\n{first}\n[[key]]\nkid = \"{keyset}Key2\"\n\
                     sign_from = {second}\n"
                );
                std::fs::write(folder.path().join(format!("keys/{keyset}/keyset.toml")), schedule)
                    .expect("written");
            }
            let config = Config::load(Some(&folder.path().join("tokenmint.toml")), &Environment::new());
            let config = config.unwrap_or_else(|invalid| panic!("{:?}", invalid.problems));
            let clock = ManualClock::at(UnixTime::from_seconds(BEGIN));
            let loaded = LoadedConfig::new(config, &clock).unwrap_or_else(|problems| panic!("{problems:?}"));
            Profiles::new(&loaded.config, &loaded.ring)
        };
        let before = load("", "2027-06-01T00:00:00Z");
        let after = load("retired = true", "2026-01-02T00:00:00Z");
        let retired = ["crmKey1", "webKey1"].map(|kid| KeyId::parse(kid).unwrap_or_else(|_| panic!("a kid")));
        Self { variants: [before, after], retired: retired.into() }
    }
}

fn write(path: &Path, pem: &str) {
    std::fs::create_dir_all(path.parent().expect("inside a folder")).expect("a folder");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).expect("a new file");
    std::io::Write::write_all(&mut file, pem.as_bytes()).expect("written");
}

/// The time of the paused runtime as the monotonic clock, and a wall clock that can be stepped.
struct ModelClock {
    begin: Instant,
    step: AtomicI64,
}

impl Clock for ModelClock {
    fn now(&self) -> UnixTime {
        let passed = i64::try_from(self.monotonic().as_secs()).expect("a history of hours");
        UnixTime::from_seconds(BEGIN + passed + self.step.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.begin.elapsed()
    }
}

/// The same numbers in each run.
struct Numbers(AtomicU64);

impl Randomness for Numbers {
    fn fill(&self, into: &mut [u8]) -> Result<(), NoRandomness> {
        for byte in into {
            // splitmix64.
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = z.to_be_bytes()[0];
        }
        Ok(())
    }
}

/// A token that Salesforce gave.
struct Issued {
    user: usize,
    /// The expiry in the token itself, if it has one.
    exp: Option<i64>,
    /// By the monotonic clock; at most a day.
    ends: Duration,
}

#[derive(Default)]
struct Book {
    issued: HashMap<String, Issued>,
    last: HashMap<usize, String>,
    /// When a request of that user was sent.
    sent: Vec<(usize, Duration)>,
    /// When a request of that user could not be sent.
    not_sent: Vec<(usize, Duration)>,
    in_flight: HashMap<usize, Vec<usize>>,
    /// The answers to each user.
    said: HashMap<usize, Vec<Answer>>,
    /// The users of failed requests that count against the host.
    host_failures: Vec<usize>,
    broken: Option<String>,
    single_flights: u64,
}

pub struct Salesforce {
    book: Mutex<Book>,
    mood: Mutex<(Answer, Duration)>,
    clock: Arc<ModelClock>,
    /// Since when the shared store works. Only then do replicas learn of each other.
    store_well_since: Mutex<Option<Duration>>,
}

impl Salesforce {
    pub fn answers(&self, answer: Answer, latency: Duration) {
        *self.mood.lock().expect("not poisoned") = (answer, latency);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("not poisoned")
    }

    /// The user of a request, by its signed subject.
    fn user(body: &[u8]) -> usize {
        let text = String::from_utf8_lossy(body);
        let jwt = text.split("assertion=").nth(1).map_or_else(
            || {
                let body: Value = serde_json::from_slice(body).expect("JSON");
                body["customerIdentityToken"].as_str().expect("a token").to_owned()
            },
            str::to_owned,
        );
        let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).expect("a JWT")).expect("base64url");
        let claims: Value = serde_json::from_slice(&payload).expect("JSON");
        let sub = claims["sub"].as_str().expect("a sub");
        NAMES.iter().position(|name| *name == sub).expect("one of us")
    }

    async fn answer(
        &self,
        replica: usize,
        request: UpstreamRequest,
        within: Duration,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let user = Self::user(&request.body);
        let (answer, latency) = *self.mood.lock().expect("not poisoned");
        let now = self.clock.monotonic();
        if answer == Answer::NotReached {
            let mut book = self.book();
            book.said.entry(user).or_default().push(answer);
            book.host_failures.push(user);
            book.not_sent.push((user, now));
            return Err(UpstreamError::NotSent("nobody is there"));
        }
        {
            let mut book = self.book();
            book.sent.push((user, now));
            let well = self.store_well_since.lock().expect("not poisoned");
            let well = well.is_some_and(|since| now.saturating_sub(since) > Duration::from_secs(15));
            let others = book.in_flight.entry(user).or_default();
            let twice = others.contains(&replica) || (well && !others.is_empty());
            others.push(replica);
            if twice {
                book.broken = Some(format!("two requests in flight for {} at {now:?}", NAMES[user]));
            }
            book.single_flights += u64::from(well);
        }
        let hangs = answer == Answer::Hangs || latency > within;
        tokio::time::sleep(if hangs { within } else { latency }).await;
        let mut book = self.book();
        let flights = book.in_flight.get_mut(&user).expect("its own is there");
        let at = flights.iter().position(|other| *other == replica).expect("its own is there");
        flights.remove(at);
        let answer = if hangs { Answer::Hangs } else { answer };
        book.said.entry(user).or_default().push(answer);
        if matches!(answer, Answer::Hangs | Answer::ServiceUnavailable | Answer::Closed | Answer::Broken) {
            book.host_failures.push(user);
        }
        let reply = |status: u16, body: &Value| {
            let body = Json::parse(body.to_string().as_bytes()).expect("JSON");
            Ok(UpstreamResponse { status, body, retry_after: None, date: Some(self.clock.now().seconds()) })
        };
        match answer {
            Answer::Hangs => Err(UpstreamError::Timeout),
            Answer::Closed => Err(UpstreamError::Closed("closed")),
            Answer::Broken => Err(UpstreamError::Broken("broken")),
            Answer::NotReached => unreachable!("answered above"),
            Answer::Html => Err(UpstreamError::Unusable {
                status: 404,
                what: "a body that isn't JSON".to_owned(),
                retry_after: None,
            }),
            Answer::Refused if user < 2 => {
                let no = json!({"error": "invalid_grant", "error_description": "user hasn't approved this consumer"});
                reply(400, &no)
            }
            Answer::Refused => {
                reply(400, &json!({"message": "User verification has no active AuthSchemes."}))
            }
            Answer::Stopped => reply(400, &json!({"error": "LOGIN_RATE_EXCEEDED", "message": "rate"})),
            Answer::ServiceUnavailable => reply(503, &json!({"error": "service_unavailable"})),
            Answer::Token
            | Answer::TheSame
            | Answer::LivesFor(_)
            | Answer::Milliseconds
            | Answer::Foreign
            | Answer::Over => {
                let wall = self.clock.now().seconds();
                let again = book.last.get(&user).filter(|_| answer == Answer::TheSame).cloned();
                let exp = match answer {
                    Answer::LivesFor(life) => Some(wall + i64::try_from(life).expect("small")),
                    Answer::Milliseconds => Some((wall + 7200) * 1000),
                    Answer::Over => Some(wall - 1),
                    // By the clock as it is now, a token that is given again ends when it says so.
                    Answer::TheSame => again.as_ref().and_then(|token| book.issued[token].exp),
                    _ => None,
                };
                let unsaid = if user < 2 { 300 } else { 3600 };
                let life = exp.map_or(unsaid, |exp| u64::try_from(exp - wall).unwrap_or(0).min(86_400));
                let token = again.unwrap_or_else(|| {
                    let n = book.issued.len();
                    let claims = exp.map(|exp| URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string()));
                    claims.map_or_else(
                        || format!("token-{user}-{n}"),
                        |claims| format!("e30.{claims}.{user}x{n}"),
                    )
                });
                let ends = self.clock.monotonic() + Duration::from_secs(life);
                if !matches!(answer, Answer::Foreign | Answer::Over) {
                    // The same one given again lives as long as it is said to, from then on.
                    let issued = book.issued.entry(token.clone()).or_insert(Issued { user, exp, ends });
                    issued.ends = issued.ends.max(ends);
                    book.last.insert(user, token.clone());
                }
                if user < 2 {
                    let host =
                        if answer == Answer::Foreign { "evil.example" } else { "acme.my.salesforce.com" };
                    return reply(
                        200,
                        &json!({"access_token": token, "instance_url": format!("https://{host}")}),
                    );
                }
                let who = if answer == Answer::Foreign { "somebody-else" } else { NAMES[user] };
                let subject = format!("v2/iamessage/AUTH/Web/uid:{who}");
                reply(
                    200,
                    &json!({"accessToken": token, "lastEventId": "0", "context": {"endUser": {"subject": subject}}}),
                )
            }
        }
    }
}

/// The transport of one replica to Salesforce.
struct Line {
    salesforce: Arc<Salesforce>,
    replica: usize,
}

impl Transport for Line {
    fn send(
        &self,
        request: UpstreamRequest,
        within: Duration,
    ) -> BoxFuture<'_, Result<UpstreamResponse, UpstreamError>> {
        Box::pin(self.salesforce.answer(self.replica, request, within))
    }

    fn is_reachable<'a>(&'a self, _: &'a HttpsOrLoopbackUrl) -> BoxFuture<'a, bool> {
        let (answer, _) = *self.salesforce.mood.lock().expect("not poisoned");
        let down = matches!(
            answer,
            Answer::Hangs | Answer::ServiceUnavailable | Answer::NotReached | Answer::Closed | Answer::Broken
        );
        Box::pin(async move { !down })
    }

    /// The requests of the simulation report rejected tokens themselves.
    fn check_session<'a>(&'a self, _: Url, _: &'a SecretString) -> BoxFuture<'a, SessionState> {
        Box::pin(async { SessionState::Unknown })
    }
}

/// A store in memory that acts like Redis.
#[derive(Default)]
struct Memory {
    mode: Option<StoreMode>,
    texts: HashMap<String, (Vec<u8>, Instant)>,
    sets: HashMap<String, Vec<(String, Instant)>>,
    messages: Vec<(u64, Vec<u8>)>,
    last_id: u64,
}

impl Memory {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Duration)> {
        let (text, until) = self.texts.get(name)?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.texts.remove(name);
            return None;
        }
        Some((text.clone(), left))
    }

    fn set(&mut self, name: &str, text: &[u8], left: Duration) {
        self.texts.insert(name.to_owned(), (text.to_vec(), Instant::now() + left));
    }
}

struct Link {
    memory: Arc<Mutex<Memory>>,
    /// Like the real one it gets commands only while it is up.
    up: AtomicBool,
}

impl Link {
    async fn ask<T>(&self, act: impl FnOnce(&mut Memory) -> T + Send) -> Result<T, SharedStoreError> {
        if !self.up.load(Ordering::SeqCst) {
            return Err(SharedStoreError::NotTried);
        }
        self.reach(act).await.inspect_err(|_| self.up.store(false, Ordering::SeqCst))
    }

    async fn reach<T>(&self, act: impl FnOnce(&mut Memory) -> T + Send) -> Result<T, SharedStoreError> {
        let mode = self.memory.lock().expect("not poisoned").mode.unwrap_or(StoreMode::Up);
        match mode {
            StoreMode::Away => Err(SharedStoreError::Failed),
            StoreMode::Slow => {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Ok(act(&mut self.memory.lock().expect("not poisoned")))
            }
            StoreMode::Late => {
                act(&mut self.memory.lock().expect("not poisoned"));
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(SharedStoreError::Failed)
            }
            StoreMode::Up | StoreMode::Emptied => Ok(act(&mut self.memory.lock().expect("not poisoned"))),
        }
    }
}

impl SharedStore for Link {
    fn try_lock<'a>(
        &'a self,
        request: LockRequest<'a>,
    ) -> BoxFuture<'a, Result<LockOutcome, SharedStoreError>> {
        Box::pin(self.ask(move |memory| {
            if let Some((entry, left)) =
                memory.get(&request.keys.token).filter(|(entry, _)| entry != request.rejected_entry)
            {
                return LockOutcome::Entry(entry, Some(left));
            }
            let failure =
                memory.get(&request.keys.failure).filter(|(failure, _)| failure != request.rejected_failure);
            if let Some((failure, left)) = failure {
                return LockOutcome::Failure(failure, Some(left));
            }
            if memory.get(&request.keys.lock).is_some() {
                return LockOutcome::Busy;
            }
            memory.set(&request.keys.lock, request.owner.as_bytes(), request.lock_ttl);
            LockOutcome::Locked
        }))
    }

    fn release<'a>(
        &'a self,
        keys: &'a StoreKeys,
        owner: Option<&'a str>,
        result: &'a ExchangeResult,
    ) -> BoxFuture<'a, Result<(), SharedStoreError>> {
        Box::pin(self.ask(move |memory| {
            let holder = memory.get(&keys.lock).map(|(lock, _)| lock);
            let is_ours = holder.is_some() && holder.as_deref() == owner.map(str::as_bytes);
            if !is_ours && (holder.is_some() || memory.get(&keys.token).is_some()) {
                return;
            }
            match result {
                ExchangeResult::Entry(entry, left) => {
                    memory.set(&keys.token, entry, *left);
                    memory.texts.remove(&keys.failure);
                }
                ExchangeResult::Failure(failure, left) => memory.set(&keys.failure, failure, *left),
                ExchangeResult::Nothing => {}
            }
            if is_ours {
                memory.texts.remove(&keys.lock);
            }
        }))
    }

    fn count_request<'a>(
        &'a self,
        name: &'a str,
        id: &'a str,
        most: usize,
        window: Duration,
    ) -> BoxFuture<'a, Result<WindowCount, SharedStoreError>> {
        Box::pin(self.ask(move |memory| {
            let now = Instant::now();
            let set = memory.sets.entry(name.to_owned()).or_default();
            set.retain(|(_, at)| now.duration_since(*at) < window);
            if set.len() >= most {
                let oldest = set.iter().map(|(_, at)| *at).min().expect("there are some");
                return WindowCount::Exhausted((oldest + window - now).max(Duration::from_secs(1)));
            }
            set.push((id.to_owned(), now));
            WindowCount::Allowed(set.len() as u64)
        }))
    }

    fn refund<'a>(&'a self, name: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), SharedStoreError>> {
        Box::pin(self.ask(move |memory| {
            if let Some(set) = memory.sets.get_mut(name) {
                set.retain(|(other, _)| other != id);
            }
        }))
    }

    fn sync_messages<'a>(
        &'a self,
        _: &'a str,
        payloads: &'a [Vec<u8>],
        cursor: &'a str,
    ) -> BoxFuture<'a, Result<Messages, SharedStoreError>> {
        Box::pin(async move {
            let cursor = if self.up.load(Ordering::SeqCst) { cursor } else { STREAM_START };
            let since: u64 = cursor.split('-').next().and_then(|id| id.parse().ok()).expect("an id");
            let news = self.reach(move |memory| {
                for message in payloads {
                    memory.last_id += 1;
                    let id = memory.last_id;
                    memory.messages.push((id, message.clone()));
                }
                let fresh = memory.messages.iter().rev().take_while(|(id, _)| *id > since).take(MAX_MESSAGES);
                let mut messages: Vec<Vec<u8>> = fresh.map(|(_, message)| message.clone()).collect();
                messages.reverse();
                let seen = if messages.is_empty() { since } else { memory.last_id };
                Messages { payloads: messages, cursor: format!("{seen}-0") }
            });
            let news = news.await;
            self.up.store(news.is_ok(), Ordering::SeqCst);
            news
        })
    }
}

struct Replica {
    exchanger: Exchanger,
    metrics: Arc<Metrics>,
    variant: usize,
    /// The last successful answer for each user.
    last: HashMap<usize, ServedToken>,
}

struct Asked {
    replica: usize,
    user: usize,
    variant: usize,
    rejected: Option<String>,
    /// The replica's token for that user at the time of the request.
    held: Option<ServedToken>,
    began: Duration,
    task: JoinHandle<(Result<ServedToken, ExchangeError>, Duration, UnixTime)>,
}

pub struct Simulation<'a> {
    fixture: &'a Fixture,
    pub salesforce: Arc<Salesforce>,
    clock: Arc<ModelClock>,
    memory: Arc<Mutex<Memory>>,
    replicas: Vec<Replica>,
    asked: Vec<Asked>,
    state: PathBuf,
    _folder: tempfile::TempDir,
    /// No replica has lost its counts.
    strict: bool,
    shared: bool,
    counts: Counts,
}

impl<'a> Simulation<'a> {
    pub fn new(fixture: &'a Fixture, shared: bool) -> Self {
        let folder = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" });
        let folder = folder.expect("a folder");
        let state = folder.path().join("state");
        let clock = Arc::new(ModelClock { begin: Instant::now(), step: AtomicI64::new(0) });
        let salesforce = Arc::new(Salesforce {
            book: Mutex::default(),
            mood: Mutex::new((Answer::Token, Duration::ZERO)),
            clock: clock.clone(),
            store_well_since: Mutex::new(shared.then_some(Duration::ZERO)),
        });
        let memory: Arc<Mutex<Memory>> = Arc::default();
        let replica = |number: usize| {
            let metrics = Arc::new(Metrics::new());
            let deps = ExchangerDeps {
                signer: Arc::new(Signer::without_threads(1, 1024, &metrics)),
                clock: clock.clone(),
                randomness: Arc::new(Numbers(AtomicU64::new(number as u64 * 7 + 1))),
                metrics: metrics.clone(),
            };
            let transport = Box::new(Line { salesforce: salesforce.clone(), replica: number });
            let link = || Box::new(Link { memory: memory.clone(), up: AtomicBool::new(false) });
            let store = shared.then(|| -> (_, Box<dyn SharedStore>) { (&[7; 32], link()) });
            let exchanger = Exchanger::with_transport(deps, 1 << 20, Some(&state), transport, store);
            Replica { exchanger, metrics, variant: 0, last: HashMap::new() }
        };
        let replicas = vec![replica(0), replica(1)];
        Self {
            fixture,
            salesforce,
            clock,
            memory,
            replicas,
            asked: Vec::new(),
            state,
            _folder: folder,
            strict: true,
            shared,
            counts: Counts::default(),
        }
    }

    pub fn ask(&mut self, replica: usize, user: usize, reject: Reject, hang_up: bool) {
        self.counts.count("asks");
        let last = |replica: usize| {
            let served = self.replicas[replica].last.get(&user)?;
            Some(served.token.secret.expose_secret().to_owned())
        };
        let rejected = match reject {
            Reject::Nothing => None,
            Reject::Last => last(replica),
            Reject::OfTheOther => last(1 - replica),
            Reject::Made => Some("made-up".to_owned()),
        };
        let variant = self.replicas[replica].variant;
        let profiles = &self.fixture.variants[variant];
        let exchanger = self.replicas[replica].exchanger.clone();
        let oauth: Option<Arc<OauthProfile>> =
            profiles.oauth.values().nth(user).filter(|_| user < 2).cloned();
        let web: Arc<IdentityProfile> = profiles.identity.values().next().expect("a profile").clone();
        let (secret, clock) = (rejected.clone().map(SecretString::from), self.clock.clone());
        let began = clock.monotonic();
        let task = tokio::spawn(async move {
            let trace = Trace::default();
            let options =
                FetchOptions { rejected: secret.as_ref(), deadline: Instant::now() + REQUEST, trace: &trace };
            let answer = if let Some(profile) = oauth {
                exchanger.oauth_token(&profile, options).await
            } else {
                let subject = Subject::parse("sub", NAMES[user].to_owned()).expect("a subject");
                let claims = web.claims(Vec::new()).expect("no claim is always allowed");
                exchanger.messaging_token(&web, subject, claims, options).await
            };
            (answer, clock.monotonic(), clock.now())
        });
        let held = self.replicas[replica].last.get(&user).cloned();
        if hang_up {
            self.counts.count("hang-ups");
            task.abort();
            return;
        }
        self.asked.push(Asked { replica, user, variant, rejected, held, began, task });
    }

    pub fn reload(&mut self, replica: usize, retire: bool) {
        self.counts.count("reloads");
        let replica = &mut self.replicas[replica];
        if retire {
            replica.variant = 1;
            replica.exchanger.revoke_keys(&self.fixture.retired);
        } else {
            replica.exchanger.revoke_keys(&BTreeSet::new());
        }
    }

    pub fn step_clock(&mut self, seconds: i64) {
        // For logins of another process the file has only wall-clock times.
        self.strict = false;
        let step = &self.clock.step;
        step.store((step.load(Ordering::SeqCst) + seconds).clamp(-2 * DAY, 2 * DAY), Ordering::SeqCst);
    }

    pub fn disk(&mut self, disk: Disk) {
        // A directory in place of the new file: not even root can write it.
        for who in [0, 1, 2] {
            let obstacle = self.state.join(self.budget_file(who)).with_extension("new");
            match disk {
                Disk::Full => {
                    self.strict = false;
                    let _ = std::fs::create_dir(obstacle);
                }
                Disk::Well => _ = std::fs::remove_dir(obstacle),
            }
        }
    }

    fn budget_file(&self, user: usize) -> String {
        let profiles = &self.fixture.variants[0];
        let who = profiles.oauth.values().nth(user).filter(|_| user < 2).map_or_else(
            || {
                let channel = profiles.identity.values().next().expect("a profile").messaging.as_ref();
                let channel = channel.expect("it has a channel");
                format!("messaging {} {}", channel.scrt_url.as_str(), channel.org_id.as_str())
            },
            |profile| format!("login {} {}", profile.token_url.as_str(), profile.username),
        );
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, who.as_bytes());
        digest.as_ref()[..16].iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    pub fn store(&self, mode: StoreMode) {
        let mut memory = self.memory.lock().expect("not poisoned");
        memory.mode = Some(mode);
        if mode == StoreMode::Emptied {
            memory.texts.clear();
            memory.sets.clear();
            memory.messages.clear();
        }
        let mut since = self.salesforce.store_well_since.lock().expect("not poisoned");
        let well = matches!(mode, StoreMode::Up | StoreMode::Slow);
        *since = match *since {
            Some(since) if well => Some(since),
            _ => (self.shared && mode != StoreMode::Away && mode != StoreMode::Late)
                .then(|| self.clock.monotonic()),
        };
        // After losing its data it doesn't know of requests in progress and of locks.
        if mode == StoreMode::Emptied {
            *since = self.shared.then(|| self.clock.monotonic());
        }
    }

    /// Checks the answers so far.
    pub fn check(&mut self) -> Result<(), String> {
        let broken = self.salesforce.book().broken.take();
        if let Some(broken) = broken {
            return Err(broken);
        }
        let (done, open) =
            std::mem::take(&mut self.asked).into_iter().partition(|asked| asked.task.is_finished());
        self.asked = open;
        let done: Vec<Asked> = done;
        for mut asked in done {
            let waker = std::task::Waker::noop();
            let mut context = std::task::Context::from_waker(waker);
            let polled = Future::poll(std::pin::Pin::new(&mut asked.task), &mut context);
            let std::task::Poll::Ready(Ok((answer, at, wall))) = polled else {
                return Err("an ask has panicked".to_owned());
            };
            self.judge(&asked, answer, at, wall)?;
        }
        Ok(())
    }

    fn judge(
        &mut self,
        asked: &Asked,
        answer: Result<ServedToken, ExchangeError>,
        at: Duration,
        wall: UnixTime,
    ) -> Result<(), String> {
        let Asked { replica, user, variant, rejected, began, .. } = asked;
        let name = NAMES[*user];
        if at.saturating_sub(*began) > REQUEST + Duration::from_millis(1) {
            return Err(format!("{name} waited for {:?}", at.saturating_sub(*began)));
        }
        let served = match answer {
            Ok(served) => served,
            Err(error) => return self.judge_refusal(asked, &error, at, wall),
        };
        let token = &served.token;
        let secret = token.secret.expose_secret().to_owned();
        let book = self.salesforce.book();
        let issued = book.issued.get(&secret).ok_or("a token that Salesforce never gave")?;
        if issued.user != *user {
            return Err(format!("{name} was handed the token of {}", NAMES[issued.user]));
        }
        if *variant == 1 && self.fixture.retired.contains(&token.kid) {
            return Err(format!("{name} was handed a token of a retired key"));
        }
        if token.expires_at <= wall || issued.ends < at {
            return Err(format!(
                "{name} was handed a token past its life: {} {wall}, {:?} {at:?}",
                token.expires_at, issued.ends
            ));
        }
        if token.expires_in(wall, at) > DAY {
            return Err(format!("{name} was handed a token that lives for {} s", token.expires_in(wall, at)));
        }
        let is_rejected = rejected.as_ref() == Some(&secret);
        if is_rejected != served.rejected_token_kept {
            return Err(format!("rejected: {is_rejected}, said so: {}", served.rejected_token_kept));
        }
        drop(book);
        self.counts.count(match (served.cached, served.rejected_token_kept) {
            (_, true) => "kept",
            (true, _) => "hits",
            (false, _) => "fresh",
        });
        let replica = &mut self.replicas[*replica];
        let theirs = served.cached
            && replica.last.get(user).is_none_or(|last| last.token.sha256 != served.token.sha256);
        replica.last.insert(*user, served);
        if theirs {
            self.counts.count("theirs");
        }
        Ok(())
    }

    /// A refused request has the true reason, and replicas keep valid tokens.
    fn judge_refusal(
        &mut self,
        asked: &Asked,
        error: &ExchangeError,
        at: Duration,
        wall: UnixTime,
    ) -> Result<(), String> {
        let name = NAMES[asked.user];
        let good = asked.held.as_ref().filter(|held| {
            let token = &held.token;
            let known =
                self.replicas[asked.replica].variant == 0 || !self.fixture.retired.contains(&token.kid);
            known && token.expires_in(wall, at) > 0
        });
        if let Some(held) = good {
            let is_rejected = asked.rejected.as_deref() == Some(held.token.secret.expose_secret());
            // Only a caller that rejects it may get an error.
            if !is_rejected && self.has_kept(asked, held) {
                return Err(format!("{name} had a good token and got {error:?}"));
            }
        }
        let book = self.salesforce.book();
        let said = book.said.get(&asked.user).cloned().unwrap_or_default();
        let has = |answers: &[Answer]| said.iter().any(|answer| answers.contains(answer));
        let (count, is_true) = match error {
            ExchangeError::Rejected { upstream, .. } => (
                "rejected",
                match upstream.status {
                    503 => has(&[Answer::ServiceUnavailable]),
                    _ => has(&[Answer::Refused, Answer::Stopped]),
                },
            ),
            ExchangeError::Unusable { status, what, .. } => (
                "unusable",
                match status {
                    404 => has(&[Answer::Html]),
                    // The token may have expired by now.
                    _ if what.contains("expired already") => has(&[Answer::Over, Answer::TheSame]),
                    _ => has(&[Answer::Foreign]) && what.contains("evil.example"),
                },
            ),
            ExchangeError::Unverified { .. } => ("unusable", asked.user >= 2 && has(&[Answer::Foreign])),
            ExchangeError::Unreachable { sent, .. } => (
                "unreachable",
                if *sent { has(&[Answer::Closed, Answer::Broken]) } else { has(&[Answer::NotReached]) },
            ),
            // Three failures in a row, of this user or of several.
            ExchangeError::CircuitOpen { .. } => ("left alone", {
                let own = book.host_failures.contains(&asked.user);
                let others: BTreeSet<usize> = book.host_failures.iter().copied().collect();
                book.host_failures.len() >= 3 && (own || others.len() >= 2)
            }),
            ExchangeError::LoginRateLimited { .. } => ("budget", {
                // The file of another process may have more, by a wall clock that was stepped.
                !self.strict || self.counted_until(&book, asked.user, at) >= self.budget(asked.user)
            }),
            ExchangeError::Timeout { waited_for, .. } => (
                "timeout",
                match waited_for {
                    TimeoutCause::Salesforce => has(&[Answer::Hangs]),
                    TimeoutCause::Replica => self.shared,
                    TimeoutCause::Exchange => at.saturating_sub(asked.began) >= REQUEST,
                },
            ),
            ExchangeError::Interrupted | ExchangeError::Mint(_) => ("timeout", false),
        };
        drop(book);
        if !is_true {
            return Err(format!("{name} was told {error:?}, which isn't so: {said:?}"));
        }
        self.counts.count(count);
        Ok(())
    }

    /// Whether the replica still has the token that it returned. It may have replaced it by one that has expired
    /// since.
    fn has_kept(&self, asked: &Asked, held: &ServedToken) -> bool {
        let last = self.replicas[asked.replica].last.get(&asked.user);
        let same = last.is_some_and(|last| last.token.sha256 == held.token.sha256);
        // A token whose caller disconnected may have replaced it.
        let book = self.salesforce.book();
        let newest = book.last.get(&asked.user).map(String::as_str);
        same && newest == Some(held.token.secret.expose_secret())
    }

    const fn window(user: usize) -> Duration {
        if user < 2 { Duration::from_hours(1) } else { Duration::from_mins(1) }
    }

    const fn budget(&self, user: usize) -> usize {
        if user < 2 { LOGINS_PER_HOUR } else { REQUESTS_PER_MINUTE }
    }

    /// How many requests can have counted against the budget of `user` when one was refused that was told so at `at`: a refusal
    /// is remembered for ten seconds. One that couldn't be sent counts until it has been given back.
    fn counted_until(&self, book: &Book, user: usize, at: Duration) -> usize {
        const REMEMBERED: Duration = Duration::from_secs(11);
        const GIVING_BACK: Duration = Duration::from_secs(3);
        let within = |requests: &[(usize, Duration)], longest: Duration| {
            let window = at.saturating_sub(longest)..=at + Duration::from_secs(1);
            let same = |other: usize| if user < 2 { other == user } else { other >= 2 };
            requests.iter().filter(|(other, time)| same(*other) && window.contains(time)).count()
        };
        within(&book.sent, Self::window(user) + REMEMBERED) + within(&book.not_sent, REMEMBERED + GIVING_BACK)
    }

    pub async fn end(mut self) -> Result<Counts, String> {
        self.check()?;
        if !self.asked.is_empty() {
            return Err("an ask has never been answered".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let book = self.salesforce.book();
        // The file keeps whole seconds.
        let second = Duration::from_secs(1);
        for (user, end) in &book.sent {
            let from = end.saturating_sub(Self::window(*user).saturating_sub(second));
            let same = |other: usize| if *user < 2 { other == *user } else { other >= 2 };
            let sent = book
                .sent
                .iter()
                .filter(|(other, sent)| same(*other) && *sent > from && *sent <= *end)
                .count();
            let most = self.budget(*user) * if self.strict { 1 } else { self.replicas.len() };
            if sent > most {
                return Err(format!(
                    "{} requests for {} in a window, and {most} are allowed",
                    sent, NAMES[*user]
                ));
            }
        }
        if self.strict {
            self.counts.count("strict budgets");
            self.spent_is_sent(&book)?;
        }
        *self.counts.0.entry("sent").or_default() += book.sent.len() as u64;
        *self.counts.0.entry("not sent").or_default() += book.not_sent.len() as u64;
        *self.counts.0.entry("single flights").or_default() += book.single_flights;
        drop(book);
        Ok(self.counts)
    }

    /// Asserts that the files have counted the requests that Salesforce got.
    fn spent_is_sent(&self, book: &Book) -> Result<(), String> {
        let now = self.clock.monotonic();
        for user in [0, 1, 2] {
            let text = std::fs::read_to_string(self.state.join(self.budget_file(user))).unwrap_or_default();
            let window = i64::try_from(Self::window(user).as_secs()).expect("an hour");
            let since = BEGIN + i64::try_from(now.as_secs()).expect("hours") - window + 1;
            let times = text.lines().filter_map(|line| line.split(' ').next()?.parse::<i64>().ok());
            let counted = times.filter(|time| *time > since).count();
            let same = |other: usize| if user < 2 { other == user } else { other >= 2 };
            let after = |at: &Duration| {
                BEGIN + i64::try_from(at.as_secs()).expect("hours") > since && *at + Self::window(user) > now
            };
            let sent = book.sent.iter().filter(|(other, at)| same(*other) && after(at)).count();
            if counted != sent {
                return Err(format!("{counted} requests of {} were counted, and {sent} sent", NAMES[user]));
            }
        }
        for replica in &self.replicas {
            replica.exchanger.refresh_metrics(&self.fixture.variants[0]);
            let text = String::from_utf8(replica.metrics.render()).expect("text");
            let over = text.lines().filter(|line| line.starts_with("tokenmint_login_budget_used_ratio"));
            let used =
                over.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, f64::max);
            if used > 1.0 {
                return Err(format!("{used} of a budget are used"));
            }
        }
        Ok(())
    }
}
