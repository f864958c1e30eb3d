//! The shared cache in Redis: three services in this process, a redis-server for each test, and a fake Salesforce
//! that counts.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, cmd};
use serde_json::{Value, json};
use tokenmint::clock::{ManualClock, UnixTime};

use crate::exchange::{Fake, Mood, two_keys};
use crate::in_process::InProcess;
use crate::support::{
    API_KEY, Workspace, configuration, eventually, eventually_within, free_port, signal, timed,
};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// With this timeout, Redis on a busy machine doesn't count as hanging.
const PATIENT: &str = "timeout = \"5s\"";

/// A redis-server on loopback, killed on drop.
struct Redis {
    server: Child,
    port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Redis {
    async fn start() -> Self {
        let port = free_port();
        let redis = Self::with(port, vec!["--port".to_owned(), port.to_string()]);
        redis.answers().await;
        redis
    }

    fn with(port: u16, options: Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Self::run(&folder, &options);
        Self { server, port, folder, options }
    }

    fn run(folder: &tempfile::TempDir, options: &[String]) -> Child {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools");
        let tools = std::env::vars_os().find(|(name, _)| name == "TOKENMINT_TOOLS");
        let tools = tools.map_or_else(|| root.into(), |(_, tools)| std::path::PathBuf::from(tools));
        let ours = tools.join("bin/redis-server");
        let program = if ours.exists() { ours } else { "redis-server".into() };
        Command::new(program)
            .args(["--bind", "127.0.0.1", "--save", "", "--rdbcompression", "no", "--dir"])
            .arg(folder.path())
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("there is no redis-server: run tests/cache/setup")
    }

    async fn restart(&mut self) {
        self.server = Self::run(&self.folder, &self.options);
        self.answers().await;
    }

    fn kill(&mut self) {
        self.server.kill().expect("a child of ours");
        self.server.wait().expect("it ends");
    }

    async fn answers(&self) {
        eventually("redis-server answers", async || {
            let client = redis::Client::open(self.url()).expect("a URL");
            client.get_multiplexed_async_connection().await.is_ok()
        })
        .await;
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn connection(&self) -> MultiplexedConnection {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let client = redis::Client::open(self.url()).expect("a URL");
        client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
    }

    /// The names of the entries that contain `part`.
    async fn names(&self, part: &str) -> BTreeSet<String> {
        let names = cmd("KEYS").arg(format!("*{part}*")).query_async(&mut self.connection().await).await;
        names.expect("names")
    }

    async fn get(&self, name: &str) -> Vec<u8> {
        cmd("GET").arg(name).query_async(&mut self.connection().await).await.expect("an entry")
    }

    async fn set(&self, name: &str, entry: &[u8]) {
        let set = cmd("SET").arg(name).arg(entry).query_async(&mut self.connection().await).await;
        let () = set.expect("set");
    }
}

/// Replicas that use one Salesforce and share one Redis. Unlike real hosts they share one clock, too.
struct Replicas {
    fake: Fake,
    salesforce: String,
    clock: Arc<ManualClock>,
    redis: Redis,
    all: Vec<InProcess>,
}

impl Replicas {
    async fn start(more: &str) -> Self {
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
        let (fake, salesforce) = Fake::start(clock.clone()).await;
        let mut replicas = Self { fake, salesforce, clock, redis: Redis::start().await, all: Vec::new() };
        for _ in 0..3 {
            let replica = replicas.another(KEY, more).await;
            replicas.all.push(replica);
        }
        replicas
    }

    /// One more replica, with an empty local cache.
    async fn another(&self, key: &str, more: &str) -> InProcess {
        let more = format!("[cache.redis]\nurl = \"{}\"\nkey = \"{key}\"\n{more}\n", self.redis.url());
        InProcess::start(self.clock.clone(), &self.salesforce, &more).await
    }

    async fn fresh(&self) -> InProcess {
        self.another(KEY, PATIENT).await
    }

    /// Requests a token for `sub` at the first replica. Returns name and content of its entry.
    async fn entry_of(&self, sub: &str) -> (String, Vec<u8>) {
        let before = self.redis.names(":token:").await;
        self.all[0].messaging(sub).await.ok();
        let after = self.redis.names(":token:").await;
        let name = after.difference(&before).next().expect("a new entry").clone();
        let entry = self.redis.get(&name).await;
        (name, entry)
    }
}

async fn count(replica: &InProcess, result: &str) -> usize {
    let name = format!("tokenmint_shared_cache_requests_total{{result=\"{result}\"}} ");
    replica.metric(&name).await.strip_prefix(&name).map_or(0, |count| count.parse().expect("a number"))
}

async fn is_up(replica: &InProcess) -> bool {
    let line = replica.metric("tokenmint_shared_cache_up{").await;
    assert!(!line.is_empty(), "the metric is there");
    line.ends_with(" 1")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn concurrent_requests_to_three_replicas_cause_one_exchange() {
    let replicas = Replicas::start(PATIENT).await;
    for round in 1..=2 {
        replicas.fake.is(Mood::Slow(Duration::from_millis(400)));
        let asks: Vec<_> = (0..1000).map(|n| tokio::spawn(replicas.all[n % 3].oauth_one_of_many())).collect();
        for ask in asks {
            let token = ask.await.expect("no panic").ok()["access_token"].clone();
            assert_eq!(token, format!("00D000000000001!token.{round}"));
        }
        assert_eq!(replicas.fake.asked(), round);
        replicas.clock.advance(Duration::from_secs(101));
    }
    let mut waited = 0;
    for replica in &replicas.all {
        waited += count(replica, "waited").await;
    }
    assert_eq!(waited, 4, "two replicas in each round");
}

/// Renewals are shared as well. Otherwise each replica would log in at 65 to 75 % of a token's lifetime.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn a_token_is_renewed_by_one_replica_for_all() {
    let replicas = Replicas::start(PATIENT).await;
    for replica in &replicas.all {
        assert_eq!(replica.oauth().await.ok()["access_token"], "00D000000000001!token.1");
    }
    replicas.clock.advance(Duration::from_secs(80));
    for replica in &replicas.all {
        eventually("the token is renewed", async || {
            replica.oauth().await.ok()["access_token"] == "00D000000000001!token.2"
        })
        .await;
    }
    assert_eq!(replicas.fake.asked(), 2);
}

#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn a_token_of_another_replica_is_served_unchanged() {
    let replicas = Replicas::start(PATIENT).await;
    let mut first = replicas.all[0].messaging("user-1").await.ok();
    assert_eq!(first["cached"], false);
    replicas.clock.advance(Duration::from_secs(10));
    let mut second = replicas.all[1].messaging("user-1").await.ok();
    assert_eq!(second["cached"], true, "it was there before this request");
    for changed in ["cached", "expires_in"] {
        first[changed] = Value::Null;
        second[changed] = Value::Null;
    }
    // Redis may drop an entry a fraction of a second early. For the service it ends a second earlier.
    let end = |body: &mut Value| body["expires_at"].take().as_i64().expect("a time");
    assert!((0..=1).contains(&(end(&mut first) - end(&mut second))));
    assert_eq!(first, second);
    assert_eq!(replicas.fake.asked(), 1);
    // Another user gets another token.
    assert_ne!(replicas.all[1].messaging("user-2").await.ok()["access_token"], first["access_token"]);
}

/// Uses Redis's count of reads of an entry.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn a_local_cache_hit_does_not_contact_redis() {
    let replicas = Replicas::start(PATIENT).await;
    let [one, two, _] = &replicas.all[..] else { panic!("three replicas") };
    one.messaging("user-1").await.ok();
    let reads = async || {
        let mut connection = replicas.redis.connection().await;
        let info: String =
            cmd("INFO").arg("commandstats").query_async(&mut connection).await.expect("its statistics");
        let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_getrange:calls=")).unwrap_or("0,");
        line.split(',').next().expect("a count").parse::<usize>().expect("a number")
    };
    let before = reads().await;
    for _ in 0..20 {
        assert_eq!(one.messaging("user-1").await.ok()["cached"], true);
    }
    assert_eq!(reads().await, before);
    assert_eq!(two.messaging("user-1").await.ok()["cached"], true);
    assert_eq!(reads().await, before + 1, "what another replica exchanged is read there");
}

