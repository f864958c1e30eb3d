//! The meaning of each section: fields into the types of the configuration, and what must hold between them.
//!
//! A section's fields are all read before the first `?`, so that one mistake never hides another and no
//! field is called unknown because nobody got to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::section::{Findings, Section, byte_count, count, duration, text};
use super::source::{Environment, Node, Origin, PREFIX, Problem};
use super::{
    Algorithm, Batch, Bundle, Caller, Config, HttpsUrl, Identity, Intercom, Issuer, KeyId, KeySource, Keyset,
    Kind, Limits, Listen, Messaging, Name, Oauth, OrgId, Pace, ProfileName, Public, REGISTERED_CLAIMS,
    SHORTEST_TTL, Server, Signing, SubjectPattern, Tls, plain_text,
};

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);
const SECTIONS: [&str; 7] = ["server", "keysets", "identity", "oauth", "intercom", "bundles", "callers"];

/// What could be made of the text. `rest` is missing only where a problem says why.
pub(super) struct Parsed {
    pub keysets: BTreeMap<Name, Keyset>,
    pub rest: Option<Rest>,
}

pub(super) struct Rest {
    server: Server,
    identity: BTreeMap<Name, Identity>,
    oauth: BTreeMap<Name, Oauth>,
    intercom: BTreeMap<Name, Intercom>,
    bundles: BTreeMap<Name, Bundle>,
    callers: BTreeMap<Name, Caller>,
}

impl Rest {
    pub fn into_config(self, keysets: BTreeMap<Name, Keyset>, warnings: Vec<Problem>) -> Config {
        let Self { server, identity, oauth, intercom, bundles, callers } = self;
        Config { server, keysets, identity, oauth, intercom, bundles, callers, warnings }
    }
}

/// Warns of a variable that was surely meant as an override: `TOKENMINT_SERVER_LISTEN`.
pub(super) fn near_misses(environment: &Environment, findings: &Findings) {
    for variable in environment.keys() {
        let Some(path) = variable.strip_prefix(PREFIX) else { continue };
        let section = SECTIONS.iter().find_map(|section| {
            path.to_lowercase().strip_prefix(*section)?.starts_with('_').then_some(section.len())
        });
        if let Some(length) = section
            && !path.contains("__")
        {
            let (section, field) = (&path[..length], &path[length + 1..]);
            let message =
                format!("isn't read: levels are parted by two underscores, as in {PREFIX}{section}__{field}");
            findings.warn("", &Origin::Variable(variable.clone()), message);
        }
    }
}

pub(super) fn config(root: &Section<'_>) -> Parsed {
    let server = root.section("server");
    let server = self::server(server.as_ref());
    let named = root.section("keysets");
    let mut keysets = read_all(named.as_ref(), keyset);
    let exist = Existing::of(root);
    let identity =
        read_all(root.section("identity").as_ref(), |name, section| identity_profile(name, section, &exist));
    let oauth =
        read_all(root.section("oauth").as_ref(), |name, section| oauth_profile(name, section, &exist));
    let intercom = read_all(root.section("intercom").as_ref(), intercom_profile);
    let bundles = read_all(root.section("bundles").as_ref(), |name, section| bundle(name, section, &exist));
    let named_callers = root.section("callers");
    let callers = read_all(named_callers.as_ref(), |name, section| caller(name, section, &exist));

    open_bundles(named_callers.as_ref(), &callers, &bundles);
    share_out(named.as_ref(), &mut keysets, &identity, &oauth);
    distinct_api_keys(root, &callers);
    if callers.is_empty() && !root.has("callers") {
        root.warn(
            "callers",
            "there is no caller, so nobody can ask for a token: `tokenmint callers new NAME`",
        );
    }
    let rest = server.map(|server| Rest { server, identity, oauth, intercom, bundles, callers });
    Parsed { keysets, rest }
}

