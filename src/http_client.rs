//! The settings of HTTP clients that all requests to other servers share: timeouts, no proxy, certificate authorities.

use std::time::Duration;

use reqwest::{Client, ClientBuilder};

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
