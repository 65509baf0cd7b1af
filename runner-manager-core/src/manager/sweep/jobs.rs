//! Jobs of which we did not hear all: asked for at GitHub, one by one.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Manager;
use super::super::worker::TaskError;
use crate::domain::{GroupName, JobRef, OperationId, Runner, RunnerState, Scope};
use crate::store::{JobFilter, Page};

/// How many of a group's jobs one sweep asks for, beside one for each runner whose job is not known.
const JOBS_ASKED: usize = 20;

impl Manager {
    /// Asks GitHub for the longest waiting jobs of the groups of runners that have a job, or had one, of which
    /// we did not hear: it must be among them. As long as it counts as waiting, a runner would be made for it
    /// in vain.
    pub(super) async fn ask_for_unheard_jobs(
        &self,
        runners: impl Iterator<Item = &Runner>,
    ) -> Result<(), TaskError> {
        let mut unheard: BTreeMap<&GroupName, BTreeSet<&str>> = BTreeMap::new();
        for runner in runners.filter(|runner| has_no_job_yet(&runner.state)) {
            if let Some(job) = &runner.presumed
                && self.ask_for_job(job).await?.as_deref() == Some(runner.name.as_str())
            {
                continue;
            }
            unheard.entry(&runner.group).or_default().insert(runner.name.as_str());
        }
        for (group, mut left) in unheard {
            let filter = JobFilter::Queued(group.clone());
            for job in self.store().jobs(&filter, &Page::first(left.len() + JOBS_ASKED)).await? {
                // Another runner's news leaves the job of this one unheard.
                if let Some(runner) = self.ask_for_job(&job.value.reference()).await? {
                    left.remove(&*runner);
                }
                if left.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads a job at GitHub and takes in what is said, as if a webhook had; tells which runner has or had it.
    pub(in crate::manager) async fn ask_for_job(&self, job: &JobRef) -> Result<Option<String>, TaskError> {
        let scope = Scope::Repository(job.repository.clone());
        let begun = self.now().await?;
        match self.ask_github(&scope, "job", |github| github.job(&job.repository, job.id)).await {
            Ok(Some(seen)) => {
                let operation = OperationId::new(format!("{}:swept", self.operation()));
                self.take_in(&operation, &seen, Some(begun)).await?;
                Ok(seen.report.into_runner())
            }
            Ok(None) => Ok(None),
            Err(error) => {
                let error = TaskError::from(error);
                tracing::warn!(%job, %error, "GitHub did not say how the job fares");
                Ok(None)
            }
        }
    }
}

/// Whether a job that the runner has or had by now is not on its record.
const fn has_no_job_yet(state: &RunnerState) -> bool {
    match state {
        RunnerState::Requested
        | RunnerState::Creating { .. }
        | RunnerState::Booting
        | RunnerState::Idle { .. }
        | RunnerState::Busy { job: None } => true,
        RunnerState::Busy { job: Some(_) } | RunnerState::Retiring { .. } => false,
    }
}