/// Reads each `[section.NAME]`; what is wrong is noted and left out.
fn read_all<T>(
    section: Option<&Section<'_>>,
    read: impl Fn(&Name, &Section<'_>) -> Option<T>,
) -> BTreeMap<Name, T> {
    let Some(section) = section else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    for (name, entry) in section.sections() {
        match Name::parse(name) {
            Ok(name) => {
                if let Some(value) = read(&name, &entry) {
                    all.insert(name, value);
                }
            }
            Err(message) => section.problem(name, message),
        }
    }
    all
}

/// The names that the file defines, right or wrong, so that a mistake inside a profile isn't reported again
/// by everyone who refers to it.
struct Existing(BTreeMap<&'static str, BTreeSet<String>>);

impl Existing {
    fn of(root: &Section<'_>) -> Self {
        let names = |section: &'static str| {
            let names = root.section(section).map(|s| s.entries().map(|(n, _)| n.to_owned()).collect());
            (section, names.unwrap_or_default())
        };
        Self(["keysets", "identity", "oauth", "intercom", "bundles"].into_iter().map(names).collect())
    }

    fn has(&self, section: &str, name: &str) -> bool {
        self.0.get(section).is_some_and(|names| names.contains(name))
    }

    fn list(&self, section: &str) -> String {
        let names = self.0.get(section).into_iter().flatten();
        let listed = names.map(|name| format!("`{section}.{name}`")).collect::<Vec<_>>().join(", ");
        if listed.is_empty() { "none".to_owned() } else { listed }
    }
}

// === server ===

fn server(section: Option<&Section<'_>>) -> Option<Server> {
    let default_listen = Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)));
    let Some(section) = section else {
        return Some(Server {
            listen: default_listen,
            tls: None,
            public: None,
            ops: None,
            limits: default_limits(),
            signing: Signing { batch: Batch::Auto, library: None },
            audit_key: None,
            state_directory: None,
        });
    };
    let listen = listen(section).or_else(|| (!section.has("listen")).then_some(default_listen));
    let tls = section.section("tls").map(|tls| self::tls(&tls).ok_or(Wrong)).transpose();
    let public = section.section("public").map(|public| -> Result<Public, Wrong> {
        let listen = required_listen(&public);
        let url = public.optional("url", |node| {
            let url = HttpsUrl::parse(&text(node)?)?;
            if url.is_origin() {
                Ok(url)
            } else {
                Err("must have no path: the JWKS is at /keysets/…".to_owned())
            }
        });
        let tls = public.section("tls").map(|tls| self::tls(&tls).ok_or(Wrong)).transpose();
        Ok(Public { listen: listen.ok_or(Wrong)?, url, tls: tls? })
    });
    let public = public.transpose();
    let ops = section.section("ops").map(|ops| required_listen(&ops).ok_or(Wrong)).transpose();
    let limits = section.section("limits").map_or_else(default_limits, |limits| self::limits(&limits));
    let signing = section
        .section("signing")
        .map_or(Signing { batch: Batch::Auto, library: None }, |signing| self::signing(&signing));
    let audit_key = section.secret("audit_key", "audit_key_file");
    let state_directory = section.path("state_directory");

    let server = Server {
        listen: listen?,
        tls: tls.ok()?,
        public: public.ok()?,
        ops: ops.ok()?,
        limits,
        signing,
        audit_key,
        state_directory,
    };
    let public = server.public.as_ref().map(|public| &public.listen);
    let both = [(public, "public"), (server.ops.as_ref(), "ops")];
    for (other, name) in both {
        if other == Some(&server.listen) && !takes_any_port(&server.listen) {
            section.problem(name, "listens where [server] does; give it an address of its own");
        }
    }
    if public.is_some() && public == server.ops.as_ref() && public.is_some_and(|l| !takes_any_port(l)) {
        section.problem("ops", "listens where [server.public] does; metrics must not face the internet");
    }
    Some(server)
}

/// A section was there and is wrong; a problem says how.
struct Wrong;

const fn takes_any_port(listen: &Listen) -> bool {
    matches!(listen, Listen::Tcp(address) if address.port() == 0)
}

