//! What Salesforce answers to an exchange, over a socket: the status in the first line, then header lines, an empty line,
//! and the body.
//!
//! Holds: a token is Salesforce's own, fit for a header, out of a 2xx and in its domains; a messaging session is the very
//! user's; anything else is 502, 503 with `Retry-After`, or 504.

use std::sync::LazyLock;

use super::FuzzService;

pub static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::default);

/// Whether such an input is worth keeping.
pub fn test_one_input(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status: u16 = lines.next().unwrap_or_default().trim().parse().unwrap_or(200);
    // After a 1xx a client waits for the real answer, for seconds.
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
