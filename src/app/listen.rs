//! Listeners and their connections, over TCP or a Unix socket, with TLS or without.
//!
//! HTTP/1.1 only, from a hyper loop of our own, since `axum::serve` sets no timer and so leaves slow clients
//! open for ever. A connection that sends no whole head for five seconds is closed, whether it never began,
//! drips, or idles between requests; hyper has it only while there is a request to answer. There are at most
//! `connections` of them; one more is closed at once. A TLS handshake runs in the connection's own task and holds
//! up nobody. What a connection says of its client is read once, when it is made.

use std::convert::Infallible;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::supervisor::Inherited;
use super::tls;
use super::wire::Wire;
use crate::callers::Peer;
use crate::config::{ClientName, Limits, Listen};
use crate::http::LateBody;
use crate::metrics::Metrics;

/// For a whole request head, from the connection's start or the last answer on; and for a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection is idle before hyper's buffers are given back, or twice as long.
const IDLE: Duration = Duration::from_millis(500);
/// What hyper buffers of a head; the door allows half as much.
const HEAD_BUFFER: usize = 16 << 10;
/// Connections that may wait to be accepted, or `net.core.somaxconn` if that is less. Of tokio's 128 a thousand verifiers that
/// come at once find most taken, and who finds no place tries again only after a second.
const BACKLOG: i32 = 4096;
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
    /// Its file is ours to remove, unless it was handed over.
    Unix {
        socket: UnixListener,
        _file: Option<SocketFile>,
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
    pub async fn bind(name: &'static str, listen: &Listen, tls: Option<TlsInForce>) -> io::Result<Self> {
        let socket = match listen {
            Listen::Tcp(address) => {
                let socket = TcpListener::bind(address).await?;
                rustix::net::listen(&socket, BACKLOG)?;
                Socket::Tcp(socket)
            }
            Listen::Unix(path) => {
                remove_stale(path);
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
    pub fn adopt(name: &'static str, socket: Inherited, tls: Option<TlsInForce>) -> io::Result<Self> {
        let socket = match socket {
            Inherited::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Socket::Tcp(TcpListener::from_std(socket)?)
            }
            Inherited::Unix(socket) => {
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

    /// Answers connections with `router` until `stop`, at most `limits.connections` at a time; those that are open
    /// then finish their request on `tasks`.
    pub async fn run(
        self,
        router: Router,
        limits: Limits,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        let open = metrics.connections.with_label_values(&[self.name]);
        let refused = metrics.connections_refused.with_label_values(&[self.name]);
        let http = Http::new(&limits);
        let mut pausing = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok(stream) => {
                    pausing = false;
                    stream
                }
                Err(error) if is_about_the_peer(&error) => continue,
                Err(error) => {
                    if !std::mem::replace(&mut pausing, true) {
                        tracing::warn!(listener = self.name, %error, "can't accept connections for a moment");
                    }
                    tokio::time::sleep(NO_DESCRIPTOR).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                refused.inc();
                continue;
            };
            let place = Place::take(place, open.clone());
            let router = router.clone();
            let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.load_full()));
            let (http, stop) = (http.clone(), stop.clone());
            tasks.spawn(async move {
                let _place = place;
                match stream {
                    Stream::Tcp(stream) => connected(&http, stream, tls, None, router, stop).await,
                    Stream::Unix(stream) => {
                        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                        // In a box, or both would have a place in the task of each connection.
                        Box::pin(connected(&http, stream, tls, uid, router, stop)).await;
                    }
                }
            });
        }
    }
}

async fn connected<S: AsyncRead + AsyncWrite + Unpin>(
    http: &Http,
    stream: S,
    tls: Option<TlsAcceptor>,
    uid: Option<u32>,
    router: Router,
    stop: CancellationToken,
) {
    if let Some(tls) = tls {
        // In a box of its own, and so at no cost to connections without.
        return Box::pin(over_tls(http, stream, tls, uid, router, stop)).await;
    }
    let peer = uid.map(|uid| Arc::new(Peer { names: Vec::new(), uid: Some(uid) }));
    serve(http, stream, Routes { router, peer }, stop).await;
}

async fn over_tls<S: AsyncRead + AsyncWrite + Unpin>(
    http: &Http,
    stream: S,
    tls: TlsAcceptor,
    uid: Option<u32>,
    router: Router,
    stop: CancellationToken,
) {
    let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await else { return };
    let peer = Some(Arc::new(Peer { names: names(&stream), uid }));
    serve(http, stream, Routes { router, peer }, stop).await;
}

fn names<S>(stream: &TlsStream<S>) -> Vec<ClientName> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    certificates.first().map(tls::client_names).unwrap_or_default()
}

/// The routes as one connection reaches them: what it says of its client goes with each request.
#[derive(Clone)]
struct Routes {
    router: Router,
    peer: Option<Arc<Peer>>,
}

/// What hyper asks.
struct Connected {
    routes: Routes,
    /// Whether the body of the request to come was waited for in vain.
    late: AtomicBool,
}

impl Service<hyper::Request<Incoming>> for Connected {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        if let Some(peer) = &self.routes.peer {
            request.extensions_mut().insert(peer.clone());
        }
        if self.late.swap(false, Ordering::Relaxed) {
            request.extensions_mut().insert(LateBody);
        }
        tower::Service::call(&mut self.routes.router.clone(), request)
    }
}

