//! Passes libFuzzer's inputs to [`tokenmint_fuzz::http_heads`], which describes the invariants.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenmint_fuzz::http_heads;

fuzz_target!(init: LazyLock::force(&http_heads::SERVICE), |data: &[u8]| http_heads::test_one_input(data));
