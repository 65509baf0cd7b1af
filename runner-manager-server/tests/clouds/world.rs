//! A manager on a cloud that can be killed and started again, with a GitHub and a cloud that live on.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runner_manager_core::random::{Random, SystemRandom};
use runner_manager_core::testing::simulator::{Books, DEFAULT_TOKEN};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cloud::{Cloud, Machine};
use crate::door::Door;
use crate::fault_proxy::{Harm, Proxy, Seen};
use crate::support::{Listening, TOKEN, WEBHOOK_SECRET, client, write};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(5);
const PAUSE: Duration = Duration::from_millis(200);

/// The runner of the machines: the simulated agent, as the actions runner would be started, once the gate is
/// open.
const RUN: &str = "#!/bin/bash
echo 'Listening for Jobs'
until [[ -e GATE ]]; do sleep 0.2; done
exec \"$SIMULATED_RUNNER\" simulated-agent
";

/// Drops no rights, because the tests may have none to drop.
const SETPRIV: &str = "#!/bin/bash\nexec \"${@: -1}\"\n";

/// How many runners the group may have.
pub(crate) const MAX: usize = 3;

/// How machines are told what to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    Direct,
    Callback,
}

/// A name that no other deployment has.
pub(crate) fn deployment() -> String {
    format!("e2e-{:08x}", SystemRandom.next_u64() >> 32)
}

/// What stands in for the starts of machines.
struct Guests(Child);

