//! What is told of what went wrong: behind a job that waits, and with runners.

use jiff::Timestamp;
use runner_manager_core::domain;
use runner_manager_core::manager;
use runner_manager_core::policy::waiting;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EndedRunner, Job, Time};

/// Something that was said when something failed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Failure {
    /// What was said.
    pub(crate) detail: String,
    /// When.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
}

impl From<&domain::Failure> for Failure {
    fn from(failure: &domain::Failure) -> Self {
        Self { detail: failure.detail.clone(), at: failure.at }
    }
}

impl Failure {
    /// What people are told.
    pub(crate) fn sentence(&self) -> String {
        format!("last error at {:.0}: {}", self.at, self.detail)
    }
}

/// What last went wrong for a job's group.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LastError {
    /// What went wrong, in words.
    pub(crate) what: String,
    /// What was said.
    pub(crate) detail: String,
    /// When.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
}

impl From<&waiting::LastError> for LastError {
    fn from(error: &waiting::LastError) -> Self {
        Self { what: error.what.clone(), detail: error.last.detail.clone(), at: error.last.at }
    }
}

impl Job {
    /// The last error behind its waiting, in words: only when that was, where the reason says the rest.
    pub(crate) fn error_sentence(&self) -> Option<String> {
        let LastError { what, detail, at } = self.last_error.as_ref()?;
        let is_told = self.waits.as_ref().is_some_and(|waits| waits.contains(detail.as_str()));
        Some(if is_told {
            format!("last error at {at:.0}")
        } else {
            format!("last error at {at:.0}: {what}: {detail}")
        })
    }
}

/// A runner that something went wrong with.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FailedRunner {
    /// Its name.
    pub(crate) name: String,
    /// When it ended; null while it goes on.
    #[schemars(with = "Option<Time>")]
    pub(crate) ended_at: Option<Timestamp>,
    /// Why it ended, or its state, in words.
    pub(crate) what: String,
    /// What last went wrong with what was done for it.
    pub(crate) last_error: Option<Failure>,
    /// What its machine said and was given, in order; empty where machines say nothing.
    #[serde(default)]
    pub(crate) timeline: Vec<Told>,
}

/// Something that a machine said, or was given.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Told {
    /// When.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
    /// What, in words.
    pub(crate) what: String,
}

impl Told {
    /// All of a timeline.
    pub(crate) fn all(timeline: &[domain::Told]) -> Vec<Self> {
        timeline.iter().map(|told| Self { at: told.at, what: told.what.clone() }).collect()
    }
}

impl From<&manager::FailedRunner> for FailedRunner {
    fn from(failed: &manager::FailedRunner) -> Self {
        Self {
            name: failed.name.to_string(),
            ended_at: failed.ended_at,
            what: failed.what.clone(),
            last_error: failed.last_error.as_ref().map(Failure::from),
            timeline: Told::all(&failed.timeline),
        }
    }
}

impl FailedRunner {
    /// What people are told.
    pub(crate) fn sentence(&self) -> String {
        let ended = self.ended_at.map_or_else(String::new, |at| format!("ended at {at:.0}: "));
        let error =
            self.last_error.as_ref().map_or_else(String::new, |error| format!("; {}", error.sentence()));
        let told = self.timeline.iter().map(|told| format!("{:.0} {}", told.at, told.what));
        let told = told.collect::<Vec<_>>().join(", ");
        let told = if told.is_empty() { told } else { format!("; its machine: {told}") };
        format!("runner {}: {ended}{}{error}{told}", self.name, self.what)
    }
}

impl From<&manager::JobExplanation> for Job {
    fn from(explanation: &manager::JobExplanation) -> Self {
        let failed_runners = explanation.failed_runners.iter().map(FailedRunner::from).collect();
        Self { failed_runners, ..Self::from(&explanation.status) }
    }
}

impl From<&domain::EndedRunner> for EndedRunner {
    fn from(ended: &domain::EndedRunner) -> Self {
        Self {
            name: ended.name.to_string(),
            group: ended.group.to_string(),
            backend: ended.backend.to_string(),
            requested_at: ended.requested_at,
            ended_at: ended.ended_at,
            why: ended.why.to_string(),
            last_error: ended.trouble.as_ref().map(Failure::from),
            timeline: Told::all(&ended.timeline),
        }
    }
}
