//! Listeners and their connections: TCP or Unix sockets, with or without TLS, HTTP/1.1 only.
//!
//! - Each connection runs hyper directly, because `axum::serve` sets no timeouts.
//! - A connection that sends no complete request head within `HEAD_TIMEOUT` is closed. So slow clients (slowloris) and
//!   idle connections end. The TLS handshake and the first head share one timeout.
//! - The identity of the client is read once per connection.
//! - [`connections`](super::connections) limits the connections and evicts idle ones.

use std::convert::Infallible;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntCounter, IntGauge};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connections::{Connection, ConnectionPermit, Connections, HYPER_BYTES, TLS_BYTES};
use super::request_scanner::ScannedStream;
use super::systemd::InheritedSocket;
use super::tls::ClientCertificate;
use crate::api::{ApiError, GatedBody, RequestContext, RouteGroup};
use crate::callers::Peer;
use crate::clock::{Clock, UnixTime};
use crate::config::ListenAddress;
use crate::metrics::Metrics;

/// The timeout for a request head, counted from the end of the previous response. For the first head it includes the TLS
/// handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest request head, in bytes.
const MAX_HEAD: usize = 8 << 10;
/// The largest request head on the public listener, in bytes. It is smaller, because requests have no credentials there.
const MAX_PUBLIC_HEAD: usize = 4 << 10;
/// The largest size of hyper's read buffer, in bytes. It is larger than a request head, because hyper gets a head as a whole.
const HYPER_BUFFER: usize = 16 << 10;
/// How long an idle connection stays open after the service stops, so that a request in transit is answered.
const STOP_GRACE: Duration = Duration::from_millis(100);
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

/// The parts of the service that a listener needs.
#[derive(Clone)]
pub struct ListenerDeps {
    pub groups: &'static [RouteGroup],
    pub router: Router,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
}

/// Serves one connection to its end.
async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin>(
    http: &HttpServer,
    stream: S,
    tls: Option<TlsAcceptor>,
    uid: Option<u32>,
    permit: &ConnectionPermit,
    stop: &CancellationToken,
) {
    let deadline = Instant::now() + HEAD_TIMEOUT;
    if let Some(tls) = tls {
        // Boxed, so that connections without TLS don't pay for its memory.
        return Box::pin(serve_tls(http, stream, tls, uid, deadline, permit, stop)).await;
    }
    let peer = uid.map(|uid| Arc::new(Peer { names: Vec::new(), uid: Some(uid) }));
    serve_http(http, stream, ClientIdentity { peer, not_after: None }, deadline, permit, stop).await;
}

/// Does the TLS handshake, reads the client's certificate, and serves HTTP.
async fn serve_tls<S: AsyncRead + AsyncWrite + Unpin>(
    http: &HttpServer,
    stream: S,
    tls: TlsAcceptor,
    uid: Option<u32>,
    deadline: Instant,
    permit: &ConnectionPermit,
    stop: &CancellationToken,
) {
    permit.connection().charge(TLS_BYTES);
    let accepted = tokio::select! {
        accepted = timeout_at(deadline, tls.accept(stream)) => accepted,
        () = wait_for_close(permit.connection(), stop) => return,
    };
    let Ok(Ok(stream)) = accepted else { return };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let ClientCertificate { names, not_after } = ClientCertificate::read(certificates, http.clock.now());
    serve_http(
        http,
        stream,
        ClientIdentity { peer: Some(Arc::new(Peer { names, uid })), not_after },
        deadline,
        permit,
        stop,
    )
    .await;
}

/// The identity of a connection's client.
struct ClientIdentity {
    peer: Option<Arc<Peer>>,
    /// When the client's certificate chain expires: the earliest end of validity of its certificates, without those that had
    /// already expired at the handshake.
    not_after: Option<UnixTime>,
}

/// The hyper service of one connection: adds the [`RequestContext`] and calls the router.
struct ConnectionService {
    router: Router,
    clock: Arc<dyn Clock>,
    client: ClientIdentity,
    connection: Arc<Connection>,
}

