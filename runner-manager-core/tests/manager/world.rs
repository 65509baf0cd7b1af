//! A whole world in one thread: the real manager on the embedded storage in memory, the GitHub simulator,
//! a fake cloud, and agents on its instances. Time stands still until nothing is left to do, and then goes
//! on to the next thing that is due.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runner_manager_backends::fake::{Behaviour, Books, FakeBackend, FakeCloud, StartedInstance};
use runner_manager_core::backend::Bootstrap;
use runner_manager_core::clock::{Clock, SimulatedClock};
use runner_manager_core::domain::{
    Arch, BackendName, Bounds, ConnectionName, DeliveryId, DeploymentName, GitHubGroup, GroupName,
    InstanceId, JobMoment, JobReport, JobSignal, Labels, Limits, Os, Owner, Placement, RunId, RunnerGroup,
    RunnerName, Scope, Secret, TokenKey,
};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::manager::{
    Account, Callback, CallbackAddress, Configured, ConnectedBackend, Manager, Parts, Settings,
};
use runner_manager_core::random::SeededRandom;
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::store::{Page, RunnerFilter};
use runner_manager_core::testing::simulated::{SharedSimulator, SimulatorTransport};
use runner_manager_core::testing::simulator::{
    self, AgentJob, AppSettings, Conclusion, JobSpec, SessionId, Simulator,
};
use runner_manager_core::webhook::{Webhook, parse, verify};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::machine::{Habits, Outside, live};

/// An App that may do all that a manager needs, but run jobs again.
pub(crate) const APP: u64 = 12345;

pub(crate) const SECRET: &str = "a webhook secret";

/// Where the hook of `acme` leads.
pub(crate) const WEBHOOK_URL: &str = "http://manager/webhook";

/// How often something may happen at one moment. More is somebody who repeats himself without waiting.
const MOST_STEPS_AT_ONCE: u32 = 20_000;

#[derive(Debug)]
struct Agent {
    runner: RunnerName,
    instance: InstanceId,
    session: SessionId,
    /// When it last asked for a job.
    asked_at: Timestamp,
    /// Its job and when that ends, where it has one.
    job: Option<(AgentJob, Timestamp)>,
}

impl Agent {
    fn signal(&self, job: &AgentJob, moment: JobMoment) -> JobSignal {
        JobSignal {
            runner: self.runner.clone(),
            repository: job.repository.parse().unwrap(),
            run: RunId(job.run.0),
            attempt: u32::try_from(job.attempt).unwrap(),
            key: job.name.split(" (").next().unwrap().to_owned(),
            moment,
        }
    }
}

/// How long an agent that has no news waits until it asks for a job again.
const ASKS_EVERY: SignedDuration = SignedDuration::from_secs(30);

pub(crate) struct World {
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) github: SharedSimulator,
    pub(crate) cloud: Arc<Mutex<FakeCloud>>,
    pub(crate) storage: Arc<EmbeddedStorage>,
    pub(crate) manager: Manager,
    pub(crate) owner: Owner,
    running: JoinSet<()>,
    stop: CancellationToken,
    agents: Vec<Agent>,
    /// The machines that call back, what they do, and whom they call.
    machines: JoinSet<()>,
    pub(crate) machine: Habits,
    pub(crate) door: Arc<Mutex<Manager>>,
    /// How long a machine's word of its job is on its way; none where machines say nothing.
    pub(crate) signals: Option<SignedDuration>,
    /// What machines have said, and when it arrives.
    said: Vec<(Timestamp, JobSignal)>,
    /// How many registrations had been removed when agents were last played.
    removed: u64,
    /// When a webhook first told that a job began.
    pub(crate) told: BTreeMap<simulator::JobId, Timestamp>,
    /// How often something happened since time last moved on.
    steps_at_once: u32,
    /// Instances whose agents never come up, by runner group.
    pub(crate) broken_image: bool,
    /// How the jobs end whose machines live.
    pub(crate) conclusion: Conclusion,
    /// What becomes of a webhook, by its action: true to let it through.
    pub(crate) deliver: fn(&str) -> bool,
    /// What a manager that starts has in its file.
    pub(crate) groups: Vec<RunnerGroup>,
    /// What is changed about the parts of the managers that start.
    pub(crate) adjust: Box<dyn Fn(&mut Parts)>,
    pub(crate) seed: u64,
}

