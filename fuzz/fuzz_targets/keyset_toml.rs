//! Hands what libFuzzer makes up to [`tokenmint_fuzz::keyset_toml`], which says what holds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenmint_fuzz::keyset_toml;

fuzz_target!(|text: &str| keyset_toml::test_one_input(text));
