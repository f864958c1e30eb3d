//! The accept loop and HTTP/1.1 connections. `axum::serve` isn't used, because faults need to abort a connection without a
//! response.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::Sandbox;
use super::bodies::ConnectionAbort;

/// The pause after a failed `accept`, for example when the host has no file descriptor left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves the sandbox on `listener` until `stop`, which also ends open connections.
///
/// # Errors
/// The listener isn't on loopback: anybody who reaches it could log in as any user.
pub async fn serve(listener: TcpListener, sandbox: Sandbox, stop: CancellationToken) -> io::Result<()> {
    if !listener.local_addr()?.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the sandbox listens on loopback only"));
    }
    serve_router(listener, sandbox.router(), stop).await
}

/// Serves `router` on `listener` until `stop`.
pub(super) async fn serve_router(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return Ok(()),
        };
        match accepted {
            Ok((stream, _)) => _ = tokio::spawn(connection(stream, router.clone(), stop.clone())),
            Err(_) => tokio::time::sleep(ACCEPT_RETRY_DELAY).await,
        }
    }
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        Box::pin(async move {
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            match response.extensions().get::<ConnectionAbort>() {
                None => Ok(response),
                Some(cut) => Err(*cut),
            }
        })
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = poll_fn(|context| connection.poll_without_shutdown(context)) => ended,
        () = stop.cancelled() => return,
    };
    let stream = connection.into_parts().io.into_inner();
    let reset = |error: &hyper::Error| {
        error.source().and_then(|why| why.downcast_ref()) == Some(&ConnectionAbort::Reset)
    };
    if ended.as_ref().is_err_and(reset) {
        let _ = stream.set_zero_linger();
    }
}
