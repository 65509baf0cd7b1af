//! Jobs whose machine was lost under them: recorded in the step that learns of it, followed until GitHub has ended
//! them, and run again, once, where their group wants that.
//!
//! Once: a re-run is had by a write that is named after the run and the job's name, which the store makes once,
//! whoever asks. GitHub is looked at before it is asked, so that a call whose answer was lost is not made again.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::Manager;
use super::advance::Consequences;
use super::calls::CallError;
use super::worker::{TaskError, Work};
use crate::domain::{
    Failure, GroupName, JobId, JobReport, OperationId, Rerun, RetireReason, Runner, RunnerState, Scope,
    WorkflowJob, later,
};
use crate::flaws::{Flaw, is_on};
use crate::github::{GitHubError, GitHubErrorKind};
use crate::policy::loss::{ASKED_EVERY, Lost, MOST_REFUSALS, Step, is_rerun_of, mark, next, of_end};
use crate::queue::{ClaimToken, NewTask, Task};
use crate::store::{Change, Expected, StoreError, Versioned, Write};

/// When a job is first looked at that lost its machine: it may have ended a moment before.
const FIRST_LOOK: Duration = Duration::from_mins(1);

/// The task that follows a job that lost its machine.
pub(super) const fn follow(job: JobId, at: Timestamp) -> NewTask {
    NewTask::at(Task::FollowLostJob { job }, at)
}

/// A job that lost its machine, and what became of that.
pub(super) type LostJob = (JobId, String);

impl Manager {
    /// Adds to what follows for a runner that its job lost its machine, where it did.
    pub(super) async fn add_lost_job(
        &self,
        runner: &Runner,
        write: &mut Consequences,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let RunnerState::Busy { job: Some(job) } = &runner.state else { return Ok(()) };
        let Some(lost) = why_taken_away(write).and_then(|why| of_end(runner, why, now)) else {
            return Ok(());
        };
        let Some(job) = self.store().job(job.id).await? else { return Ok(()) };
        if let Some(marked) = self.lose(&job.value, runner, lost.clone()).await? {
            write.lost = Some((marked.id, lost.why));
            write.tasks.push(follow(marked.id, later(now, FIRST_LOOK)));
            let expected = Expected::Version(job.version);
            write.changes.push(Change::PutJob { job: marked, expected });
        }
        Ok(())
    }

    /// The record of a job whose runner lost its machine, where that is not on record.
    pub(super) async fn lose(
        &self,
        job: &WorkflowJob,
        runner: &Runner,
        lost: Lost,
    ) -> Result<Option<WorkflowJob>, StoreError> {
        Ok(mark(job, runner, lost, self.reruns_on_loss(&runner.group).await?))
    }

    async fn reruns_on_loss(&self, group: &GroupName) -> Result<bool, StoreError> {
        let groups = self.listed_groups().await?;
        Ok(groups.iter().any(|listed| listed.spec.name == *group && listed.spec.rerun_on_loss))
    }

    /// Says that a job is on record as lost.
    pub(super) fn tell_of_lost_job(&self, (job, why): &LostJob) {
        self.inner.statistics.count(|counters| counters.jobs_lost += 1);
        tracing::warn!(%job, why, "a job lost its machine");
    }

    /// Sees how GitHub ends a job that lost its machine, and has it run again where that is wanted.
    pub(super) async fn follow_lost_job(&self, claim: &ClaimToken, id: JobId) -> Result<Work, TaskError> {
        let Some(mut job) = self.store().job(id).await? else { return Ok(Work::Done) };
        if !job.value.is_completed() {
            self.ask_for_job(&job.value.reference()).await?;
            let Some(read) = self.store().job(id).await? else { return Ok(Work::Done) };
            job = read;
        }
        let now = self.now().await?;
        match next(&job.value, now) {
            Step::Nothing => Ok(Work::Done),
            Step::SeeWhetherItEnded { again } => Ok(Work::AgainAt(again)),
            Step::Refuse(detail) => {
                self.settle_rerun(claim, &job, Rerun::Refused { why: Failure::new(&detail, now) }).await
            }
            Step::Rerun => self.rerun(claim, job, now).await,
        }
    }

    /// Has GitHub run a job again, once its run has ended, unless somebody did already.
    async fn rerun(
        &self,
        claim: &ClaimToken,
        job: Versioned<WorkflowJob>,
        now: Timestamp,
    ) -> Result<Work, TaskError> {
        self.rely_on_the_store().await?;
        let (repository, run) = (job.value.repository.clone(), job.value.run);
        let scope = Scope::Repository(repository.clone());
        let listed = self.ask_github(&scope, "latest_jobs", |github| github.latest_jobs(&repository, run));
        let latest = match listed.await {
            Ok(latest) => latest,
            Err(error) => return self.not_rerun(claim, &job, error, now).await,
        };
        if latest.iter().any(|seen| is_rerun_of(seen, &job.value)) && !is_on(Flaw::RerunAgain) {
            return self.settle_rerun(claim, &job, Rerun::Done { at: now }).await;
        }
        if latest.iter().any(|seen| !matches!(seen.report, JobReport::Completed { .. })) {
            return Ok(Work::AgainAt(later(now, ASKED_EVERY)));
        }
        let Some(job) = self.take_the_rerun(claim, job, now).await? else { return Ok(Work::Done) };
        let id = job.value.id;
        match self.ask_github(&scope, "rerun_job", |github| github.rerun_job(&repository, id)).await {
            Ok(()) => self.settle_rerun(claim, &job, Rerun::Done { at: now }).await,
            Err(error) => self.not_rerun(claim, &job, error, now).await,
        }
    }

