//! The settings of HTTP clients that all requests to other servers share: timeouts, no proxy, certificate authorities. It also finds the
//! cause of an error.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder};

use crate::files::{MAX_FILE_SIZE, OpenedFile};

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout of a request, from connecting to the last byte of the response.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Begins a client that ignores proxy settings of the environment.
pub(crate) fn builder() -> ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .no_proxy()
        .user_agent(concat!("tokenmint/", env!("CARGO_PKG_VERSION")))
}

/// Builds a client that trusts the host's certificate authorities. On a host without any, for example a bare image, it trusts none:
/// https requests fail, but minting works. `purpose` says what the client is for.
pub(crate) fn build_with_host_authorities(builder: impl Fn() -> ClientBuilder, purpose: &str) -> Client {
    let client = builder().build().or_else(|error| {
        tracing::warn!(
            %error,
            purpose,
            "this host has no certificate authorities, so https requests fail: mount a bundle and set SSL_CERT_FILE"
        );
        builder().tls_certs_only([]).build()
    });
    client.expect("a client that trusts nobody needs nothing of the host")
}

/// The reason why no client can be built with a `ca_file`.
pub(crate) const INVALID_AUTHORITY: &str = "holds a certificate that isn't valid: replace it";

/// Reads a file with certificate authorities.
///
/// # Errors
/// Says why the file can't be read.
pub(crate) fn read_authorities(file: &Path) -> Result<Vec<u8>, String> {
    let read = OpenedFile::open(file).and_then(|file| file.read(MAX_FILE_SIZE));
    read.map(|pem| pem.to_vec()).map_err(|error| format!("can't be read: {error}"))
}

/// Parses the text of a file with certificate authorities.
///
/// # Errors
/// It holds none.
pub(crate) fn parse_authorities(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let certificates = Certificate::from_pem_bundle(pem).unwrap_or_default();
    if certificates.is_empty() {
        return Err("holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`)".to_owned());
    }
    Ok(certificates)
}

/// The innermost cause of an error, which has no address in it, and whether it is an error of TLS.
pub(crate) fn innermost_cause(error: &reqwest::Error) -> (String, bool) {
    let mut cause: &dyn std::error::Error = error;
    let mut is_tls = false;
    loop {
        // An error in an `io::Error` isn't its source: the source is that error's.
        is_tls |= match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => inner.is::<rustls::Error>(),
            None => cause.is::<rustls::Error>(),
        };
        match cause.source() {
            Some(source) => cause = source,
            None => return (cause.to_string(), is_tls),
        }
    }
}
