//! The processes: GitHub, a cloud, Redis, and replicas that can be killed, frozen and started again.

use std::time::{Duration, Instant};

use runner_manager_backends::fake;
use runner_manager_core::testing::simulator::{self, DEFAULT_TOKEN};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::balancer::Balancer;
use crate::driver::Disturbances;
use crate::redis_server::RedisServer;
use crate::support::{Listening, TOKEN, WEBHOOK_SECRET, client, write};
use crate::verdict::{Caught, Verdict};

/// How long a replica holds what it works on without a sign of life.
pub(crate) const LEASE: Duration = Duration::from_secs(4);
/// The groups with the most machines that each may have.
pub(crate) const GROUPS: [(&str, u64); 3] = [("small", 10), ("middle", 25), ("large", 40)];
/// How long it may take from the last disturbance until nothing is left. An idle machine that is too much goes
/// after three minutes at the earliest, and an orphan after two listings.
const PATIENCE: Duration = Duration::from_mins(8);
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Site {
    redis: RedisServer,
    balancer: Balancer,
    github: Listening,
    cloud: Listening,
    replicas: Vec<Option<Listening>>,
    starts: usize,
    config: String,
    folder: TempDir,
    client: reqwest::Client,
    caught: Caught,
    began: Instant,
}

impl Site {
    /// Everything, with so many replicas; none where there is no Redis to be had. Where GitHub and the cloud are
    /// not `calm`, webhooks and answers are lost, and come late or twice.
    pub(crate) async fn start(replicas: usize, calm: bool) -> Option<Self> {
        let redis = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "everysec"])?;
        let folder = TempDir::new().unwrap();
        let balancer = Balancer::open().await;
        let hook = ["--webhook-url", &balancer.url, "--webhook-secret", WEBHOOK_SECRET];
        let github = Listening::start(&folder, "github", &[&["github-simulator"], &hook[..]].concat());
        let behaviour = behaviour(calm).to_string();
        let cloud = ["fake-cloud", "--github", &github.url, "--behaviour", &behaviour];
        let cloud = Listening::start(&folder, "cloud", &cloud);
        let config = write(&folder, &configuration(&redis.url(), &github.url, &cloud.url));
        let mut site = Self {
            redis,
            balancer,
            github,
            cloud,
            replicas: (0..replicas).map(|_| None).collect(),
            starts: 0,
            config,
            folder,
            client: client(),
            caught: Caught::default(),
            began: Instant::now(),
        };
        for replica in 0..replicas {
            site.start_replica(replica);
        }
        if !calm {
            let faults = json!({"webhooks": {
                "lost": 0.05, "doubled": 0.1, "delayed": 0.1, "delay": {"min": "PT0.1S", "max": "PT3S"},
                "reordered": 0.1,
            }});
            site.post(format!("{}/_simulator/faults", site.github.url), &faults).await;
        }
        Some(site)
    }

    pub(crate) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    pub(crate) fn start_replica(&mut self, replica: usize) {
        self.starts += 1;
        let arguments = ["serve", "--config", &self.config, "--log-format", "json"];
        let name = format!("replica-{replica}-{}", self.starts);
        self.replicas[replica] = Some(Listening::start(&self.folder, &name, &arguments));
        self.lead();
    }

    fn lead(&self) {
        self.balancer.leads_to(self.replicas.iter().flatten().map(|replica| replica.url.clone()).collect());
    }

    /// `kill -9`, noting before what the replica had counted.
    pub(crate) async fn kill(&mut self, replica: usize) {
        self.note(replica).await;
        drop(self.replicas[replica].take().expect("it runs"));
        self.lead();
    }

    /// SIGTERM, which must end it in order.
    pub(crate) async fn stop(&mut self, replica: usize) {
        self.note(replica).await;
        let mut stopping = self.replicas[replica].take().expect("it runs");
        self.lead();
        let ended = stopping.terminate();
        assert_eq!(ended.code(), Some(0), "{}", stopping.log());
    }

    pub(crate) fn signal(&self, replica: usize, name: &str) {
        self.replicas[replica].as_ref().expect("it runs").signal(name);
    }

    pub(crate) fn kill_redis(&mut self) {
        self.redis.kill();
    }

    pub(crate) fn start_redis(&mut self) {
        self.redis.restart();
    }

    pub(crate) fn freeze_redis(&self) {
        self.redis.pause();
    }

    pub(crate) fn thaw_redis(&self) {
        self.redis.resume();
    }

    /// Has Redis close every connection.
    pub(crate) fn cut_connections(&self) {
        self.redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    /// Queues jobs that one group serves.
    pub(crate) async fn queue(&self, group: &str, count: u64, seconds: u64) {
        if count > 0 {
            let jobs = json!({
                "repository": "acme/app", "labels": ["self-hosted", group], "count": count, "seconds": seconds,
            });
            self.post(format!("{}/_simulator/jobs", self.github.url), &jobs).await;
        }
    }

    async fn post(&self, url: String, body: &Value) {
        let answer = self.client.post(url).json(body).send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> T {
        let answer = self.client.get(url).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
        answer.json().await.unwrap()
    }

    /// Notes what a replica has counted, if it answers: its counters end with it.
    async fn note(&mut self, replica: usize) {
        let Some(process) = &self.replicas[replica] else { return };
        let asked = self.client.get(format!("{}/metrics", process.url)).bearer_auth(TOKEN);
        let Ok(answer) = asked.timeout(Duration::from_secs(1)).send().await else { return };
        let Ok(text) = answer.text().await else { return };
        self.caught.add(&text);
    }

    async fn cloud_books(&self) -> fake::Books {
        self.get(&format!("{}/books", self.cloud.url)).await
    }

    async fn github_books(&self) -> simulator::Books {
        self.get(&format!("{}/_simulator/books", self.github.url)).await
    }

    /// How many runners are on record; none where nobody answers.
    async fn on_record(&self) -> Option<usize> {
        let replica = self.replicas.iter().flatten().next()?;
        let url = format!("{}/api/v1/runners?limit=500", replica.url);
        let answer = self.client.get(url).bearer_auth(TOKEN).send().await.ok()?;
        let listed: Value = answer.json().await.ok()?;
        Some(listed["items"].as_array()?.len())
    }

    /// Waits until all jobs are done and nothing is left, and says what came of it.
    pub(crate) async fn finish(mut self, jobs: u64, disturbances: &Disturbances) -> Verdict {
        let deadline = Instant::now() + PATIENCE;
        let (cloud, github) = loop {
            let (cloud, github) = (self.cloud_books().await, self.github_books().await);
            let done = github.jobs.completed == jobs && cloud.total.alive == 0 && github.runners.alive == 0;
            if done && self.on_record().await == Some(0) {
                break (cloud, github);
            }
            assert!(
                Instant::now() < deadline,
                "not in time: {:?} {:?} {:?} {:?}, {} on record; {disturbances}",
                github.jobs,
                github.runners,
                github.webhooks,
                cloud.total,
                self.on_record()
                    .await
                    .map_or_else(|| "nobody knows how many".into(), |count| count.to_string()),
            );
            tokio::time::sleep(PAUSE).await;
        };
        for replica in 0..self.replicas.len() {
            self.note(replica).await;
        }
        let listed: Vec<simulator::Job> = self.get(&format!("{}/_simulator/jobs", self.github.url)).await;
        let verdict = Verdict {
            seconds: self.began.elapsed().as_secs_f64(),
            disturbances: disturbances.to_string(),
            webhooks: self.balancer.counts(),
            caught: self.caught.clone(),
            cloud,
            github,
            jobs: listed,
        };
        verdict.check(jobs, &disturbances.thaws);
        verdict
    }
}

fn behaviour(calm: bool) -> Value {
    let rule = |chance: f64, fault: Value| json!({"operation": "create", "chance": chance, "fault": fault});
    let faults = [
        rule(0.02, json!("lost_reply")),
        rule(0.02, json!({"late": "2s"})),
        rule(0.01, json!({"error": {"kind": "NoCapacity"}})),
    ];
    json!({
        "unique_names": false, "settle": "4s", "create_latency": "50ms", "call_latency": "10ms",
        "boot_time": "100ms", "boot_jitter": "300ms", "delete_time": "200ms",
        "faults": if calm { &[] } else { &faults[..] },
    })
}

fn configuration(redis: &str, github: &str, cloud: &str) -> String {
    let groups: Vec<String> = GROUPS
        .iter()
        .map(|(name, max)| {
            format!(
                "  - {{name: {name}, organization: acme, labels: [{name}], max: {max}, start_timeout: 20s,
     idle_timeout: 2s, removal_grace: 2s, placements: [{{backend: cloud, zones: [zone-a, zone-b]}}]}}"
            )
        })
        .collect();
    format!(
        "
name: chaos
secret_key: a-secret-key-of-the-tests-0123456789
sweep_interval: 30s
recover_interval: 30s
lease: {}s
call_timeout: 1s
server:
  listen: 127.0.0.1:0
  webhook_secret: {WEBHOOK_SECRET}
  tokens: [{{name: tests, role: viewer, token: {TOKEN}}}]
store: {{kind: redis, url: '{redis}', response_timeout: 1s, connect_timeout: 1s}}
github: {{api_url: '{github}', token: {DEFAULT_TOKEN}, jit_rate: {{calls: 20000, per: 1s}}}}
backends:
  cloud: {{kind: fake, url: '{cloud}', behaviour: {{unique_names: false, settle: 4s}}}}
runner_groups:
{}
",
        LEASE.as_secs(),
        groups.join("\n")
    )
}
