//! No output shows a secret. Each secret has a canary, and the tests search all output for it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::support::{API_KEY, KEYS, Running, Workspace, configuration, sha256_hex, signal, user_1};
use crate::tls::certificates;

#[tokio::test]
async fn each_mint_leaves_one_audit_line_without_the_token_or_the_subject() {
    let service = Workspace::new().serve().await;
    let sub = "canary-subject-3c1";
    let answer = service.post("/identity-token", &json!({"sub": sub})).await;
    let token = answer.ok()["token"].as_str().expect("a token").to_owned();
    let line: serde_json::Value = serde_json::from_str(&service.logged("minted").await).expect("JSON");
    assert_eq!(line["target"], "tokenmint::audit");
    assert_eq!(line["request_id"], answer.header("x-request-id"));
    assert_eq!([&line["caller"], &line["profile"], &line["kid"]], ["web", "identity.web", "WebAppKey1"]);
    assert_eq!(line["token_sha256"], sha256_hex(&token));
    assert_eq!(line["subject_hmac"].as_str().map(str::len), Some(32));
    assert_ne!(
        line["subject_hmac"].as_str(),
        Some(&sha256_hex(sub)[..32]),
        "keyed, so that nobody can guess"
    );
    assert!(line["timestamp"].is_string() && line["expires_at"].is_i64());
    let log = service.whole_log().await;
    assert_eq!(log.matches("\"minted\"").count(), 1);
    assert!(!log.contains(sub) && !log.contains(&token));
}

#[tokio::test]
async fn with_an_audit_key_a_subject_s_lines_are_found_across_restarts() {
    let workspace = Workspace::new();
    let hash = async |workspace: &Workspace| {
        let service = workspace.serve().await;
        service.post("/identity-token", &user_1()).await.ok();
        let line: serde_json::Value = serde_json::from_str(&service.logged("minted").await).expect("JSON");
        line["subject_hmac"].clone()
    };
    assert_ne!(hash(&workspace).await, hash(&workspace).await, "without a key each start has its own");
    workspace.configure(&configuration().replace("[server]\n", "[server]\naudit_key = \"canary-audit\"\n"));
    assert_eq!(hash(&workspace).await, hash(&workspace).await);
}

#[tokio::test]
async fn no_output_shows_a_secret() {
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    let mut seen = String::new();
    for (path, body) in [
        ("/identity-token", user_1()),
        ("/identity-token", json!({"sub": "canary-sub-1", "x": 1})),
        ("/oauth-assertion", json!({})),
        ("/intercom-user-jwt", json!({"user_id": "canary-sub-2"})),
    ] {
        service.post(path, &body).await;
    }
    for path in ["/metrics", "/readyz", "/.well-known/jwks.json", "/openapi.yaml"] {
        seen += &service.get(path).await.text;
    }
    for arguments in
        [&["check"][..], &["keys", "list"], &["keys", "list", "--json"], &["jwks"], &["jwk", "CrmKey1"]]
    {
        let ran = workspace.run(arguments);
        seen += &(ran.stdout + &ran.stderr);
    }
    let process =
        |file: &str| std::fs::read(format!("/proc/{}/{file}", service.pid())).expect("our own child");
    seen += &String::from_utf8_lossy(&process("cmdline"));
    seen += &service.whole_log().await;
    let private = KEYS.web.lines().nth(5).expect("a line of the key");
    for secret in [API_KEY, private, "intercom-messenger-api-secret", "canary-sub-1", "canary-sub-2"] {
        assert!(!seen.contains(secret), "{secret}");
    }
}

