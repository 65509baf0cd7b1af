//! What a workflow job is: as it is asked for, and as GitHub has it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{JobId, RunId, RunnerId};

/// A job to be queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// `owner/name`.
    pub repository: String,
    /// What the job asks for in `runs-on`.
    pub labels: Vec<String>,
    /// Its name. Default `build`.
    #[serde(default = "default_name")]
    pub name: String,
    /// The workflow's name; its file is `.github/workflows/{workflow_name}.yml`. Default `ci`.
    #[serde(default = "default_workflow")]
    pub workflow_name: String,
    /// How long the agent is to run it, told to it in [`AgentJob`](super::AgentJob). Default 0.
    #[serde(default)]
    pub seconds: u64,
    /// Whether it first waits for a deployment to be approved, until
    /// [`release_job`](super::Simulator::release_job). Default false.
    #[serde(default)]
    pub waiting: bool,
    /// The run that it belongs to. None, the default: a run of its own.
    #[serde(default)]
    pub run: Option<RunId>,
}

fn default_name() -> String {
    "build".to_owned()
}

fn default_workflow() -> String {
    "ci".to_owned()
}

impl JobSpec {
    /// A job with these labels in this repository (`owner/name`); all else by default.
    pub fn new<L: Into<String>>(repository: &str, labels: impl IntoIterator<Item = L>) -> Self {
        Self {
            repository: repository.to_owned(),
            labels: labels.into_iter().map(Into::into).collect(),
            name: default_name(),
            workflow_name: default_workflow(),
            seconds: 0,
            waiting: false,
            run: None,
        }
    }

    /// The same, to be run for so long.
    #[must_use]
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    /// The same, waiting for a deployment's approval first.
    #[must_use]
    pub fn waiting(mut self) -> Self {
        self.waiting = true;
        self
    }

    /// The same, as a part of this run.
    #[must_use]
    pub fn in_run(mut self, run: RunId) -> Self {
        self.run = Some(run);
        self
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// For a deployment's approval.
    Waiting,
    /// For a runner.
    Queued,
    /// On a runner.
    InProgress,
    /// Ended.
    Completed,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// Well.
    Success,
    /// Badly, or its runner was lost.
    Failure,
    /// Somebody, or GitHub after a day in the queue, cancelled it.
    Cancelled,
    /// It was not to run.
    Skipped,
}

impl Conclusion {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

impl JobStatus {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }
}

/// A job as GitHub truly has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Its run.
    pub run: RunId,
    /// The attempt of the run that it belongs to, from 1.
    pub attempt: u64,
    /// `owner/name`.
    pub repository: String,
    /// Its name.
    pub name: String,
    /// Its workflow's name.
    pub workflow_name: String,
    /// What it asks for.
    pub labels: Vec<String>,
    /// How long it is to run.
    pub seconds: u64,
    /// Where it stands.
    pub status: JobStatus,
    /// How it ended.
    pub conclusion: Option<Conclusion>,
    /// The runner that began it.
    pub runner: Option<JobRunner>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its runner began it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Whether it was begun, and not ended by its runner.
    pub lost: bool,
    /// Whether it was cancelled while it ran.
    pub cancel_requested: bool,
    #[serde(skip)]
    pub(super) repository_id: u64,
}

/// The runner that a job began on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRunner {
    /// The runner.
    pub id: RunnerId,
    /// Its name.
    pub name: String,
    /// The id of its group at GitHub.
    pub group_id: u64,
    /// The name of its group at GitHub.
    pub group_name: String,
}

/// Why a call about a job or run did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotPossible {
    /// There is none of this id, or no repository of this name.
    #[error("there is no such job, run or repository")]
    Unknown,
    /// It is not in a state for this.
    #[error("the job or run is not in a state for this")]
    WrongState,
}

pub(super) fn workflow_path(workflow_name: &str) -> String {
    format!(".github/workflows/{workflow_name}.yml")
}
