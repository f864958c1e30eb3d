//! HTTP/1.1 on one connection, with or without TLS.
//!
//! - hyper runs directly, because `axum::serve` sets no timeouts. It serves one request. The next one gets a new hyper, so that idle
//!   connections don't take its memory.
//! - A connection that sends no complete request head within `HEAD_TIMEOUT` is closed. So slow clients (slowloris) and
//!   idle connections end. The TLS handshake and the first head share one timeout.
//! - The identity of the client is read once per connection.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use prometheus::{IntCounter, IntGauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::charged_body::ChargedBody;
use super::connections::{Connection, ConnectionPermit, Connections, TLS_BYTES};
use super::request_scanner::ScannedStream;
use super::tls::ClientCertificate;
use crate::api::{ApiError, GatedBody, RequestContext, RouteGroup};
use crate::callers::Peer;
use crate::clock::{Clock, UnixTime};
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

/// The parts of the service that a listener needs.
#[derive(Clone)]
pub struct ListenerDeps {
    pub groups: &'static [RouteGroup],
    pub router: Router,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
}

/// hyper's settings, and the router behind them.
#[derive(Clone)]
pub(super) struct HttpServer {
    hyper: http1::Builder,
    max_head: usize,
    router: Router,
    clock: Arc<dyn Clock>,
}

impl HttpServer {
    pub(super) fn new(deps: ListenerDeps) -> Self {
        let mut hyper = http1::Builder::new();
        // hyper gets complete heads, so it needs no timer for them.
        hyper.header_read_timeout(None).max_buf_size(HYPER_BUFFER);
        let max_head = if deps.groups == [RouteGroup::Public] { MAX_PUBLIC_HEAD } else { MAX_HEAD };
        Self { hyper, max_head, router: deps.router, clock: deps.clock }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin>(
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
                let body = GatedBody::new(body, context.body_gate.clone());
                Body::new(ChargedBody::new(body, self.connection.clone()))
            }
        });
        request.extensions_mut().insert(context);
        tower::Service::call(&mut self.router.clone(), request)
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

/// How a request ended.
#[derive(PartialEq, Eq)]
enum RequestEnd {
    /// It was answered, and another one may follow.
    KeepAlive,
    /// It was answered, and is the last one.
    Last,
    Failed,
}

/// Waits for a request head, runs hyper on the scanned stream until the response is written, and repeats this until the connection
/// ends. So a connection takes hyper's memory, 18 KiB, only during a request.
async fn serve_http<S: AsyncRead + AsyncWrite + Unpin>(
    http: &HttpServer,
    stream: S,
    client: ClientIdentity,
    mut deadline: Instant,
    permit: &ConnectionPermit,
    stop: &CancellationToken,
) {
    let connection = permit.connection();
    let mut stream = ScannedStream::new(stream, connection.clone(), http.max_head);
    let (router, clock) = (http.router.clone(), http.clock.clone());
    let service = ConnectionService { router, clock, client, connection: connection.clone() };
    let mut closing = pin!(wait_for_close(connection, stop));
    loop {
        let head = tokio::select! {
            biased;
            head = timeout_at(deadline, poll_fn(|cx| stream.poll_head(cx))) => matches!(head, Ok(Ok(true))),
            () = &mut closing => false,
        };
        if !head {
            return stream.close(false).await;
        }
        // Boxed, so that a connection without a request doesn't pay for hyper's memory.
        let mut hyper = Box::pin(http.hyper.serve_connection(TokioIo::new(stream), &service));
        // hyper ends by itself only if the connection closes. Otherwise it waits for the next request after the response. A
        // response consists of one frame (`api::middleware` asserts that), so it is complete once hyper has flushed it. An error here
        // comes from the client or the network, and the client notices it too. So it isn't logged.
        let served = poll_fn(|cx| match hyper.as_mut().poll(cx) {
            Poll::Pending if connection.is_answered() => Poll::Ready(RequestEnd::KeepAlive),
            poll => poll.map(|ended| if ended.is_ok() { RequestEnd::Last } else { RequestEnd::Failed }),
        });
        let end = tokio::select! {
            biased;
            end = served => end,
            () = &mut closing => RequestEnd::Failed,
        };
        stream = Pin::into_inner(hyper).into_parts().io.into_inner();
        if end != RequestEnd::KeepAlive || !stream.is_reusable() {
            return stream.close(end != RequestEnd::Failed).await;
        }
        deadline = Instant::now() + HEAD_TIMEOUT;
    }
}

