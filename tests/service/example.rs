//! `keys.example` is complete: after the commands of its README, `check` passes.

use std::path::Path;
use std::process::Command;

use crate::support::Workspace;

#[test]
fn the_example_passes_check_once_its_readme_was_followed() {
    let workspace = Workspace::bare();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copied = Command::new("cp")
        .arg("-r")
        .arg(root.join("keys.example"))
        .arg(workspace.path("keys.example"))
        .status();
    assert!(copied.expect("cp runs").success());
    let readme = std::fs::read_to_string(root.join("keys.example/README.md")).expect("a README");
    let commands = readme
        .split("```sh\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a block of commands");
    let binaries = Path::new(env!("CARGO_BIN_EXE_tokenmint")).parent().expect("a folder");
    let path = format!("{}:{}", binaries.display(), std::env::var_os("PATH").unwrap_or_default().display());
    let ran = Command::new("bash")
        .args(["-euxc", commands])
        .current_dir(workspace.path(""))
        .env("PATH", path)
        .output()
        .expect("bash runs");
    assert!(
        ran.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    let checked = workspace.run(&["check", "--config", "keys.example/tokenmint.toml"]);
    assert_eq!(checked.code(), 0, "{}", checked.stderr);
    assert_eq!(checked.stderr, "", "not even a warning");
}

#[test]
fn no_private_key_is_in_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().expect("git runs");
    let files = String::from_utf8(listed.stdout).expect("UTF-8");
    for file in files.split('\0').filter(|file| !file.is_empty() && !file.ends_with(".rs")) {
        assert!(!file.ends_with(".key"), "{file}");
        let text = std::fs::read(root.join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let block =
            text.split("PRIVATE KEY-----\n").nth(1).map(|rest| rest.lines().next().unwrap_or_default().len());
        assert!(block.is_none_or(|line| line < 60), "{file} holds a private key");
    }
}
