//! Passes libFuzzer's inputs to [`tokenmint_fuzz::claims`], which describes the invariants.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenmint_fuzz::claims;

fuzz_target!(init: LazyLock::force(&claims::SERVICE), |data: &[u8]| claims::test_one_input(data));
