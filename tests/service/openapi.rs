//! `openapi.yaml` describes exactly the served routes.

use std::collections::BTreeSet;

use tokenmint::api::ROUTES;

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
