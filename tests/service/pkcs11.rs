//! Stores of kind `pkcs11`: mistakes in the configuration. `tests/interop/test_pkcs11.py` has real tokens.

use crate::support::{Workspace, configuration};

#[test]
fn mistakes_in_the_configuration_of_a_token_are_named() {
    let workspace = Workspace::bare();
    workspace.write_key("hsm-pin", "1234\n");
    let store = "[stores.hsm]\nkind = \"pkcs11\"\nmodule = \"hsm.so\"\ntoken_label = \"tokenmint\"\npin_file = \"hsm-pin\"\n";
    let seal = "directory = \"keys/web\"\nsealed_by = \"hsm\"\nseal_key = \"sealing\"";
    let right = configuration().replace("directory = \"keys/web\"", seal) + store;
    let long = format!("token_label = \"{}\"", "x".repeat(33));
    for (before, after, field, message) in [
        ("module = ", "# ", "stores.hsm.module", "is missing: the PKCS#11 library"),
        ("token_label = ", "# ", "stores.hsm.token_label", "is missing: the label of the token"),
        ("token_label = \"tokenmint\"", &long, "stores.hsm.token_label", "32"),
        ("pin_file = ", "# ", "stores.hsm.pin_file", "is missing: a file with the PIN"),
        ("pin_file", "role = \"x\"\npin_file", "stores.hsm.role", "is for stores of kind `vault`"),
        ("seal_key = \"sealing\"", "seal_key = \"a b\"", "keysets.web.seal_key", "must be 1 to 128 letters"),
    ] {
        assert!(right.contains(before), "{before}");
        workspace.configure(&right.replace(before, after));
        let checked = workspace.run(&["check"]);
        assert_eq!(checked.code(), 64, "{after}: {}", checked.stderr);
        let line = checked.stderr.lines().find(|line| line.starts_with(field));
        assert!(line.is_some_and(|line| line.contains(message)), "{field} {message}: {}", checked.stderr);
    }
}
