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

use super::connections::{BYTES_OF_HYPER, BYTES_OF_TLS, Connection, ConnectionPermit, Connections};
use super::request_scanner::ScannedStream;
use super::supervisor::Inherited;
use super::tls::ClientCertificate;
use crate::callers::Peer;
use crate::clock::{Clock, UnixTime};
use crate::config::ListenAddress;
use crate::http::{Arrival, GatedBody, ListenerKind, Refusal};
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
const LAST_LOOK: Duration = Duration::from_millis(100);
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
    pub async fn bind(
        name: &'static str,
        listen: &ListenAddress,
        tls: Option<TlsInForce>,
    ) -> io::Result<Self> {
        let socket = match listen {
            ListenAddress::Tcp(address) => {
                let socket = TcpListener::bind(address).await?;
                rustix::net::listen(&socket, BACKLOG)?;
                Socket::Tcp(socket)
            }
            ListenAddress::Unix(path) => {
                remove_stale(path)?;
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
    pub fn address(&self) -> ListenAddress {
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

    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Answers at most so many connections until `stop`; those that are open then finish their request on `tasks`.
    pub async fn run(self, served: Served, most: usize, tasks: TaskTracker, stop: CancellationToken) {
        let opened = served.metrics.connections.with_label_values(&[self.name]);
        let shed = served.metrics.connections_refused.with_label_values(&[self.name]);
        let connections = Connections::new(most, opened, shed);
        let http = Http::new(served);
        let mut pausing = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok(stream) => {
                    pausing = false;
                    self.start(stream, &http, &connections, &tasks, &stop).await;
                }
                Err(error) if is_about_the_peer(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut pausing, true) {
                        tracing::warn!(listener = self.name, %error, "can't accept connections for a moment");
                    }
                    tokio::time::sleep(NO_DESCRIPTOR).await;
                }
            }
        }
        // The host has made these already: it would reset them.
        for _ in 0..BACKLOG {
            let Ok(Ok(stream)) = timeout(Duration::ZERO, self.socket.accept()).await else { return };
            self.start(stream, &http, &connections, &tasks, &stop).await;
        }
    }

    /// Serves a connection in a task of its own, if it is admitted.
    async fn start(
        &self,
        stream: Stream,
        http: &Http,
        connections: &Arc<Connections>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let Some(permit) = connections.admit().await else { return };
        let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.load_full()));
        let (http, stop) = (http.clone(), stop.clone());
        tasks.spawn(async move {
            match stream {
                Stream::Tcp(stream) => connected(&http, stream, tls, None, &permit, &stop).await,
                Stream::Unix(stream) => {
                    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                    // In a box, or both would have a place in the task of each connection.
                    Box::pin(connected(&http, stream, tls, uid, &permit, &stop)).await;
                }
            }
        });
    }
}

/// What a listener answers with.
#[derive(Clone)]
pub struct Served {
    pub kinds: &'static [ListenerKind],
    pub router: Router,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
}

async fn connected<S: AsyncRead + AsyncWrite + Unpin>(
    http: &Http,
    stream: S,
    tls: Option<TlsAcceptor>,
    uid: Option<u32>,
    permit: &ConnectionPermit,
    stop: &CancellationToken,
) {
    let deadline = Instant::now() + HEAD_TIMEOUT;
    if let Some(tls) = tls {
        // In a box of its own, and so at no cost to connections without.
        return Box::pin(over_tls(http, stream, tls, uid, deadline, permit, stop)).await;
    }
    let peer = uid.map(|uid| Arc::new(Peer { names: Vec::new(), uid: Some(uid) }));
    serve(http, stream, Client { peer, not_after: None }, deadline, permit, stop).await;
}

async fn over_tls<S: AsyncRead + AsyncWrite + Unpin>(
    http: &Http,
    stream: S,
    tls: TlsAcceptor,
    uid: Option<u32>,
    deadline: Instant,
    permit: &ConnectionPermit,
    stop: &CancellationToken,
) {
    permit.connection().takes(BYTES_OF_TLS);
    let accepted = tokio::select! {
        accepted = timeout_at(deadline, tls.accept(stream)) => accepted,
        () = must_end(permit.connection(), stop) => return,
    };
    let Ok(Ok(stream)) = accepted else { return };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let ClientCertificate { names, not_after } = ClientCertificate::read(certificates, http.clock.now());
    serve(
        http,
        stream,
        Client { peer: Some(Arc::new(Peer { names, uid })), not_after },
        deadline,
        permit,
        stop,
    )
    .await;
}

