//! Fuzzes the bytes on a connection, through the HTTP stack of a listener, with paused time.
//!
//! `KEY` becomes the API key. A line end becomes CR LF; `\n` is a bare LF. `\s` splits the bytes into two writes, and `\p` adds a
//! pause between them.
//!
//! Invariants:
//! - The statuses are the same as for a single write of all bytes.
//! - The service closes the connection within six seconds, plus the pauses.
//! - No response is 5xx. Without the API key, no response has a token.
//! - Responses have known headers only, so that no input becomes a header.

use std::sync::LazyLock;
use std::time::Duration;

use super::{API_KEY, FuzzService, SECRETS};
use tokenmint::app::serve_stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::time::Instant;

pub static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::default);
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
});

/// The pause of `\p`. [`MOST_PAUSES`] of them fit into the five seconds that a head or a body may take; further ones are ignored.
const PAUSE: Duration = Duration::from_millis(1600);
const MOST_PAUSES: usize = 2;
/// Longer than a connection may stay open without a pause: 5 s for a head or a body, and the response.
const SIX_SECONDS: Duration = Duration::from_secs(6);
/// The beginning of each token: `{"typ":"J` in base64url.
const TOKEN: &str = "eyJ0eXAiOiJK";
const HEADERS: [&str; 13] = [
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "etag",
    "pragma",
    "retry-after",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-request-id",
];

pub fn test_one_input(data: &[u8]) {
    let writes = writes(data);
    let sent: Vec<u8> = writes.iter().flat_map(|write| write.bytes.iter().copied()).collect();
    let got = exchange_bytes(&writes);
    check_answers(&sent, &got);
    if writes.len() > 1 {
        let at_once = exchange_bytes(&[Write { pauses: false, bytes: sent }]);
        let (got, at_once) = (statuses(&got), statuses(&at_once));
        assert_eq!(got, at_once, "the answers depend on how the bytes were split");
    }
}

/// The bytes of one write.
#[derive(Default)]
struct Write {
    /// Whether the client waits before it.
    pauses: bool,
    bytes: Vec<u8>,
}

fn writes(data: &[u8]) -> Vec<Write> {
    let mut writes = vec![Write::default()];
    let mut pauses = 0;
    let mut rest = data;
    while let Some((&byte, after)) = rest.split_first() {
        let bytes = &mut writes.last_mut().expect("there is one at first").bytes;
        if let Some(after) = rest.strip_prefix(b"KEY") {
            bytes.extend_from_slice(API_KEY.as_bytes());
            rest = after;
            continue;
        }
        let escape = rest.get(..2).filter(|escape| matches!(escape, [b'\\', b'n' | b'p' | b's']));
        match escape {
            // A bare LF.
            Some(br"\n") => bytes.push(b'\n'),
            Some(escape) => {
                pauses += usize::from(escape == br"\p");
                let pauses = escape == br"\p" && pauses <= MOST_PAUSES;
                writes.push(Write { pauses, bytes: Vec::new() });
            }
            None => {
                if byte == b'\n' {
                    bytes.push(b'\r');
                }
                bytes.push(byte);
            }
        }
        rest = if escape.is_some() { &rest[2..] } else { after };
    }
    writes
}

/// Sends `writes`, and returns everything that the service sends until it closes the connection.
fn exchange_bytes(writes: &[Write]) -> Vec<u8> {
    let served = SERVICE.listener_deps();
    let mut got = Vec::new();
    RUNTIME.block_on(async {
        let (mut client, theirs) = tokio::io::duplex(1 << 16);
        let connection = tokio::spawn(serve_stream(theirs, served));
        let start = Instant::now();
        let (mut reading, mut writing) = tokio::io::split(&mut client);
        let write = async {
            for write in writes {
                if write.pauses {
                    tokio::time::sleep(PAUSE).await;
                }
                // The service may close before it has read everything.
                let _ = writing.write_all(&write.bytes).await;
                // Lets the service read this write alone.
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let ((), read) = tokio::join!(write, reading.read_to_end(&mut got));
        read.expect("memory can be read");
        let paused = PAUSE * u32::try_from(writes.iter().filter(|write| write.pauses).count()).unwrap_or(0);
        assert!(start.elapsed() < SIX_SECONDS + paused, "still open after {:?}", start.elapsed());
        connection.await.expect("no panic");
    });
    got
}

/// The status of each response, found by its `HTTP/1.`.
fn statuses(got: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(got);
    let lines = text.split("HTTP/1.").skip(1);
    lines.map(|line| line.chars().skip(2).take(3).collect()).collect()
}

fn check_answers(sent: &[u8], got: &[u8]) {
    let contains = |text: &[u8], part: &str| text.windows(part.len()).any(|window| window == part.as_bytes());
    assert!(!contains(got, "HTTP/1.1 5") && !contains(got, "HTTP/1.0 5"), "a 5xx");
    // A client that sends its key as the request id gets it back.
    let as_id =
        |line: &[u8]| line.to_ascii_lowercase().starts_with(b"x-request-id") && contains(line, API_KEY);
    let is_returned = sent.split(|byte| *byte == b'\n').any(as_id);
    let is_kept = |secret: &&str| !contains(got, secret) || **secret == *API_KEY && is_returned;
    assert!(SECRETS.iter().all(is_kept), "an answer holds a secret");
    assert!(contains(sent, API_KEY) || !contains(got, TOKEN), "a token for nobody");
    let text = String::from_utf8(got.to_vec()).expect("answers are UTF-8");
    assert!(text.is_empty() || text.starts_with("HTTP/1."), "{text}");
    // A response to HEAD has a length but no body, so that the end of each response can't be found without the requests.
    if !contains(sent, "HEAD") {
        let mut rest = text.as_str();
        while !rest.is_empty() {
            rest = check_first_answer(rest);
        }
    }
}

/// Checks the first response, and returns the rest.
fn check_first_answer(text: &str) -> &str {
    let (head, rest) = text.split_once("\r\n\r\n").expect("a whole head");
    let mut lines = head.split("\r\n");
    let status = lines.next().expect("a status line");
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(": ").expect("a header");
        assert!(HEADERS.contains(&name), "an unknown header: {line}");
        if name == "content-length" {
            assert!(length.replace(value.parse().expect("a length")).is_none(), "two lengths");
        }
    }
    let length: usize = length.unwrap_or(0);
    if status.contains(" 304") || status.contains(" 100") {
        return rest;
    }
    rest.get(length..).expect("a whole body")
}
