//! One run of a plan from its beginning to its end, and many runs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic;
use std::sync::Once;
use std::time::Duration;

use futures_util::FutureExt;
use runner_manager_core::domain::{Loss, Rerun};
use runner_manager_core::policy::orphans::most_condemned;
use runner_manager_core::store::{JobFilter, Page, Store};
use runner_manager_core::testing::simulator::JobStatus;

use super::foreign;
use super::github_groups;
use super::plan::Plan;
use super::replica::Replica;
use super::shared::{Promise, Violation};
use super::throttle::{is_prompt, overrun};
use super::world::World;

const HOUR: Duration = Duration::from_hours(1);

/// How many seconds a machine may take beside its job.
const PER_MACHINE: u64 = 240;

/// How a run ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) steps: u64,
    pub(crate) struck: BTreeMap<String, u64>,
    pub(crate) honest: BTreeMap<&'static str, u64>,
    pub(crate) lines: Vec<String>,
}

/// Runs a plan in a runtime of its own.
pub(crate) fn run(plan: Plan, with_lines: bool) -> Outcome {
    within_runtime(async move {
        let before = panics();
        let mut world = World::new(plan, with_lines).await;
        let mut result = whole(&mut world).await;
        if panics() > before {
            result = Err(Violation {
                promise: Promise::NothingLost,
                what: "something panicked: see above".into(),
            });
        }
        outcome(&world, result.err())
    })
}

/// Runs something in a runtime whose clock moves on only when every task waits.
pub(crate) fn within_runtime<T>(task: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(task)
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has panicked: a worker that does is caught by the manager itself, and must not go
/// unseen.
pub(crate) fn panics() -> u64 {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            PANICS.set(PANICS.get() + 1);
            usual(what);
        }));
    });
    PANICS.get()
}

/// Trouble, then quiet, then the end.
async fn whole(world: &mut World) -> Result<(), Violation> {
    world.pass(world.plan.trouble).await?;
    world.be_quiet();
    world.come_to_the_end().await
}

fn all_completed(world: &World) -> bool {
    let jobs = world.shared.github().books().jobs;
    jobs.completed == jobs.total
}

fn outcome(world: &World, violation: Option<Violation>) -> Outcome {
    let mut struck = world.shared.state().struck.clone();
    for (fault, count) in &world.books().faults {
        *struck.entry(format!("cloud: {fault}")).or_default() += count;
    }
    for (fault, count) in &world.shared.github().books().faults {
        *struck.entry(format!("github: {fault:?}")).or_default() += count;
    }
    let state = world.shared.state();
    let mut honest = state.honest.clone();
    honest.insert("a lie that promise 1 does not cover", state.checker.best_effort);
    Outcome {
        violation,
        hash: state.trace.hash(),
        events: state.trace.events(),
        steps: world.steps,
        struck,
        honest,
        lines: state.trace.lines().to_vec(),
    }
}

impl World {
    /// Nothing goes wrong any more: every job runs, all of ours goes, and the books are right.
    pub(crate) async fn come_to_the_end(&mut self) -> Result<(), Violation> {
        // The smallest group runs its jobs one after the other, each on a machine of its own.
        let left: u64 = {
            let github = self.shared.github();
            let open = github.jobs().filter(|job| job.status != JobStatus::Completed);
            open.map(|job| job.seconds + PER_MACHINE).sum()
        };
        let limit = 2 * HOUR + Duration::from_secs(left);
        self.until(Promise::EveryJob, "every job has run", limit, all_completed).await?;
        let settled = |world: &Self| world.reruns_are_settled() && all_completed(world);
        self.until(Promise::EveryJob, "every lost job was run again, or it is said why not", limit, settled)
            .await?;
        let is_over = |world: &Self| {
            world.left().next().is_none() || !world.plan.is_watched && world.an_operator_is_asked()
        };
        self.until(Promise::NothingLeft, "nothing is left", 2 * HOUR, is_over).await?;
        if self.left().next().is_some() {
            self.shared.state().admit("a sweep that stopped at too many orphans and asked an operator");
        }
        if github_groups::is_managed(&self.plan.groups) {
            let is_mended = |world: &Self| world.shared.state().checker.groups.is_as_configured();
            self.until(Promise::EveryJob, "GitHub's group is as configured", HOUR, is_mended).await?;
            if let Some(what) = github_groups::differs(&self.shared) {
                return Err(Violation { promise: Promise::EveryJob, what });
            }
        }
        self.until(Promise::NothingLost, "failed webhooks were redelivered", 3 * HOUR, |world| {
            world.forgotten_webhooks().is_empty()
        })
        .await?;
        self.at_the_end().await
    }

