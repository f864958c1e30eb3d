//! Healthy sets (a key, its certificate, its JWK, a token, a configuration), each changed in one place at random: whatever a
//! strict verifier of another library refuses, `verify` and `doctor` don't call well. The judges are `PyJWT`, joserfc, cryptography
//! and OpenSSL, in judge.py. The dice are seeded and the keys are new each time, so a failure shows
//! the file that was changed. MUTATIONS makes more of them.
//!
//! The checks run in process, as a process for each mutation would take minutes; every hundredth is shown to the binary, which
//! must end as they do.

#![allow(clippy::panic, clippy::print_stdout, reason = "a test panics to fail, and says what it saw")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use tokenmint::clock::{Clock as _, SystemClock, UnixTime};
use tokenmint::config::{Config, Environment};
use tokenmint::doctor::{
    Configured, Given, JwkDocument, Known, Outcome, Readers, UnverifiedToken, examine, recognise, verify,
};
use tokenmint::keys::KeyRing;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

const KID: &str = "Key1";
const ISSUER: &str = "https://acme.example";
const SECRET: &str = "intercom-messenger-api-secret-0123456789";

/// One of each hundred mutations; MUTATIONS is how many hundreds there are.
const SHARES: [(Kind, usize); 6] = [
    (Kind::Token, 40),
    (Kind::Jwk, 30),
    (Kind::Certificate, 14),
    (Kind::Key, 4),
    (Kind::Intercom, 9),
    (Kind::Configuration, 3),
];
const HUNDREDS: usize = 110;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Token,
    Jwk,
    Certificate,
    Key,
    Intercom,
    Configuration,
}

/// Numbers that look random, the same in each run (splitmix64).
struct Dice(u64);

impl Dice {
    const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(limit.max(1)).expect("small")).expect("small")
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

struct Pair {
    pem: String,
    certificate: Vec<u8>,
}

/// The right key, and another. The certificate of the first is one as people make them.
static PAIRS: LazyLock<[Pair; 2]> = LazyLock::new(|| {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    [0, 1].map(|_| {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        let certificate = certified(&key, -1, 700);
        Pair { pem: key.serialize_pem(), certificate }
    })
});

fn certified(key: &KeyPair, from: i64, until: i64) -> Vec<u8> {
    let mut params = CertificateParams::default();
    let now = time::OffsetDateTime::from_unix_timestamp(seconds()).expect("a date");
    (params.not_before, params.not_after) =
        (now + time::Duration::days(from), now + time::Duration::days(until));
    params.self_signed(key).expect("a certificate").der().to_vec()
}

fn now() -> UnixTime {
    SystemClock::default().now()
}

fn seconds() -> i64 {
    now().seconds()
}

fn pem_of(der: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der))
}

impl Pair {
    fn numbers(&self) -> [String; 2] {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).expect("a certificate");
        let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed() else { panic!("an RSA key") };
        [key.modulus, key.exponent].map(|number| {
            let octets: Vec<u8> = number.iter().copied().skip_while(|octet| *octet == 0).collect();
            URL_SAFE_NO_PAD.encode(octets)
        })
    }

    fn public_pem(&self) -> String {
        KeyPair::from_pem(&self.pem).expect("a key").public_key_pem()
    }

    fn jwk(&self) -> Value {
        let [n, e] = self.numbers();
        let digest = |algorithm| {
            URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(algorithm, &self.certificate).as_ref())
        };
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": KID, "n": n, "e": e,
            "x5c": [STANDARD.encode(&self.certificate)],
            "x5t": digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY),
            "x5t#S256": digest(&aws_lc_rs::digest::SHA256),
        })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let key = EncodingKey::from_rsa_pem(self.pem.as_bytes()).expect("a key");
        let algorithm = if header["alg"] == "RS512" { Algorithm::RS512 } else { Algorithm::RS256 };
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, algorithm).expect("a signature");
        format!("{signed}.{signature}")
    }
}

fn header() -> Value {
    json!({"alg": "RS256", "typ": "JWT", "kid": KID})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "user-1", "exp": seconds() + 3_000, "iat": seconds()})
}

fn intercom(header: &Value, claims: &Value, secret: &str) -> String {
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).expect("a signature");
    format!("{signed}.{signature}")
}

