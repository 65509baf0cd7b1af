//! A manager that can be killed and started again on its store, with a GitHub and a cloud that live on.

use std::time::{Duration, Instant};

use runner_manager_backends::fake;
use runner_manager_core::testing::simulator::{self, DEFAULT_TOKEN};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::door::Door;
use crate::support::{Listening, TOKEN, WEBHOOK_SECRET, client, write};

/// How long anything may take that takes no more than seconds on a machine with nothing else to do.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often is looked.
const PAUSE: Duration = Duration::from_millis(20);
/// How long after a `create` an instance may appear, as the manager is told.
const SETTLE: &str = "4s";

/// Everything that can be seen at one moment.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The cloud's own books.
    pub(crate) cloud: fake::Books,
    /// GitHub's own books.
    pub(crate) github: simulator::Books,
    /// The manager's runners; none where it is down.
    pub(crate) runners: Vec<Value>,
}

impl Seen {
    /// How many runners the manager has in a state.
    pub(crate) fn in_state(&self, state: &str) -> usize {
        self.runners.iter().filter(|runner| runner["state"] == state).count()
    }

    /// How many runners the manager says this of.
    pub(crate) fn said(&self, words: &str) -> usize {
        let says = |runner: &&Value| runner["detail"].as_str().unwrap().contains(words);
        self.runners.iter().filter(says).count()
    }

    /// How often the cloud injected a fault, such as `create: late`.
    pub(crate) fn fault(&self, what: &str) -> u64 {
        self.cloud.faults.get(what).copied().unwrap_or(0)
    }

    /// How many jobs have been begun.
    pub(crate) fn begun(&self) -> usize {
        self.github.runs_by_job.len()
    }

    /// A number that grows with all that is done.
    pub(crate) fn progress(&self) -> u64 {
        self.cloud.calls.values().sum::<u64>() + self.github.requests.values().sum::<u64>()
    }

    fn summary(&self) -> String {
        let (cloud, github) = (&self.cloud, &self.github);
        let runners: Vec<String> = self
            .runners
            .iter()
            .map(|runner| format!("{} {} {}", runner["name"], runner["state"], runner["detail"]))
            .collect();
        format!(
            "cloud: {:?} {:?} {:?}\nGitHub: {:?} {:?} {:?}\nthe manager's runners: {runners:#?}",
            cloud.total, cloud.calls, cloud.faults, github.jobs, github.runners, github.webhooks,
        )
    }
}

/// A whole system.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) door: Door,
    pub(crate) github: Listening,
    cloud: Listening,
    manager: Option<Listening>,
    pub(crate) folder: TempDir,
    client: reqwest::Client,
    max: u64,
    starts: usize,
    kills: usize,
    began: Instant,
}

impl World {
    /// A system whose one group has at most `max` runners, and the `limits` that are given.
    pub(crate) async fn start(max: u64, limits: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let door = Door::open().await;
        let hook = ["--webhook-url", &door.url, "--webhook-secret", WEBHOOK_SECRET];
        let github = Listening::start(&folder, "github", &[&["github-simulator"], &hook[..]].concat());
        let behaviour = json!({"unique_names": false}).to_string();
        let cloud = ["fake-cloud", "--github", &github.url, "--behaviour", &behaviour];
        let cloud = Listening::start(&folder, "cloud", &cloud);
        let (client, began) = (client(), Instant::now());
        let mut world =
            Self { door, github, cloud, manager: None, folder, client, max, starts: 0, kills: 0, began };
        world.configure(limits);
        world.restart();
        world
    }

    /// Writes the configuration, for the next start.
    pub(crate) fn configure(&self, limits: &str) -> String {
        let (github, cloud, max) = (&self.github.url, &self.cloud.url, self.max);
        let configuration = format!(
            "
name: crash
secret_key: a-secret-key-of-the-tests-0123456789
sweep_interval: 30s
server:
  listen: 127.0.0.1:0
  webhook_secret: {WEBHOOK_SECRET}
  tokens: [{{name: tests, role: viewer, token: {TOKEN}}}]
store: {{kind: embedded, path: store.redb}}
github: {{api_url: '{github}', token: {DEFAULT_TOKEN}, jit_rate: {{calls: 20000, per: 1s}}}}
backends:
  cloud: {{kind: fake, url: '{cloud}', behaviour: {{unique_names: false, settle: {SETTLE}}}}}
runner_groups:
  - {{name: small, organization: acme, labels: [build], max: {max}, {limits}
     placements: [{{backend: cloud}}]}}
"
        );
        write(&self.folder, &configuration)
    }

    /// Starts the manager on its store.
    pub(crate) fn restart(&mut self) {
        assert!(self.manager.is_none(), "it runs");
        self.starts += 1;
        let config = self.folder.path().join("config.yaml");
        let arguments = ["serve", "--config", config.to_str().unwrap(), "--log-format", "json"];
        let manager = Listening::start(&self.folder, &format!("manager-{}", self.starts), &arguments);
        self.door.leads_to(&manager.url);
        self.manager = Some(manager);
    }

    pub(crate) fn manager(&mut self) -> &mut Listening {
        self.manager.as_mut().expect("it runs")
    }

    /// `kill -9` of the manager, and waits until the process is no more. Webhooks wait from then on.
    pub(crate) fn kill(&mut self) {
        drop(self.manager.take().expect("it runs"));
        self.door.holds();
        self.kills += 1;
    }

    /// SIGTERM, which must end it in order.
    pub(crate) fn stop(&mut self) {
        let ended = self.manager().terminate();
        assert_eq!(ended.code(), Some(0), "{}", self.manager().log());
        self.manager = None;
        self.door.holds();
    }

