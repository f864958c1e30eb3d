//! Passes libFuzzer's inputs to [`tokenmint_fuzz::salesforce_answers`], which describes the invariants.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use tokenmint_fuzz::salesforce_answers;

fuzz_target!(init: LazyLock::force(&salesforce_answers::SERVICE), |data: &[u8]| -> Corpus {
    if salesforce_answers::test_one_input(data) { Corpus::Keep } else { Corpus::Reject }
});
