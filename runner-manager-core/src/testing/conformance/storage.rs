//! What the suites of [`Store`], [`TaskQueue`] and [`Budgets`] are run on, and the records that they write.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::budget::Budgets;
use crate::domain::{
    Arch, BackendName, Bounds, Conclusion, ConnectionName, EndedRunner, GitHubGroup, GroupName, Incarnation,
    JobId, JobState, Labels, Limits, Machine, OperationId, Os, Placement, RetireReason, RunId, Runner,
    RunnerGroup, RunnerName, RunnerState, Scope, WorkflowJob, later,
};
use crate::manager::Storage;
use crate::queue::{Claim, NewTask, Task, TaskQueue};
use crate::store::{
    Applied, Change, DeploymentView, Draining, Expected, GroupCounts, GroupRecord, Retention, Store,
    StoreError, Version, Write,
};

/// How a suite lets time pass.
#[async_trait]
pub trait PassTime: Debug + Send + Sync + 'static {
    /// Ends when this much more time has passed for the subject: moves a simulated clock, or waits.
    async fn pass(&self, by: Duration);
}

/// How a suite makes a storage lose what it acknowledged.
#[async_trait]
pub trait LoseWord: Debug + Send + Sync + 'static {
    /// Begins another life of the storage in which it still has everything, as a server does that is started
    /// anew after it wrote all down. Ends when the storage works again.
    async fn begin_another_life(&self);

    /// Has the storage lose everything that it holds. Ends when it works again.
    async fn lose_everything(&self);
}

/// The answer of a storage that cannot lose what it acknowledged. Its list of skips has the cases
/// `the_untrusted_is_not_relied_on` and `numbers_outlive_a_loss`.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeepsItsWord;

#[async_trait]
impl LoseWord for KeepsItsWord {
    async fn begin_another_life(&self) {
        panic!("this storage has one life");
    }

    async fn lose_everything(&self) {
        panic!("this storage loses nothing");
    }
}

/// One fresh storage with the ways to let its time pass and to make it lose what it holds.
#[derive(Debug)]
pub struct StorageSubject {
    /// The storage as a store.
    pub store: Arc<dyn Store>,
    /// The same storage as a queue.
    pub queue: Arc<dyn TaskQueue>,
    /// The same storage as what counts calls.
    pub budgets: Arc<dyn Budgets>,
    /// How time passes.
    pub time: Arc<dyn PassTime>,
    /// How it loses what it acknowledged.
    pub loss: Arc<dyn LoseWord>,
    /// What durations of the cases are counted in: long enough that a few calls take much less, at most a
    /// second where time really has to pass.
    pub unit: Duration,
    operations: AtomicU64,
}

impl StorageSubject {
    /// The retention that a subject must have been set up with, so that its bounds can be reached: few
    /// records, and 20 units of time.
    pub const fn retention(unit: Duration) -> Retention {
        let kept = unit.saturating_mul(20);
        Retention {
            operations: 20,
            operations_for: kept,
            completed_jobs: 20,
            completed_jobs_for: kept,
            ended_runners: 20,
            ended_runners_for: kept,
            dead_tasks: 20,
        }
    }

    /// A subject of a fresh storage with that retention. One that is born without trust is trusted from here
    /// on.
    pub async fn new(
        storage: Storage,
        time: Arc<dyn PassTime>,
        loss: Arc<dyn LoseWord>,
        unit: Duration,
    ) -> Self {
        let Storage { store, queue, budgets } = storage;
        let subject = Self { store, queue, budgets, time, loss, unit, operations: AtomicU64::new(0) };
        subject.trust().await;
        subject
    }

    /// Says that the storage's word may be relied on, and tells the life of which that was said.
    pub(super) async fn trust(&self) -> Incarnation {
        let incarnation = self.deployment().await.incarnation;
        let trust = Change::Trust { incarnation: incarnation.clone() };
        self.try_apply(trust).await.expect("the present life can be trusted");
        incarnation
    }

    pub(super) async fn deployment(&self) -> DeploymentView {
        self.store.deployment().await.expect("the store works")
    }

    pub(super) async fn pass(&self, units: u32) {
        self.time.pass(self.unit * units).await;
    }

    pub(super) async fn now(&self) -> Timestamp {
        self.store.now().await.expect("the store works")
    }

    pub(super) async fn in_units(&self, units: u32) -> Timestamp {
        later(self.now().await, self.unit * units)
    }

    /// A write of an operation of its own.
    pub(super) fn write(&self, changes: Vec<Change>) -> Write {
        let number = self.operations.fetch_add(1, Ordering::Relaxed);
        let operation = OperationId::new(format!("operation-{number}"));
        Write { operation, claim: None, ends_claim: false, on_trust: false, changes, tasks: Vec::new() }
    }

