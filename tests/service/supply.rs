//! Dependencies: builds are reproducible, and only aws-lc signs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::module_order::files;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The version and the dependencies of each package in that lock file.
fn locked(file: &str) -> BTreeMap<(String, String), Vec<String>> {
    let text = fs::read_to_string(root().join(file)).expect("a lock file");
    let lock: toml::Table = text.parse().expect("TOML");
    let packages = lock["package"].as_array().expect("packages").iter();
    let text = |value: &toml::Value| value.as_str().expect("text").to_owned();
    let package = |package: &toml::Value| {
        let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
        (
            (text(&package["name"]), text(&package["version"])),
            dependencies.into_iter().flatten().map(text).collect(),
        )
    };
    packages.map(package).collect()
}

/// RUSTSEC-2023-0071: private-key operations of the crate `rsa` leak the key by their timing. tokenmint uses it to
/// read, check and make keys, and for public keys. Neither tokenmint nor a dependency may sign or decrypt with it.
/// The ignored advisory in `deny.toml` depends on this.
#[test]
fn nothing_signs_or_decrypts_with_the_crate_rsa() {
    const READS: [&str; 8] = [
        "keys/public_numbers.rs",
        "keys/pem.rs",
        "keys/key_strength.rs",
        "keys/private_key.rs",
        "keys/public_key.rs",
        "keys/key_formats.rs",
        "doctor/jwk.rs",
        "stores/pkcs11.rs",
    ];
    let uses = Regex::new(r"(^|[^\w:])rsa::").expect("a pattern");
    let secret = Regex::new(
        r"rsa::(pkcs1v15|pss|oaep|signature|traits|hazmat)|Pkcs1v15|\bOaep\b|RandomizedSigner|RandomizedDecryptor|jsonwebtoken::encode",
    );
    let secret = secret.expect("a pattern");
    for (name, _, text) in files() {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            assert!(!secret.is_match(line), "{name} signs or decrypts with rsa, not aws-lc: {line}");
            assert!(!uses.is_match(line) || READS.contains(&name.as_str()), "{name} uses rsa: {line}");
        }
    }
    for ((package, _), dependencies) in locked("Cargo.lock") {
        let uses_rsa = dependencies.iter().any(|name| name == "rsa" || name.starts_with("rsa "));
        assert!(!uses_rsa || package == "tokenmint", "{package} uses the crate rsa: for what?");
    }
}

/// The setting also reaches the image. Without it each start takes up to 50 ms longer.
#[test]
fn every_build_excludes_jitter_entropy() {
    let text = |name| fs::read_to_string(root().join(name)).expect("a file");
    let config: toml::Table = text(".cargo/config.toml").parse().expect("TOML");
    assert_eq!(config["env"]["AWS_LC_SYS_NO_JITTER_ENTROPY"].as_str(), Some("1"));
    assert!(text(".dockerignore").lines().any(|line| line == "!.cargo"));
}

/// A build without `--locked` may use newer versions.
#[test]
fn every_build_uses_the_locked_versions() {
    let mut scripts: Vec<PathBuf> =
        ["Makefile", "Dockerfile", "README.md", ".ci/run", "fuzz/run"].map(|name| root().join(name)).into();
    for folder in ["tests", "benches", "docs", "examples", "keys.example"] {
        collect(&root().join(folder), &mut scripts);
    }
    // In backquotes it is part of a sentence.
    let builds = Regex::new(
        r#"(?:[^`\w]|^)(?:cargo|\$\(CARGO\)|CARGO:-cargo\}"?)\s+(?:b|build|r|run|t|test|bench|check|clippy|doc|install|metadata|tree|deny|rustc)\b"#,
    );
    let builds = builds.expect("a pattern");
    let mut seen = 0;
    for path in scripts {
        // Binary files contain no commands.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for line in text.lines().filter(|line| builds.is_match(line)) {
            seen += 1;
            assert!(line.contains("--locked"), "{}: {line}", path.display());
        }
    }
    assert!(seen >= 12, "only {seen} builds found; does the pattern still fit?");
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("node_modules") {
            collect(&path, found);
        } else if path.is_file() && path.extension().is_none_or(|extension| extension != "rs") {
            found.push(path);
        }
    }
}

/// The fuzzed code has the shipped dependencies.
#[test]
fn the_fuzzer_locks_the_versions_of_the_service() {
    let ours: BTreeSet<_> = locked("Cargo.lock").into_keys().collect();
    let own = ["tokenmint-fuzz", "libfuzzer-sys", "arbitrary"];
    for (name, version) in locked("fuzz/Cargo.lock").into_keys() {
        assert!(
            own.contains(&name.as_str()) || ours.contains(&(name.clone(), version.clone())),
            "fuzz/Cargo.lock has {name} {version}: cp Cargo.lock fuzz/ && (cd fuzz && cargo update --workspace)"
        );
    }
}