/// Every value of a published JWK is public. As a number it has no factor in common with a modulus, and its bytes
/// contain no number of a private key.
#[tokio::test]
async fn no_private_number_is_published() {
    use rsa::BigUint;
    use rsa::pkcs8::DecodePrivateKey as _;
    use rsa::traits::{PrivateKeyParts as _, PublicKeyParts as _};
    let service = Workspace::new().serve().await;
    let one = BigUint::from(1_u32);
    let key = |pem: &String| {
        let key = rsa::RsaPrivateKey::from_pkcs8_pem(pem).expect("good");
        let exponents = key.primes().iter().map(|prime| key.d() % (prime - &one));
        let numbers: Vec<BigUint> = exponents.chain(key.primes().to_vec()).chain([key.d().clone()]).collect();
        (key.n().clone(), numbers)
    };
    let keys = [&KEYS.web, &KEYS.web512, &KEYS.crm].map(key);
    let common_divisor = |mut a: BigUint, mut b: BigUint| {
        while b != BigUint::from(0_u32) {
            (a, b) = (b.clone(), &a % &b);
        }
        a
    };
    let set = service.get("/.well-known/jwks.json").await.ok();
    let jwks = set["keys"].as_array().expect("keys").iter().map(|jwk| jwk.as_object().expect("a JWK"));
    let mut looked_at = 0;
    for (member, value) in jwks.flatten() {
        // RFC 7518, sections 6.3.2 and 6.4.1.
        assert!(!["d", "p", "q", "dp", "dq", "qi", "oth", "k"].contains(&member.as_str()), "{member}");
        let texts = value.as_array().map_or_else(|| vec![value], |list| list.iter().collect());
        for text in texts.into_iter().filter_map(serde_json::Value::as_str) {
            let decoded = URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD.decode(text));
            // Not every value is base64.
            let Ok(bytes) = decoded else { continue };
            for (modulus, private) in &keys {
                for number in private {
                    for number in [number.to_bytes_be(), number.to_bytes_le()] {
                        assert!(memchr::memmem::find(&bytes, &number).is_none(), "{member}");
                    }
                }
                let common = common_divisor(modulus.clone(), BigUint::from_bytes_be(&bytes));
                assert!(common == one || common == *modulus, "{member} has a factor of a key");
            }
            looked_at += 1;
        }
    }
    assert!(looked_at >= 3 * ["n", "e", "x5c", "x5t#S256"].len(), "{looked_at}");
}

/// Wrong values for a secret, a secret's file or a key's path. Each form has its own random text.
fn wrong_forms() -> Vec<(&'static str, String)> {
    let random = || {
        let mut bytes = [0; 36];
        aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
        URL_SAFE_NO_PAD.encode(bytes)
    };
    let pem = || pem::encode(&pem::Pem::new("PRIVATE KEY", random().repeat(30).into_bytes()));
    vec![
        ("a secret", random()),
        ("a short one", random()[..9].to_owned()),
        ("in quotes", format!("\"{}\"", random())),
        ("in single quotes", format!("'{}'", random())),
        ("with white space", format!(" {}\t", random())),
        ("on lines", format!("{}\n{}\r\n{}", random(), random(), random())),
        ("with its name", format!("SECRET={}", random())),
        ("with a variable's name", format!("export APP_SECRET={}", random())),
        ("with a byte order mark", format!("\u{feff}{}", random())),
        ("with a zero", format!("{}\0{}", random(), random())),
        ("base64", STANDARD.encode(random())),
        ("like a URL", format!("rediss://{}:{}@{}.example", random(), random(), random())),
        ("a path", format!("/run/{}/{}.key", random(), random())),
        ("a relative path", format!("{}/{}.pem", random(), random())),
        ("with dots", format!("{}.{}", random(), random())),
        ("a PEM", pem()),
        ("a PEM on one line", pem().replace('\n', "\\n")),
        ("a PEM in quotes", format!("\"{}\"", pem())),
        ("a PEM in base64", STANDARD.encode(pem())),
        ("a good key", KEYS.web512.clone()),
        ("half a key", KEYS.crm[..KEYS.crm.len() / 2].to_owned()),
        ("very long", random().repeat(200)),
    ]
}

