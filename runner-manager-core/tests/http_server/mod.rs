//! A small HTTP/1.1 server on 127.0.0.1 that a test answers for: also with what a real one would not do, such
//! as never answering, or cutting the connection.
#![allow(dead_code, unreachable_pub, reason = "shared by test crates, each of which uses a part of it")]

pub mod keys;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

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
    /// Its address, as in `http://127.0.0.1:1234`.
    pub url: String,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Starts a server on a free port.
    pub async fn start(handler: impl Fn(Request<Bytes>) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::new(handler)));
        Self { url, _tasks: tasks }
    }
}

async fn accept(listener: TcpListener, handler: Handler) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&handler)));
    }
}

async fn serve(mut stream: TcpStream, handler: Handler) {
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
async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Request<Bytes>> {
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
