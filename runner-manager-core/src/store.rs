//! The trait [`Store`]: where groups, runners, jobs and hooks are recorded.
//!
//! All writing goes through one call, [`Store::apply`]: a [`Write`] is one atomic step that holds every
//! change, and every task that follows from it. The store keeps the counters and compares versions; what to
//! write is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::{
    BackendName, Deployment, EndedRunner, GroupFinding, GroupName, HookPlace, HookRecord, Incarnation, JobId,
    OperationId, Phase, PlacementKey, Runner, RunnerGroup, RunnerName, Scope, WorkflowJob,
};
use crate::policy::placement::Health;
use crate::queue::{ClaimToken, NewTask};

/// The version of a record: greater with each write, and never the same again, even when a record is removed
/// and made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// A record with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    /// Its version when it was read.
    pub version: Version,
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// No such record.
    Absent,
    /// The record at this version.
    Version(Version),
}

/// A runner group with what the manager knows about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The specification.
    pub spec: RunnerGroup,
    /// Set where the group makes no new runners: an operator drains it, or it is configured no more.
    pub draining: Option<Draining>,
    /// How each placement that failed fares. One that is missing fares well.
    pub placements: BTreeMap<PlacementKey, Health>,
    /// How registering at GitHub fares, where it failed.
    #[serde(default)]
    pub registration: Option<Health>,
    /// What was last found of its group at GitHub; none before it was looked for.
    #[serde(default)]
    pub github: Option<Box<GroupFinding>>,
}

/// Why a group makes no new runners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Draining {
    /// An operator asked for it.
    Operator,
    /// It is configured no more. The record goes when its last runner has.
    Removed,
}

/// How many of each there are in a group. The store keeps these with the records, in the same atomic step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupCounts {
    /// Jobs that wait and count for this group.
    pub queued: u32,
    /// Runners in [`Phase::Requested`].
    pub requested: u32,
    /// Runners in [`Phase::Creating`].
    pub creating: u32,
    /// Runners in [`Phase::Booting`].
    pub booting: u32,
    /// Runners in [`Phase::Idle`].
    pub idle: u32,
    /// Runners in [`Phase::Busy`].
    pub busy: u32,
    /// Runners in [`Phase::Retiring`].
    pub retiring: u32,
}

impl GroupCounts {
    /// All runners that are not gone: what `max` bounds.
    pub const fn alive(&self) -> u32 {
        self.requested + self.creating + self.booting + self.idle + self.busy + self.retiring
    }

    /// Runners that have no job and are to get one.
    pub const fn free(&self) -> u32 {
        self.requested + self.creating + self.booting + self.idle
    }

    /// How many runners are in a phase.
    pub const fn of(&self, phase: Phase) -> u32 {
        match phase {
            Phase::Requested => self.requested,
            Phase::Creating => self.creating,
            Phase::Booting => self.booting,
            Phase::Idle => self.idle,
            Phase::Busy => self.busy,
            Phase::Retiring => self.retiring,
        }
    }

    /// The counter of a phase, to be changed: for implementations of [`Store`].
    pub const fn of_mut(&mut self, phase: Phase) -> &mut u32 {
        match phase {
            Phase::Requested => &mut self.requested,
            Phase::Creating => &mut self.creating,
            Phase::Booting => &mut self.booting,
            Phase::Idle => &mut self.idle,
            Phase::Busy => &mut self.busy,
            Phase::Retiring => &mut self.retiring,
        }
    }
}

/// A group's record with its counters, read in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// The record.
    pub record: Versioned<GroupRecord>,
    /// The counters.
    pub counts: GroupCounts,
}

/// The deployment's record, and whether the store's word may be relied on, read in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentView {
    /// The record; none before the first write of it.
    pub record: Option<Versioned<Deployment>>,
    /// The store's present life.
    pub incarnation: Incarnation,
    /// Whether [`Change::Trust`] was said of that life. A store that cannot lose what it acknowledged, and
    /// knows when its data are removed, is born trusted.
    pub trusted: bool,
}