/// What a connection says of its client.
struct Client {
    peer: Option<Arc<Peer>>,
    /// When the client's certificate expires.
    not_after: Option<UnixTime>,
}

/// What hyper asks.
struct Connected {
    router: Router,
    clock: Arc<dyn Clock>,
    client: Client,
    connection: Arc<Connection>,
}

impl Connected {
    /// Why the request that hyper has isn't looked at.
    fn refusal(&self) -> Option<Refusal> {
        if !self.connection.take_vetted() {
            return Some(Refusal::Malformed("send a request behind which another begins as HTTP has it"));
        }
        let refused = self.connection.refusal.get().map(|refusal| Refusal::clone(refusal));
        refused.or_else(|| {
            let expired = self.client.not_after.is_some_and(|not_after| self.clock.now() > not_after);
            expired.then_some(Refusal::CertificateExpired)
        })
    }
}

impl Service<hyper::Request<Incoming>> for Connected {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let arrival = Arrival {
            began: self.connection.began(),
            refusal: self.refusal(),
            peer: self.client.peer.clone(),
            body: self.connection.body.clone(),
        };
        let mut request = request.map(|body| {
            if body.is_end_stream() {
                Body::empty()
            } else {
                Body::new(GatedBody::new(body, arrival.body.clone()))
            }
        });
        request.extensions_mut().insert(arrival);
        tower::Service::call(&mut self.router.clone(), request)
    }
}

/// How requests are read, and what answers them.
#[derive(Clone)]
struct Http {
    hyper: http1::Builder,
    max_head: usize,
    router: Router,
    clock: Arc<dyn Clock>,
}

impl Http {
    fn new(served: Served) -> Self {
        let mut hyper = http1::Builder::new();
        hyper.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HYPER_BUFFER);
        let max_head = if served.kinds == [ListenerKind::Public] { MAX_PUBLIC_HEAD } else { MAX_HEAD };
        Self { hyper, max_head, router: served.router, clock: served.clock }
    }
}

/// Answers one connection as a listener does: for who brings a stream of their own, as the fuzzer.
///
/// # Panics
/// Never: it is the only connection.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S, served: Served) {
    let opened = IntGauge::new("connections", "Open.").expect("a valid name");
    let shed = IntCounter::new("connections_refused_total", "Closed.").expect("a valid name");
    let permit = Connections::new(1, opened, shed).admit().await.expect("there is no other");
    let client = Client { peer: None, not_after: None };
    let deadline = Instant::now() + HEAD_TIMEOUT;
    serve(&Http::new(served), stream, client, deadline, &permit, &CancellationToken::new()).await;
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    http: &Http,
    stream: S,
    client: Client,
    deadline: Instant,
    permit: &ConnectionPermit,
    stop: &CancellationToken,
) {
    let connection = permit.connection();
    let mut stream = ScannedStream::new(stream, connection.clone(), http.max_head);
    let head = tokio::select! {
        biased;
        head = timeout_at(deadline, poll_fn(|cx| stream.poll_head(cx))) => matches!(head, Ok(Ok(true))),
        () = must_end(connection, stop) => false,
    };
    if !head {
        return stream.close(false).await;
    }
    connection.takes(BYTES_OF_HYPER);
    let (router, clock) = (http.router.clone(), http.clock.clone());
    let service = Connected { router, clock, client, connection: connection.clone() };
    // In a box, so that it has no place in the task of a connection that asks for nothing.
    let mut hyper = Box::pin(http.hyper.serve_connection(TokioIo::new(stream), service));
    // What goes wrong on a connection is the client's doing, and the client knows.
    let is_answered = tokio::select! {
        biased;
        ended = poll_fn(|cx| hyper.poll_without_shutdown(cx)) => ended.is_ok(),
        () = must_end(connection, stop) => false,
    };
    Pin::into_inner(hyper).into_parts().io.into_inner().close(is_answered).await;
}

/// Waits until a connection must be closed though nothing is wrong with it: in favour of others, or because the service
/// stops and nothing of a request has come. After the stop each answer closes its connection.
async fn must_end(connection: &Connection, stop: &CancellationToken) {
    tokio::select! {
        () = connection.evicted() => return,
        () = stop.cancelled() => {}
    }
    loop {
        tokio::time::sleep(LAST_LOOK).await;
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

fn is_about_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::InvalidInput)
}

/// Removes a socket file that a killed process left. One on which somebody still answers stays, and `bind` fails.
///
/// # Errors
/// Something else is at that path.
fn remove_stale(path: &Path) -> io::Result<()> {
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
