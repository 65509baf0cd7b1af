//! The machines that the fake cloud plays, against a simulator in this process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use runner_manager_backends::fake::{Behaviour, Ending};
use runner_manager_core::clock::{Clock, SystemClock, timeout};
use runner_manager_core::domain::{DeploymentName, Owner, Secret};
use runner_manager_core::testing::simulator::{JobSpec, Settings};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{CallingArgs, ServedCloud, read_behaviour};
use crate::agent::Link;
use crate::github_face::SimulatedGitHub;
use crate::http_face::Face;

struct World {
    github: Arc<SimulatedGitHub>,
    cloud: Arc<ServedCloud>,
    _machines: JoinSet<()>,
}

impl World {
    fn new(behaviour: Behaviour) -> Self {
        let github = SimulatedGitHub::new(Settings::default(), Arc::new(SystemClock));
        let calling = CallingArgs { heartbeat: 1 };
        let cloud = ServedCloud::new(behaviour, calling, Arc::new(SystemClock)).unwrap();
        let mut machines = JoinSet::new();
        let (playing, link) = (Arc::clone(&cloud), Arc::clone(&github) as Arc<dyn Link>);
        machines.spawn(async move { playing.play_machines(link, CancellationToken::new()).await });
        Self { github, cloud, _machines: machines }
    }

    fn queue(&self, seconds: u64) {
        let job = JobSpec::new("acme/app", ["linux"]).seconds(seconds);
        self.github.with(|github, now| github.queue_job(&job, now)).unwrap();
    }

    /// Makes an instance with a JIT config of its own; tells its id.
    async fn create(&self, name: &str) -> String {
        let body = json!({"name": name, "runner_group_id": 1, "labels": ["linux"]});
        let request = Request::post("/orgs/acme/actions/runners/generate-jitconfig")
            .header("authorization", "Bearer ghp_simulator")
            .header("user-agent", "test")
            .body(Bytes::from(body.to_string()));
        let answer = self.github.with(|github, now| github.handle(&request.unwrap(), now));
        let made: Value = serde_json::from_slice(answer.response.body()).unwrap();
        let owner = Owner::new(DeploymentName::new("test").unwrap(), &Secret::new("key"));
        let order = json!({
            "runner": name, "group": "small", "owner": owner, "zone": "zone-a",
            "jit_config": made["encoded_jit_config"],
        });
        let answer = self.call("POST", "/instances", &order).await;
        serde_json::from_slice::<Value>(&answer).unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Bytes {
        let request = Request::builder().method(method).uri(path).body(Bytes::from(body.to_string()));
        let answer = self.cloud.answer(request.unwrap()).await.expect("nothing gets lost here");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.into_body()
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let looked = async {
            while !done(self) {
                SystemClock.sleep(Duration::from_millis(5)).await;
            }
        };
        let looked = timeout(&SystemClock, Duration::from_secs(10), looked).await;
        assert!(looked.is_ok(), "not in time: {what}");
    }

    fn in_progress(&self) -> u64 {
        self.github.with(|github, _| github.books().jobs.in_progress)
    }

    fn endings(&self) -> Vec<Ending> {
        let ended = |cloud: &mut super::FakeCloud, now| {
            cloud.books(now).lives.iter().filter_map(|life| life.ended.map(|(_, how)| how)).collect()
        };
        self.cloud.with(ended)
    }
}

#[tokio::test]
async fn an_instance_boots_runs_its_agent_and_powers_off() {
    let world = World::new(Behaviour { boot_time: Duration::from_millis(50), ..Behaviour::default() });
    world.queue(0);
    world.create("test-small-1").await;
    world.until("the instance ended", |world| world.endings() == [Ending::Stopped]).await;
    let jobs = world.github.with(|github, _| github.books().jobs);
    assert_eq!((jobs.succeeded, jobs.lost), (1, 0));
}

#[tokio::test]
async fn a_deleted_instance_takes_its_agent_along() {
    let world = World::new(Behaviour::default());
    world.queue(600);
    let id = world.create("test-small-1").await;
    world.until("the job runs", |world| world.in_progress() == 1).await;
    world.call("DELETE", &format!("/instances/{id}"), &Value::Null).await;
    let offline = |world: &World| {
        world.github.with(|github, _| github.runners().all(|runner| runner.session.is_none()))
    };
    world.until("the agent is dead", offline).await;
    assert_eq!(world.in_progress(), 1, "GitHub does not know yet");
    assert_eq!(world.endings(), []);
}

#[tokio::test]
async fn a_thousand_agents_wait_and_each_gets_a_job() {
    let world = World::new(Behaviour::default());
    for at in 0..1000 {
        world.create(&format!("test-small-{at}")).await;
    }
    let online = |world: &World| {
        world.github.with(|github, _| github.runners().filter(|runner| runner.session.is_some()).count())
    };
    world.until("all agents wait", |world| online(world) == 1000).await;
    let job = JobSpec::new("acme/app", ["linux"]);
    world.github.with(|github, now| github.queue_jobs(&job, 1000, now)).unwrap();
    world.until("all instances ended", |world| world.endings().len() == 1000).await;
    let books = world.github.with(|github, _| github.books().clone());
    assert_eq!((books.jobs.succeeded, books.jobs.lost, books.violations.len()), (1000, 0, 0));
}

#[test]
fn a_behaviour_that_cannot_be_meant_is_refused() {
    assert!(read_behaviour(r#"{"boot_time": "2s", "seed": 7}"#).is_ok());
    let refused = read_behaviour(r#"{"zones": {}, "page_size": 0}"#).unwrap_err();
    assert!(refused.contains("zones: ") && refused.contains("page_size: "), "{refused}");
    assert!(read_behaviour(r#"{"bot_time": "2s"}"#).is_err());
}
