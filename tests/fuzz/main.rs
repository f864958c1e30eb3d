//! A short form of `make fuzz`, without libFuzzer. Each of `fuzz/seeds`, former failures included, is an input, and
//! so are thousands of random changes of it. They are the same in each run.

#[path = "../../fuzz/src/lib.rs"]
#[allow(clippy::panic, reason = "it is how a fuzzer says that something doesn't hold")]
mod fuzz;

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

#[test]
fn a_body_gets_what_it_asks_for_and_no_more() {
    short("bodies", 15_000, &[], fuzz::bodies::test_one_input);
}

#[test]
fn claims_never_cost_a_token_its_subject_issuer_or_life() {
    short("claims", 15_000, &[], fuzz::claims::test_one_input);
}

#[test]
fn a_configuration_means_one_thing() {
    short("configuration", 15_000, &[], |data| {
        fuzz::configuration::test_one_input(text(data));
    });
}

#[test]
fn a_form_gets_a_token_only_with_its_parameters_given_once() {
    short("forms", 15_000, &[b"&", b"=", b"%", b"+"], fuzz::forms::test_one_input);
}

#[test]
fn a_connection_ends_whatever_comes_over_it() {
    short("http_heads", 15_000, &[br"\n", br"\s", br"\p"], fuzz::http_heads::test_one_input);
}

#[test]
fn a_jwt_is_accepted_only_for_what_its_issuer_signed() {
    short("jwts", 15_000, &[b"\n"], fuzz::jwts::test_one_input);
}

#[test]
fn a_key_that_is_taken_signs_what_its_public_half_verifies() {
    short("key_files", 15_000, &[], fuzz::key_files::test_one_input);
}

#[test]
fn a_schedule_has_one_key_that_signs() {
    short("keyset_toml", 15_000, &[], |data| fuzz::keyset_toml::test_one_input(text(data)));
}

#[test]
fn an_answer_of_salesforces_is_its_own_token_or_an_error() {
    short("salesforce_answers", 2_000, &[], |data| {
        fuzz::salesforce_answers::test_one_input(data);
    });
}

/// Like libFuzzer passes an input to a target that takes text.
fn text(data: &[u8]) -> &str {
    data.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// Feeds the seeds, and then `changed` of what can become of them. Every other input gets up to two of `symbols`, which mean
/// something to the target alone.
fn short(target: &str, changed: u32, symbols: &'static [&'static [u8]], feed: impl Fn(&[u8])) {
    let seeds = seeds(target);
    for (name, seed) in &seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| watched(&feed, seed)));
        assert!(outcome.is_ok(), "fuzz/seeds/{target}/{name} fails, for what is said above");
    }
    let config = Config { cases: changed, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, seed)| seed).collect();
    let outcome = runner.run(&input(seeds, symbols), |input| {
        watched(&feed, &input.0);
        Ok(())
    });
    let failure = outcome.err().map(|failure| match failure {
        TestError::Fail(reason, input) => {
            format!("{reason}; to keep it: printf '{input:?}' >fuzz/seeds/{target}/WHAT_IT_IS")
        }
        TestError::Abort(reason) => reason.to_string(),
    });
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(&folder)
        .expect("seeds")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            (entry.file_name().into_string().expect("text"), std::fs::read(entry.path()).expect("a file"))
        })
        .collect();
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    seeds.sort();
    seeds
}

/// Also fails for a panic that the service catches.
fn watched(feed: impl Fn(&[u8]), data: &[u8]) {
    static HOOK: Once = Once::new();
    // The service runs on the thread of its test.
    thread_local!(static PANICS: Cell<usize> = const { Cell::new(0) });
    HOOK.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            hook(panic);
        }));
    });
    let before = PANICS.get();
    feed(data);
    assert_eq!(PANICS.get(), before, "a panic that was caught; its message is above");
}

#[derive(Clone)]
struct Input(Vec<u8>);

/// In the form for `printf`.
impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0 {
            match byte {
                b'%' => f.write_str("%%")?,
                b'\\' => f.write_str(r"\\")?,
                b' '..=b'~' if *byte != b'\'' => write!(f, "{}", char::from(*byte))?,
                _ => write!(f, r"\{byte:03o}")?,
            }
        }
        Ok(())
    }
}

/// A seed after up to six changes.
fn input(seeds: Vec<Vec<u8>>, symbols: &'static [&'static [u8]]) -> impl Strategy<Value = Input> {
    let others = seeds.clone();
    let symbol = (any::<Index>(), any::<Index>()).prop_map(|(at, which)| {
        let symbol = if symbols.is_empty() { b"".as_slice() } else { *which.get(symbols) };
        Change::Insert(at, symbol.to_vec())
    });
    let changes = (0..=6_usize, proptest::collection::vec(change(others), 6));
    let symbols = prop_oneof![Just(Vec::new()), proptest::collection::vec(symbol, 1..=2)];
    (select(seeds), changes, symbols).prop_map(|(mut data, (count, changes), symbols)| {
        for change in changes.into_iter().take(count).chain(symbols) {
            change.make(&mut data);
        }
        Input(data)
    })
}

#[derive(Clone, Debug)]
enum Change {
    /// Overwrites a byte.
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Repeats a part that many times.
    Repeat(Index, usize, usize),
    /// Continues with a part of another seed.
    Cross(Index, Index, Vec<u8>),
}

/// Tokens of the formats themselves, and known troublemakers of other parsers.
const WORDS: [&[u8]; 24] = [
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"-",
    b"=",
    b"null",
    b"1e999",
    b"-9223372036854775809",
    b"\xff",
    "\u{202e}".as_bytes(),
    b"99999999999999999999",
    b"%00",
    b"\n\n",
];

fn change(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let word = prop_oneof![
        3 => select(WORDS.as_slice()).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 1..16),
    ];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), word).prop_map(|(at, word)| Change::Insert(at, word)),
        (at(), 1..32_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1..64_usize, 1..40_usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        (at(), at(), select(seeds)).prop_map(|(at, from, other)| Change::Cross(at, from, other)),
    ]
}

impl Change {
    fn make(self, data: &mut Vec<u8>) {
        let place = |at: Index, data: &[u8]| at.index(data.len() + 1);
        match self {
            Self::Set(at, byte) => {
                let at = place(at, data);
                data.splice(at..data.len().min(at + 1), [byte]);
            }
            Self::Insert(at, bytes) => {
                let at = place(at, data);
                data.splice(at..at, bytes);
            }
            Self::Remove(at, length) => {
                let at = place(at, data);
                data.drain(at..data.len().min(at + length));
            }
            Self::Repeat(at, length, times) => {
                let at = place(at, data);
                let part = data[at..data.len().min(at + length)].repeat(times);
                data.splice(at..at, part);
            }
            Self::Cross(at, from, other) => {
                data.truncate(place(at, data));
                data.extend_from_slice(&other[place(from, &other)..]);
            }
        }
    }
}