#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn entries_in_redis_reveal_nothing() {
    let replicas = Replicas::start(PATIENT).await;
    let token = replicas.all[0].oauth().await.ok()["access_token"].clone();
    let chat = replicas.all[0].messaging("canary-subject").await.ok()["access_token"].clone();
    let mut connection = replicas.redis.connection().await;
    let () = cmd("SAVE").query_async(&mut connection).await.expect("saved");
    let saved = std::fs::read(replicas.redis.folder.path().join("dump.rdb")).expect("an RDB file");
    let names = replicas.redis.names("").await;
    assert!(names.iter().filter(|name| name.contains(":token:")).count() == 2, "{names:?}");
    for name in names.iter().filter(|name| !name.ends_with(":probe")) {
        assert!(memchr::memmem::find(&saved, name.as_bytes()).is_some(), "the file isn't compressed");
        let left: i64 = cmd("PTTL").arg(name).query_async(&mut connection).await.expect("a time");
        assert!(left > 0, "{name} stays for ever");
    }
    let secrets =
        [token, chat, json!("canary-subject"), json!("access_token"), json!("CrmKey1"), json!("127.0.0.1")];
    for secret in secrets {
        let secret = secret.as_str().expect("text");
        assert!(memchr::memmem::find(&saved, secret.as_bytes()).is_none(), "{secret} lies in Redis");
        assert!(names.iter().all(|name| !name.contains(secret)));
    }
    assert_eq!(replicas.redis.names(":lock:").await, BTreeSet::new(), "a lock was not given back");
}