const CONFIGURATION: &str = r#"
[server]
listen = "127.0.0.1:0"
state_directory = "state"
[keysets.web]
directory = "keys/identity"
[keysets.crm]
directory = "keys/oauth"
[identity.web]
keyset = "web"
issuer = "https://acme.example"
algorithm = "RS256"
ttl = "1h"
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9.sandbox"
username = "integration@acme.com"
audience = "https://acme.my.salesforce.com"
[intercom.fin]
secret = "intercom-messenger-api-secret-0123456789"
[callers.web]
api_key_sha256 = ["0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]
allow = ["identity.web", "oauth.crm", "intercom.fin"]
"#;

/// Files, each with its text.
type Files<'a> = Vec<(&'a str, &'a str)>;
/// Files, each behind the option that names it.
type Options<'a> = Vec<(&'a str, &'a str, &'a str)>;

/// What somebody holds, of which one thing was changed.
#[derive(Clone)]
struct Set {
    kind: Kind,
    key: String,
    certificate: String,
    jwk: String,
    token: String,
    configuration: String,
}

impl Set {
    fn healthy(kind: Kind) -> Self {
        let right = &PAIRS[0];
        let token = match kind {
            Kind::Intercom => intercom(
                &json!({"alg": "HS256", "typ": "JWT"}),
                &json!({"user_id": "42", "exp": seconds() + 3_000, "iat": seconds()}),
                SECRET,
            ),
            _ => right.sign(&header(), &claims()),
        };
        Self {
            kind,
            key: right.pem.clone(),
            certificate: pem_of(&right.certificate),
            jwk: right.jwk().to_string(),
            token,
            configuration: CONFIGURATION.to_owned(),
        }
    }

    /// The file that was changed.
    fn changed(&self) -> &str {
        match self.kind {
            Kind::Token | Kind::Intercom => &self.token,
            Kind::Jwk => &self.jwk,
            Kind::Certificate => &self.certificate,
            Kind::Key => &self.key,
            Kind::Configuration => &self.configuration,
        }
    }

    /// What the judges get of it.
    fn for_judges(&self) -> Value {
        let mut given = json!({"kid": KID, "issuer": ISSUER, "token": self.token});
        match self.kind {
            Kind::Token | Kind::Jwk => {
                given["jwk"] = json!(self.jwk);
                given["certificate"] = json!(self.certificate);
            }
            Kind::Certificate | Kind::Key => {
                given["key"] = json!(self.key);
                given["certificate"] = json!(self.certificate);
            }
            Kind::Intercom => given["secret"] = json!(SECRET),
            Kind::Configuration => {
                given["configuration"] = json!(self.configuration);
                given["public"] = json!({
                    "keys/identity/Key1.key": PAIRS[0].public_pem(),
                    "keys/oauth/CrmKey1.key": PAIRS[1].public_pem(),
                });
            }
        }
        given
    }

    const fn is_configured(&self) -> bool {
        matches!(self.kind, Kind::Intercom | Kind::Configuration)
    }

    /// The files that the doctor is given, and those that `verify` is, each by the option before it.
    fn files(&self) -> (Files<'_>, Options<'_>) {
        let token = ("token.txt", self.token.as_str());
        match self.kind {
            Kind::Token | Kind::Jwk => (
                vec![("Key1.jwk", &self.jwk), ("Key1.crt", &self.certificate), token],
                vec![("--jwk", "Key1.jwk", &self.jwk)],
            ),
            Kind::Certificate => (
                vec![("Key1.key", &self.key), ("Key1.crt", &self.certificate), token],
                vec![("--key", "Key1.crt", &self.certificate)],
            ),
            Kind::Key => (
                vec![("Key1.key", &self.key), ("Key1.crt", &self.certificate), token],
                vec![("--key", "Key1.key", &self.key)],
            ),
            Kind::Intercom | Kind::Configuration => (vec![token], Vec::new()),
        }
    }

    /// Whether `doctor` and `verify` end with 0.
    fn ends_well(&self, workspace: &Workspace) -> [bool; 2] {
        let configured = match (self.kind, &workspace.loaded) {
            (Kind::Configuration, _) => match workspace.load(&self.configuration) {
                Some((config, ring)) => return self.judged(Some((&config, &ring))),
                None => None,
            },
            (Kind::Intercom, Some((config, ring))) => Some((config, ring)),
            _ => None,
        };
        if self.is_configured() && configured.is_none() {
            // `doctor` and `verify` are handed the problems of a configuration that doesn't load.
            return [false, false];
        }
        self.judged(configured)
    }

