//! Parses the address that a listener binds: a TCP host and port, or the path of a Unix domain socket.

use std::net::{IpAddr, SocketAddr};
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

impl ListenAddress {
    /// Whether two listeners can't bind both addresses. `0.0.0.0` covers every IPv4 address, and `[::]` covers every address. The
    /// kernel chooses another port for each port 0.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(two)) => {
                let covers = |one: IpAddr, two: IpAddr| {
                    one.is_unspecified() && (one.is_ipv6() || two.to_canonical().is_ipv4())
                };
                let (a, b) = (one.ip(), two.ip());
                one.port() == two.port()
                    && one.port() != 0
                    && (a.to_canonical() == b.to_canonical() || covers(a, b) || covers(b, a))
            }
            (Self::Unix(one), Self::Unix(two)) => one == two,
            _ => false,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_one_host_cannot_bind_both_overlap() {
        for (one, two, overlap) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("localhost:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::]:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("127.0.0.1:80", "0.0.0.0:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:0", "0.0.0.0:0", false),
            ("unix:a", "unix:a", true),
            ("unix:a", "unix:b", false),
            ("unix:a", "0.0.0.0:80", false),
        ] {
            let [first, second] =
                [one, two].map(|text| ListenAddress::parse(text, Path::new("/")).expect("an address"));
            assert_eq!(first.overlaps(&second), overlap, "{one} and {two}");
            assert_eq!(second.overlaps(&first), overlap, "{two} and {one}");
        }
    }
}