/// How requests are read.
#[derive(Clone)]
struct Http {
    hyper: http1::Builder,
    /// Bytes of a body.
    body: usize,
    body_timeout: Duration,
}

impl Http {
    fn new(limits: &Limits) -> Self {
        let mut hyper = http1::Builder::new();
        hyper.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BUFFER);
        Self { hyper, body: limits.body, body_timeout: limits.body_timeout() }
    }
}

/// Answers one connection with `router` as a listener does: for who brings a stream of their own, as the fuzzer.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S, limits: &Limits, router: Router) {
    serve(&Http::new(limits), stream, Routes { router, peer: None }, CancellationToken::new()).await;
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    http: &Http,
    stream: S,
    routes: Routes,
    stop: CancellationToken,
) {
    let mut wire = Wire::new(stream);
    let mut patience = HEAD_TIMEOUT;
    // What goes wrong on a connection is the client's doing, and the client knows.
    loop {
        let head = tokio::select! {
            head = tokio::time::timeout(patience, wire.head(HEAD_BUFFER)) => head,
            () = stop.cancelled() => return,
        };
        let Ok(Ok(true)) = head else { return };
        let body = tokio::time::timeout(http.body_timeout, wire.body(http.body)).await;
        let late = AtomicBool::new(body.is_err());
        let service = Connected { routes: routes.clone(), late };
        // In a box, so that it has no place in the task while nothing is to be answered.
        let Some(idle) = Box::pin(until_idle(http, wire, service, &stop)).await else { return };
        wire = idle;
        patience = HEAD_TIMEOUT.saturating_sub(IDLE);
    }
}

/// Has hyper answer what comes; the connection, when it has been idle for [`IDLE`], and nothing where it is over.
async fn until_idle<S: AsyncRead + AsyncWrite + Unpin>(
    http: &Http,
    wire: Wire<S>,
    service: Connected,
    stop: &CancellationToken,
) -> Option<Wire<S>> {
    let activity = wire.activity();
    // In a box of its own: pinned where it stands, it would be there twice.
    let mut connection = Box::pin(http.hyper.serve_connection(TokioIo::new(wire), service));
    let mut was = None;
    loop {
        tokio::select! {
            // In this order: told to end before it has read the request, hyper drops it.
            biased;
            _ = connection.as_mut() => return None,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
                return None;
            }
            () = tokio::time::sleep(IDLE) => {}
        }
        let idle = activity.idle();
        if idle.is_some() && idle == was {
            break;
        }
        was = idle;
    }
    connection.as_mut().graceful_shutdown();
    match poll_fn(|cx| Poll::Ready(connection.poll_without_shutdown(cx))).await {
        Poll::Ready(Ok(())) => Some(Pin::into_inner(connection).into_parts().io.into_inner()),
        Poll::Ready(Err(_)) => None,
        // Not idle after all, but a second request of those that came together: it is the last.
        Poll::Pending => {
            let _ = connection.await;
            None
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
