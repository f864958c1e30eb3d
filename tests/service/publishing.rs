//! The JWK Sets that Salesforce pulls.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::Method;
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::support::{Answer, Workspace, user_1, verified};

#[tokio::test]
async fn a_set_holds_each_key_with_its_certificate_and_nothing_private() {
    let service = Workspace::new().serve().await;
    let union = service.get("/.well-known/jwks.json").await;
    assert_eq!(union.header("content-type"), "application/json");
    let union = union.ok();
    let keys = union["keys"].as_array().expect("keys");
    assert_eq!(keys.len(), 3);
    for key in keys {
        let members: Vec<&str> = key.as_object().expect("a JWK").keys().map(String::as_str).collect();
        let mut expected = ["kty", "use", "alg", "kid", "n", "e", "x5c", "x5t#S256"];
        expected.sort_unstable();
        assert_eq!(members, expected);
        assert_eq!([&key["kty"], &key["use"], &key["e"]], ["RSA", "sig", "AQAB"]);
        let n = URL_SAFE_NO_PAD.decode(key["n"].as_str().expect("n")).expect("base64url without padding");
        assert!(n.len() == 256 && n[0] != 0, "no leading zero octet");

        let chain = key["x5c"].as_array().expect("x5c");
        assert_eq!(chain.len(), 1, "the leaf alone");
        let der = STANDARD.decode(chain[0].as_str().expect("text")).expect("plain base64");
        let (rest, certificate) = X509Certificate::from_der(&der).expect("a certificate");
        assert!(rest.is_empty());
        let key_of_it = &certificate.public_key().subject_public_key.data;
        let algorithm = &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
        aws_lc_rs::signature::UnparsedPublicKey::new(algorithm, key_of_it)
            .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
            .expect("self-signed");
        let left = certificate.validity().time_to_expiration().expect("valid now");
        assert!(left.whole_days() > 730, "an uploaded one lasts");
        assert!(certificate.public_key().subject_public_key.data.windows(256).any(|w| w == n), "its own key");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        assert_eq!(key["x5t#S256"], URL_SAFE_NO_PAD.encode(digest));
    }
    let one = service.get("/keysets/web/jwks.json").await.ok();
    assert_eq!(one["keys"].as_array().expect("keys").len(), 1);
    assert_eq!(one["keys"][0]["kid"], "WebAppKey1");
}

#[tokio::test]
async fn the_same_files_make_the_same_bytes_after_a_restart_and_on_every_replica() {
    let workspace = Workspace::new();
    let first = workspace.serve().await.get("/.well-known/jwks.json").await;
    let replica = workspace.serve().await;
    let second = replica.get("/.well-known/jwks.json").await;
    assert_eq!(first.text, second.text);
    assert_eq!(first.header("etag"), second.header("etag"));
    let printed = workspace.run(&["jwks"]).json();
    assert_eq!(printed, second.json());
}

