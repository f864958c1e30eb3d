//! Issuers of incoming JWTs: the fetch of their keys, and their tokens beside what callers require.

use std::sync::Arc;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Given, seconds};
use crate::issuers::{
    AUDIENCE, EC, FakeIssuer, ISSUER, IssuerKey, OTHER_RSA, RSA, claims, issuer, jwt_caller,
};
use crate::support::sha256_hex;

/// The `sub` of the JWT with which the caller `shop` authenticates.
const WORKLOAD: &str = "system:serviceaccount:shop:web";

/// A configuration with `[issuers.corp]`, the caller `shop` with its JWTs, and the caller `site` with its subject tokens.
fn configuration(issuers: &str) -> String {
    format!(
        "[intercom.fin]\nsecret = \"intercom-messenger-api-secret-0123456789\"\n{issuers}{}[callers.site]\n\
         api_key_sha256 = [\"{}\"]\nallow = [\"intercom.fin\"]\nsubject_token = \"required\"\nsubject_issuer = \"corp\"\n\
         subject_claim = \"email\"\n",
        jwt_caller("shop", WORKLOAD).replace("identity.web", "intercom.fin"),
        sha256_hex("site"),
    )
}

fn configured(issuers: &str) -> Given {
    let given = Given::nothing();
    given.workspace.configure(&configuration(issuers));
    given
}

/// An issuer whose keys are in a file.
fn known() -> Given {
    known_with("")
}

/// An issuer whose keys are in a file, with these settings.
fn known_with(settings: &str) -> Given {
    let given = configured(&issuer(&format!("jwks_file = \"corp.json\"\n{settings}")));
    given.workspace.write("corp.json", &json!({"keys": [RSA.jwk("key1"), EC.jwk("key2")]}).to_string());
    given
}

/// The claims of the workload's JWT with these changes, without those that are `null`.
fn workload(changes: &Value) -> Value {
    let mut claims = claims(WORKLOAD);
    let members = claims.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        members.insert(name.clone(), value.clone());
    }
    members.retain(|_, value| !value.is_null());
    claims
}

/// A token with these claims of the workload changed.
fn changed(changes: &Value) -> Given {
    known().token(&RSA.token("key1", &workload(changes)))
}

/// The doctor asks an issuer with these settings.
fn asking(issuers: &str) -> Given {
    configured(issuers).with(&["--online"])
}

async fn served(jwks: &[Value]) -> Given {
    let fake = FakeIssuer::serving(jwks).await;
    asking(&issuer(&fake.jwks_url()))
}

async fn answering(status: &str, settings: &str, body: &str) -> Given {
    let fake = FakeIssuer::serving(&[]).await;
    fake.answer("/jwks", status, "", body);
    let given = asking(&issuer(&format!("{}\n{settings}", fake.jwks_url())));
    given.workspace.write_key("pod.token", "a token");
    given
}

async fn down() -> Given {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/jwks", listener.local_addr().expect("an address"));
    drop(listener);
    asking(&issuer(&format!("jwks_url = \"{url}\"")))
}

/// An issuer that serves this over TLS, with a certificate that no authority signed.
async fn over_tls() -> Given {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            key.serialize_der().try_into().expect("a private key"),
        )
        .expect("a certificate with its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.shutdown().await;
            }
        }
    });
    asking(&issuer(&format!("jwks_url = \"https://localhost:{port}/jwks\"")))
}

/// An issuer found by discovery, whose metadata names this issuer.
async fn discovered(named: &str) -> Given {
    let fake = FakeIssuer::serving(&[RSA.jwk("key1")]).await;
    let metadata = json!({"issuer": named, "jwks_uri": format!("{}/jwks", fake.url)});
    fake.answer("/.well-known/openid-configuration", "200 OK", "", &metadata.to_string());
    asking(&issuer("discovery = true").replace(ISSUER, &fake.url))
}

/// A signed token with the last octets of another signature.
fn with_other_signature() -> Given {
    let [good, other] = ["a", "b"].map(|jti| RSA.token("key1", &workload(&json!({"jti": jti}))));
    let (signed, _) = good.rsplit_once('.').expect("a token");
    let (_, signature) = other.rsplit_once('.').expect("a token");
    known().token(&format!("{signed}.{signature}"))
}

/// Any header.
fn headed(header: &Value) -> Given {
    known().token(&RSA.sign(&header.to_string(), &workload(&json!({})).to_string()))
}