/// One change to one record.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Writes a group's record.
    PutGroup {
        /// The record.
        record: GroupRecord,
        /// What must be there.
        expected: Expected,
    },
    /// Removes a group's record. One that still has runners or waiting jobs is a `Conflict`.
    RemoveGroup {
        /// Which.
        name: GroupName,
        /// What must be there.
        expected: Version,
    },
    /// Writes a new runner if its group is below `max` and not draining: the one way to take a slot.
    ReserveRunner {
        /// The runner, in [`Phase::Requested`].
        runner: Runner,
    },
    /// Writes a new record for an instance that was found without one. Counts against `max` but is not
    /// bounded by it: the instance exists. Its group need not.
    AdoptRunner {
        /// The runner.
        runner: Runner,
    },
    /// Writes an existing runner. Its group never changes: another one is a `Conflict`.
    PutRunner {
        /// The runner.
        runner: Runner,
        /// What must be there.
        expected: Version,
    },
    /// Removes a runner, frees its slot, and keeps its history for a while.
    EndRunner {
        /// What is kept.
        ended: EndedRunner,
        /// What must be there.
        expected: Version,
    },
    /// Writes a job.
    PutJob {
        /// The job.
        job: WorkflowJob,
        /// What must be there.
        expected: Expected,
    },
    /// Writes what is known of a place's hook.
    PutHook {
        /// The record.
        record: HookRecord,
        /// What must be there.
        expected: Expected,
    },
    /// Forgets a place's hook.
    RemoveHook {
        /// Whose.
        place: HookPlace,
        /// What must be there.
        expected: Version,
    },
    /// Writes the deployment's record.
    PutDeployment {
        /// The record.
        record: Deployment,
        /// What must be there.
        expected: Expected,
    },
    /// Says that the store's word may be relied on from here on. Another life than the present one is a
    /// `Conflict`.
    Trust {
        /// The life that is meant.
        incarnation: Incarnation,
    },
}

/// One atomic step: all of it is done, or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Names this write: a repeat of it, after a lost reply or a redelivered webhook, gets the first answer
    /// and changes nothing. Kept for a day, unless there are very many ([`Retention`]).
    pub operation: OperationId,
    /// The claim under which it is made, where it is made for a task. A claim that was lost is refused.
    pub claim: Option<ClaimToken>,
    /// Whether that claim's task ends with the write, as by [`ack`](crate::queue::TaskQueue::ack): a repeat of it
    /// finds it ended. Without a claim it says nothing.
    pub ends_claim: bool,
    /// Whether it may only be made while the store is trusted: set where something is created or removed on
    /// the store's word. A reservation is never made without.
    pub on_trust: bool,
    /// The changes. Each names another record: a record that is named twice is a `Conflict`. A reservation
    /// sees its group as the changes before it leave it.
    pub changes: Vec<Change>,
    /// The tasks that follow.
    pub tasks: Vec<NewTask>,
}

/// How long a storage remembers what is over. What is beyond either bound is forgotten with later writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How many answers to writes are kept. Default 200,000.
    pub operations: u64,
    /// How long answers to writes are kept. Default 24 h.
    pub operations_for: Duration,
    /// How many completed jobs are kept. Default 10,000.
    pub completed_jobs: u64,
    /// How long completed jobs are kept. Default 72 h: GitHub redelivers webhooks for three days, and a
    /// job that is remembered as completed is not taken for a new one.
    pub completed_jobs_for: Duration,
    /// How many runners that ended are kept. Default 1,000.
    pub ended_runners: u64,
    /// How long runners that ended are kept. Default 7 days.
    pub ended_runners_for: Duration,
    /// How many tasks that were given up are kept. Default 1,000.
    pub dead_tasks: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            operations: 200_000,
            operations_for: Duration::from_hours(24),
            completed_jobs: 10_000,
            completed_jobs_for: Duration::from_hours(72),
            ended_runners: 1_000,
            ended_runners_for: Duration::from_hours(24 * 7),
            dead_tasks: 1_000,
        }
    }
}

/// The answer to a [`Write`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The version of each record after the write, in the order of the changes; none for one that was
    /// removed.
    pub versions: Vec<Option<Version>>,
    /// Whether this is the answer to an earlier write of the same operation.
    #[serde(default)]
    pub repeated: bool,
}

/// Which runners to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunnerFilter {
    /// All, by name.
    All,
    /// Those of a group, by name.
    Group(GroupName),
    /// Those of a group in a phase, those longest in it first.
    Phase(GroupName, Phase),
    /// Those that live on a backend, by name.
    Backend(BackendName),
    /// Those that register in a scope, by name.
    Scope(Scope),
}

/// Which jobs to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobFilter {
    /// All, those first heard of last first.
    All,
    /// Those that wait and count for a group, those made first first.
    Queued(GroupName),
    /// Those that wait and that no group serves, those made first first.
    Unserved,
}

/// Where a page of a list begins and how long it may be.
///
/// A page goes on after the place of `after` in the list. Where that record is gone meanwhile and its place
/// with it, the list begins anew: some may come twice, but none is skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<K> {
    /// The last key of the page before; none for the first page.
    pub after: Option<K>,
    /// The most that is wanted.
    pub limit: usize,
}

impl<K> Page<K> {
    /// The first page.
    pub const fn first(limit: usize) -> Self {
        Self { after: None, limit }
    }

    /// The page after one that ended with `key`.
    pub const fn after(key: K, limit: usize) -> Self {
        Self { after: Some(key), limit }
    }
}

