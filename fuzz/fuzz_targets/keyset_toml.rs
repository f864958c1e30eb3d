//! Passes libFuzzer's inputs to [`tokenmint_fuzz::keyset_toml`], which describes the invariants.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenmint_fuzz::keyset_toml;

fuzz_target!(|text: &str| keyset_toml::test_one_input(text));
