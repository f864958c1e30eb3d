//! Secrets stay where they are: canaries in each of them, and a look at everything that comes out.

use serde_json::json;

use crate::support::{API_KEY, KEYS, Workspace, configuration, sha256_hex, user_1};

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
    assert_eq!(service.log().matches("\"minted\"").count(), 1);
    assert!(!service.log().contains(sub) && !service.log().contains(&token));
}

#[tokio::test]
async fn with_an_audit_key_a_person_s_lines_are_found_across_restarts() {
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
async fn no_secret_comes_out_anywhere() {
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
    service.logged("minted").await;
    seen += &service.log();
    let private = KEYS.web.lines().nth(5).expect("a line of the key");
    for secret in [API_KEY, private, "intercom-messenger-api-secret", "canary-sub-1", "canary-sub-2"] {
        assert!(!seen.contains(secret), "{secret}");
    }
}

/// Every number of a published JWK is public: none divides the modulus or stands in the private key.
#[tokio::test]
async fn no_private_number_is_published() {
    use base64::Engine as _;
    use rsa::pkcs8::DecodePrivateKey as _;
    use rsa::traits::PrivateKeyParts as _;
    let service = Workspace::new().serve().await;
    let key = rsa::RsaPrivateKey::from_pkcs8_pem(&KEYS.web).expect("good");
    let mut private = key.primes().to_vec();
    private.push(key.d().clone());
    let text = service.get("/keysets/web/jwks.json").await.text;
    for number in private {
        let bytes = number.to_bytes_be();
        for encoded in [
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&bytes),
            base64::engine::general_purpose::STANDARD.encode(&bytes),
        ] {
            assert!(!text.contains(&encoded));
        }
    }
}
