//! Output formats of the doctor: text, JSON and SARIF. tests/interop tests the output at a terminal.

use serde_json::{Value, json};
use tokenmint::doctor::CHECKS;

use super::{Given, jwk, utility_jwk};

/// Two files, a fault and a warning.
fn ill() -> Given {
    Given::configured(&[("ttl = \"1h\"", "ttl = \"3h\"")]).jwk(&jwk(|jwk| jwk["x5c"] = json!([])))
}

#[test]
fn output_to_a_pipe_is_plain_text_that_ends_with_a_verdict() {
    let ran = ill().run(&[]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (1, ""));
    assert!(!ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 100), "{}", ran.stdout);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let verdict = lines.iter().rposition(|line| line.is_empty()).expect("a line before the verdict") + 1;
    assert!(lines[verdict].starts_with("✗ 1 fault to fix and 1 warning; "), "{}", ran.stdout);
    let at = lines.iter().position(|line| line.contains("✗ jwk-x5c ")).expect("the fault");
    assert!(lines[at + 1].starts_with("      Salesforce asks: "), "{}", ran.stdout);
    assert!(lines[at + 2].starts_with("    → make a self-signed certificate"), "{}", ran.stdout);
}

/// Both commands that print findings. JSON always has all of them.
#[test]
fn faults_come_first_and_passed_checks_only_with_verbose() {
    let mut given = ill();
    let token = super::token(&json!({"iss": "elsewhere"}));
    given.workspace.write("token.txt", &token);
    let outcomes = |text: &str| -> Vec<char> {
        let marks = text.lines().filter_map(|line| line.strip_prefix("  ")?.chars().next());
        marks.filter(|mark| ['✓', '!', '✗'].contains(mark)).collect()
    };
    for command in [&["doctor", "Key1.jwk"][..], &["verify", "token.txt"]] {
        let run = |more: &[&str]| given.workspace.run(&[command, more].concat()).stdout;
        let (brief, whole) = (run(&[]), run(&["-v"]));
        let (shown, all) = (outcomes(&brief), outcomes(&whole));
        assert!(shown[0] == '✗' && !shown.contains(&'✓'), "{brief}");
        assert!(all.contains(&'✓') && all.starts_with(&shown), "{whole}");
        assert!(
            all.is_sorted_by_key(|mark| ['✗', '!', '✓'].iter().position(|known| known == mark)),
            "{whole}"
        );
        let passed = all.len() - shown.len();
        assert!(brief.contains(&format!("{passed} check")) && brief.contains("-v shows"), "{brief}");
        // Without the text, which contains a number of seconds.
        assert_eq!(outcomes(&run(&["--verbose"])), all);
        let json: Value = serde_json::from_str(&run(&["--json"])).expect("JSON");
        let json = json["findings"].as_array().expect("findings").clone();
        assert_eq!(json.len(), all.len(), "{json:#?}");
    }
    given = Given::configured(&[]);
    assert_eq!(outcomes(&given.run(&[]).ok()), Vec::<char>::new());
}

#[test]
fn the_configuration_that_was_read_is_named() {
    let mut given = Given::configured(&[]);
    given.workspace.write("token.txt", &super::token(&json!({})));
    let path = given.workspace.path("tokenmint.toml").canonicalize().expect("the file").display().to_string();
    let commands = [&["doctor", "token.txt"][..], &["verify", "token.txt"]];
    let says = |given: &Given, source: &str, json: &Value| {
        for command in commands {
            let text = given.workspace.run(command).stdout.split_whitespace().collect::<String>();
            assert!(
                text.contains(&format!("configuration:{}", source.replace(' ', ""))),
                "{command:?}: {text}"
            );
            let report: Value =
                serde_json::from_str(&given.workspace.run(&[command, &["--json"]].concat()).stdout)
                    .expect("JSON");
            assert_eq!(&report["configuration"], json, "{command:?}");
        }
    };
    says(&given, &format!("read from {path}"), &json!(path));
    given.workspace.set("TOKENMINT_CONFIG", "other.toml");
    std::fs::rename(given.workspace.path("tokenmint.toml"), given.workspace.path("other.toml"))
        .expect("renamed");
    let other = path.replace("tokenmint.toml", "other.toml");
    says(&given, &format!("read from {other}"), &json!(other));
    given.workspace.set("TOKENMINT_CONFIG", "");
    says(&given, "none was read", &Value::Null);
}

#[test]
fn a_warning_alone_is_no_failure() {
    let ran = Given::configured(&[("ttl = \"1h\"", "ttl = \"3h\"")]).run(&[]);
    assert_eq!(ran.code(), 0);
    assert!(ran.stdout.lines().any(|line| line.starts_with("! no fault, 1 warning; ")), "{}", ran.stdout);
}

