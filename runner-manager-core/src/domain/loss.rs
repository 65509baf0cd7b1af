//! Jobs whose machine was lost under them: told apart from jobs that failed by themselves.
//!
//! What counts as a loss, and when such a job is run again, is decided by [`policy::loss`](crate::policy::loss).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Failure, RunnerName};

/// That the machine under a job was lost before the job had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// When the machine was first seen to have ended or to be missing, by the store's time.
    pub at: Timestamp,
    /// The runner whose machine it was.
    pub runner: RunnerName,
    /// What became of the machine, in the backend's own words where it had any.
    pub why: String,
    /// Whether the job is run again for it.
    pub rerun: Rerun,
}

/// Whether a job that lost its machine is run again, and how far that has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Rerun {
    /// Its group has no `rerun_on_loss`.
    Unwanted,
    /// It is to be, as soon as GitHub has ended it and its run.
    Wanted {
        /// Whether this job has the one re-run that its name has in its run: GitHub may have been asked.
        taken: bool,
        /// How often GitHub refused.
        refusals: u32,
        /// What went wrong last.
        last: Option<Failure>,
    },
    /// GitHub runs it again.
    Done {
        /// Since when we know, by the store's time.
        at: Timestamp,
    },
    /// It is not, and never will be by us.
    Refused {
        /// Why not, and when that was found.
        why: Failure,
    },
}

impl Rerun {
    /// A re-run that nobody has asked for yet.
    pub const WANTED: Self = Self::Wanted { taken: false, refusals: 0, last: None };

    /// The last thing that went wrong.
    pub const fn last(&self) -> Option<&Failure> {
        match self {
            Self::Wanted { last, .. } => last.as_ref(),
            Self::Refused { why } => Some(why),
            Self::Unwanted | Self::Done { .. } => None,
        }
    }
}