    fn judged(&self, configured: Option<(&Config, &KeyRing)>) -> [bool; 2] {
        let known = |given: Given| {
            let configured = configured.map_or_else(Configured::default, |(config, ring)| Configured {
                config: Some(config),
                ring: Some(ring),
                problems: &[],
                warnings: config.warnings.iter().chain(&ring.warnings).collect(),
            });
            Known { now: now(), configured, given, answers: None }
        };
        let issuer = (!self.is_configured()).then(|| ISSUER.to_owned());
        let (files, options) = self.files();
        let mut given = Given { issuer: issuer.clone(), ..Given::default() };
        let all_are_something = files.iter().all(|(name, text)| {
            let found = recognise(name, text.as_bytes(), Readers::Ours, &[]);
            found.map(|material| given.add(material)).is_ok()
        });
        let doctor = all_are_something && examine(&known(given)).verdict().outcome != Outcome::Fail;
        let mut given = Given { issuer, ..Given::default() };
        let all_are_something = options.iter().all(|(option, name, text)| match *option {
            "--jwk" => {
                let document = JwkDocument::read(name, text);
                let served = document.is_a_set();
                given.jwks.push(JwkDocument { served, ..document });
                true
            }
            _ => recognise(name, text.as_bytes(), Readers::Ours, &[])
                .map(|material| given.add(material))
                .is_ok(),
        });
        given.tokens.push(UnverifiedToken::read("the token", &self.token));
        let verified = all_are_something && verify(&known(given)).1.outcome != Outcome::Fail;
        [doctor, verified]
    }
}

/// The folder that the configuration speaks of.
struct Workspace {
    folder: tempfile::TempDir,
    loaded: Option<(Config, KeyRing)>,
}

impl Workspace {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut workspace = Self { folder, loaded: None };
        workspace.write("keys/identity/Key1.key", &PAIRS[0].pem);
        workspace.write("keys/oauth/CrmKey1.key", &PAIRS[1].pem);
        workspace.loaded = workspace.load(CONFIGURATION);
        workspace
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
    }

    fn load(&self, text: &str) -> Option<(Config, KeyRing)> {
        let base = self.folder.path().to_path_buf();
        let config = Config::parse("tokenmint.toml", text, base, &Environment::new()).ok()?;
        let ring = KeyRing::load(&config.keysets, now(), None).ok()?;
        Some((config, ring))
    }

    /// Whether the binary ends with 0, asked as `doctor` and as `verify`.
    fn binary(&self, set: &Set) -> [bool; 2] {
        let given = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        let (files, options) = set.files();
        for (name, text) in files {
            let path = given.path().join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
        }
        let (files, _) = set.files();
        let config = self.folder.path().join("tokenmint.toml");
        let mut common: Vec<String> = Vec::new();
        if set.is_configured() {
            fs::write(&config, &set.configuration).expect("a file");
            common.extend(["--config".to_owned(), config.display().to_string()]);
        } else {
            common.extend(["--issuer".to_owned(), ISSUER.to_owned()]);
        }
        let doctor = files.iter().map(|(name, _)| (*name).to_owned());
        let verify = options.iter().flat_map(|(option, name, _)| [(*option).to_owned(), (*name).to_owned()]);
        let run = |command: &str, arguments: Vec<String>, input: Option<&Path>| {
            let stdin = input.map_or_else(Stdio::null, |path| fs::File::open(path).expect("a file").into());
            let mut run = Command::new(env!("CARGO_BIN_EXE_tokenmint"));
            run.arg(command).args(&common).args(arguments).current_dir(given.path()).stdin(stdin);
            run.stdout(Stdio::null())
                .stderr(Stdio::null())
                .env_remove("TOKENMINT_CONFIG")
                .env_remove("RUST_LOG");
            run.status().expect("the binary runs").success()
        };
        let token = given.path().join("token.txt");
        [run("doctor", doctor.collect(), None), run("verify", verify.collect(), Some(&token))]
    }
}

/// Changes one or two octets: others in their place, one more, one less, two swapped, or all behind them gone.
fn changed(octets: &[u8], alphabet: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut changed = octets.to_vec();
    let at = dice.below(changed.len());
    match dice.below(10) {
        0..=4 => changed[at] = *dice.pick(alphabet),
        5 => changed[at] ^= 1 << dice.below(7),
        6 => changed.insert(at, *dice.pick(alphabet)),
        7 => _ = changed.remove(at),
        8 => {
            let other = dice.below(changed.len());
            changed.swap(at, other);
        }
        _ => changed.truncate(at),
    }
    changed
}

