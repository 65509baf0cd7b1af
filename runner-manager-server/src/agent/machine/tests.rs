//! What machines say to a manager that a test plays, in their order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use runner_manager_core::clock::{Clock, SystemClock, timeout};
use runner_manager_core::domain::{RunnerName, Secret};
use runner_manager_core::testing::simulator::{JobSpec, Settings};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Calls, Ending, Machine, Outside};
use crate::agent::Line;
use crate::github_face::SimulatedGitHub;
use crate::http_face::{Face, listen, serve};

const RUNNER: &str = "rm-linux-1";
const SOON: Duration = Duration::from_secs(20);

/// What the manager heard, and what it answers next, by call.
#[derive(Debug)]
struct Manager {
    jit_config: String,
    heard: Mutex<Vec<String>>,
    next: Mutex<BTreeMap<&'static str, VecDeque<(u16, &'static str)>>>,
}

#[async_trait]
impl Face for Manager {
    async fn answer(&self, request: Request<Bytes>) -> Option<Response<Bytes>> {
        assert_eq!(request.headers()["authorization"], "Bearer its-token");
        let path = request.uri().path();
        let what = path.strip_prefix(&format!("/machines/bootstrap/v1/runners/{RUNNER}/")).unwrap();
        let fields: BTreeMap<_, _> = form_urlencoded::parse(request.body()).into_owned().collect();
        assert_eq!(fields.contains_key("boot"), what != "script");
        let told = ["step", "state", "leave", "job", "reason"].iter().filter_map(|key| fields.get(*key));
        self.heard.lock().unwrap().push(told.fold(what.to_owned(), |all, told| all + " " + told));
        let scripted = self.next.lock().unwrap().get_mut(what).and_then(VecDeque::pop_front);
        let (status, text) = scripted.unwrap_or(match what {
            "script" => (200, "#!/bin/bash"),
            "jit-config" => (200, &self.jit_config),
            "heartbeat" => (200, "stay"),
            _ => (204, ""),
        });
        let text = Bytes::from(text.to_owned());
        Some(Response::builder().status(status).body(text).unwrap())
    }
}

struct World {
    github: Arc<SimulatedGitHub>,
    manager: Arc<Manager>,
    url: String,
    line: Line,
    outside: Outside,
    _served: JoinSet<()>,
}

