//! The agent's life, by both ways to the simulator.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use runner_manager_core::clock::{Clock, SystemClock, timeout};
use runner_manager_core::domain::Secret;
use runner_manager_core::testing::simulator::{
    Books, Conclusion, ConnectRefusal, JobSpec, JobStatus, Settings,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Ending, HttpLink, Link, LinkError, Outside, live};
use crate::github_face::SimulatedGitHub;
use crate::http_face::{Face, listen, serve};

const SOON: Duration = Duration::from_secs(20);

struct World {
    github: Arc<SimulatedGitHub>,
    _served: JoinSet<()>,
}

impl World {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (listener, address) = listen(0).await.unwrap();
        let settings = Settings { base_url: format!("http://{address}"), ..Settings::default() };
        let github = SimulatedGitHub::new(settings, Arc::new(SystemClock));
        let mut served = JoinSet::new();
        served.spawn(serve(listener, Arc::clone(&github) as Arc<dyn Face>, CancellationToken::new()));
        Self { github, _served: served }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", "Bearer ghp_simulator")
            .header("user-agent", "test")
            .body(Bytes::from(body.to_string()));
        let answer = self.github.with(|github, now| github.handle(&request.unwrap(), now));
        assert!(answer.response.status().is_success(), "{path}: {}", answer.response.status());
        serde_json::from_slice(answer.response.body()).unwrap_or(Value::Null)
    }

    /// A new registration: its id, and its JIT config.
    fn register(&self, name: &str) -> (u64, Secret) {
        let body = json!({"name": name, "runner_group_id": 1, "labels": ["linux"]});
        let made = self.ask("POST", "/orgs/acme/actions/runners/generate-jitconfig", &body);
        let jit_config = made["encoded_jit_config"].as_str().unwrap();
        (made["runner"]["id"].as_u64().unwrap(), Secret::new(jit_config))
    }

    fn queue(&self, seconds: u64) {
        let job = JobSpec::new("acme/app", ["linux"]).seconds(seconds);
        self.github.with(|github, now| github.queue_job(&job, now)).unwrap();
    }

    fn books(&self) -> Books {
        self.github.with(|github, _| github.books().clone())
    }

    fn links(&self, jit_config: &Secret) -> [Arc<dyn Link>; 2] {
        [Arc::clone(&self.github) as _, Arc::new(HttpLink::of(jit_config).unwrap()) as _]
    }

    async fn until_running(&self) {
        let looked = async {
            while !self.github.with(|github, _| github.jobs().any(|job| job.status == JobStatus::InProgress))
            {
                SystemClock.sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(&SystemClock, SOON, looked).await.expect("a job begins");
    }
}

async fn run(link: &dyn Link, jit_config: &Secret, outside: &Outside) -> Result<Ending, LinkError> {
    timeout(&SystemClock, SOON, live(link, &SystemClock, jit_config, outside)).await.expect("the agent ends")
}

#[tokio::test]
async fn an_agent_runs_one_job_and_ends() {
    let world = World::new().await;
    for at in 0..2 {
        let (_, jit_config) = world.register(&format!("r-{at}"));
        world.queue(1);
        let link = &world.links(&jit_config)[at];
        let began = SystemClock.now();
        let ending = run(&**link, &jit_config, &Outside::default()).await.unwrap();
        assert_eq!(ending, Ending::Finished(Conclusion::Success));
        assert!(SystemClock.now().duration_since(began).as_secs_f64() >= 1.0, "the job took its time");
        let again = run(&**link, &jit_config, &Outside::default()).await.unwrap();
        assert!(
            matches!(again, Ending::Refused(ConnectRefusal::Deleted | ConnectRefusal::AlreadyUsed)),
            "{again:?}"
        );
    }
    let books = world.books();
    assert_eq!((books.jobs.succeeded, books.jobs.lost, books.runners.alive), (2, 0, 0));
}

#[tokio::test]
async fn an_agent_that_is_stopped_signs_off() {
    let world = World::new().await;
    for at in 0..2 {
        let (_, jit_config) = world.register(&format!("r-{at}"));
        world.queue(600);
        let outside = Outside::default();
        let link = &world.links(&jit_config)[at];
        let stop = async {
            world.until_running().await;
            outside.stop.cancel();
        };
        let (ending, ()) = tokio::join!(run(&**link, &jit_config, &outside), stop);
        assert_eq!(ending.unwrap(), Ending::Stopped);
    }
    let books = world.books();
    assert_eq!((books.jobs.cancelled, books.jobs.lost), (2, 2));
}

#[tokio::test]
async fn an_agent_whose_machine_is_gone_takes_its_job_along() {
    let world = World::new().await;
    let (_, jit_config) = world.register("r-1");
    world.queue(600);
    let outside = Outside::default();
    let gone = async {
        world.until_running().await;
        outside.gone.cancel();
    };
    let (ending, ()) = tokio::join!(run(&*world.github, &jit_config, &outside), gone);
    assert_eq!(ending.unwrap(), Ending::Died);
    // GitHub does not know yet, as in life.
    assert_eq!(world.books().jobs.in_progress, 1);
}

#[tokio::test]
async fn an_agent_whose_registration_is_removed_ends() {
    let world = World::new().await;
    for at in 0..2 {
        let (id, jit_config) = world.register(&format!("r-{at}"));
        let link = &world.links(&jit_config)[at];
        let remove = async {
            let online =
                || world.github.with(|github, _| github.runners().any(|runner| runner.session.is_some()));
            while !online() {
                SystemClock.sleep(Duration::from_millis(5)).await;
            }
            world.ask("DELETE", &format!("/orgs/acme/actions/runners/{id}"), &Value::Null);
        };
        let outside = Outside::default();
        let (ending, ()) = tokio::join!(run(&**link, &jit_config, &outside), remove);
        assert_eq!(ending.unwrap(), Ending::LetGo);
    }
}

#[tokio::test]
async fn what_is_no_jit_config_has_no_address() {
    for text in ["", "e30=", "not base64"] {
        let error = HttpLink::of(&Secret::new(text)).unwrap_err();
        assert!(matches!(error, LinkError::NoAddress), "{error}");
    }
}