fn changed_text(text: &str, alphabet: &[u8], dice: &mut Dice) -> String {
    loop {
        if let Ok(text) = String::from_utf8(changed(text.as_bytes(), alphabet, dice)) {
            return text;
        }
    }
}

const BASE64URL: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const JSON: &[u8] = b"{}[]\",:0123456789abcdefghijklmnopqrstuvwxyzABCDEF \\-_+/=.";
const TOML: &[u8] = b"[]\"'=.#0123456789abcdefghijklmnopqrstuvwxyzABCDEF \n\\-_";

/// Values of every kind that may stand where others should.
fn strange(dice: &mut Dice) -> Value {
    let now = seconds();
    dice.pick(&[
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(now - 3_600),
        json!(now + 7_200),
        json!((now + 3_000) * 1_000),
        json!((now + 3_000).to_string()),
        json!(""),
        json!(" "),
        json!("null"),
        json!("JWT"),
        json!("none"),
        json!("HS256"),
        json!("RS512"),
        json!("PS256"),
        json!(ISSUER),
        json!(format!("{ISSUER}/")),
        json!(ISSUER.to_uppercase()),
        json!("Key2"),
        json!([]),
        json!([ISSUER]),
        json!({}),
    ])
    .clone()
}

/// Takes a member away, renames it, gives it a strange value, or adds one.
fn changed_member(object: &mut Value, names: &[&str], dice: &mut Dice) {
    let name = *dice.pick(names);
    let members = object.as_object_mut().expect("an object");
    match dice.below(6) {
        0 => _ = members.remove(name),
        1 => {
            let value = members.remove(name).unwrap_or_default();
            members.insert(name.to_uppercase(), value);
        }
        _ => _ = members.insert(name.to_owned(), strange(dice)),
    }
}

fn token(dice: &mut Dice) -> String {
    let healthy = PAIRS[0].sign(&header(), &claims());
    let parts: Vec<&str> = healthy.split('.').collect();
    match dice.below(20) {
        // As somebody alters it on its way.
        0..=8 => changed_text(&healthy, BASE64URL, dice),
        9 => {
            let order = dice.pick(&[[1, 0, 2], [0, 2, 1], [2, 1, 0], [0, 0, 2], [0, 1, 1]]);
            order.map(|at| parts[at]).join(".")
        }
        10 => {
            let mut claims = claims();
            claims["sub"] = json!(format!("user-{}", dice.below(1_000) + 2));
            format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
        }
        11 => format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"Key1"}"#), parts[1]),
        // By the public key as a shared secret (RFC 8725, section 2.1).
        12 => intercom(&json!({"alg": "HS256", "typ": "JWT", "kid": KID}), &claims(), &PAIRS[0].public_pem()),
        // As its maker makes it wrong.
        13 => PAIRS[1].sign(&header(), &claims()),
        14..=15 => {
            let mut header = header();
            changed_member(&mut header, &["alg", "typ", "kid", "crit"], dice);
            PAIRS[0].sign(&header, &claims())
        }
        _ => {
            let mut claims = claims();
            changed_member(&mut claims, &["iss", "sub", "exp", "iat", "nbf", "jti"], dice);
            PAIRS[0].sign(&header(), &claims)
        }
    }
}