/// A way to corrupt an entry.
type Spoil = fn(&mut Vec<u8>);

#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn a_tampered_entry_is_a_miss() {
    let replicas = Replicas::start(PATIENT).await;
    let ways: [(&str, Spoil); 9] = [
        ("its format", |entry| entry[0] ^= 1),
        ("its nonce", |entry| entry[1] ^= 1),
        ("its first byte", |entry| entry[13] ^= 0x80),
        ("its tag", |entry| *entry.last_mut().expect("a tag") ^= 1),
        ("cut off", |entry| entry.truncate(entry.len() / 2)),
        ("one byte", |entry| entry.truncate(1)),
        ("longer", |entry| entry.push(0)),
        ("endless", |entry| entry.resize(1 << 20, b'x')),
        ("text", |entry| *entry = br#"{"token":"forged","about":{}}"#.to_vec()),
    ];
    for (n, (way, spoil)) in ways.into_iter().enumerate() {
        let (name, mut entry) = replicas.entry_of(way).await;
        spoil(&mut entry);
        replicas.redis.set(&name, &entry).await;
        let asked = replicas.fake.asked();
        assert_eq!(replicas.all[1].messaging(way).await.ok()["cached"], false, "{way}");
        assert_eq!(replicas.fake.asked(), asked + 1, "{way}");
        assert_eq!(count(&replicas.all[1], "refused").await, n + 1, "{way}");
        // A valid entry replaces it.
        assert_eq!(replicas.all[2].messaging(way).await.ok()["cached"], true, "{way}");
    }
    // An entry that isn't even text.
    let (name, _) = replicas.entry_of("a list").await;
    let mut connection = replicas.redis.connection().await;
    let () = cmd("DEL").arg(&name).query_async(&mut connection).await.expect("gone");
    let () = cmd("LPUSH").arg(&name).arg("x").query_async(&mut connection).await.expect("a list");
    assert_eq!(replicas.all[1].messaging("a list").await.ok()["cached"], false);
    assert_eq!(replicas.all[2].messaging("a list").await.ok()["cached"], true);
    assert!(is_up(&replicas.all[1]).await);
}

/// Only this test tells an entry that is bound to its name from one that is merely encrypted.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn an_entry_under_another_name_or_another_key_is_a_miss() {
    let replicas = Replicas::start(PATIENT).await;
    let (name, ours) = replicas.entry_of("user-1").await;
    // The same user's token for other claims: the content of the entry doesn't show that it is another.
    let pro = json!({"sub": "user-1", "claims": {"plan": "pro"}});
    let first = replicas.all[0].post("/messaging-access-token", API_KEY, &pro).await.ok();
    let names = replicas.redis.names(":token:").await;
    let other = names.iter().find(|other| **other != name).expect("an entry of its own");
    replicas.redis.set(other, &ours).await;
    let next = replicas.all[1].post("/messaging-access-token", API_KEY, &pro).await.ok();
    assert_eq!((&next["cached"], count(&replicas.all[1], "refused").await), (&json!(false), 1));
    assert_ne!(next["access_token"], first["access_token"]);
    // A replica with another key neither finds that entry nor accepts it.
    let foreign = replicas.another(OTHER_KEY, PATIENT).await;
    let before = replicas.redis.names(":token:").await;
    assert_eq!(foreign.messaging("user-1").await.ok()["cached"], false);
    let after = replicas.redis.names(":token:").await;
    let name = after.difference(&before).next().expect("a name of its own").clone();
    replicas.redis.set(&name, &ours).await;
    let foreign = replicas.another(OTHER_KEY, PATIENT).await;
    assert_eq!(foreign.messaging("user-1").await.ok()["cached"], false);
    assert_eq!(count(&foreign, "refused").await, 1);
}

/// The reader's rules apply, whatever expiry Redis has, and whatever settings the writer had.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn an_entry_expires_by_the_rules_of_the_replica_that_reads_it() {
    let replicas = Replicas::start(PATIENT).await;
    assert_eq!(replicas.all[0].oauth().await.ok()["expires_in"], 100);
    let mut connection = replicas.redis.connection().await;
    let name = replicas.redis.names(":token:").await.pop_first().expect("an entry");
    let persisted: bool = cmd("PERSIST").arg(&name).query_async(&mut connection).await.expect("kept");
    assert!(persisted);
    // A shorter `access_token_ttl` than the writer's.
    let strict = replicas.fresh().await;
    reconfigure(&strict, "access_token_ttl = \"100s\"", "access_token_ttl = \"60s\"");
    replicas.clock.advance(Duration::from_secs(20));
    let body = strict.oauth().await.ok();
    assert_eq!([&body["expires_in"], &body["cached"]], [&json!(40), &json!(true)]);
    // An expired entry that Redis would never drop.
    replicas.clock.advance(Duration::from_secs(81));
    let late = replicas.fresh().await;
    assert_eq!(late.oauth().await.ok()["cached"], false);
    assert_eq!(count(&late, "stale").await, 1);
    // An entry that Redis drops earlier ends earlier, whatever the hosts' clocks are.
    let name = replicas.redis.names(":token:").await.pop_first().expect("an entry");
    let () = cmd("PEXPIRE").arg(&name).arg(30_000).query_async(&mut connection).await.expect("shortened");
    let left = replicas.fresh().await.oauth().await.ok()["expires_in"].as_i64().expect("seconds");
    assert!((20..=30).contains(&left), "{left}");
}