    /// The webhooks that failed and that GitHub was never asked for again.
    fn forgotten_webhooks(&self) -> Vec<String> {
        let github = self.shared.github();
        let state = self.shared.state();
        let neglected = github.neglected(state.checker.redeliveries.read_since());
        let forgotten = state.checker.redeliveries.forgotten(neglected.into_iter());
        forgotten.into_iter().map(str::to_owned).collect()
    }

    /// Whether no job on record is still to be run again.
    fn reruns_are_settled(&self) -> bool {
        let all = Page::first(1_000);
        let jobs = self.shared.storage.jobs(&JobFilter::All, &all).now_or_never();
        let jobs = jobs.expect("a storage in memory answers at once").unwrap();
        let is_wanted = |loss: &Loss| matches!(loss.rerun, Rerun::Wanted { .. });
        !jobs.iter().any(|job| job.value.lost.as_deref().is_some_and(is_wanted))
    }

    /// Whether sweeps stopped, as promise 4 has them: nothing is on record, no machine is there, and the
    /// registrations that are left are more than one sweep may condemn.
    fn an_operator_is_asked(&self) -> bool {
        let left: Vec<String> = self.left().collect();
        let registrations = left.iter().filter(|left| left.starts_with("registration")).count();
        let groups =
            self.shared.storage.groups().now_or_never().expect("a storage in memory answers at once");
        let recorded: u32 = groups.unwrap().iter().map(|group| group.counts.alive()).sum();
        let says_so = |replica: &Replica| {
            replica.manager().is_some_and(|manager| !manager.statistics().snapshot().sweeps_held.is_empty())
        };
        registrations > most_condemned(registrations)
            && registrations == left.len()
            && recorded == 0
            && self.replicas.iter().any(says_so)
    }

    /// What must be true once all is over.
    async fn at_the_end(&self) -> Result<(), Violation> {
        use runner_manager_core::queue::TaskQueue;
        let dead = self.shared.storage.dead(10).await.unwrap();
        let broken = |promise, what: String| Err(Violation { promise, what });
        if !dead.is_empty() {
            return broken(Promise::NothingLost, format!("tasks were given up: {dead:?}"));
        }
        let missing = foreign::missing(&self.shared, self.plan.unused_registration.is_none());
        if !missing.is_empty() {
            return broken(Promise::NothingLeft, format!("foreign things are gone: {missing:?}"));
        }
        let books = self.books();
        if !books.doubles.is_empty() || !books.repeats.is_empty() {
            return broken(Promise::OneInstance, format!("{:?} {:?}", books.doubles, books.repeats));
        }
        let throttle = &self.plan.throttle;
        if is_prompt(&self.plan)
            && let Some(what) = overrun(throttle, &books, &self.shared.owner)
        {
            return broken(Promise::Limits, what);
        }
        let github = self.shared.github();
        if let Some((job, runs)) = github.books().runs_by_job.iter().find(|(_, runs)| **runs > 1) {
            return broken(Promise::EveryJob, format!("job {job} was run {runs} times"));
        }
        for job in github.jobs().filter(|job| job.lost) {
            let runner = job.runner.as_ref().map(|runner| runner.name.as_str()).unwrap_or_default();
            let life = books.lives.iter().find(|life| life.runner.as_str() == runner);
            let ended_by_itself = life.is_some_and(|life| life.ended.is_some());
            if !ended_by_itself && self.shared.state().checker.best_effort == 0 {
                return broken(Promise::RunningJobs, format!("job {} was lost with {runner}", job.id));
            }
        }
        self.no_secret_is_stored()
    }

    fn no_secret_is_stored(&self) -> Result<(), Violation> {
        let snapshot = self.shared.storage.snapshot().expect("the storage is in memory");
        let state = self.shared.state();
        match state.checker.secrets().iter().find(|secret| snapshot.contains(secret.as_bytes())) {
            Some(_) => Err(Violation {
                promise: Promise::Secrets,
                what: "the store has a secret in clear".to_owned(),
            }),
            None => Ok(()),
        }
    }
}
