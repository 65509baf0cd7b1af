//! A small proxy on 127.0.0.1 that leads on by `CONNECT`.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A running proxy; it stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Its address, as in `http://127.0.0.1:1234`.
    pub url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Starts a proxy on a free port. Where `login` is given it lets nobody pass who does not bear it, as in
    /// `Basic dXNlcjpwYXNz`.
    pub async fn start(login: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(lead(stream, login, Arc::clone(&log)));
            }
        });
        Self { url, asked, _tasks: tasks }
    }

    /// The first line of each request.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn lead(mut stream: TcpStream, login: Option<&str>, log: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let first = head.lines().next().unwrap();
    log.lock().unwrap().push(first.to_owned());
    let may_pass = login.is_none_or(|login| head.contains(&format!("Proxy-Authorization: {login}\r\n")));
    let place = first.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let status = match place {
        None => "405 Method Not Allowed",
        Some(_) if !may_pass => "407 Proxy Authentication Required",
        Some(place) => {
            let Ok(mut onward) = TcpStream::connect(place).await else { return };
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut onward).await;
            return;
        }
    };
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await;
}