/// Changes the configuration of one replica and reloads it.
fn reconfigure(replica: &InProcess, from: &str, to: &str) {
    let path = replica.workspace.path("tokenmint.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    assert!(text.contains(from), "{from}");
    replica.workspace.configure(&text.replace(from, to));
    replica.reload();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn a_rejected_token_is_dropped_by_all_replicas() {
    let _timed = timed();
    let replicas = Replicas::start(PATIENT).await;
    for replica in &replicas.all {
        assert_eq!(replica.oauth().await.ok()["access_token"], "00D000000000001!token.1");
    }
    let name = replicas.redis.names(":token:").await.pop_first().expect("an entry");
    let first = replicas.redis.get(&name).await;
    let reject = |replica: &InProcess, n: usize| {
        let body = json!({"rejected_token": format!("00D000000000001!token.{n}")});
        tokio::spawn(replica.post("/oauth-access-token", API_KEY, &body))
    };
    let second = "00D000000000001!token.2";
    assert_eq!(reject(&replicas.all[0], 1).await.expect("no panic").ok()["access_token"], second);
    for replica in &replicas.all[1..] {
        // The service promises a second. A busy machine may be slower.
        let is_dropped = async || replica.oauth().await.ok()["access_token"] == second;
        eventually_within(Duration::from_secs(3), "the token is dropped", is_dropped).await;
    }
    assert_eq!(replicas.fake.asked(), 2);
    // Fifty callers of each replica report the next token at the same time.
    let asks: Vec<_> = (0..150).map(|n| reject(&replicas.all[n % 3], 2)).collect();
    for ask in asks {
        assert_eq!(ask.await.expect("no panic").ok()["access_token"], "00D000000000001!token.3");
    }
    assert_eq!(replicas.fake.asked(), 3);
    // The first entry is put back. Even a replica that never had it knows that it was rejected.
    replicas.redis.set(&name, &first).await;
    let fresh = replicas.fresh().await;
    assert_eq!(fresh.oauth().await.ok()["access_token"], "00D000000000001!token.4");
    assert_eq!(count(&fresh, "stale").await, 1);
    // A rejection at a replica with an empty local cache applies to the entry in Redis.
    let fresh = replicas.fresh().await;
    let body = reject(&fresh, 4).await.expect("no panic").ok();
    assert_eq!(body["access_token"], "00D000000000001!token.5");
    // Any other text drops nothing.
    assert_eq!(reject(&fresh, 999).await.expect("no panic").ok()["cached"], true);
    assert_eq!(replicas.fake.asked(), 5);
}

/// The rate limit of rejections stops exchanges, but not the use of another replica's newer token.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn a_replica_over_its_rate_of_rejections_takes_the_others_tokens() {
    let replicas = Replicas::start(PATIENT).await;
    let [one, two, _] = &replicas.all[..] else { panic!("three replicas") };
    let token = |n: usize| format!("00D000000000001!token.{n}");
    one.oauth().await.ok();
    let reject = async |replica: &InProcess, n: usize| {
        replica.post("/oauth-access-token", API_KEY, &json!({"rejected_token": token(n)})).await.ok()
    };
    for n in 1..=3 {
        assert_eq!(reject(one, n).await["access_token"], token(n + 1));
    }
    assert_eq!(reject(one, 4).await["rejected_token_kept"], true, "its pace is used up");
    assert_eq!(reject(two, 4).await["access_token"], token(5));
    eventually("the other replica's token is taken", async || {
        one.oauth().await.ok()["access_token"] == token(5)
    })
    .await;
    assert_eq!(replicas.fake.asked(), 5);
}

/// Half of the budget of all replicas together, although each host has a budget of its own.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn reports_at_all_replicas_use_at_most_half_of_the_shared_budget() {
    let replicas = Replicas::start(PATIENT).await;
    for replica in &replicas.all {
        let path = replica.workspace.path("tokenmint.toml");
        let text = std::fs::read_to_string(&path).expect("a configuration");
        let settings = "access_token_ttl = \"55m\"\nlogins_per_hour = 8";
        replica.workspace.configure(&text.replace("access_token_ttl = \"100s\"", settings));
        replica.reload();
    }
    for _ in 0..10 {
        for replica in &replicas.all {
            let token = replica.oauth().await.ok()["access_token"].clone();
            replica.post("/oauth-access-token", API_KEY, &json!({"rejected_token": token})).await.ok();
        }
        replicas.clock.advance(Duration::from_secs(31));
    }
    assert_eq!(replicas.fake.asked(), 4);
    replicas.clock.advance(Duration::from_mins(55));
    replicas.all[0].oauth().await.ok();
    assert_eq!(replicas.fake.asked(), 5, "the other half is for renewals");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn rejections_during_a_redis_outage_are_shared_after_it() {
    let _timed = timed();
    let replicas = Replicas::start("timeout = \"1s\"").await;
    let (one, other) = (&replicas.all[0], &replicas.all[1]);
    for replica in [one, other] {
        assert_eq!(replica.oauth().await.ok()["access_token"], "00D000000000001!token.1");
    }
    signal(replicas.redis.server.id(), "STOP");
    let rejected = json!({"rejected_token": "00D000000000001!token.1"});
    let begin = Instant::now();
    let body = one.post("/oauth-access-token", API_KEY, &rejected).await.ok();
    assert_eq!(body["access_token"], "00D000000000001!token.2");
    assert!(begin.elapsed() < Duration::from_secs(3), "it waits for Redis once: {:?}", begin.elapsed());
    eventually("Redis is known to be down", async || !is_up(other).await).await;
    assert_eq!(other.oauth().await.ok()["access_token"], "00D000000000001!token.1");
    signal(replicas.redis.server.id(), "CONT");
    eventually("the rejection is known", async || {
        other.oauth().await.ok()["access_token"] != "00D000000000001!token.1"
    })
    .await;
}

/// Only the first requests wait for the timeout. A busy machine makes that longer, so the test counts how many
/// wait.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn a_redis_that_hangs_is_waited_for_once() {
    let _timed = timed();
    let replicas = Replicas::start("timeout = \"700ms\"").await;
    let replica = &replicas.all[0];
    replica.messaging("warm").await.ok();
    eventually("Redis is up", async || is_up(replica).await).await;
    signal(replicas.redis.server.id(), "STOP");
    let begin = Instant::now();
    let asks: Vec<_> = (0..20).map(|n| tokio::spawn(replica.messaging(&format!("at-once-{n}")))).collect();
    for ask in asks {
        ask.await.expect("no panic").ok();
    }
    let at_once = begin.elapsed();
    assert!(at_once < Duration::from_millis(2 * 700 + 300), "all wait for the same time: {at_once:?}");
    let waited = count(replica, "failed").await;
    for n in 0..20 {
        replica.messaging(&format!("later-{n}")).await.ok();
        assert_eq!(replica.messaging("warm").await.ok()["cached"], true);
    }
    assert_eq!(count(replica, "failed").await, waited, "nobody waits after that");
    assert!(count(replica, "away").await >= 20);
    signal(replicas.redis.server.id(), "CONT");
    eventually("Redis is up again", async || is_up(replica).await).await;
    // Tokens are shared again.
    assert_eq!(replica.messaging("again").await.ok()["cached"], false);
    eventually("the token is shared", async || {
        replicas.all[1].messaging("again").await.ok()["cached"] == true
    })
    .await;
}

