//! Listeners and their connections, over TCP or a Unix socket, with TLS or without.
//!
//! HTTP/1.1 only, from a hyper loop of our own, since `axum::serve` sets no timer and so leaves slow clients
//! open for ever. A connection that sends no whole head for five seconds is closed, whether it never began,
//! drips, or idles between requests. There are at most `connections` of them; one more is closed at once. A
//! TLS handshake runs in the connection's own task and holds up nobody.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Listen;
use crate::metrics::Metrics;

/// For a whole request head, from the connection's start or the last answer on; and for a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// What hyper buffers of a head; the door allows half as much.
const HEAD_BUFFER: usize = 16 << 10;
/// How long to wait when the host has no descriptor left for another connection.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

/// A bound socket, not yet answering.
pub struct Listener {
    /// `minting`, `public` or `ops`.
    pub name: &'static str,
    socket: Socket,
    tls: Option<TlsInForce>,
}

/// The TLS of a listener, which a reload replaces for connections to come.
pub type TlsInForce = Arc<ArcSwap<ServerConfig>>;

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket, removed at the end.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind(name: &'static str, listen: &Listen, tls: Option<TlsInForce>) -> io::Result<Self> {
        let socket = match listen {
            Listen::Tcp(address) => Socket::Tcp(TcpListener::bind(address).await?),
            Listen::Unix(path) => {
                remove_stale(path);
                let socket = UnixListener::bind(path)?;
                let file = SocketFile(path.clone());
                fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
                Socket::Unix(socket, file)
            }
        };
        Ok(Self { name, socket, tls })
    }

    /// Where it listens; port 0 has become a real one.
    pub fn address(&self) -> Listen {
        match &self.socket {
            Socket::Tcp(socket) => {
                let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
                Listen::Tcp(socket.local_addr().unwrap_or(unknown))
            }
            Socket::Unix(_, file) => Listen::Unix(file.0.clone()),
        }
    }

    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Answers connections with `router` until `stop`, at most `connections` at a time; those that are open
    /// then finish their request on `tasks`.
    pub async fn run(
        self,
        router: Router,
        connections: usize,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        let open = metrics.connections.with_label_values(&[self.name]);
        let refused = metrics.connections_refused.with_label_values(&[self.name]);
        let http = http();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) if is_about_the_peer(&error) => continue,
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "can't accept connections for a moment");
                    tokio::time::sleep(NO_DESCRIPTOR).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                refused.inc();
                continue;
            };
            let place = Place::take(place, open.clone());
            let service = TowerToHyperService::new(router.clone());
            let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.load_full()));
            let (http, stop) = (http.clone(), stop.clone());
            tasks.spawn(async move {
                let _place = place;
                match (stream, tls) {
                    (Stream::Tcp(stream), None) => serve(&http, stream, service, stop).await,
                    (Stream::Unix(stream), None) => serve(&http, stream, service, stop).await,
                    (Stream::Tcp(stream), Some(tls)) => {
                        let handshake = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream));
                        if let Ok(Ok(stream)) = handshake.await {
                            serve(&http, stream, service, stop).await;
                        }
                    }
                    (Stream::Unix(stream), Some(tls)) => {
                        let handshake = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream));
                        if let Ok(Ok(stream)) = handshake.await {
                            serve(&http, stream, service, stop).await;
                        }
                    }
                }
            });
        }
    }
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BUFFER);
    http
}

/// Answers one connection with `router` as a listener does: for who brings a stream of their own, as the fuzzer.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S, router: Router) {
    serve(&http(), stream, TowerToHyperService::new(router), CancellationToken::new()).await;
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    http: &http1::Builder,
    stream: S,
    service: TowerToHyperService<Router>,
    stop: CancellationToken,
) {
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // What goes wrong on a connection is the client's doing, and the client knows.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Socket {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(socket, _) => socket.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// A place among the connections, counted while it is held.
struct Place {
    _permit: OwnedSemaphorePermit,
    open: prometheus::IntGauge,
}

impl Place {
    fn take(permit: OwnedSemaphorePermit, open: prometheus::IntGauge) -> Self {
        open.inc();
        Self { _permit: permit, open }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

fn is_about_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::InvalidInput)
}

/// A socket file that a killed process left. One on which somebody still answers stays, and `bind` fails.
fn remove_stale(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(refused) {
        let _ = fs::remove_file(path);
    }
}
