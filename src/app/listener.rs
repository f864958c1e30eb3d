//! Listeners and their connections, over TCP or a Unix socket, with TLS or without.
//!
//! HTTP/1.1 only, from a hyper loop of our own, since `axum::serve` sets no timers. A connection that sends no whole head
//! for five seconds is closed, whether it never began, drips, or idles between requests. A TLS handshake runs in the
//! connection's own task, and has the same five seconds as the first head. What a connection says of its client is read
//! once, when it is made. [`connections`](super::connections) says which of too many is closed.

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
use crate::api::{ApiError, GatedBody, ListenerKind, RequestContext};
use crate::callers::Peer;
use crate::clock::{Clock, UnixTime};
use crate::config::Listen;
use crate::metrics::Metrics;

/// For a whole request head, from the last answer on; and for a TLS handshake and the first head together.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request head.
const MAX_HEAD: usize = 8 << 10;
/// On a listener for the internet alone, where requests have no credential.
const MAX_PUBLIC_HEAD: usize = 4 << 10;
/// More than a whole head, which hyper is given at once.
const HYPER_BUFFER: usize = 16 << 10;
/// What a connection that idles is given at the end, so that a request that is on its way is answered.
const STOP_GRACE: Duration = Duration::from_millis(100);
/// Connections that may wait to be accepted, or `net.core.somaxconn` if that is less. Of tokio's 128 a thousand verifiers that
/// come at once find most taken, and who finds no place tries again only after a second.
const BACKLOG: i32 = 4096;
/// How long to wait when the host has no descriptor left for another connection.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A bound socket, not yet answering.
pub struct Listener {
    /// `minting`, `public` or `ops`.
    pub name: &'static str,
    socket: Socket,
    tls: Option<SharedTlsConfig>,
}

/// The TLS of a listener, which a reload replaces for connections to come.
pub type SharedTlsConfig = Arc<ArcSwap<ServerConfig>>;

enum Socket {
    Tcp(TcpListener),
    /// Its file is ours to remove, unless it was handed over.
    Unix {
        /// Goes first: once the socket is closed, the file may be the next process's.
        _file: Option<SocketFile>,
        socket: UnixListener,
    },
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
    pub async fn bind(name: &'static str, listen: &Listen, tls: Option<SharedTlsConfig>) -> io::Result<Self> {
        let socket = match listen {
            Listen::Tcp(address) => {
                let socket = TcpListener::bind(address).await?;
                rustix::net::listen(&socket, BACKLOG)?;
                Socket::Tcp(socket)
            }
            Listen::Unix(path) => {
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

    /// One that listens already.
    ///
    /// # Errors
    /// The runtime can't take it.
    pub fn from_inherited(
        name: &'static str,
        socket: InheritedSocket,
        tls: Option<SharedTlsConfig>,
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

    /// Where it listens; port 0 has become a real one.
    pub fn address(&self) -> Listen {
        match &self.socket {
            Socket::Tcp(socket) => {
                let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
                Listen::Tcp(socket.local_addr().unwrap_or(unknown))
            }
            Socket::Unix { socket, .. } => {
                let address = socket.local_addr().ok();
                let path = address.and_then(|address| address.as_pathname().map(Path::to_path_buf));
                Listen::Unix(path.unwrap_or_default())
            }
        }
    }

    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Answers at most so many connections until `stop`; those that are open then finish their request on `tasks`.
    pub async fn run(
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
                        tracing::warn!(listener = self.name, %error, "can't accept connections for a moment");
                    }
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        // The host has made these already: it would reset them.
        for _ in 0..BACKLOG {
            let Ok(Ok(stream)) = timeout(Duration::ZERO, self.socket.accept()).await else { return };
            self.spawn_connection(stream, &http, &connections, &tasks, &stop).await;
        }
    }

    /// Serves a connection in a task of its own, if it is admitted.
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
                    // In a box, or both would have a place in the task of each connection.
                    Box::pin(serve_connection(&http, stream, tls, uid, &permit, &stop)).await;
                }
            }
        });
    }
}

/// What a listener answers with.
#[derive(Clone)]
pub struct ListenerDeps {
    pub kinds: &'static [ListenerKind],
    pub router: Router,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
}

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
        // In a box of its own, and so at no cost to connections without.
        return Box::pin(serve_tls(http, stream, tls, uid, deadline, permit, stop)).await;
    }
    let peer = uid.map(|uid| Arc::new(Peer { names: Vec::new(), uid: Some(uid) }));
    serve_http(http, stream, ClientIdentity { peer, not_after: None }, deadline, permit, stop).await;
}

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

/// What a connection says of its client.
struct ClientIdentity {
    peer: Option<Arc<Peer>>,
    /// When the client's certificate expires.
    not_after: Option<UnixTime>,
}

/// What hyper asks.
struct ConnectionService {
    router: Router,
    clock: Arc<dyn Clock>,
    client: ClientIdentity,
    connection: Arc<Connection>,
}

impl ConnectionService {
    /// Why the request that hyper has isn't looked at.
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
            body_gate: self.connection.body.clone(),
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

/// How requests are read, and what answers them.
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
        let max_head = if deps.kinds == [ListenerKind::Public] { MAX_PUBLIC_HEAD } else { MAX_HEAD };
        Self { hyper, max_head, router: deps.router, clock: deps.clock }
    }
}

/// Answers one connection as a listener does: for who brings a stream of their own, as the fuzzer.
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
    // In a box, so that it has no place in the task of a connection that asks for nothing.
    let mut hyper = Box::pin(http.hyper.serve_connection(TokioIo::new(stream), service));
    // What goes wrong on a connection is the client's doing, and the client knows.
    let is_answered = tokio::select! {
        biased;
        ended = poll_fn(|cx| hyper.poll_without_shutdown(cx)) => ended.is_ok(),
        () = wait_for_close(connection, stop) => false,
    };
    Pin::into_inner(hyper).into_parts().io.into_inner().close(is_answered).await;
}

/// Waits until a connection must be closed though nothing is wrong with it: in favour of others, or because the service
/// stops and nothing of a request has come. After the stop each answer closes its connection.
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

fn is_peer_error(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::InvalidInput)
}

/// Removes a socket file that a killed process left. One on which somebody still answers stays, and `bind` fails.
///
/// # Errors
/// Something else is at that path.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        let message = "something that is no socket is at this path: remove it, or choose another";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if std::os::unix::net::UnixStream::connect(path).is_err_and(refused) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}