/// Another replica beside the world's first one.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) manager: Manager,
    stop: CancellationToken,
    task: AbortHandle,
    pub(crate) configured: Configured,
}

impl Replica {
    /// It stops in order.
    pub(crate) async fn stop(self, world: &mut World) {
        self.stop.cancel();
        for _ in 0..10_000 {
            if self.task.is_finished() {
                return;
            }
            world.step().await;
        }
        panic!("the replica does not stop");
    }

    /// Its process dies.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}

/// The next world of a test pauses the runtime's clock for itself.
impl Drop for World {
    fn drop(&mut self) {
        tokio::time::resume();
    }
}

/// Returns once nobody has anything left to do at this moment.
///
/// The runtime's own clock is paused: it moves on, and ends this sleep, only when every task waits.
#[expect(
    clippy::disallowed_methods,
    reason = "nobody waits for it: it is how a runtime tells that it is idle"
)]
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.clock.now()).finish_non_exhaustive()
    }
}

pub(crate) fn backend() -> BackendName {
    BackendName::new("cloud").unwrap()
}

pub(crate) fn name(text: &str) -> GroupName {
    GroupName::new(text).unwrap()
}

/// A group of `acme` with one placement in each zone named.
pub(crate) fn group(text: &str, labels: &[&str], min_idle: u32, max: u32, zones: &[&str]) -> RunnerGroup {
    let place = |zone: &&str| {
        let settings = serde_json::json!({"zones": zone, "instance_types": "small", "image": "image-1"});
        Placement::new(backend(), format!("small in {zone}"), settings)
    };
    RunnerGroup {
        name: name(text),
        scope: Scope::organization("acme").unwrap(),
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::parse(labels).unwrap(),
        bounds: Bounds::new(min_idle, max).unwrap(),
        priority: 0,
        order: 0,
        tags: BTreeMap::new(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: zones.iter().map(place).collect(),
    }
}

pub(crate) fn spec(labels: &[&str]) -> JobSpec {
    JobSpec::new("acme/app", labels.iter().copied()).seconds(30)
}

impl World {
    pub(crate) async fn new(groups: Vec<RunnerGroup>, behaviour: Behaviour) -> Self {
        // `RUST_LOG=info` shows what the manager does, beside a failing test.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ =
            tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().without_time().try_init();
        tokio::time::pause();
        let clock = Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
        let mut app = AppSettings { id: APP, ..AppSettings::default() };
        app.permissions.insert("actions".to_owned(), "read".to_owned());
        let settings = simulator::Settings { seed: 7, app: Some(app), ..simulator::Settings::default() };
        let mut github = Simulator::new(settings);
        let acme = simulator::Scope::Organization("acme".into());
        github.add_hook(&acme, WEBHOOK_URL, SECRET, clock.now());
        let github = Arc::new(Mutex::new(github));
        let cloud = Arc::new(Mutex::new(FakeCloud::new(behaviour)));
        let storage = Arc::new(EmbeddedStorage::in_memory(clock.clone()));
        let owner = Owner::new(DeploymentName::new("rm").unwrap(), &Secret::new("a secret key"));
        let manager = Manager::new(parts(&clock, &github, &cloud, &storage, &owner, 1));
        manager.configure(groups.clone()).await.unwrap();
        let door = Arc::new(Mutex::new(manager.clone()));
        let mut world = Self {
            clock,
            github,
            cloud,
            storage,
            manager,
            owner,
            running: JoinSet::new(),
            stop: CancellationToken::new(),
            agents: Vec::new(),
            machines: JoinSet::new(),
            machine: Habits::default(),
            door,
            signals: None,
            said: Vec::new(),
            removed: 0,
            told: BTreeMap::new(),
            steps_at_once: 0,
            broken_image: false,
            conclusion: Conclusion::Success,
            deliver: |_| true,
            groups,
            adjust: Box::new(|_| ()),
            seed: 1,
        };
        world.launch(world.manager.clone());
        world
    }

    /// A manager that starts on what the last one left, or beside it.
    pub(crate) fn start(&mut self) {
        self.seed += 1;
        self.manager = Manager::new(self.parts());
        *self.door.lock().unwrap() = self.manager.clone();
        self.stop = CancellationToken::new();
        self.launch(self.manager.clone());
    }

    fn launch(&mut self, manager: Manager) {
        let (stop, groups) = (self.stop.clone(), self.groups.clone());
        self.running.spawn(async move {
            manager.configure(groups).await.unwrap();
            manager.run(stop).await;
        });
    }

    /// The manager stops in order and starts anew with other settings.
    pub(crate) async fn restart_with(&mut self, change: impl Fn(&mut Settings) + 'static) {
        self.stop().await;
        self.adjust = Box::new(move |parts| change(&mut parts.settings));
        self.start();
    }

    /// Another replica on the same storage, with its own file.
    pub(crate) async fn replica(&mut self, groups: Vec<RunnerGroup>) -> Replica {
        self.seed += 1;
        let manager = Manager::new(self.parts());
        let configured = manager.configure(groups).await.unwrap();
        let stop = CancellationToken::new();
        let (running, until) = (manager.clone(), stop.clone());
        let task = self.running.spawn(async move { running.run(until).await });
        Replica { manager, stop, task, configured }
    }

    /// The one account at GitHub.
    pub(crate) fn account(&self) -> Account {
        self.parts().github.accounts(&ConnectionName::default())[0].clone()
    }

    pub(crate) fn parts(&self) -> Parts {
        let mut parts = parts(&self.clock, &self.github, &self.cloud, &self.storage, &self.owner, self.seed);
        (self.adjust)(&mut parts);
        parts
    }

    /// The manager's process dies, in the middle of whatever it does.
    pub(crate) async fn crash(&mut self) {
        self.running.abort_all();
        while self.running.join_next().await.is_some() {}
    }

    /// The manager stops in order.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        for _ in 0..10_000 {
            if self.running.try_join_next().is_some() {
                return;
            }
            self.step().await;
        }
        panic!("the manager does not stop");
    }

    pub(crate) fn github(&self) -> MutexGuard<'_, Simulator> {
        self.github.lock().unwrap()
    }

    pub(crate) fn cloud(&self) -> MutexGuard<'_, FakeCloud> {
        self.cloud.lock().unwrap()
    }

    pub(crate) fn books(&self) -> Books {
        self.cloud().books(self.clock.now()).clone()
    }

    pub(crate) fn queue(&self, spec: &JobSpec, count: usize) {
        let now = self.clock.now();
        for _ in 0..count {
            self.github().queue_job(spec, now).unwrap();
        }
    }

    pub(crate) fn completed(&self) -> u64 {
        self.github().books().jobs.completed
    }

    /// Lets the world go on until `done`, but no longer than `limit`.
    pub(crate) async fn until(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.clock.now() + SignedDuration::try_from(limit).unwrap();
        while !done(self) {
            if self.clock.now() >= end {
                let page = Page::first(20);
                let runners = self.manager.runners(&RunnerFilter::All, &page).await.unwrap();
                let jobs = self.github().books().jobs;
                panic!("not within {limit:?}: {what}; {jobs:?}; {runners:#?}");
            }
            self.step().await;
        }
    }

    pub(crate) async fn pass(&mut self, time: Duration) {
        let end = self.clock.now() + SignedDuration::try_from(time).unwrap();
        while self.clock.now() < end {
            self.step_to(Some(end)).await;
        }
    }

    pub(crate) async fn step(&mut self) {
        self.step_to(None).await;
    }

    pub(crate) async fn step_until(&mut self, end: Timestamp) {
        self.step_to(Some(end)).await;
    }

    async fn step_to(&mut self, end: Option<Timestamp>) {
        settle().await;
        self.steps_at_once += 1;
        assert!(self.steps_at_once < MOST_STEPS_AT_ONCE, "time stands still at {}", self.clock.now());
        while self.machines.try_join_next().is_some() {}
        if self.deliver_webhooks().await || self.deliver_signals().await || self.play_agents() {
            return;
        }
        let due = [self.clock.next_wake(), self.github().next_due(), self.cloud().next_due(), end];
        let agents = self.agents.iter().filter_map(|agent| agent.job.as_ref()).map(|(_, until)| *until);
        let said = self.said.iter().map(|(at, _)| *at);
        let Some(next) = due.into_iter().flatten().chain(agents).chain(said).min() else { return };
        let pause = Duration::try_from(next.duration_since(self.clock.now())).unwrap_or_default();
        if !pause.is_zero() {
            self.steps_at_once = 0;
        }
        self.clock.advance(pause);
        let now = self.clock.now();
        self.cloud().advance(now);
    }

    async fn deliver_webhooks(&mut self) -> bool {
        let due = self.github().deliveries_due(self.clock.now());
        let any = !due.is_empty();
        for delivery in due {
            let now = self.clock.now();
            if delivery.url != WEBHOOK_URL {
                self.github().delivered(delivery.id, None, now);
                continue;
            }
            let signature = delivery.headers.get("x-hub-signature-256").and_then(|value| value.to_str().ok());
            verify(&[Secret::new(SECRET)], &delivery.body, signature).unwrap();
            let status = match parse(delivery.event, &delivery.body).unwrap() {
                Webhook::WorkflowJob(seen) if (self.deliver)(delivery.action.unwrap_or_default()) => {
                    let id = DeliveryId::new(&*delivery.guid);
                    self.manager.observe(&id, &seen).await.unwrap();
                    if matches!(seen.report, JobReport::InProgress { .. }) {
                        let now = self.clock.now();
                        self.told.entry(simulator::JobId(seen.id.0)).or_insert(now);
                    }
                    Some(202)
                }
                Webhook::WorkflowJob(_) => None,
                Webhook::Ping | Webhook::Ignored { .. } => Some(202),
            };
            let now = self.clock.now();
            self.github().delivered(delivery.id, status, now);
        }
        any
    }

    async fn deliver_signals(&mut self) -> bool {
        let now = self.clock.now();
        let (due, on_their_way) = std::mem::take(&mut self.said).into_iter().partition(|(at, _)| *at <= now);
        self.said = on_their_way;
        for (_, signal) in &due {
            self.manager.hear_of_a_job(signal).await.unwrap();
        }
        !due.is_empty()
    }

    fn play_agents(&mut self) -> bool {
        let now = self.clock.now();
        let started = self.cloud().take_started(now);
        let mut any = !started.is_empty();
        for instance in started {
            self.boot(instance, now);
        }
        let has_news = self.github_has_news();
        let mut agents = std::mem::take(&mut self.agents);
        let mut said = Vec::new();
        agents.retain_mut(|agent| {
            let (lives, acted) = self.play(agent, has_news, now, &mut said);
            any |= acted;
            lives
        });
        self.agents = agents;
        if let Some(delay) = self.signals {
            self.said.extend(said.into_iter().map(|signal| (now + delay, signal)));
        }
        any
    }

    /// Whether an idle agent would learn anything if it asked: that there is a job, or that it is removed.
    fn github_has_news(&mut self) -> bool {
        let github = self.github();
        let removed = github.books().runners.removed.values().sum();
        let waits = github.books().jobs.queued > 0;
        drop(github);
        std::mem::replace(&mut self.removed, removed) != removed || waits
    }

    fn boot(&mut self, instance: StartedInstance, now: Timestamp) {
        if self.broken_image {
            return;
        }
        let Bootstrap::Direct { jit_config } = &instance.bootstrap else {
            return self.boot_to_call_back(&instance);
        };
        let connected = self.github().connect(jit_config.expose(), now);
        match connected {
            Ok(session) => {
                let (runner, instance) = (instance.runner, instance.id);
                self.agents.push(Agent { runner, instance, session, asked_at: now, job: None });
            }
            Err(_) => self.cloud().instance_ended(&instance.id, now),
        }
    }

    /// A machine that calls whichever manager runs, and is there as long as its instance.
    fn boot_to_call_back(&mut self, instance: &StartedInstance) {
        let outside = Outside {
            github: self.github.clone(),
            cloud: self.cloud.clone(),
            clock: self.clock.clone(),
            manager: self.door.clone(),
        };
        self.machines.spawn(live(outside, instance.clone(), self.machine));
    }

    /// Whether the agent lives on, and whether it did anything.
    fn play(
        &self,
        agent: &mut Agent,
        has_news: bool,
        now: Timestamp,
        said: &mut Vec<JobSignal>,
    ) -> (bool, bool) {
        let mut github = self.github();
        if !self.cloud().is_running(&agent.instance, now) {
            let _ = github.die(agent.session, now);
            return (false, true);
        }
        match &agent.job {
            Some((job, until)) => {
                let is_cancelled = github.job(job.id).is_some_and(|job| job.cancel_requested);
                if *until > now && !is_cancelled {
                    return (true, false);
                }
                said.push(agent.signal(job, JobMoment::Ends));
                let conclusion = if is_cancelled { Conclusion::Cancelled } else { self.conclusion };
                // Where it lost its session, its job was killed: the books tell.
                let _ = github.finish(agent.session, conclusion, now);
                self.cloud().instance_ended(&agent.instance, now);
                (false, true)
            }
            None if !has_news && now < agent.asked_at + ASKS_EVERY => (true, false),
            None => match github.poll(agent.session, now) {
                Ok(Some(job)) => {
                    said.push(agent.signal(&job, JobMoment::Begins));
                    let until = now + SignedDuration::from_secs(i64::try_from(job.seconds).unwrap());
                    agent.job = Some((job, until));
                    (true, true)
                }
                Ok(None) => {
                    agent.asked_at = now;
                    (true, false)
                }
                Err(_) => {
                    self.cloud().instance_ended(&agent.instance, now);
                    (false, true)
                }
            },
        }
    }

    /// What must be true of any run, by GitHub's and the cloud's own books.
    pub(crate) fn check(&self, max: u64) {
        let books = self.books();
        assert!(books.total.max_alive <= max, "{} instances, at most {max}", books.total.max_alive);
        assert!(books.doubles.is_empty(), "several instances: {:?}", books.doubles);
        assert!(books.repeats.is_empty(), "create called again: {:?}", books.repeats);
        let github = self.github();
        assert!(github.books().violations.is_empty(), "{:?}", github.books().violations);
        assert!(github.books().runs_by_job.values().all(|runs| *runs == 1));
        assert_eq!(github.books().jobs.lost, 0);
    }

    pub(crate) fn is_clean(&self) -> bool {
        let now = self.clock.now();
        self.cloud().books(now).total.alive == 0 && self.github().books().runners.alive == 0
    }
}