/// Waits until the connection must be closed from our side: because it is evicted, or because the service stops and no
/// request has begun. A connection with a request is closed by its response (`Connection: close`) instead.
async fn wait_for_close(connection: &Connection, stop: &CancellationToken) {
    let is_stopped_and_unused = async {
        stop.cancelled().await;
        while {
            tokio::time::sleep(STOP_GRACE).await;
            !connection.is_unused()
        } {}
    };
    tokio::select! {
        () = connection.evicted() => {}
        () = is_stopped_and_unused => {}
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;
    use crate::clock::SystemClock;

    const REQUEST: &str = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
    const TICK: Duration = Duration::from_millis(2);

    /// The size of the response of `/large`, in bytes: more than the stream buffers.
    const LARGE: usize = 100_000;

    fn deps() -> ListenerDeps {
        let router = Router::new()
            .route("/echo", post(async |body: String| body))
            .route("/large", get(async || "a".repeat(LARGE)))
            // Reads the body, and never answers.
            .route("/works", post(async |_: String| std::future::pending::<()>().await));
        ListenerDeps {
            groups: &[RouteGroup::Minting],
            router,
            metrics: Arc::new(Metrics::new()),
            clock: Arc::new(SystemClock::default()),
        }
    }

    /// A client's end of a connection. Time is paused: it passes only while the client and the service both wait.
    fn connected() -> DuplexStream {
        let (client, stream) = tokio::io::duplex(1 << 14);
        tokio::spawn(serve_stream(stream, deps()));
        client
    }

    /// The only connection of a listener that allows one. The listener's connections, and what stops it.
    async fn connected_to_listener() -> (DuplexStream, Arc<Connections>, CancellationToken) {
        let gauge = IntGauge::new("open", "Open.").expect("a valid name");
        let connections = Connections::new(1, gauge, IntCounter::new("shed", "Shed.").expect("a valid name"));
        let permit = connections.acquire_permit().await.expect("there is no other");
        let (client, stream) = tokio::io::duplex(1 << 14);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let client = ClientIdentity { peer: None, not_after: None };
            let deadline = Instant::now() + HEAD_TIMEOUT;
            serve_http(&HttpServer::new(deps()), stream, client, deadline, &permit, &stopped).await;
        });
        (client, connections, stop)
    }

    async fn send(client: &mut DuplexStream, text: &str) {
        client.write_all(text.as_bytes()).await.expect("the connection is open");
    }

    /// Sends `REQUEST` in three parts, each after `pause`, and reads the response.
    async fn is_answered(client: &mut DuplexStream, pause: Duration) {
        for part in [&REQUEST[..20], &REQUEST[20..REQUEST.len() - 2], &REQUEST[REQUEST.len() - 2..]] {
            tokio::time::sleep(pause).await;
            send(client, part).await;
        }
        let mut response = String::new();
        while !response.ends_with("body") {
            response.push(char::from(client.read_u8().await.expect("a whole response")));
        }
        assert!(response.starts_with("HTTP/1.1 200") && !response.contains("close"), "{response}");
    }

    /// How long the service takes to close the connection from now on.
    async fn time_until_closed(client: &mut DuplexStream) -> Duration {
        let start = Instant::now();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("closed");
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        start.elapsed()
    }

    /// Each of these responses closes the connection. The body of the first isn't sent.
    #[tokio::test(start_paused = true)]
    async fn the_last_response_is_sent_whole_to_a_slow_reader() {
        for request in [
            "GET /large HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
            "GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "GET /large HTTP/1.0\r\n\r\n",
        ] {
            let mut client = connected();
            send(&mut client, request).await;
            let mut response = vec![0; LARGE + 1_000];
            let mut length = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                match client.read(&mut response[length..]).await.expect("open") {
                    0 => break,
                    read => length += read,
                }
            }
            let response = String::from_utf8_lossy(&response[..length]).into_owned();
            let (_, body) = response.split_once("\r\n\r\n").expect("a head");
            assert_eq!(body.len(), LARGE, "{request}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_charged_for_a_body_only_while_it_is_awaited() {
        for (head, rest) in
            [("Content-Length: 4", "body"), ("Transfer-Encoding: chunked", "4\r\nbody\r\n0\r\n\r\n")]
        {
            let (mut client, connections, _stop) = connected_to_listener().await;
            let open = connections.bytes();
            send(&mut client, &format!("POST /works HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n")).await;
            tokio::time::sleep(TICK).await;
            assert!(connections.bytes() > open + (20 << 10), "{head}: {}", connections.bytes());
            send(&mut client, rest).await;
            tokio::time::sleep(TICK).await;
            assert_eq!(connections.bytes(), open, "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_connection_is_closed_soon_after_the_service_stops() {
        for behind in ["", "\r\n", "\r\n\r\n"] {
            let (mut client, _, stop) = connected_to_listener().await;
            is_answered(&mut client, Duration::ZERO).await;
            send(&mut client, behind).await;
            tokio::time::sleep(TICK).await;
            stop.cancel();
            let took = time_until_closed(&mut client).await;
            assert!(took <= STOP_GRACE + TICK, "{behind:?}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_evicted_also_while_the_service_stops() {
        let (mut client, connections, stop) = connected_to_listener().await;
        send(&mut client, "POST /ec").await;
        tokio::time::sleep(TICK).await;
        stop.cancel();
        tokio::time::sleep(2 * STOP_GRACE).await;
        let start = Instant::now();
        assert!(connections.acquire_permit().await.is_some());
        assert!(start.elapsed() <= TICK, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_five_seconds_after_each_response() {
        let mut client = connected();
        for milliseconds in [0, 700, 1800, 100, 2400, 0] {
            is_answered(&mut client, Duration::from_millis(milliseconds)).await;
        }
        let took = time_until_closed(&mut client).await;
        assert!((HEAD_TIMEOUT..=HEAD_TIMEOUT + TICK).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_five_seconds_however_it_arrives() {
        for begun in ["", "POST /ec", "POST /echo HTTP/1.1\r\nX-Drip: "] {
            for earlier_requests in [0, 1] {
                let mut client = connected();
                for _ in 0..earlier_requests {
                    is_answered(&mut client, Duration::ZERO).await;
                }
                let start = Instant::now();
                send(&mut client, begun).await;
                // Bytes that arrive later don't restart the timeout.
                while !begun.is_empty() && client.write_all(b"a").await.is_ok() {
                    tokio::time::sleep(TICK).await;
                }
                time_until_closed(&mut client).await;
                let took = start.elapsed();
                assert!((HEAD_TIMEOUT..=HEAD_TIMEOUT + 2 * TICK).contains(&took), "{begun:?}: {took:?}");
            }
        }
    }
}
