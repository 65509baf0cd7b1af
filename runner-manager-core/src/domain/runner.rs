//! Runners: our record of each, and the states it passes through.
//!
//! What may follow what is decided by [`policy::lifecycle`](crate::policy::lifecycle).

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BackendName, GitHubRunnerId, GroupName, InstanceFailure, InstanceId, JobRef, Machine, PlacementKey,
    RunnerName, Scope, Told, bounded,
};

/// How far the making of a runner has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum CreateStep {
    /// GitHub is being asked for a JIT config. Nothing has been asked of the backend.
    Registering,
    /// The backend is being asked, or was and its answer is not known. Never asked again: from here on only
    /// looked up.
    Asked {
        /// When the call began, by the store's time.
        at: Timestamp,
        /// When `create` is known to have ended without a clear answer. Readings begun after the backend's
        /// `settle` time from here count.
        unclear_since: Option<Timestamp>,
    },
}

/// An idle runner that is to go, and what GitHub said of it so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Why it is to go.
    pub reason: RetireReason,
    /// When the first of two readings in a row that called it not busy was over.
    pub not_busy_at: Option<Timestamp>,
    /// Until when its machine is asked itself; none where it cannot be, or need not. No reading counts before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_until: Option<Timestamp>,
}

/// How far a retirement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum RetireStep {
    /// GitHub is being asked to remove the registration.
    Deregister,
    /// The registration is gone; a job assigned at the last moment may still show itself.
    Grace {
        /// Until when.
        until: Timestamp,
    },
    /// The backend is being asked to delete the instance.
    Delete,
    /// The deletion was accepted; the backend has yet to say that the instance is absent.
    Confirm,
    /// The instance was found without a record and without a registration. If a second reading, some time
    /// later, says the same, it is deleted.
    Suspect {
        /// When the first reading was begun.
        since: Timestamp,
    },
}

/// Why a runner is taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum RetireReason {
    /// Its job completed.
    JobCompleted {
        /// The job.
        job: JobRef,
    },
    /// No job needs it.
    Surplus,
    /// It has been idle for longer than `max_idle_age`.
    TooOld,
    /// It did not register within `start_timeout`.
    StartTimeout,
    /// Its job ran for longer than `max_job_time`.
    JobTimeout {
        /// The job, where we know it.
        job: Option<JobRef>,
    },
    /// GitHub refused to register it, or its registration's secret was lost on the way.
    RegistrationFailed {
        /// What GitHub said.
        detail: String,
    },
    /// GitHub has no registration of it any more.
    RegistrationGone,
    /// The backend refused to create its instance.
    CreateFailed {
        /// What kind of refusal.
        kind: InstanceFailure,
        /// What the backend said.
        detail: String,
    },
    /// The backend's answer to `create` was lost, and no instance was found afterwards.
    NeverCreated,
    /// It lost its connection to GitHub.
    Offline,
    /// Its instance was found without a record and without a registration.
    Orphan,
    /// Its instance does not exist any more.
    InstanceGone,
    /// Its instance stopped.
    InstanceStopped,
    /// Its instance failed.
    InstanceFailed {
        /// What kind of failure.
        kind: InstanceFailure,
        /// What the backend said.
        detail: String,
    },
    /// Its machine said that it ends, and was not asked to.
    MachineEnded {
        /// Whether something failed on it.
        failed: bool,
        /// What it said.
        detail: String,
    },
    /// An operator asked for it; forced where a running job does not matter.
    Operator {
        /// Whether a running job may be killed for it.
        force: bool,
    },
}

impl RetireReason {
    /// Whether it is that something went wrong with the runner: not that it did its work, was needed no more, or
    /// was asked to go.
    pub const fn is_failure(&self) -> bool {
        match self {
            Self::StartTimeout
            | Self::RegistrationFailed { .. }
            | Self::RegistrationGone
            | Self::CreateFailed { .. }
            | Self::NeverCreated
            | Self::Offline
            | Self::InstanceGone
            | Self::InstanceStopped
            | Self::InstanceFailed { .. } => true,
            Self::MachineEnded { failed, .. } => *failed,
            Self::JobCompleted { .. }
            | Self::Surplus
            | Self::TooOld
            | Self::JobTimeout { .. }
            | Self::Orphan
            | Self::Operator { .. } => false,
        }
    }

    /// The same, with no more of what others said than is kept.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        match &mut self {
            Self::RegistrationFailed { detail }
            | Self::CreateFailed { detail, .. }
            | Self::InstanceFailed { detail, .. }
            | Self::MachineEnded { detail, .. } => *detail = bounded(detail, Failure::LONGEST_DETAIL),
            Self::JobCompleted { .. }
            | Self::Surplus
            | Self::TooOld
            | Self::StartTimeout
            | Self::JobTimeout { .. }
            | Self::RegistrationGone
            | Self::NeverCreated
            | Self::Offline
            | Self::Orphan
            | Self::InstanceGone
            | Self::InstanceStopped
            | Self::Operator { .. } => {}
        }
        self
    }
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JobCompleted { job } => write!(f, "job {job} completed"),
            Self::Surplus => f.write_str("no job needs it"),
            Self::TooOld => f.write_str("idle for longer than max_idle_age"),
            Self::StartTimeout => f.write_str("not registered within start_timeout"),
            Self::JobTimeout { job: Some(job) } => write!(f, "job {job} ran for longer than max_job_time"),
            Self::JobTimeout { job: None } => f.write_str("its job ran for longer than max_job_time"),
            Self::RegistrationFailed { detail } => write!(f, "registration failed: {detail}"),
            Self::RegistrationGone => f.write_str("GitHub has no registration of it any more"),
            Self::Offline => f.write_str("it lost its connection to GitHub"),
            Self::Orphan => f.write_str("its instance was found without a record and without a registration"),
            Self::CreateFailed { detail, .. } => write!(f, "create failed: {detail}"),
            Self::NeverCreated => f.write_str("the answer to create was lost and no instance appeared"),
            Self::InstanceGone => f.write_str("its instance is gone"),
            Self::InstanceStopped => f.write_str("its instance stopped"),
            Self::InstanceFailed { detail, .. } => write!(f, "its instance failed: {detail}"),
            Self::MachineEnded { failed: true, detail } => write!(f, "its machine failed: {detail}"),
            Self::MachineEnded { failed: false, detail } => write!(f, "its machine left: {detail}"),
            Self::Operator { force: true } => f.write_str("an operator forced it"),
            Self::Operator { force: false } => f.write_str("an operator asked for it"),
        }
    }
}