/// A call to the store that had no effect, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A record is not as the write expected it: read it again and decide again.
    #[error("{record} was changed by somebody else")]
    Conflict {
        /// Which record.
        record: String,
    },
    /// The group has no free slot.
    #[error("group {group} is at max: {alive} of {max} runners")]
    AtMax {
        /// The group.
        group: GroupName,
        /// How many runners it has.
        alive: u32,
        /// How many it may have.
        max: u32,
    },
    /// The group makes no new runners, or does not exist.
    #[error("group {group} makes no new runners")]
    Closed {
        /// The group.
        group: GroupName,
    },
    /// The store may have lost what it had acknowledged, and the write relies on its word.
    #[error("the store may have lost what it acknowledged: what is outside has to be listed first")]
    Untrusted,
    /// The claim under which the write was made is not held any more.
    #[error("the claim on this task was lost to another worker")]
    LostClaim,
    /// The store cannot be reached or cannot work now.
    #[error("the store cannot work now: {0}")]
    Unavailable(String, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// The write may or may not have been done: repeat it under the same operation id.
    #[error("the store did not answer: {0}")]
    Unclear(String, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// Something in the store cannot be read. Nothing was changed.
    #[error("the store is damaged: {0}")]
    Corrupt(String, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
}

/// Where groups, runners and jobs are recorded.
///
/// # Behaviour
/// The conformance suite (`testing::conformance::store`) tests these, by these names:
/// - `a_write_is_read`: what was written is read, by every reader, once `apply` returned.
/// - `records_come_back_whole`: a record is read as it was written, whatever stands in its parts.
/// - `a_write_is_whole`: where one change of a write is refused, none is made and no task is queued.
/// - `tasks_come_with_their_write`: the tasks of a write are in the queue once it returned.
/// - `versions_are_compared`: a change that expects another version, or a record where there is none, is a
///   `Conflict`.
/// - `versions_never_return`: a record that was removed and made anew has a version that it never had.
/// - `a_record_is_named_once`: a write that names a record twice, or gives a runner to another group, is a
///   `Conflict`.
/// - `a_slot_is_reserved_once`: `ReserveRunner` of a name that exists is a `Conflict`.
/// - `max_is_never_exceeded`: of many concurrent reservations exactly as many succeed as there are slots,
///   and the others are `AtMax`.
/// - `a_slot_is_freed_at_the_end`: `EndRunner` frees the slot; no other change does.
/// - `a_draining_group_is_closed`: reserving in a draining or unknown group is `Closed`, unless the same
///   write opens it first.
/// - `a_group_in_use_stays`: removing a group that has runners or waiting jobs is a `Conflict`.
/// - `adoption_is_not_bounded`: `AdoptRunner` succeeds at `max`, and counts.
/// - `counters_follow_the_records`: after any writes, each group's counters are what counting would give.
/// - `a_lost_claim_is_refused`: a write under a claim that ended or was taken over is `LostClaim`, even if
///   nobody wrote meanwhile.
/// - `a_write_ends_its_claim`: a write that says so ends its claim's task in the same step; what it queues of the
///   same key is claimed next. One that is refused ends nothing.
/// - `a_repeat_gets_the_first_answer`: the same operation again changes nothing and gives the first answer,
///   marked as repeated; a refused write is not remembered.
/// - `trust_is_said_of_a_life`: `Trust` of the present life is taken, of another one a `Conflict`; the record
///   of the deployment is written by compare-and-set like any other.
/// - `the_untrusted_is_not_relied_on`: after the store began another life, or lost everything, a reservation
///   and a write `on_trust` are `Untrusted` until `Trust` was said of the new life; other writes are made.
/// - `numbers_outlive_a_loss`: no version and no claim's number that was given before such a loss is given
///   again after it.
/// - `hooks_are_known_by_their_place`: what is known of a hook is written, listed and removed under its place,
///   however that is written.
/// - `lists_are_ordered_and_paged`: each filter has its order, and pages neither skip nor repeat.
/// - `history_is_kept_and_bounded`: ended runners and completed jobs stay for a while, and not for ever
///   ([`Retention`]); a job that waits or runs is never forgotten.
///
/// # Errors
/// [`StoreError`]. All but `Unclear` mean that nothing was done.
///
#[cfg_attr(
    feature = "embedded",
    doc = r#"
```
use std::sync::Arc;
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::{GroupName, JobId, JobState, Labels, OperationId, RunId, WorkflowJob};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::queue::{NewTask, Task};
use runner_manager_core::store::{Change, Expected, JobFilter, Page, Store, StoreError, Write};

# #[tokio::main(flavor = "current_thread")]
# async fn main() -> Result<(), Box<dyn std::error::Error>> {
let store: Arc<dyn Store> = Arc::new(EmbeddedStorage::in_memory(Arc::new(SystemClock)));
let now = store.now().await?;
let group = GroupName::new("linux")?;
let job = WorkflowJob {
    id: JobId(7),
    run: RunId(1),
    attempt: 1,
    repository: "acme/app".parse()?,
    enterprise: None,
    public: false,
    name: "build".to_owned(),
    workflow: None,
    labels: Labels::parse(["linux"])?,
    created_at: now,
    recorded_at: now,
    state: JobState::Queued { group: Some(group.clone()) },
    lost: None,
};

// The job and the task that follows from it are one atomic step.
let write = Write {
    operation: OperationId::new("delivery:1"),
    claim: None,
    ends_claim: false, on_trust: false,
    changes: vec![Change::PutJob { job, expected: Expected::Absent }],
    tasks: vec![NewTask::now(Task::Reconcile { group: group.clone() })],
};
let first = store.apply(write.clone()).await?;
let waiting = store.jobs(&JobFilter::Queued(group), &Page::first(10)).await?;
assert_eq!(Some(waiting[0].version), first.versions[0]);

// The same operation again has no effect; another one that expects what is not so is refused.
assert!(store.apply(write.clone()).await?.repeated);
let other = Write { operation: OperationId::new("delivery:2"), ..write };
assert!(matches!(store.apply(other).await, Err(StoreError::Conflict { .. })));
# Ok(())
# }
```
"#
)]
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// The store's time: the one that all replicas share. It may be told from what was read up to a second ago, so that
    /// an answer says nothing of whether the store works: that is [`ready`](Self::ready).
    ///
    /// # Errors
    /// `Unavailable`.
    async fn now(&self) -> Result<Timestamp, StoreError>;

    /// Whether it works now: fails where a write would fail for a reason that lies in the store.
    ///
    /// # Errors
    /// `Unavailable`, `Unclear`, `Corrupt`.
    async fn ready(&self) -> Result<(), StoreError> {
        self.now().await.map(drop)
    }

    /// The deployment's record, and whether the store is trusted.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn deployment(&self) -> Result<DeploymentView, StoreError>;

    /// Does one atomic step.
    ///
    /// # Errors
    /// `Conflict`, `AtMax`, `Closed`, `Untrusted`, `LostClaim`: refused, nothing was done. `Unavailable`,
    /// `Corrupt`: failed, nothing was done. `Unclear`: repeat it with the same operation id.
    async fn apply(&self, write: Write) -> Result<Applied, StoreError>;

    /// A group with its counters; `None` where there is none of that name. Costs the same however many
    /// runners and jobs there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn group(&self, name: &GroupName) -> Result<Option<GroupView>, StoreError>;

    /// All groups with their counters, by name.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn groups(&self) -> Result<Vec<GroupView>, StoreError>;

    /// A runner; `None` where there is none of that name.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn runner(&self, name: &RunnerName) -> Result<Option<Versioned<Runner>>, StoreError>;

    /// A page of runners, in the filter's order.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn runners(
        &self,
        filter: &RunnerFilter,
        page: &Page<RunnerName>,
    ) -> Result<Vec<Versioned<Runner>>, StoreError>;

    /// A job; `None` where it is not recorded (any more).
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn job(&self, id: JobId) -> Result<Option<Versioned<WorkflowJob>>, StoreError>;

    /// A page of jobs, in the filter's order.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn jobs(
        &self,
        filter: &JobFilter,
        page: &Page<JobId>,
    ) -> Result<Vec<Versioned<WorkflowJob>>, StoreError>;

    /// What is known of a place's hook; `None` where there is no record.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn hook(&self, place: &HookPlace) -> Result<Option<Versioned<HookRecord>>, StoreError>;

    /// What is known of all hooks, by the keys of their places. There are as many as scopes and Apps.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn hooks(&self) -> Result<Vec<Versioned<HookRecord>>, StoreError>;

    /// The runners that ended last, newest first, at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn ended_runners(&self, limit: usize) -> Result<Vec<EndedRunner>, StoreError>;
}

/// All runners that a filter selects, read page by page.
///
/// # Errors
/// Those of [`Store::runners`].
pub async fn all_runners(
    store: &dyn Store,
    filter: &RunnerFilter,
) -> Result<Vec<Versioned<Runner>>, StoreError> {
    const PAGE: usize = 500;
    let (mut all, mut seen): (Vec<Versioned<Runner>>, BTreeSet<RunnerName>) = Default::default();
    let mut after = None;
    loop {
        let page = store.runners(filter, &Page { after, limit: PAGE }).await?;
        after = page.last().map(|last| last.value.name.clone());
        let complete = page.len() < PAGE;
        all.extend(page.into_iter().filter(|runner| seen.insert(runner.value.name.clone())));
        if complete {
            return Ok(all);
        }
    }
}