fn jwk(dice: &mut Dice) -> String {
    const NAMES: [&str; 10] = ["kty", "use", "alg", "kid", "n", "e", "x5c", "x5t", "x5t#S256", "key_ops"];
    let mut jwk = PAIRS[0].jwk();
    let other = PAIRS[1].jwk();
    match dice.below(12) {
        0..=2 => return changed_text(&jwk.to_string(), JSON, dice),
        3..=4 => changed_member(&mut jwk, &NAMES, dice),
        5 => {
            let name = *dice.pick(&["n", "e", "x5c", "x5t", "x5t#S256"]);
            jwk[name] = other[name].clone();
        }
        6 => {
            let entries = [&other["x5c"][0], &jwk["x5c"][0]].map(Clone::clone);
            jwk["x5c"] =
                json!(dice.pick(&[vec![entries[0].clone(), entries[1].clone()], vec![entries[0].clone()]]));
        }
        7 => {
            let octets = changed(&PAIRS[0].certificate, &(0..=255).collect::<Vec<u8>>(), dice);
            jwk["x5c"] = json!([STANDARD.encode(octets)]);
        }
        // Written in another way.
        8 => {
            let name = *dice.pick(&["n", "e"]);
            let octets = URL_SAFE_NO_PAD.decode(jwk[name].as_str().expect("text")).expect("base64url");
            let zero: Vec<u8> = std::iter::once(0).chain(octets.iter().copied()).collect();
            jwk[name] = json!(dice.pick(&[
                STANDARD.encode(&octets),
                URL_SAFE_NO_PAD.encode(zero),
                format!("{}=", jwk[name])
            ]));
        }
        9 => {
            let text = jwk["x5c"][0].as_str().expect("text").to_owned();
            let wrapped = format!("{}\n{}", &text[..64], &text[64..]);
            jwk["x5c"] =
                dice.pick(&[json!(text), json!([wrapped]), json!([pem_of(&PAIRS[0].certificate)])]).clone();
        }
        10 => {
            let name = *dice.pick(&NAMES[..9]);
            let text = jwk.to_string();
            return text.replacen('{', &format!("{{\"{name}\":{},", strange(dice)), 1);
        }
        _ => {
            let name = *dice.pick(&["n", "e", "x5t", "x5t#S256", "kid"]);
            let text = changed_text(jwk[name].as_str().expect("text"), BASE64URL, dice);
            jwk[name] = json!(text);
        }
    }
    jwk.to_string()
}

/// Changes the octets of a PEM block or its base64. Its line breaks stay, as they mean nothing.
fn changed_pem(text: &str, dice: &mut Dice) -> String {
    let block = pem::parse(text).expect("PEM");
    if dice.below(2) == 0 {
        let octets = changed(block.contents(), &(0..=255).collect::<Vec<u8>>(), dice);
        return pem::encode(&pem::Pem::new(block.tag(), octets));
    }
    let mut octets = text.as_bytes().to_vec();
    loop {
        let at = dice.below(octets.len());
        if !octets[at].is_ascii_whitespace() {
            octets[at] = *dice.pick(BASE64);
            return String::from_utf8(octets).expect("ASCII");
        }
    }
}

fn certificate(dice: &mut Dice) -> String {
    match dice.below(40) {
        0 => pem_of(&PAIRS[1].certificate),
        1 => {
            let key = KeyPair::from_pem(&PAIRS[0].pem).expect("a key");
            let (from, until) = *dice.pick(&[(-400, -1), (1, 400), (-1, 5), (-1, 9)]);
            pem_of(&certified(&key, from, until))
        }
        2 => [&PAIRS[1], &PAIRS[0]].map(|pair| pem_of(&pair.certificate)).concat(),
        _ => changed_pem(&pem_of(&PAIRS[0].certificate), dice),
    }
}

fn key(dice: &mut Dice) -> String {
    match dice.below(40) {
        0 => PAIRS[1].pem.clone(),
        1 => PAIRS[0].public_pem(),
        _ => changed_pem(&PAIRS[0].pem, dice),
    }
}

fn intercom_token(dice: &mut Dice) -> String {
    let mut header = json!({"alg": "HS256", "typ": "JWT"});
    let mut claims = json!({"user_id": "42", "exp": seconds() + 3_000, "iat": seconds()});
    match dice.below(10) {
        0..=5 => return changed_text(&intercom(&header, &claims, SECRET), BASE64URL, dice),
        6 => return intercom(&header, &claims, &changed_text(SECRET, BASE64URL, dice)),
        7 => changed_member(&mut header, &["alg", "crit"], dice),
        _ => changed_member(&mut claims, &["user_id", "exp", "iat", "nbf"], dice),
    }
    intercom(&header, &claims, SECRET)
}

fn configuration(dice: &mut Dice) -> String {
    match dice.below(4) {
        0 => {
            let (from, to) = *dice.pick(&[
                ("issuer = \"https://acme.example\"", "issuer = \"https://acme.example/\""),
                ("issuer = \"https://acme.example\"", "issuer = \"acme.example\""),
                ("issuer = \"https://acme.example\"", "issuer = \"https://ACME.example\""),
                ("algorithm = \"RS256\"", "algorithm = \"RS512\""),
                ("keyset = \"web\"", "keyset = \"crm\""),
                ("directory = \"keys/identity\"", "directory = \"keys/oauth\""),
                ("[identity.web]", "[identity.shop]"),
            ]);
            CONFIGURATION.replacen(from, to, 1)
        }
        _ => changed_text(CONFIGURATION, TOML, dice),
    }
}