    /// Queues jobs that take so many seconds each.
    pub(crate) async fn queue(&self, count: u64, seconds: u64) {
        let jobs = json!({
            "repository": "acme/app", "labels": ["self-hosted", "build"], "count": count, "seconds": seconds,
        });
        self.post(format!("{}/_simulator/jobs", self.github.url), &jobs).await;
    }

    /// Has the cloud behave so from now on, by what differs from the usual.
    pub(crate) async fn cloud_behaves(&self, mut behaviour: Value) {
        behaviour["unique_names"] = false.into();
        self.post(format!("{}/script", self.cloud.url), &json!({"behaviour": behaviour})).await;
    }

    /// Has a fault strike the next so many calls of an operation.
    pub(crate) async fn cloud_fails(&self, operation: &str, fault: &Value, times: usize) {
        let next = vec![json!({"operation": operation, "fault": fault}); times];
        self.post(format!("{}/script", self.cloud.url), &json!({"next": next})).await;
    }

    /// Has GitHub hold back its replies on a route; on none where none is given.
    pub(crate) async fn github_holds(&self, route: Option<(&str, &str)>, for_seconds: u64) {
        let long = format!("PT{for_seconds}S");
        let fault = |(method, path)| {
            let effect = json!({"delay": {"min": long, "max": long}});
            json!({"method": method, "path": path, "effect": effect})
        };
        let requests: Vec<Value> = route.into_iter().map(fault).collect();
        self.post(format!("{}/_simulator/faults", self.github.url), &json!({"requests": requests})).await;
    }

    async fn post(&self, url: String, body: &Value) {
        let answer = self.client.post(url).json(body).send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
    }

    /// Asks the manager.
    pub(crate) async fn get<T: DeserializeOwned>(&self, url: &str) -> T {
        let answer = self.client.get(url).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
        answer.json().await.unwrap()
    }

    /// Looks at everything.
    pub(crate) async fn look(&self) -> Seen {
        let runners = match &self.manager {
            Some(manager) => {
                let mut listed: Value = self.get(&format!("{}/api/v1/runners?limit=500", manager.url)).await;
                serde_json::from_value(listed["items"].take()).unwrap()
            }
            None => Vec::new(),
        };
        let cloud = self.get(&format!("{}/books", self.cloud.url)).await;
        let github = self.get(&format!("{}/_simulator/books", self.github.url)).await;
        Seen { cloud, github, runners }
    }

    /// Waits until things are as they should be.
    pub(crate) async fn wait(&self, what: &str, good: impl Fn(&Seen) -> bool) -> Seen {
        self.wait_within(PATIENCE, what, good).await
    }

    /// As [`wait`](Self::wait), with a bound of its own.
    pub(crate) async fn wait_within(
        &self,
        patience: Duration,
        what: &str,
        good: impl Fn(&Seen) -> bool,
    ) -> Seen {
        let deadline = Instant::now() + patience;
        loop {
            let seen = self.look().await;
            if good(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "not in time: {what}; {}", seen.summary());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until so many runners are online at GitHub.
    pub(crate) async fn wait_online(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let runners: Vec<simulator::Runner> =
                self.get(&format!("{}/_simulator/runners", self.github.url)).await;
            if runners.iter().filter(|runner| runner.session.is_some()).count() == count {
                return;
            }
            assert!(Instant::now() < deadline, "not online in time: {runners:#?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until all jobs are done and nothing is left, and checks what must hold however that came about.
    pub(crate) async fn finish(&self, jobs: u64) -> Seen {
        let nothing_left = |seen: &Seen| {
            seen.github.jobs.completed == jobs
                && seen.cloud.total.alive == 0
                && seen.github.runners.alive == 0
                && seen.runners.is_empty()
        };
        let seen = self.wait("all jobs are done and nothing is left", nothing_left).await;
        assert_eq!((seen.github.jobs.succeeded, seen.github.jobs.lost), (jobs, 0), "no job is lost");
        assert_eq!(seen.begun() as u64, jobs);
        assert!(seen.github.runs_by_job.values().all(|runs| *runs == 1), "each job runs once");
        assert_eq!(seen.github.violations, []);
        assert!(seen.cloud.doubles.is_empty(), "made twice: {:?}", seen.cloud.doubles);
        assert!(seen.cloud.repeats.is_empty(), "asked for twice: {:?}", seen.cloud.repeats);
        assert!(seen.cloud.total.max_alive <= self.max, "{:?} of {}", seen.cloud.total, self.max);
        let manager = self.manager.as_ref().expect("it runs");
        let queue: Value = self.get(&format!("{}/api/v1/queue", manager.url)).await;
        assert_eq!(queue["dead"], 0, "{queue}");
        let on_record: Value = self.get(&format!("{}/api/v1/jobs?limit=500", manager.url)).await;
        for job in on_record["items"].as_array().unwrap() {
            assert_eq!(job["state"], "completed", "the end is on record: {job}");
        }
        self.tell(&seen);
        seen
    }

    fn tell(&self, seen: &Seen) {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let (total, seconds) = (&seen.cloud.total, self.began.elapsed().as_secs_f64());
        eprintln!(
            "{test}: {} kills, {} jobs, {} runners made, at most {} of {} at once, {seconds:.1} s",
            self.kills, seen.github.jobs.succeeded, total.created, total.max_alive, self.max,
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The one that runs shows its own.
        for start in (1..self.starts).filter(|_| std::thread::panicking()) {
            let log = std::fs::read_to_string(self.folder.path().join(format!("manager-{start}.log")));
            eprintln!("--- manager {start}:\n{}", log.unwrap_or_default());
        }
    }
}
