//! Hands what libFuzzer makes up to [`tokenmint_fuzz::bodies`], which says what holds.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenmint_fuzz::bodies;

fuzz_target!(init: LazyLock::force(&bodies::SERVICE), |data: &[u8]| bodies::test_one_input(data));