#[tokio::test]
async fn a_verifier_with_the_current_set_gets_304() {
    let service = Workspace::new().serve().await;
    let path = "/keysets/web/jwks.json";
    let first = service.get(path).await;
    assert_eq!(first.header("cache-control"), "public, max-age=300");
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with('"'), "a strong ETag");
    let with = |tag: String| Answer::of(service.request(Method::GET, path).header("If-None-Match", tag));
    for tag in [etag.clone(), format!("\"x\", {etag}"), format!("W/{etag}"), "*".to_owned()] {
        let answer = with(tag).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (304, ""));
        assert_eq!(answer.header("etag"), etag);
    }
    assert_eq!(with("\"other\"".to_owned()).await.ok(), first.json());
    let head = Answer::of(service.request(Method::HEAD, path)).await;
    assert_eq!((head.status.as_u16(), head.text.as_str(), head.header("etag")), (200, "", etag.as_str()));
    assert_eq!(head.header("content-length"), first.text.len().to_string());
    // RFC 9110, section 8.6: never the length of the empty body.
    let head = Answer::of(service.request(Method::HEAD, path).header("If-None-Match", &etag)).await;
    assert_eq!(
        (head.status.as_u16(), head.header("content-length")),
        (304, first.text.len().to_string().as_str())
    );
    let metrics = service.metrics().await;
    assert!(metrics.contains(r#"tokenmint_jwks_fetches_total{client="none",keyset="web"} 6"#), "{metrics}");
}

#[tokio::test]
async fn a_given_certificate_is_published_as_it_is() {
    let workspace = Workspace::new();
    let derived = workspace.run(&["jwk", "CrmKey1"]).json();
    let certificate = certificate(&workspace, "crm/CrmKey1", "-days 400");
    let service = workspace.serve().await;
    let key = service.get("/keysets/crm/jwks.json").await.ok()["keys"][0].clone();
    assert_eq!(key["x5c"][0], STANDARD.encode(&certificate));
    assert_ne!(key["x5c"], derived["x5c"]);
    assert_eq!(key["n"], derived["n"]);
    let metrics = service.metrics().await;
    let left = metrics.lines().find(|line| line.contains(r#"certificate_remaining_seconds{keyset="crm""#));
    let left: f64 = left.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a number");
    assert!((399.0..=400.0).contains(&(left / 86_400.0)), "{left}");
}

/// Salesforce requires ten days. A key whose certificate has less still signs, with a derived certificate.
#[tokio::test]
async fn an_expiring_certificate_is_replaced_by_a_derived_one() {
    let workspace = Workspace::new();
    let derived = workspace.run(&["jwk", "WebAppKey1"]).json();
    certificate(&workspace, "web/WebAppKey1", "-days 9");
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("WebAppKey1.crt") && ran.stderr.contains("10 days"), "{}", ran.stderr);
    let service = workspace.serve().await;
    assert_eq!(service.get("/keysets/web/jwks.json").await.ok()["keys"][0], derived);
    let token = service.post("/identity-token", &user_1()).await.ok()["token"].clone();
    verified(token.as_str().expect("a token"), &service.jwks("/keysets/web/jwks.json").await);
}

/// Salesforce would refuse the certificate for its dates. The key still signs.
#[tokio::test]
async fn an_expired_or_not_yet_valid_certificate_is_replaced_by_a_derived_one() {
    for (name, from, to) in [("expired", 2019, 2020), ("not valid yet", 2090, 2095)] {
        let workspace = Workspace::new();
        let derived = workspace.run(&["jwk", "WebAppKey1"]).json();
        let key = rcgen::KeyPair::from_pem(&crate::support::KEYS.web).expect("an RSA key");
        let mut dates = rcgen::CertificateParams::default();
        (dates.not_before, dates.not_after) =
            (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
        workspace.write("keys/web/WebAppKey1.crt", &dates.self_signed(&key).expect("a certificate").pem());
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 0, "{name}: {}", ran.stderr);
        let warned =
            ran.stderr.lines().any(|line| line.starts_with("warning: ") && line.contains("WebAppKey1.crt"));
        assert!(warned, "{name}: {}", ran.stderr);
        let service = workspace.serve().await;
        assert_eq!(service.get("/keysets/web/jwks.json").await.ok()["keys"][0], derived, "{name}");
        let token = service.post("/identity-token", &user_1()).await.ok()["token"].clone();
        verified(token.as_str().expect("a token"), &service.jwks("/keysets/web/jwks.json").await);
    }
}

#[test]
fn a_certificate_with_less_than_thirty_days_is_warned_of() {
    let workspace = Workspace::new();
    certificate(&workspace, "web/WebAppKey1", "-days 20");
    let ran = workspace.run(&["check", "--json"]).json();
    let warning = &ran["warnings"][0];
    assert!(warning["message"].as_str().is_some_and(|m| m.starts_with("runs out")), "{ran}");
    assert!(warning["source"].as_str().is_some_and(|s| s.ends_with("WebAppKey1.crt")), "{ran}");
}

/// Makes `keys/NAME.crt` for `keys/NAME.key` with openssl, and returns its DER.
fn certificate(workspace: &Workspace, name: &str, life: &str) -> Vec<u8> {
    let path = |extension: &str| workspace.path(&format!("keys/{name}.{extension}")).display().to_string();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-sha256", "-subj", "/CN=acme", "-key", &path("key"), "-out", &path("crt")])
        .args(life.split(' '))
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pem = std::fs::read_to_string(path("crt")).expect("a certificate");
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM").1.contents
}

#[test]
fn the_upload_form_has_salesforce_s_placeholders_and_no_private_number() {
    let workspace = Workspace::new();
    let plain = workspace.run(&["jwk", "WebAppKey1"]).json();
    let mut form = workspace.run(&["jwk", "WebAppKey1", "--upload-form"]).json();
    for name in ["y", "crv", "d", "k"] {
        assert_eq!(plain.get(name), None);
        assert_eq!(form.as_object_mut().expect("a JWK").remove(name), Some(Value::from(name)));
    }
    assert_eq!(form, plain);
    let ran = workspace.run(&["jwk", "Other"]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stderr.contains("WebAppKey1"), "{}", ran.stderr);
}