impl ConnectionService {
    /// Returns the error with which the current request is rejected before it is routed, if there is one.
    fn error(&self) -> Option<ApiError> {
        if !self.connection.take_checked_head() {
            return Some(ApiError::Malformed(
                "send one complete HTTP/1.1 request after another: the bytes after the last one are invalid",
            ));
        }
        let refused = self.connection.error.get().map(|error| ApiError::clone(error));
        refused.or_else(|| {
            let expired = self.client.not_after.is_some_and(|not_after| self.clock.now() > not_after);
            expired.then_some(ApiError::CertificateExpired)
        })
    }
}

impl Service<hyper::Request<Incoming>> for ConnectionService {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let context = RequestContext {
            started_at: self.connection.request_started_at(),
            error: self.error(),
            peer: self.client.peer.clone(),
            body_gate: self.connection.body_gate.clone(),
        };
        let mut request = request.map(|body| {
            if body.is_end_stream() {
                Body::empty()
            } else {
                Body::new(GatedBody::new(body, context.body_gate.clone()))
            }
        });
        request.extensions_mut().insert(context);
        tower::Service::call(&mut self.router.clone(), request)
    }
}

/// hyper's settings, and the router behind them.
#[derive(Clone)]
struct HttpServer {
    hyper: http1::Builder,
    max_head: usize,
    router: Router,
    clock: Arc<dyn Clock>,
}

impl HttpServer {
    fn new(deps: ListenerDeps) -> Self {
        let mut hyper = http1::Builder::new();
        hyper.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HYPER_BUFFER);
        let max_head = if deps.groups == [RouteGroup::Public] { MAX_PUBLIC_HEAD } else { MAX_HEAD };
        Self { hyper, max_head, router: deps.router, clock: deps.clock }
    }
}

/// Serves `stream` like a connection of a listener. Used by the fuzzer, which brings its own stream.
///
/// # Panics
/// Never: it is the only connection.
pub async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(stream: S, deps: ListenerDeps) {
    let open_gauge = IntGauge::new("connections", "Open.").expect("a valid name");
    let shed_counter = IntCounter::new("connections_refused_total", "Closed.").expect("a valid name");
    let permit =
        Connections::new(1, open_gauge, shed_counter).acquire_permit().await.expect("there is no other");
    let client = ClientIdentity { peer: None, not_after: None };
    let deadline = Instant::now() + HEAD_TIMEOUT;
    serve_http(&HttpServer::new(deps), stream, client, deadline, &permit, &CancellationToken::new()).await;
}

/// Waits for the first request head, then runs hyper on the scanned stream until the connection ends.
async fn serve_http<S: AsyncRead + AsyncWrite + Unpin>(
    http: &HttpServer,
    stream: S,
    client: ClientIdentity,
    deadline: Instant,
    permit: &ConnectionPermit,
    stop: &CancellationToken,
) {
    let connection = permit.connection();
    let mut stream = ScannedStream::new(stream, connection.clone(), http.max_head);
    let head = tokio::select! {
        biased;
        head = timeout_at(deadline, poll_fn(|cx| stream.poll_head(cx))) => matches!(head, Ok(Ok(true))),
        () = wait_for_close(connection, stop) => false,
    };
    if !head {
        return stream.close(false).await;
    }
    connection.charge(HYPER_BYTES);
    let (router, clock) = (http.router.clone(), http.clock.clone());
    let service = ConnectionService { router, clock, client, connection: connection.clone() };
    // Boxed, so that a connection without a request doesn't pay for hyper's memory.
    let mut hyper = Box::pin(http.hyper.serve_connection(TokioIo::new(stream), service));
    // An error here comes from the client or the network, and the client notices it too. So it isn't logged.
    let is_answered = tokio::select! {
        biased;
        ended = poll_fn(|cx| hyper.poll_without_shutdown(cx)) => ended.is_ok(),
        () = wait_for_close(connection, stop) => false,
    };
    Pin::into_inner(hyper).into_parts().io.into_inner().close(is_answered).await;
}

/// Waits until the connection must be closed from our side: because it is evicted, or because the service stops and no
/// request has begun. A connection with a request is closed by its response (`Connection: close`) instead.
async fn wait_for_close(connection: &Connection, stop: &CancellationToken) {
    tokio::select! {
        () = connection.evicted() => return,
        () = stop.cancelled() => {}
    }
    loop {
        tokio::time::sleep(STOP_GRACE).await;
        if connection.is_unused() {
            return;
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
