//! The same findings for a person, for a program, and for a code scanner. What a terminal shows is in tests/interop.

use serde_json::{Value, json};
use tokenmint::doctor::CASES;

use super::{Given, jwk, utility_jwk};

/// Two files, a fault and a warning.
fn ill() -> Given {
    Given::configured(&[("ttl = \"1h\"", "ttl = \"3h\"")]).jwk(&jwk(|jwk| jwk["x5c"] = json!([])))
}

#[test]
fn a_pipe_gets_plain_text_that_ends_with_a_verdict() {
    let ran = ill().run(&[]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (1, ""));
    assert!(!ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 100), "{}", ran.stdout);
    let verdict = ran.stdout.lines().last().expect("a verdict");
    assert!(verdict.starts_with("✗ 1 fault to mend and 1 warning; "), "{verdict}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let at = lines.iter().position(|line| line.contains("✗ jwk-x5c ")).expect("the fault");
    assert!(lines[at + 1].starts_with("      Salesforce asks: "), "{}", ran.stdout);
    assert!(lines[at + 2].starts_with("    → make a self-signed certificate"), "{}", ran.stdout);
}

#[test]
fn a_warning_alone_is_no_failure() {
    let ran = Given::configured(&[("ttl = \"1h\"", "ttl = \"3h\"")]).run(&[]);
    assert_eq!(ran.code(), 0);
    assert!(ran.stdout.lines().last().is_some_and(|line| line.starts_with("! no fault, 1 warning; ")));
}

#[test]
fn json_and_sarif_say_what_the_text_says() {
    let given = ill();
    let read = |form: &str| -> Value {
        let ran = given.run(&[form]);
        assert_eq!(ran.code(), 1);
        serde_json::from_str(&ran.stdout).expect("JSON")
    };
    let (json, sarif) = (read("--json"), read("--sarif"));
    assert_eq!(json["ok"], false);
    let findings = json["findings"].as_array().expect("findings");
    let results = sarif["runs"][0]["results"].as_array().expect("results");
    assert_eq!(findings.len(), results.len());
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().expect("rules");
    assert_eq!(rules.len(), CASES.len());
    for (finding, result) in findings.iter().zip(results) {
        assert_eq!(finding["check"], result["ruleId"]);
        let index = usize::try_from(result["ruleIndex"].as_u64().expect("an index")).expect("small");
        assert_eq!(rules[index]["id"], result["ruleId"]);
        let level = match finding["outcome"].as_str() {
            Some("pass") => "none",
            Some("warn") => "warning",
            _ => "error",
        };
        assert_eq!(result["level"], level);
    }
    let fault = results.iter().find(|result| result["level"] == "error").expect("the fault");
    let uri = &fault["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    assert_eq!((&fault["ruleId"], uri), (&json!("jwk-x5c"), &json!("Key1.jwk")));
}

#[test]
fn the_list_has_every_check() {
    let given = Given::nothing();
    let text = given.run(&["--list"]).ok();
    let json = given.run(&["--list", "--json"]).json();
    for (case, listed) in CASES.iter().zip(json.as_array().expect("a list")) {
        assert!(text.lines().any(|line| line.split_whitespace().next() == Some(case.id)), "{}", case.id);
        assert_eq!(listed["id"], case.id);
    }
}

#[test]
fn with_nothing_to_look_at_it_says_what_to_give() {
    let ran = Given::nothing().run(&[]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr.contains("tokenmint doctor app.key WebAppKey1.jwk token.txt"), "{}", ran.stderr);
}

#[test]
fn a_file_that_holds_something_else_is_named() {
    let ran = Given::nothing().jwk(&utility_jwk()).file("notes.txt", "buy milk").run(&[]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stderr.contains("notes.txt holds no PEM key, no certificate"), "{}", ran.stderr);
}