    /// What follows where GitHub did not do what it was asked: what it said is kept.
    async fn not_rerun(
        &self,
        claim: &ClaimToken,
        job: &Versioned<WorkflowJob>,
        error: CallError<GitHubError>,
        now: Timestamp,
    ) -> Result<Work, TaskError> {
        let (CallError::Failed(error), Some(Rerun::Wanted { taken, refusals, .. })) =
            (&error, rerun_of(&job.value))
        else {
            return Err(error.into());
        };
        let last = Failure::new(&error.to_string(), now);
        let is_refusal =
            matches!(error.kind, GitHubErrorKind::PermissionDenied | GitHubErrorKind::NoInstallation);
        let refusals = refusals + u32::from(is_refusal);
        if is_final(error) || refusals >= MOST_REFUSALS {
            return self.settle_rerun(claim, job, Rerun::Refused { why: last }).await;
        }
        let wanted = Rerun::Wanted { taken: *taken, refusals, last: Some(last) };
        self.put_rerun(claim, job, wanted, self.operation(), false).await?;
        // GitHub says the same of a run that it does not call ended yet.
        if is_refusal {
            return Ok(Work::AgainAt(later(now, ASKED_EVERY)));
        }
        Err(TaskError::outside(error, error.retry))
    }

    /// Takes the one re-run that a job's name has in its run. Nothing where another job had it.
    async fn take_the_rerun(
        &self,
        claim: &ClaimToken,
        job: Versioned<WorkflowJob>,
        now: Timestamp,
    ) -> Result<Option<Versioned<WorkflowJob>>, TaskError> {
        let Some(Rerun::Wanted { taken: false, refusals, last }) = rerun_of(&job.value) else {
            return Ok(Some(job));
        };
        let wanted = Rerun::Wanted { taken: true, refusals: *refusals, last: last.clone() };
        let name = if is_on(Flaw::RerunAgain) { self.operation() } else { name_of_rerun(&job.value) };
        self.put_rerun(claim, &job, wanted, name, true).await?;
        let Some(read) = self.store().job(job.value.id).await? else { return Ok(None) };
        if matches!(rerun_of(&read.value), Some(Rerun::Wanted { taken: true, .. })) {
            return Ok(Some(read));
        }
        let detail = "a job of its name in this run was run again already after it had lost its machine";
        self.settle_rerun(claim, &read, Rerun::Refused { why: Failure::new(detail, now) }).await?;
        Ok(None)
    }

    async fn settle_rerun(
        &self,
        claim: &ClaimToken,
        job: &Versioned<WorkflowJob>,
        rerun: Rerun,
    ) -> Result<Work, TaskError> {
        let outcome = if matches!(rerun, Rerun::Done { .. }) { "done" } else { "refused" };
        let why = rerun.last().map(|last| last.detail.clone());
        self.put_rerun(claim, job, rerun, self.operation(), false).await?;
        self.inner.statistics.count(|counters| *counters.job_reruns.entry(outcome).or_default() += 1);
        tracing::info!(job = %job.value.reference(), outcome, why, "the re-run of a job that lost its machine");
        Ok(Work::Done)
    }

    /// Writes how far a re-run has come, by a write of this name: one that was made before changes nothing.
    async fn put_rerun(
        &self,
        claim: &ClaimToken,
        job: &Versioned<WorkflowJob>,
        rerun: Rerun,
        name: OperationId,
        on_trust: bool,
    ) -> Result<(), StoreError> {
        let mut put = job.value.clone();
        if let Some(loss) = &mut put.lost {
            loss.rerun = rerun;
        }
        let write = Write {
            operation: name,
            claim: Some(claim.clone()),
            ends_claim: false,
            on_trust,
            changes: vec![Change::PutJob { job: put, expected: Expected::Version(job.version) }],
            tasks: Vec::new(),
        };
        self.apply(write).await.map(drop)
    }
}

/// Why a runner is or was taken away by a change.
fn why_taken_away(write: &Consequences) -> Option<&RetireReason> {
    match write.after.as_deref().map(|after| &after.state) {
        Some(RunnerState::Retiring { why, .. }) => Some(why),
        Some(_) => None,
        None => write.ended.as_ref(),
    }
}

fn rerun_of(job: &WorkflowJob) -> Option<&Rerun> {
    job.lost.as_deref().map(|loss| &loss.rerun)
}

/// What names the one re-run of a job's name in its run: the job's number changes with each attempt.
fn name_of_rerun(job: &WorkflowJob) -> OperationId {
    let name = hex::encode(&Sha256::digest(job.name.as_bytes())[..8]);
    OperationId::new(format!("rerun:{}:{}:{name}", job.repository, job.run))
}

/// Whether GitHub will say the same another time.
const fn is_final(error: &GitHubError) -> bool {
    match error.kind {
        GitHubErrorKind::NotFound | GitHubErrorKind::Invalid | GitHubErrorKind::Unauthenticated => true,
        GitHubErrorKind::NameTaken
        | GitHubErrorKind::Busy
        | GitHubErrorKind::PermissionDenied
        | GitHubErrorKind::NoInstallation
        | GitHubErrorKind::RateLimited
        | GitHubErrorKind::Unavailable
        | GitHubErrorKind::Unclear
        | GitHubErrorKind::Unexpected => false,
    }
}
