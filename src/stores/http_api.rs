//! The parts that all stores with an HTTP interface share: the client, bounded bodies, tokens in files, and the text of errors.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use serde::Serialize;
use zeroize::Zeroizing;

use super::error::StoreError;
use crate::config::UnverifiedPath;
use crate::files::OpenedFile;
use crate::http_client;

/// How long an unused connection is kept. A firewall may drop connections without a word, and each costs an attempt then.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest token or JWT in a file, in bytes.
const MAX_TOKEN_BYTES: u64 = 16 << 10;
/// The largest body of a response, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;
/// The most characters of a word of the store's errors in a message, and of all.
const MAX_ERROR_WORD: usize = 60;
const MAX_ERROR_CHARS: usize = 200;

/// A client that follows no redirects, and trusts `ca_file` if it is given.
pub(super) fn client(ca_file: Option<&UnverifiedPath>) -> Result<Client, StoreError> {
    let builder =
        || http_client::builder().redirect(Policy::none()).pool_idle_timeout(IDLE_CONNECTION_TIMEOUT);
    let Some(file) = ca_file else {
        return Ok(http_client::build_with_host_authorities(builder, "requests to stores of keys"));
    };
    let authorities = http_client::read_authorities(file.as_path());
    let built = authorities.and_then(|pem| {
        let certificates = http_client::parse_authorities(&pem)?;
        let built = builder().tls_certs_only(certificates).build();
        built.map_err(|_| http_client::INVALID_AUTHORITY.to_owned())
    });
    built.map_err(|reason| StoreError::File { key: "ca_file", reason })
}

/// Reads a token or a JWT. `key` is the setting that names the file.
pub(super) fn read_token(key: &'static str, file: &Path) -> Result<Zeroizing<String>, StoreError> {
    let failed = |reason: String| StoreError::File { key, reason };
    let read = OpenedFile::open(file).and_then(|file| file.read(MAX_TOKEN_BYTES));
    let bytes = read.map_err(|error| failed(error.to_string()))?;
    let text = std::str::from_utf8(&bytes).ok().map(str::trim).filter(|text| !text.is_empty());
    let text = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    text.map(|text| Zeroizing::new(text.to_owned())).ok_or_else(|| failed("doesn't hold a token".to_owned()))
}

/// Writes the body of a request.
pub(super) fn json(body: &impl Serialize) -> Bytes {
    // It must not grow, which would leave copies of a secret in memory.
    let mut length = ByteCount(0);
    serde_json::to_writer(&mut length, body).expect("text can be counted");
    let mut json = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *json, body).expect("text can be written to memory");
    Bytes::from_owner(json)
}

/// Counts what is written to it.
struct ByteCount(usize);

impl io::Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a request, and reads the response.
pub(super) async fn send(request: RequestBuilder) -> Result<(StatusCode, Zeroizing<Vec<u8>>), StoreError> {
    let unavailable = |error: &reqwest::Error| {
        let reason = if error.is_timeout() {
            format!("not within {} s", http_client::REQUEST_TIMEOUT.as_secs())
        } else {
            http_client::innermost_cause(error).0
        };
        StoreError::Unavailable(reason)
    };
    let mut response = request.send().await.map_err(|error| unavailable(&error))?;
    let body = read_body(&mut response).await.map_err(|error| match error {
        Some(error) => unavailable(&error),
        None => StoreError::Unavailable("its answer has more than 64 KiB".to_owned()),
    })?;
    Ok((response.status(), body))
}

/// Reads a body. The error is `None` if it is too large.
async fn read_body(response: &mut Response) -> Result<Zeroizing<Vec<u8>>, Option<reqwest::Error>> {
    // Nor must this grow.
    let length = response.content_length().and_then(|length| usize::try_from(length).ok());
    let capacity = length.map_or(MAX_BODY_BYTES, |length| length.min(MAX_BODY_BYTES));
    let mut body = Zeroizing::new(Vec::with_capacity(capacity));
    while let Some(chunk) = response.chunk().await.map_err(Some)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error's text in one line of visible ASCII, shortened. Long words may be secrets, and are left out.
pub(super) fn shorten(text: &str) -> Option<String> {
    let all = text.replace(|char: char| !char.is_ascii_graphic(), " ");
    let words: Vec<&str> =
        all.split_whitespace().map(|word| if word.len() > MAX_ERROR_WORD { "(…)" } else { word }).collect();
    let mut text = words.join(" ");
    text.truncate(text.floor_char_boundary(MAX_ERROR_CHARS));
    (!text.is_empty()).then_some(text)
}