/// What a manager of this world works with.
fn parts(
    clock: &Arc<SimulatedClock>,
    github: &SharedSimulator,
    cloud: &Arc<Mutex<FakeCloud>>,
    storage: &Arc<EmbeddedStorage>,
    owner: &Owner,
    seed: u64,
) -> Parts {
    let transport = Arc::new(SimulatorTransport::new(github.clone(), clock.clone()));
    let backend = Arc::new(FakeBackend::in_process(cloud.clone(), clock.clone()));
    Parts {
        owner: owner.clone(),
        storage: storage.clone().into(),
        github: Account::new(Arc::new(RestGitHub::new(transport, clock.clone()))).into(),
        backends: [(self::backend(), ConnectedBackend::new(backend, 32))].into(),
        clock: clock.clone(),
        random: Arc::new(SeededRandom::new(seed)),
        settings: Settings { callback: Some(callback()), ..Settings::default() },
    }
}

/// Machines may call. They are told so by clouds alone that say so.
fn callback() -> Callback {
    let address = CallbackAddress { url: "http://manager".to_owned(), ca: None };
    Callback { key: TokenKey::new(Secret::new("a secret key")), address: Some(address) }
}

/// Has the one account at GitHub be another.
pub(crate) fn change_account(parts: &mut Parts, change: impl FnOnce(&mut Account)) {
    let mut account = parts.github.accounts(&ConnectionName::default())[0].clone();
    change(&mut account);
    parts.github = account.into();
}