/// The text with line breaks removed.
fn verdict(given: &Given, arguments: &[&str]) -> String {
    given.run(arguments).ok().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The verdict names what is sound, and what was not checked, with the reason.
#[test]
fn a_verdict_names_what_is_sound_and_what_was_not_checked() {
    let jwk = Given::nothing().jwk(&utility_jwk());
    let said = verdict(&jwk, &[]);
    for part in [
        "✓ all is well with Key1.jwk: ",
        "Not looked at: ",
        "checks (no token was given)",
        "checks (there is no configuration that loads)",
        "checks (nothing was asked; --online asks)",
        "key-file-mode (no file with a private key was given)",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let configured = verdict(&Given::configured(&[]), &[]);
    for part in ["all is well with ", "configuration", "oauth.crm", " more: ", "checks (no token was given)"]
    {
        assert!(configured.contains(part), "{part} in {configured}");
    }
}

/// A check without the second input that it compares is not passed, and its first input isn't called sound.
#[test]
fn inputs_that_could_not_be_compared_are_not_called_sound() {
    let token = super::token(&json!({}));
    let given = Given::nothing().token(&token);
    let said = verdict(&given, &[]);
    assert!(!said.contains("all is well"), "{said}");
    assert!(said.contains("no fault was found in token.txt"), "{said}");
    let skipped = given.not_looked_at();
    for (check, reason) in [
        ("token-signature", "no key was there"),
        ("token-kid", "no JWK is known"),
        ("issuer", "there is no issuer to compare"),
    ] {
        let found = skipped.iter().find(|skipped| skipped["check"] == check).expect("it was skipped");
        assert_eq!(found["about"], "token.txt");
        assert!(found["reason"].as_str().is_some_and(|said| said.contains(reason)), "{found}");
    }
}

/// Each check has one of four results, and none is missing.
#[test]
fn every_check_ends_or_reports_why_it_was_skipped() {
    for given in [Given::nothing().jwk(&utility_jwk()), Given::configured(&[]), ill()] {
        let report: Value = serde_json::from_str(&given.run(&["--json"]).stdout).expect("JSON");
        for case in &CHECKS {
            let ended = ["findings", "not_looked_at"].iter().any(|list| {
                report[list].as_array().expect("a list").iter().any(|item| item["check"] == case.id)
            });
            assert!(ended, "{}", case.id);
        }
    }
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
    let skipped = json["not_looked_at"].as_array().expect("a list");
    assert_eq!(findings.len() + skipped.len(), results.len());
    for (skipped, result) in skipped.iter().zip(&results[findings.len()..]) {
        assert_eq!((&skipped["check"], &json!("notApplicable")), (&result["ruleId"], &result["kind"]));
        let reason = skipped["reason"].as_str().expect("text");
        assert!(result["message"]["text"].as_str().is_some_and(|text| text.contains(reason)), "{result}");
    }
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().expect("rules");
    assert_eq!(rules.len(), CHECKS.len());
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
    for (case, listed) in CHECKS.iter().zip(json.as_array().expect("a list")) {
        assert!(text.lines().any(|line| line.split_whitespace().next() == Some(case.id)), "{}", case.id);
        assert_eq!(listed["id"], case.id);
    }
}

#[test]
fn without_input_it_says_what_to_give() {
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

#[test]
fn a_file_that_holds_something_else_hides_no_finding_of_the_others() {
    let given = Given::nothing().file("notes.txt", "buy milk").jwk(&utility_jwk());
    let ran = given.run(&["--json"]);
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((ran.code(), &report["ok"]), (1, &json!(false)));
    let unread = report["unread"][0].as_str().expect("a reason");
    assert!(unread.contains("notes.txt holds no PEM key"), "{report}");
    let about_jwk = |finding: &Value| finding["about"] == "Key1.jwk";
    assert!(report["findings"].as_array().expect("findings").iter().any(about_jwk), "{report}");
    let log: Value = serde_json::from_str(&given.run(&["--sarif"]).stdout).expect("SARIF");
    assert_eq!(log["runs"][0]["invocations"][0]["executionSuccessful"], false);
    assert!(log["runs"][0]["results"].as_array().is_some_and(|results| !results.is_empty()));
}

/// People paste a password into the setting above the one that needs it.
#[test]
fn a_user_name_that_looks_like_none_is_not_shown() {
    for wrong in [
        "Zq7Xw9Kp3Rt5Vb2Nm8",
        "Zq7Xw9@Kp3Rt5Vb2Nm8",
        "Zq7Xw9Kp3Rt5 Vb2@Nm8.example",
        "Zq7Xw9:Kp3@Rt5/Vb2.Nm8",
    ] {
        let given = Given::configured(&[("integration@acme.com", wrong)]);
        for form in [&["-v"][..], &["--json"], &["--sarif"]] {
            let ran = given.run(form);
            assert!(ran.stdout.contains("not shown, because it may be a secret"), "{wrong}: {}", ran.stdout);
            assert!(
                !ran.stdout.contains("Zq7Xw9") && !ran.stderr.contains("Zq7Xw9"),
                "{wrong}: {}",
                ran.stdout
            );
        }
    }
    let shown = Given::configured(&[]).run(&["-v"]).stdout;
    assert!(shown.contains("integration@acme.com"), "{shown}");
}
