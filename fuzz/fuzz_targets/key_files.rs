//! Passes libFuzzer's inputs to [`tokenmint_fuzz::key_files`], which describes the invariants.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenmint_fuzz::key_files;

fuzz_target!(init: LazyLock::force(&key_files::GOOD), |data: &[u8]| key_files::test_one_input(data));
