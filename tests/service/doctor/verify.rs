//! `tokenmint verify`: reads and checks one token offline.

use serde_json::{Value, json};

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::{Given, assertion, claims, good_certificate, pem_of, raw_token, seconds, token};
use crate::sandbox::{PAIRS, Publisher, set_of, sign};
use crate::support::Ran;

fn verify(given: &Given, token: &str, arguments: &[&str]) -> Ran {
    let all: Vec<&str> = std::iter::once("verify").chain(arguments.iter().copied()).collect();
    given.workspace.run_with_input(&all, token)
}

fn with_jwk() -> Given {
    Given::nothing().jwk(&PAIRS[0].jwk("Key1"))
}

#[test]
fn a_good_token_is_read_from_standard_input_with_its_times_in_words() {
    let given = with_jwk();
    let ran = verify(&given, &token(&json!({})), &["--jwk", "Key1.jwk", "-v"]);
    let text = ran.ok();
    for part in [
        r#"kid  "Key1""#,
        r#"alg  "RS256""#,
        r#"sub  "user-1""#,
        "is signed by the key of Key1.jwk",
        ". Passed: ",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let expiry = text.lines().find(|line| line.trim_start().starts_with("exp ")).expect("the claim");
    assert!(expiry.contains("Z, in ") && expiry.ends_with(" minutes"), "{expiry}");
    assert!(text.contains("\n✓ Salesforce would accept this token. Taken for an identity token: "), "{text}");
}

#[test]
fn a_token_is_verified_with_a_key_a_certificate_a_set_or_the_configuration() {
    let given = Given::nothing().file("Key1.key", &PAIRS[0].pem).file("Key1.crt", &pem_of(&PAIRS[0]));
    given.workspace.write("set.json", &set_of(&PAIRS[0].jwk("Key1")).to_string());
    let token = token(&json!({}));
    for arguments in [["--key", "Key1.key"], ["--key", "Key1.crt"], ["--jwks", "set.json"]] {
        verify(&given, &token, &arguments).ok();
    }
    verify(&Given::configured(&[]), &token, &[]).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_verified_with_the_keys_that_an_address_shows() {
    let publisher = Publisher::of(&set_of(&PAIRS[0].jwk("Key1"))).await;
    verify(&Given::nothing(), &token(&json!({})), &["--jwks", &publisher.url]).ok();
    assert_eq!(publisher.hits(), 1);
    publisher.publish(&set_of(&PAIRS[1].jwk("Key1")));
    let ran = verify(&Given::nothing(), &token(&json!({})), &["--jwks", &publisher.url]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stdout.contains("✗ token-signature "), "{}", ran.stdout);
}

/// The token is of the configuration, and the given key is another one.
#[test]
fn given_files_replace_configured_ones() {
    let given = Given::configured(&[]);
    given.workspace.write("other.jwk", &PAIRS[1].jwk("Key1").to_string());
    given.workspace.write("set.json", &set_of(&PAIRS[1].jwk("Key1")).to_string());
    given.workspace.write_key("other.key", &PAIRS[1].pem);
    given.workspace.write("other.crt", &pem_of(&PAIRS[1]));
    given.workspace.write("Key1.jwk", &PAIRS[0].jwk("Key1").to_string());
    let token = token(&json!({}));
    verify(&given, &token, &[]).ok();
    verify(&given, &token, &["--jwk", "Key1.jwk"]).ok();
    for arguments in [
        ["--jwk", "other.jwk"],
        ["--jwks", "set.json"],
        ["--key", "other.key"],
        ["--key", "other.crt"],
        ["--issuer", "https://wholly.other.example"],
    ] {
        let ran = verify(&given, &token, &arguments);
        assert_eq!(ran.code(), 1, "{arguments:?}: {}", ran.stdout);
        assert!(
            ran.stdout.contains("Salesforce would not accept this token"),
            "{arguments:?}: {}",
            ran.stdout
        );
    }
}

/// A token of the configuration, signed with a key that Salesforce doesn't use for it.
#[test]
fn a_key_is_looked_for_by_its_id_among_the_keysets_of_its_kind() {
    let given = Given::configured(&[]);
    for (pair, kid, why) in [
        (1, "Key1", "the key of keysets.crm, `CrmKey1` did, which isn't for this token"),
        (1, "CrmKey1", "its `kid` is `CrmKey1`, and that of the JWK `Key1`"),
        (0, "CrmKey1", "its `kid` is `CrmKey1`"),
    ] {
        let token = sign(&PAIRS[pair], Algorithm::RS256, Some(kid), &claims());
        let ran = verify(&given, &token, &[]);
        assert_eq!(ran.code(), 1, "{kid}: {}", ran.stdout);
        let said = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(why), "{why} in {said}");
    }
}

fn forged() -> String {
    let claims = json!({"user_id": "42", "exp": seconds() + 600});
    let key = EncodingKey::from_secret(b"not-the-secret-of-the-messenger-at-all").expect("a secret");
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token")
}

#[test]
fn an_intercom_token_without_its_secret_is_never_called_good() {
    let ran = verify(&Given::nothing(), &forged(), &[]);
    assert_eq!(ran.code(), 1);
    let said = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("can't say: no check failed, but no Messenger API secret"), "{said}");
    let ran = verify(&Given::configured(&[]), &forged(), &[]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stdout.contains("Intercom would not accept this token"), "{}", ran.stdout);
}

