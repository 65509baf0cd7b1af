//! The trait [`TaskQueue`]: where tasks wait, and how workers hold them.
//!
//! A task says *what to look at*, never what to do: whoever claims it reads the records and decides then.
//! So an equal task that waits already is enough, and doing one twice does no harm.

use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{BackendName, GroupName, HookPlace, JobId, RunnerName, Scope};
use crate::store::StoreError;

/// A unit of background work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// Compare what a group has with what it should have.
    Reconcile {
        /// The group.
        group: GroupName,
    },
    /// Bring a runner up: register, create, look up, wait for it to come online.
    Provision {
        /// The runner.
        runner: RunnerName,
        /// The backend that it lives on.
        backend: BackendName,
    },
    /// Take a runner away, or see whether it is time to.
    Retire {
        /// The runner.
        runner: RunnerName,
        /// The backend that it lives on.
        backend: BackendName,
    },
    /// Remove a registration that was found without a record, if it still has none and no instance.
    Forget {
        /// Where it is registered.
        scope: Scope,
        /// The name that it bears.
        runner: RunnerName,
    },
    /// List a scope at GitHub and compare.
    SweepScope {
        /// The scope.
        scope: Scope,
    },
    /// List a backend and compare.
    SweepBackend {
        /// The backend.
        backend: BackendName,
    },
    /// Ask GitHub which jobs of a scope wait, and take in those that no webhook told of.
    RecoverJobs {
        /// The scope.
        scope: Scope,
    },
    /// Read the log of a hook, and have GitHub deliver again what failed.
    RedeliverWebhooks {
        /// Whose hook.
        place: HookPlace,
    },
    /// Find GitHub's runner groups of a scope, and have those that are managed be as configured.
    SyncGitHubGroups {
        /// The scope.
        scope: Scope,
    },
    /// See how GitHub ends a job that lost its machine, and have it run again where that is wanted.
    FollowLostJob {
        /// The job.
        job: JobId,
    },
    /// Place the waiting jobs that no group serves, after the groups have changed.
    SyncConfiguration,
}

impl Task {
    /// What makes two tasks equal: an equal one that waits is enough, and only one of a key is claimed at a
    /// time.
    pub fn key(&self) -> String {
        match self {
            Self::Reconcile { group } => format!("reconcile:{group}"),
            Self::Provision { runner, .. } => format!("provision:{runner}"),
            Self::Retire { runner, .. } => format!("retire:{runner}"),
            Self::Forget { runner, .. } => format!("forget:{runner}"),
            Self::SweepScope { scope } => format!("sweep-scope:{scope}").to_lowercase(),
            Self::SweepBackend { backend } => format!("sweep-backend:{backend}"),
            Self::RecoverJobs { scope } => format!("recover-jobs:{scope}").to_lowercase(),
            Self::RedeliverWebhooks { place } => format!("redeliver-webhooks:{}", place.key()),
            Self::SyncGitHubGroups { scope } => format!("sync-github-groups:{scope}").to_lowercase(),
            Self::FollowLostJob { job } => format!("follow-lost-job:{job}"),
            Self::SyncConfiguration => "sync-configuration".to_owned(),
        }
    }

    /// The lane that it waits in.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Reconcile { .. } | Self::SyncConfiguration => Lane::control(),
            Self::Provision { backend, .. } | Self::Retire { backend, .. } => Lane::backend(backend),
            Self::Forget { .. }
            | Self::SweepScope { .. }
            | Self::SweepBackend { .. }
            | Self::RecoverJobs { .. }
            | Self::RedeliverWebhooks { .. }
            | Self::SyncGitHubGroups { .. }
            | Self::FollowLostJob { .. } => Lane::sweeps(),
        }
    }

    /// The kind's word, for metrics and messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Reconcile { .. } => "reconcile",
            Self::Provision { .. } => "provision",
            Self::Retire { .. } => "retire",
            Self::Forget { .. } => "forget",
            Self::SweepScope { .. } => "sweep_scope",
            Self::SweepBackend { .. } => "sweep_backend",
            Self::RecoverJobs { .. } => "recover_jobs",
            Self::RedeliverWebhooks { .. } => "redeliver_webhooks",
            Self::SyncGitHubGroups { .. } => "sync_github_groups",
            Self::FollowLostJob { .. } => "follow_lost_job",
            Self::SyncConfiguration => "sync_configuration",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