impl World {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let github = SimulatedGitHub::new(Settings::default(), Arc::new(SystemClock));
        let body = json!({"name": RUNNER, "runner_group_id": 1, "labels": ["linux"]});
        let request = Request::post("/orgs/acme/actions/runners/generate-jitconfig")
            .header("authorization", "Bearer ghp_simulator")
            .header("user-agent", "test")
            .body(Bytes::from(body.to_string()));
        let answer = github.with(|github, now| github.handle(&request.unwrap(), now));
        let made: Value = serde_json::from_slice(answer.response.body()).unwrap();
        let jit_config = made["encoded_jit_config"].as_str().unwrap().to_owned();
        let manager = Arc::new(Manager { jit_config, heard: Mutex::default(), next: Mutex::default() });
        let (listener, address) = listen(0).await.unwrap();
        let mut served = JoinSet::new();
        served.spawn(serve(listener, Arc::clone(&manager) as Arc<dyn Face>, CancellationToken::new()));
        let (url, line) = (format!("http://{address}/machines/"), Line::new().unwrap());
        Self { github, manager, url, line, outside: Outside::default(), _served: served }
    }

    /// What the manager answers to the next calls of a kind.
    fn answers(&self, what: &'static str, answers: &[(u16, &'static str)]) {
        self.manager.next.lock().unwrap().entry(what).or_default().extend(answers);
    }

    fn queue(&self, seconds: u64) {
        let job = JobSpec::new("acme/app", ["linux"]).seconds(seconds);
        self.github.with(|github, now| github.queue_job(&job, now)).unwrap();
    }

    async fn live(&self) -> Ending {
        let runner = RunnerName::new(RUNNER).unwrap();
        let calls = Calls::new(self.line.clone(), &self.url, &runner, Secret::new("its-token"));
        let machine = Machine { calls, clock: &SystemClock, heartbeat: Duration::from_millis(100) };
        let lived = timeout(&SystemClock, SOON, machine.live(&*self.github, &self.outside)).await;
        lived.expect("it ends").unwrap()
    }

    /// What was heard, but for heartbeats of this state.
    fn heard_but(&self, beats: &str) -> Vec<String> {
        let heard = self.manager.heard.lock().unwrap();
        heard.iter().filter(|told| *told != beats).cloned().collect()
    }

    async fn until_heard(&self, what: &str) {
        let heard = async {
            while !self.manager.heard.lock().unwrap().iter().any(|told| told == what) {
                SystemClock.sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(&SystemClock, SOON, heard).await.unwrap_or_else(|_| panic!("nobody says {what}"));
    }
}

/// What a machine says until its listener waits, whatever heartbeats come between.
const START: [&str; 5] = ["script", "progress began", "jit-config", "progress started", "progress listening"];

#[tokio::test]
async fn a_machine_says_how_it_fares_and_tells_of_its_job() {
    let world = World::new().await;
    // Whatever is no answer for good is asked again.
    world.answers("script", &[(503, "")]);
    world.answers("job-started", &[(500, ""), (429, "")]);
    let job = async {
        world.until_heard("heartbeat idle").await;
        world.queue(1);
    };
    let (ending, ()) = tokio::join!(world.live(), job);
    assert!(matches!(ending, Ending::Finished(_)), "{ending:?}");
    let heard = world.heard_but("heartbeat idle");
    let heard: Vec<&str> =
        heard.iter().map(String::as_str).filter(|told| !told.starts_with("heartbeat")).collect();
    let job = world.github.with(|github, _| github.jobs().next().unwrap().name.clone());
    let (begins, ends) = (format!("job-started {job}"), format!("job-completed {job}"));
    let of_job: [&str; 5] = [&begins, &begins, &begins, &ends, "left finished"];
    assert_eq!(heard, [&["script"], &START[..], &of_job].concat());
    assert_eq!(world.line.answers()["script 503"], 1);
    let beats = world.heard_but("").iter().filter(|told| told.starts_with("heartbeat")).count();
    assert_eq!(world.line.answers()["heartbeat 200"], u64::try_from(beats).unwrap());
}

#[tokio::test]
async fn an_idle_machine_leaves_when_it_is_asked_or_gone_for_the_manager() {
    for leave in [(200, "leave"), (410, "")] {
        let world = World::new().await;
        let asked = async {
            world.until_heard("heartbeat idle").await;
            world.answers("heartbeat", &[leave]);
        };
        let (ending, ()) = tokio::join!(world.live(), asked);
        assert_eq!(ending, Ending::LetGo);
        let heard = world.heard_but("heartbeat idle");
        let heard: Vec<&String> = heard.iter().filter(|told| *told != "heartbeat starting").collect();
        assert_eq!(heard, [&START[..], &["left asked"]].concat());
        let online = world.github.with(|github, _| github.runners().any(|runner| runner.session.is_some()));
        assert!(!online);
    }
}

#[tokio::test]
async fn a_machine_with_a_job_refuses_to_leave() {
    let world = World::new().await;
    world.queue(1);
    let asked = async {
        world.until_heard("heartbeat busy").await;
        world.answers("heartbeat", &[(200, "leave"), (200, "stay")]);
        world.until_heard("heartbeat busy refused").await;
    };
    let (ending, ()) = tokio::join!(world.live(), asked);
    assert!(matches!(ending, Ending::Finished(_)), "{ending:?}");
    assert_eq!(world.heard_but("").last().unwrap(), "left finished");
    let books = world.github.with(|github, _| github.books().jobs);
    assert_eq!((books.succeeded, books.lost), (1, 0));
}

#[tokio::test]
async fn a_machine_that_is_refused_says_so_and_ends() {
    let world = World::new().await;
    world.answers("jit-config", &[(503, ""), (409, "")]);
    assert_eq!(world.live().await, Ending::Stopped);
    let heard = ["script", "progress began", "jit-config", "jit-config", "failed refused"];
    assert_eq!(world.heard_but(""), heard);

    let world = World::new().await;
    world.answers("script", &[(401, "")]);
    assert_eq!(world.live().await, Ending::Stopped);
    assert_eq!(world.heard_but(""), ["script"]);
}

#[tokio::test]
async fn a_machine_that_is_taken_away_says_nothing_more() {
    let world = World::new().await;
    world.queue(600);
    let gone = async {
        world.until_heard("heartbeat busy").await;
        world.outside.gone.cancel();
    };
    let (ending, ()) = tokio::join!(world.live(), gone);
    assert_eq!(ending, Ending::Died);
    assert!(!world.heard_but("").iter().any(|told| told.starts_with("left")));
    assert_eq!(world.github.with(|github, _| github.books().jobs.in_progress), 1, "GitHub does not know yet");
}
