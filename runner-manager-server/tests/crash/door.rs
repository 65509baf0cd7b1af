//! What stands between GitHub and the manager, as a load balancer would: webhooks that come while the manager is
//! down wait for the next one, and those that it did not answer are sent again.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::support::client;

/// How long a webhook waits for a manager: GitHub gives up after 10 s.
const HOLD: Duration = Duration::from_secs(9);
const LONGEST_BODY: usize = 1 << 20;

/// What is behind the door.
#[derive(Debug, Clone)]
enum Behind {
    /// The manager at this URL.
    Manager(String),
    /// No manager yet: whoever comes waits.
    Nobody,
    /// No manager, and whoever comes is sent away.
    Closed,
}

/// Webhooks that the manager answered with 202.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Of any kind.
    pub(crate) all: u64,
    /// Those that told of a queued job.
    pub(crate) queued: u64,
}

#[derive(Debug)]
struct Shared {
    behind: watch::Sender<Behind>,
    accepted: watch::Sender<Accepted>,
    client: reqwest::Client,
}

/// The door, open as long as the value lives.
#[derive(Debug)]
pub(crate) struct Door {
    /// Where GitHub is to send its webhooks.
    pub(crate) url: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Door {
    pub(crate) async fn open() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhook", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            behind: watch::Sender::new(Behind::Nobody),
            accepted: watch::Sender::default(),
            client: client(),
        });
        let router = Router::new().fallback(pass).with_state(shared.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, _serving: serving }
    }

    /// From now on the manager is here.
    pub(crate) fn leads_to(&self, manager: &str) {
        self.shared.behind.send_replace(Behind::Manager(format!("{manager}/webhook")));
    }

    /// From now on webhooks wait.
    pub(crate) fn holds(&self) {
        self.shared.behind.send_replace(Behind::Nobody);
    }

    /// From now on webhooks are refused, those that wait as well.
    pub(crate) fn closes(&self) {
        self.shared.behind.send_replace(Behind::Closed);
    }

    /// What was accepted so far, kept up to date.
    pub(crate) fn accepted(&self) -> watch::Receiver<Accepted> {
        self.shared.accepted.subscribe()
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> StatusCode {
    let until = Instant::now() + HOLD;
    let (mut head, body) = request.into_parts();
    for own in [HOST, CONTENT_LENGTH] {
        head.headers.remove(own);
    }
    let body = to_bytes(body, LONGEST_BODY).await.unwrap();
    let mut behind = shared.behind.subscribe();
    loop {
        let now = behind.borrow_and_update().clone();
        match now {
            Behind::Closed => return StatusCode::SERVICE_UNAVAILABLE,
            Behind::Nobody => {}
            Behind::Manager(url) => {
                if let Some(status) = shared.send(&url, &head.headers, &body).await {
                    return status;
                }
            }
        }
        if timeout_at(until, behind.changed()).await.is_err() {
            return StatusCode::GATEWAY_TIMEOUT;
        }
    }
}

impl Shared {
    /// The manager's answer; none where it died before it gave one.
    async fn send(&self, url: &str, headers: &HeaderMap, body: &Bytes) -> Option<StatusCode> {
        let request = self.client.post(url).headers(headers.clone()).body(body.clone());
        let status = request.send().await.ok()?.status();
        if status == StatusCode::ACCEPTED {
            let told: serde_json::Value = serde_json::from_slice(body).unwrap();
            self.accepted.send_modify(|accepted| {
                accepted.all += 1;
                accepted.queued += u64::from(told["action"] == "queued");
            });
        }
        Some(status)
    }
}
