//! Passes libFuzzer's inputs to [`tokenmint_fuzz::configuration`], which describes the invariants.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use tokenmint_fuzz::configuration;

fuzz_target!(|text: &str| -> Corpus {
    if configuration::test_one_input(text) { Corpus::Keep } else { Corpus::Reject }
});
