//! What is told of a job that lost its machine.

use jiff::Timestamp;
use runner_manager_core::domain::{self, Rerun};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Failure, Time};

/// That a job lost the machine under it before it had ended.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Loss {
    /// When the machine was first seen to have ended or to be missing.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
    /// The runner whose machine it was.
    pub(crate) runner: String,
    /// What became of the machine, in words.
    pub(crate) why: String,
    /// Whether the job is run again: `unwanted` (its group has no `rerun_on_loss`), `wanted`, `done` or `refused`.
    pub(crate) rerun: String,
    /// What went wrong last when it was to be run again.
    pub(crate) rerun_error: Option<Failure>,
}

impl From<&domain::Loss> for Loss {
    fn from(loss: &domain::Loss) -> Self {
        let rerun = match &loss.rerun {
            Rerun::Unwanted => "unwanted",
            Rerun::Wanted { .. } => "wanted",
            Rerun::Done { .. } => "done",
            Rerun::Refused { .. } => "refused",
        };
        Self {
            at: loss.at,
            runner: loss.runner.to_string(),
            why: loss.why.clone(),
            rerun: rerun.to_owned(),
            rerun_error: loss.rerun.last().map(Failure::from),
        }
    }
}

impl Loss {
    /// What people are told.
    pub(crate) fn sentence(&self) -> String {
        let said = self
            .rerun_error
            .as_ref()
            .map_or_else(String::new, |error| format!(" ({:.0}: {})", error.at, error.detail));
        let rerun = match &*self.rerun {
            "unwanted" => "it is not run again: its group has no rerun_on_loss",
            "wanted" => "it is run again once GitHub has ended it and its run",
            "done" => "GitHub runs it again",
            _ => "it is not run again",
        };
        format!("lost its machine at {:.0}: {}; {rerun}{said}", self.at, self.why)
    }
}
