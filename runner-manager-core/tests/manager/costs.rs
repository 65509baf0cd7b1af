//! What a job costs from its webhook to the end of its runner, counted: operations of the store and of the queue, and how
//! much is read and written. Beside ten other runners and beside a hundred thousand it is the same. What a reconcile costs
//! in a group of a hundred runners and in one of a hundred thousand: the same, too. And what a heartbeat costs of a machine
//! that has nothing new to tell.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager_backends::fake::Behaviour;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{
    BackendName, EndedRunner, GroupName, HookPlace, HookRecord, InstanceId, JobId, JobState, Labels,
    OperationId, RunId, Runner, RunnerName, RunnerState, WorkflowJob,
};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::manager::{Parts, Pulse, Reply, Storage};
use runner_manager_core::queue::{
    Claim, ClaimToken, DeadTask, Lane, NewTask, QueueStatistics, Task, TaskQueue,
};
use runner_manager_core::store::{
    Applied, Change, DeploymentView, Expected, GroupView, JobFilter, Page, RunnerFilter, Store, StoreError,
    Versioned, Write,
};

use crate::callback::caller;
use crate::reconcile::reconcile;
use crate::world::{World, group, name, spec};
use crate::{HOUR, MINUTE, linux};

/// What goes on without jobs: every replica keeps its place in the deployment's record.
const KEPT: &str = "apply, of the deployment";
const READ: &str = "deployment";

/// A claim that waited in vain.
const IN_VAIN: &str = "claim, of nothing";

/// How often, and how much was read or written by that, as it prints.
#[derive(Debug, Default)]
struct Asked {
    times: usize,
    bytes: usize,
}

/// What was asked of a storage.
#[derive(Debug, Default)]
struct Cost {
    operations: BTreeMap<&'static str, Asked>,
    /// What the storage looked up, stepped over or wrote.
    entries: u64,
    /// The tasks that were ended by themselves.
    acknowledged: Vec<String>,
}

impl Cost {
    /// How often each was asked that found something.
    fn times(&self) -> BTreeMap<&'static str, usize> {
        let asked = self.operations.iter().filter(|(operation, _)| **operation != IN_VAIN);
        asked.map(|(operation, asked)| (*operation, asked.times)).collect()
    }

    /// The same as another one. Only the numbers of runners may be longer, and the deployment's record may tell more.
    #[track_caller]
    fn assert_same(&self, other: &Self) {
        assert!(self.operations.keys().eq(other.operations.keys()), "{self:?}, {other:?}");
        for (operation, one) in &self.operations {
            let other = &other.operations[operation];
            assert_eq!(one.times, other.times, "{operation}");
            let same = one.bytes.abs_diff(other.bytes) <= 32 || [KEPT, READ].contains(operation);
            assert!(same, "{operation}: {} and {} bytes", one.bytes, other.bytes);
        }
        assert_eq!(self.entries, other.entries);
    }
}

/// A storage that counts.
#[derive(Debug)]
struct Counted {
    inner: Arc<EmbeddedStorage>,
    cost: Mutex<Cost>,
}

impl Counted {
    fn note<T: Debug>(&self, operation: &'static str, told: T) -> T {
        let mut cost = self.cost.lock().unwrap();
        let asked = cost.operations.entry(operation).or_default();
        asked.times += 1;
        asked.bytes += format!("{told:?}").len();
        drop(cost);
        told
    }

    /// Counts anew.
    fn begin(&self) {
        let entries = self.inner.storage_statistics().entries;
        *self.cost.lock().unwrap() = Cost { entries, ..Cost::default() };
    }

    /// What was counted since it began.
    fn end(&self) -> Cost {
        let cost = std::mem::take(&mut *self.cost.lock().unwrap());
        Cost { entries: self.inner.storage_statistics().entries - cost.entries, ..cost }
    }
}