/// A replica that works alone meanwhile shares its token and releases its lock as soon as it can.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn tokens_exchanged_while_redis_hung_are_shared_after_it() {
    let replicas = Replicas::start("timeout = \"300ms\"").await;
    let [one, two, _] = &replicas.all[..] else { panic!("three replicas") };
    for replica in [one, two] {
        eventually("Redis is up", async || is_up(replica).await).await;
    }
    replicas.fake.is(Mood::Slow(Duration::from_millis(1500)));
    let ask = tokio::spawn(one.messaging("user-1"));
    eventually("the lock is taken", async || !replicas.redis.names(":lock:").await.is_empty()).await;
    signal(replicas.redis.server.id(), "STOP");
    ask.await.expect("no panic").ok();
    assert!(!is_up(one).await, "it knows that Redis hangs, so it has told it nothing");
    signal(replicas.redis.server.id(), "CONT");
    eventually("Redis is up again", async || is_up(two).await).await;
    let answer = two.messaging("user-1").await.ok();
    assert_eq!((&answer["cached"], replicas.fake.asked()), (&json!(true), 1), "{answer}");
}

/// A lock ended early, for example since Redis lost its data. The exchange that ends late must not replace a newer
/// token.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn a_late_exchange_does_not_replace_a_newer_token() {
    let replicas = Replicas::start(PATIENT).await;
    for replica in &replicas.all {
        eventually("Redis is up", async || is_up(replica).await).await;
    }
    replicas.fake.is(Mood::Slow(Duration::from_secs(2)));
    let late = tokio::spawn(replicas.all[0].oauth());
    eventually("Salesforce is asked", async || replicas.fake.asked() == 1).await;
    replicas.fake.is(Mood::Well);
    let mut connection = replicas.redis.connection().await;
    for lock in replicas.redis.names(":lock:").await {
        let () = cmd("DEL").arg(lock).query_async(&mut connection).await.expect("gone");
    }
    let newer = replicas.all[1].oauth().await.ok();
    let late = late.await.expect("no panic").ok();
    assert_ne!(late["access_token"], newer["access_token"]);
    assert_eq!(replicas.all[2].oauth().await.ok()["access_token"], newer["access_token"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn redis_dies_and_comes_back_under_load_and_no_request_fails() {
    let mut replicas = Replicas::start("").await;
    for replica in &replicas.all {
        eventually("Redis is up", async || is_up(replica).await).await;
    }
    let (stop, done, cold) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..12)
        .map(|n| {
            let (stop, done, cold) = (stop.clone(), done.clone(), cold.clone());
            let replica = &replicas.all[n % 3];
            // Some callers request a cached token. The others request new ones, within the limit of requests per
            // minute.
            let (hit, url, client) = (n >= 3, replica.url.clone(), replica.client.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let (path, body) = if hit {
                        ("/oauth-access-token", json!({}))
                    } else {
                        // The rate of that load.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        let sub = format!("user-{}", cold.fetch_add(1, Ordering::SeqCst));
                        ("/messaging-access-token", json!({"sub": sub}))
                    };
                    let request = client.post(format!("{url}{path}")).bearer_auth(API_KEY).json(&body);
                    let answer = request.send().await.expect("an answer");
                    assert!(answer.status().is_success(), "{path}: {}", answer.text().await.expect("text"));
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    // Waits for twenty more answers, four of them after an exchange.
    let more = async || {
        let before = (done.load(Ordering::SeqCst), cold.load(Ordering::SeqCst));
        eventually("the load goes on", async || {
            done.load(Ordering::SeqCst) >= before.0 + 20 && cold.load(Ordering::SeqCst) >= before.1 + 4
        })
        .await;
    };
    for _ in 0..2 {
        more().await;
        replicas.redis.kill();
        for replica in &replicas.all {
            eventually("Redis is known to be down", async || !is_up(replica).await).await;
        }
        more().await;
        replicas.redis.restart().await;
        for replica in &replicas.all {
            eventually("Redis is up again", async || is_up(replica).await).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("no request failed");
    }
    assert!(done.load(Ordering::SeqCst) > 100 && cold.load(Ordering::SeqCst) > 10, "there was a load");
}

/// Replicas that wait for another's exchange learn why it failed, and don't repeat it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn a_failure_is_shared_with_the_replicas_that_wait() {
    let replicas = Replicas::start(PATIENT).await;
    let no = json!({"error": "invalid_grant", "error_description": "user hasn't approved this consumer"});
    replicas.fake.is(Mood::SlowError(Duration::from_millis(400), 400, no));
    let asks: Vec<_> = (0..30).map(|n| tokio::spawn(replicas.all[n % 3].oauth_one_of_many())).collect();
    for ask in asks {
        let answer = ask.await.expect("no panic");
        let body = answer.json();
        assert_eq!((answer.status.as_u16(), &body["error"]), (502, &json!("upstream_rejected")), "{body}");
        assert_eq!(body["upstream"]["error"], "invalid_grant");
        assert!(answer.text.contains("pre-authorized"), "{}", answer.text);
    }
    assert_eq!(replicas.fake.asked(), 1);
    // The failure ends for all at the same time.
    replicas.fake.is(Mood::Well);
    replicas.clock.advance(Duration::from_secs(61));
    for replica in &replicas.all {
        assert_eq!(replica.oauth().await.ok()["access_token"], "00D000000000001!token.2");
    }
}

/// The request's timeout is shorter than the lock of a killed replica. That is a timeout, and no overload.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn a_request_that_waits_for_a_dead_replica_is_a_timeout() {
    let replicas = Replicas::start(&format!("{PATIENT}\n[server.limits]\nrequest_timeout = \"1s\"")).await;
    let (name, _) = replicas.entry_of("user-1").await;
    let mut connection = replicas.redis.connection().await;
    let () = cmd("DEL").arg(&name).query_async(&mut connection).await.expect("gone");
    let lock = name.replace(":token:", ":lock:");
    let () = cmd("SET")
        .arg(&lock)
        .arg("dead")
        .arg("PX")
        .arg(3000)
        .query_async(&mut connection)
        .await
        .expect("locked");
    let answer = replicas.all[1].messaging("user-1").await;
    answer.refused(504, "upstream_timeout", None);
    assert_eq!(answer.header("retry-after"), "1");
    eventually("the token is exchanged", async || {
        replicas.all[1].messaging("user-1").await.status.is_success()
    })
    .await;
    assert_eq!(replicas.fake.asked(), 2);
}

/// The replica that gets the report has a newer token already, since Redis lost its data.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn a_token_rejected_by_a_replica_with_a_fresher_one_is_dropped_by_all() {
    let replicas = Replicas::start(PATIENT).await;
    let (one, other) = (&replicas.all[0], &replicas.all[1]);
    for replica in [one, other] {
        assert_eq!(replica.oauth().await.ok()["access_token"], "00D000000000001!token.1");
    }
    let () = cmd("FLUSHALL").query_async(&mut replicas.redis.connection().await).await.expect("emptied");
    let fresh = replicas.fresh().await;
    assert_eq!(fresh.oauth().await.ok()["access_token"], "00D000000000001!token.2");
    let rejected = json!({"rejected_token": "00D000000000001!token.1"});
    let body = fresh.post("/oauth-access-token", API_KEY, &rejected).await.ok();
    assert_eq!([&body["access_token"], &body["cached"]], [&json!("00D000000000001!token.2"), &json!(true)]);
    for replica in [one, other] {
        eventually("the rejection is known", async || {
            replica.oauth().await.ok()["access_token"] == "00D000000000001!token.2"
        })
        .await;
    }
    assert_eq!(replicas.fake.asked(), 2, "what another has is taken, and not exchanged again");
}

/// A replica reads only a limited part of a stream, whoever wrote it.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn a_huge_foreign_stream_is_not_read() {
    let replicas = Replicas::start(PATIENT).await;
    replicas.all[0].oauth().await.ok();
    let rejected = json!({"rejected_token": "00D000000000001!token.1"});
    replicas.all[0].post("/oauth-access-token", API_KEY, &rejected).await.ok();
    eventually("the rejection is known", async || !replicas.redis.names(":dropped").await.is_empty()).await;
    let names = replicas.redis.names(":dropped").await;
    let stream = names.iter().find(|name| name.ends_with(":dropped")).expect("a stream");
    let mut connection = replicas.redis.connection().await;
    for _ in 0..8 {
        let huge = vec![b'x'; 2 << 20];
        let () = cmd("XADD")
            .arg(stream)
            .arg("*")
            .arg("d")
            .arg(huge)
            .query_async(&mut connection)
            .await
            .expect("added");
    }
    let sent = async || {
        let info: String =
            cmd("INFO").arg("stats").query_async(&mut replicas.redis.connection().await).await.expect("info");
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_net_output_bytes:"))
            .expect("a number")
            .trim();
        line.parse::<u64>().expect("a number")
    };
    let before = sent().await;
    let fresh = replicas.fresh().await;
    eventually("Redis is up", async || is_up(&fresh).await).await;
    assert!(sent().await - before < 1 << 20, "it was read whole");
    // The valid messages in it count.
    assert_eq!(fresh.oauth().await.ok()["access_token"], "00D000000000001!token.2");
}

/// A replica dies during an exchange. Its lock expires, and another replica exchanges.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: make system"]
async fn a_lock_without_an_owner_expires_within_seconds() {
    let _timed = timed();
    let replicas = Replicas::start(PATIENT).await;
    let (name, _) = replicas.entry_of("user-1").await;
    let mut connection = replicas.redis.connection().await;
    let lock = name.replace(":token:", ":lock:");
    for life in [Some(2000), None] {
        let () = cmd("DEL").arg(&name).query_async(&mut connection).await.expect("gone");
        let () = cmd("SET").arg(&lock).arg("somebody").query_async(&mut connection).await.expect("locked");
        if let Some(life) = life {
            let () = cmd("PEXPIRE").arg(&lock).arg(life).query_async(&mut connection).await.expect("ending");
        }
        let (asked, begin) = (replicas.fake.asked(), Instant::now());
        let fresh = [replicas.fresh().await, replicas.fresh().await];
        let asks = fresh.each_ref().map(|replica| tokio::spawn(replica.messaging("user-1")));
        for ask in asks {
            ask.await.expect("no panic").ok();
        }
        assert_eq!(replicas.fake.asked(), asked + 1, "the lock goes to one of them");
        assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    }
}

#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn the_budget_of_requests_is_one_for_all_replicas() {
    let replicas = Replicas::start(PATIENT).await;
    let mut served = 0;
    for replica in &replicas.all {
        reconfigure(replica, "requests_per_minute = 200", "requests_per_minute = 10");
    }
    for n in 0..18 {
        let answer = replicas.all[n % 3].messaging(&format!("user-{n}")).await;
        if answer.status.is_success() {
            served += 1;
        } else {
            let description = answer.refused(503, "upstream_unavailable", None);
            assert!(description.contains("budget"), "{description}");
            let wait: u64 = answer.header("retry-after").parse().expect("seconds");
            assert!((1..=60).contains(&wait), "{wait}");
        }
    }
    // By its own count each replica sent six of ten at most, so only the shared count refuses.
    assert_eq!((served, replicas.fake.asked()), (10, 10));
}