faults! {
    keys_at_a_wrong_url: "issuer-keys", fail, "has the status 404",
        answering("404 Not Found", "", "").await;
    keys_that_want_a_credential: "issuer-keys", fail, "has the status 401",
        answering("401 Unauthorized", "", "").await;
    keys_that_want_another_credential: "issuer-keys", fail, "has the status 403",
        answering("403 Forbidden", "bearer_token_file = \"pod.token\"", "").await;
    keys_that_moved: "issuer-keys", fail, "has the status 302",
        answering("302 Found", "", "").await;
    keys_that_are_a_page: "issuer-keys", fail, "isn't a JWKS: a JSON object with an array `keys`",
        answering("200 OK", "", "<html>").await;
    keys_that_are_too_many_bytes: "issuer-keys", fail, "has more than 64 KiB",
        answering("200 OK", "", &" ".repeat(70 << 10)).await;
    a_credential_that_is_missing: "issuer-keys", fail, "`bearer_token_file` can't be used",
        answering("200 OK", "bearer_token_file = \"none.token\"", "").await;
    keys_of_an_issuer_that_is_down: "issuer-keys", fail, "the JWKS can't be fetched: ", down().await;
    keys_behind_an_unknown_certificate: "issuer-keys", fail, "invalid peer certificate", over_tls().await;
    metadata_of_another_issuer: "issuer-keys", fail, "names another `issuer`",
        discovered("https://another.example").await;
    keys_for_other_algorithms: "issuer-keys", fail, "has no key for signatures with RS256 or ES256",
        served(&[IssuerKey::new(Algorithm::ES384).jwk("key1")]).await;
    two_keys_with_one_id: "issuer-keys", fail, "has two keys with the same `kid`",
        served(&[RSA.jwk("key1"), OTHER_RSA.jwk("key1")]).await;

    a_jwt_for_another_service: "incoming-token", fail, "refuses it by the rule `aud`: it isn't for an `audience`",
        changed(&json!({"aud": ["another"]}));
    a_jwt_for_nobody: "incoming-token", fail, "by the rule `aud`", changed(&json!({"aud": null}));
    an_old_jwt: "incoming-token", fail, "by the rule `exp`: it has expired", changed(&json!({"exp": seconds() - 1}));
    a_jwt_that_never_expires: "incoming-token", fail, "has no `exp` that is a number", changed(&json!({"exp": null}));
    a_jwt_that_expires_in_words: "incoming-token", fail, "has no `exp` that is a number",
        changed(&json!({"exp": (seconds() + 600).to_string()}));
    a_jwt_of_tomorrow: "incoming-token", fail, "by the rule `nbf`", changed(&json!({"nbf": seconds() + 86_400}));
    a_jwt_from_a_fast_clock: "incoming-token", fail, "by the rule `iat`", changed(&json!({"iat": seconds() + 90}));
    a_jwt_that_is_too_old: "incoming-token", fail, "by the rule `max_age`",
        known_with("max_age = \"1m\"").token(&RSA.token("key1", &workload(&json!({"iat": seconds() - 300}))));
    a_jwt_of_the_issuer_with_a_slash: "incoming-token", fail, "they differ by a slash at the end",
        changed(&json!({"iss": format!("{ISSUER}/")}));
    a_jwt_of_a_stranger: "incoming-token", fail, "no [issuers.NAME] has its `iss`, `https://stranger.example`",
        changed(&json!({"iss": "https://stranger.example"}));
    a_jwt_of_another_workload: "incoming-token", fail, "for callers.shop, it doesn't have the claims that the configuration requires",
        changed(&json!({"sub": "system:serviceaccount:shop:admin"}));
    a_logout_token: "incoming-token", fail, "by the rule `typ`",
        headed(&json!({"alg": "RS256", "typ": "logout+jwt", "kid": "key1"}));
    a_jwt_with_critical_extensions: "incoming-token", fail, "by the rule `crit`",
        headed(&json!({"alg": "RS256", "kid": "key1", "crit": ["exp"]}));
    a_jwt_with_an_algorithm_that_is_not_allowed: "incoming-token", fail, "by the rule `alg`",
        headed(&json!({"alg": "RS512", "kid": "key1"}));
    a_jwt_with_a_member_twice: "incoming-token", fail, "by the rule `payload`",
        known().token(&RSA.sign(
            r#"{"alg":"RS256","kid":"key1"}"#,
            &workload(&json!({})).to_string().replacen('{', r#"{"sub":"someone","#, 1),
        ));

    a_jwt_with_a_wrong_signature: "incoming-signature", fail, "by the rule `signature`: it has a wrong signature",
        with_other_signature();
    a_jwt_of_another_key_under_the_same_id: "incoming-signature", fail, "it has a wrong signature",
        known().token(&OTHER_RSA.token("key1", &workload(&json!({}))));
    a_jwt_of_an_unknown_key: "incoming-signature", fail, "`old`, and the issuer has `key1`, `key2`",
        known().token(&RSA.token("old", &workload(&json!({}))));
}

/// The findings of a check, whatever their outcome.
fn seen(given: &Given, check: &str) -> Vec<String> {
    let report: Value = serde_json::from_str(&given.run(&["--json"]).stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings").iter();
    let findings = findings.filter(|finding| finding["check"] == check);
    findings.map(|finding| finding["seen"].as_str().expect("text").to_owned()).collect()
}

fn skipped(given: &Given, check: &str) -> Vec<String> {
    let skipped = given.not_looked_at().into_iter().filter(|skipped| skipped["check"] == check);
    skipped.map(|skipped| skipped["reason"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn an_accepted_jwt_has_no_finding_and_its_caller_is_named() {
    for (key, kid) in [(&*RSA, "key1"), (&*EC, "key2")] {
        let given = known().token(&key.token(kid, &workload(&json!({}))));
        given.is_well();
        assert_eq!(seen(&given, "incoming-token"), ["it would be accepted: it authenticates callers.shop"]);
        assert_eq!(seen(&given, "incoming-signature"), ["is signed by a key of issuers.corp"]);
    }
}

#[test]
fn an_accepted_subject_token_has_no_finding_and_its_subject_is_named() {
    let given = changed(&json!({"sub": "4711", "email": "ann@acme.example"}));
    given.is_well();
    assert_eq!(
        seen(&given, "incoming-token"),
        ["it would be accepted: it is a subject token of callers.site for the subject `ann@acme.example`"]
    );
}

#[test]
fn a_token_is_shown_beside_the_rules_claim_by_claim() {
    let given = changed(&json!({"aud": "another", "email": "ann@acme.example"}));
    let text = given.run(&[]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "token.txt beside issuers.corp ✓ typ",
        "✓ alg \"RS256\"; required: RS256 or ES256 ✓ iss",
        &format!("✗ aud \"another\"; required: \"{AUDIENCE}\" ✓ exp "),
        "; required: later than now ✓ iat ",
        "token.txt beside callers.shop (jwt_claims)",
        &format!("✓ sub \"{WORKLOAD}\"; required: \"{WORKLOAD}\""),
        "token.txt beside callers.site (subject_token)",
        "✓ email \"ann@acme.example\"; required: a string that names the subject",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let report: Value = serde_json::from_str(&given.run(&["--json"]).stdout).expect("JSON");
    let of_issuer = &report["comparisons"][0];
    assert_eq!((&of_issuer["about"], &of_issuer["rules"]), (&json!("token.txt"), &json!("issuers.corp")));
    let wrong: Vec<&Value> =
        of_issuer["claims"].as_array().expect("claims").iter().filter(|claim| claim["ok"] == false).collect();
    assert_eq!(
        wrong,
        [&json!({"claim": "aud", "token": "another", "required": format!("{AUDIENCE:?}"), "ok": false})]
    );
}

/// Offline, all rules but the signature are judged, and the report says what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_only_online() {
    let fake = FakeIssuer::serving(&[RSA.jwk("key1")]).await;
    let offline = configured(&issuer(&fake.jwks_url())).token(&RSA.token("key1", &workload(&json!({}))));
    offline.is_well();
    assert_eq!(
        seen(&offline, "incoming-token"),
        ["it would be accepted if its signature is right: it authenticates callers.shop"]
    );
    assert_eq!(
        skipped(&offline, "incoming-signature"),
        [
            "its signature wasn't checked, because `tokenmint doctor --online` alone fetches the keys of issuers.corp"
        ]
    );
    assert_eq!(skipped(&offline, "issuer-keys"), ["its keys weren't fetched; --online fetches them"]);
    let said = offline.run(&[]).ok().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("no fault was found in ") && said.contains("its signature wasn't checked"),
        "{said}"
    );
    assert_eq!(fake.requests().len(), 0);

    let online = offline.with(&["--online"]);
    online.is_well();
    assert_eq!(
        seen(&online, "issuer-keys"),
        ["its keys can be fetched: 1 usable key (`key1`), fresh for 10 minutes"]
    );
    assert_eq!(seen(&online, "incoming-signature"), ["is signed by a key of issuers.corp"]);
}

/// Two clusters with one `iss`: the token is that of the one whose key signed it.
#[test]
fn a_token_is_judged_by_the_issuer_whose_key_signed_it() {
    let second = issuer("jwks_file = \"second.json\"").replace("issuers.corp", "issuers.second");
    let text = configuration(&(issuer("jwks_file = \"corp.json\"") + &second));
    let given = Given::nothing().token(&RSA.token("key1", &workload(&json!({}))));
    given.workspace.configure(&format!(
        "{text}{}",
        jwt_caller("other", WORKLOAD).replace("identity.web", "intercom.fin").replace("corp", "second")
    ));
    given.workspace.write("corp.json", &json!({"keys": [OTHER_RSA.jwk("key1")]}).to_string());
    given.workspace.write("second.json", &json!({"keys": [RSA.jwk("key1")]}).to_string());
    given.is_well();
    assert_eq!(seen(&given, "incoming-token"), ["it would be accepted: it authenticates callers.other"]);
}

#[test]
fn verify_judges_an_incoming_token_too() {
    let given = known();
    let verify = |token: &str| {
        let ran = given.workspace.run_with_input(&["verify", "--json"], token);
        let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        (ran.code(), report["kind"].clone(), report["verdict"].as_str().expect("text").to_owned())
    };
    let (code, kind, verdict) = verify(&RSA.token("key1", &workload(&json!({}))));
    assert_eq!((code, kind), (0, json!("incoming")), "{verdict}");
    assert!(verdict.starts_with("tokenmint would accept this token"), "{verdict}");
    let (code, _, verdict) = verify(&OTHER_RSA.token("key1", &workload(&json!({}))));
    assert_eq!(code, 1);
    assert!(verdict.starts_with("tokenmint would not accept this token"), "{verdict}");
}

/// A token of a profile stays one of Salesforce's, and `--as` decides if a person knows better.
#[test]
fn tokens_of_profiles_are_not_taken_for_incoming_ones() {
    let issuers = issuer("jwks_file = \"corp.json\"") + &jwt_caller("shop", WORKLOAD) + "[callers.web]\n";
    let given = Given::configured(&[("[callers.web]\n", &issuers)]);
    given.workspace.write("corp.json", &json!({"keys": [RSA.jwk("key1")]}).to_string());
    let given = given.token(&super::token(&json!({})));
    given.is_well();
    assert!(seen(&given, "token-kind")[0].contains("an identity token"));
    assert_eq!(seen(&given.with(&["--as", "incoming"]), "incoming-token").len(), 1);
}

/// The same tokens, asked at the door of the service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_and_the_service_agree() {
    let given = known();
    let text = configuration(&issuer("jwks_file = \"corp.json\""));
    given.workspace.configure(&format!("[server]\nlisten = \"127.0.0.1:0\"\n{text}"));
    let service = given.workspace.serve().await;
    for (token, refusal) in [
        (RSA.token("key1", &workload(&json!({}))), None),
        (RSA.token("key1", &workload(&json!({"aud": "another"}))), Some("isn't for an `audience`")),
        (RSA.token("key1", &workload(&json!({"nbf": "soon"}))), Some("isn't valid yet")),
        (RSA.token("old", &workload(&json!({}))), Some("names a key (`kid`)")),
    ] {
        let answer = service.post_text("/intercom-user-jwt", &token, r#"{"user_id": "1"}"#).await;
        given.workspace.write("token.txt", &token);
        let report: Value =
            serde_json::from_str(&given.workspace.run(&["doctor", "token.txt", "--json"]).stdout)
                .expect("JSON");
        match refusal {
            None => {
                assert_eq!(answer.status, 200, "{}", answer.text);
                assert_eq!(report["ok"], true, "{report}");
            }
            Some(refusal) => {
                assert_eq!(answer.status, 401, "{}", answer.text);
                service.logged(refusal).await;
                assert!(report["findings"].to_string().contains(refusal), "{report}");
            }
        }
    }
}