fn mutated(kind: Kind, dice: &mut Dice) -> Set {
    let mut set = Set::healthy(kind);
    match kind {
        Kind::Token => set.token = token(dice),
        Kind::Jwk => set.jwk = jwk(dice),
        Kind::Certificate => set.certificate = certificate(dice),
        Kind::Key => set.key = key(dice),
        Kind::Intercom => set.token = intercom_token(dice),
        Kind::Configuration => set.configuration = configuration(dice),
    }
    set
}

/// Why the judges refuse each set.
fn judged(sets: &[Set]) -> Vec<Option<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = std::env::var_os("TOKENMINT_TOOLS").map_or_else(|| root.join("target/tools"), PathBuf::from);
    let python = tools.join("venv/bin/python");
    assert!(python.exists(), "no {}: run tests/interop/setup first", python.display());
    let mut judge = Command::new(python)
        .arg(root.join("tests/mutations/judge.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut stdin = judge.stdin.take().expect("piped");
    let lines: Vec<String> = sets.iter().map(|set| set.for_judges().to_string()).collect();
    let writer =
        thread::spawn(move || lines.iter().for_each(|line| writeln!(stdin, "{line}").expect("it reads")));
    let output = judge.wait_with_output().expect("it ends");
    writer.join().expect("all is written");
    assert!(output.status.success(), "the judges broke");
    let text = String::from_utf8(output.stdout).expect("text");
    let verdicts: Vec<_> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(verdicts.len(), sets.len());
    verdicts
}

/// Does `act` to all of them, on two cores.
fn on_two_cores<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (left, right) = items.split_at(items.len() / 2);
    thread::scope(|scope| {
        let other = scope.spawn(|| right.iter().map(&act).collect::<Vec<_>>());
        let mut done: Vec<R> = left.iter().map(&act).collect();
        done.extend(other.join().expect("no panic"));
        done
    })
}

#[test]
fn what_a_strict_verifier_refuses_is_never_called_well() {
    let hundreds = std::env::var_os("MUTATIONS").and_then(|text| text.to_str()?.parse().ok());
    let hundreds: usize = hundreds.unwrap_or(HUNDREDS);
    let kinds: Vec<Kind> =
        SHARES.iter().flat_map(|(kind, share)| std::iter::repeat_n(*kind, share * hundreds)).collect();
    let seeds: Vec<(u64, Kind)> = (0..).zip(kinds).collect();
    let workspace = Workspace::new();

    let healthy: Vec<Set> = SHARES.iter().map(|(kind, _)| Set::healthy(*kind)).collect();
    for (set, why) in healthy.iter().zip(judged(&healthy)) {
        assert_eq!(why, None, "{:?} is healthy", set.kind);
        assert_eq!(set.ends_well(&workspace), [true, true], "{:?} is healthy", set.kind);
    }

    let sets = on_two_cores(&seeds, |(seed, kind)| mutated(*kind, &mut Dice(*seed)));
    let (verdicts, ends) = thread::scope(|scope| {
        let judges = scope.spawn(|| judged(&sets));
        let ends: Vec<[bool; 2]> = sets.iter().map(|set| set.ends_well(&workspace)).collect();
        (judges.join().expect("no panic"), ends)
    });

    let mut wrong = Vec::new();
    for (at, (seed, kind)) in seeds.iter().enumerate() {
        let Some(why) = &verdicts[at] else { continue };
        let said = ["doctor", "verify"].into_iter().zip(ends[at]).filter(|(_, well)| *well);
        let changed = sets[at].changed();
        wrong.extend(said.map(|(who, _)| format!("{seed} {kind:?}: {who} says well of: {why}\n{changed}")));
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        seeds.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    for (kind, _) in SHARES {
        let of_kind: Vec<usize> = (0..seeds.len()).filter(|at| seeds[*at].1 == kind).collect();
        let refused = of_kind.iter().filter(|at| verdicts[**at].is_some()).count();
        let well = of_kind.iter().filter(|at| ends[**at][0]).count();
        println!(
            "{kind:?}: {} mutations, {refused} refused by the judges, {well} well for the doctor",
            of_kind.len()
        );
        assert!(refused * 3 > of_kind.len(), "{kind:?}: the judges refuse too little to show anything");
    }

    let shown: Vec<usize> = (0..sets.len()).step_by(100).collect();
    for at in shown {
        let (seed, kind) = seeds[at];
        assert_eq!(workspace.binary(&sets[at]), ends[at], "mutation {seed} of {kind:?}, shown to the binary");
    }
}
