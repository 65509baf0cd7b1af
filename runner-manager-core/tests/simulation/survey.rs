//! What is looked at now and then: whether every waiting job has a reason, whether every group gets on, and
//! whether what was acknowledged is on record.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::domain::{JobId, JobState, Runner, WorkflowJob, later};
use runner_manager_core::manager::{JobStatus, Manager};
use runner_manager_core::policy::waiting::WaitReason;
use runner_manager_core::store::{JobFilter, Page, RunnerFilter, all_runners};

use super::checker::{is_over, patience};
use super::plan::Plan;
use super::shared::{Promise, Shared};

/// How often.
const INTERVAL: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Survey {
    next: Timestamp,
    /// Since when a job is said to get a runner requested at any moment.
    requesting: BTreeMap<JobId, Timestamp>,
}

impl Survey {
    pub(crate) const fn new(began: Timestamp) -> Self {
        Self { next: began, requesting: BTreeMap::new() }
    }

    pub(crate) async fn look(
        &mut self,
        shared: &Shared,
        operator: &Manager,
        plan: &Plan,
        is_quiet: bool,
        somebody_works: bool,
    ) {
        let now = shared.now();
        if !somebody_works {
            // Where no process runs, nobody can be blamed for what is not done.
            self.requesting.clear();
        }
        if now < self.next {
            return;
        }
        self.next = later(now, INTERVAL);
        let jobs = operator.jobs(&JobFilter::All, &Page::first(1_000)).await.unwrap();
        let mut requesting = BTreeMap::new();
        for JobStatus { job, reason: why, .. } in &jobs {
            if why.is_none() && matches!(job.state, JobState::Waiting | JobState::Queued { .. }) {
                let what = format!("job {} waits, and no reason is shown: {:?}", job.id, job.state);
                shared.state().checker.broken(Promise::EveryJob, what);
            }
            if matches!(why, Some(WaitReason::Requesting(_))) {
                let since = self.requesting.get(&job.id).copied().unwrap_or(now);
                requesting.insert(job.id, since);
                if is_over(since, patience(plan.lease, is_quiet), now) {
                    let what = format!("job {} was about to get a runner requested for too long", job.id);
                    shared.state().checker.broken(Promise::EveryJob, what);
                }
            }
        }
        self.requesting = requesting;
        Self::nothing_is_forgotten(shared, jobs.iter().map(|status| &status.job));
    }

    fn nothing_is_forgotten<'j>(shared: &Shared, jobs: impl Iterator<Item = &'j WorkflowJob>) {
        let known: BTreeMap<JobId, u8> = jobs.map(|job| (job.id, rank(&job.state))).collect();
        let mut state = shared.state();
        let forgotten =
            state.checker.jobs().iter().find(|(job, rank)| known.get(job).is_none_or(|known| known < rank));
        if let Some((job, rank)) = forgotten.map(|(job, rank)| (*job, *rank)) {
            let what =
                format!("a webhook of job {job} (rank {rank}) was acknowledged: {:?}", known.get(&job));
            state.checker.broken(Promise::NothingLost, what);
        }
    }

    /// All records of runners.
    pub(crate) async fn runners(&self, shared: &Shared) -> Vec<Runner> {
        let all = all_runners(&*shared.storage, &RunnerFilter::All).await.unwrap();
        all.into_iter().map(|runner| runner.value).collect()
    }
}

const fn rank(state: &JobState) -> u8 {
    match state {
        JobState::Waiting => 0,
        JobState::Queued { .. } | JobState::Presumed { .. } => 1,
        JobState::InProgress { .. } => 2,
        JobState::Completed { .. } => 3,
    }
}