/// An attacker with write access to Redis can make each replica exchange again, but not more often than without Redis.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn after_a_redis_flush_the_limit_of_each_host_still_applies() {
    let replicas = Replicas::start(PATIENT).await;
    let replica = &replicas.all[0];
    reconfigure(replica, "requests_per_minute = 200", "requests_per_minute = 3");
    let mut connection = replicas.redis.connection().await;
    let mut served = 0;
    for n in 0..8 {
        served += usize::from(replica.messaging(&format!("user-{n}")).await.status.is_success());
        let () = cmd("FLUSHALL").query_async(&mut connection).await.expect("emptied");
    }
    assert_eq!((served, replicas.fake.asked()), (3, 3));
}

/// A token obtained with a leaked key isn't served by any replica that knows of the retirement.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn an_entry_obtained_with_a_retired_key_is_a_miss() {
    let replicas = Replicas::start(PATIENT).await;
    let first = replicas.all[0].oauth().await.ok()["access_token"].clone();
    let fresh = replicas.fresh().await;
    two_keys(&fresh, 1_796_176_000, "");
    two_keys(&fresh, 1_795_176_000, "retired = true");
    let next = fresh.oauth().await.ok();
    assert_eq!(next["cached"], false);
    assert_ne!(next["access_token"], first);
    assert_eq!(count(&fresh, "stale").await, 1);
}

