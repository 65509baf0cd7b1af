//! A manager on a Redis, with the GitHub simulator and a fake backend.

use std::time::{Duration, Instant};

use runner_manager_core::domain::Secret;
use runner_manager_core::webhook::sign;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Listening, PATIENCE, TOKEN, WEBHOOK_SECRET, client, configuration, write};

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(50);

/// The configuration of the tests, with a store on Redis.
pub(crate) fn on_redis(github: &str, url: &str, more: &str) -> String {
    let embedded = "store: {kind: embedded, path: store.redb}";
    let times = "connect_timeout: 1s, response_timeout: 1s";
    let store = format!("store: {{kind: redis, url: '{url}', {times}{more}}}");
    let configuration = configuration(github);
    assert!(configuration.contains(embedded));
    configuration.replace(embedded, &store)
}

/// One replica, or several, on one Redis.
pub(crate) struct World {
    pub(crate) replicas: Vec<Listening>,
    github: Listening,
    folder: TempDir,
    config: String,
    deliveries: u64,
}

impl World {
    /// A manager on the Redis of this URL, with more settings of its store.
    pub(crate) fn start(url: &str, more: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let github = Listening::start(&folder, "github", &["github-simulator"]);
        let config = write(&folder, &on_redis(&github.url, url, more));
        let mut world = Self { replicas: Vec::new(), github, folder, config, deliveries: 0 };
        world.add_replica();
        world
    }

    /// One more manager.
    pub(crate) fn add_replica(&mut self) {
        let name = format!("manager-{}", self.replicas.len());
        self.replicas.push(Listening::start(&self.folder, &name, &["serve", "--config", &self.config]));
    }

    pub(crate) fn github(&self) -> &str {
        &self.github.url
    }

    async fn get(&self, replica: usize, path: &str) -> (u16, Value) {
        let url = format!("{}{path}", self.replicas[replica].url);
        let answer = client().get(url).bearer_auth(TOKEN).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// What `/readyz` says of the store.
    pub(crate) async fn ready(&self) -> (u16, String) {
        let (status, answer) = self.get(0, "/readyz").await;
        (status, answer["checks"]["store"].as_str().unwrap().to_owned())
    }

    /// Waits until `/readyz` says so, with these words.
    pub(crate) async fn until_ready_is(&self, status: u16, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (found, said) = self.ready().await;
            if found == status && said.contains(words) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "/readyz stayed at {found}: {said}; expected {status}: {words}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Posts that a job of this number is queued, which no other webhook said; gives the status.
    pub(crate) async fn queue_job(&mut self, job: u64) -> u16 {
        self.deliveries += 1;
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../runner-manager-core/tests/data/github/webhook-examples/queued.payload.json"
        );
        let mut payload: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        payload["workflow_job"]["id"] = json!(job);
        let body = serde_json::to_vec(&payload).unwrap();
        let signature = sign(&Secret::new(WEBHOOK_SECRET), &body);
        let request = client()
            .post(format!("{}/webhook", self.replicas[0].url))
            .header("content-type", "application/json")
            .header("x-github-event", "workflow_job")
            .header("x-github-delivery", format!("d-{}", self.deliveries))
            .header("x-hub-signature-256", signature)
            .body(body);
        request.send().await.unwrap().status().as_u16()
    }

    /// Waits until a replica knows so many jobs.
    pub(crate) async fn until_jobs_are(&self, replica: usize, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = self.get(replica, "/api/v1/jobs").await;
            let found = answer["items"].as_array().map_or(0, Vec::len);
            if status == 200 && found == count {
                return;
            }
            assert!(Instant::now() < deadline, "the jobs stayed at {status}: {answer:#}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How many background tasks the first replica has worked on since it started.
    pub(crate) async fn tasks(&self) -> u64 {
        let url = format!("{}/metrics", self.replicas[0].url);
        let text = client().get(url).bearer_auth(TOKEN).send().await.unwrap().text().await.unwrap();
        let counts = text.lines().filter(|line| line.starts_with("runner_manager_tasks_total{"));
        counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    /// Waits until more tasks were worked on than `before`.
    pub(crate) async fn until_tasks_go_on(&self, before: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.tasks().await <= before {
            assert!(Instant::now() < deadline, "no task was worked on");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sees that all is well: ready, webhooks are taken, tasks are worked on.
    pub(crate) async fn all_goes_on(&mut self, job: u64) {
        self.until_ready_is(200, "ok").await;
        let before = self.tasks().await;
        assert_eq!(self.queue_job(job).await, 202);
        self.until_tasks_go_on(before).await;
    }
}
