//! What stands between GitHub and the replicas: a load balancer that knows no more than who refuses a connection.
//!
//! A webhook goes to the next replica in turn; where nobody is behind an address, to the one after it. What a
//! replica answers is GitHub's answer, and a webhook that is not taken is not sent again by anybody.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HOST};
use tokio::task::JoinSet;

use crate::support::client;

/// How long a replica may take to answer: a frozen one never does.
const PATIENCE: Duration = Duration::from_secs(3);
const LONGEST_BODY: usize = 1 << 20;

#[derive(Debug)]
struct Shared {
    behind: Mutex<Vec<String>>,
    turn: AtomicUsize,
    accepted: AtomicU64,
    dropped: AtomicU64,
    client: reqwest::Client,
}

/// The balancer, at work as long as the value lives.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// Where GitHub is to send its webhooks.
    pub(crate) url: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Balancer {
    pub(crate) async fn open() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhook", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            behind: Mutex::default(),
            turn: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            client: client(),
        });
        let router = Router::new().fallback(pass).with_state(shared.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, _serving: serving }
    }

    /// From now on these replicas are behind it.
    pub(crate) fn leads_to(&self, replicas: Vec<String>) {
        *self.shared.behind.lock().unwrap() = replicas;
    }

    /// How many webhooks were taken, and how many nobody took.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let shared = &self.shared;
        (shared.accepted.load(Ordering::Relaxed), shared.dropped.load(Ordering::Relaxed))
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> StatusCode {
    let status = shared.forward(request).await;
    let count = if status.is_success() { &shared.accepted } else { &shared.dropped };
    count.fetch_add(1, Ordering::Relaxed);
    status
}

impl Shared {
    async fn forward(&self, request: Request) -> StatusCode {
        let (mut head, body) = request.into_parts();
        for own in [HOST, CONTENT_LENGTH] {
            head.headers.remove(own);
        }
        let body = to_bytes(body, LONGEST_BODY).await.unwrap();
        let behind = self.behind.lock().unwrap().clone();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for step in 0..behind.len() {
            let url = format!("{}/webhook", behind[(first + step) % behind.len()]);
            let sent =
                self.client.post(url).timeout(PATIENCE).headers(head.headers.clone()).body(body.clone());
            match sent.send().await {
                Ok(answer) => return answer.status(),
                Err(error) if error.is_connect() => {}
                Err(_) => return StatusCode::GATEWAY_TIMEOUT,
            }
        }
        StatusCode::BAD_GATEWAY
    }
}
