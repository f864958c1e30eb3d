//! Passes libFuzzer's inputs to [`tokenmint_fuzz::bodies`], which describes the invariants.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenmint_fuzz::bodies;

fuzz_target!(init: LazyLock::force(&bodies::SERVICE), |data: &[u8]| bodies::test_one_input(data));
