//! The HTTP around our two simulations: connections on the loopback interface, bodies up to a bound, and
//! answers that get lost on purpose.
//!
//! What is answered is the [`Face`]'s affair. hyper serves it, and not the router of the real server, since a
//! lost answer is a connection that ends without a byte: hyper does that for a service that fails.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use runner_manager_core::clock::{Clock, SystemClock, timeout};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The largest body of a request.
const LONGEST_BODY: usize = 16 << 20;
/// How long a request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);
/// How long answers may take that are under way when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What answers requests.
#[async_trait]
pub(crate) trait Face: Send + Sync + 'static {
    /// The answer; none where it is to get lost.
    async fn answer(&self, request: Request<Bytes>) -> Option<Response<Bytes>>;
}

/// The answer is lost on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the answer is to be lost")]
struct Lost;

/// A client for plain HTTP on this machine: past proxies, and without certificates, which a container may lack.
///
/// # Errors
/// When no client can be made.
pub(crate) fn local_client() -> reqwest::Result<reqwest::Client> {
    local_builder().build()
}

/// The same, for whoever has more to say of it.
pub(crate) fn local_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().tls_certs_only([])
}

/// Listens on a port of the loopback interface; 0 is any that is free.
///
/// # Errors
/// When the port cannot be had.
pub(crate) async fn listen(port: u16) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("cannot listen on port {port} of 127.0.0.1"))?;
    let address = listener.local_addr().context("the socket has no address")?;
    Ok((listener, address))
}

/// Serves a face until `stop`.
pub(crate) async fn serve(listener: TcpListener, face: Arc<dyn Face>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&face), stop.clone()));
                }
                // Mostly too many open files: some will be closed.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    SystemClock.sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(&SystemClock, LAST_ANSWERS, ended).await.is_err() {
        tracing::debug!("requests were still open at the end");
    }
}

async fn connection(stream: TcpStream, face: Arc<dyn Face>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let face = Arc::clone(&face);
        async move { exchange(&*face, request).await }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(ARRIVAL);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended");
    }
}

async fn exchange(face: &dyn Face, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Lost> {
    let (head, body) = request.into_parts();
    let body = match timeout(&SystemClock, ARRIVAL, Limited::new(body, LONGEST_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Ok(refused(StatusCode::PAYLOAD_TOO_LARGE)),
        Err(_) => return Ok(refused(StatusCode::REQUEST_TIMEOUT)),
    };
    let answer = face.answer(Request::from_parts(head, body)).await;
    answer.map(|answer| answer.map(Full::new)).ok_or(Lost)
}

fn refused(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}
