//! A whole deployment in one thread: replicas of the real manager, one storage in memory, the GitHub simulator,
//! a fake cloud, and agents on its instances.
//!
//! Time stands still until nobody has anything left to do, and then goes on to the next thing that is due.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_backends::fake::{Books, FakeCloud};
use runner_manager_core::clock::{Clock, SimulatedClock};
use runner_manager_core::domain::{DeploymentName, Owner, RunnerGroup, Secret, later};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::manager::Manager;
use runner_manager_core::testing::simulator::{self, DEFAULT_TOKEN, Simulator};
use tokio::task::JoinSet;

use super::agents::Agents;
use super::checker::Checker;
use super::dice::Dice;
use super::faults::Process;
use super::foreign;
use super::github_groups;
use super::groups;
use super::ledger::Ledger;
use super::limits::Asked;
use super::machines::{MachineFaults, Machines};
use super::plan::{AllChances, Calm, Happening, Plan};
use super::replica::{Replica, parts};
use super::shared::{Kept, Promise, Shared, State, Violation};
use super::signals::Signals;
use super::survey::Survey;
use super::trace::{Trace, Who};
use super::webhooks::{SECRET, WEBHOOK_URL, Webhooks};

pub(crate) const SECRET_KEY: &str = "the secret key of the deployment";

/// For how many minutes of quiet an operator looks every minute what sweeps stopped at.
const WATCHED_FOR: u64 = 180;

/// One run's world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) shared: Arc<Shared>,
    pub(crate) plan: Plan,
    /// The groups in the file that a replica reads when it starts.
    pub(crate) file: Vec<RunnerGroup>,
    pub(crate) replicas: Vec<Replica>,
    /// Whoever configures and drains: the real manager, by a way that does not fail.
    pub(crate) operator: Manager,
    pub(crate) agents: Agents,
    pub(crate) webhooks: Webhooks,
    pub(crate) signals: Signals,
    pub(crate) machines: Machines,
    pub(crate) dice: Dice,
    operations: JoinSet<()>,
    happenings: VecDeque<(Timestamp, Happening)>,
    survey: Survey,
    /// The store as it was at a moment.
    pub(crate) kept: Option<Kept>,
    pub(crate) is_quiet: bool,
    pub(crate) steps: u64,
}

impl World {
    pub(crate) async fn new(plan: Plan, with_lines: bool) -> Self {
        let began = "2026-01-01T00:00:00Z".parse().unwrap();
        let shared = shared(&plan, began, with_lines);
        let process = Arc::new(Process::new(shared.clone(), plan.replicas(), plan.lease).without_trouble());
        let operator = Manager::new(parts(&process, &plan, 0, plan.seed));
        let dice = Dice::new(plan.seed).fork("world");
        let mut replicas = Vec::new();
        for (number, skew) in plan.skews.iter().enumerate() {
            replicas.push(Replica::new(number, *skew, began));
        }
        let happenings = plan.happenings.iter();
        let world = Self {
            agents: Agents::new(dice.fork("agents"), plan.broken_agents),
            webhooks: Webhooks::new(dice.fork("webhooks"), plan.lost_webhooks),
            signals: Signals::new(dice.fork("signals"), plan.signals),
            machines: Machines::new(dice.fork("machines"), plan.machines),
            happenings: happenings.map(|(after, what)| (later(began, *after), what.clone())).collect(),
            survey: Survey::new(began),
            kept: None,
            shared,
            file: plan.groups.clone(),
            plan,
            replicas,
            operator,
            dice,
            operations: JoinSet::new(),
            is_quiet: false,
            steps: 0,
        };
        foreign::put(&world.shared).await;
        if github_groups::is_managed(&world.plan.groups) {
            github_groups::put_others(&world.shared);
        }
        world
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.shared.now()
    }

    pub(crate) fn books(&self) -> Books {
        self.shared.cloud().books(self.now()).clone()
    }

    /// Lets the world go on until `done`.
    ///
    /// # Errors
    /// The first promise that is broken on the way; `promise` if it takes longer than `limit`.
    pub(crate) async fn until(
        &mut self,
        promise: Promise,
        what: &str,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), Violation> {
        let end = later(self.now(), limit);
        while !done(self) {
            if self.now() >= end {
                let state = self.describe().await;
                self.shared.state().checker.broken(promise, format!("not within {limit:?}: {what}; {state}"));
            }
            self.step(Some(end)).await?;
        }
        Ok(())
    }

