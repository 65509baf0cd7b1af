//! All that runs: what is outside of the manager in one process, the replicas, and Redis.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, ensure};
use runner_manager_backends::fake;
use runner_manager_core::domain::Bounds;
use runner_manager_core::testing::simulator::control::SentWebhook;
use runner_manager_core::testing::simulator::{self, DEFAULT_TOKEN, Job};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::args::{Load, Store};
use crate::process::{Process, Usage};
use crate::redis::{Counted, Redis};

const WEBHOOK_SECRET: &str = "a-webhook-secret-of-the-load";
const TOKEN: &str = "a-token-of-the-load";
/// How long after an unclear `create` the cloud may still show an instance.
const SETTLE: &str = "1s";
/// How long an answer may take: the books of 100,000 instances are long.
const PATIENCE: Duration = Duration::from_mins(1);

/// All processes. They end with this value.
#[derive(Debug)]
pub(crate) struct Site {
    redis: Option<Redis>,
    outside: Process,
    replicas: Vec<Process>,
    client: reqwest::Client,
    /// The groups with the runners that they keep.
    pub(crate) groups: BTreeMap<String, Bounds>,
    _folder: TempDir,
}

/// What was counted until some moment.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// Of each process but Redis.
    pub(crate) usage: BTreeMap<String, Usage>,
    pub(crate) redis: Option<Counted>,
    pub(crate) github: simulator::Books,
    /// How often machines were given which answer by the manager.
    pub(crate) calls: BTreeMap<String, u64>,
}

/// What the manager says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whether it makes runners at all: not for the first seconds with a Redis that it does not know.
    pub(crate) store_trusted: bool,
    /// Its runners, in whatever state.
    pub(crate) alive: u64,
    /// Those that were made and have no job.
    pub(crate) ready: u64,
    /// Of these, those that are known to be online: a sweep finds that out.
    pub(crate) idle: u64,
}

impl Site {
    /// Starts all.
    ///
    /// # Errors
    /// When a part does not start.
    pub(crate) async fn start(load: &Load) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let redis = (load.store == Store::Redis).then(|| Redis::start(load)).transpose()?;
        let outside = start_outside(&folder, load)?;
        let names = load.groups().zip(0..);
        let groups = names.map(|(name, group)| Ok((name, load.bounds(group)?)));
        let groups = groups.collect::<anyhow::Result<BTreeMap<String, Bounds>>>()?;
        let start = |replica| {
            let name = format!("replica-{replica}");
            let file = folder.path().join(format!("{name}.yaml"));
            std::fs::write(&file, configuration(load, &outside.urls, redis.as_ref(), &groups)?)?;
            let file = file.to_str().context("the folder for temporary files has an odd name")?;
            let arguments =
                ["serve", "--config", file, "--log-format", "json", "--log-level", &load.log_level];
            Process::start(folder.path(), &name, 1, &arguments)
        };
        let replicas = (0..load.replicas).map(start).collect::<anyhow::Result<Vec<Process>>>()?;
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let site = Self { redis, outside, replicas, client, groups, _folder: folder };
        site.add_hooks().await?;
        Ok(site)
    }

    /// The repository of each replica sends its webhooks there.
    async fn add_hooks(&self) -> anyhow::Result<()> {
        for (repository, replica) in self.repositories().zip(&self.replicas) {
            let url = format!("{}/webhook", replica.urls[0]);
            let hook = json!({"scope": {"repository": repository}, "url": url, "secret": WEBHOOK_SECRET});
            self.post("hooks", &hook).await?;
        }
        Ok(())
    }

    /// The repositories whose jobs there are: one for each replica.
    pub(crate) fn repositories(&self) -> impl Iterator<Item = String> {
        (0..self.replicas.len()).map(|replica| format!("acme/app-{replica}"))
    }

    /// Queues jobs at GitHub.
    ///
    /// # Errors
    /// When GitHub does not take them.
    pub(crate) async fn queue(
        &self,
        repository: &str,
        group: &str,
        count: u32,
        seconds: u64,
    ) -> anyhow::Result<()> {
        let labels = ["self-hosted", group];
        let jobs = json!({"repository": repository, "labels": labels, "count": count, "seconds": seconds});
        self.post("jobs", &jobs).await
    }

    /// What the replicas, Redis and GitHub counted until now.
    ///
    /// # Errors
    /// When one of them has ended or does not answer.
    pub(crate) async fn moment(&self) -> anyhow::Result<Moment> {
        let processes = self.replicas.iter().chain([&self.outside]);
        let usage = processes.map(|process| Ok((process.name.clone(), process.usage()?)));
        let usage = usage.collect::<anyhow::Result<_>>()?;
        let redis = self.redis.as_ref().map(Redis::counted).transpose()?;
        Ok(Moment { usage, redis, github: self.github().await?, calls: self.calls().await? })
    }

    /// GitHub's books.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn github(&self) -> anyhow::Result<simulator::Books> {
        self.get(&format!("{}/_simulator/books", self.outside.urls[0])).await
    }

    /// All jobs as GitHub has them.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn jobs(&self) -> anyhow::Result<Vec<Job>> {
        self.get(&format!("{}/_simulator/jobs", self.outside.urls[0])).await
    }

    /// All webhooks that GitHub sent.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn webhooks(&self) -> anyhow::Result<Vec<SentWebhook>> {
        self.get(&format!("{}/_simulator/deliveries", self.outside.urls[0])).await
    }

    /// The cloud's books.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn cloud(&self) -> anyhow::Result<fake::Books> {
        self.get(&format!("{}/books", self.outside.urls[1])).await
    }

    async fn calls(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        self.get(&format!("{}/calls", self.outside.urls[1])).await
    }

    /// How the manager says that it stands.
    ///
    /// # Errors
    /// When the first replica does not answer.
    pub(crate) async fn standing(&self) -> anyhow::Result<Standing> {
        let status: Value = self.get(&format!("{}/api/v1/status", self.replicas[0].urls[0])).await?;
        let groups = status["groups"].as_array().context("the API tells of no groups")?;
        let sum = |path| groups.iter().filter_map(|group| group.pointer(path)?.as_u64()).sum::<u64>();
        let (alive, idle) = (sum("/alive"), sum("/counts/idle"));
        let store_trusted = status["deployment"]["store_trusted"] == true;
        Ok(Standing { store_trusted, alive, ready: idle + sum("/counts/booting"), idle })
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> anyhow::Result<T> {
        let answer = self.client.get(url).bearer_auth(TOKEN).send().await;
        let answer = answer.with_context(|| self.alive(url))?;
        ensure!(answer.status().is_success(), "{url}: {}", answer.status());
        Ok(answer.json().await?)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let url = format!("{}/_simulator/{path}", self.outside.urls[0]);
        let answer = self.client.post(&url).json(body).send().await.with_context(|| self.alive(&url))?;
        ensure!(answer.status().is_success(), "{url}: {}", answer.status());
        Ok(())
    }

    /// Which processes cannot be measured, where one does not answer.
    fn alive(&self, url: &str) -> String {
        let ended = self.replicas.iter().chain([&self.outside]).filter_map(|process| process.usage().err());
        let ended: Vec<String> = ended.map(|error| format!("{error:#}")).collect();
        format!("{url} does not answer. {}", ended.join("\n"))
    }
}

