//! Passes libFuzzer's inputs to [`tokenmint_fuzz::jwts`], which describes the invariants.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenmint_fuzz::jwts;

fuzz_target!(init: LazyLock::force(&jwts::SERVICE), |data: &[u8]| jwts::test_one_input(data));
