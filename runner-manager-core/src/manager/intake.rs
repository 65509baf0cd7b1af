//! Taking in what is said of jobs: the record, the runner that has the job, and the tasks that follow, in
//! one write.

use jiff::Timestamp;

use super::Manager;
use super::advance::{Consequences, MOST_CONFLICTS, consequences};
use super::loss::{LostJob, follow};
use crate::domain::{
    DeliveryId, GroupName, JobObservation, JobRef, JobReport, JobState, OperationId, Runner, RunnerName,
    WorkflowJob,
};
use crate::policy::jobs;
use crate::policy::lifecycle::Event;
use crate::policy::loss::of_record;
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

impl Taken {
    /// The outcome's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::NothingNew => "nothing_new",
            Self::Repeated => "repeated",
        }
    }
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
        let taken = self.take_in(&OperationId::from(delivery), seen, None).await?;
        let word = taken.as_str();
        self.inner.statistics.count(|counters| *counters.observations.entry(word).or_default() += 1);
        tracing::info!(job = %seen.id, repository = %seen.repository, report = ?seen.report, outcome = word, "job observed");
        Ok(taken)
    }

    /// Takes in an observation. `read_at` is when the look at GitHub was begun that it comes from; none for a webhook.
    pub(super) async fn take_in(
        &self,
        operation: &OperationId,
        seen: &JobObservation,
        read_at: Option<Timestamp>,
    ) -> Result<Taken, StoreError> {
        // Most that is said of a waiting job is the first that is heard of it: then there is nothing to
        // read, and one write is all.
        let before = match seen.report {
            JobReport::Queued | JobReport::Waiting => None,
            JobReport::InProgress { .. } | JobReport::Completed { .. } => self.store().job(seen.id).await?,
        };
        self.take_in_after(before, operation, seen, read_at).await
    }

    /// Takes in an observation of a job whose record, if any, was read as `before`.
    pub(super) async fn take_in_after(
        &self,
        mut before: Option<Versioned<WorkflowJob>>,
        operation: &OperationId,
        seen: &JobObservation,
        read_at: Option<Timestamp>,
    ) -> Result<Taken, StoreError> {
        for _ in 0..MOST_CONFLICTS {
            let Some(Decided { changes, tasks, lost }) = self.decide(before.as_ref(), seen, read_at).await?
            else {
                return Ok(Taken::NothingNew);
            };
            let write = Write {
                operation: operation.clone(),
                claim: None,
                ends_claim: false,
                on_trust: false,
                changes,
                tasks,
            };
            match self.apply(write).await {
                Ok(applied) if applied.repeated => return Ok(Taken::Repeated),
                Ok(_) => {
                    if let Some(lost) = &lost {
                        self.tell_of_lost_job(lost);
                    }
                    return Ok(Taken::Recorded);
                }
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
        read_at: Option<Timestamp>,
    ) -> Result<Option<Decided>, StoreError> {
        let now = self.now().await?;
        let old = before.map(|job| &job.value);
        if let Some(other) = old.filter(|old| old.run != seen.run) {
            // Each server of GitHub numbers its own jobs, and none gives a number twice.
            let (job, other) =
                (JobRef { id: seen.id, repository: seen.repository.clone() }, other.reference());
            tracing::error!(%job, %other, "left out: a job of another server has this number on record");
            return Ok(None);
        }
        let has_it = self.runner_of(old, seen).await?;
        let group = match seen.report {
            JobReport::Queued => self.group_for(seen).await?,
            JobReport::Waiting | JobReport::InProgress { .. } | JobReport::Completed { .. } => None,
        };
        let (job, lost) = self.job_side(old, seen, group, has_it.as_ref(), read_at, now).await?;
        let runner = match &has_it {
            Some(runner) => self.runner_side(runner, old, seen, now).await?,
            None => None,
        };
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
        tasks.extend(job.iter().filter(|job| job.lost.is_some()).map(|job| follow(job.id, now)));
        let mut changes = Vec::new();
        if let Some(job) = job {
            let expected = before.map_or(Expected::Absent, |job| Expected::Version(job.version));
            changes.push(Change::PutJob { job, expected });
        }
        if let Some(runner) = runner {
            changes.extend(runner.changes);
            tasks.extend(runner.tasks);
        }
        Ok(Some(Decided { changes, tasks, lost }))
    }

    /// The group that would serve a job, where one would.
    pub(super) async fn group_for(&self, seen: &JobObservation) -> Result<Option<GroupName>, StoreError> {
        let groups = self.listed_groups().await?;
        let enterprise = seen.enterprise.as_deref();
        let asked = Asked { job: seen.id, repository: &seen.repository, enterprise, labels: &seen.labels };
        Ok(self.serving_asked(&groups, asked).into_iter().next())
    }

    /// What follows for the job's record. Where the runner's record says that its machine is lost, so does the
    /// job's: before it ends, so that its end is held against that.
    async fn job_side(
        &self,
        old: Option<&WorkflowJob>,
        seen: &JobObservation,
        group: Option<GroupName>,
        runner: Option<&Versioned<Runner>>,
        read_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(Option<WorkflowJob>, Option<LostJob>), StoreError> {
        let lost = runner.and_then(|runner| Some((&runner.value, of_record(&runner.value)?)));
        let Some((runner, lost)) = lost else {
            return Ok((jobs::observe(old, seen, group, read_at, now), None));
        };
        let ends = matches!(seen.report, JobReport::Completed { .. });
        let running = if ends { old.cloned() } else { jobs::observe(old, seen, group.clone(), read_at, now) };
        let marked = match &running {
            Some(job) => self.lose(job, runner, lost.clone()).await?,
            None => None,
        };
        let of_loss = marked.as_ref().map(|job| (job.id, lost.why));
        let before = marked.or(running);
        let job = if ends { jobs::observe(before.as_ref(), seen, group, read_at, now) } else { before };
        let told = of_loss.filter(|_| job.as_ref().is_some_and(|job| job.lost.is_some()));
        Ok((job, told))
    }

    /// The runner of ours that has, or had, the job.
    async fn runner_of(
        &self,
        old: Option<&WorkflowJob>,
        seen: &JobObservation,
    ) -> Result<Option<Versioned<Runner>>, StoreError> {
        let name = match &seen.report {
            JobReport::Waiting | JobReport::Queued => None,
            // A late word of a start must not bring a job back that is known to have ended.
            JobReport::InProgress { .. } if old.is_some_and(WorkflowJob::is_completed) => None,
            JobReport::InProgress { runner, .. } => Some(runner),
            JobReport::Completed { runner, .. } => runner.as_ref().or_else(|| last_runner(old)),
        };
        match name.and_then(|name| self.our_runner(name)) {
            Some(name) => self.store().runner(&name).await,
            None => Ok(None),
        }
    }

    /// What follows for the runner that has, or had, the job: it moves in the same step as the job, so that
    /// demand and supply are never counted by halves.
    async fn runner_side(
        &self,
        runner: &Versioned<Runner>,
        old: Option<&WorkflowJob>,
        seen: &JobObservation,
        now: Timestamp,
    ) -> Result<Option<Consequences>, StoreError> {
        let job = JobRef { id: seen.id, repository: seen.repository.clone() };
        let event = match &seen.report {
            JobReport::Waiting | JobReport::Queued => return Ok(None),
            JobReport::InProgress { .. } => Event::JobStarted { job },
            JobReport::Completed { .. } => Event::JobCompleted { job },
        };
        let limits = self.limits_of(&runner.value).await?;
        let Some(mut write) = consequences(runner, &event, &limits, now) else { return Ok(None) };
        if runner.value.online_at.is_none() {
            let learned = self.what_the_group_learns(&runner.value, None, &event, &write, now).await?;
            write.changes.extend(learned);
        }
        self.correct(&runner.value, old, seen, &mut write, now).await?;
        Ok(Some(write))
    }

    /// GitHub named the job of a runner that was presumed to have another one. That one goes to whoever was presumed
    /// to have this one, for they took each other's; where nobody was, it waits after all.
    async fn correct(
        &self,
        runner: &Runner,
        old: Option<&WorkflowJob>,
        seen: &JobObservation,
        write: &mut Consequences,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(wrong) = runner.presumed.as_ref().filter(|presumed| presumed.id != seen.id) else {
            return Ok(());
        };
        let Some(job) = self.store().job(wrong.id).await? else { return Ok(()) };
        if presumed_on(&job.value) != Some(&runner.name) {
            return Ok(());
        }
        let other = match old.and_then(presumed_on) {
            Some(other) => self.store().runner(other).await?,
            None => None,
        };
        let other = other.filter(|other| {
            let has_it = other.value.presumed.as_ref().is_some_and(|presumed| presumed.id == seen.id);
            has_it && other.value.name != runner.name && other.value.group == runner.group
        });
        if let Some(other) = other {
            let limits = self.limits_of(&other.value).await?;
            let event = Event::JobSignalled { presumed: Some(wrong.clone()), said: None };
            if let Some(learns) = consequences(&other, &event, &limits, now) {
                write.changes.extend(learns.changes);
                write.tasks.extend(learns.tasks);
                write.takes(job, &other.value, now);
            }
            return Ok(());
        }
        let groups = self.listed_groups().await?;
        let group = self.serving(&groups, &job.value).into_iter().next();
        let reconcile = group.iter().map(|group| NewTask::now(Task::Reconcile { group: group.clone() }));
        write.tasks.extend(reconcile.map(|task| task.priority(Priority::High)));
        let expected = Expected::Version(job.version);
        write.changes.push(Change::PutJob { job: jobs::waits_again(&job.value, group), expected });
        Ok(())
    }

    /// The name of a runner that can be ours.
    pub(super) fn our_runner(&self, name: &str) -> Option<RunnerName> {
        RunnerName::is_of(name, &self.parts().owner.deployment).then(|| RunnerName::new(name).ok())?
    }
}

/// What follows from an observation.
#[derive(Debug)]
struct Decided {
    changes: Vec<Change>,
    tasks: Vec<NewTask>,
    /// That the job lost its machine, where that is new.
    lost: Option<LostJob>,
}

fn last_runner(job: Option<&WorkflowJob>) -> Option<&String> {
    match &job?.state {
        JobState::InProgress { runner, .. } => Some(runner),
        // That it is presumed to have it is no reason to end a runner.
        JobState::Waiting
        | JobState::Queued { .. }
        | JobState::Presumed { .. }
        | JobState::Completed { .. } => None,
    }
}

const fn presumed_on(job: &WorkflowJob) -> Option<&RunnerName> {
    match &job.state {
        JobState::Presumed { runner, .. } => Some(runner),
        JobState::Waiting
        | JobState::Queued { .. }
        | JobState::InProgress { .. }
        | JobState::Completed { .. } => None,
    }
}
