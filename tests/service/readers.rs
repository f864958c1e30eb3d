//! `check`, `serve`, `doctor` and `verify` accept the same files, and refuse others with the same message. Each row
//! is an input, generated here.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::pkcs1::{EncodeRsaPrivateKey as _, EncodeRsaPublicKey as _};
use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};

use crate::doctor::{Given, claims, raw_token, token};
use crate::key_files::{block, openssl};
use crate::sandbox::PAIRS;
use crate::support::{KEYS, Workspace, configuration, user_1, verified};

/// The expected result of all four commands.
#[derive(Clone, Copy)]
enum Answer {
    Taken,
    /// Accepted with a warning that contains this text.
    Odd(&'static str),
    /// Refused with a message that contains this text.
    Refused(&'static str),
}
use Answer::{Odd, Refused, Taken};

type Row = (&'static str, Vec<u8>, Answer);

fn text(name: &'static str, text: impl Into<String>, answer: Answer) -> Row {
    (name, text.into().into_bytes(), answer)
}

/// The lines of the key's PEM, and its body without line breaks.
fn lines() -> (Vec<&'static str>, String) {
    let lines: Vec<&str> = KEYS.web.trim().lines().collect();
    let body = lines[1..lines.len() - 1].concat();
    (lines, body)
}

fn body_in(columns: usize) -> String {
    let (lines, body) = lines();
    let body: Vec<&str> =
        body.as_bytes().chunks(columns).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("{}\n{}\n{}\n", lines[0], body.join("\n"), lines[lines.len() - 1])
}

fn each_line(text: &str, change: impl Fn(&str) -> String) -> String {
    text.lines().map(change).collect()
}

fn key() -> rsa::RsaPrivateKey {
    rsa::RsaPrivateKey::from_pkcs8_pem(&KEYS.web).expect("a good key")
}

fn pkcs1() -> String {
    key().to_pkcs1_pem(LineEnding::LF).expect("PEM").to_string()
}

fn pkcs8_der() -> Vec<u8> {
    pem::parse(KEYS.web.as_str()).expect("PEM").into_contents()
}

/// Files that openssl makes from the key.
fn converted(arguments: &str) -> Vec<u8> {
    let workspace = Workspace::bare();
    let path = workspace.path("keys/web/WebAppKey1.key");
    let arguments = arguments.replace("KEY", path.to_str().expect("text"));
    let made = Command::new("openssl").args(arguments.split(' ')).output().expect("openssl runs");
    assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

fn converted_text(arguments: &str) -> String {
    String::from_utf8(converted(arguments)).expect("PEM")
}

fn certificate() -> String {
    converted_text("req -x509 -new -subj /CN=x -days 400 -key KEY")
}

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

/// Forms of a private key, in a file and in a variable.
fn shapes() -> Vec<Row> {
    let key = &KEYS.web;
    let unbroken = key.trim().replace('\n', "");
    let (encoded, twice) = (STANDARD.encode(key), STANDARD.encode(STANDARD.encode(key)));
    vec![
        text("as it should be", key, Taken),
        text("PKCS#1", pkcs1(), Taken),
        text("line ends of Windows", key.replace('\n', "\r\n"), Taken),
        text("no line end at the end", key.trim(), Taken),
        text("body in one line", body_in(10_000), Odd("its body in one line")),
        text("76 columns", body_in(76), Odd("lines of another length than 64")),
        text("indented", each_line(key, |line| format!("    {line}\n")), Odd("indented lines")),
        text(
            "blanks at line ends",
            each_line(key, |line| format!("{line}  \n")),
            Odd("blanks at the ends of lines"),
        ),
        text("an empty line behind BEGIN", key.replacen('\n', "\n\n", 1), Odd("empty lines in its body")),
        text("carriage returns alone", key.replace('\n', "\r"), Odd("a carriage return alone")),
        text(
            "text before it",
            format!("Bag Attributes\n    friendlyName: acme\n{key}"),
            Odd("other text around"),
        ),
        text("text behind it", format!("{key}\nSent from my phone\n"), Odd("other text around")),
        text("a name before it", format!("export KEY=\"{key}\""), Odd("other text around")),
        text("a byte order mark", format!("\u{feff}{key}"), Odd("a byte order mark")),
        text(
            "a byte order mark and line ends of Windows",
            format!("\u{feff}{}", key.replace('\n', "\r\n")),
            Odd("a byte order mark"),
        ),
        text("PKCS#1 under PKCS#8's label", pkcs1().replace("RSA PRIVATE", "PRIVATE"), Odd("another label")),
        text("PKCS#8 under PKCS#1's label", key.replace("PRIVATE", "RSA PRIVATE"), Odd("another label")),
        text("no line breaks", unbroken, Odd("no line breaks")),
        text("blanks for line breaks", key.trim().replace('\n', " "), Odd("blanks in place of line breaks")),
        text("in quotes", format!("\"{}\"", key.trim()), Odd("quotes around it")),
        text("in single quotes", format!("'{key}'\n"), Odd("quotes around it")),
        text(
            "`\\r\\n` written out, in quotes",
            format!("\"{}\"", key.replace('\n', "\\r\\n")),
            Odd("quotes around it"),
        ),
        text("base64 twice", twice, Odd("base64 twice")),
        text("base64 in quotes", format!("'{encoded}'"), Odd("quotes around it")),
        text("in JSON", json!({"private_key": key}).to_string(), Odd("other text around")),
    ]
}

/// The forms that the documentation recommends for a variable.
fn usual_in_a_variable() -> Vec<Row> {
    let key = &KEYS.web;
    let encoded = STANDARD.encode(key);
    vec![
        text("`\\n` written out", key.replace('\n', "\\n"), Odd("line breaks written out")),
        text("`\\r\\n` written out", key.replace('\n', "\\r\\n"), Odd("line breaks written out")),
        text(
            "`\\n` escaped twice",
            key.replace('\n', "\\\\n").replace('/', "\\/"),
            Odd("line breaks written out"),
        ),
        text("base64", encoded.clone(), Odd("base64 around the whole text")),
        text(
            "base64 in lines",
            encoded
                .as_bytes()
                .chunks(76)
                .flat_map(|line| [line, b"\n"].concat())
                .map(char::from)
                .collect::<String>(),
            Odd("base64 around"),
        ),
    ]
}

/// Inputs in place of a private key.
fn no_keys() -> Vec<Row> {
    let workspace = Workspace::new();
    let jwk = |arguments: &[&str]| workspace.run(arguments).ok();
    let keystore = "pkcs12 -export -nocerts -inkey KEY -passout pass:changeit";
    let encrypted = |how: &str| converted_text(&format!("pkcs8 -topk8 -passout pass:secret -in KEY {how}"));
    let public = key().to_public_key();
    vec![
        (
            "UTF-16, of Windows",
            [b"\xff\xfe".to_vec(), utf16(&KEYS.web, u16::to_le_bytes)].concat(),
            Refused("`iconv -f UTF-16 -t UTF-8"),
        ),
        (
            "UTF-16, the other way round",
            [b"\xfe\xff".to_vec(), utf16(&KEYS.web, u16::to_be_bytes)].concat(),
            Refused("`iconv -f UTF-16 -t UTF-8"),
        ),
        (
            "UTF-16 without its mark",
            utf16(&KEYS.web, u16::to_le_bytes),
            Refused("`iconv -f UTF-16LE -t UTF-8"),
        ),
        (
            "a Java keystore",
            b"\xfe\xed\xfe\xed\0\0\0\x02\0\0\0\x01\0\0\0\x01\0\x05mykey".to_vec(),
            Refused("keytool -importkeystore"),
        ),
        (
            "a JCE keystore",
            b"\xce\xce\xce\xce\0\0\0\x02\0\0\0\x01".to_vec(),
            Refused("keytool -importkeystore"),
        ),
        ("PKCS#12", converted(keystore), Refused("openssl pkcs12 -in FILE -nocerts -nodes")),
        ("PKCS#8 in DER", pkcs8_der(), Refused("`openssl pkey -inform DER -in FILE -out KID.key`")),
        (
            "PKCS#1 in DER",
            key().to_pkcs1_der().expect("DER").as_bytes().to_vec(),
            Refused("`openssl pkey -inform DER"),
        ),
        (
            "an encrypted key in DER",
            converted("pkcs8 -topk8 -outform DER -passout pass:secret -in KEY"),
            Refused("`openssl pkcs8 -topk8 -inform DER"),
        ),
        (
            "a certificate in DER",
            converted("req -x509 -new -subj /CN=x -days 400 -key KEY -outform DER"),
            Refused("`openssl x509 -inform DER -in FILE -out KID.crt`"),
        ),
        (
            "a public key in DER",
            public.to_public_key_der().expect("DER").into_vec(),
            Refused("a public key in DER form"),
        ),
        (
            "a public key of PKCS#1 in DER",
            public.to_pkcs1_der().expect("DER").into_vec(),
            Refused("a public key in DER form"),
        ),
        ("other bytes", b"\x00\x01\xfe\xff\x80".to_vec(), Refused("binary data of an unknown kind")),
        text(
            "a public SSH key",
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7 me@host\n",
            Refused("it is a public SSH key"),
        ),
        text(
            "a private SSH key",
            block("OPENSSH PRIVATE KEY", b"x"),
            Refused("`ssh-keygen -p -m PKCS8 -f KEY`"),
        ),
        text(
            "a key of PuTTY",
            "PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\n",
            Refused("`puttygen FILE -O private-openssh"),
        ),
        text(
            "a bare key",
            STANDARD.encode(pkcs8_der()),
            Refused("`base64 -d FILE | openssl pkey -inform DER"),
        ),
        text(
            "a bare certificate",
            STANDARD.encode(pem::parse(certificate()).expect("PEM").contents()),
            Refused("`base64 -d FILE | openssl x509 -inform DER"),
        ),
        text("a certificate", certificate(), Refused("it is a certificate, not a private key")),
        text("a chain", certificate().repeat(3), Refused("it is a chain of 3 certificates")),
        text(
            "a certificate under the label of a key",
            certificate().replace("CERTIFICATE", "PRIVATE KEY"),
            Refused("it is a certificate, not a private key"),
        ),
        text("key and certificate", KEYS.web.clone() + &certificate(), Refused("2 PEM blocks")),
        text("a JWK Set", jwk(&["jwks"]), Refused("it is a JWK Set")),
        text("a JWK", jwk(&["jwk", "WebAppKey1"]), Refused("it is a JWK,")),
        text("a JWT", jwk(&["mint", "identity.web", "--sub", "user-1"]), Refused("it is a JWT")),
        text("tokenmint.toml", configuration(), Refused("name it with --config")),
        text(
            "keyset.toml",
            "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n",
            Refused("it is a keyset.toml"),
        ),
        text("nothing", "", Refused("it is empty")),
        text("prose", "my key", Refused("isn't PEM text")),
        text(
            "a key that is cut short",
            KEYS.web.split("-----END").next().expect("a beginning"),
            Refused("cut short"),
        ),
        text(
            "a key whose END is cut short",
            &KEYS.web[..KEYS.web.trim_end().len() - 1],
            Refused("cut short"),
        ),
        text(
            "a key with another end",
            KEYS.web.replace("END PRIVATE", "END RSA PRIVATE"),
            Refused("its PEM text is broken"),
        ),
        text(
            "a key and much behind it",
            format!("{}{}", KEYS.web, " ".repeat(70_000)),
            Refused("larger than 64 KiB"),
        ),
        text(
            "an elliptic key under the label of PKCS#8",
            openssl("ecparam -name prime256v1 -genkey -noout").replace("EC PRIVATE", "PRIVATE"),
            Refused("an elliptic-curve (EC) key"),
        ),
        text("an encrypted key", encrypted("-v2 aes-256-cbc"), Refused("there is no passphrase")),
        text(
            "PBES1 with MD5",
            encrypted("-v1 PBE-MD5-DES -provider legacy -provider default"),
            Refused("encrypted in a way that can't be read"),
        ),
        text(
            "PBES1 with 3DES",
            encrypted("-v1 PBE-SHA1-3DES"),
            Refused("encrypted in a way that can't be read"),
        ),
        text(
            "PBES2 with SHA-1",
            encrypted("-v2 aes-256-cbc -v2prf hmacWithSHA1"),
            Refused("encrypted in a way that can't be read"),
        ),
        text("PBES2 with 3DES", encrypted("-v2 des3"), Refused("encrypted in a way that can't be read")),
    ]
}

/// A valid token of the key.
static TOKEN: LazyLock<String> =
    LazyLock::new(|| Workspace::new().run(&["mint", "identity.web", "--sub", "user-1"]).ok());

/// The files of a key directory, one of them changed.
struct Case {
    workspace: Workspace,
    /// The name of the changed file, in the key directory and alone in another one.
    name: &'static str,
}

impl Case {
    fn of(name: &'static str, content: &[u8]) -> Self {
        let case = Self { workspace: Workspace::new(), name };
        for path in [case.configured(), case.workspace.path(&format!("given/{name}"))] {
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(&path, content).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
        }
        case
    }

    fn configured(&self) -> std::path::PathBuf {
        self.workspace.path(&format!("keys/web/{}", self.name))
    }

    /// The message of `check` about the file, without field and source.
    fn said_by_check(&self) -> (i32, Vec<String>) {
        let ran = self.workspace.run(&["check"]);
        let said = ran
            .stderr
            .lines()
            .filter_map(|line| Some(line.split_once(&format!("{}): ", self.name))?.1.to_owned()));
        (ran.code(), said.collect())
    }

    /// Exit code and output of the doctor, which gets only that file.
    fn said_by_doctor(&self) -> (i32, String) {
        let elsewhere = Workspace::bare();
        let path = self.workspace.path(&format!("given/{}", self.name));
        let ran = elsewhere.run(&["doctor", path.to_str().expect("text"), "--json"]);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        let seen = findings
            .iter()
            .filter(|finding| finding["outcome"] != "pass")
            .filter_map(|finding| finding["seen"].as_str());
        (ran.code(), ran.stderr + &seen.collect::<Vec<_>>().join("\n"))
    }

    fn said_by_verify(&self) -> (i32, String) {
        let elsewhere = Workspace::bare();
        let path = self.workspace.path(&format!("given/{}", self.name));
        let ran = elsewhere.run_with_input(&["verify", "--key", path.to_str().expect("text")], &TOKEN);
        (ran.code(), ran.stderr)
    }

    /// Asserts that all four commands give the expected result.
    async fn agree(&self, name: &str, answer: Answer) {
        let (code, said) = self.said_by_check();
        let (doctor, verify) = (self.said_by_doctor(), self.said_by_verify());
        match answer {
            Taken => {
                assert_eq!((code, said), (0, Vec::new()), "{name}");
                assert_eq!(doctor, (0, String::new()), "{name}");
                assert_eq!(verify, (0, String::new()), "{name}");
            }
            Odd(words) => {
                let [said] = said.as_slice() else { panic!("{name}: not one warning: {said:?}") };
                assert!(code == 0 && said.contains(words), "{name}: {words} in {said}");
                assert!(doctor.0 == 0 && doctor.1.contains(said), "{name}: {said} in {doctor:?}");
                assert!(verify.0 == 0 && verify.1.contains(said), "{name}: {said} in {verify:?}");
                assert_eq!(verify.1.matches("warning").count(), 1, "{name}");
            }
            Refused(words) => {
                let [said] = said.as_slice() else { panic!("{name}: not one problem: {said:?}") };
                assert!(code == 64 && said.contains(words), "{name}: {words} in {said}");
                assert!(doctor.0 == 1 && doctor.1.contains(said), "{name}: {said} in {doctor:?}");
                assert!(verify.0 == 1 && verify.1.contains(said), "{name}: {said} in {verify:?}");
                let served = self.workspace.run(&["serve"]);
                assert!(served.code() == 64 && served.stderr.contains(said), "{name}: {}", served.stderr);
                return;
            }
        }
        let service = self.workspace.serve().await;
        let body = service.post("/identity-token", &user_1()).await.ok();
        verified(body["token"].as_str().expect("a token"), &service.jwks("/keysets/web/jwks.json").await);
        if let Odd(words) = answer {
            let log = service.whole_log().await;
            assert_eq!(log.lines().filter(|line| line.contains(words)).count(), 1, "{name}: {log}");
        }
    }
}

#[tokio::test]
async fn check_serve_doctor_and_verify_read_each_private_key_alike() {
    for (name, content, answer) in [shapes(), usual_in_a_variable(), no_keys()].concat() {
        Case::of("WebAppKey1.key", &content).agree(name, answer).await;
    }
}

#[tokio::test]
async fn check_serve_doctor_and_verify_read_each_certificate_alike() {
    let good = certificate();
    let der = pem::parse(&good).expect("PEM").into_contents();
    let rows = [
        text("as it should be", &good, Taken),
        text("line ends of Windows", good.replace('\n', "\r\n"), Taken),
        text("indented", each_line(&good, |line| format!("  {line}\n")), Odd("indented lines")),
        text("a byte order mark", format!("\u{feff}{good}"), Odd("a byte order mark")),
        text(
            "what openssl prints before it",
            format!("subject=CN = x\nissuer=CN = x\n{good}"),
            Odd("other text around"),
        ),
        text("`\\n` written out", good.replace('\n', "\\n"), Odd("line breaks written out")),
        text("base64", STANDARD.encode(&good), Odd("base64 around")),
        text("no line breaks", good.replace('\n', ""), Odd("no line breaks")),
        ("DER", der.clone(), Refused("`openssl x509 -inform DER -in FILE -out KID.crt`")),
        text("a bare certificate", STANDARD.encode(&der), Refused("`base64 -d FILE | openssl x509")),
        ("UTF-16", utf16(&good, u16::to_le_bytes), Refused("iconv -f UTF-16LE")),
        (
            "PKCS#12",
            converted("pkcs12 -export -nocerts -inkey KEY -passout pass:changeit"),
            Refused("PKCS#12"),
        ),
        text("the private key", &KEYS.web, Refused("holds a private key")),
        text("key and certificate", format!("{}{good}", KEYS.web), Refused("holds a private key")),
        text(
            "a public key",
            key().to_public_key().to_public_key_pem(LineEnding::LF).expect("PEM"),
            Refused("holds a PUBLIC KEY"),
        ),
        text("a JWK Set", Workspace::new().run(&["jwks"]).ok(), Refused("it is a JWK Set")),
        text("prose", "my certificate", Refused("holds no PEM certificate")),
        text("nothing", "", Refused("holds no PEM certificate")),
        text("half of it", good.split("-----END").next().expect("a beginning"), Refused("cut short")),
        text("a changed character", good.replacen('M', "*", 1), Refused("its PEM text is broken")),
        text("broken contents", block("CERTIFICATE", b"x"), Refused("a broken certificate")),
    ];
    for (name, content, answer) in rows {
        Case::of("WebAppKey1.crt", &content).agree(name, answer).await;
    }
}

/// Salesforce gets the key's own certificate, in any position of the chain.
#[test]
fn the_key_s_certificate_of_a_chain_is_published() {
    let own = certificate();
    let other = openssl("req -x509 -newkey rsa:2048 -nodes -subj /CN=authority -keyout /dev/null");
    let published = |content: &str| {
        let case = Case::of("WebAppKey1.crt", content.as_bytes());
        let jwk = case.workspace.run(&["jwk", "WebAppKey1"]).json();
        (case.said_by_check(), jwk["x5c"].clone())
    };
    let (_, alone) = published(&own);
    for (chain, at) in [(format!("{own}{other}"), "number 1"), (format!("{other}{own}"), "number 2")] {
        let ((code, said), x5c) = published(&chain);
        assert!(
            code == 0 && said.len() == 1 && said[0].contains("holds 2 certificates") && said[0].contains(at),
            "{said:?}"
        );
        assert_eq!(x5c, alone);
    }
    let (code, said) = Case::of("WebAppKey1.crt", other.repeat(2).as_bytes()).said_by_check();
    assert!(code == 64 && said[0].contains("holds 2 certificates, and none of this key"), "{said:?}");
}

/// In a variable the documented forms give no warning. The others are read like in a file.
#[tokio::test]
async fn a_key_in_a_variable_is_read_as_one_in_a_file() {
    let unwarned = usual_in_a_variable().into_iter().map(|(name, content, _)| (name, content, Taken));
    for (name, content, answer) in shapes().into_iter().chain(unwarned).chain(no_keys()) {
        let Ok(value) = String::from_utf8(content) else { continue };
        if value.is_empty() || value.contains('\0') {
            continue;
        }
        let mut workspace = Workspace::bare();
        workspace.configure(&configuration().replacen(
            "directory = \"keys/web\"\n",
            "kid = \"WebAppKey1\"\n",
            1,
        ));
        workspace.set("TOKENMINT_KEYSETS__WEB__KEY", &value);
        let ran = workspace.run(&["check"]);
        let doctor = workspace.run(&["doctor", "--json"]).stdout;
        let report: Value = serde_json::from_str(&doctor).expect("JSON");
        let of_key = |line: &&str| line.contains("TOKENMINT_KEYSETS__WEB__KEY): ");
        let said: Vec<&str> =
            ran.stderr.lines().filter(of_key).map(|line| line.split_once("KEY): ").expect("it").1).collect();
        let found = |case: &str, outcome: &str| {
            let findings = report["findings"].as_array().expect("findings");
            let said = |finding: &Value| {
                said.iter().all(|said| finding["seen"].as_str().is_some_and(|seen| seen.contains(said)))
            };
            findings
                .iter()
                .any(|finding| finding["check"] == case && finding["outcome"] == outcome && said(finding))
        };
        match answer {
            Taken => assert!(ran.code() == 0 && said.is_empty(), "{name}: {}", ran.stderr),
            Odd(words) => {
                assert!(
                    ran.code() == 0 && said.len() == 1 && said[0].contains(words),
                    "{name}: {}",
                    ran.stderr
                );
                assert!(found("configuration-warnings", "warn"), "{name}: {report:#}");
            }
            Refused(words) => {
                assert!(
                    ran.code() == 64 && said.len() == 1 && said[0].contains(words),
                    "{name}: {}",
                    ran.stderr
                );
                assert!(found("configuration", "fail"), "{name}: {report:#}");
                assert!(workspace.run(&["serve"]).stderr.contains(said[0]), "{name}");
                continue;
            }
        }
        let service = workspace.serve().await;
        let body = service.post("/identity-token", &user_1()).await.ok();
        verified(body["token"].as_str().expect("a token"), &service.jwks("/keysets/web/jwks.json").await);
    }
}

/// Runs the command in the message. The file that it writes is accepted.
#[test]
fn the_suggested_command_fixes_a_key_that_cannot_be_opened() {
    let passphrases = "[keysets.web]\npassphrase = \"secret\"\n";
    for how in [
        "-v1 PBE-MD5-DES -provider legacy -provider default",
        "-v1 PBE-SHA1-RC2-40 -provider legacy -provider default",
        "-v1 PBE-SHA1-3DES",
        "-v2 des3",
        "-v2 des-cbc -provider legacy -provider default",
        "-v2 camellia-256-cbc",
        "-v2 aes-256-cbc -v2prf hmacWithSHA1",
        "-v2 aes-256-cbc -v2prf hmacWithSHA512-256",
    ] {
        let made = converted(&format!("pkcs8 -topk8 -passout pass:secret -in KEY {how}"));
        let case = Case::of("WebAppKey1.key", &made);
        // The passphrase is right, so the message must not mention it.
        case.workspace.configure(&configuration().replacen("[keysets.web]\n", passphrases, 1));
        let (code, said) = case.said_by_check();
        assert!(
            code == 64 && said.len() == 1 && said[0].contains("encrypted in a way that can't be read"),
            "{how}: {said:?}"
        );
        let command = said[0].split('`').nth(1).expect("a command");
        let key = case.configured().display().to_string();
        let command = command.replace("KEY", &key).replace("NEW", &format!("{key}.new"));
        let run = Command::new("bash")
            .args(["-c", &format!("{command} -passin pass:secret -passout pass:secret")])
            .output();
        assert!(run.expect("bash runs").status.success(), "{how}: {command}");
        fs::rename(format!("{key}.new"), &key).expect("renamed");
        case.workspace.run(&["check"]).ok();
    }
}

#[test]
fn a_passphrase_is_reported_wrong_only_where_it_is() {
    let wrong = "[keysets.web]\npassphrase = \"another\"\n";
    for how in ["-v2 aes-256-cbc", "-v2 aes-128-cbc -v2prf hmacWithSHA512", "-scrypt"] {
        let made = converted(&format!("pkcs8 -topk8 -passout pass:secret -in KEY {how}"));
        let case = Case::of("WebAppKey1.key", &made);
        case.workspace.configure(&configuration().replacen("[keysets.web]\n", wrong, 1));
        let (code, said) = case.said_by_check();
        assert_eq!((code, said), (64, vec!["the passphrase doesn't open it".to_owned()]), "{how}");
    }
}

/// Runs the suggested commands for files of other kinds.
#[test]
fn the_suggested_commands_for_other_files_make_accepted_files() {
    let passwords = [
        ("pkcs12 -in", "pkcs12 -passin pass:changeit -in"),
        ("pkcs8 -topk8", "pkcs8 -topk8 -passin pass:secret -passout pass:secret"),
    ];
    for (name, content, _) in no_keys() {
        let case = Case::of("WebAppKey1.key", &content);
        case.workspace.configure(&configuration().replacen(
            "[keysets.web]\n",
            "[keysets.web]\npassphrase = \"secret\"\n",
            1,
        ));
        let (_, said) = case.said_by_check();
        let Some(command) = said.first().and_then(|said| said.split('`').nth(1)) else { continue };
        let is_run = ["openssl", "base64", "iconv"].iter().any(|tool| command.starts_with(tool));
        if !is_run || command.contains("-in KEY") {
            continue;
        }
        let mut command = command.replace("FILE", "keys/web/WebAppKey1.key").replace("NEW", "KID.key");
        for (from, to) in passwords {
            command = command.replace(from, to);
        }
        let ran = Command::new("bash")
            .args(["-c", &command])
            .current_dir(case.workspace.path(""))
            .output()
            .expect("bash runs");
        assert!(ran.status.success(), "{name}: {command}: {}", String::from_utf8_lossy(&ran.stderr));
        let made = if command.contains("KID.crt") { "KID.crt" } else { "KID.key" };
        let written = fs::read_to_string(case.workspace.path(made)).expect("text");
        let target = made.replace("KID", "WebAppKey1");
        case.workspace.write_key("keys/web/WebAppKey1.key", &KEYS.web);
        case.workspace.write_key(&format!("keys/web/{target}"), &written);
        let ran = case.workspace.run(&["check"]);
        assert!(ran.code() == 0 && !ran.stderr.contains(&target), "{name}: {}", ran.stderr);
    }
}

/// A file of the wrong type is never reported with an operating system error.
#[test]
fn a_folder_and_a_file_of_another_kind_are_named_for_what_they_are() {
    let workspace = Workspace::new();
    workspace.write("keys/web/notes.txt", "buy milk");
    for (arguments, words) in [
        (["doctor", "keys/web"], "is a directory, not a regular file: name the files in it"),
        (["doctor", "tokenmint.toml"], "it is a configuration of tokenmint; name it with --config"),
        (["doctor", "keys/web/notes.txt"], "holds no PEM key, no certificate, no JWK or JWK Set, and no JWT"),
    ] {
        let ran = workspace.run(&arguments);
        assert_eq!(ran.code(), 1, "{arguments:?}");
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
        let ran = workspace.run_with_input(&["verify", "--key", arguments[1]], &TOKEN);
        assert!(ran.code() == 1 && ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }
    let key = workspace.path("keys/web/WebAppKey1.key");
    fs::remove_file(&key).expect("there");
    fs::create_dir(&key).expect("made");
    let ran = workspace.run(&["check"]);
    assert!(ran.code() == 64 && ran.stderr.contains("is a directory, not a regular file"), "{}", ran.stderr);
}

/// A shell passes a command's output as a pipe.
#[test]
fn a_key_is_read_from_a_pipe() {
    let workspace = Workspace::bare();
    let ran = workspace.run_in_shell(&["doctor", "-v"], "<(cat keys/web/WebAppKey1.key)");
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("holds a private RSA key"), "{}", ran.stdout);
}

#[test]
fn a_key_of_another_name_alone_in_a_key_directory_is_named() {
    for name in ["server.pem", "web.p12", "WebAppKey1.KEY", "store.jks"] {
        let workspace = Workspace::new();
        fs::rename(workspace.path("keys/web/WebAppKey1.key"), workspace.path(&format!("keys/web/{name}")))
            .expect("renamed");
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{name}");
        let line = ran.stderr.lines().find(|line| line.starts_with("keysets.web (")).unwrap_or_default();
        assert!(
            line.contains(&format!("holds no KID.key, but `{name}`")) && line.contains("Rename it"),
            "{name}: {}",
            ran.stderr
        );
    }
}

/// A POSIX ACL like systemd sets on a credential: one user may read, and the mode bits show the mask.
fn let_read(path: &std::path::Path, user: u32) -> bool {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 4, user), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        list.extend([tag.to_le_bytes(), may.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    rustix::fs::setxattr(path, "system.posix_acl_access", &list, rustix::fs::XattrFlags::empty()).is_ok()
}

/// Some file systems have no ACLs.
#[test]
fn a_credential_with_an_acl_for_the_service_alone_is_accepted() {
    let case = Case::of("WebAppKey1.key", KEYS.web.as_bytes());
    let us = rustix::process::geteuid().as_raw();
    for path in [case.configured(), case.workspace.path("given/WebAppKey1.key")] {
        if !let_read(&path, us) {
            println!("no access lists here, so nothing was checked; src/files.rs has the rows");
            return;
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
    }
    assert_eq!(case.said_by_check(), (0, Vec::new()));
    assert_eq!(case.said_by_doctor(), (0, String::new()));
    for path in [case.configured(), case.workspace.path("given/WebAppKey1.key")] {
        assert!(let_read(&path, 4_242));
    }
    let (code, said) = case.said_by_check();
    assert!(
        code == 64 && said[0].contains("others by its access list (ACL)") && said[0].contains("setfacl -b"),
        "{said:?}"
    );
    assert!(case.said_by_doctor().1.contains(&said[0]), "{said:?}");
}

/// Pasted texts, and whether the token in them is found.
#[test]
fn a_token_is_found_in_what_people_paste() {
    let good = token(&json!({}));
    let other = token(&json!({"sub": "user-2"}));
    let answer =
        json!({"token": good, "token_type": "JWT", "kid": "Key1", "issued_at": 1, "expires_in": 600});
    let (broken, cut) = good.split_at(60);
    for (name, pasted, taken, words) in [
        ("alone", good.clone(), true, ""),
        (
            "the whole call",
            format!(
                "embeddedservice_bootstrap.userVerificationAPI.setIdentityToken({{\n  identityTokenType : \"JWT\",\n  identityToken : \"{good}\"\n}});"
            ),
            true,
            "other text stands around it",
        ),
        ("its argument", format!("{{identityToken: '{good}'}}"), true, "other text stands around it"),
        (
            "an attribute of HTML",
            format!("<body data-identity-token=\"{good}\" class=\"x\">"),
            true,
            "other text stands around it",
        ),
        (
            "an attribute without quotes",
            format!("<body data-identity-token={good}>"),
            true,
            "other text stands around it",
        ),
        (
            "escaped quotes of HTML",
            format!("<div data-chat=\"{{&quot;token&quot;:&quot;{good}&quot;}}\">"),
            true,
            "other text stands around it",
        ),
        ("double quotes", format!("\"{good}\""), true, "in quotes"),
        ("single quotes and a line end", format!("'{good}'\n"), true, "in quotes"),
        ("Bearer", format!("Bearer {good}"), true, "`Bearer`"),
        ("bearer", format!("bearer {good}"), true, "`Bearer`"),
        ("Bearer in quotes", format!("\"Bearer {good}\""), true, "`Bearer`"),
        ("a line of .env", format!("TOKEN={good}\n"), true, "other text stands around it"),
        ("words before it", format!("my token is {good}"), true, "other text stands around it"),
        ("words around it", format!("token {good} ok"), true, "other text stands around it"),
        (
            "a header",
            format!("Authorization: Bearer {good}\r\nHost: tokens.acme.example\r\n"),
            true,
            "other text stands around it",
        ),
        ("an answer of ours", answer.to_string(), true, "other text stands around it"),
        (
            "an answer of ours in lines",
            serde_json::to_string_pretty(&answer).expect("JSON"),
            true,
            "other text stands around it",
        ),
        (
            "what curl -i prints",
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{answer}"),
            true,
            "other text stands around it",
        ),
        ("the same twice", format!("{good} = {good}"), true, "other text stands around it"),
        ("a byte order mark", format!("\u{feff}{good}"), true, ""),
        ("two tokens", format!("{good},{other}"), false, "2 JWTs were found in it"),
        ("two tokens in two lines", format!("{good}\n{other}\n"), false, "2 JWTs were found in it"),
        (
            "a bundle's answer",
            json!({"tokens": {"one": good, "two": other}}).to_string(),
            false,
            "paste one token, and that alone",
        ),
        ("broken into lines", format!("{broken}\n{cut}"), false, "holds white space or line breaks"),
        (
            "two parts",
            good.rsplit_once('.').expect("parts").0.to_owned(),
            false,
            "doesn't have the three parts",
        ),
        ("no token", "setIdentityToken()".to_owned(), false, "paste the token alone"),
    ] {
        let given = Given::nothing().jwk(&PAIRS[0].jwk("Key1")).file("token.txt", &pasted);
        let ran = given.workspace.run_with_input(&["verify", "--jwk", "Key1.jwk"], &pasted);
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(ran.code() == 0, taken, "{name}: {}{}", ran.stdout, ran.stderr);
        assert!(flat(&ran.stdout).contains(words), "{name}: {words} in {}", ran.stdout);
        assert_eq!(
            ran.stdout.contains("Salesforce would accept this token"),
            taken,
            "{name}: {}",
            ran.stdout
        );
        // The doctor detects the kind of a file. A text without any token is not a token for it.
        if name != "no token" && name != "two parts" {
            let (code, findings) = given.examined();
            let said = findings.iter().any(|finding| {
                format!("{}", finding["seen"]).contains(words)
                    || format!("{}", finding["fix"]).contains(words)
            });
            assert_eq!(code == 0, taken, "{name}: {findings:#?}");
            assert!(said || words.is_empty(), "{name}: {findings:#?}");
        }
    }
}

/// Each fault of a token gets the fix for that fault.
#[test]
fn the_fix_for_a_token_is_specific_to_its_fault() {
    let good = token(&json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let header = |header: &Value| raw_token(header, &claims().to_string());
    let rs256 = |kid: Value| json!({"alg": "RS256", "typ": "JWT", "kid": kid});
    for (name, token, check, seen, fix) in [
        (
            "exp as text",
            token(&json!({"exp": "1900000000"})),
            "token-expiry",
            "its `exp` is a string, not a number",
            "without quotes",
        ),
        (
            "exp as nothing",
            raw_token(
                &rs256(json!("Key1")),
                &claims().to_string().replacen("\"exp\":", "\"exp\":null,\"x\":", 1),
            ),
            "token-expiry",
            "its `exp` is null, not a number",
            "without quotes",
        ),
        (
            "a numeric kid",
            header(&rs256(json!(1))),
            "token-header",
            "its `kid` is a number, not text",
            "in quotes",
        ),
        (
            "a kid that is nothing",
            header(&rs256(json!(null))),
            "token-header",
            "its `kid` is null, not text",
            "in quotes",
        ),
        ("no kid", header(&json!({"alg": "RS256", "typ": "JWT"})), "token-header", "lacks `kid`", ""),
        (
            "a type that is none",
            header(&json!({"alg": "RS256", "typ": true, "kid": "Key1"})),
            "token-header",
            "its `typ` is a boolean, not text",
            "in quotes",
        ),
        (
            "padding behind the header",
            format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
            "text",
            "its header has padding (`=`)",
            "without padding",
        ),
        (
            "padding behind the body",
            format!("{}.{}==.{}", parts[0], parts[1], parts[2]),
            "text",
            "its body has padding (`=`)",
            "without padding",
        ),
        (
            "padding behind the signature",
            format!("{good}=="),
            "text",
            "its signature has padding (`=`)",
            "without padding",
        ),
        (
            "standard base64",
            format!("{}.{}.{}+/", parts[0], parts[1], parts[2]),
            "text",
            "is standard base64",
            "base64url",
        ),
    ] {
        let given = Given::nothing().jwk(&PAIRS[0].jwk("Key1")).file("token.txt", &token);
        let (code, findings) = given.examined();
        assert_eq!(code, 1, "{name}");
        let finding = findings
            .iter()
            .find(|finding| finding["check"] == check)
            .unwrap_or_else(|| panic!("{name}: {findings:#?}"));
        assert!(finding["seen"].as_str().is_some_and(|said| said.contains(seen)), "{name}: {finding:#}");
        assert!(finding["fix"].as_str().is_some_and(|said| said.contains(fix)), "{name}: {finding:#}");
        let lacks = findings.iter().any(|finding| format!("{}", finding["seen"]).contains("lacks"));
        assert_eq!(lacks, name == "no kid", "{name}: {findings:#?}");
    }
    // The same for a JWK.
    let given = Given::nothing().jwk(&crate::doctor::jwk(|jwk| jwk["kid"] = json!(1)));
    let (_, findings) = given.examined();
    assert!(format!("{findings:?}").contains("its `kid` is a number, not text"), "{findings:#?}");
}

/// TLS files of a listener are read by the same code.
#[test]
fn the_files_of_a_listener_are_read_as_keys_and_certificates_are() {
    let workspace = Workspace::new();
    crate::tls::certificates(&workspace, "ca", "tls");
    let listens = "listen = \"127.0.0.1:0\"\n";
    let tls =
        format!("{listens}[server.tls]\ncertificate_file = \"tls.crt\"\nprivate_key_file = \"tls.key\"\n");
    workspace.configure(&configuration().replace(listens, &tls));
    let good = |name: &str| fs::read_to_string(workspace.path(name)).expect("a file of ours");
    let (certificate, key) = (good("tls.crt"), good("tls.key"));
    for (name, words) in
        [("tls.crt", "server.tls.certificate_file"), ("tls.key", "server.tls.private_key_file")]
    {
        let text = if name == "tls.crt" { &certificate } else { &key };
        for (shape, odd) in [
            (format!("\u{feff}{text}"), "a byte order mark before it"),
            (format!("  {}\n", text.trim_end().replace('\n', "\n  ")), "indented lines"),
            (STANDARD.encode(text), "base64 around the whole text"),
        ] {
            workspace.write_key("tls.crt", &certificate);
            workspace.write_key("tls.key", &key);
            workspace.write_key(name, &shape);
            let ran = workspace.run(&["check"]);
            assert_eq!(ran.code(), 0, "{name}, {odd}: {}", ran.stderr);
            assert!(ran.stderr.contains(words) && ran.stderr.contains(odd), "{name}, {odd}: {}", ran.stderr);
        }
    }
    workspace.write_key("tls.crt", &certificate);
    let clear = workspace.path("clear.key");
    workspace.write_key("clear.key", &key);
    let made = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-passout", "pass:x", "-in"])
        .arg(&clear)
        .output()
        .expect("openssl runs");
    workspace.write_key("tls.key", &String::from_utf8(made.stdout).expect("PEM"));
    let ran = workspace.run(&["check"]);
    assert!(ran.code() == 64 && ran.stderr.contains("`openssl pkey -in KEY -out NEW`"), "{}", ran.stderr);
}
