//! A small HTTP/1.1 server on 127.0.0.1 that a test answers for: also with what a real one would not do, such
//! as never answering, or cutting the connection.
#![allow(dead_code, unreachable_pub, reason = "shared by test crates, each of which uses a part of it")]

pub mod keys;
pub mod proxy;

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What is done about a request.
#[derive(Debug)]
pub enum Reply {
    /// This is the answer.
    Answer(Response<Bytes>),
    /// These bytes are written, and the connection is cut.
    Cut(Bytes),
    /// There is no answer, and the connection stays.
    Silence,
}

type Handler = Arc<dyn Fn(Request<Bytes>) -> Reply + Send + Sync>;

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    /// Its address, as in `http://127.0.0.1:1234`, or `https://` with TLS.
    pub url: String,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Starts a server on a free port.
    pub async fn start(handler: impl Fn(Request<Bytes>) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, None, Arc::new(handler)));
        Self { url, _tasks: tasks }
    }

    /// Starts a server on a free port that speaks TLS, by `server.pem` and `server.key` of a folder.
    pub async fn start_tls(
        folder: &Path,
        handler: impl Fn(Request<Bytes>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Some(tls(folder)), Arc::new(handler)));
        Self { url, _tasks: tasks }
    }
}

fn tls(folder: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(folder.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, handler: Handler) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, handler) = (tls.clone(), Arc::clone(&handler));
        connections.spawn(async move {
            match tls {
                None => serve(stream, handler).await,
                // Who does not trust the certificate hangs up.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, handler).await;
                    }
                }
            }
        });
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, handler: Handler) {
    let mut buffer = BytesMut::new();
    while let Some(request) = read(&mut stream, &mut buffer).await {
        match handler(request) {
            Reply::Answer(answer) => {
                if stream.write_all(&written(&answer)).await.is_err() {
                    return;
                }
            }
            Reply::Cut(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Reply::Silence => std::future::pending().await,
        }
    }
}

/// The next request; none where the connection ended.
async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<Request<Bytes>> {
    let end = loop {
        match buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            Some(at) => break at + 4,
            None if stream.read_buf(buffer).await.unwrap_or(0) == 0 => return None,
            None => {}
        }
    };
    let head = buffer.split_to(end);
    let head = std::str::from_utf8(&head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let mut request = Request::builder().method(first.next().unwrap()).uri(first.next().unwrap());
    let mut length = 0;
    for (name, value) in lines.map(|line| line.split_once(": ").unwrap()) {
        request = request.header(name, value);
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().unwrap();
        }
    }
    while buffer.len() < length {
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    Some(request.body(buffer.split_to(length).freeze()).unwrap())
}

fn written(answer: &Response<Bytes>) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {}\r\n", answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        bytes.extend_from_slice(format!("{name}: ").as_bytes());
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if answer.status() != http::StatusCode::NO_CONTENT {
        bytes.extend_from_slice(format!("content-length: {}\r\n", answer.body().len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(answer.body());
    bytes
}