    /// Lets some time pass.
    ///
    /// # Errors
    /// The first promise that is broken on the way.
    pub(crate) async fn pass(&mut self, time: Duration) -> Result<(), Violation> {
        let end = later(self.now(), time);
        while self.now() < end {
            self.step(Some(end)).await?;
        }
        Ok(())
    }

    /// Nothing goes wrong from here on: all groups are as they were at first, without idle runners, and every
    /// replica is started anew with them.
    pub(crate) fn be_quiet(&mut self) {
        self.is_quiet = true;
        self.happenings.clear();
        if self.plan.is_watched {
            let looks = (1..WATCHED_FOR).map(|minute| later(self.now(), Duration::from_mins(minute)));
            self.happenings = looks.map(|at| (at, Happening::GoOn)).collect();
        }
        self.shared.note(Who::World, "quiet", "", String::new);
        self.shared.state().chances = AllChances::default();
        self.shared.github().set_faults(simulator::Faults::default());
        let calm = self.shared.cloud().behaviour().clone().calm();
        self.shared.cloud().set_behaviour(calm);
        (self.agents.broken, self.webhooks.lost) = (0, 0);
        self.machines.faults = MachineFaults::default();
        for group in self.plan.groups.clone() {
            self.operate(move |operator| async move {
                operator.resume(&group.name).await.unwrap();
            });
        }
        // Somebody changes the file for good and has every replica start anew.
        self.file = groups::without_idle(&self.plan.groups);
        self.replicas.iter().for_each(Replica::stop);
    }

    /// An operator does something, which may take its time.
    pub(crate) fn operate<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        what: impl FnOnce(Manager) -> F,
    ) {
        self.operations.spawn(what(self.operator.clone()));
    }

    /// Lets everything happen that is due, and then time pass until the next thing is, or until `end`.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub(crate) async fn step(&mut self, end: Option<Timestamp>) -> Result<(), Violation> {
        self.steps += 1;
        settle().await;
        if self.everything_due().await {
            return self.verdict();
        }
        self.check().await;
        self.verdict()?;
        let Some(next) = self.next_due().into_iter().chain(end).min() else { return Ok(()) };
        let pause = Duration::try_from(next.duration_since(self.now())).unwrap_or_default();
        self.shared.clock.advance(pause);
        let now = self.now();
        self.shared.cloud().advance(now);
        Ok(())
    }

    fn verdict(&self) -> Result<(), Violation> {
        self.shared.violation().map_or(Ok(()), Err)
    }

    fn next_due(&self) -> Option<Timestamp> {
        let own = [
            self.shared.clock.next_wake(),
            self.shared.github().next_due(),
            self.shared.cloud().next_due(),
            self.agents.next_due(),
            self.webhooks.next_due(),
            self.signals.next_due(),
            self.machines.next_due(),
            self.happenings.front().map(|(at, _)| *at),
        ];
        let replicas = self.replicas.iter().filter_map(Replica::next_due);
        own.into_iter().flatten().chain(replicas).min()
    }

    /// Whether anything happened.
    async fn everything_due(&mut self) -> bool {
        let mut any = self.tend_replicas().await;
        any |= self.webhooks.deliver(&self.shared, &mut self.replicas);
        any |= self.signals.deliver(&self.shared, &mut self.replicas);
        any |= self.happen();
        any |= self.agents.play(&self.shared, &mut self.signals);
        any |= self.machines.play(&self.shared, &mut self.replicas, &mut self.agents);
        while self.operations.try_join_next().is_some() {}
        any
    }

    async fn tend_replicas(&mut self) -> bool {
        let mut any = false;
        for at in 0..self.replicas.len() {
            let pause = self.dice.seconds(1, 30);
            let (did, ended) = self.replicas[at].tend(&self.shared, &self.plan, &self.file, pause).await;
            any |= did;
            if ended {
                self.webhooks.replica_ended(&self.shared, at);
            }
        }
        any
    }

    fn happen(&mut self) -> bool {
        let now = self.now();
        let mut any = false;
        while self.happenings.front().is_some_and(|(at, _)| *at <= now) {
            let (_, happening) = self.happenings.pop_front().expect("there is a first");
            self.let_happen(happening);
            any = true;
        }
        any
    }

    /// What is looked at between two steps: the queue each time, the records now and then.
    async fn check(&mut self) {
        let now = self.now();
        {
            let mut state = self.shared.state();
            let state = &mut *state;
            state.ledger.end_leases(now);
            state.checker.nothing_is_withheld(&state.ledger, now);
        }
        let somebody_works = self.replicas.iter().any(|replica| replica.manager().is_some());
        self.survey.look(&self.shared, &self.operator, &self.plan, self.is_quiet, somebody_works).await;
    }

    /// Where things stand, for people.
    async fn describe(&self) -> String {
        let jobs = self.shared.github().books().jobs;
        let runners = self.survey.runners(&self.shared).await;
        let mut names: Vec<String> = Vec::new();
        for runner in &runners {
            names.push(format!("{} {:?}", runner.name, runner.state));
        }
        let oldest = self.shared.state().ledger.oldest(self.now()).map(|(key, age)| format!("{key} {age:?}"));
        let left: Vec<String> = self.left().collect();
        format!("{jobs:?}; runners {names:?}; left {left:?}; due longest {oldest:?}")
    }

    /// What there is of ours outside.
    pub(crate) fn left(&self) -> impl Iterator<Item = String> {
        let books = self.books();
        let github = self.shared.github();
        let label = self.shared.owner.label();
        let ours =
            books.lives.into_iter().filter(|life| life.owner == self.shared.owner && life.gone_at.is_none());
        let instances: Vec<String> = ours.map(|life| format!("instance of {}", life.runner)).collect();
        let marked = github
            .runners()
            .filter(|runner| runner.labels.iter().any(|own| own.eq_ignore_ascii_case(&label)));
        let registrations: Vec<String> =
            marked.map(|runner| format!("registration {}", runner.name)).collect();
        instances.into_iter().chain(registrations)
    }
}

