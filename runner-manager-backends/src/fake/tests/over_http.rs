//! The fake backend over HTTP: the conformance suite against a cloud behind a socket, the routes for agents
//! and books, and calls that get no answer.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use runner_manager_core::backend::{
    Activity, Backend, BackendErrorKind, BackendKind, Bootstrap, Capabilities, ConnectContext,
};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{BackendName, Instance, InstanceState, Phase};
use runner_manager_core::random::SeededRandom;
use runner_manager_core::testing::conformance::backend::{Hooks, NoSuchHook, Subject, cases};
use runner_manager_core::testing::conformance::run;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::super::{Behaviour, FakeBackend, FakeCloud, FakeKind, Fault, Operation, Script, Scripted};
use super::{owner, placement, spec};

type Cloud = Arc<Mutex<FakeCloud>>;

/// A responder in front of [`FakeCloud::handle`], which ends with its task.
struct Served {
    url: String,
    _tasks: JoinSet<()>,
}

async fn serve(behaviour: Behaviour) -> Served {
    let cloud: Cloud = Arc::new(Mutex::new(FakeCloud::new(behaviour)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(cloud);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Served { url, _tasks: tasks }
}

async fn answer(State(cloud): State<Cloud>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let request = http::Request::from_parts(parts, body);
    let answer = cloud.lock().unwrap().handle(&request, SystemClock.now());
    SystemClock.sleep(answer.delay).await;
    if answer.lost {
        // The client's own time-out ends the connection.
        pending::<()>().await;
    }
    answer.response.map(Body::from)
}

fn backend(url: &str, timeout: Duration) -> FakeBackend {
    let capabilities = Capabilities {
        unique_names: true,
        settle: Duration::ZERO,
        lag: Duration::ZERO,
        update: true,
        callback: false,
    };
    FakeBackend::http(url, timeout, capabilities).unwrap()
}

#[derive(Debug)]
struct OverHttp(FakeBackend);

#[async_trait]
impl Hooks for OverHttp {
    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time.min(Duration::from_millis(20))).await;
    }

    async fn end_by_itself(&self, instance: &Instance) -> Result<(), NoSuchHook> {
        self.0.instance_ended(&instance.id).await.unwrap();
        Ok(())
    }

    async fn break_the_next_list(&self) -> Result<(), NoSuchHook> {
        let next = vec![Scripted { operation: Operation::List, fault: Some(Fault::MissingPage) }];
        self.0.script(&Script { behaviour: None, next }).await.unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn conforms() {
    let behaviour = Behaviour {
        boot_time: Duration::from_millis(50),
        delete_time: Duration::from_millis(50),
        page_size: 2,
        ..Behaviour::default()
    };
    let served = serve(behaviour).await;
    let report = run(cases(), &[], || async {
        Subject {
            backend: Arc::new(backend(&served.url, Duration::from_secs(10))),
            good: placement("zone-a"),
            bad: placement("zone-of-nowhere"),
            owner: owner("one"),
            stranger: owner("another"),
            random: Arc::new(SeededRandom::new(SystemClock.now().as_microsecond().unsigned_abs())),
            hooks: Arc::new(OverHttp(backend(&served.url, Duration::from_secs(10)))),
        }
    })
    .await;
    assert_eq!(report.passed.len(), cases().len());
}

#[tokio::test]
async fn agents_and_books_in_another_process() {
    let served = serve(Behaviour::default()).await;
    let backend = backend(&served.url, Duration::from_secs(10));
    let first = backend.create(&spec("acme-linux-1")).await.unwrap();
    let second = backend.create(&spec("acme-linux-2")).await.unwrap();
    let started = backend.started_after(0).await.unwrap();
    assert_eq!(started.iter().map(|started| &started.id).collect::<Vec<_>>(), [&first.id, &second.id]);
    let Bootstrap::Direct { jit_config } = &started[0].bootstrap else { panic!("no JIT config") };
    assert_eq!(jit_config.expose(), "a-jit-config");
    assert_eq!(backend.started_after(started[0].sequence).await.unwrap().len(), 1);

    backend.instance_ended(&first.id).await.unwrap();
    assert_eq!(backend.get(&first.id).await.unwrap().unwrap().state, InstanceState::Stopped);
    backend.update(&second.id, &Activity { phase: Phase::Idle, job: None }).await.unwrap();
    backend.delete(&second.id).await.unwrap();
    let books = backend.books().await.unwrap();
    assert_eq!((books.total.created, books.total.alive, books.total.max_alive), (2, 1, 2));
}

#[tokio::test]
async fn no_answer_is_unclear_where_it_may_have_changed_something() {
    let served = serve(Behaviour::default()).await;
    let patient = backend(&served.url, Duration::from_secs(10));
    let hasty = backend(&served.url, Duration::from_millis(200));
    for (operation, kind) in [
        (Operation::Create, BackendErrorKind::Unclear),
        (Operation::Delete, BackendErrorKind::Unclear),
        (Operation::Find, BackendErrorKind::Unavailable),
    ] {
        let next = vec![Scripted { operation, fault: Some(Fault::LostReply) }];
        patient.script(&Script { behaviour: None, next }).await.unwrap();
        let runner = spec("acme-linux-1").runner;
        let error = match operation {
            Operation::Create => hasty.create(&spec("acme-linux-1")).await.unwrap_err(),
            Operation::Delete => {
                let made = patient.find(&runner).await.unwrap().expect("the create had its effect");
                hasty.delete(&made.id).await.unwrap_err()
            }
            _ => hasty.find(&runner).await.unwrap_err(),
        };
        assert_eq!(error.kind, kind, "{error}");
        assert!(!format!("{error:?}").contains("a-jit-config"));
    }
    assert_eq!(patient.find(&spec("acme-linux-1").runner).await.unwrap(), None);
}

#[tokio::test]
async fn a_cloud_that_is_away_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let context = ConnectContext { name: BackendName::new("fake").unwrap(), clock: Arc::new(SystemClock) };
    let backend = FakeKind::new().connect(&json!({"url": url}), context).await.unwrap();
    let error = backend.create(&spec("acme-linux-1")).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_name() {
    let served = serve(Behaviour::default()).await;
    let backend = backend(&served.url, Duration::from_secs(10));
    let next = vec![Scripted { operation: Operation::Get, fault: Some(Fault::MissingPage) }];
    let error = backend.script(&Script { behaviour: None, next }).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::InvalidConfig);
    assert!(error.detail.contains("missing_page cannot happen to get"), "{error}");
}