/// A part of the queue with workers of its own.
///
/// Every backend has a lane, so that one that is slow or down holds up nobody else, and so that the number
/// of tasks of its lane that are held bounds the calls that are under way to it, over all replicas.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lane(String);

impl Lane {
    /// Where decisions wait.
    pub fn control() -> Self {
        Self("control".to_owned())
    }

    /// Where the periodic listings wait.
    pub fn sweeps() -> Self {
        Self("sweeps".to_owned())
    }

    /// Where the work on a backend's runners waits.
    pub fn backend(name: &BackendName) -> Self {
        Self(format!("backend:{name}"))
    }

    /// The lane as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is taken first when several tasks of a lane are due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Can wait for everything else.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Somebody waits for it.
    High,
}

/// A task to be queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTask {
    /// The task.
    pub task: Task,
    /// Not before this time, by the store's time; none for at once.
    pub not_before: Option<Timestamp>,
    /// What is taken first.
    pub priority: Priority,
}

impl NewTask {
    /// A task that is due at once.
    pub const fn now(task: Task) -> Self {
        Self { task, not_before: None, priority: Priority::Normal }
    }

    /// A task that is due at a time.
    pub const fn at(task: Task, not_before: Timestamp) -> Self {
        Self { task, not_before: Some(not_before), priority: Priority::Normal }
    }

    /// The same task with another priority.
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
}

/// Proof of one hold on one task. A later hold on the same task has another token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimToken {
    /// The key of the task.
    pub key: String,
    /// Greater with each claim in this store.
    pub number: u64,
}

/// One worker's hold on a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Proof of it.
    pub token: ClaimToken,
    /// The task.
    pub task: Task,
    /// How often the task has been claimed since it last succeeded, this time included: from 1.
    pub attempt: u32,
    /// When the hold ends unless it is extended, by the store's time.
    pub until: Timestamp,
    /// How long the task was due before it was claimed.
    pub waited: Duration,
}

/// A task that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadTask {
    /// The task.
    pub task: Task,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// How often it had been claimed.
    pub attempts: u32,
}

/// How a lane fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaneStatistics {
    /// The lane.
    pub lane: Lane,
    /// Tasks that are due.
    pub due: u64,
    /// Tasks that wait for their time, or for the end of the claim on their key.
    pub delayed: u64,
    /// Tasks that are held.
    pub claimed: u64,
    /// When the oldest task that is due became due.
    pub oldest_due: Option<Timestamp>,
}

/// How the queue fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueStatistics {
    /// Each lane that has a task, by name.
    pub lanes: Vec<LaneStatistics>,
    /// Tasks that were given up.
    pub dead: u64,
}

/// Where tasks wait, implemented by the same storage as [`Store`](crate::store::Store).
///
/// At least once, fenced: a task is done again when its holder's lease ran out, and the late holder's writes
/// are refused.
///
/// # Behaviour
/// The conformance suite (`testing::conformance::queue`) tests these, by these names:
/// - `a_task_is_claimed_once`: of many concurrent claims one gets the task.
/// - `equal_keys_collapse`: pushing a key that waits keeps one task, at the earlier time and the higher
///   priority. A time that is past counts as now.
/// - `a_claimed_key_is_not_collapsed_into`: pushing a key that is claimed queues it behind the claim; it is
///   claimed after that one ended.
/// - `one_claim_per_key`: no two claims of one key are held at a time.
/// - `a_delay_is_kept`: a task is not claimed before its time, and is then.
/// - `higher_priorities_go_first`: then the one that became due first.
/// - `a_lane_is_held_within_its_bound`: no claim makes more tasks of a lane held than it allows, whoever holds
///   them; a claim that waits for that returns as soon as a hold ends.
/// - `lanes_are_apart`: a claim on one lane never gets another lane's task.
/// - `a_claim_waits_for_a_task`: a claim with time to wait returns as soon as a task comes or becomes due,
///   without polling, and empty when the time is over.
/// - `all_who_wait_are_served`: of many claims that wait, as many return as there are tasks.
/// - `a_lease_runs_out`: a task whose lease ran out is claimed again, with a greater token and attempt; what
///   was pushed meanwhile joins it.
/// - `a_lease_is_extended`: extending moves the end; extending a lost claim is `LostClaim`.
/// - `ack_ends_a_task`, `a_late_ack_is_refused`: acknowledging a lost claim is `LostClaim` and changes
///   nothing.
/// - `retry_comes_back_later`: a task that is to be retried is claimed again at its time, with a greater
///   attempt; a push meanwhile, before or after, does not bring it forward and joins it.
/// - `release_comes_back_at_once`: a task that is released is due at once, and the attempt does not count.
/// - `bury_keeps_it_with_its_reason`: dead tasks are listed; but where the key was pushed meanwhile, that
///   task goes on and none is dead.
/// - `revive_brings_it_back`: a dead task is revived, and revived by a push of its key; its attempts begin
///   anew.
/// - `dead_tasks_are_bounded`: only the last ones are kept ([`Retention`](crate::store::Retention)).
/// - `statistics_count`: depth, held, delayed, dead and the oldest are what they are. What was pushed behind
///   a claim counts as delayed, and a claim whose lease is over as due.
///
/// # Errors
/// [`StoreError`]: `LostClaim`, `Unavailable`, `Unclear`, `Corrupt`.
///
#[cfg_attr(
    feature = "embedded",
    doc = r#"