fn required_listen(section: &Section<'_>) -> Option<Listen> {
    if !section.has("listen") {
        section.required("listen", text, r#"where to listen, as "127.0.0.1:9090""#);
        return None;
    }
    listen(section)
}

fn listen(section: &Section<'_>) -> Option<Listen> {
    let written = section.optional("listen", text)?;
    if let Some(path) = written.strip_prefix("unix:") {
        if path.is_empty() {
            section.problem("listen", "names no socket: write unix:/run/tokenmint.sock");
            return None;
        }
        return Some(Listen::Unix(section.findings().base.join(path)));
    }
    let numeric = written.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address = numeric.as_deref().unwrap_or(&written).parse().ok();
    if address.is_none() {
        let form = r#"must be an address and a port, as "127.0.0.1:8080" or "[::]:8080", or "unix:/path""#;
        section.problem("listen", form);
    }
    address.map(Listen::Tcp)
}

fn tls(section: &Section<'_>) -> Option<Tls> {
    let certificate_file = section.path("certificate_file");
    let private_key_file = section.path("private_key_file");
    let client_ca_file = section.path("client_ca_file");
    for name in ["certificate_file", "private_key_file"] {
        if !section.has(name) {
            section.problem(name, "is missing: TLS needs a certificate and its private key, both PEM files");
        }
    }
    Some(Tls { certificate_file: certificate_file?, private_key_file: private_key_file?, client_ca_file })
}

const fn default_limits() -> Limits {
    Limits {
        request_timeout: Duration::from_secs(10),
        body: 16 << 10,
        connections: 10_000,
        signing_queue: 1024,
        token_cache: 64 << 20,
        // A person with a hundred tabs, all loaded at once and then again each minute.
        remints: Pace { requests: 120, window: MINUTE, burst: 120 },
    }
}

fn limits(section: &Section<'_>) -> Limits {
    let default = default_limits();
    Limits {
        request_timeout: section
            .optional("request_timeout", |node| within(duration(node)?, 1, 300, "1s", "5m"))
            .unwrap_or(default.request_timeout),
        body: section
            .optional("body", |node| match byte_count(node)? {
                size @ 1024..=1_048_576 => Ok(size),
                _ => Err("must be between 1 KiB and 1 MiB".to_owned()),
            })
            .unwrap_or(default.body),
        connections: section.optional("connections", count).unwrap_or(default.connections),
        signing_queue: section.optional("signing_queue", count).unwrap_or(default.signing_queue),
        remints: Pace {
            requests: section.optional("remints_per_minute", small_count).unwrap_or(default.remints.requests),
            window: MINUTE,
            burst: section.optional("remint_burst", small_count).unwrap_or(default.remints.burst),
        },
        token_cache: section.optional("token_cache", byte_count).unwrap_or(default.token_cache),
    }
}

fn signing(section: &Section<'_>) -> Signing {
    let batch = section.optional("batch", |node| match text(node)?.as_str() {
        "auto" => Ok(Batch::Auto),
        "off" => Ok(Batch::Off),
        "required" => Ok(Batch::Required),
        _ => Err(r#"must be "auto", "off" or "required""#.to_owned()),
    });
    if batch == Some(Batch::Required) {
        section.problem("batch", r#"this build can't sign in batches; use "auto" or "off""#);
    }
    Signing { batch: batch.unwrap_or(Batch::Auto), library: section.path("library") }
}

fn within(value: Duration, from: u64, to: u64, from_text: &str, to_text: &str) -> Result<Duration, String> {
    if (from..=to).contains(&value.as_secs()) {
        Ok(value)
    } else {
        Err(format!("must be between {from_text} and {to_text}"))
    }
}

// === keysets ===

fn keyset(name: &Name, section: &Section<'_>) -> Option<Keyset> {
    let directory = section.path("directory");
    let key = section.optional("key", |node| Ok(SecretString::from(text(node)?.as_str())));
    let key_file = section.path("key_file");
    let kid = section.optional("kid", |node| KeyId::parse(&text(node)?));
    let passphrase = section.secret("passphrase", "passphrase_file");

    let given = ["directory", "key", "key_file"].into_iter().filter(|name| section.has(name)).count();
    if given != 1 {
        let message = "give exactly one of `directory` (of KID.key files), `key_file` or `key` (PEM text)";
        section.problem("directory", message);
        return None;
    }
    if section.has("directory") && section.has("kid") {
        section.problem("kid", "goes with `key` or `key_file`; in a directory the file's name is the key id");
        return None;
    }
    if !section.has("directory") && !section.has("kid") {
        section.problem("kid", "is missing: the key id that Salesforce Setup knows this key by");
    }
    let keys = match (directory, key_file, key) {
        (Some(directory), _, _) => KeySource::Directory(directory),
        (_, Some(path), _) => KeySource::File { kid: kid?, path },
        (_, _, Some(pem)) => KeySource::Text { kid: kid?, pem, origin: section.origin_of("key").to_string() },
        (None, None, None) => return None,
    };
    Some(Keyset {
        name: name.clone(),
        keys,
        passphrase,
        algorithm: Algorithm::Rs256,
        longest_life: SHORTEST_TTL,
        used_by: Vec::new(),
    })
}

/// Gives each keyset the algorithm and the longest token life of the profiles that sign with it.
fn share_out(
    section: Option<&Section<'_>>,
    keysets: &mut BTreeMap<Name, Keyset>,
    identity: &BTreeMap<Name, Identity>,
    oauth: &BTreeMap<Name, Oauth>,
) {
    let identity = identity.values().map(|profile| {
        let name = ProfileName { kind: Kind::Identity, name: profile.name.clone() };
        (name, &profile.keyset, profile.algorithm, profile.max_ttl)
    });
    let oauth = oauth.values().map(|profile| {
        let name = ProfileName { kind: Kind::Oauth, name: profile.name.clone() };
        (name, &profile.keyset, Algorithm::Rs256, profile.assertion_ttl)
    });
    for (profile, keyset_name, algorithm, life) in identity.chain(oauth) {
        let (Some(keyset), Some(section)) = (keysets.get_mut(keyset_name), section) else { continue };
        if let Some(first) = keyset.used_by.first()
            && keyset.algorithm != algorithm
        {
            let message = format!(
                "`{first}` signs {} and `{profile}` {} with its keys; a key has one algorithm \
                 (RFC 8725, section 3.1): give one of them a keyset of its own",
                keyset.algorithm.as_str(),
                algorithm.as_str(),
            );
            section.problem(keyset_name.as_str(), message);
            continue;
        }
        if let Some(other) = keyset.used_by.iter().find(|other| other.kind != profile.kind) {
            let message = format!(
                "serves both `{other}` and `{profile}`; one leaked key would open both doors \
                 (RFC 8725, section 3.12): give each a keyset of its own"
            );
            section.warn(keyset_name.as_str(), message);
        }
        keyset.algorithm = algorithm;
        keyset.longest_life = keyset.longest_life.max(life);
        keyset.used_by.push(profile);
    }
}

// === profiles ===

fn identity_profile(name: &Name, section: &Section<'_>, exist: &Existing) -> Option<Identity> {
    let keyset = keyset_of(section, exist);
    let issuer = section.required(
        "issuer",
        |node| Issuer::parse(&text(node)?),
        "the JSON Web Key Issuer of the keyset in Salesforce Setup, byte for byte",
    );
    let audience = section.optional("audience", |node| {
        let audience = text(node)?;
        plain_text(&audience, 2048).map(|()| audience.to_string())
    });
    let algorithm = section.optional("algorithm", |node| match text(node)?.as_str() {
        "RS256" => Ok(Algorithm::Rs256),
        "RS512" => Ok(Algorithm::Rs512),
        _ => Err(r#"must be "RS256" or "RS512": Salesforce takes no other"#.to_owned()),
    });
    let lives = lives(section, |node| within(duration(node)?, 60, 86_400, "60s", "24h"));
    let claims = claims(section, &[]);
    let subjects = subjects(section);
    let messaging = section.section("messaging").map(|messaging| self::messaging(&messaging).ok_or(Wrong));

    if issuer.as_ref().is_some_and(|issuer| issuer.as_str().ends_with('/')) {
        let message =
            "ends with a slash; Salesforce compares it byte for byte with the keyset's issuer in Setup";
        section.warn("issuer", message);
    }
    let (ttl, max_ttl) = lives?;
    Some(Identity {
        name: name.clone(),
        keyset: keyset?,
        issuer: issuer?,
        audience,
        algorithm: algorithm.unwrap_or(Algorithm::Rs256),
        ttl,
        max_ttl,
        claims,
        subjects,
        messaging: messaging.transpose().ok()?,
    })
}

fn keyset_of(section: &Section<'_>, exist: &Existing) -> Option<Name> {
    let what = "the name of the keyset that signs, as in [keysets.NAME]";
    let keyset = section.required("keyset", |node| Name::parse(&text(node)?), what)?;
    if !exist.has("keysets", keyset.as_str()) {
        section.problem("keyset", format!("names no keyset; defined: {}", exist.list("keysets")));
        return None;
    }
    Some(keyset)
}

/// `ttl` and `max_ttl`: an hour, and never one above the other.
fn lives(
    section: &Section<'_>,
    parse: fn(&Node) -> Result<Duration, String>,
) -> Option<(Duration, Duration)> {
    let ttl = section.optional("ttl", parse);
    let max_ttl = section.optional("max_ttl", parse);
    if (section.has("ttl") && ttl.is_none()) || (section.has("max_ttl") && max_ttl.is_none()) {
        return None;
    }
    let (ttl, max_ttl) = match (ttl, max_ttl) {
        (None, None) => (HOUR, HOUR),
        (Some(ttl), None) => (ttl, ttl),
        (None, Some(max_ttl)) => (HOUR.min(max_ttl), max_ttl),
        (Some(ttl), Some(max_ttl)) => (ttl, max_ttl),
    };
    if ttl > max_ttl {
        section.problem("ttl", "is longer than `max_ttl`");
        return None;
    }
    Some((ttl, max_ttl))
}

/// The extra claims that callers may set: none that the token's own rules set.
fn claims(section: &Section<'_>, also_reserved: &[&str]) -> Vec<String> {
    let names = section.list("claims", |name| plain_text(name, 64).map(|()| name.to_owned()));
    for name in &names {
        let registered = |reserved: &&str| reserved.eq_ignore_ascii_case(name);
        if REGISTERED_CLAIMS.iter().chain(also_reserved).any(registered) {
            section.problem("claims", format!("`{name}` is set by tokenmint and never by a caller"));
        }
    }
    names
}

fn subjects(section: &Section<'_>) -> Option<SubjectPattern> {
    section.optional("subjects", |node| SubjectPattern::parse(&text(node)?))
}

fn messaging(section: &Section<'_>) -> Option<Messaging> {
    let scrt_url = section.required(
        "scrt_url",
        |node| {
            let url = HttpsUrl::parse(&text(node)?)?;
            if url.is_origin() { Ok(url) } else { Err("must have no path".to_owned()) }
        },
        "https://….my.salesforce-scrt.com, from the deployment's code snippet",
    );
    let org_id = section.required("org_id", |node| OrgId::parse(&text(node)?), "Setup > Company Information");
    let es_developer_name = section.required(
        "es_developer_name",
        |node| {
            let name = text(node)?;
            let mut bytes = name.bytes();
            let fits = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
                && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if fits {
                Ok(name.to_string())
            } else {
                Err("must be an API name: a letter, then letters, digits and `_`".to_owned())
            }
        },
        "the API name of the Embedded Service deployment",
    );
    let requests_per_minute = section.optional("requests_per_minute", |node| match count(node)? {
        requests @ 1..=200 => Ok(requests),
        _ => Err("must be at most 200, Salesforce's limit for a whole org".to_owned()),
    });
    Some(Messaging {
        scrt_url: scrt_url?,
        org_id: org_id?,
        es_developer_name: es_developer_name?,
        requests_per_minute: requests_per_minute.unwrap_or(150),
    })
}

fn oauth_profile(name: &Name, section: &Section<'_>, exist: &Existing) -> Option<Oauth> {
    let keyset = keyset_of(section, exist);
    let plain = |node: &Node| {
        let value = text(node)?;
        plain_text(&value, 512).map(|()| value.to_string())
    };
    let what = "the Consumer Key of the External Client App";
    let consumer_key = section.required("consumer_key", plain, what);
    let username =
        section.required("username", plain, "the Salesforce user name to log in as, not an e-mail address");
    let audience = section.required(
        "audience",
        |node| HttpsUrl::parse(&text(node)?),
        "https://login.salesforce.com, https://test.salesforce.com or the org's My Domain URL",
    );
    let token_url = section.optional("token_url", |node| HttpsUrl::parse(&text(node)?));
    let assertion_ttl =
        section.optional("assertion_ttl", |node| within(duration(node)?, 30, 300, "30s", "5m"));
    let access_token_ttl =
        section.optional("access_token_ttl", |node| within(duration(node)?, 60, 86_400, "60s", "24h"));
    let logins_per_hour = section.optional("logins_per_hour", |node| match count(node)? {
        logins @ 1..=3600 => Ok(logins),
        _ => Err("must be at most 3600, Salesforce's limit for a user".to_owned()),
    });

    let audience = audience?;
    if audience.as_str().ends_with('/') {
        section.warn("audience", "ends with a slash; Salesforce compares it byte for byte and takes none");
    }
    let token_url = match (token_url, section.has("token_url")) {
        (Some(url), _) => url,
        (None, true) => return None,
        (None, false) => audience
            .with_path("/services/oauth2/token")
            .map_err(|message| section.problem("token_url", message))
            .ok()?,
    };
    Some(Oauth {
        name: name.clone(),
        keyset: keyset?,
        consumer_key: consumer_key?,
        username: username?,
        audience,
        token_url,
        assertion_ttl: assertion_ttl.unwrap_or(Duration::from_secs(150)),
        access_token_ttl: access_token_ttl.unwrap_or(Duration::from_mins(55)),
        logins_per_hour: logins_per_hour.unwrap_or(360),
    })
}

fn intercom_profile(name: &Name, section: &Section<'_>) -> Option<Intercom> {
    let secret = section.secret("secret", "secret_file");
    let lives = lives(section, |node| within(duration(node)?, 60, 30 * 86_400, "60s", "30 days"));
    let claims = claims(section, &["user_id"]);
    if !section.has("secret") && !section.has("secret_file") {
        section.problem("secret", "is missing: the Messenger API Secret (Settings > Messenger > Security)");
    }
    if secret.as_ref().is_some_and(|secret| secret.expose_secret().len() < 32) {
        let message = "is shorter than 32 characters, so it can be guessed (RFC 7518, section 3.2); is it the \
                       Messenger API Secret?";
        section.warn("secret", message);
    }
    let (ttl, max_ttl) = lives?;
    Some(Intercom { name: name.clone(), secret: secret?, ttl, max_ttl, claims })
}

fn bundle(name: &Name, section: &Section<'_>, exist: &Existing) -> Option<Bundle> {
    let mut entries = BTreeMap::new();
    let mut complete = true;
    for (entry, node) in section.entries() {
        let parsed = Name::parse(entry).and_then(|entry| {
            let profile = ProfileName::parse(&text(node)?)?;
            if !matches!(profile.kind, Kind::Identity | Kind::Intercom) {
                return Err("must be an `identity.NAME` or `intercom.NAME`".to_owned());
            }
            known(&profile, exist).map(|()| (entry, profile))
        });
        match parsed {
            Ok((entry, profile)) => {
                entries.insert(entry, profile);
            }
            Err(message) => {
                section.problem(entry, message);
                complete = false;
            }
        }
    }
    if entries.is_empty() && complete {
        section.findings().problem(
            section.field("").trim_end_matches('.'),
            &section.origin_of(""),
            r#"is empty: name what a page needs, as salesforce_identity_token = "identity.web""#,
        );
        complete = false;
    }
    complete.then(|| Bundle { name: name.clone(), entries })
}

fn known(profile: &ProfileName, exist: &Existing) -> Result<(), String> {
    let section = profile.kind.section();
    if exist.has(section, profile.name.as_str()) {
        Ok(())
    } else {
        Err(format!("`{profile}` isn't defined; defined: {}", exist.list(section)))
    }
}

// === callers ===

#[expect(clippy::unnecessary_wraps, reason = "read_all takes it with the others")]
fn caller(name: &Name, section: &Section<'_>, exist: &Existing) -> Option<Caller> {
    let api_key_sha256 = section.list("api_key_sha256", |text| {
        hex32(text).ok_or_else(|| {
            "must be the SHA-256 of an API key, 64 hexadecimal digits; `tokenmint callers new NAME` makes both"
                .to_owned()
        })
    });
    let allow = section.list("allow", ProfileName::parse);
    let subjects = subjects(section);
    let rate = section.optional("rate", small_count);
    let burst = section.optional("burst", small_count);
    if section.has("burst") && !section.has("rate") {
        section.problem("burst", "goes with `rate`, requests a second");
    }
    if !section.has("api_key_sha256") {
        section.problem("api_key_sha256", "is missing: without a key nobody can be this caller");
    } else if api_key_sha256.is_empty() {
        section.warn("api_key_sha256", "holds no key, so nobody can be this caller");
    }
    if !section.has("allow") {
        section.problem("allow", r#"is missing: name the profiles it may use, as ["identity.web"]"#);
    }
    for profile in &allow {
        if let Err(message) = known(profile, exist) {
            section.problem("allow", message);
        }
    }
    let pace = rate.map(|rate| Pace { requests: rate, window: SECOND, burst: burst.unwrap_or(rate) });
    Some(Caller { name: name.clone(), api_key_sha256, allow, subjects, pace })
}

/// A bundle opens no door of its own, so one whose profiles aren't all allowed is of no use.
fn open_bundles(
    section: Option<&Section<'_>>,
    callers: &BTreeMap<Name, Caller>,
    bundles: &BTreeMap<Name, Bundle>,
) {
    let Some(section) = section else { return };
    for caller in callers.values() {
        let allowed = caller.allow.iter().filter(|profile| profile.kind == Kind::Bundle);
        for (name, bundle) in allowed.filter_map(|name| Some((name, bundles.get(&name.name)?))) {
            for missing in bundle.entries.values().filter(|profile| !caller.allow.contains(profile)) {
                let message = format!(
                    "may use `{name}` but not `{missing}`, which it needs: add it to `allow` as well"
                );
                section.warn(caller.name.as_str(), message);
            }
        }
    }
}

/// Two callers with one key could not be told apart.
fn distinct_api_keys(root: &Section<'_>, callers: &BTreeMap<Name, Caller>) {
    let mut owners: BTreeMap<[u8; 32], &Name> = BTreeMap::new();
    for caller in callers.values() {
        for digest in &caller.api_key_sha256 {
            if let Some(other) = owners.insert(*digest, &caller.name)
                && other != &caller.name
            {
                let message = format!("`{other}` and `{}` share an API key; give each its own", caller.name);
                root.problem("callers", message);
            }
        }
    }
}

fn small_count(node: &Node) -> Result<u32, String> {
    let number = count(node)?;
    u32::try_from(number)
        .ok()
        .filter(|number| *number <= 1_000_000)
        .ok_or_else(|| "must be at most 1000000".to_owned())
}

fn hex32(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}
