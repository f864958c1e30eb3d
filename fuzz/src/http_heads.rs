//! Bytes on a connection, through the same HTTP as a listener's, by a clock that jumps: `KEY` becomes the API key, and a line end
//! is CR LF unless the text says otherwise.
//!
//! Holds: the connection is closed within six seconds of the last byte, however long the client stays; never 5xx; without the
//! API key no token; nothing that a client sent becomes a header of an answer.

use std::sync::LazyLock;
use std::time::Duration;

use super::{API_KEY, House, SECRETS};
use tokenmint::app::answer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::time::Instant;

pub static HOUSE: LazyLock<House> = LazyLock::new(House::default);
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
});

/// Longer than the whole takes: 5 s for a head or a body, and the answer.
const SIX_SECONDS: Duration = Duration::from_secs(6);
/// How each token begins: `{"typ":"J`.
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

pub fn feed(data: &[u8]) {
    let sent = bytes(data);
    let router = HOUSE.router();
    let mut got = Vec::new();
    RUNTIME.block_on(async {
        let (mut client, theirs) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(answer(theirs, HOUSE.limits(), router));
        let start = Instant::now();
        // It may close before it has read all.
        let (mut reading, mut writing) = tokio::io::split(&mut client);
        let (_, read) = tokio::join!(writing.write_all(&sent), reading.read_to_end(&mut got));
        read.expect("memory can be read");
        served.await.expect("no panic");
        assert!(start.elapsed() < SIX_SECONDS, "still open after {:?}", start.elapsed());
    });
    holds(&sent, &got);
}

fn bytes(data: &[u8]) -> Vec<u8> {
    let mut sent = Vec::with_capacity(data.len() + 64);
    let mut rest = data;
    while let Some((&byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"KEY") {
            sent.extend_from_slice(API_KEY.as_bytes());
            rest = after;
            continue;
        }
        // `\n` written out is a bare one.
        if let Some(after) = rest.strip_prefix(br"\n") {
            sent.push(b'\n');
            rest = after;
            continue;
        }
        if byte == b'\n' {
            sent.push(b'\r');
        }
        sent.push(byte);
        rest = after;
    }
    sent
}

fn holds(sent: &[u8], got: &[u8]) {
    let contains = |text: &[u8], part: &str| text.windows(part.len()).any(|window| window == part.as_bytes());
    assert!(!contains(got, "HTTP/1.1 5") && !contains(got, "HTTP/1.0 5"), "a 5xx");
    assert!(SECRETS.iter().all(|secret| !contains(got, secret)), "an answer holds a secret");
    assert!(contains(sent, API_KEY) || !contains(got, TOKEN), "a token for nobody");
    let text = String::from_utf8(got.to_vec()).expect("answers are UTF-8");
    assert!(text.is_empty() || text.starts_with("HTTP/1."), "{text}");
    // An answer to HEAD has a length and no body, so that nobody can tell where it ends who doesn't count along.
    if !contains(sent, "HEAD") {
        let mut rest = text.as_str();
        while !rest.is_empty() {
            rest = one(rest);
        }
    }
}

/// Looks at the first answer; what is behind it.
fn one(text: &str) -> &str {
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
