//! `openapi.yaml` describes exactly the served routes.

use std::collections::BTreeSet;

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

/// The text of the schema `Subject`.
fn subject_schema() -> &'static str {
    let schema = tokenmint::api::OPENAPI.split("\n    Subject:\n").nth(1).expect("a schema");
    schema.split("\n    SubjectToken:\n").next().expect("its text")
}

/// The texts between backticks in the point of the description that begins with `start`.
fn quoted(start: &str) -> Vec<&'static str> {
    let point =
        subject_schema().split("\n        - ").find(|point| point.starts_with(start)).expect("a point");
    let point = point.split("\n\n").next().expect("its text");
    point.split('`').skip(1).step_by(2).collect()
}

fn is_accepted(text: &str) -> bool {
    Subject::parse("sub", text.to_owned()).is_ok()
}

#[test]
fn the_description_of_subjects_lists_the_placeholders_that_the_service_refuses() {
    let mut placeholders = quoted("It isn't `NaN`, nor");
    assert_eq!(placeholders.remove(0), "NaN");
    assert!(!is_accepted("NaN") && is_accepted("nan"));
    for text in &placeholders {
        for text in [(*text).to_owned(), text.to_lowercase(), text.to_uppercase()] {
            assert!(!is_accepted(&text), "{text}");
        }
    }
    // The other way round: the list of src/tokens/subject.rs.
    let source = include_str!("../../src/tokens/subject.rs");
    let list = source.split("const PLACEHOLDERS: &[&str] = &[").nth(1).expect("the list");
    let list: BTreeSet<_> = list.split("];").next().expect("its end").split('"').skip(1).step_by(2).collect();
    assert_eq!(placeholders.into_iter().collect::<BTreeSet<_>>(), list);
    for text in ["nulls", "(nil)", "#nil", "<none>", "anonymous-1", "[object]"] {
        assert!(is_accepted(text), "{text}");
    }
}

#[test]
fn the_description_of_subjects_lists_the_templates_that_the_service_refuses() {
    let delimiters = quoted("It isn't an unfilled template");
    assert_eq!(delimiters, ["{{", "}}", "${", "}", "<%", "%>"]);
    for pair in delimiters.chunks(2) {
        for inside in ["", "user", " user.id "] {
            let text = pair.join(inside);
            assert!(!is_accepted(&text), "{text}");
        }
    }
    for text in ["{user}", "{{user}", "{{user}}1", "$user", "$}", "<%user>"] {
        assert!(is_accepted(text), "{text}");
    }
}

/// The pattern is weaker than the service, so that every language's regular expressions understand it.
#[test]
fn the_pattern_of_subjects_allows_all_that_the_service_accepts() {
    let pattern = subject_schema().lines().find_map(|line| line.trim_start().strip_prefix("pattern: '"));
    let pattern = Regex::new(pattern.and_then(|line| line.strip_suffix('\'')).expect("one pattern"))
        .expect("a pattern");
    for c in '\0'..='\u{ffff}' {
        for text in [format!("a{c}"), format!("{c}a"), format!("a{c}a")] {
            assert!(pattern.is_match(&text) || !is_accepted(&text), "{text:?}");
        }
    }
    for text in ["", " ", " a", "a ", "a\n"] {
        assert!(!pattern.is_match(text), "{text:?}");
    }
}

/// From some valid schemas, openapi-generator makes code that doesn't compile, or that refuses valid values. From an `enum` in an
/// answer it makes code that refuses the values of later versions; `x-extensible-enum` has no such effect.
#[test]
fn the_file_has_none_of_the_schemas_that_generators_misread() {
    let schemas = tokenmint::api::OPENAPI.split("\n  schemas:\n").nth(1).expect("the schemas");
    let schemas = schemas.split("\n  responses:\n").next().expect("their end");
    let keyword = Regex::new(r"(?m)(?:^ +|[{,] ?)(not|oneOf|anyOf|allOf|const|enum):").expect("a pattern");
    let found: Vec<&str> = keyword.find_iter(schemas).map(|keyword| keyword.as_str().trim()).collect();
    assert!(found.is_empty(), "{found:?}");
}