#[async_trait]
impl Store for Counted {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.inner.now().await
    }

    async fn deployment(&self) -> Result<DeploymentView, StoreError> {
        self.note(READ, self.inner.deployment().await)
    }

    async fn apply(&self, write: Write) -> Result<Applied, StoreError> {
        let deployment = write.changes.iter().any(|change| matches!(change, Change::PutDeployment { .. }));
        self.note(if deployment { KEPT } else { "apply" }, &write);
        self.inner.apply(write).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<GroupView>, StoreError> {
        self.note("group", self.inner.group(name).await)
    }

    async fn groups(&self) -> Result<Vec<GroupView>, StoreError> {
        self.note("groups", self.inner.groups().await)
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Versioned<Runner>>, StoreError> {
        self.note("runner", self.inner.runner(name).await)
    }

    async fn runners(
        &self,
        filter: &RunnerFilter,
        page: &Page<RunnerName>,
    ) -> Result<Vec<Versioned<Runner>>, StoreError> {
        self.note("runners", self.inner.runners(filter, page).await)
    }

    async fn job(&self, id: JobId) -> Result<Option<Versioned<WorkflowJob>>, StoreError> {
        self.note("job", self.inner.job(id).await)
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        page: &Page<JobId>,
    ) -> Result<Vec<Versioned<WorkflowJob>>, StoreError> {
        self.note("jobs", self.inner.jobs(filter, page).await)
    }

    async fn hook(&self, place: &HookPlace) -> Result<Option<Versioned<HookRecord>>, StoreError> {
        self.note("hook", self.inner.hook(place).await)
    }

    async fn hooks(&self) -> Result<Vec<Versioned<HookRecord>>, StoreError> {
        self.note("hooks", self.inner.hooks().await)
    }

    async fn ended_runners(&self, limit: usize) -> Result<Vec<EndedRunner>, StoreError> {
        self.note("ended_runners", self.inner.ended_runners(limit).await)
    }
}

#[async_trait]
impl TaskQueue for Counted {
    async fn push(&self, tasks: Vec<NewTask>) -> Result<(), StoreError> {
        self.note("push", &tasks);
        self.inner.push(tasks).await
    }

    async fn claim(
        &self,
        lane: &Lane,
        most: usize,
        bound: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        let claims = self.inner.claim(lane, most, bound, lease, wait).await;
        let found = claims.as_ref().is_ok_and(|claims| !claims.is_empty());
        self.note(if found { "claim" } else { IN_VAIN }, claims)
    }

    async fn extend(&self, token: &ClaimToken, lease: Duration) -> Result<Timestamp, StoreError> {
        self.note("extend", self.inner.extend(token, lease).await)
    }

    async fn ack(&self, token: &ClaimToken) -> Result<(), StoreError> {
        self.cost.lock().unwrap().acknowledged.push(token.key.clone());
        self.note("ack", self.inner.ack(token).await)
    }

    async fn retry(&self, token: &ClaimToken, when: Timestamp, reason: &str) -> Result<(), StoreError> {
        self.note("retry", self.inner.retry(token, when, reason).await)
    }

    async fn release(&self, token: &ClaimToken) -> Result<(), StoreError> {
        self.note("release", self.inner.release(token).await)
    }

    async fn bury(&self, token: &ClaimToken, reason: &str) -> Result<(), StoreError> {
        self.note("bury", self.inner.bury(token, reason).await)
    }

    async fn dead(&self, limit: usize) -> Result<Vec<DeadTask>, StoreError> {
        self.note("dead", self.inner.dead(limit).await)
    }

    async fn revive(&self, key: &str) -> Result<bool, StoreError> {
        self.note("revive", self.inner.revive(key).await)
    }

    async fn statistics(&self) -> Result<QueueStatistics, StoreError> {
        self.note("statistics", self.inner.statistics().await)
    }
}

/// Puts so many runners on record like this one, each with its instance.
async fn fill(storage: &EmbeddedStorage, like: &Runner, count: usize) {
    let adopted = |number| Runner {
        name: RunnerName::new(format!("{}-{number:08}", like.group)).unwrap(),
        instance: Some(InstanceId::new(format!("i-{number:08}"))),
        ..like.clone()
    };
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(500) {
        let changes = some.iter().map(|number| Change::AdoptRunner { runner: adopted(*number) }).collect();
        let operation = OperationId::new(format!("fill-{}", some[0]));
        let write =
            Write { operation, claim: None, ends_claim: false, on_trust: false, changes, tasks: Vec::new() };
        storage.apply(write).await.unwrap();
    }
}

/// A world whose manager is gone, and the one runner that there is: of a group beside `linux`.
async fn world_with_a_runner() -> (World, Runner) {
    let crowd = group("crowd", &["other"], 1, 200_000, &["zone-a"]);
    let mut world = World::new(vec![linux(0, 200_000), crowd], Behaviour::default()).await;
    world.pass(MINUTE).await;
    // In order it would stop after a day, when what it did on the first one is forgotten write by write.
    world.crash().await;
    let runner = world.storage.runners(&RunnerFilter::All, &Page::first(1)).await.unwrap().remove(0).value;
    (world, runner)
}

/// A manager starts whose storage is counted, and looks after nothing but what it is told.
fn start_counted(world: &mut World, change: fn(&mut Parts)) -> Arc<Counted> {
    let counted = Arc::new(Counted { inner: world.storage.clone(), cost: Mutex::default() });
    let shared = counted.clone();
    world.adjust = Box::new(move |parts| {
        (parts.storage.store, parts.storage.queue) = (shared.clone(), shared.clone());
        parts.settings.sweep_dry_run = true;
        (parts.settings.sweep_interval, parts.settings.recover_interval) = (24 * HOUR, 24 * HOUR);
        change(parts);
    });
    world.start();
    counted
}

/// What a job costs beside so many runners of another group, which nobody but the records knows of.
async fn cost_beside(others: usize) -> Cost {
    let (mut world, like) = world_with_a_runner().await;
    fill(&world.storage, &Runner { state: RunnerState::Busy { job: None }, ..like }, others).await;
    let counted = start_counted(&mut world, |_| ());
    // What comes with a start is over.
    world.pass(10 * MINUTE).await;
    counted.begin();
    world.queue(&spec(&["large"]), 1);
    world.until("the job has run", 5 * MINUTE, |world| world.completed() == 1).await;
    world.pass(2 * MINUTE).await;
    assert_eq!(world.books().lives.len(), 2, "one for the job, one that the crowd keeps");
    counted.end()
}

#[tokio::test]
async fn a_job_costs_the_same_beside_ten_runners_and_beside_a_hundred_thousand() {
    let few = cost_beside(10).await;
    let many = cost_beside(100_000).await;
    println!("beside 10 runners {few:?}, beside 100,000 {many:?}");
    few.assert_same(&many);
}

/// What one reconcile of a group costs that has so many runners in this state: as the manager asks it, and as those do who
/// measure that alone.
async fn costs_of_a_reconcile(runners: usize, state: RunnerState, jobs: u64) -> [Cost; 2] {
    let (mut world, like) = world_with_a_runner().await;
    // Nobody brings up what is made.
    world.groups[0].placements[0].backend = BackendName::new("elsewhere").unwrap();
    let counted = start_counted(&mut world, |parts| {
        (parts.settings.heartbeat, parts.settings.redeliver_interval) = (24 * HOUR, None);
    });
    world.pass(10 * MINUTE).await;
    let like = Runner { group: name("linux"), since: world.clock.now(), state, ..like };
    fill(&world.storage, &like, runners).await;
    ask_for_a_reconcile(&world.storage, "the manager", 0..jobs).await;
    counted.begin();
    world.pass(Duration::from_secs(1)).await;
    let by_the_manager = counted.end();
    world.crash().await;
    ask_for_a_reconcile(&world.storage, "the others", jobs..2 * jobs).await;
    counted.begin();
    let storage = Storage { store: counted.clone(), queue: counted.clone(), budgets: world.storage.clone() };
    let fresh = Runner { name: RunnerName::new("linux-fresh").unwrap(), ..like };
    let fresh = Runner { instance: None, state: RunnerState::Requested, ..fresh };
    reconcile(&storage, &fresh).await.unwrap();
    [by_the_manager, counted.end()]
}

/// Puts jobs on record that wait for `linux`, with the task that follows from that.
async fn ask_for_a_reconcile(storage: &EmbeddedStorage, whom: &str, jobs: Range<u64>) {
    let operation = OperationId::new(format!("for {whom}"));
    let job = |id| WorkflowJob {
        id: JobId(id),
        run: RunId(id),
        attempt: 1,
        repository: "acme/app".parse().unwrap(),
        enterprise: None,
        public: false,
        name: "build".to_owned(),
        workflow: None,
        labels: Labels::parse(["large"]).unwrap(),
        created_at: Timestamp::UNIX_EPOCH,
        recorded_at: Timestamp::UNIX_EPOCH,
        state: JobState::Queued { group: Some(name("linux")) },
        lost: None,
    };
    let changes = jobs.map(|id| Change::PutJob { job: job(id), expected: Expected::Absent }).collect();
    let tasks = vec![NewTask::now(Task::Reconcile { group: name("linux") })];
    let write = Write { operation, claim: None, ends_claim: false, on_trust: false, changes, tasks };
    storage.apply(write).await.unwrap();
}

/// A reconcile of a group of a hundred runners and of one of a hundred thousand is the same, and this.
async fn assert_reconcile(state: RunnerState, jobs: u64, asked: &[(&'static str, usize)]) {
    let few = costs_of_a_reconcile(100, state.clone(), jobs).await;
    let many = costs_of_a_reconcile(100_000, state, jobs).await;
    for (few, many) in few.iter().zip(&many) {
        few.assert_same(many);
        assert_eq!(few.times(), asked.iter().copied().collect(), "{few:?}");
    }
}

#[tokio::test]
async fn a_reconcile_that_makes_a_runner_costs_the_same_among_a_hundred_and_a_hundred_thousand() {
    let asked = [("claim", 1), ("group", 1), ("apply", 1)];
    assert_reconcile(RunnerState::Busy { job: None }, 1, &asked).await;
}

/// However many of them no job needs, the oldest tell when the next one is to go.
#[tokio::test]
async fn a_reconcile_that_looks_at_idle_runners_costs_the_same_among_a_hundred_and_a_hundred_thousand() {
    let asked = [("claim", 1), ("group", 1), ("runners", 1), ("push", 1), ("ack", 1)];
    assert_reconcile(RunnerState::Idle { leaving: None }, 0, &asked).await;
}

/// The writes that bring a runner up and end it end these tasks, too.
#[tokio::test]
async fn no_task_of_a_runner_needs_an_end_of_its_own() {
    let cost = cost_beside(10).await;
    let of_runners = |key: &&String| key.starts_with("provision:") || key.starts_with("retire:");
    let ended: Vec<_> = cost.acknowledged.iter().filter(of_runners).collect();
    assert!(ended.is_empty(), "{ended:?}");
}

/// Ten thousand machines say one a minute each.
#[tokio::test]
async fn a_heartbeat_without_news_costs_one_read_of_its_runner() {
    let behaviour = Behaviour { callback: true, boot_time: Duration::from_secs(30), ..Behaviour::default() };
    let mut world = World::new(vec![linux(1, 1)], behaviour).await;
    // What the machine would say, the test says.
    world.broken_image = true;
    world.pass(MINUTE).await;
    world.stop().await;
    let counted = start_counted(&mut world, |_| ());
    let everyone = Page::first(1);
    let runner = world.storage.runners(&RunnerFilter::All, &everyone).await.unwrap().remove(0).value;
    let caller = caller(&world, &runner.name);
    for (pulse, state) in [
        (Pulse::Starting, RunnerState::Booting),
        (Pulse::Idle, RunnerState::Idle { leaving: None }),
        (Pulse::Busy, RunnerState::Busy { job: None }),
    ] {
        // The first one may have news, and what follows from that is over.
        world.manager.hear_of_pulse(&caller, pulse).await.unwrap();
        world.pass(Duration::from_secs(1)).await;
        let known = world.storage.runner(&runner.name).await.unwrap().unwrap();
        assert_eq!(known.value.state, state);
        counted.begin();
        for _ in 0..100 {
            assert_eq!(world.manager.hear_of_pulse(&caller, pulse).await.unwrap(), Reply::Stay);
        }
        let times = counted.end().times();
        // The list of groups is read every few seconds, for all machines together.
        let others: Vec<_> =
            times.iter().filter(|(operation, times)| **operation != "runner" && **times > 1).collect();
        assert_eq!((times["runner"], others), (100, Vec::new()), "{pulse:?}: {times:?}");
        assert!(!times.contains_key("apply"), "{pulse:?}: {times:?}");
        let after = world.storage.runner(&runner.name).await.unwrap().unwrap();
        assert_eq!(after.version, known.version);
    }
}
