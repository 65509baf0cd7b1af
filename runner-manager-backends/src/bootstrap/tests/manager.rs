//! A stand-in for the manager's endpoints, which notes what a machine says. It also gives the runner's archive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, Uri};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How the manager answers.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The script that it gives.
    pub(super) script: String,
    /// The JIT config, or the status by which it is refused.
    pub(super) jit_config: Option<&'static str>,
    /// So many calls are answered by 503 first.
    pub(super) unavailable: usize,
    /// The state in which a machine is asked to leave.
    pub(super) leave: Option<&'static str>,
    /// What the runner's archive holds.
    pub(super) archive: Vec<u8>,
}

/// One call: its last word, and its fields.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) what: String,
    pub(super) fields: BTreeMap<String, String>,
}

/// The manager, which ends with its task.
pub(super) struct Manager {
    calls: Arc<Mutex<Vec<Call>>>,
    _tasks: JoinSet<()>,
}

type Shared = (Arc<Mutex<Vec<Call>>>, Arc<Plan>);

impl Manager {
    pub(super) fn serve(listener: TcpListener, plan: Plan) -> Self {
        let calls = Arc::default();
        let shared: Shared = (Arc::clone(&calls), Arc::new(plan));
        let router = Router::new().fallback(answer).with_state(shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { calls, _tasks: tasks }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

async fn answer(State((calls, plan)): State<Shared>, request: Request) -> (StatusCode, Bytes) {
    let path = request.uri().path().to_owned();
    if path == "/runner.tar.gz" {
        return (StatusCode::OK, plan.archive.clone().into());
    }
    let Some(what) = path.strip_prefix("/bootstrap/v1/runners/acme-linux-1/") else {
        return (StatusCode::NOT_FOUND, Bytes::new());
    };
    if request.headers().get("authorization").is_none_or(|token| token != "Bearer a-token") {
        return (StatusCode::UNAUTHORIZED, Bytes::new());
    }
    let method = request.method().clone();
    assert_eq!(method == "GET", what == "script", "{method} {what}");
    let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
    let uri: Uri = format!("/?{}", std::str::from_utf8(&body).unwrap()).parse().unwrap();
    let Query(fields) = Query::<BTreeMap<String, String>>::try_from_uri(&uri).unwrap();
    let state = fields.get("state").cloned();
    let nth = {
        let mut calls = calls.lock().unwrap();
        calls.push(Call { what: what.to_owned(), fields });
        calls.len()
    };
    if nth <= plan.unavailable {
        return (StatusCode::SERVICE_UNAVAILABLE, Bytes::new());
    }
    match what {
        "script" => (StatusCode::OK, plan.script.clone().into()),
        "jit-config" => plan.jit_config.map_or((StatusCode::CONFLICT, Bytes::new()), |jit_config| {
            (StatusCode::OK, Bytes::from_static(jit_config.as_bytes()))
        }),
        "heartbeat" if plan.leave.is_some_and(|leave| state.as_deref() == Some(leave)) => {
            (StatusCode::OK, Bytes::from_static(b"leave"))
        }
        "heartbeat" => (StatusCode::OK, Bytes::from_static(b"stay")),
        _ => (StatusCode::NO_CONTENT, Bytes::new()),
    }
}
