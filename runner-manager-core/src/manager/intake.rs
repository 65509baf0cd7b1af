//! Taking in what is said of jobs: the record, the runner that has the job, and the tasks that follow, in
//! one write.

use jiff::Timestamp;

use super::Manager;
use super::advance::{Consequences, MOST_CONFLICTS, consequences};
use crate::domain::{
    DeliveryId, GroupName, JobObservation, JobRef, JobReport, JobState, OperationId, RunnerName, WorkflowJob,
};
use crate::policy::jobs;
use crate::policy::lifecycle::Event;
use crate::policy::matching::Asked;
use crate::queue::{NewTask, Priority, Task};
use crate::store::{Change, Expected, StoreError, Versioned, Write};

/// What became of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was new, and is durable now.
    Recorded,
    /// It said nothing that was not on record.
    NothingNew,
    /// This very delivery had been taken in before.
    Repeated,
}

impl Manager {
    /// Takes in what a webhook said of a job. It is durable once this returns.
    ///
    /// `delivery` names the webhook's delivery, by which a repeat is known.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot record it: then it was not taken in, and the sender should be
    /// told so.
    pub async fn observe(&self, delivery: &DeliveryId, seen: &JobObservation) -> Result<Taken, StoreError> {
        let taken = self.take_in(&OperationId::from(delivery), seen).await?;
        let word = match taken {
            Taken::Recorded => "recorded",
            Taken::NothingNew => "nothing_new",
            Taken::Repeated => "repeated",
        };
        self.inner.statistics.count(|counters| *counters.observations.entry(word).or_default() += 1);
        tracing::info!(job = %seen.id, repository = %seen.repository, report = ?seen.report, outcome = word, "job observed");
        Ok(taken)
    }

    pub(super) async fn take_in(
        &self,
        operation: &OperationId,
        seen: &JobObservation,
    ) -> Result<Taken, StoreError> {
        // Most that is said of a waiting job is the first that is heard of it: then there is nothing to
        // read, and one write is all.
        let before = match seen.report {
            JobReport::Queued | JobReport::Waiting => None,
            JobReport::InProgress { .. } | JobReport::Completed { .. } => self.store().job(seen.id).await?,
        };
        self.take_in_after(before, operation, seen).await
    }

    /// Takes in an observation of a job whose record, if any, was read as `before`.
    pub(super) async fn take_in_after(
        &self,
        mut before: Option<Versioned<WorkflowJob>>,
        operation: &OperationId,
        seen: &JobObservation,
    ) -> Result<Taken, StoreError> {
        for _ in 0..MOST_CONFLICTS {
            let Some((changes, tasks)) = self.decide(before.as_ref(), seen).await? else {
                return Ok(Taken::NothingNew);
            };
            let write = Write { operation: operation.clone(), claim: None, on_trust: false, changes, tasks };
            match self.apply(write).await {
                Ok(applied) if applied.repeated => return Ok(Taken::Repeated),
                Ok(_) => return Ok(Taken::Recorded),
                Err(StoreError::Conflict { .. }) => before = self.store().job(seen.id).await?,
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict { record: format!("job {}", seen.id) })
    }

    async fn decide(
        &self,
        before: Option<&Versioned<WorkflowJob>>,
        seen: &JobObservation,
    ) -> Result<Option<(Vec<Change>, Vec<NewTask>)>, StoreError> {
        let now = self.now().await?;
        let old = before.map(|job| &job.value);
        if let Some(other) = old.filter(|old| old.run != seen.run) {
            // Each server of GitHub numbers its own jobs, and none gives a number twice.
            let (job, other) =
                (JobRef { id: seen.id, repository: seen.repository.clone() }, other.reference());
            tracing::error!(%job, %other, "left out: a job of another server has this number on record");
            return Ok(None);
        }
        let group = match seen.report {
            JobReport::Queued => self.group_for(seen).await?,
            JobReport::Waiting | JobReport::InProgress { .. } | JobReport::Completed { .. } => None,
        };
        let job = jobs::observe(old, seen, group, now);
        let runner = self.runner_side(old, seen, now).await?;
        if job.is_none() && runner.is_none() {
            return Ok(None);
        }
        let mut tasks: Vec<NewTask> = Vec::new();
        let mut reconcile = |group: Option<&GroupName>| {
            if let Some(group) = group {
                let task = NewTask::now(Task::Reconcile { group: group.clone() });
                tasks.push(task.priority(Priority::High));
            }
        };
        if job.is_some() {
            reconcile(old.and_then(WorkflowJob::demand));
            reconcile(job.as_ref().and_then(WorkflowJob::demand));
        }
        let mut changes = Vec::new();
        if let Some(job) = job {
            let expected = before.map_or(Expected::Absent, |job| Expected::Version(job.version));
            changes.push(Change::PutJob { job, expected });
        }
        if let Some(runner) = runner {
            changes.extend(runner.changes);
            tasks.extend(runner.tasks);
        }
        Ok(Some((changes, tasks)))
    }

    /// The group that would serve a job, where one would.
    pub(super) async fn group_for(&self, seen: &JobObservation) -> Result<Option<GroupName>, StoreError> {
        let groups = self.listed_groups().await?;
        let enterprise = seen.enterprise.as_deref();
        let asked = Asked { job: seen.id, repository: &seen.repository, enterprise, labels: &seen.labels };
        Ok(self.serving_asked(&groups, asked).into_iter().next())
    }

    /// What follows for the runner that has, or had, the job: it moves in the same step as the job, so that
    /// demand and supply are never counted by halves.
    async fn runner_side(
        &self,
        old: Option<&WorkflowJob>,
        seen: &JobObservation,
        now: Timestamp,
    ) -> Result<Option<Consequences>, StoreError> {
        let job = JobRef { id: seen.id, repository: seen.repository.clone() };
        let (name, event) = match &seen.report {
            JobReport::Waiting | JobReport::Queued => return Ok(None),
            // A late word of a start must not bring a job back that is known to have ended.
            JobReport::InProgress { .. } if old.is_some_and(WorkflowJob::is_completed) => return Ok(None),
            JobReport::InProgress { runner, .. } => (Some(runner), Event::JobStarted { job }),
            JobReport::Completed { runner, .. } => {
                (runner.as_ref().or_else(|| last_runner(old)), Event::JobCompleted { job })
            }
        };
        let Some(name) = name.and_then(|name| self.our_runner(name)) else { return Ok(None) };
        let Some(runner) = self.store().runner(&name).await? else { return Ok(None) };
        let limits = self.limits_of(&runner.value).await?;
        let Some(mut write) = consequences(&runner, &event, &limits, now) else { return Ok(None) };
        if runner.value.online_at.is_none() {
            let learned = self.what_the_group_learns(&runner.value, &event, &write, now).await?;
            write.changes.extend(learned);
        }
        Ok(Some(write))
    }

    /// The name of a runner that can be ours.
    pub(super) fn our_runner(&self, name: &str) -> Option<RunnerName> {
        RunnerName::is_of(name, &self.parts().owner.deployment).then(|| RunnerName::new(name).ok())?
    }
}

fn last_runner(job: Option<&WorkflowJob>) -> Option<&String> {
    match &job?.state {
        JobState::InProgress { runner, .. } => Some(runner),
        JobState::Waiting | JobState::Queued { .. } | JobState::Completed { .. } => None,
    }
}
