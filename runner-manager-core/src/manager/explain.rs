//! Why jobs wait, with what went wrong behind it. Reads only, and no more of runners than people can use.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::Manager;
use crate::domain::{
    EndedRunner, Failure, GroupName, JobId, Phase, Runner, RunnerName, Scope, Told, WorkflowJob,
};
use crate::policy::waiting::{Hindrances, LastError, WaitReason, last_error, reason};
use crate::store::{GroupView, JobFilter, Page, RunnerFilter, StoreError, Versioned};

/// The most failed runners that one job is told with.
pub const MOST_FAILED: usize = 10;

/// How many of the runners that ended last are looked at for those of one group.
const ENDED_LOOKED_AT: usize = 200;

/// How many runners of a group are looked at, of those that have been longest in a phase.
const LOOKED_AT_IN_PHASE: usize = 50;

/// A job as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// The record.
    pub job: WorkflowJob,
    /// Why it waits, where it does.
    pub reason: Option<WaitReason>,
    /// What last went wrong for its group, where it waits for one.
    pub last_error: Option<LastError>,
}

/// A job with all that is known of why it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobExplanation {
    /// The job.
    pub status: JobStatus,
    /// The runners of its group that fail, or have failed since GitHub made the job, the newest first: at most
    /// [`MOST_FAILED`]. None where it does not wait for a group.
    pub failed_runners: Vec<FailedRunner>,
}

/// A runner that something went wrong with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRunner {
    /// Its name.
    pub name: RunnerName,
    /// When it ended; none while it goes on.
    pub ended_at: Option<Timestamp>,
    /// Why it ended, or its phase, in words.
    pub what: String,
    /// What was last said when something was done for it, and when.
    pub last_error: Option<Failure>,
    /// What its machine said, and was given.
    pub timeline: Vec<Told>,
}

impl FailedRunner {
    fn alive(runner: &Runner) -> Option<Self> {
        let last_error = Some(runner.trouble.clone()?);
        let what = runner.phase().to_string();
        let timeline = runner.machine.timeline.clone();
        Some(Self { name: runner.name.clone(), ended_at: None, what, last_error, timeline })
    }

    fn ended(ended: EndedRunner) -> Option<Self> {
        ended.why.is_failure().then(|| Self {
            name: ended.name,
            ended_at: Some(ended.ended_at),
            what: ended.why.to_string(),
            last_error: ended.trouble,
            timeline: ended.timeline,
        })
    }

    fn at(&self) -> Option<Timestamp> {
        self.ended_at.or_else(|| self.last_error.as_ref().map(|error| error.at))
    }
}

impl Manager {
    /// A page of jobs, each with why it waits.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn jobs(&self, filter: &JobFilter, page: &Page<JobId>) -> Result<Vec<JobStatus>, StoreError> {
        let (now, groups) = (self.now().await?, self.store().groups().await?);
        let hindrances = self.hindrances(&groups).await?;
        let jobs = self.store().jobs(filter, page).await?;
        Ok(jobs.into_iter().map(|job| status(job, &groups, &hindrances, now)).collect())
    }

    /// One job, with why it waits and the runners that failed meanwhile; `None` where it is not on record.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn job(&self, id: JobId) -> Result<Option<JobExplanation>, StoreError> {
        let Some(job) = self.store().job(id).await? else { return Ok(None) };
        let (now, groups) = (self.now().await?, self.store().groups().await?);
        let hindrances = self.hindrances(&groups).await?;
        let status = status(job, &groups, &hindrances, now);
        let failed_runners = match status.job.demand() {
            Some(group) => self.failed_runners(group, status.job.created_at).await?,
            None => Vec::new(),
        };
        Ok(Some(JobExplanation { status, failed_runners }))
    }

    /// The runners of a group that fail, or have failed since a time, the newest first.
    async fn failed_runners(
        &self,
        group: &GroupName,
        since: Timestamp,
    ) -> Result<Vec<FailedRunner>, StoreError> {
        let mut failed = Vec::new();
        for phase in [Phase::Requested, Phase::Creating, Phase::Booting, Phase::Retiring] {
            let filter = RunnerFilter::Phase(group.clone(), phase);
            let alive = self.store().runners(&filter, &Page::first(LOOKED_AT_IN_PHASE)).await?;
            failed.extend(alive.iter().filter_map(|runner| FailedRunner::alive(&runner.value)));
        }
        let ended = self.store().ended_runners(ENDED_LOOKED_AT).await?;
        let of_group = ended.into_iter().filter(|ended| ended.group == *group && ended.ended_at >= since);
        failed.extend(of_group.filter_map(FailedRunner::ended));
        failed.sort_by_key(|runner| std::cmp::Reverse(runner.at()));
        failed.truncate(MOST_FAILED);
        Ok(failed)
    }

    async fn hindrances(&self, groups: &[GroupView]) -> Result<Hindrances, StoreError> {
        let scopes: BTreeSet<&Scope> = groups.iter().map(|view| &view.record.value.spec.scope).collect();
        let mut hindrances = Hindrances { doubt: self.doubt_progress().await?, ..Hindrances::default() };
        for scope in scopes {
            if let Some(until) = self.paused_until(scope).await? {
                hindrances.pauses.insert(scope.clone(), until);
            }
        }
        Ok(hindrances)
    }
}

fn status(
    job: Versioned<WorkflowJob>,
    groups: &[GroupView],
    hindrances: &Hindrances,
    now: Timestamp,
) -> JobStatus {
    let job = job.value;
    let reason = reason(&job, groups, hindrances, now);
    JobStatus { reason, last_error: last_error(&job, groups), job }
}
