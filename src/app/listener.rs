//! Listeners: TCP or Unix sockets, with or without TLS. Each accepted connection gets a permit of
//! [`connections`](super::connections) and its own task, in which [`http_server`](super::http_server) serves it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connections::Connections;
use super::http_server::{HttpServer, ListenerDeps, serve_connection};
use super::systemd::InheritedSocket;
use crate::config::ListenAddress;

/// The largest number of connections that wait to be accepted; `net.core.somaxconn` if that is less. tokio's default of 128 is
/// too few for a thousand verifiers that connect at once: a rejected client retries only after a second.
const BACKLOG: i32 = 4096;
/// The pause after a connection can't be accepted, for example without a free descriptor.
const LISTENER_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A bound socket that doesn't accept connections yet.
pub(crate) struct Listener {
    /// `minting`, `public` or `ops`.
    pub(crate) name: &'static str,
    socket: Socket,
    tls: Option<SwappableTlsConfig>,
}

/// The TLS configuration of a listener. A reload replaces it for new connections.
pub(crate) type SwappableTlsConfig = Arc<ArcSwap<ServerConfig>>;

enum Socket {
    Tcp(TcpListener),
    Unix {
        /// Removes the socket's file at the end; `None` if systemd passed the socket. Must be dropped before the socket: once it
        /// is closed, another process may create its own file at that path.
        _file: Option<SocketFile>,
        socket: UnixListener,
    },
}

/// An accepted connection.
enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// The file of a Unix socket. Dropping it removes the file.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds a socket to the address `listen`.
    ///
    /// # Errors
    /// The address is in use or not available on this host, or the file of a Unix socket can't be created.
    pub(crate) async fn bind(
        name: &'static str,
        listen: &ListenAddress,
        tls: Option<SwappableTlsConfig>,
    ) -> io::Result<Self> {
        let socket = match listen {
            ListenAddress::Tcp(address) => {
                let socket = TcpListener::bind(address).await?;
                rustix::net::listen(&socket, BACKLOG)?;
                Socket::Tcp(socket)
            }
            ListenAddress::Unix(path) => {
                remove_stale_socket(path)?;
                let socket = UnixListener::bind(path)?;
                rustix::net::listen(&socket, BACKLOG)?;
                let file = SocketFile(path.clone());
                fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
                Socket::Unix { socket, _file: Some(file) }
            }
        };
        Ok(Self { name, socket, tls })
    }

    /// Uses a listening socket that systemd passed.
    ///
    /// # Errors
    /// The socket can't be made non-blocking, or can't be registered with tokio.
    pub(crate) fn from_inherited(
        name: &'static str,
        socket: InheritedSocket,
        tls: Option<SwappableTlsConfig>,
    ) -> io::Result<Self> {
        let socket = match socket {
            InheritedSocket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Socket::Tcp(TcpListener::from_std(socket)?)
            }
            InheritedSocket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Socket::Unix { socket: UnixListener::from_std(socket)?, _file: None }
            }
        };
        Ok(Self { name, socket, tls })
    }

    /// The address that it listens on, with the actual port if port 0 was configured.
    pub(crate) fn address(&self) -> ListenAddress {
        match &self.socket {
            Socket::Tcp(socket) => {
                let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
                ListenAddress::Tcp(socket.local_addr().unwrap_or(unknown))
            }
            Socket::Unix { socket, .. } => {
                let address = socket.local_addr().ok();
                let path = address.and_then(|address| address.as_pathname().map(Path::to_path_buf));
                ListenAddress::Unix(path.unwrap_or_default())
            }
        }
    }

    /// `https` or `http`.
    pub(crate) const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Accepts connections until `stop` is cancelled, at most `max_connections` at a time. Each runs as a task of `tasks` and
    /// finishes its current request after the stop.
    pub(crate) async fn run(
        self,
        deps: ListenerDeps,
        max_connections: usize,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let open_gauge = deps.metrics.connections.with_label_values(&[self.name]);
        let shed_counter = deps.metrics.connections_refused.with_label_values(&[self.name]);
        let connections = Connections::new(max_connections, open_gauge, shed_counter);
        let http = HttpServer::new(deps);
        let mut is_pausing = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok(stream) => {
                    is_pausing = false;
                    self.spawn_connection(stream, &http, &connections, &tasks, &stop).await;
                }
                Err(error) if is_peer_error(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_pausing, true) {
                        tracing::warn!(listener = self.name, %error, "can't accept connections, and tries again: if too many files are open, raise the limit \
                             (ulimit -n, LimitNOFILE)");
                    }
                    tokio::time::sleep(LISTENER_RETRY_DELAY).await;
                }
            }
        }
        // The kernel has already established these connections, and would reset them if they were not accepted.
        for _ in 0..BACKLOG {
            let Ok(Ok(stream)) = timeout(Duration::ZERO, self.socket.accept()).await else { return };
            self.spawn_connection(stream, &http, &connections, &tasks, &stop).await;
        }
    }

    /// Serves a connection in its own task, if it gets a permit. Otherwise closes it.
    async fn spawn_connection(
        &self,
        stream: Stream,
        http: &HttpServer,
        connections: &Arc<Connections>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let Some(permit) = connections.acquire_permit().await else { return };
        let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.load_full()));
        let (http, stop) = (http.clone(), stop.clone());
        tasks.spawn(async move {
            match stream {
                Stream::Tcp(stream) => serve_connection(&http, stream, tls, None, &permit, &stop).await,
                Stream::Unix(stream) => {
                    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                    // Boxed, so that the task of a TCP connection doesn't reserve memory for both variants.
                    Box::pin(serve_connection(&http, stream, tls, uid, &permit, &stop)).await;
                }
            }
        });
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix { socket, .. } => socket.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// Whether the error concerns the one connection that was to be accepted, and not the listener.
fn is_peer_error(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::InvalidInput)
}

/// Removes the socket file of a process that was killed, so that `bind` can create another. A file whose socket still accepts
/// connections stays, so that `bind` fails.
///
/// # Errors
/// The file at that path isn't a socket.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        let message = "a file that isn't a socket is at this path: remove it, or choose another path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if std::os::unix::net::UnixStream::connect(path).is_err_and(refused) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}
