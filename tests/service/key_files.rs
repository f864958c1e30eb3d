//! Key files: which are refused, with which name, and which are accepted. The tests generate them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use num_bigint_dig::prime::next_prime;
use rsa::BigUint;
use rsa::pkcs1::{
    DecodeRsaPrivateKey as _, EncodeRsaPrivateKey as _, EncodeRsaPublicKey as _, RsaPrivateKey, UintRef,
};
use rsa::pkcs8::der::Encode as _;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::traits::PublicKeyParts as _;

use crate::support::{KEYS, Workspace, user_1, verified};

/// The numbers of a key. A case can change each of them.
#[derive(Clone)]
struct Numbers {
    n: BigUint,
    e: BigUint,
    d: BigUint,
    p: BigUint,
    q: BigUint,
    dp: BigUint,
    dq: BigUint,
    qinv: BigUint,
}

impl Numbers {
    fn of(pem: &str) -> Self {
        let key = rsa::RsaPrivateKey::from_pkcs8_pem(pem).expect("a good key");
        let der = key.to_pkcs1_der().expect("DER");
        let key = RsaPrivateKey::try_from(der.as_bytes()).expect("PKCS#1");
        let number = |bytes: UintRef<'_>| BigUint::from_bytes_be(bytes.as_bytes());
        Self {
            n: number(key.modulus),
            e: number(key.public_exponent),
            d: number(key.private_exponent),
            p: number(key.prime1),
            q: number(key.prime2),
            dp: number(key.exponent1),
            dq: number(key.exponent2),
            qinv: number(key.coefficient),
        }
    }

    /// A key that is valid except for its primes or its exponent.
    fn from_primes(p: BigUint, q: BigUint, e: u32) -> Self {
        use num_bigint_dig::ModInverse as _;
        let one = BigUint::from(1_u32);
        let (e, n) = (BigUint::from(e), &p * &q);
        let phi = (&p - &one) * (&q - &one);
        let d = e.clone().mod_inverse(&phi).and_then(|d| d.to_biguint()).unwrap_or_else(|| one.clone());
        let qinv = q.clone().mod_inverse(&p).and_then(|i| i.to_biguint()).unwrap_or_else(|| one.clone());
        let (dp, dq) = (&d % (&p - &one), &d % (&q - &one));
        Self { n, e, d, p, q, dp, dq, qinv }
    }

    fn pem(&self) -> String {
        let all = [&self.n, &self.e, &self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qinv];
        let bytes = all.map(BigUint::to_bytes_be);
        let [n, e, d, p, q, dp, dq, qinv] = bytes.each_ref().map(|b| UintRef::new(b).expect("an integer"));
        let key = RsaPrivateKey {
            modulus: n,
            public_exponent: e,
            private_exponent: d,
            prime1: p,
            prime2: q,
            exponent1: dp,
            exponent2: dq,
            coefficient: qinv,
            other_prime_infos: None,
        };
        pem::encode(&pem::Pem::new("RSA PRIVATE KEY", key.to_der().expect("DER")))
    }
}

fn bent(bend: impl FnOnce(&mut Numbers)) -> String {
    let mut numbers = Numbers::of(&KEYS.web);
    bend(&mut numbers);
    numbers.pem()
}

pub fn block(label: &str, contents: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, contents))
}

/// openssl makes the forms that tokenmint can't make.
pub fn openssl(arguments: &str) -> String {
    let made = Command::new("openssl").args(arguments.split(' ')).output().expect("openssl runs");
    assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("PEM")
}

