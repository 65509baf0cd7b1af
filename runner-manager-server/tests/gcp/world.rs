//! A manager on GCP that can be killed and started again, with a GitHub and a cloud that live on.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runner_manager_core::random::{Random, SystemRandom};
use runner_manager_core::testing::simulator::{Books, DEFAULT_TOKEN};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::door::Door;
use crate::fault_proxy::{Harm, Proxy};
use crate::support::{Listening, TOKEN, WEBHOOK_SECRET, client, write};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(5);
const PAUSE: Duration = Duration::from_millis(200);

/// The runner of the machines: the simulated agent, as the actions runner would be started.
const RUN: &str = "#!/bin/bash\necho 'Listening for Jobs'\nexec \"$SIMULATED_RUNNER\" simulated-agent\n";

/// Drops no rights, because the tests may have none to drop.
const SETPRIV: &str = "#!/bin/bash\nexec \"${@: -1}\"\n";

/// A project of its own on the fake.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) url: String,
    pub(crate) project: String,
    python: String,
}

impl Peer {
    /// `None` where the fake does not run.
    pub(crate) async fn find() -> Option<Self> {
        Self::with(json!({"tokens": ["good"]})).await
    }

    /// The same with settings of the project.
    pub(crate) async fn with(settings: Value) -> Option<Self> {
        let of = |name: &str| std::env::var(format!("GCE_{name}")).ok();
        let Some(url) = of("URL") else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "GCE_URL is not set");
            eprintln!("skipped: no fake of GCE runs (scripts/peers/gce/up)");
            return None;
        };
        let project = format!("e2e-{:08x}", SystemRandom.next_u64() >> 32);
        let peer = Self { url, project, python: of("PYTHON")? };
        peer.make(&peer.project, &settings).await;
        Some(peer)
    }

    /// Makes a project of a name.
    pub(crate) async fn make(&self, project: &str, settings: &Value) {
        let url = format!("{}/fake/projects/{project}", self.url);
        let answer = client().put(url).body(settings.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{project}: {}", answer.status());
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/peers/gce");
        command.args(["-B", &format!("{folder}/{name}"), &self.project]);
        command.env("GCE_URL", &self.url).env("GCE_TOKEN", "good");
        command
    }

    /// What Google's own client tells of all instances that bear a deployment's mark.
    pub(crate) fn look(&self, deployment: &str) -> Vec<Value> {
        let output = self.script("look.py").arg(deployment).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Credentials whose token is this word.
    pub(crate) fn credentials(&self, token: &str) -> String {
        json!({
            "type": "authorized_user", "client_id": "id", "client_secret": "peer-secret", "refresh_token": token,
            "token_uri": format!("{}/fake/token", self.url),
        })
        .to_string()
    }

    /// The settings of a backend that asks at an address, as they stand in a configuration.
    pub(crate) fn backend(&self, url: &str, project: &str, token: &str) -> String {
        let credentials = self.credentials(token);
        format!(
            "{{kind: gcp, project: {project}, credentials: '{credentials}', endpoint: '{url}', timeout: 20s, settle: 5s}}"
        )
    }
}

/// What stands in for the starts of machines.
struct Guests(Child);

impl Guests {
    fn start(peer: &Peer, deployment: &str, folder: &TempDir) -> Self {
        let log = std::fs::File::create(folder.path().join("guests.log")).unwrap();
        let mut command = peer.script("guests.py");
        command.arg(deployment).arg(folder.path()).stdout(Stdio::piped()).stderr(log);
        command.env("SIMULATED_RUNNER", env!("CARGO_BIN_EXE_runner-manager")).env("NO_PROXY", "127.0.0.1");
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        assert_eq!(
            line.trim(),
            "ready",
            "{}",
            std::fs::read_to_string(folder.path().join("guests.log")).unwrap()
        );
        // What it tells later is read by nobody, and must not end it.
        std::mem::forget(told);
        Self(child)
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// What is done to the next request for an instance.
type Next = Arc<Mutex<Vec<(&'static str, Harm)>>>;

/// A whole system.
pub(crate) struct World {
    pub(crate) peer: Peer,
    pub(crate) deployment: String,
    pub(crate) proxy: Proxy,
    next: Next,
    door: Door,
    github: Listening,
    manager: Option<Listening>,
    folder: TempDir,
    client: reqwest::Client,
    starts: usize,
    _guests: Guests,
}

impl World {
    /// A system whose one group has at most three runners.
    pub(crate) async fn start(peer: Peer) -> Self {
        let folder = TempDir::new().unwrap();
        let deployment = peer.project.clone();
        let next = Next::default();
        let harms = Arc::clone(&next);
        let proxy = Proxy::before(&peer.url, move |seen| {
            let creates = seen.method == http::Method::POST && seen.path.contains("/instances?requestId=");
            if creates { harms.lock().unwrap().pop() } else { None }
        })
        .await;
        let door = Door::open().await;
        let hook = ["--webhook-url", &door.url, "--webhook-secret", WEBHOOK_SECRET];
        let github = Listening::start(&folder, "github", &[&["github-simulator"], &hook[..]].concat());
        lay_out(&folder);
        let guests = Guests::start(&peer, &deployment, &folder);
        let (client, manager) = (client(), None);
        let mut world = Self {
            peer,
            deployment,
            proxy,
            next,
            door,
            github,
            manager,
            folder,
            client,
            starts: 0,
            _guests: guests,
        };
        world.configure();
        world.restart();
        world
    }

    fn configure(&self) {
        let (folder, github, name) = (self.folder.path().display(), &self.github.url, &self.deployment);
        let backend = self.peer.backend(&self.proxy.url, &self.peer.project, "good");
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
        write(
            &self.folder,
            &format!(
                "
name: {name}
secret_key: a-secret-key-of-the-tests-0123456789
sweep_interval: 30s
server:
  listen: 127.0.0.1:0
  webhook_secret: {WEBHOOK_SECRET}
  tokens: [{{name: tests, role: viewer, token: {TOKEN}}}]
store: {{kind: embedded, path: store.redb}}
github: {{api_url: '{github}', token: {DEFAULT_TOKEN}}}
backends:
  eu: {backend}
runner_groups:
  - name: small
    organization: acme
    labels: [build]
    max: 3
    placements:
      - backend: eu
        machine_types: [e2-standard-2]
        image: projects/debian-cloud/global/images/family/debian-12
        zones: [europe-west1-b]
        start: {{runner_folder: {folder}/runner, runner_user: {}}}
",
                user.trim()
            ),
        );
    }

    /// Starts the manager on its store.
    pub(crate) fn restart(&mut self) {
        self.starts += 1;
        let config = self.folder.path().join("config.yaml");
        let arguments = ["serve", "--config", config.to_str().unwrap(), "--log-format", "json"];
        let manager = Listening::start(&self.folder, &format!("manager-{}", self.starts), &arguments);
        self.door.leads_to(&manager.url);
        self.manager = Some(manager);
    }

    /// `kill -9` of the manager, and waits until the process is no more. Webhooks wait from then on.
    pub(crate) fn kill(&mut self) {
        drop(self.manager.take().expect("it runs"));
        self.door.holds();
    }

    /// Has the proxy do this to the next requests for instances.
    pub(crate) fn harm(&self, harms: Vec<(&'static str, Harm)>) {
        self.next.lock().unwrap().extend(harms);
    }

    /// How many requests for instances the proxy did this to.
    pub(crate) fn harmed(&self, what: &str) -> u32 {
        self.proxy.counts().get(what).copied().unwrap_or(0)
    }

    /// Queues jobs that take so many seconds each.
    pub(crate) async fn queue(&self, count: u64, seconds: u64) {
        let jobs = json!({
            "repository": "acme/app", "labels": ["self-hosted", "build"], "count": count, "seconds": seconds,
        });
        let url = format!("{}/_simulator/jobs", self.github.url);
        let answer = self.client.post(url).json(&jobs).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> T {
        let answer = self.client.get(url).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
        answer.json().await.unwrap()
    }

    pub(crate) async fn books(&self) -> Books {
        self.get(&format!("{}/_simulator/books", self.github.url)).await
    }

    /// The manager's runners.
    pub(crate) async fn runners(&self) -> Vec<Value> {
        let manager = self.manager.as_ref().expect("it runs");
        let mut listed: Value = self.get(&format!("{}/api/v1/runners?limit=500", manager.url)).await;
        serde_json::from_value(listed["items"].take()).unwrap()
    }

    /// The instances of this deployment.
    pub(crate) fn instances(&self) -> Vec<Value> {
        self.peer.look(&self.deployment)
    }

    /// Waits until things are as they should be.
    pub(crate) async fn until(&self, what: &str, good: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !good().await {
            assert!(Instant::now() < deadline, "not in time: {what}; {}", self.summary().await);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn summary(&self) -> String {
        let runners = if self.manager.is_some() { self.runners().await } else { Vec::new() };
        let consoles: Vec<String> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "console"))
            .map(|path| format!("{}: {}", path.display(), std::fs::read_to_string(&path).unwrap_or_default()))
            .collect();
        let guests = std::fs::read_to_string(self.folder.path().join("guests.log")).unwrap_or_default();
        format!(
            "{:#?}\nrunners: {runners:#?}\ninstances: {:#?}\n{consoles:#?}\n{guests}",
            self.books().await.jobs,
            self.instances()
        )
    }

    /// Waits until all jobs are done and nothing is left, and checks what must hold however that came about.
    pub(crate) async fn finish(&self, jobs: u64) {
        self.until("all jobs are done and nothing is left", async || {
            let books = self.books().await;
            let done = books.jobs.completed == jobs && books.runners.alive == 0;
            done && self.runners().await.is_empty()
        })
        .await;
        let books = self.books().await;
        assert_eq!((books.jobs.succeeded, books.jobs.lost), (jobs, 0), "no job is lost");
        assert!(books.runs_by_job.values().all(|runs| *runs == 1), "each job runs once");
        assert_eq!(books.violations, []);
        assert_eq!(self.instances(), Vec::<Value>::new(), "instances are left");
    }
}

/// The folders of the machines: their runner, and what comes first in their path.
fn lay_out(folder: &TempDir) {
    let power_off = "#!/bin/bash\necho 'the power is off'\n";
    for (path, text) in [
        ("runner/run.sh", RUN),
        ("bin/setpriv", SETPRIV),
        ("bin/poweroff", power_off),
        ("bin/systemctl", power_off),
        ("bin/shutdown", power_off),
    ] {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}
