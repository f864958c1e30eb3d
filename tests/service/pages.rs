//! The parts of the documentation that are generated from code.

use std::path::Path;

/// Replaces the text between the comment that starts with `name` and the next end comment by `part`.
fn with_part(text: &str, name: &str, part: &str) -> String {
    let opening = text.find(&format!("<!-- {name}:")).expect("the part's beginning");
    let start = opening + text[opening..].find('\n').expect("a line") + 1;
    let end = start + text[start..].find("<!-- end -->").expect("the part's end");
    format!("{}\n{part}\n{}", &text[..start], &text[end..])
}

/// Compares the parts of a page with the generated ones. With `UPDATE_DOCS`, which `make docs` sets, writes them instead.
pub fn compare_or_write(page: &str, parts: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = std::fs::read_to_string(&path).expect("the page");
    let made = parts.iter().fold(text.clone(), |text, (name, part)| with_part(&text, name, part));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, made).expect("writable");
    } else {
        assert!(text == made, "{page} is not what the code says: run `make docs`");
    }
}