/// A story that fails shows what came before.
impl Drop for World {
    fn drop(&mut self) {
        const MOST: usize = 60;
        if std::thread::panicking() {
            let state = self.shared.state();
            let lines = state.trace.lines();
            let wanted = std::env::var("SIM_LINES").ok().and_then(|most| most.parse().ok()).unwrap_or(MOST);
            println!("{}", lines[lines.len().saturating_sub(wanted)..].join("\n"));
        }
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

fn shared(plan: &Plan, began: Timestamp, with_lines: bool) -> Arc<Shared> {
    let clock = Arc::new(SimulatedClock::new(began));
    let mut settings = simulator::Settings {
        seed: plan.seed,
        faults: plan.github.clone(),
        tokens: vec![DEFAULT_TOKEN.to_owned(), github_groups::TOKEN.to_owned()],
        ..simulator::Settings::default()
    };
    if let Some(time) = plan.unused_registration {
        settings.timings.unused_registration = time;
    }
    if let Some(time) = plan.lost_runner {
        settings.timings.lost_runner = time;
    }
    let mut github = Simulator::new(settings);
    for scope in
        [simulator::Scope::Organization("acme".into()), simulator::Scope::Repository("beta/tool".into())]
    {
        github.add_hook(&scope, WEBHOOK_URL, SECRET, clock.now());
    }
    let state = State {
        trace: Trace::new(began, with_lines),
        checker: Checker::new(&[SECRET, SECRET_KEY, DEFAULT_TOKEN]),
        ledger: Ledger::default(),
        chances: plan.chances,
        chaos: Dice::new(plan.seed).fork("chaos"),
        crashes_left: plan.most_crashes,
        freezes_left: plan.most_freezes,
        lost_at: None,
        struck: [].into(),
        honest: [].into(),
    };
    let quotas = [
        (Asked::GitHub, plan.github_quota),
        (Asked::GitHubAsApp, plan.github_quota),
        (Asked::Backend, plan.cloud_quota),
    ];
    let mut state = state;
    state.checker.limits.most =
        quotas.into_iter().filter_map(|(asked, quota)| Some((asked, quota.concurrent?))).collect();
    let owner = Owner::new(DeploymentName::new("rm").unwrap(), &Secret::new(SECRET_KEY));
    Arc::new(Shared::new(
        clock.clone(),
        Arc::new(Mutex::new(github)),
        Arc::new(Mutex::new(FakeCloud::new(plan.cloud.clone()))),
        Arc::new(EmbeddedStorage::in_memory(clock)),
        owner,
        state,
    ))
}
