//! Instances: the machines or containers of runners, as a backend sees them.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{GroupName, InstanceId, RunnerName};

/// Why an instance failed, as far as the backend can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceFailure {
    /// There was no room for it.
    NoCapacity,
    /// A quota does not allow it.
    QuotaExceeded,
    /// The cloud took it back (spot, preemption).
    Reclaimed,
    /// It was made, but its runner never registered at GitHub.
    NeverRegistered,
    /// Anything else.
    Other,
}

/// What an instance is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Accepted, not running yet.
    Pending,
    /// Running.
    Running,
    /// Not running any more, but still there: most clouds bill or count it.
    Stopped,
    /// It will never run.
    Failed(InstanceFailure, String),
    /// It does not exist any more, though the backend still tells of it.
    Gone,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("pending"),
            Self::Running => f.write_str("running"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed(_, why) => write!(f, "failed: {why}"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

/// One instance that bears our owner mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// How the backend finds it again.
    pub id: InstanceId,
    /// The runner that it was made for, from its tags.
    pub runner: RunnerName,
    /// The group of that runner, from its tags.
    pub group: GroupName,
    /// What it is doing.
    pub state: InstanceState,
    /// When the backend began to make it, by the backend's clock.
    pub created_at: Timestamp,
}
