//! One replica: the real manager behind wrappers that may fail, started, stopped, killed and frozen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runner_manager_backends::fake::FakeBackend;
use runner_manager_core::domain::{RunnerGroup, Secret, TokenKey, later};
use runner_manager_core::manager::{
    Account, Callback, CallbackAddress, ConnectedBackend, Manager, Parts, Settings, Storage,
};
use runner_manager_core::random::SeededRandom;
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::testing::simulated::SimulatorTransport;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::faults::backend::FaultyBackend;
use super::faults::github::FaultyGitHub;
use super::faults::queue::{FaultyBudgets, FaultyQueue};
use super::faults::store::FaultyStore;
use super::faults::{Process, SkewedClock};
use super::groups;
use super::plan::Plan;
use super::shared::Shared;
use super::throttle;
use super::trace::Who;
use super::webhooks::WEBHOOK_URL;
use super::world::SECRET_KEY;

/// What a manager works with whose every call goes through a process.
pub(crate) fn parts(process: &Arc<Process>, plan: &Plan, skew: i64, seed: u64) -> Parts {
    let shared = &process.shared;
    let clock = Arc::new(SkewedClock { process: process.clone(), skew: SignedDuration::from_millis(skew) });
    let transport = Arc::new(SimulatorTransport::new(shared.github.clone(), shared.clock.clone()));
    let github = RestGitHub::new(transport, clock.clone());
    let throttle = throttle::as_known(&plan.throttle, seed);
    let cloud = FakeBackend::in_process(shared.cloud.clone(), shared.clock.clone());
    let backend = Arc::new(FaultyBackend { process: process.clone(), inner: cloud, throttle });
    let github = Arc::new(FaultyGitHub { process: process.clone(), inner: github });
    let account =
        Account { quota: plan.github_quota, registrations: plan.registrations, ..Account::new(github) };
    Parts {
        owner: shared.owner.clone(),
        storage: Storage {
            store: Arc::new(FaultyStore(process.clone())),
            queue: Arc::new(FaultyQueue(process.clone())),
            budgets: Arc::new(FaultyBudgets(process.clone())),
        },
        github: account.into(),
        backends: [(
            groups::backend(),
            ConnectedBackend { quota: plan.cloud_quota, ..ConnectedBackend::new(backend, 8) },
        )]
        .into(),
        clock,
        random: Arc::new(SeededRandom::new(seed)),
        settings: Settings {
            sweep_interval: plan.sweep_interval,
            recover_interval: plan.sweep_interval * 2,
            redeliver_interval: Some(plan.sweep_interval / 2),
            webhook_url: Some(WEBHOOK_URL.to_owned()),
            lease: plan.lease,
            call_timeout: plan.call_timeout,
            stop_within: Duration::from_secs(15),
            heartbeat: Duration::from_secs(15),
            callback: Some(callback()),
            ..Settings::default()
        },
    }
}

/// How machines call, whose cloud lets them.
fn callback() -> Callback {
    let address = CallbackAddress { url: "http://manager".to_owned(), ca: None };
    Callback { key: TokenKey::new(Secret::new(SECRET_KEY)), address: Some(address) }
}

/// A process that runs.
#[derive(Debug)]
struct Life {
    process: Arc<Process>,
    manager: Manager,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    stopped: Arc<AtomicBool>,
}

/// One replica over all its lives.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) number: usize,
    skew: i64,
    lives: u64,
    life: Option<Life>,
    starts_at: Option<Timestamp>,
}

impl Replica {
    pub(crate) const fn new(number: usize, skew: i64, starts_at: Timestamp) -> Self {
        Self { number, skew, lives: 0, life: None, starts_at: Some(starts_at) }
    }

    /// When it changes by itself.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.starts_at.or_else(|| self.life.as_ref()?.process.frozen_until())
    }

    /// Its manager, where it runs and would answer.
    pub(crate) fn manager(&self) -> Option<Manager> {
        let life = self.life.as_ref()?;
        let answers = !life.process.is_dead() && !life.process.is_frozen() && !life.stop.is_cancelled();
        answers.then(|| life.manager.clone())
    }

    /// Has the process do something beside its own work, and dies with it.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(life) = &mut self.life {
            life.tasks.spawn(task);
        }
    }

    pub(crate) fn freeze(&self, pause: Duration) {
        if let Some(life) = &self.life {
            life.process.freeze(pause);
        }
    }

    pub(crate) fn kill(&self) {
        if let Some(life) = &self.life {
            life.process.die();
        }
    }

    pub(crate) fn stop(&self) {
        if let Some(life) = &self.life {
            life.stop.cancel();
        }
    }

    /// Lets happen what its time has come for; tells whether anything did, and whether a process ended.
    pub(crate) async fn tend(
        &mut self,
        shared: &Arc<Shared>,
        plan: &Plan,
        file: &[RunnerGroup],
        pause: Duration,
    ) -> (bool, bool) {
        let now = shared.now();
        let who = Who::Replica(self.number);
        if let Some(life) = &mut self.life {
            if life.process.thaw(now) {
                shared.note(who, "process", "thawed", String::new);
                return (true, false);
            }
            let crashed = life.process.is_dead();
            if crashed || life.stopped.load(Ordering::Relaxed) {
                shared.note(who, "process", if crashed { "crashed" } else { "stopped" }, String::new);
                life.process.die();
                let mut tasks = std::mem::take(&mut life.tasks);
                tasks.abort_all();
                while tasks.join_next().await.is_some() {}
                shared.state().checker.limits.gone(self.number);
                self.life = None;
                self.starts_at = Some(later(now, pause));
                return (true, true);
            }
        }
        if self.starts_at.is_some_and(|at| at <= now) {
            self.start(shared, plan, file);
            return (true, false);
        }
        (false, false)
    }

    fn start(&mut self, shared: &Arc<Shared>, plan: &Plan, file: &[RunnerGroup]) {
        self.starts_at = None;
        self.lives += 1;
        shared.note(Who::Replica(self.number), "process", "started", String::new);
        let process = Arc::new(Process::new(shared.clone(), self.number, plan.lease));
        let seed = plan.seed ^ ((self.number as u64 + 1) << 32) ^ self.lives;
        let manager = Manager::new(parts(&process, plan, self.skew, seed));
        let (stop, stopped) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        let (running, token, done) = (manager.clone(), stop.clone(), stopped.clone());
        let file = file.to_vec();
        tasks.spawn(async move {
            // A process that cannot take its configuration ends, and whoever looks after it starts it anew.
            if running.configure(file).await.is_ok() {
                running.run(token).await;
            }
            done.store(true, Ordering::Relaxed);
        });
        self.life = Some(Life { process, manager, tasks, stop, stopped });
    }
}