    pub(super) async fn try_apply(&self, change: Change) -> Result<Applied, StoreError> {
        self.store.apply(self.write(vec![change])).await
    }

    /// Makes a change that must succeed, and tells the record's version.
    pub(super) async fn apply(&self, change: Change) -> Version {
        let applied = self.try_apply(change).await.expect("the change is allowed");
        applied.versions[0].expect("the record exists")
    }

    pub(super) async fn open_group(&self, name: &str, max: u32) -> Version {
        self.apply(Change::PutGroup { record: group(name, max), expected: Expected::Absent }).await
    }

    pub(super) async fn counts(&self, name: &str) -> GroupCounts {
        let view = self.store.group(&group_name(name)).await.expect("the store works");
        view.expect("the group exists").counts
    }

    pub(super) async fn push(&self, task: NewTask) {
        self.queue.push(vec![task]).await.expect("the queue works");
    }

    /// Claims what is due on a task's lane, for 10 units.
    pub(super) async fn claim(&self, task: &Task, most: usize) -> Vec<Claim> {
        let lease = self.unit * 10;
        self.queue
            .claim(&task.lane(), most, usize::MAX, lease, Duration::ZERO)
            .await
            .expect("the queue works")
    }

    pub(super) async fn claim_one(&self, task: &Task) -> Claim {
        let mut claims = self.claim(task, 1).await;
        claims.pop().expect("the task is due")
    }
}

pub(super) fn group_name(name: &str) -> GroupName {
    GroupName::new(name).expect("the suite's names are names")
}

pub(super) fn runner_name(name: &str) -> RunnerName {
    RunnerName::new(name).expect("the suite's names are names")
}

pub(super) fn backend_name(name: &str) -> BackendName {
    BackendName::new(name).expect("the suite's names are names")
}

pub(super) fn scope(name: &str) -> Scope {
    Scope::organization(name).expect("the suite's names are names")
}

pub(super) fn group(name: &str, max: u32) -> GroupRecord {
    let spec = RunnerGroup {
        name: group_name(name),
        scope: scope("acme"),
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::default(),
        bounds: Bounds::new(0, max).expect("the suite's bounds are in order"),
        priority: 0,
        order: 0,
        tags: std::collections::BTreeMap::new(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: vec![placement()],
    };
    GroupRecord {
        spec,
        draining: None,
        placements: std::collections::BTreeMap::new(),
        registration: None,
        github: None,
    }
}

pub(super) fn draining_group(name: &str, max: u32) -> GroupRecord {
    GroupRecord { draining: Some(Draining::Operator), ..group(name, max) }
}

fn placement() -> Placement {
    Placement::new(backend_name("cloud"), "one place", serde_json::json!({ "zone": "a" }))
}

/// A runner that was requested at the beginning of time.
pub(super) fn runner(name: &str, group: &str) -> Runner {
    Runner {
        name: runner_name(name),
        group: group_name(group),
        scope: scope("acme"),
        backend: backend_name("cloud"),
        placement: placement().key,
        requested_at: Timestamp::UNIX_EPOCH,
        since: Timestamp::UNIX_EPOCH,
        registration: None,
        online_at: None,
        instance: None,
        named_at: None,
        missing_since: None,
        presumed: None,
        trouble: None,
        machine: Machine::default(),
        state: RunnerState::Requested,
    }
}

pub(super) fn ended(runner: &Runner, at: Timestamp) -> EndedRunner {
    EndedRunner {
        name: runner.name.clone(),
        group: runner.group.clone(),
        backend: runner.backend.clone(),
        requested_at: runner.requested_at,
        ended_at: at,
        why: RetireReason::Surplus,
        trouble: None,
        timeline: Vec::new(),
    }
}

/// A job in a state, made and heard of so many seconds after the beginning of time.
pub(super) fn job(id: u64, state: JobState, second: u64) -> WorkflowJob {
    let at = later(Timestamp::UNIX_EPOCH, Duration::from_secs(second));
    WorkflowJob {
        id: JobId(id),
        run: RunId(id),
        attempt: 1,
        repository: "acme/app".parse().expect("the suite's names are names"),
        enterprise: None,
        public: false,
        name: format!("job {id}"),
        workflow: None,
        labels: Labels::default(),
        created_at: at,
        recorded_at: at,
        state,
        lost: None,
    }
}

pub(super) fn queued(group: Option<&str>) -> JobState {
    JobState::Queued { group: group.map(group_name) }
}

pub(super) fn presumed(since: Timestamp) -> JobState {
    JobState::Presumed { runner: runner_name("r"), since }
}

pub(super) fn completed(at: Timestamp) -> JobState {
    JobState::Completed { conclusion: Conclusion::Success, runner: None, at }
}

pub(super) fn reconcile(group: &str) -> Task {
    Task::Reconcile { group: group_name(group) }
}
