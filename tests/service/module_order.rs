//! The house stays as drawn: a room imports only from rooms above it.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down; those in one line may not import each other, but for what they are made of.
const ORDER: [&str; 20] = [
    "clock", "json", "hash", "files", "shell", "sync", "metrics", "config", "traces", "keys", "tokens",
    "jwks", "callers", "exchange", "doctor", "metadata", "sandbox", "http", "app", "cli",
];

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

/// Name, room and text of each source file.
pub fn files() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    let file = |path: PathBuf| {
        let name = path.strip_prefix(&src).expect("below src").display().to_string();
        let room = name.split(['/', '.']).next().expect("a name").to_owned();
        (name, room, fs::read_to_string(&path).expect("text"))
    };
    found.into_iter().map(file).collect()
}

#[test]
fn a_module_imports_only_from_modules_above_it() {
    let place = |room: &str| ORDER.iter().position(|known| *known == room);
    for (name, room, text) in files() {
        if ["lib", "main"].contains(&room.as_str()) {
            continue;
        }
        let here = place(&room).unwrap_or_else(|| panic!("{name}: `{room}` has no place in the house"));
        for import in text.split("crate::").skip(1) {
            let target: String = import.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // `use crate::{app, jwks}` names several.
            let targets: Vec<String> = match import.strip_prefix('{') {
                None => vec![target],
                Some(list) => {
                    let list = list.split('}').next().unwrap_or_default();
                    list.split(',')
                        .map(|item| item.trim().split("::").next().unwrap_or_default().to_owned())
                        .collect()
                }
            };
            for target in targets.iter().filter(|target| !target.is_empty() && **target != room) {
                let there = place(target).unwrap_or_else(|| panic!("{name}: unknown room `{target}`"));
                assert!(there < here, "{name} is in `{room}` and imports from `{target}`, which is below it");
            }
        }
    }
}

#[test]
fn every_file_starts_with_a_module_comment() {
    for (name, _, text) in files() {
        assert!(text.starts_with("//! "), "{name} doesn't open with //!");
    }
}

/// What the compiler can't check is in one file, and nowhere else, so that it can be read in one sitting.
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
