//! GitHub's own books: what truly happened, whatever a manager believes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ConnectRefusal, FaultKind, JobId, RunnerId};

/// What happened so far. Kept up with every call, so that looking costs nothing. The single jobs and
/// runners are under [`Simulator::jobs`](super::Simulator::jobs) and
/// [`Simulator::runners`](super::Simulator::runners).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Jobs by what became of them.
    pub jobs: JobCounts,
    /// Registrations by what became of them.
    pub runners: RunnerCounts,
    /// Events and deliveries.
    pub webhooks: WebhookCounts,
    /// How often each event was asked for by a redelivery request, by its id.
    pub redeliveries: BTreeMap<String, u64>,
    /// How often each runner group was made, changed or deleted, by the name that it had before.
    pub runner_groups: BTreeMap<String, u64>,
    /// Requests by route, as in `GET /orgs/{org}/actions/runners`; refused ones are counted, too.
    pub requests: BTreeMap<String, u64>,
    /// Of these, those that were answered with 304: they cost nothing of the budget.
    pub unchanged: BTreeMap<String, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Every fault that struck.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Agents that were refused.
    pub refusals: BTreeMap<ConnectRefusal, u64>,
    /// How many times each job was begun by a runner. More than once is a violation.
    pub runs_by_job: BTreeMap<JobId, u32>,
    /// What must not happen, in order.
    pub violations: Vec<Violation>,
}

impl Books {
    /// How often a kind of fault struck.
    pub fn fault(&self, kind: FaultKind) -> u64 {
        self.faults.get(&kind).copied().unwrap_or(0)
    }

    pub(super) fn count_fault(&mut self, kind: FaultKind) {
        *self.faults.entry(kind).or_default() += 1;
    }
}

/// Jobs by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCounts {
    /// All that ever were.
    pub total: u64,
    /// Those that now wait for a deployment to be approved.
    pub waiting: u64,
    /// Those that now wait for a runner.
    pub queued: u64,
    /// Those that now run.
    pub in_progress: u64,
    /// Those that ended, in whatever way.
    pub completed: u64,
    /// Ended with success.
    pub succeeded: u64,
    /// Ended with failure.
    pub failed: u64,
    /// Ended cancelled or skipped.
    pub cancelled: u64,
    /// Begun, and not ended by their runner: it died, or was removed under them.
    pub lost: u64,
}

/// Registrations by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerCounts {
    /// All that ever were.
    pub registered: u64,
    /// Those that are there now.
    pub alive: u64,
    /// The most that ever were there at once.
    pub max_alive: u64,
    /// Those that are no more, by the reason.
    pub removed: BTreeMap<Removal, u64>,
}

/// Why a registration is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// Its one job ended.
    Finished,
    /// Somebody sent a DELETE.
    Deleted,
    /// Its agent died in a job.
    Lost,
    /// No agent came, or none came back.
    Expired,
}

/// Events and deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookCounts {
    /// Events for a hook: each was to be delivered at least once.
    pub events: u64,
    /// Handed out by [`deliveries_due`](super::Simulator::deliveries_due), or one by one.
    pub sent: u64,
    /// Answered with 2xx.
    pub accepted: u64,
    /// Answered with anything else, or not at all.
    pub refused: u64,
    /// Asked for by a redelivery request.
    pub redelivered: u64,
}

/// What must not happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    /// A runner was removed by a DELETE while it truly ran a job, which died of it.
    RunningJobKilled {
        /// The job.
        job: JobId,
        /// The runner.
        runner: RunnerId,
        /// The runner's name.
        name: String,
        /// When.
        at: Timestamp,
    },
    /// A job was begun again although it had been begun before.
    JobRunTwice {
        /// The job.
        job: JobId,
        /// The runner that began it again.
        runner: RunnerId,
        /// When.
        at: Timestamp,
    },
}