fn prime(bits: usize) -> BigUint {
    let mut bytes = vec![0_u8; bits / 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    bytes[0] |= 0xc0;
    next_prime(&BigUint::from_bytes_be(&bytes))
}

/// A number with the structure of ROCA, k·M + 65537^a mod M, without a small factor.
fn roca_number() -> BigUint {
    let is_prime = |n: &u32| (2..*n).all(|d| !n.is_multiple_of(d));
    let primes: Vec<u32> = (2..752).filter(is_prime).collect();
    let product = primes.iter().filter(|p| **p <= 167).fold(BigUint::from(1_u32), |m, p| m * *p);
    let power = BigUint::from(65_537_u32).modpow(&BigUint::from(77_u32), &product);
    let mut candidate = (prime(1024) / &product) * &product + power;
    while primes.iter().any(|p| &candidate % *p == BigUint::from(0_u32)) {
        candidate += &product;
    }
    candidate
}

fn bad_keys() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = &KEYS.web;
    let key = rsa::RsaPrivateKey::from_pkcs8_pem(good).expect("a good key");
    let public = key.to_public_key();
    let lines: Vec<&str> = good.lines().collect();
    let short = |bits: usize| {
        let p = prime(bits / 2);
        Numbers::from_primes(p, prime(bits / 2), 65_537).pem()
    };
    let close = prime(1024);
    let odd = |bits: usize| (BigUint::from(1_u32) << (bits - 1)) + 1_u32;
    let text = |name, pem: String, why| (name, pem.into_bytes(), why);
    vec![
        text("empty", String::new(), "it is empty"),
        text("white space", " \n\n".to_owned(), "it is empty"),
        text("prose", "my key".to_owned(), "isn't PEM text"),
        ("DER", key.to_pkcs1_der().expect("DER").as_bytes().to_vec(), "isn't PEM text"),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect(), "isn't PEM text"),
        text("too large", format!("{good}{}", " ".repeat(70_000)), "larger than 64 KiB"),
        text(
            "certificate",
            openssl("req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout /dev/null"),
            "it is a certificate, not a private key",
        ),
        text("request", block("CERTIFICATE REQUEST", b"x"), "certificate request"),
        text("public key", public.to_public_key_pem(LineEnding::LF).expect("PEM"), "it is a public key"),
        text("RSA public key", public.to_pkcs1_pem(LineEnding::LF).expect("PEM"), "it is a public key"),
        text("EC", openssl("ecparam -name prime256v1 -genkey -noout"), "an elliptic-curve (EC) key"),
        text("EC with its curve", openssl("ecparam -name prime256v1 -genkey"), "an elliptic-curve (EC) key"),
        text(
            "EC in PKCS#8",
            openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
            "an elliptic-curve (EC) key",
        ),
        text("Ed25519", openssl("genpkey -algorithm ED25519"), "an Ed25519 key"),
        text("X25519", openssl("genpkey -algorithm X25519"), "some other kind of key"),
        text(
            "RSA-PSS",
            openssl("genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048"),
            "an RSA-PSS key",
        ),
        text("DSA", block("DSA PRIVATE KEY", b"x"), "a DSA key"),
        text("OpenSSH", block("OPENSSH PRIVATE KEY", b"x"), "ssh-keygen -p -m PKCS8"),
        text("PGP", block("PGP PRIVATE KEY BLOCK", b"x"), "of another kind"),
        text("two keys", format!("{good}{}", KEYS.crm), "2 PEM blocks"),
        text("key and certificate", format!("{good}{}", block("CERTIFICATE", b"x")), "2 PEM blocks"),
        text("no end", lines[..lines.len() - 1].join("\n"), "cut short"),
        text("a line less", [&lines[..9], &lines[10..]].concat().join("\n"), "broken"),
        text("the end missing", [&lines[..9], &lines[lines.len() - 1..]].concat().join("\n"), "broken"),
        text("a changed character", good.replacen('M', "*", 1), "broken"),
        text("nothing in it", block("PRIVATE KEY", b""), "broken"),
        text(
            "encrypted, no passphrase",
            openssl("genpkey -algorithm RSA -aes256 -pass pass:secret"),
            "passphrase_file",
        ),
        text(
            "old encryption",
            openssl("genrsa -traditional -aes128 -passout pass:secret 2048"),
            "openssl pkcs8 -topk8",
        ),
        text("three primes", openssl("genrsa -primes 3 2048"), "more than two primes"),
        text("512 bits", short(512), "512 bits; at least 2048"),
        text("1024 bits", short(1024), "1024 bits; at least 2048"),
        text("2047 bits", bent(|k| k.n = odd(2047)), "2047 bits; at least 2048"),
        text("8193 bits", bent(|k| k.n = odd(8193)), "8193 bits; at most 8192"),
        text("16384 bits", bent(|k| k.n = odd(16_384)), "16384 bits; at most 8192"),
        text("e = 3", bent(|k| k.e = BigUint::from(3_u32)), "exponent isn't 65537"),
        text("e = 1", bent(|k| k.e = BigUint::from(1_u32)), "exponent isn't 65537"),
        text("e even", bent(|k| k.e = BigUint::from(65_536_u32)), "exponent isn't 65537"),
        text("e large", bent(|k| k.e = (BigUint::from(1_u32) << 33) + 1_u32), "exponent isn't 65537"),
        text("even", bent(|k| k.n += 1_u32), "modulus is even"),
        text("a factor of 3", bent(|k| k.n = odd(2048) * 3_u32), "divisible by 3"),
        text(
            "a factor of 751",
            Numbers::from_primes(prime(1024), prime(1040) * 751_u32, 65_537).pem(),
            "divisible by 751",
        ),
        text(
            "close primes",
            Numbers::from_primes(close.clone(), next_prime(&(&close + 2_u32)), 65_537).pem(),
            "Fermat",
        ),
        text("one prime twice", Numbers::from_primes(close.clone(), close, 65_537).pem(), "Fermat"),
        text("ROCA", bent(|k| k.n = roca_number() * roca_number()), "ROCA"),
        text("another modulus", bent(|k| k.n = Numbers::of(&KEYS.crm).n), "don't belong together"),
        text("another d", bent(|k| k.d += 2_u32), "don't belong together"),
        text("a bit in dP", bent(|k| k.dp += 1_u32), "don't belong together"),
        text("a bit in dQ", bent(|k| k.dq += 1_u32), "don't belong together"),
        text("a bit in qInv", bent(|k| k.qinv += 1_u32), "don't belong together"),
        text("other CRT exponents", bent(|k| std::mem::swap(&mut k.dp, &mut k.dq)), "don't belong together"),
        text("primes changed about", bent(|k| std::mem::swap(&mut k.p, &mut k.q)), "don't belong together"),
    ]
}

