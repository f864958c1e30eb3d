//! `openapi.yaml` describes exactly the served routes.

use std::collections::BTreeSet;

use icu_properties::CodePointMapData;
use icu_properties::props::GeneralCategory;
use regex::Regex;
use tokenmint::api::ROUTES;
use tokenmint::tokens::Subject;

use crate::support::Workspace;

/// The operations of the file, read without a YAML library: paths are indented by two spaces, methods by four.
fn described() -> BTreeSet<(String, String)> {
    let mut path = String::new();
    let mut operations = BTreeSet::new();
    let paths = tokenmint::api::OPENAPI.lines().skip_while(|line| *line != "paths:").skip(1);
    for line in paths.take_while(|line| line.is_empty() || line.starts_with(' ')) {
        let name = line.trim().trim_end_matches(':').trim_matches('\'');
        match line.len() - line.trim_start().len() {
            2 if line.trim_start().starts_with('/') => name.clone_into(&mut path),
            4 if ["get", "post", "put", "delete", "patch"].contains(&name) => {
                operations.insert((name.to_uppercase(), path.clone()));
            }
            _ => {}
        }
    }
    operations
}

#[test]
fn the_file_has_the_routes_of_the_table_and_no_others() {
    let served = ROUTES.iter().map(|route| (route.method.to_string(), route.path.to_owned())).collect();
    assert_eq!(described(), served);
}

#[tokio::test]
async fn the_file_is_served_and_printed_as_it_is() {
    let workspace = Workspace::new();
    let file = include_str!("../../openapi.yaml");
    let served = workspace.serve().await.get("/openapi.yaml").await;
    assert_eq!(served.text, file);
    assert_eq!(served.header("content-type"), "application/yaml");
    assert_eq!(workspace.run(&["openapi"]).ok(), file);
    assert!(file.contains(&format!("version: {}", env!("CARGO_PKG_VERSION"))));
}

/// The patterns of the schema `Subject`: the one that a subject matches, and those that it doesn't match.
fn subject_patterns() -> (Regex, Vec<Regex>) {
    let schema = tokenmint::api::OPENAPI.split("\n    Subject:\n").nth(1).expect("a schema");
    let schema = schema.split("\n    Profile:\n").next().expect("its text");
    let patterns = schema.lines().filter_map(|line| {
        let pattern = line.trim_start().trim_start_matches("- ").strip_prefix("pattern: '")?;
        Some(Regex::new(pattern.strip_suffix('\'')?).expect("a pattern"))
    });
    let mut patterns: Vec<Regex> = patterns.collect();
    (patterns.remove(0), patterns)
}

/// Unassigned characters are the exception: the schema doesn't list them.
#[test]
fn the_schema_of_subjects_allows_what_the_service_allows() {
    let (wanted, unwanted) = subject_patterns();
    let is_in_schema =
        |text: &str| wanted.is_match(text) && !unwanted.iter().any(|unwanted| unwanted.is_match(text));
    let is_accepted = |text: &str| Subject::parse("sub", text.to_owned()).is_ok();
    for (refused, texts) in [
        (true, "NaN null NULL (null) <Null> undefined None nil <nil> #<NIL> anonymous anonymousUser"),
        (true, "{{user}} {{}} ${user.id} ${} <%=user.id%> <%%> <%>"),
        (
            false,
            "nan Nan nulls (nil) #nil <none> anonymous-1 [object] {user} {{user} {{user}}1 $user $} <%user>",
        ),
    ] {
        for text in texts.split(' ') {
            assert_eq!((is_in_schema(text), is_accepted(text)), (!refused, !refused), "{text}");
        }
    }
    for text in ["[object Object]", "[OBJECT promise]", "{{ user }}", "${ user }", "<%= user %>"] {
        assert_eq!((is_in_schema(text), is_accepted(text)), (false, false), "{text}");
    }
    let categories = CodePointMapData::<GeneralCategory>::new();
    for c in '\0'..='\u{ffff}' {
        if categories.get(c) != GeneralCategory::Unassigned {
            for text in [format!("a{c}"), format!("{c}a"), format!("a{c}a")] {
                assert_eq!(is_in_schema(&text), is_accepted(&text), "{text:?}");
            }
        }
    }
}