```
use std::sync::Arc;
use std::time::Duration;
use runner_manager_core::clock::SystemClock;
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::queue::{Lane, NewTask, Task, TaskQueue};

# #[tokio::main(flavor = "current_thread")]
# async fn main() -> Result<(), Box<dyn std::error::Error>> {
let queue: Arc<dyn TaskQueue> = Arc::new(EmbeddedStorage::in_memory(Arc::new(SystemClock)));
queue.push(vec![NewTask::now(Task::SyncConfiguration)]).await?;

let (lease, wait) = (Duration::from_secs(30), Duration::from_secs(10));
let claims = queue.claim(&Lane::control(), 1, usize::MAX, lease, wait).await?;
assert_eq!((&claims[0].task, claims[0].attempt), (&Task::SyncConfiguration, 1));

// The work is done here, and the task ended last.
queue.ack(&claims[0].token).await?;
assert!(queue.claim(&Lane::control(), 1, usize::MAX, lease, Duration::ZERO).await?.is_empty());
# Ok(())
# }
```
"#
)]
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait TaskQueue: Debug + Send + Sync + 'static {
    /// Queues tasks that follow from no write.
    ///
    /// # Errors
    /// `Unavailable`; `Unclear` may be repeated, since equal keys collapse.
    async fn push(&self, tasks: Vec<NewTask>) -> Result<(), StoreError>;

    /// Claims up to `most` due tasks of a lane for `lease`, but none while `bound` tasks of the lane are held
    /// already, by whomever: what all replicas may do at a time. Where none can be claimed, waits up to `wait`
    /// for one.
    ///
    /// Dropped while it waits, it has claimed nothing; dropped while the storage answers, it may have claimed
    /// tasks, which come back when their lease is over.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn claim(
        &self,
        lane: &Lane,
        most: usize,
        bound: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Claim>, StoreError>;

    /// Holds on for `lease` from now, and tells until when.
    ///
    /// # Errors
    /// `LostClaim`.
    async fn extend(&self, token: &ClaimToken, lease: Duration) -> Result<Timestamp, StoreError>;

    /// Ends a task that is done.
    ///
    /// # Errors
    /// `LostClaim`.
    async fn ack(&self, token: &ClaimToken) -> Result<(), StoreError>;

    /// Puts a task back for another try at `when`. The reason is for the log.
    ///
    /// # Errors
    /// `LostClaim`.
    async fn retry(&self, token: &ClaimToken, when: Timestamp, reason: &str) -> Result<(), StoreError>;

    /// Puts a task back as if it had not been claimed: for a worker that stops.
    ///
    /// # Errors
    /// `LostClaim`.
    async fn release(&self, token: &ClaimToken) -> Result<(), StoreError>;

    /// Gives a task up: it is kept as dead, with the reason.
    ///
    /// # Errors
    /// `LostClaim`.
    async fn bury(&self, token: &ClaimToken, reason: &str) -> Result<(), StoreError>;

    /// The tasks that were given up, the last first, at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn dead(&self, limit: usize) -> Result<Vec<DeadTask>, StoreError>;

    /// Brings a dead task back, due at once; tells whether there was one of that key.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn revive(&self, key: &str) -> Result<bool, StoreError>;

    /// How the queue fares. Costs as much as there are tasks: for people and metrics, not for decisions.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn statistics(&self) -> Result<QueueStatistics, StoreError>;
}