#[test]
fn each_bad_key_is_refused_by_name_and_never_shown() {
    let workspace = Workspace::new();
    let corpus = bad_keys();
    assert!(corpus.len() >= 25);
    for (name, content, why) in corpus {
        fs::write(workspace.path("keys/web/WebAppKey1.key"), &content).expect("written");
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{name}: {}", ran.stderr);
        let line = ran.stderr.lines().find(|line| line.contains("WebAppKey1.key")).unwrap_or_default();
        assert!(line.starts_with("keysets.web (") && line.contains(why), "{name}: {}", ran.stderr);
        // Four lines of the PEM body, none of which may be printed.
        let body = String::from_utf8_lossy(&content);
        let leaked = body.lines().filter(|line| line.len() > 40 && !line.contains("-----"));
        assert!(leaked.into_iter().all(|line| !ran.stderr.contains(line)), "{name}: {}", ran.stderr);
    }
}

/// The port is in use. A service that opened it before it read its keys would report that, with exit code 1.
#[test]
fn the_service_does_not_open_a_port_with_a_bad_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    for bad in [&["crm/CrmKey1.key"][..], &["crm/CrmKey1.key", "web/WebAppKey1.key", "web512/Web512.key"]] {
        let workspace = Workspace::new();
        workspace.configure(&crate::support::configuration().replace("127.0.0.1:0", &address));
        assert_eq!(workspace.run(&["serve"]).code(), 1, "with good keys it asks for the port");
        for key in bad {
            fs::write(workspace.path(&format!("keys/{key}")), "").expect("written");
        }
        let ran = workspace.run(&["serve"]);
        assert_eq!(ran.code(), 64, "{}", ran.stderr);
        for key in bad {
            assert!(ran.stderr.contains(key), "{key}: {}", ran.stderr);
        }
        assert!(!(ran.stdout + &ran.stderr).contains(&address));
    }
}

#[tokio::test]
async fn every_usual_form_of_a_good_key_mints() {
    let pkcs1 = rsa::RsaPrivateKey::from_pkcs8_pem(&KEYS.web)
        .expect("good")
        .to_pkcs1_pem(LineEnding::LF)
        .expect("PEM");
    assert!(rsa::RsaPrivateKey::from_pkcs1_pem(&pkcs1).expect("good").size() == 256);
    let forms = [
        KEYS.web.clone(),
        pkcs1.to_string(),
        KEYS.web.replace('\n', "\r\n"),
        format!("Bag Attributes\n    friendlyName: acme\n{}\n\n", KEYS.web),
        openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072"),
        openssl("genrsa 4096"),
    ];
    let workspace = Workspace::new();
    for form in forms {
        workspace.write_key("keys/web/WebAppKey1.key", &form);
        let service = workspace.serve().await;
        let body = service.post("/identity-token", &user_1()).await.ok();
        verified(body["token"].as_str().expect("a token"), &service.jwks("/keysets/web/jwks.json").await);
    }
}

