//! Bytes on a connection, through the same HTTP as a listener's, by a clock that jumps: `KEY` becomes the API key, and a line end
//! is CR LF unless the text says otherwise. `\s` splits the bytes into two writes, and `\p` puts a pause between them.
//!
//! Holds: the answers are the same as if all bytes had come at once; the connection is closed within six seconds of the last
//! byte, however long the client stays; never 5xx; without the API key no token; nothing that a client sent becomes a header of
//! an answer.

use std::sync::LazyLock;
use std::time::Duration;

use super::{API_KEY, FuzzService, SECRETS};
use tokenmint::app::answer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::time::Instant;

pub static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::default);
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
});

/// What `\p` waits; two of them fit into the five seconds that a head or a body may take, and no more are waited for.
const PAUSE: Duration = Duration::from_millis(1600);
const MOST_PAUSES: usize = 2;
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

/// What is sent in one piece.
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
            // A line end that isn't to be told as CR LF.
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

/// All that the service says until it closes.
fn exchange_bytes(writes: &[Write]) -> Vec<u8> {
    let served = SERVICE.served();
    let mut got = Vec::new();
    RUNTIME.block_on(async {
        let (mut client, theirs) = tokio::io::duplex(1 << 16);
        let connection = tokio::spawn(answer(theirs, served));
        let start = Instant::now();
        let (mut reading, mut writing) = tokio::io::split(&mut client);
        let write = async {
            for write in writes {
                if write.pauses {
                    tokio::time::sleep(PAUSE).await;
                }
                // It may close before it has read all.
                let _ = writing.write_all(&write.bytes).await;
                // Lets it read this piece by itself.
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

/// Of each answer, as far as its head shows where it begins.
fn statuses(got: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(got);
    let lines = text.split("HTTP/1.").skip(1);
    lines.map(|line| line.chars().skip(2).take(3).collect()).collect()
}

fn check_answers(sent: &[u8], got: &[u8]) {
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
            rest = check_first_answer(rest);
        }
    }
}

/// Looks at the first answer; what is behind it.
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
