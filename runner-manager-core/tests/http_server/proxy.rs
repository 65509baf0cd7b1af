//! A small proxy on 127.0.0.1 that leads on by `CONNECT`, and keeps what is said over it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A running proxy; it stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Its address, as in `http://127.0.0.1:1234`, or `https://` with TLS.
    pub url: String,
    books: Arc<Books>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Books {
    login: Option<String>,
    asked: Mutex<Vec<String>>,
    heard: Mutex<Vec<Vec<u8>>>,
}

impl Proxy {
    /// Starts a proxy on a free port. Where `login` is given it lets nobody pass who does not bear it, as in
    /// `Basic dXNlcjpwYXNz`.
    pub async fn start(login: Option<&str>) -> Self {
        Self::listen("http", None, login).await
    }

    /// The same that speaks TLS itself, by `server.pem` and `server.key` of a folder.
    pub async fn start_tls(folder: &Path, login: Option<&str>) -> Self {
        Self::listen("https", Some(super::tls(folder)), login).await
    }

    async fn listen(scheme: &str, tls: Option<TlsAcceptor>, login: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let books = Arc::new(Books { login: login.map(str::to_owned), ..Books::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, tls, Arc::clone(&books)));
        Self { url, books, _tasks: tasks }
    }

    /// The first line of each request.
    pub fn asked(&self) -> Vec<String> {
        self.books.asked.lock().unwrap().clone()
    }

    /// What came over it, one entry for each direction of a connection.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.books.heard.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, books: Arc<Books>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, books) = (tls.clone(), Arc::clone(&books));
        connections.spawn(async move {
            match tls {
                None => lead(stream, &books).await,
                // Who does not trust the certificate hangs up.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        lead(stream, &books).await;
                    }
                }
            }
        });
    }
}

async fn lead(mut stream: impl AsyncRead + AsyncWrite + Unpin, books: &Books) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let first = head.lines().next().unwrap();
    books.asked.lock().unwrap().push(first.to_owned());
    let bears = |login| head.contains(&format!("Proxy-Authorization: {login}\r\n"));
    let may_pass = books.login.as_ref().is_none_or(bears);
    let place = first.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let status = match place {
        None => "405 Method Not Allowed",
        Some(_) if !may_pass => "407 Proxy Authentication Required",
        Some(place) => {
            let Ok(onward) = TcpStream::connect(place).await else { return };
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            let ((mut from, mut back), (mut answers, mut to)) = (split(stream), split(onward));
            tokio::join!(pass(&mut from, &mut to, books), pass(&mut answers, &mut back, books));
            return;
        }
    };
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await;
}

/// Passes on what comes until it ends, and keeps it.
async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), books: &Books) {
    let place = {
        let mut heard = books.heard.lock().unwrap();
        heard.push(Vec::new());
        heard.len() - 1
    };
    let mut part = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut part).await {
        books.heard.lock().unwrap()[place].extend_from_slice(&part[..length]);
        if to.write_all(&part[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
