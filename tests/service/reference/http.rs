//! `docs/reference/http.md` has the routes of the router, and the error codes of `openapi.yaml`.

use std::collections::BTreeSet;
use std::path::Path;

use tokenmint::api::ROUTES;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/http.md");
    std::fs::read_to_string(path).expect("the page")
}

#[test]
fn the_headings_are_the_routes() {
    let page = page();
    let headings: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .filter(|heading| heading.contains(" /"))
        .map(str::to_owned)
        .collect();
    let served = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(headings, served);
}

/// The error codes that `openapi.yaml` lists.
fn codes() -> BTreeSet<String> {
    let (_, rest) = tokenmint::api::OPENAPI.split_once("[invalid_request,").expect("the list of codes");
    let (list, _) = rest.split_once(']').expect("its end");
    list.split(',').map(|code| code.trim().to_owned()).chain(["invalid_request".to_owned()]).collect()
}

#[test]
fn every_error_code_has_a_heading() {
    let page = page();
    let headings =
        page.lines().filter_map(|line| line.strip_prefix("### ")?.strip_suffix('`')?.split_once(" `"));
    let headings: BTreeSet<String> = headings
        .filter(|(status, _)| status.parse::<u16>().is_ok())
        .map(|(_, code)| code.to_owned())
        .collect();
    assert_eq!(headings, codes());
}