/// Every setting that takes a secret, a secret's file, or the path of a key or certificate; `V` is its value.
const SECRET_PLACES: [&str; 23] = [
    "[server]\naudit_key = V\n",
    "[server]\naudit_key_file = V\n",
    "[server.tls]\ncertificate_file = V\nprivate_key_file = 'tls.key'\n",
    "[server.tls]\ncertificate_file = 'ca.crt'\nprivate_key_file = V\n",
    "[server.tls]\ncertificate_file = 'ca.crt'\nprivate_key_file = 'ca.key'\nclient_ca_file = V\n",
    "[server.public]\nlisten = '127.0.0.1:0'\ntls = { certificate_file = V, private_key_file = V, client_ca_file = V }\n",
    "[server.signing]\nbatch = 'required'\nlibrary = V\n",
    "[cache.redis]\nurl = V\n",
    "[cache.redis]\nurl = 'redis://127.0.0.1'\nkey = V\n",
    "[cache.redis]\nurl = 'redis://127.0.0.1'\nkey_file = V\n",
    "[cache.redis]\nurl = 'redis://127.0.0.1'\npassword = V\n",
    "[cache.redis]\nurl = 'redis://127.0.0.1'\npassword_file = V\n",
    "[keysets.k]\ndirectory = V\n",
    "[keysets.k]\nkid = 'k'\nkey = V\n",
    "[keysets.k]\nkid = 'k'\nkey_file = V\n",
    "[keysets.k]\ndirectory = 'keys/web'\npassphrase = V\n",
    "[keysets.k]\ndirectory = 'keys/web'\npassphrase_file = V\n",
    "[intercom.i]\nsecret = V\n",
    "[intercom.i]\nsecret_file = V\n",
    "[hs256.i]\nsecret = V\nsubject_claim = 'u'\n",
    "[hs256.i]\nsecret_file = V\nsubject_claim = 'u'\n",
    "[hs256.i]\nsubject_claim = V\nkid = V\ncty = V\nfixed_claims = { a = V, b = [V, 1979-05-27] }\n",
    "[callers.c]\nallow = []\napi_key_sha256 = [V]\n",
];

/// TOML's basic strings escape like JSON's.
fn filled(template: &str, value: &str) -> String {
    template.replace('V', &json!(value).to_string().replace('\u{7f}', "\\u007f"))
}

/// Eight consecutive bytes of `value` that occur in `text`, if any. The markers of a PEM block are no secret.
#[track_caller]
fn assert_hidden(value: &str, text: &str, what: &str) {
    let lines =
        value.split(['\n', '\r']).flat_map(|line| line.split("\\n")).filter(|line| !line.contains("-----"));
    // The names in the form itself are no secret.
    let lines = lines
        .map(|line| line.replace("export APP_SECRET=", "").replace("SECRET=", "").replace("rediss://", ""));
    for line in lines {
        for at in (0..line.len().saturating_sub(7)).filter(|at| line.is_char_boundary(*at)) {
            if let Some(eight) = line.get(at..at + 8) {
                assert!(!text.contains(eight), "{what} shows {eight:?}: {text}");
            }
        }
    }
}

#[test]
fn no_message_shows_the_value_of_a_secret_setting() {
    let workspace = Workspace::bare();
    certificates(&workspace, "ca", "tls");
    for place in SECRET_PLACES {
        for (form, value) in wrong_forms() {
            workspace.configure(&filled(place, &value));
            for arguments in [&["check"][..], &["check", "--json"]] {
                let ran = workspace.run(arguments);
                assert!([0, 64].contains(&ran.code()), "{form} as {place}: {}", ran.stderr);
                assert_hidden(&value, &(ran.stdout + &ran.stderr), &format!("{form} as {place}"));
            }
        }
    }
    // The same in TOML syntax errors: an unclosed string, an unquoted value.
    for (form, value) in wrong_forms() {
        for text in [
            format!("[intercom.i]\nsecret = {value}\n"),
            format!("[keysets.k]\nkey = \"{value}\n"),
            value.clone(),
        ] {
            workspace.configure(&text);
            let ran = workspace.run(&["check"]);
            assert_hidden(&value, &ran.stderr, form);
        }
    }
    let mut workspace = Workspace::bare();
    workspace.configure("");
    for (form, value) in wrong_forms().into_iter().filter(|(_, value)| !value.contains('\0')) {
        for variable in [
            "INTERCOM__I__SECRET",
            "KEYSETS__K__KEY_FILE",
            "KEYSETS__K__DIRECTORY",
            "CALLERS__C__API_KEY_SHA256",
        ] {
            workspace.set(&format!("TOKENMINT_{variable}"), &value);
            let ran = workspace.run(&["check"]);
            assert_hidden(&value, &(ran.stdout + &ran.stderr), &format!("{form} as {variable}"));
        }
    }
}

