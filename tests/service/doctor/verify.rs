//! `tokenmint verify`: one token, read and judged on this machine.

use serde_json::{Value, json};

use super::{Given, claims, raw_token, seconds, token};
use crate::sandbox::{PAIRS, Publisher, set_of};
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
    for part in ["kid  Key1", "alg  RS256", "sub  user-1", "is signed by the key of Key1.jwk"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let expiry = text.lines().find(|line| line.trim_start().starts_with("exp ")).expect("the claim");
    assert!(expiry.contains("Z, in ") && expiry.ends_with(" minutes"), "{expiry}");
    assert!(text.trim_end().ends_with("✓ Salesforce would take this token"), "{text}");
}

#[test]
fn a_token_is_verified_with_a_key_a_certificate_a_set_or_the_configuration() {
    let given = Given::nothing().file("Key1.key", &PAIRS[0].pem).file("Key1.crt", &super::pem_of(&PAIRS[0]));
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

/// Nothing speaks against it, and still it is not called good.
#[test]
fn a_token_whose_signature_nobody_checked_is_never_called_good() {
    let ran = verify(&Given::nothing(), &token(&json!({})), &[]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stdout.contains("can't say"), "{}", ran.stdout);
}

#[test]
fn a_token_that_salesforce_would_refuse_is_called_that_with_the_reason() {
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
        assert!(ran.stdout.contains("Salesforce would not take this token"), "{}", ran.stdout);
    }
}

#[test]
fn files_are_taken_as_the_doctor_takes_them() {
    let given =
        with_jwk().token(&token(&json!({}))).file("Key1.key", &PAIRS[0].pem).file("Other.key", &PAIRS[1].pem);
    let given = given.file("Key1.crt", &super::pem_of(&PAIRS[0])).file("notes.txt", "buy milk");
    let argument = token(&json!({}));
    for arguments in [
        &["token.txt", "Key1.jwk"][..],
        &["Key1.jwk", "token.txt"],
        &["token.txt", "Key1.key"],
        &["Key1.crt", "./token.txt"],
        &["token.txt", "--jwk", "Key1.jwk"],
        &[&argument, "Key1.jwk"],
        // The token comes from standard input where no argument is one.
        &["Key1.jwk"],
        &["Key1.jwk", "-"],
    ] {
        let ran = verify(&given, &token(&json!({})), arguments);
        assert!(
            ran.stdout.ends_with("✓ Salesforce would take this token\n"),
            "{arguments:?}: {}{}",
            ran.stdout,
            ran.stderr
        );
        assert_eq!(ran.code(), 0, "{arguments:?}");
    }
    for (arguments, code, reason) in [
        (&["token.txt", "Other.key"][..], 1, "token-signature"),
        (&["tokens.txt"], 1, "neither a token nor the name of a file that is there"),
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

/// What stands in a token is somebody else's: it must not steer the terminal.
#[test]
fn no_control_character_of_a_token_reaches_the_terminal() {
    let mut claims = claims();
    claims["sub"] = json!("\u{1b}]0;pwned\u{7}user");
    claims["\u{1b}[31mname"] = json!("\u{9b}x");
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "Key1"});
    let ran = verify(&with_jwk(), &raw_token(&header, &claims.to_string()), &["--jwk", "Key1.jwk"]);
    assert!(ran.stdout.chars().all(|c| !c.is_control() || c == '\n'), "{:?}", ran.stdout);
}
