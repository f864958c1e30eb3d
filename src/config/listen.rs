//! Parses the address that a listener binds: a TCP host and port, or the path of a Unix domain socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The address that a listener binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl ListenAddress {
    /// Parses `127.0.0.1:8080`, `localhost:8080` or `unix:/path`. A relative socket path starts at `base`.
    ///
    /// # Errors
    /// Another form; the message names the valid ones.
    pub(crate) fn parse(written: &str, base: &Path) -> Result<Self, String> {
        if let Some(path) = written.strip_prefix("unix:") {
            return match path {
                "" => Err("has no socket path: write, for example, unix:/run/tokenmint.sock".to_owned()),
                path => Ok(Self::Unix(base.join(path))),
            };
        }
        let numeric = written.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        numeric.as_deref().unwrap_or(written).parse().map(Self::Tcp).map_err(|_| {
            r#"must be an address and a port, for example "127.0.0.1:8080" or "[::]:8080", or "unix:/path""#.to_owned()
        })
    }
}

impl Default for ListenAddress {
    fn default() -> Self {
        Self::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
