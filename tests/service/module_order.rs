//! The order of the top-level modules: each imports only from modules above it in the table of `src/lib.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Name, top-level module and text of each source file.
pub fn files() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    let file = |path: PathBuf| {
        let name = path.strip_prefix(&src).expect("below src").display().to_string();
        let module = name.split(['/', '.']).next().expect("a name").to_owned();
        (name, module, fs::read_to_string(&path).expect("text"))
    };
    found.into_iter().map(file).collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The modules in the order of the table in the comment of `lib.rs`: what stands in backticks in its first column.
fn documented_order(lib: &str) -> Vec<String> {
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | ")?.split_once(" | "));
    rows.flat_map(|(modules, _)| modules.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

/// The modules that `lib.rs` declares.
fn declared_modules(lib: &str) -> BTreeSet<String> {
    let declared = lib.lines().filter_map(|line| {
        line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
    });
    declared.collect()
}

/// The top-level modules that a file names behind `crate::`. `use crate::{app, jwks::Jwks}` names two.
fn imported_modules(text: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for path in text.split("crate::").skip(1) {
        let Some(list) = path.strip_prefix('{') else {
            modules.insert(identifier(path));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => modules.extend([identifier(std::mem::take(&mut item).trim())]),
                c if depth == 0 => item.push(c),
                _ => {}
            }
        }
        modules.insert(identifier(item.trim()));
    }
    modules.retain(|module| !module.is_empty());
    modules
}

#[test]
fn the_table_of_modules_has_each_module_once() {
    let (_, _, lib) = files().into_iter().find(|(name, ..)| name == "lib.rs").expect("there");
    let order = documented_order(&lib);
    let documented: BTreeSet<String> = order.iter().cloned().collect();
    assert_eq!(documented, declared_modules(&lib));
    assert_eq!(order.len(), documented.len(), "a module stands there twice: {order:?}");
}

#[test]
fn a_module_imports_only_from_modules_above_it() {
    let files = files();
    let (_, _, lib) = files.iter().find(|(name, ..)| name == "lib.rs").expect("there");
    let order = documented_order(lib);
    let position = |module: &str| order.iter().position(|known| known == module);
    for (name, module, text) in &files {
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let own =
            position(module).unwrap_or_else(|| panic!("{name}: `{module}` isn't in the table of lib.rs"));
        for imported in imported_modules(text).iter().filter(|imported| *imported != module) {
            let other = position(imported).unwrap_or_else(|| panic!("{name}: unknown module `{imported}`"));
            assert!(other < own, "{name} is in `{module}` and imports from `{imported}`, which is below it");
        }
    }
}

#[test]
fn imported_modules_are_found_however_an_import_is_written() {
    for (text, expected) in [
        ("use crate::keys::Ring;", &["keys"][..]),
        ("use crate::{app, jwks::Jwks};", &["app", "jwks"]),
        (
            "use crate::{\n    app::{self, reload::{ConfigSource}},\n    keys::{Ring, Key},\n};",
            &["app", "keys"],
        ),
        ("pub(crate) fn f() -> crate::json::Value {}", &["json"]),
        ("use super::keys;", &[]),
    ] {
        let expected: BTreeSet<String> = expected.iter().map(|&module| module.to_owned()).collect();
        assert_eq!(imported_modules(text), expected, "{text}");
    }
}

#[test]
fn every_file_starts_with_a_module_comment() {
    for (name, _, text) in files() {
        assert!(text.starts_with("//! "), "{name} doesn't start with //!");
    }
}

/// Unsafe code is in one file, so that it can be reviewed as a whole.
#[test]
fn only_the_module_of_intel_s_library_has_unsafe_code() {
    let crates = ["lib.rs", "main.rs"].map(|name| {
        let (_, _, text) = files().into_iter().find(|(file, ..)| file == name).expect("there");
        text.contains("#![deny(unsafe_code)]") || text.contains("#![forbid(unsafe_code)]")
    });
    assert_eq!(crates, [true, true]);
    let code = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned).collect()
    };
    let allowed = |line: &str| line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code");
    let permits = files()
        .iter()
        .map(|(.., text)| code(text).iter().filter(|line| allowed(line)).count())
        .sum::<usize>();
    assert_eq!(permits, 1, "one module may");
    for (name, _, text) in files().into_iter().filter(|(name, ..)| name != "keys/crypto_mb.rs") {
        let word = |line: &String| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
        };
        assert!(!code(&text).iter().any(word), "{name}");
    }
}