/// Sends SIGHUP and waits until the log contains `needle`, which only the message about this configuration
/// contains.
async fn reloaded(service: &Running, needle: &str) {
    signal(service.pid(), "HUP");
    service.logged(needle).await;
}

#[tokio::test]
async fn no_log_line_and_no_metric_shows_the_value_of_a_secret_setting() {
    let workspace = Workspace::bare();
    certificates(&workspace, "ca", "tls");
    let tls = |files: &str| {
        format!(
            "[server]\nlisten = '127.0.0.1:0'\n[server.ops]\nlisten = '127.0.0.1:0'\n[server.tls]\n{files}"
        )
    };
    let good = tls("certificate_file = 'tls.crt'\nprivate_key_file = 'tls.key'\nclient_ca_file = 'ca.crt'\n");
    workspace.configure(&good);
    let service = workspace.serve().await;
    let forms = wrong_forms();
    for (n, (_, value)) in forms.iter().enumerate() {
        // First the settings that are refused when the configuration is parsed, then those refused when a file is
        // opened.
        let read = filled(
            &format!(
                "[cache.redis]\nurl = V\nkey = V\npassword = V\n[intercom.x{n}]\nsecret_file = V\n[intercom.y{n}]\nsecret = V\nx = V\n\
                 [keysets.k]\nkid = 'k'\nkey = V\npassphrase_file = V\n[callers.c]\nallow = []\napi_key_sha256 = [V]\n"
            ),
            value,
        );
        workspace.configure(&format!("{good}{read}"));
        reloaded(&service, &format!("intercom.y{n}")).await;
        let opened = tls(&filled("certificate_file = V\nprivate_key_file = V\nclient_ca_file = V\n", value));
        let keysets = filled(
            &format!(
                "[keysets.d{n}]\ndirectory = V\n[keysets.e{n}]\nkid = 'e'\nkey_file = V\n[keysets.f{n}]\nkid = 'f'\nkey = V\n"
            ),
            value,
        );
        workspace.configure(&format!("{opened}{keysets}"));
        reloaded(&service, &format!("keysets.d{n}")).await;
    }
    let ops = reqwest::get(format!("http://{}/metrics", service.address("ops"))).await.expect("an answer");
    let metrics = ops.text().await.expect("text");
    let seen = service.whole_log().await + &metrics;
    for (form, value) in &forms {
        assert_hidden(value, &seen, form);
    }
}

/// A request may contain a Salesforce token, so its types have no `Debug`.
#[test]
fn a_request_has_no_debug_output() {
    struct Of<T>(std::marker::PhantomData<T>);
    impl<T: std::fmt::Debug> Of<T> {
        #[expect(clippy::unused_self, reason = "a method goes before that of a trait")]
        const fn can_be_printed(&self) -> bool {
            true
        }
    }
    trait Otherwise {
        fn can_be_printed(&self) -> bool {
            false
        }
    }
    impl<T> Otherwise for Of<T> {}
    assert!(Of::<String>(std::marker::PhantomData).can_be_printed());
    assert!(!Of::<tokenmint::json::Json>(std::marker::PhantomData).can_be_printed());
    assert!(!Of::<tokenmint::config::Config>(std::marker::PhantomData).can_be_printed());
}