impl Guests {
    fn start(cloud: &impl Cloud, deployment: &str, folder: &TempDir) -> Self {
        let log = std::fs::File::create(folder.path().join("guests.log")).unwrap();
        let mut command = cloud.script("guests.py");
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

/// What is done to the next request that one function says is meant.
type Next = Arc<Mutex<Vec<(fn(&Seen) -> bool, &'static str, Harm)>>>;

/// A whole system.
pub(crate) struct World<C> {
    // Ends before the folder that it works in.
    _guests: Guests,
    cloud: C,
    deployment: String,
    mode: Mode,
    proxy: Proxy,
    next: Next,
    door: Door,
    github: Listening,
    manager: Option<Listening>,
    folder: TempDir,
    client: reqwest::Client,
    starts: usize,
}

impl<C: Cloud> World<C> {
    /// A system whose one group has at most [`MAX`] runners, in direct mode; `None` where its cloud's peer
    /// does not run.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_in(Mode::Direct).await
    }

    pub(crate) async fn start_in(mode: Mode) -> Option<Self> {
        let deployment = deployment();
        let cloud = C::find(&deployment).await?;
        let folder = TempDir::new().unwrap();
        let next = Next::default();
        let harms = Arc::clone(&next);
        let proxy = Proxy::before(&cloud.service(), move |seen| {
            let mut harms = harms.lock().unwrap();
            let meant = harms.iter().position(|(when, ..)| when(seen))?;
            let (_, name, harm) = harms.remove(meant);
            Some((name, harm))
        })
        .await;
        let door = Door::open().await;
        let hook = ["--webhook-url", &door.url, "--webhook-secret", WEBHOOK_SECRET];
        let github = Listening::start(&folder, "github", &[&["github-simulator"], &hook[..]].concat());
        lay_out(&folder);
        let guests = Guests::start(&cloud, &deployment, &folder);
        let (client, manager) = (client(), None);
        let mut world = Self {
            _guests: guests,
            cloud,
            deployment,
            mode,
            proxy,
            next,
            door,
            github,
            manager,
            folder,
            client,
            starts: 0,
        };
        world.configure();
        world.restart();
        Some(world)
    }

    fn configure(&self) {
        let (folder, github, name) = (self.folder.path().display(), &self.github.url, &self.deployment);
        let backend = self.cloud.backend(&self.proxy.url, self.folder.path());
        let placement = self.cloud.placement();
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
        let server = match self.mode {
            Mode::Direct => "listen: 127.0.0.1:0".to_owned(),
            // Machines are told the address before the manager has one.
            Mode::Callback => {
                let address = free_address();
                format!("listen: {address}\n  bootstrap_url: http://{address}")
            }
        };
        write(
            &self.folder,
            &format!(
                "
name: {name}
secret_key: a-secret-key-of-the-tests-0123456789
sweep_interval: 30s
call_timeout: 2m
lease: 5m
server:
  {server}
  webhook_secret: {WEBHOOK_SECRET}
  tokens: [{{name: tests, role: viewer, token: {TOKEN}}}]
store: {{kind: embedded, path: store.redb}}
github: {{api_url: '{github}', token: {DEFAULT_TOKEN}}}
backends:
  there: {backend}
runner_groups:
  - name: small
    organization: acme
    labels: [build]
    max: {MAX}
    placements: [{{backend: there, {placement}, start: {{runner_folder: {folder}/runner, runner_user: {}}}}}]
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

    /// Has the proxy do this to the next request for a machine.
    pub(crate) fn harm(&self, name: &'static str, harm: Harm) {
        self.harm_where(C::creates, name, harm);
    }

    /// Has the proxy do this to the next request that is meant.
    pub(crate) fn harm_where(&self, when: fn(&Seen) -> bool, name: &'static str, harm: Harm) {
        self.next.lock().unwrap().push((when, name, harm));
    }

    /// How many requests the proxy did this to.
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

    /// What the cloud's own client tells of all that bears this deployment's mark.
    fn look(&self) -> Value {
        let output = self.cloud.script("look.py").arg(&self.deployment).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The machines of this deployment.
    pub(crate) fn machines(&self) -> Vec<Machine> {
        C::machines(&self.look())
    }

    /// Waits until there is one machine.
    pub(crate) async fn one_machine(&self) -> Machine {
        self.until("there is a machine", async || !self.machines().is_empty()).await;
        let machines = self.machines();
        let [machine] = &machines[..] else { panic!("there is not one machine: {machines:#?}") };
        machine.clone()
    }

    /// Waits until there is one machine, which the manager does not know of.
    pub(crate) async fn machine_is_made(&self) -> Machine {
        let made = self.one_machine().await;
        let asked = self.runners().await;
        assert!(asked.len() == 1 && asked[0]["instance"].is_null(), "it is on record already: {asked:#?}");
        made
    }

    /// Waits until the one runner's machine is on record, which is the one that was made, beside which there is
    /// no other; then lets its job run, and waits until nothing is left.
    pub(crate) async fn its_job_runs_on(&self, made: &Machine) {
        self.until("its machine is on record", async || {
            let runners = self.runners().await;
            runners.iter().any(|runner| !runner["instance"].is_null())
        })
        .await;
        assert_eq!(self.machines(), std::slice::from_ref(made), "made twice");
        assert_eq!(self.runners().await.len(), 1);
        self.open_the_gate();
        self.finish(1).await;
    }

    /// Lets the machines' runners begin.
    pub(crate) fn open_the_gate(&self) {
        std::fs::write(gate(&self.folder), "").unwrap();
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
            "{:#?}\nrunners: {runners:#?}\nmachines: {:#?}\n{consoles:#?}\n{guests}",
            self.books().await.jobs,
            self.machines()
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
        let told = self.look();
        assert_eq!(C::machines(&told), [], "machines are left");
        assert_eq!(C::left(&told, &self.deployment), Vec::<Value>::new(), "something is left");
    }
}

/// What the machines' runners wait for.
fn gate(folder: &TempDir) -> PathBuf {
    folder.path().join("go")
}

/// An address that nobody listens at for now.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The folders of the machines: their runner, and what comes first in their path.
fn lay_out(folder: &TempDir) {
    let power_off = "#!/bin/bash\necho 'the power is off'\n";
    let run = RUN.replace("GATE", &gate(folder).display().to_string());
    for (path, text) in [
        ("runner/run.sh", run.as_str()),
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