#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn the_shared_cache_cannot_change_by_a_reload() {
    let replicas = Replicas::start(PATIENT).await;
    let replica = &replicas.all[0];
    for (from, to) in [
        (PATIENT, "timeout = \"4s\""),
        (KEY, OTHER_KEY),
        ("[cache.redis]", "[cache.redis]\npassword = \"x\""),
    ] {
        let before = replica.metric("tokenmint_config_reload_failures_total").await;
        reconfigure(replica, from, to);
        assert_ne!(replica.metric("tokenmint_config_reload_failures_total").await, before, "{to}");
        reconfigure(replica, to, from);
        let current = replica.metric("tokenmint_config_last_reload_successful").await;
        assert!(current.ends_with(" 1"), "{current}");
    }
}

/// TLS with the host's certificate authorities, a user and a password, in the binary itself. The log shows no
/// secret.
#[tokio::test]
#[ignore = "needs redis-server: make system"]
async fn redis_is_reached_over_tls_with_a_password() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let mut workspace = Workspace::bare();
    workspace.write("redis.crt", &certified.cert.pem());
    workspace.write("redis.key", &certified.signing_key.serialize_pem());
    workspace.write("redis.secret", "canary-password\n");
    workspace.write("cache.secret", &format!("{KEY}\n"));
    let port = free_port();
    let path = |name: &str| workspace.path(name).display().to_string();
    let options = [
        ("--port", "0".to_owned()),
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", path("redis.crt")),
        ("--tls-key-file", path("redis.key")),
        ("--tls-ca-cert-file", path("redis.crt")),
        ("--tls-auth-clients", "no".to_owned()),
        ("--requirepass", "canary-password".to_owned()),
        ("--logfile", path("redis.log")),
        ("--loglevel", "verbose".to_owned()),
    ];
    let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    let _redis = Redis::with(port, options);
    eventually("redis-server listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    workspace.configure(&format!(
        "{}\n[cache.redis]\nurl = \"rediss://default@localhost:{port}/3\"\npassword_file = \"redis.secret\"\n\
         key_file = \"cache.secret\"\ntimeout = \"1s\"\n",
        configuration()
    ));
    let authority = path("redis.crt");
    workspace.set("SSL_CERT_FILE", &authority);
    let service = workspace.serve().await;
    service.logged("the shared cache answers").await;
    workspace.write("redis.secret", "wrong\n");
    let other = workspace.serve().await;
    other.logged("the shared cache ([cache.redis]) can't be used").await;
    // Each health check with the wrong password opens a connection, which Redis logs.
    let connections = || {
        let log = std::fs::read_to_string(workspace.path("redis.log")).expect("Redis's log");
        log.matches("Accepted ").count()
    };
    let before = connections();
    eventually("two more health checks have failed", async || connections() >= before + 3).await;
    for log in [service.whole_log().await, other.whole_log().await] {
        assert_eq!(log.matches("the shared cache").count(), 1, "{log}");
        assert!(!log.contains("canary") && !log.contains(&KEY[..16]), "{log}");
    }
}
