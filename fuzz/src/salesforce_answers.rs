//! Fuzzes Salesforce's response to an exchange, over a socket. The input has the status in the first line, then header lines, an
//! empty line, and the body.
//!
//! Invariants:
//! - A token is the one that Salesforce sent with a 2xx, fits into a header, and its instance is in Salesforce's domains.
//! - A messaging session is the requested user's.
//! - Every other response is 502, 503 with `Retry-After`, or 504.

use std::sync::LazyLock;

use super::FuzzService;

pub static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::default);

/// Whether the input is worth keeping in the corpus.
pub fn test_one_input(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status: u16 = lines.next().unwrap_or_default().trim().parse().unwrap_or(200);
    // After a 1xx, a client waits seconds for the final response.
    if status < 200 {
        return false;
    }
    let mut answer = format!("HTTP/1.1 {status} said\r\nConnection: close\r\n");
    for line in lines {
        answer.push_str(line.trim_end());
        answer.push_str("\r\n");
    }
    answer.push_str("\r\n");
    answer.push_str(body);
    SERVICE.exchange(answer.as_bytes(), body.as_bytes());
    true
}
