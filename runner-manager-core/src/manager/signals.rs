//! Taking in what machines say of their jobs: the runner that is busy by it, and the job that presumably waits no
//! more, in one write.
//!
//! A signal does not depend on GitHub: it comes where a webhook is lost, and while GitHub calls a runner idle that runs
//! a job. It does not name the job, so which one it was is only presumed until GitHub tells;
//! [`jobs`](crate::policy::jobs) says which, and [`intake`](super::intake) puts it right.

use jiff::Timestamp;

use super::Manager;
use super::advance::{Consequences, MOST_CONFLICTS, consequences};
use super::intake::Taken;
use crate::domain::{JobMoment, JobSignal, JobState, Limits, Runner, RunnerState, WorkflowJob};
use crate::flaws::{Flaw, is_on};
use crate::policy::jobs::presumed;
use crate::policy::lifecycle::{Event, Next, step};
use crate::queue::{NewTask, Priority, Task};
use crate::store::{Change, Expected, JobFilter, Page, StoreError, Versioned, Write};

/// How many of the longest waiting jobs of a group are looked at for the one that began.
const LOOKED_AT: usize = 200;

impl Manager {
    /// Takes in what the job hook of a machine said. It is durable once this returns.
    ///
    /// From then on the runner is busy, and so it is kept whatever GitHub says of it, until its job has completed, its
    /// instance is gone, an operator forces it, or its `max_job_time` runs out. Of a runner that is not on record, or
    /// whose instance is being deleted already, it says nothing. It is for the caller to see that the signal comes from
    /// the machine of the runner that it names.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot record it: then it was not taken in, and the machine should say it again.
    pub async fn hear_of_a_job(&self, signal: &JobSignal) -> Result<Taken, StoreError> {
        let taken = self.take_in_signal(signal).await?;
        let word = taken.as_str();
        self.inner.statistics.count(|counters| *counters.signals.entry(word).or_default() += 1);
        let (runner, run) = (signal.runner.as_str(), signal.run);
        tracing::info!(runner, %run, repository = %signal.repository, moment = ?signal.moment, outcome = word, "a machine told of its job");
        Ok(taken)
    }

    async fn take_in_signal(&self, signal: &JobSignal) -> Result<Taken, StoreError> {
        if is_on(Flaw::IgnoreSignals) {
            return Ok(Taken::NothingNew);
        }
        for _ in 0..MOST_CONFLICTS {
            let Some(write) = self.what_follows_from(signal).await? else { return Ok(Taken::NothingNew) };
            match self.apply(write).await {
                Ok(_) => return Ok(Taken::Recorded),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict { record: format!("runner {}", signal.runner) })
    }

    async fn what_follows_from(&self, signal: &JobSignal) -> Result<Option<Write>, StoreError> {
        let Some(runner) = self.store().runner(&signal.runner).await? else { return Ok(None) };
        let (limits, now) = (self.limits_of(&runner.value).await?, self.now().await?);
        let job = if has_an_unknown_job(&runner.value, &limits, now) {
            self.job_that_began(signal, &runner.value).await?
        } else {
            None
        };
        let event = Event::JobSignalled {
            presumed: job.as_ref().map(|job| job.value.reference()),
            said: Some(in_words(signal)),
        };
        let Some(mut write) = consequences(&runner, &event, &limits, now) else { return Ok(None) };
        if runner.value.online_at.is_none() {
            let learned = self.what_the_group_learns(&runner.value, None, &event, &write, now).await?;
            write.changes.extend(learned);
        }
        if let Some(job) = job {
            write.takes(job, &runner.value, now);
        }
        let Consequences { changes, tasks, on_trust, .. } = write;
        Ok(Some(Write {
            operation: self.operation(),
            claim: None,
            ends_claim: false,
            on_trust,
            changes,
            tasks,
        }))
    }

    /// The waiting job that a runner has presumably begun: one that counts for its group, or else for another one, or
    /// for none.
    async fn job_that_began(
        &self,
        signal: &JobSignal,
        runner: &Runner,
    ) -> Result<Option<Versioned<WorkflowJob>>, StoreError> {
        let groups = self.listed_groups().await?;
        let Some(own) = groups.iter().map(|group| &group.spec).find(|spec| spec.name == runner.group) else {
            return Ok(None);
        };
        let others = groups.iter().map(|group| &group.spec.name).filter(|name| **name != runner.group);
        let lists = [&own.name].into_iter().chain(others).map(|name| JobFilter::Queued(name.clone()));
        for list in lists.chain([JobFilter::Unserved]) {
            let waiting = self.store().jobs(&list, &Page::first(LOOKED_AT)).await?;
            let found = presumed(signal, own, waiting.iter().map(|job| &job.value)).map(|job| job.id);
            if let Some(id) = found {
                return Ok(waiting.into_iter().find(|job| job.value.id == id));
            }
        }
        Ok(None)
    }
}

impl Consequences {
    /// Adds that a runner presumably has a job: it counts for its group no more.
    pub(super) fn takes(&mut self, job: Versioned<WorkflowJob>, runner: &Runner, now: Timestamp) {
        let expected = Expected::Version(job.version);
        let counted_for = job.value.demand().cloned();
        let state = JobState::Presumed { runner: runner.name.clone(), since: now };
        self.changes.push(Change::PutJob { job: WorkflowJob { state, ..job.value }, expected });
        let reconcile = counted_for.map(|group| NewTask::now(Task::Reconcile { group }));
        self.tasks.extend(reconcile.map(|task| task.priority(Priority::High)));
    }
}

fn in_words(signal: &JobSignal) -> String {
    let JobSignal { repository, run, attempt, key, .. } = signal;
    let moment = match signal.moment {
        JobMoment::Begins => "begins",
        JobMoment::Ends => "ends",
    };
    format!("job {key} of run {run}, attempt {attempt}, of {repository} {moment}")
}

/// Whether a runner of which a signal comes has a job, and nobody knows or presumes which.
fn has_an_unknown_job(runner: &Runner, limits: &Limits, now: Timestamp) -> bool {
    let after = match step(runner, &Event::JobSignalled { presumed: None, said: None }, limits, now) {
        Next::Unchanged => &runner.state,
        Next::Changed(after) => &after.state.clone(),
        Next::Ended { .. } => return false,
    };
    matches!(after, RunnerState::Busy { job: None }) && runner.presumed.is_none()
}