/// Where a runner is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RunnerState {
    /// A slot is reserved; nothing has been made.
    Requested,
    /// GitHub and the backend are being asked, once.
    Creating {
        /// How far that has come.
        create: CreateStep,
    },
    /// The instance exists, or is known to be coming.
    Booting,
    /// Registered at GitHub and waiting for a job.
    Idle {
        /// Set while the runner is to go.
        leaving: Option<Leaving>,
    },
    /// It runs a job, or GitHub says that it does.
    Busy {
        /// The job, where we know it.
        job: Option<JobRef>,
    },
    /// It is being taken away.
    Retiring {
        /// Why.
        why: RetireReason,
        /// How far that has come.
        retire: RetireStep,
    },
}

impl RunnerState {
    /// Whether it is on its way out.
    pub const fn is_leaving(&self) -> bool {
        match self {
            Self::Idle { leaving } => leaving.is_some(),
            Self::Retiring { .. } => true,
            Self::Requested | Self::Creating { .. } | Self::Booting | Self::Busy { .. } => false,
        }
    }
}

/// A runner's state without its data: what is counted and indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// See [`RunnerState::Requested`].
    Requested,
    /// See [`RunnerState::Creating`].
    Creating,
    /// See [`RunnerState::Booting`].
    Booting,
    /// See [`RunnerState::Idle`].
    Idle,
    /// See [`RunnerState::Busy`].
    Busy,
    /// See [`RunnerState::Retiring`].
    Retiring,
}

impl Phase {
    /// All phases, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Requested, Self::Creating, Self::Booting, Self::Idle, Self::Busy, Self::Retiring];

    /// The phase's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Creating => "creating",
            Self::Booting => "booting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Retiring => "retiring",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Our record of one runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Its name, at GitHub and at the backend; never used twice.
    pub name: RunnerName,
    /// The group that it was made for.
    pub group: GroupName,
    /// Where it registers.
    pub scope: Scope,
    /// The backend that it lives on.
    pub backend: BackendName,
    /// The one placement that is tried for it.
    pub placement: PlacementKey,
    /// When its slot was reserved, by the store's time.
    pub requested_at: Timestamp,
    /// When its present phase began, by the store's time.
    pub since: Timestamp,
    /// GitHub's number of its registration, once there is one.
    pub registration: Option<GitHubRunnerId>,
    /// When it was first known to be online at GitHub, by the store's time.
    pub online_at: Option<Timestamp>,
    /// Its instance, once the backend named it.
    pub instance: Option<InstanceId>,
    /// When an answer of the backend first named that instance, by the store's time.
    #[serde(default)]
    pub named_at: Option<Timestamp>,
    /// When a complete reading of its backend first lacked its instance; none while it is there.
    pub missing_since: Option<Timestamp>,
    /// The job that it presumably has, by its machine's word; none once GitHub named it. Nothing is ended on it.
    #[serde(default)]
    pub presumed: Option<JobRef>,
    /// What last went wrong with what is done for it; none once it came up after that.
    #[serde(default)]
    pub trouble: Option<Failure>,
    /// What its machine said.
    #[serde(default, skip_serializing_if = "Machine::is_empty")]
    pub machine: Machine,
    /// Where it is in its life.
    pub state: RunnerState,
}

impl Runner {
    /// The state without its data.
    pub const fn phase(&self) -> Phase {
        match self.state {
            RunnerState::Requested => Phase::Requested,
            RunnerState::Creating { .. } => Phase::Creating,
            RunnerState::Booting => Phase::Booting,
            RunnerState::Idle { .. } => Phase::Idle,
            RunnerState::Busy { .. } => Phase::Busy,
            RunnerState::Retiring { .. } => Phase::Retiring,
        }
    }
}

/// A refusal of a backend or of GitHub, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was said.
    pub detail: String,
    /// When, by the store's time.
    pub at: Timestamp,
}

impl Failure {
    /// How many bytes are kept of what was said.
    pub const LONGEST_DETAIL: usize = 500;

    /// What was said at a time, as much of it as is kept.
    pub fn new(detail: &str, at: Timestamp) -> Self {
        Self { detail: bounded(detail, Self::LONGEST_DETAIL), at }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.0}: {}", self.at, self.detail)
    }
}

/// What is kept for a while of a runner that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRunner {
    /// Its name.
    pub name: RunnerName,
    /// The group that it was made for.
    pub group: GroupName,
    /// The backend that it lived on.
    pub backend: BackendName,
    /// When its slot was reserved.
    pub requested_at: Timestamp,
    /// When its slot became free, by the store's time.
    pub ended_at: Timestamp,
    /// Why it was taken away.
    pub why: RetireReason,
    /// What last went wrong with what was done for it, where it did not come up after that.
    #[serde(default)]
    pub trouble: Option<Failure>,
    /// What its machine said, and was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Told>,
}