#[tokio::test]
async fn an_encrypted_key_opens_with_a_passphrase_from_a_file_or_the_environment() {
    for encryption in ["-aes256", "-aes-128-cbc"] {
        let mut workspace = Workspace::new();
        workspace.write_key(
            "keys/web/WebAppKey1.key",
            &openssl(&format!("genpkey -algorithm RSA {encryption} -pass pass:open-sesame")),
        );
        workspace.write("passphrase", "open-sesame\n");
        let configuration = crate::support::configuration();
        let with_file = "directory = \"keys/web\"\npassphrase_file = \"passphrase\"\n";
        workspace.configure(&configuration.replacen("directory = \"keys/web\"\n", with_file, 1));
        let service = workspace.serve().await;
        service.post("/identity-token", &user_1()).await.ok();

        workspace.configure(&configuration);
        let ran = workspace.run(&["check"]);
        assert!(ran.code() == 64 && ran.stderr.contains("passphrase_file"), "{}", ran.stderr);
        workspace.set("TOKENMINT_KEYSETS__WEB__PASSPHRASE", "open-sesame");
        let service = workspace.serve().await;
        let body = service.post("/identity-token", &user_1()).await.ok();
        verified(body["token"].as_str().expect("a token"), &service.jwks("/keysets/web/jwks.json").await);

        workspace.set("TOKENMINT_KEYSETS__WEB__PASSPHRASE", "wrong-passphrase");
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{encryption}");
        assert!(ran.stderr.contains("the passphrase doesn't open it"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("wrong-passphrase"), "{}", ran.stderr);
    }
}

#[test]
fn a_key_that_others_can_read_is_refused_as_openssh_does() {
    let workspace = Workspace::new();
    let key = workspace.path("keys/web/WebAppKey1.key");
    let check = |mode: u32| {
        fs::set_permissions(&key, Permissions::from_mode(mode)).expect("ours");
        workspace.run(&["check"])
    };
    for mode in [0o644, 0o604, 0o660, 0o666, 0o620, 0o602, 0o601, 0o777] {
        let ran = check(mode);
        assert_eq!(ran.code(), 64, "{mode:o}");
        assert!(ran.stderr.contains(&format!("mode {mode:04o}")), "{mode:o}: {}", ran.stderr);
        assert!(ran.stderr.contains("chmod 600"), "{mode:o}: {}", ran.stderr);
    }
    for mode in [0o600, 0o400] {
        check(mode).ok();
    }
}

/// Like Kubernetes mounts secrets: owned by root, mode 0440, with the service's group. Making such a file needs
/// root.
#[test]
#[ignore = "needs root: make system"]
fn a_key_of_root_that_only_the_service_s_group_can_read_is_accepted() {
    let workspace = Workspace::new();
    fs::set_permissions(workspace.path(""), Permissions::from_mode(0o755)).expect("ours");
    let key = workspace.path("keys/web/WebAppKey1.key");
    let open =
        |path: &str| fs::set_permissions(workspace.path(path), Permissions::from_mode(0o644)).expect("ours");
    for other in ["keys/web512/Web512.key", "keys/crm/CrmKey1.key"] {
        std::os::unix::fs::chown(workspace.path(other), Some(65_532), None).expect("root");
    }
    open("tokenmint.toml");
    open("intercom.secret");
    let binary = workspace.path("tokenmint");
    fs::copy(env!("CARGO_BIN_EXE_tokenmint"), &binary).expect("copied");
    let check = |owner: u32, group: u32, mode: u32| {
        std::os::unix::fs::chown(&key, Some(owner), Some(group)).expect("root");
        fs::set_permissions(&key, Permissions::from_mode(mode)).expect("root");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65532", "--regid=65532", "--clear-groups"]).arg(&binary);
        let output = command.arg("check").current_dir(workspace.path("")).output().expect("setpriv runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check(0, 65_532, 0o440).0, Some(0), "{}", check(0, 65_532, 0o440).1);
    assert_eq!(check(65_532, 65_532, 0o400).0, Some(0));
    for (owner, group, mode) in
        [(0, 65_532, 0o460), (0, 65_532, 0o444), (65_532, 65_532, 0o440), (1000, 65_532, 0o440)]
    {
        let (code, stderr) = check(owner, group, mode);
        assert_eq!(code, Some(64), "{owner} {group} {mode:o}: {stderr}");
    }
}

/// The key's own certificate, followed by bytes that a verifier's parser may refuse.
fn with_more_behind(workspace: &Workspace) -> String {
    let key = workspace.path("keys/web/WebAppKey1.key");
    let made = openssl(&format!("req -x509 -new -subj /CN=x -key {}", key.display()));
    let mut der = pem::parse(made).expect("PEM").into_contents();
    der.extend(b"\x05\0x");
    block("CERTIFICATE", &der)
}

#[test]
fn a_certificate_that_is_not_the_key_s_is_refused() {
    let workspace = Workspace::new();
    let certificate = "keys/web/WebAppKey1.crt";
    for (content, why) in [
        (
            openssl("req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout /dev/null"),
            "certificate of another key",
        ),
        (KEYS.web.clone(), "holds a private key"),
        ("not a certificate".to_owned(), "holds no PEM certificate"),
        (String::new(), "holds no PEM certificate"),
        (block("CERTIFICATE", b"x"), "broken certificate"),
        (block("PUBLIC KEY", b"x"), "holds a PUBLIC KEY"),
        (with_more_behind(&workspace), "holds 3 bytes behind its certificate"),
    ] {
        workspace.write(certificate, &content);
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{why}");
        assert!(ran.stderr.contains("WebAppKey1.crt") && ran.stderr.contains(why), "{why}: {}", ran.stderr);
    }
}

#[test]
fn an_inconsistent_key_directory_is_explained() {
    type Spoil<'a> = &'a dyn Fn(&Workspace);
    let cases: [(&str, Spoil<'_>, &str); 13] = [
        ("no directory", &|w| fs::remove_dir_all(w.path("keys/web")).expect("there"), "can't be listed"),
        (
            "no key",
            &|w| fs::remove_file(w.path("keys/web/WebAppKey1.key")).expect("there"),
            "tokenmint keys new KID --keyset web",
        ),
        (
            "two keys, no schedule",
            &|w| w.write_key("keys/web/Other.key", &KEYS.crm),
            "holds 2 keys (Other, WebAppKey1) and no keyset.toml",
        ),
        ("a bad name", &|w| w.write_key("keys/web/My Key.key", &KEYS.crm), "a key id is 1 to 128"),
        (
            "a long name",
            &|w| w.write_key(&format!("keys/web/{}.key", "k".repeat(129)), &KEYS.crm),
            "a key id is 1 to 128",
        ),
        (
            "a kid twice",
            &|w| {
                let entry = "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n";
                w.write("keys/web/keyset.toml", &format!("{entry}{}", entry.replace("-01-01T", "-02-01T")));
            },
            "`WebAppKey1` is listed twice",
        ),
        (
            "the same kid elsewhere",
            &|w| {
                fs::remove_file(w.path("keys/web/WebAppKey1.key")).expect("there");
                w.write_key("keys/web/CrmKey1.key", &KEYS.web);
            },
            "`CrmKey1` is also in keyset",
        ),
        (
            "a schedule of others",
            &|w| w.write("keys/web/keyset.toml", "[[key]]\nkid = \"Lost\"\nsign_from = 2026-01-01T00:00:00Z"),
            "there is no Lost.key",
        ),
        ("an empty schedule", &|w| w.write("keys/web/keyset.toml", ""), "lists no key"),
        (
            "a date without zone",
            &|w| {
                w.write(
                    "keys/web/keyset.toml",
                    "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00",
                );
            },
            "keysets.web.key.sign_from",
        ),
        ("no date", &|w| w.write("keys/web/keyset.toml", "[[key]]\nkid = \"WebAppKey1\""), "sign_from"),
        (
            "a word too many",
            &|w| {
                w.write(
                    "keys/web/keyset.toml",
                    "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\nsign_until = 1",
                );
            },
            "unknown key",
        ),
        (
            "too soon",
            &|w| {
                w.write("keys/web/keyset.toml", "[[key]]\nkid = \"WebAppKey1\"\nadded = 2026-01-01T00:00:00Z\nsign_from = 2026-01-01T23:59:59Z");
            },
            "2026-01-02T00:00:00Z",
        ),
    ];
    for (name, spoil, why) in cases {
        let workspace = Workspace::new();
        spoil(&workspace);
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{name}");
        assert!(ran.stderr.contains(why), "{name}: {}", ran.stderr);
    }
}

#[test]
fn one_key_for_both_identity_tokens_and_assertions_is_a_warning() {
    let workspace = Workspace::new();
    workspace.write_key("keys/crm/CrmKey1.key", &KEYS.web);
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 0);
    assert!(ran.stderr.contains("one leak exposes both"), "{}", ran.stderr);

    let workspace = Workspace::new();
    workspace.configure(&crate::support::configuration().replace("keyset = \"crm\"", "keyset = \"web\""));
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("one leaked key would compromise both"), "{}", ran.stderr);
}