/// The output names the detected kind of the token with the reason. `--as` overrides it.
#[test]
fn a_token_is_checked_as_the_kind_it_looks_like_or_is_declared_as() {
    let given = with_jwk();
    let read = |token: &str, arguments: &[&str]| -> (i32, Value) {
        let all: Vec<&str> = ["--jwk", "Key1.jwk", "--json"].iter().chain(arguments).copied().collect();
        let ran = verify(&given, token, &all);
        (ran.code(), serde_json::from_str(&ran.stdout).expect("JSON"))
    };
    let assertion = assertion(&json!({}));
    for (token, arguments, code, kind, why) in [
        (token(&json!({})), &[][..], 0, "identity", "its `iss` reads like an address"),
        (
            assertion.clone(),
            &[],
            0,
            "assertion",
            "its `iss` is a consumer key, its `aud` is a host of an org",
        ),
        (forged(), &[], 1, "intercom", "it has `user_id`"),
        (assertion.clone(), &["--as", "identity"], 1, "identity", "--as says so"),
        (assertion, &["--as", "intercom"], 1, "intercom", "--as says so"),
        (token(&json!({})), &["--as", "assertion"], 1, "assertion", "--as says so"),
    ] {
        let (ended, said) = read(&token, arguments);
        assert_eq!((ended, &said["kind"]), (code, &json!(kind)), "{arguments:?}: {said:#}");
        let findings = said["findings"].as_array().expect("findings");
        let taken = findings.iter().find(|finding| finding["check"] == "token-kind").expect("it is said");
        assert!(taken["seen"].as_str().is_some_and(|seen| seen.contains(why)), "{why} in {taken}");
    }
    let ran = verify(&given, &token(&json!({})), &["--as", "id-token"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr.contains("identity, assertion, intercom"), "{}", ran.stderr);
}

/// A JWK that Salesforce refuses verifies nothing, even if the signature fits.
#[test]
fn a_token_is_not_called_good_with_a_faulty_jwk() {
    let given = Given::nothing().jwk(&super::jwk(|jwk| jwk["kty"] = json!("EC")));
    let ran = verify(&given, &token(&json!({})), &["--jwk", "Key1.jwk"]);
    assert_eq!(ran.code(), 1, "{}", ran.stdout);
}

/// There is no finding, and still the token is not called good.
#[test]
fn a_token_whose_signature_nobody_checked_is_never_called_good() {
    let ran = verify(&Given::nothing(), &token(&json!({})), &[]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stdout.contains("can't say"), "{}", ran.stdout);
}

#[test]
fn a_token_that_salesforce_would_refuse_is_reported_with_the_reason() {
    let given = with_jwk();
    for (token, reason) in [
        (token(&json!({"exp": seconds() - 5, "iat": seconds() - 605})), "token-expiry"),
        (raw_token(&json!({"alg": "RS256", "typ": "JWT"}), &claims().to_string()), "token-header"),
        (token(&json!({"sub": "undefined"})), "subject"),
        ("no token".to_owned(), "text"),
    ] {
        let ran = verify(&given, &token, &["--jwk", "Key1.jwk"]);
        assert_eq!(ran.code(), 1, "{reason}");
        assert!(ran.stdout.contains(&format!("✗ {reason} ")), "{reason} in {}", ran.stdout);
        assert!(ran.stdout.contains("Salesforce would not accept this token"), "{}", ran.stdout);
    }
}

/// A reader tells text from a number: Salesforce takes a text in `exp` for an expired token.
#[test]
fn claims_and_header_members_are_shown_as_json() {
    let claims =
        r#"{"iss":"https://acme.example","sub":"user-1","exp":"6000","iat":6000,"x":null,"y":["a\nb"]}"#;
    let token = raw_token(&json!({"alg": "RS256", "typ": "JWT", "kid": "42"}), claims);
    let ran = verify(&with_jwk(), &token, &[]);
    for line in
        [r#"  kid  "42""#, r#"  exp  "6000""#, "  iat  6000  1970-", "  x    null", r#"  y    ["a\nb"]"#]
    {
        assert!(ran.stdout.contains(&format!("\n{line}")), "{line} in {}", ran.stdout);
    }
}

#[test]
fn verify_reads_files_like_the_doctor() {
    let given =
        with_jwk().token(&token(&json!({}))).file("Key1.key", &PAIRS[0].pem).file("Other.key", &PAIRS[1].pem);
    let given = given.file("Key1.crt", &good_certificate()).file("notes.txt", "buy milk");
    given.workspace.write("set.json", &set_of(&PAIRS[0].jwk("Key1")).to_string());
    let argument = token(&json!({}));
    for arguments in [
        &["token.txt", "Key1.jwk"][..],
        &["token.txt", "set.json"],
        &["Key1.jwk", "token.txt"],
        &["token.txt", "Key1.key"],
        &["Key1.crt", "./token.txt"],
        &["token.txt", "--jwk", "Key1.jwk"],
        &[&argument, "Key1.jwk"],
        // Without an argument the token comes from standard input.
        &["Key1.jwk"],
        &["Key1.jwk", "-"],
    ] {
        let ran = verify(&given, &token(&json!({})), arguments);
        let verdict = "\n✓ Salesforce would accept this token. Taken for an identity token: ";
        assert!(ran.stdout.contains(verdict), "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.code(), 0, "{arguments:?}");
    }
    for (arguments, code, reason) in [
        (&["token.txt", "Other.key"][..], 1, "token-signature"),
        (&["tokens.txt"], 1, "neither a token nor the name of an existing file"),
        (&["notes.txt"], 1, "notes.txt holds no PEM key"),
        (&["token.txt", &argument], 2, "give one token"),
    ] {
        let ran = verify(&given, "", arguments);
        assert_eq!(ran.code(), code, "{arguments:?}: {}", ran.stderr);
        assert!(
            format!("{}{}", ran.stdout, ran.stderr).contains(reason),
            "{arguments:?}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
}

#[test]
fn json_has_the_parts_and_the_findings() {
    let given = with_jwk();
    let ran = verify(&given, &token(&json!({})), &["--jwk", "Key1.jwk", "--json"]);
    let said: Value = ran.json();
    assert_eq!(
        (&said["ok"], &said["header"]["kid"], &said["claims"]["sub"]),
        (&json!(true), &json!("Key1"), &json!("user-1"))
    );
    assert!(said["findings"].as_array().is_some_and(|findings| !findings.is_empty()));
}

/// The content of a token is untrusted and must not control the terminal.
#[test]
fn no_control_character_of_a_token_reaches_the_terminal() {
    let mut claims = claims();
    claims["sub"] = json!("\u{1b}]0;pwned\u{7}user");
    claims["\u{1b}[31mname"] = json!("\u{9b}x");
    claims["list"] = json!(["\u{9b}31m\u{7f}\u{202e}"]);
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "Key1"});
    let ran = verify(&with_jwk(), &raw_token(&header, &claims.to_string()), &["--jwk", "Key1.jwk"]);
    let is_fine = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
    assert!(ran.stdout.chars().all(is_fine), "{:?}", ran.stdout);
}

/// RFC 7517, section 5: a set may have keys for other uses.
#[test]
fn other_keys_of_a_set_do_not_affect_a_token() {
    let mut set = set_of(&PAIRS[0].jwk("Key1"));
    let keys = set["keys"].as_array_mut().expect("keys");
    keys.push(json!({"kty": "EC", "kid": "Other1", "crv": "P-256", "x": "AQ", "y": "AQ"}));
    let mut encryption = PAIRS[1].jwk("Other2");
    encryption["use"] = json!("enc");
    keys.push(encryption);
    let given = Given::nothing();
    given.workspace.write("set.json", &set.to_string());
    verify(&given, &token(&json!({})), &["--jwks", "set.json"]).ok();
    // A lookup by id may find the wrong key.
    set["keys"].as_array_mut().expect("keys").push(PAIRS[1].jwk("Key1"));
    given.workspace.write("twice.json", &set.to_string());
    let ran = verify(&given, &token(&json!({})), &["--jwks", "twice.json"]);
    assert!(ran.code() == 1 && ran.stdout.contains("two keys with the id `Key1`"), "{}", ran.stdout);
    let by_the_other = sign(&PAIRS[1], Algorithm::RS256, Some("Other2"), &claims());
    let ran = verify(&given, &by_the_other, &["--jwks", "set.json"]);
    assert_eq!(ran.code(), 1, "{}", ran.stdout);
}

#[test]
fn a_token_is_verified_with_a_public_key_alone_and_with_a_certificate_that_ends_soon() {
    let given = Given::nothing();
    given.workspace.write("app.pem", &super::keys::public_key(&PAIRS[0]));
    given.workspace.write("app.crt", &pem_of(&super::certificate(-1, 9, |_| ())));
    given.workspace.write("other.pem", &super::keys::public_key(&PAIRS[1]));
    given.workspace.write("token.txt", &token(&json!({})));
    for file in ["app.pem", "app.crt"] {
        verify(&given, &token(&json!({})), &["--key", file]).ok();
    }
    for (file, words) in [("other.pem", "token-signature"), ("token.txt", "it is a JWT, not a key")] {
        let ran = verify(&given, &token(&json!({})), &["--key", file]);
        assert_eq!(ran.code(), 1, "{file}: {}", ran.stdout);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains(words), "{file}: {said}");
    }
}

/// A given configuration must be used.
#[test]
fn a_configuration_that_does_not_load_is_never_ignored_silently() {
    let given = with_jwk();
    given.workspace.write("broken.toml", "[server\n");
    for file in ["broken.toml", "absent.toml"] {
        let ran = verify(&given, &token(&json!({})), &["--config", file, "--jwk", "Key1.jwk"]);
        assert_eq!(ran.code(), 64, "{file}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(file), "{file}: {}", ran.stderr);
    }
    given.workspace.write("tokenmint.toml", "[server\n");
    let said = verify(&given, &token(&json!({})), &["--jwk", "Key1.jwk"]).ok();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("tokenmint.toml, which doesn't load (`tokenmint check` says why)"), "{said}");
}

#[test]
fn a_configuration_of_the_environment_alone_is_read() {
    let mut given = Given::nothing();
    given.workspace.write_key("Key1.key", &PAIRS[0].pem);
    for (name, value) in [
        ("KEYSETS__WEB__KID", "Key1"),
        ("KEYSETS__WEB__KEY_FILE", "Key1.key"),
        ("IDENTITY__WEB__KEYSET", "web"),
        ("IDENTITY__WEB__ISSUER", crate::sandbox::ISSUER),
    ] {
        given.workspace.set(&format!("TOKENMINT_{name}"), value);
    }
    verify(&given, &token(&json!({})), &[]).ok();
}

/// A token given as a file name.
#[test]
fn an_argument_that_names_no_file_is_not_shown() {
    let token = token(&json!({}));
    let given = Given::nothing();
    for arguments in [
        &["doctor", &token][..],
        &["doctor", "--jwk", &token],
        &["doctor", "--jwks", &token],
        &["verify", "--key", &token],
        &["verify", "--jwk", &token],
        &["verify", "--jwks", &token],
    ] {
        let ran = given.workspace.run(arguments);
        assert_eq!(ran.code(), 1, "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("argument 1 names no existing file"), "{}", ran.stderr);
        assert!(!ran.stderr.contains(&token[..20]) && !ran.stdout.contains(&token[..20]), "{}", ran.stderr);
    }
}

/// With several files in any order, only the key with the token's `kid` counts.
#[test]
fn a_token_is_not_verified_by_another_keys_file() {
    let given = Given::configured(&[]);
    given.workspace.write("Key1.jwk", &PAIRS[0].jwk("Key1").to_string());
    given.workspace.write_key("crm.key", &PAIRS[1].pem);
    given.workspace.write("crm.crt", &pem_of(&super::certificate_of(&PAIRS[1], -1, 730, |_| ())));
    let identity = sign(&PAIRS[1], Algorithm::RS256, Some("Key1"), &claims());
    let assertion = |kid| {
        let claims = json!({
            "iss": crate::sandbox::CONSUMER_KEY, "sub": "integration@acme.com",
            "aud": "https://acme.my.salesforce.com", "exp": seconds() + 150,
        });
        sign(&PAIRS[0], Algorithm::RS256, kid, &claims)
    };
    for (token, arguments) in [
        (identity.clone(), &["--jwk", "Key1.jwk", "--key", "crm.crt"][..]),
        (identity.clone(), &["--key", "crm.key", "--jwk", "Key1.jwk"]),
        (identity.clone(), &["--key", "crm.crt"]),
        (identity.clone(), &["--key", "crm.key"]),
        (identity, &["--config", "nothing.toml", "--jwk", "Key1.jwk", "--key", "crm.crt"]),
        (assertion(Some("CrmKey1")), &["--key", "keys/identity/Key1.key"]),
        (assertion(None), &["--key", "keys/identity/Key1.key"]),
    ] {
        given.workspace.write("nothing.toml", "[server]\nlisten = \"127.0.0.1:0\"\n");
        let ran = verify(&given, &token, arguments);
        assert_eq!(ran.code(), 1, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    }
}