fn start_outside(folder: &TempDir, load: &Load) -> anyhow::Result<Process> {
    let latency = format!("PT{}S", Duration::from_millis(load.github_latency).as_secs_f64());
    let delay = json!({"effect": {"delay": {"min": latency, "max": latency}}});
    let slow = if load.github_latency == 0 { json!([]) } else { json!([delay]) };
    let settings = json!({"faults": {"requests": slow}}).to_string();
    let create_latency = format!("{}ms", load.create_latency);
    let behaviour =
        json!({"create_latency": create_latency, "settle": SETTLE, "callback": load.callback}).to_string();
    let (connections, heartbeat) = (load.connections.to_string(), load.heartbeat.to_string());
    let arguments = [
        "outside",
        "--settings",
        &settings,
        "--behaviour",
        &behaviour,
        "--webhooks-at-once",
        &connections,
        "--heartbeat",
        &heartbeat,
    ];
    Process::start(folder.path(), "outside", 2, &arguments)
}

/// As a user would write it, but that GitHub's bound on registrations is not kept, which would hide what the manager
/// can do; and that calls may take a short time only, which is how long a manager makes nothing on a new Redis.
fn configuration(
    load: &Load,
    outside: &[String],
    redis: Option<&Redis>,
    groups: &BTreeMap<String, Bounds>,
) -> anyhow::Result<String> {
    let store = redis.map_or_else(
        || json!({"kind": "embedded", "path": "store.redb"}),
        |redis| json!({"kind": "redis", "url": redis.url}),
    );
    let group = |(name, bounds): (&String, &Bounds)| {
        json!({
            "name": name, "organization": "acme", "labels": [name],
            "min_idle": bounds.min_idle(), "max": bounds.max(), "placements": [{"backend": "cloud"}],
        })
    };
    let call_timeout =
        Duration::from_secs(10) + Duration::from_millis(load.create_latency.max(load.github_latency));
    let call_timeout = format!("{}s", call_timeout.as_secs());
    let cloud = json!({
        "kind": "fake", "url": outside[1], "concurrency": load.backend_concurrency, "timeout": call_timeout,
        "behaviour": {"settle": SETTLE, "callback": load.callback},
    });
    // JSON is YAML.
    let configuration = json!({
        "name": "load",
        "secret_key": "a-secret-key-of-the-load-0123456789",
        "server": server(load)?,
        "store": store,
        "github": {
            "api_url": outside[0], "token": DEFAULT_TOKEN, "jit_rate": {"calls": 20_000, "per": "1s"},
        },
        "backends": {"cloud": cloud},
        "call_timeout": call_timeout,
        "runner_groups": groups.iter().map(group).collect::<Vec<Value>>(),
    });
    Ok(configuration.to_string())
}

fn server(load: &Load) -> anyhow::Result<Value> {
    let mut server = json!({
        "listen": "127.0.0.1:0",
        "webhook_secret": WEBHOOK_SECRET,
        "tokens": [{"name": "load", "role": "viewer", "token": TOKEN}],
    });
    if load.callback {
        // Where the machines that a replica makes call it is told them before it listens.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        server["listen"] = json!(address);
        server["bootstrap_url"] = json!(format!("http://{address}"));
    }
    Ok(server)
}
