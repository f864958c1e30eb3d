//! Tokens that are wrong in one way each. Each is refused, for its own reason.

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use rcgen::{PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use tokenmint::clock::{ManualClock, UnixTime};

use super::{AUDIENCE, EC, FakeIssuer, ISSUER, IssuerKey, OTHER_RSA, RSA, claims_at, subject_caller};
use crate::in_process::InProcess;
use crate::support::{Workspace, configuration};

const NOW: i64 = 1_796_083_200;
const SECRET: &str = "a secret of the issuer, longer than 32 bytes";

/// A bad token, with its fault and the words of its refusal.
struct BadToken {
    fault: String,
    token: String,
    reason: &'static str,
}

fn bad(fault: impl Into<String>, token: impl Into<String>, reason: &'static str) -> BadToken {
    BadToken { fault: fault.into(), token: token.into(), reason }
}

/// The service, with a caller whose subjects an issuer with these settings proves.
async fn service_of(settings: &str) -> InProcess {
    let workspace = Workspace::bare();
    // Larger than the longest token.
    let configuration = configuration().replace("[server]\n", "[server]\nlimits.body = \"64KiB\"\n");
    workspace.configure(&(configuration + settings + &subject_caller("required")));
    workspace.write("issuer.secret", SECRET);
    let keys = json!({"keys": [RSA.jwk("rsa"), EC.jwk("ec"), {"kty": "oct", "kid": "oct", "k": "AAAA"}]});
    workspace.write("jwks.json", &keys.to_string());
    InProcess::of(Arc::new(workspace), Arc::new(ManualClock::at(UnixTime::from_seconds(NOW)))).await
}

fn settings(more: &str) -> String {
    format!("[issuers.corp]\nissuer = \"{ISSUER}\"\naudience = [\"{AUDIENCE}\", \"second-app\"]\n{more}\n")
}

/// Valid claims, with `name` set to `value`.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims_at(NOW, "user-1");
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims_at(NOW, "user-1");
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn signed(claims: &Value) -> String {
    RSA.token("rsa", claims)
}

/// Signs valid claims with this header.
fn with_header(header: &Value) -> String {
    RSA.sign(&header.to_string(), &claims_at(NOW, "user-1").to_string())
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let signed = format!("{}.{}", encode(&header.to_string()), encode(&claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

fn bad_forms() -> Vec<BadToken> {
    const FORM: &str = "isn't a signed JWT in compact form";
    let good = signed(&claims_at(NOW, "user-1"));
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { unreachable!("a JWS has three parts") };
    let padded = STANDARD.encode(claims_at(NOW, "user-1x").to_string());
    let mut forms = vec![
        bad("empty", "", FORM),
        bad("a dot", ".", FORM),
        bad("two dots", "..", "has a header that isn't a JSON object"),
        bad("two parts", format!("{header}.{payload}"), FORM),
        bad("four parts", format!("{good}.{signature}"), FORM),
        bad("a JWE of five parts", format!("{header}.{payload}.{payload}.{payload}.{signature}"), FORM),
        bad("no signature", format!("{header}.{payload}."), "has a wrong signature"),
        bad("no payload", format!("{header}..{signature}"), "has a payload that isn't a JSON object"),
        bad("no header", format!(".{payload}.{signature}"), "has a header that isn't a JSON object"),
        bad("a space before", format!(" {good}"), FORM),
        bad("a space behind", format!("{good} "), FORM),
        bad("a line end behind", format!("{good}\n"), FORM),
        bad("Bearer before", format!("Bearer {good}"), FORM),
        bad("quotes", format!("\"{good}\""), FORM),
        bad("a padded payload", format!("{header}.{padded}==.{signature}"), FORM),
        bad(
            "base64 with + and /",
            format!("{header}.{}.{signature}", STANDARD_NO_PAD.encode("{\"a\": \"???>>>\"}")),
            FORM,
        ),
        bad("a comma as dot", good.replacen('.', ",", 1), FORM),
        bad("a NUL inside", good.replacen('.', ".\u{0}", 1), FORM),
        bad("non-ASCII", good.replacen('.', ".é", 1), FORM),
        bad("a JSON serialization", json!({"payload": payload, "signature": signature}).to_string(), FORM),
        bad("other bits at the end of the signature", format!("{}B", &good[..good.len() - 1]), FORM),
        bad(
            "another signature",
            format!("{header}.{payload}.{}", encode(&signature[..300])),
            "has a wrong signature",
        ),
        bad("a longer signature", format!("{good}AAAA"), "has a wrong signature"),
        bad(
            "another payload",
            format!("{header}.{}.{signature}", encode(&with("sub", json!("root")).to_string())),
            "has a wrong signature",
        ),
        bad("a huge token", signed(&with("padding", json!("a".repeat(17 << 10)))), "has more than 16 KiB"),
        bad(
            "a huge header",
            with_header(&json!({"alg": "RS256", "kid": "rsa", "x": "a".repeat(17 << 10)})),
            "has more than 16 KiB",
        ),
    ];
    for (name, text) in [
        ("an array", "[]"),
        ("a string", "\"claims\""),
        ("a number", "7"),
        ("null", "null"),
        ("no JSON", "claims"),
        ("cut JSON", "{\"iss\": "),
        ("two objects", "{}{}"),
        ("nothing", ""),
        ("a byte order mark", "\u{feff}{}"),
        ("NaN", "{\"exp\": NaN}"),
        ("a nested JWT", &good),
    ] {
        let payload = RSA.sign(r#"{"alg":"RS256","kid":"rsa"}"#, text);
        forms.push(bad(format!("{name} as payload"), payload, "has a payload that isn't a JSON object"));
        let header = RSA.sign(text, &claims_at(NOW, "user-1").to_string());
        forms.push(bad(format!("{name} as header"), header, "has a header that isn't a JSON object"));
    }
    let not_utf8 = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(b"{\"sub\":\"\xff\"}"));
    forms.push(bad("a payload that isn't UTF-8", not_utf8, "has a payload that isn't a JSON object"));
    for member in ["iss", "aud", "sub", "exp", "iat", "other"] {
        let claims = with("other", json!(1)).to_string();
        let twice = claims.replacen('{', &format!("{{\"{member}\": 1,"), 1);
        let token = RSA.sign(r#"{"alg":"RS256","kid":"rsa"}"#, &twice);
        forms.push(bad(
            format!("{member} twice"),
            token,
            "has a payload that isn't a JSON object, or that has a member twice",
        ));
    }
    let inner = with("other", json!({"a": 1})).to_string().replace("{\"a\":1}", "{\"a\":1,\"a\":2}");
    forms.push(bad(
        "a member twice inside a claim",
        RSA.sign(r#"{"alg":"RS256","kid":"rsa"}"#, &inner),
        "has a payload",
    ));
    for header in [r#"{"alg":"RS256","alg":"none","kid":"rsa"}"#, r#"{"alg":"RS256","kid":"rsa","kid":"ec"}"#]
    {
        let token = RSA.sign(header, &claims_at(NOW, "user-1").to_string());
        forms.push(bad(header, token, "has a header that isn't a JSON object, or that has a member twice"));
    }
    forms
}

fn bad_headers() -> Vec<BadToken> {
    const CRITICAL: &str = "has critical extensions (`crit`)";
    const ALGORITHM: &str = "has a signature algorithm (`alg`) that isn't one of the issuer's";
    let mut headers = Vec::new();
    for algorithm in [
        json!("none"),
        json!("None"),
        json!("NONE"),
        json!("nOnE"),
        json!(""),
        json!("rs256"),
        json!("RS256 "),
        json!("RS384"),
        json!("RS512"),
        json!("PS256"),
        json!("ES384"),
        json!("ES256K"),
        json!("EdDSA"),
        json!("HS256"),
        json!("HS384"),
        json!("HS512"),
        json!("RSA-OAEP"),
        json!("dir"),
        json!(null),
        json!(256),
        json!(["RS256"]),
        json!({"alg": "RS256"}),
        json!(true),
    ] {
        let header = json!({"alg": algorithm, "kid": "rsa"});
        headers.push(bad(format!("alg {algorithm}"), with_header(&header), ALGORITHM));
        let unsigned =
            format!("{}.{}.", encode(&header.to_string()), encode(&claims_at(NOW, "user-1").to_string()));
        headers.push(bad(format!("alg {algorithm}, unsigned"), unsigned, ALGORITHM));
    }
    headers.push(bad("no alg", with_header(&json!({"kid": "rsa"})), ALGORITHM));
    headers.push(bad("alg of another key", with_header(&json!({"alg": "ES256", "kid": "rsa"})), ALGORITHM));
    headers.push(bad(
        "the key of another alg",
        with_header(&json!({"alg": "RS256", "kid": "ec"})),
        ALGORITHM,
    ));
    // The public key as the secret of HMAC, in the forms in which it is at hand.
    let jwk = RSA.jwk("rsa");
    let n = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().expect("text")).expect("base64url");
    for secret in [
        RSA.pair.public_key_pem().into_bytes(),
        RSA.pair.subject_public_key_info(),
        jwk.to_string().into_bytes(),
        n,
        b"".to_vec(),
    ] {
        for kid in ["rsa", "oct"] {
            let token = hs256(&json!({"alg": "HS256", "kid": kid}), &claims_at(NOW, "user-1"), &secret);
            headers.push(bad(
                format!("HS256 with a public value of {} bytes", secret.len()),
                token,
                ALGORITHM,
            ));
        }
    }
    for critical in
        [json!(["exp"]), json!(["b64"]), json!(["alg"]), json!([]), json!(null), json!("b64"), json!([1])]
    {
        let header = json!({"alg": "RS256", "kid": "rsa", "crit": critical, "b64": true, "exp": 1});
        headers.push(bad(format!("crit {critical}"), with_header(&header), CRITICAL));
    }
    for kind in [
        json!("logout+jwt"),
        json!("secevent+jwt"),
        json!("dpop+jwt"),
        json!("JWE"),
        json!("application/json"),
        json!(""),
        json!(1),
        json!(null),
        json!(["JWT"]),
    ] {
        let header = json!({"alg": "RS256", "kid": "rsa", "typ": kind});
        headers.push(bad(format!("typ {kind}"), with_header(&header), "is of another type than JWT (`typ`)"));
    }
    for kid in [json!(1), json!(null), json!(["rsa"]), json!({"kid": "rsa"}), json!(true)] {
        let header = json!({"alg": "RS256", "kid": kid});
        headers.push(bad(format!("kid {kid}"), with_header(&header), "has a `kid` that isn't a string"));
    }
    for kid in ["", "RSA", "rsa ", "rsa\u{0}", "../rsa", "oct", "rsa' OR 1=1"] {
        let token = with_header(&json!({"alg": "RS256", "kid": kid}));
        headers.push(bad(
            format!("kid {kid:?}"),
            token,
            "names a key (`kid`) that isn't one of the issuer's",
        ));
    }
    // Headers that bring a key of their own.
    let own = OTHER_RSA.jwk("rsa");
    for (name, header) in [
        ("jwk", json!({"alg": "RS256", "kid": "rsa", "jwk": own})),
        ("jku", json!({"alg": "RS256", "kid": "rsa", "jku": "https://attacker.example/jwks"})),
        ("x5u", json!({"alg": "RS256", "kid": "rsa", "x5u": "https://attacker.example/x5u"})),
        ("no kid", json!({"alg": "RS256"})),
        ("a stranger's key under the kid", json!({"alg": "RS256", "kid": "rsa"})),
    ] {
        let token = OTHER_RSA.sign(&header.to_string(), &claims_at(NOW, "user-1").to_string());
        headers.push(bad(name, token, "has a wrong signature"));
    }
    let stranger = IssuerKey::new(Algorithm::ES256);
    headers.push(bad(
        "a stranger's EC key",
        stranger.token("ec", &claims_at(NOW, "user-1")),
        "has a wrong signature",
    ));
    // In DER, as X.509 has it, instead of the two numbers of RFC 7518, section 3.4.
    let good = EC.token("ec", &claims_at(NOW, "user-1"));
    let (start, _) = good.rsplit_once('.').expect("a JWS");
    let der = EC.pair.sign(start.as_bytes()).expect("a signature");
    for signature in [der, vec![0; 64], vec![0; 63], vec![0xff; 64]] {
        let token = format!("{start}.{}", URL_SAFE_NO_PAD.encode(&signature));
        headers.push(bad(format!("an ECDSA signature {signature:?}"), token, "has a wrong signature"));
    }
    headers
}

fn bad_claims() -> Vec<BadToken> {
    let mut bad_claims = Vec::new();
    let mut add = |name: &str, value: Value, reason| {
        bad_claims.push(bad(format!("{name} {value}"), signed(&with(name, value)), reason));
    };
    let wrong_types = || [json!(null), json!(true), json!([]), json!({}), json!("")];
    for value in wrong_types().into_iter().chain([
        json!(1),
        json!([ISSUER]),
        json!(format!("{ISSUER}/")),
        json!(format!(" {ISSUER}")),
        json!(ISSUER.to_uppercase()),
        json!("https://login.acme.example.attacker.example"),
    ]) {
        add("iss", value, "is of another issuer (`iss`)");
    }
    for value in wrong_types().into_iter().chain([
        json!("other"),
        json!(format!("{AUDIENCE} ")),
        json!(AUDIENCE.to_uppercase()),
        json!(format!("{AUDIENCE},other")),
        json!(["other"]),
        json!([[AUDIENCE]]),
        json!([AUDIENCE, 1]),
        json!([null, AUDIENCE]),
        json!({AUDIENCE: true}),
        json!({"0": AUDIENCE}),
        json!(7),
    ]) {
        add("aud", value, "isn't for an `audience` of the configuration (`aud`)");
    }
    for value in wrong_types().into_iter().chain([json!("1796090000"), json!([NOW + 600]), json!("never")]) {
        add("exp", value, "has no `exp` that is a number");
    }
    for value in [NOW, NOW - 1, NOW - 20, 0, -1, i64::MIN].map(|time| json!(time)) {
        add("exp", value, "has expired (`exp`)");
    }
    add("exp", json!(1_796_083_200.9), "has expired (`exp`)");
    add("exp", json!(-1e300), "has expired (`exp`)");
    for value in
        wrong_types().into_iter().chain([json!("0"), json!(NOW + 31), json!(NOW + 9_999), json!(1e300)])
    {
        add("nbf", value.clone(), "isn't valid yet, or its `nbf` isn't a number");
        add("iat", value, "was issued in the future, or its `iat` isn't a number");
    }
    for value in [json!(null), json!(1), json!(["user-1"]), json!({"id": "user-1"}), json!(true)] {
        add("sub", value, "has no string in the claim that names the subject");
    }
    for value in ["", "null", "undefined", "user\u{200b}1", " user-1", "{{user.id}}"] {
        add("sub", json!(value), "names a subject that");
    }
    add("sub", json!("a".repeat(201)), "names a subject that");
    for (name, reason) in [
        ("iss", "is of another issuer"),
        ("aud", "isn't for an `audience`"),
        ("exp", "has no `exp`"),
        ("sub", "has no string in the claim that names the subject"),
    ] {
        bad_claims.push(bad(format!("no {name}"), signed(&without(name)), reason));
    }
    bad_claims
}

#[tokio::test]
async fn each_bad_token_is_refused_for_its_reason_and_no_value_is_repeated() {
    let service = service_of(&settings("jwks_file = \"jwks.json\"")).await;
    for good in [
        signed(&claims_at(NOW, "user-1")),
        EC.token("ec", &claims_at(NOW, "user-1")),
        signed(&with("aud", json!(["other", "second-app"]))),
        signed(&with("exp", json!(1_796_083_201.5))),
        signed(&with("nbf", json!(NOW + 30))),
        signed(&with("iat", json!(NOW + 30))),
        signed(&without("iat")),
        with_header(&json!({"alg": "RS256", "kid": "rsa", "typ": "at+JWT"})),
        with_header(&json!({"alg": "RS256", "kid": "rsa", "typ": "application/at+jwt"})),
    ] {
        let minted = service.post("/identity-token", "shop", &json!({"subject_token": good})).await;
        assert_eq!(minted.status.as_u16(), 200, "{good}: {}", minted.text);
    }
    let all: Vec<BadToken> = [bad_forms(), bad_headers(), bad_claims()].into_iter().flatten().collect();
    assert!(all.len() >= 150, "{}", all.len());
    for BadToken { fault, token, reason } in all {
        let refused = service.post("/identity-token", "shop", &json!({"subject_token": token})).await;
        assert_eq!(refused.status.as_u16(), 400, "{fault}: {}", refused.text);
        let description = refused.refused(400, "invalid_request", Some("subject_token"));
        assert!(description.contains(reason), "{fault}: {description}, and not: {reason}");
        assert!(description.starts_with("`subject_token` "), "{fault}: {description}");
        for value in ["user-1", "acme", AUDIENCE, "eyJ"] {
            assert!(!description.contains(value), "{fault}: {description} repeats {value}");
        }
    }
}

#[tokio::test]
async fn max_age_needs_a_recent_iat_and_bounds_the_minted_token() {
    let service = service_of(&settings("jwks_file = \"jwks.json\"\nmax_age = \"5m\"")).await;
    let post = async |claims: &Value| {
        service.post("/identity-token", "shop", &json!({"subject_token": signed(claims)})).await
    };
    for claims in [with("iat", json!(NOW - 301)), without("iat")] {
        let description = post(&claims).await.refused(400, "invalid_request", Some("subject_token"));
        assert!(description.contains("is older than `max_age`, or has no `iat`"), "{description}");
    }
    let minted = post(&with("iat", json!(NOW - 100))).await.ok();
    assert_eq!((minted["expires_at"].clone(), minted["expires_in"].clone()), (json!(NOW + 200), json!(200)));
}

#[tokio::test]
async fn a_secret_verifies_hs256_alone() {
    let service = service_of(&settings("secret_file = \"issuer.secret\"")).await;
    let post =
        async |token: String| service.post("/identity-token", "shop", &json!({"subject_token": token})).await;
    let claims = claims_at(NOW, "user-1");
    for header in [json!({"alg": "HS256"}), json!({"alg": "HS256", "typ": "JWT", "kid": "any"})] {
        post(hs256(&header, &claims, SECRET.as_bytes())).await.ok();
    }
    for (token, reason) in [
        (hs256(&json!({"alg": "HS256"}), &claims, b"another secret"), "has a wrong signature"),
        (hs256(&json!({"alg": "HS512"}), &claims, SECRET.as_bytes()), "has a signature algorithm"),
        (signed(&claims), "has a signature algorithm"),
    ] {
        let description = post(token).await.refused(400, "invalid_request", Some("subject_token"));
        assert!(description.contains(reason), "{description}");
    }
}

/// Each algorithm with its kind of key.
#[tokio::test]
async fn every_configured_algorithm_verifies() {
    let algorithms = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ];
    for algorithm in algorithms {
        let key = IssuerKey::new(algorithm);
        let fake = FakeIssuer::serving(&[key.jwk("one")]).await;
        let service =
            service_of(&settings(&format!("{}\nalgorithms = [\"{algorithm:?}\"]", fake.jwks_url()))).await;
        let body = json!({"subject_token": key.token("one", &claims_at(NOW, "user-1"))});
        let minted = service.post("/identity-token", "shop", &body).await;
        assert_eq!(minted.status.as_u16(), 200, "{algorithm:?}: {}", minted.text);
    }
}
