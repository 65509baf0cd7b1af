//! An engine that is played: it answers what a real one cannot be made to answer.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future::pending;
use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use runner_manager_core::backend::{Backend, BackendErrorKind};
use runner_manager_core::clock::{SystemClock, timeout};
use runner_manager_core::domain::{InstanceId, Owner};
use runner_manager_core::testing::secrets::Secrets;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{connect, owner, placement, seconds, spec};

const NAME: &str = "docker-tests-linux-1";

/// What the played engine does with a request.
#[derive(Clone)]
enum Reply {
    Json(u16, Value),
    /// The answer begins, and breaks off.
    Broken(&'static str),
    /// No answer at all.
    Silence,
}

/// The replies that are still to come, each for the requests that begin so, and what was asked.
#[derive(Default)]
struct Play {
    replies: VecDeque<(&'static str, Reply)>,
    asked: Vec<String>,
}

struct Played {
    play: Arc<Mutex<Play>>,
    backend: Arc<dyn Backend>,
    _tasks: JoinSet<()>,
}

impl Played {
    /// An engine that answers these in order, beside its version.
    async fn new(replies: impl IntoIterator<Item = (&'static str, Reply)>) -> Self {
        let play = Arc::new(Mutex::new(Play { replies: replies.into_iter().collect(), asked: Vec::new() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&play));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let settings =
            json!({"host": format!("tcp://{address}"), "timeout": "300ms", "pull_timeout": "300ms"});
        Self { play, backend: connect(&settings).await, _tasks: tasks }
    }

    fn asked(&self) -> Vec<String> {
        self.play.lock().unwrap().asked.clone()
    }

    fn reply(&self, request: &'static str, reply: Reply) {
        self.play.lock().unwrap().replies.push_back((request, reply));
    }

    /// Creates; everything that was to be asked has been asked then.
    async fn create(&self) -> Result<(), (BackendErrorKind, String)> {
        let created = self.backend.create(&spec(NAME, &json!({"image": "x"}))).await;
        assert!(self.play.lock().unwrap().replies.is_empty(), "asked only {:?}", self.asked());
        if let Err(error) = &created {
            assert!(!format!("{error:?}").contains("a-jit-config"), "the JIT config is told");
        }
        created.map(drop).map_err(|error| (error.kind, error.detail))
    }
}

async fn answer(State(play): State<Arc<Mutex<Play>>>, request: Request) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    if line == "GET /version" {
        return response(200, &json!({"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"}));
    }
    let reply = {
        let mut play = play.lock().unwrap();
        play.asked.push(line.clone());
        let unversioned = line.replacen(" /v1.41/", " /", 1);
        match play.replies.pop_front() {
            Some((expected, reply)) if unversioned.starts_with(expected) => reply,
            Some((expected, _)) => {
                Reply::Json(418, json!({"message": format!("{line} came, not {expected}")}))
            }
            None => Reply::Json(418, json!({"message": format!("{line} came, nothing was expected")})),
        }
    };
    match reply {
        Reply::Json(status, body) => response(status, &body),
        Reply::Broken(beginning) => {
            let parts = [Ok(Bytes::from(beginning)), Err(std::io::Error::other("broken"))];
            Response::new(Body::from_stream(stream::iter(parts)))
        }
        Reply::Silence => pending().await,
    }
}

fn response(status: u16, body: &Value) -> Response {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Response::builder().status(status).body(Body::from(body)).unwrap()
}

fn inspected(status: &str) -> Value {
    inspected_of(&owner("key"), status)
}

fn inspected_of(owner: &Owner, status: &str) -> Value {
    let spec = spec(NAME, &json!({}));
    json!({
        "Id": "0123", "Name": format!("/{NAME}"), "Created": "2026-01-01T00:00:00Z",
        "State": {"Status": status},
        "Config": {"Labels": owner.tags(&spec.runner, &spec.group), "Env": ["ACTIONS_RUNNER_INPUT_JITCONFIG=a-jit-config"]},
    })
}

fn message(status: u16, words: &str) -> Reply {
    Reply::Json(status, json!({"message": words}))
}

const IMAGE: &str = "GET /images/x/json";
const PULL: &str = "POST /images/create?fromImage=x%3Alatest";
const CREATE: &str = "POST /containers/create?name=docker-tests-linux-1";
const START: &str = "POST /containers/0123/start";
const INSPECT: &str = "GET /containers/0123/json";
const BY_NAME: &str = "GET /containers/docker-tests-linux-1/json";
const REMOVE: &str = "DELETE /containers/0123?v=true&force=true";

fn image() -> (&'static str, Reply) {
    (IMAGE, Reply::Json(200, json!({"Id": "x"})))
}

fn created() -> (&'static str, Reply) {
    (CREATE, Reply::Json(201, json!({"Id": "0123", "Warnings": []})))
}

#[tokio::test]
async fn requests_bear_the_version_that_both_speak() {
    let played = Played::new([
        image(),
        created(),
        (START, Reply::Json(204, Value::Null)),
        (INSPECT, Reply::Json(200, inspected("running"))),
    ])
    .await;
    assert_eq!(played.create().await, Ok(()));
    assert!(played.asked().iter().all(|line| line.contains(" /v1.41/")), "{:?}", played.asked());
}

#[tokio::test]
async fn a_start_that_fails_leaves_no_container() {
    let failed = (START, message(400, "OCI runtime create failed: no such file or directory"));
    let played =
        Played::new([image(), created(), failed.clone(), (REMOVE, Reply::Json(204, Value::Null))]).await;
    let (kind, detail) = played.create().await.unwrap_err();
    assert_eq!(kind, BackendErrorKind::InvalidConfig);
    assert!(detail.contains("no such file"), "{detail}");

    let left = (REMOVE, message(500, "device or resource busy"));
    let played = Played::new([image(), created(), failed, left]).await;
    let (kind, detail) = played.create().await.unwrap_err();
    assert_eq!(kind, BackendErrorKind::Unclear, "a container may be left");
    assert!(detail.contains("no such file") && detail.contains("busy"), "{detail}");
}

#[tokio::test]
async fn silence_is_unclear_only_where_something_may_have_changed() {
    let played = Played::new([(IMAGE, Reply::Silence)]).await;
    assert_eq!(played.create().await.unwrap_err().0, BackendErrorKind::Unavailable);
    let played = Played::new([image(), (CREATE, Reply::Silence)]).await;
    assert_eq!(played.create().await.unwrap_err().0, BackendErrorKind::Unclear);
    let played = Played::new([image(), created(), (START, Reply::Silence)]).await;
    assert_eq!(played.create().await.unwrap_err().0, BackendErrorKind::Unclear);
    let played =
        Played::new([image(), created(), (START, Reply::Json(204, Value::Null)), (INSPECT, Reply::Silence)])
            .await;
    assert_eq!(played.create().await.unwrap_err().0, BackendErrorKind::Unclear);
    let played = Played::new([(REMOVE, Reply::Silence)]).await;
    let error = played.backend.delete(&InstanceId::new("0123")).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unclear);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_not_quoted() {
    let garbled = json!({"Id": 5, "Config": {"Env": ["ACTIONS_RUNNER_INPUT_JITCONFIG=a-jit-config"]}});
    let played = Played::new([
        image(),
        created(),
        (START, Reply::Json(204, Value::Null)),
        (INSPECT, Reply::Json(200, garbled)),
    ])
    .await;
    assert_eq!(played.create().await.unwrap_err().0, BackendErrorKind::Unclear);
}

#[tokio::test]
async fn a_name_that_is_taken_is_ours_or_an_error() {
    let conflict =
        (CREATE, message(409, "Conflict. The container name \"/x\" is already in use by container \"0123\""));
    let running = (BY_NAME, Reply::Json(200, inspected("running")));
    let played = Played::new([image(), conflict.clone(), running]).await;
    assert_eq!(played.create().await, Ok(()));

    // One whose creator ended before it could start it.
    let made = (BY_NAME, Reply::Json(200, inspected("created")));
    let started = (START, Reply::Json(304, Value::Null));
    let played = Played::new([
        image(),
        conflict.clone(),
        made,
        started,
        (INSPECT, Reply::Json(200, inspected("running"))),
    ])
    .await;
    assert_eq!(played.create().await, Ok(()));

    // One that the engine has reserved the name for, and does not tell of yet.
    let absent = (BY_NAME, message(404, "No such container: docker-tests-linux-1"));
    let running = (BY_NAME, Reply::Json(200, inspected("running")));
    let played = Played::new([image(), conflict.clone(), absent.clone(), running]).await;
    assert_eq!(played.create().await, Ok(()));
    let looks = std::iter::repeat_n(absent, 20);
    let played = Played::new([image(), conflict.clone()].into_iter().chain(looks)).await;
    assert_eq!(played.create().await.unwrap_err().0, BackendErrorKind::Unclear);

    let foreign = json!({"Id": "9", "Name": format!("/{NAME}"), "Created": "2026-01-01T00:00:00Z",
        "State": {"Status": "running"}, "Config": {"Labels": {}}});
    for theirs in [foreign, inspected_of(&owner("another"), "running")] {
        let played = Played::new([image(), conflict.clone(), (BY_NAME, Reply::Json(200, theirs))]).await;
        let (kind, detail) = played.create().await.unwrap_err();
        assert_eq!(kind, BackendErrorKind::InvalidConfig);
        assert!(detail.contains("without our owner mark"), "{detail}");
    }
}

#[tokio::test]
async fn a_pull_that_fails_names_the_image() {
    for (reply, kind) in [
        (message(404, "manifest for x:latest not found: manifest unknown"), BackendErrorKind::NotFound),
        (
            message(500, "Get \"https://r/v2/\": dial tcp: lookup r: no such host"),
            BackendErrorKind::Unavailable,
        ),
        (
            message(
                404,
                "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            ),
            BackendErrorKind::PermissionDenied,
        ),
        (
            Reply::Json(
                200,
                json!({"errorDetail": {"message": "toomanyrequests: rate limit"}, "error": "x"}),
            ),
            BackendErrorKind::RateLimited,
        ),
        (
            Reply::Json(
                200,
                json!({"errorDetail": {"message": "write /x: no space left on device"}, "error": "x"}),
            ),
            BackendErrorKind::NoCapacity,
        ),
        (Reply::Silence, BackendErrorKind::Unavailable),
    ] {
        let played = Played::new([(IMAGE, message(404, "No such image: x:latest")), (PULL, reply)]).await;
        let (told, detail) = played.create().await.unwrap_err();
        assert_eq!(told, kind, "{detail}");
        assert!(detail.starts_with("image x could not be pulled"), "{detail}");
    }
}

#[tokio::test]
async fn a_pull_outlives_the_call_that_began_it() {
    let missing = || (IMAGE, message(404, "No such image: x:latest"));
    let played = Played::new([missing(), (PULL, Reply::Silence)]).await;
    let spec = spec(NAME, &json!({"image": "x"}));
    let call = played.backend.create(&spec);
    timeout(&SystemClock, seconds(10) / 100, call).await.expect_err("the pull takes longer than the call");
    played.reply(missing().0, missing().1);
    let (kind, _) = played.create().await.unwrap_err();
    assert_eq!(kind, BackendErrorKind::Unavailable);
    assert_eq!(played.asked().iter().filter(|line| line.contains("/images/create")).count(), 1);
}

#[tokio::test]
async fn a_list_that_breaks_off_is_an_error() {
    let container = json!({"Id": "0123", "Created": 1, "State": "running", "Labels": {}}).to_string();
    let beginning: &'static str = Box::leak(format!("[{container},").into_boxed_str());
    let played = Played::new([("GET /containers/json?all=true", Reply::Broken(beginning))]).await;
    let error = played.backend.list(&owner("key")).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_removal_under_way_is_success() {
    for reply in [
        message(409, "removal of container 0123 is already in progress"),
        message(404, "No such container: 0123"),
    ] {
        let played = Played::new([(REMOVE, reply)]).await;
        played.backend.delete(&InstanceId::new("0123")).await.unwrap();
    }
    let played = Played::new([(REMOVE, message(500, "driver failed"))]).await;
    let error = played.backend.delete(&InstanceId::new("0123")).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unexpected);
}

#[tokio::test]
async fn the_beginning_of_an_id_is_no_name() {
    let mut other = inspected("running");
    other["Name"] = json!("/docker-tests-linux-2");
    let played = Played::new([(BY_NAME, Reply::Json(200, other))]).await;
    assert_eq!(played.backend.find(&spec(NAME, &json!({})).runner).await.unwrap(), None);
}

#[tokio::test]
async fn validation_names_what_is_missing() {
    let played = Played::new([
        (IMAGE, message(404, "No such image: x")),
        ("GET /networks/ci", message(404, "network ci not found")),
    ])
    .await;
    let place = placement(&json!({"image": "x", "pull": "never", "network": "ci"}));
    let missing = played.backend.validate(&place).await.unwrap();
    assert_eq!(missing, ["the engine has no image x, and pull is never", "the engine has no network ci"]);
}

#[tokio::test]
async fn an_engine_that_is_away_is_unavailable() {
    for host in ["unix:///no/such/socket", "tcp://127.0.0.1:1"] {
        let backend = connect(&json!({"host": host})).await;
        let error = backend.create(&spec(NAME, &json!({"image": "x"}))).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Unavailable, "{host}: {error}");
    }
}

/// Keeps all that is logged.
#[derive(Default)]
struct Log(Mutex<String>);

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        writeln!(self.0.lock().unwrap(), "{} {}", record.target(), record.args()).unwrap();
    }

    fn flush(&self) {}
}

/// bollard would log whole bodies, were `log` built with the levels that it does so at.
#[tokio::test]
async fn the_jit_config_is_in_no_log() {
    static LOG: LazyLock<Log> = LazyLock::new(Log::default);
    log::set_logger(&*LOG).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    log::info!("the log is kept");
    let replies = [
        image(),
        created(),
        (START, Reply::Json(204, Value::Null)),
        (INSPECT, Reply::Json(200, inspected("running"))),
    ];
    assert_eq!(Played::new(replies).await.create().await, Ok(()));
    let logged = LOG.0.lock().unwrap().clone();
    assert!(logged.contains("the log is kept"), "{logged}");
    let found = Secrets::default().and("the JIT config", "a-jit-config").find(logged.as_bytes());
    assert_eq!(found, [], "{logged}");
}
