//! Passes libFuzzer's inputs to [`tokenmint_fuzz::forms`], which describes the invariants.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenmint_fuzz::forms;

fuzz_target!(init: LazyLock::force(&forms::SERVICE), |data: &[u8]| forms::test_one_input(data));
