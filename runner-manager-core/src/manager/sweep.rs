//! The periodic health checks: one listing of a backend or of a scope at GitHub, compared with the records.
//!
//! Records are read before and after the listing. *Recordless* is judged against the second reading; a
//! missing instance or registration counts only if its record has not changed meanwhile, and only after it
//! was asked for by itself, so that a hole in a list costs nobody a machine.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use super::advance::{consequences, wake_task};
use super::intake::Taken;
use super::provision::read_registration;
use super::worker::{TaskError, Work};
use crate::backend::Backend;
use crate::clock::timeout;
use crate::domain::{
    BackendName, GroupName, Instance, InstanceState, JobRef, Label, Leaving, Limits, OperationId,
    PlacementKey, RetireReason, RetireStep, Runner, RunnerName, RunnerState, Scope, later,
};
use crate::github::RegisteredRunner;
use crate::policy::lifecycle::{Event, InstanceReading, RegistrationReading};
use crate::policy::orphans::{
    InstanceVerdict, RegistrationVerdict, most_condemned, recordless_instance, recordless_registration,
};
use crate::queue::{ClaimToken, NewTask, Task};
use crate::store::{Change, JobFilter, Page, RunnerFilter, StoreError, Versioned, Write, all_runners};

/// How long a listing may take: it has many pages, and holds nobody up.
const LISTING_TIMEOUT: Duration = Duration::from_mins(5);

/// How long a job waits before GitHub is asked whether it still does.
const JOB_AGE: Duration = Duration::from_mins(10);

/// How many of a group's jobs one sweep asks for, beside one for each runner whose job is not known.
const JOBS_ASKED: usize = 20;

type Records = BTreeMap<RunnerName, Versioned<Runner>>;

/// What a sweep would condemn: it is looked at again before anything is done, and only if it is not too much.
#[derive(Debug)]
enum Condemned {
    /// A record whose instance or registration is missing.
    Missing(Box<Versioned<Runner>>),
    /// An instance without a record and without a registration.
    Instance(Box<Runner>),
    /// A second instance of a runner.
    Double(Instance),
    /// A registration without a record.
    Registration(RunnerName),
}

impl Manager {
    async fn records(&self, filter: &RunnerFilter) -> Result<Records, StoreError> {
        let all = all_runners(self.store(), filter).await?;
        Ok(all.into_iter().map(|runner| (runner.value.name.clone(), runner)).collect())
    }

    async fn next_sweep(&self) -> Result<Work, TaskError> {
        Ok(Work::AgainAt(later(self.now().await?, self.parts().settings.sweep_interval)))
    }

    /// Whether a sweep may do what it would, and a word to the operator where not.
    fn within_reason(&self, what: &str, condemned: usize, looked_at: usize) -> bool {
        let most = most_condemned(looked_at);
        if condemned <= most {
            return true;
        }
        self.inner
            .statistics
            .count(|counters| *counters.sweeps_held.entry(what.to_owned()).or_default() += 1);
        tracing::error!(
            what,
            condemned,
            looked_at,
            most,
            "the sweep would condemn too much of what it looked at, so it condemns nothing: see whether the \
             listing is right"
        );
        false
    }

    // --- a backend -----------------------------------------------------------------------------------

    pub(super) async fn sweep_backend(
        &self,
        claim: &ClaimToken,
        name: &BackendName,
    ) -> Result<Work, TaskError> {
        let Some(backend) = self.backend(name).cloned() else { return Ok(Work::Done) };
        let filter = RunnerFilter::Backend(name.clone());
        let before = self.records(&filter).await?;
        let begun = self.now().await?;
        let owner = &self.parts().owner;
        let listing = self
            .within(LISTING_TIMEOUT, "list", backend.list(owner))
            .await?
            .map_err(|error| TaskError::outside(&error, error.retry))?;
        let after = self.records(&filter).await?;

        let ended = listing.iter().filter(|instance| has_ended(instance));
        let ended = ended.filter_map(|instance| after.get(&instance.runner));
        self.ask_for_unheard_jobs(ended.map(|record| &record.value)).await?;
        let unrecorded = listing.iter().filter(|instance| !after.contains_key(&instance.runner)).count();
        let looked_at = after.len() + unrecorded;
        let mut condemned = Vec::new();
        for instance in &listing {
            match after.get(&instance.runner) {
                Some(record) => {
                    condemned.extend(self.compare(claim, record, instance, &listing, begun).await?);
                }
                None => condemned.extend(self.recordless(claim, name, instance, begun).await?),
            }
        }
        let missing = missing_instances(&before, &after, &listing);
        condemned.extend(missing.into_iter().map(|record| Condemned::Missing(Box::new(record.clone()))));
        if self.within_reason(&format!("backend {name}"), condemned.len(), looked_at) {
            for one in condemned {
                // One that cannot be dealt with must not keep the others from it; the next sweep finds it again.
                match self.condemn(claim, &*backend, one).await {
                    Err(TaskError::Outside { reason, .. }) => {
                        tracing::warn!(backend = name.as_str(), reason, "the sweep left something undone");
                    }
                    outcome => outcome?,
                }
            }
        }
        self.see_that_each_is_looked_at(&after).await?;
        self.next_sweep().await
    }

    /// What the listing says of an instance that has a record.
    async fn compare(
        &self,
        claim: &ClaimToken,
        record: &Versioned<Runner>,
        instance: &Instance,
        listing: &[Instance],
        begun: Timestamp,
    ) -> Result<Option<Condemned>, TaskError> {
        let known = record.value.instance.as_ref();
        let is_double = known
            .is_some_and(|known| *known != instance.id && listing.iter().any(|other| other.id == *known));
        if is_double {
            return Ok(Some(Condemned::Double(instance.clone())));
        }
        if let (RunnerState::Busy { job: Some(job) }, true) = (&record.value.state, has_ended(instance)) {
            // Most often the job ended first, and we did not hear of it. Nobody would ask any more.
            self.ask_for_job(job).await?;
        }
        let reading = InstanceReading::Present { id: instance.id.clone(), state: instance.state.clone() };
        self.feed_if_new(claim, record, &Event::Instance { reading, begun }).await?;
        Ok(None)
    }

    /// Feeds an event only where it changes something, by the record at hand: most of a sweep changes
    /// nothing, and costs no more than the listing then.
    async fn feed_if_new(
        &self,
        claim: &ClaimToken,
        record: &Versioned<Runner>,
        event: &Event,
    ) -> Result<(), TaskError> {
        let limits = self.limits_of(&record.value).await?;
        let now = self.now().await?;
        if consequences(record, event, &limits, now).is_some() {
            self.feed(Some(claim), &record.value.name, event).await?;
        }
        Ok(())
    }

    /// An instance that no record explains: adopted where it is registered, suspected where not.
    async fn recordless(
        &self,
        claim: &ClaimToken,
        backend: &BackendName,
        instance: &Instance,
        begun: Timestamp,
    ) -> Result<Option<Condemned>, TaskError> {
        let found = match self.registration_anywhere(&instance.runner).await {
            Ok(found) => found,
            Err(TaskError::Store(error)) => return Err(error.into()),
            Err(unknown) => {
                tracing::warn!(runner = instance.runner.as_str(), %unknown, "an instance without a record");
                return Ok(None);
            }
        };
        let reading = found.as_ref().map_or(RegistrationReading::Absent, |(_, reading)| *reading);
        let groups = self.listed_groups().await?;
        let spec = groups.iter().map(|group| &group.spec).find(|spec| spec.name == instance.group);
        let limits = spec.map_or_else(Limits::default, |spec| spec.limits);
        let verdict = recordless_instance(instance, reading, limits.start_timeout, begun);
        let InstanceVerdict::Adopt(mut state) = verdict else { return Ok(None) };
        if let (RunnerState::Idle { leaving }, None) = (&mut state, spec) {
            // Of a group that is configured no more: nobody will ever need it.
            *leaving = Some(Leaving { reason: RetireReason::Surplus, not_busy_at: None });
        }
        let any_scope = || groups.first().map(|group| group.spec.scope.clone());
        let scope =
            found.map(|(scope, _)| scope).or_else(|| spec.map(|spec| spec.scope.clone())).or_else(any_scope);
        let Some(scope) = scope else { return Ok(None) };
        let now = self.now().await?;
        let suspect = matches!(state, RunnerState::Retiring { retire: RetireStep::Suspect { .. }, .. });
        let runner = Runner {
            name: instance.runner.clone(),
            group: instance.group.clone(),
            scope,
            backend: backend.clone(),
            placement: PlacementKey::unknown(),
            requested_at: instance.created_at,
            since: now,
            registration: None,
            online_at: None,
            instance: Some(instance.id.clone()),
            missing_since: None,
            state,
        };
        if suspect {
            return Ok(Some(Condemned::Instance(Box::new(runner))));
        }
        self.adopt(claim, runner, limits, now).await?;
        Ok(None)
    }

    async fn adopt(
        &self,
        claim: &ClaimToken,
        runner: Runner,
        limits: Limits,
        now: Timestamp,
    ) -> Result<(), TaskError> {
        tracing::warn!(runner = runner.name.as_str(), state = ?runner.state, "an instance without a record is adopted");
        let mut tasks: Vec<NewTask> = wake_task(&runner, &limits, now).into_iter().collect();
        tasks.push(NewTask::now(Task::Reconcile { group: runner.group.clone() }));
        let write = Write {
            operation: self.operation(),
            claim: Some(claim.clone()),
            changes: vec![Change::AdoptRunner { runner }],
            tasks,
        };
        match self.apply(write).await {
            Ok(_) => {
                self.inner.statistics.count(|counters| counters.adopted += 1);
                Ok(())
            }
            // It has a record after all.
            Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Does what was found, after one more look at each by itself.
    async fn condemn(
        &self,
        claim: &ClaimToken,
        backend: &dyn Backend,
        condemned: Condemned,
    ) -> Result<(), TaskError> {
        match condemned {
            Condemned::Missing(record) => {
                let reading = self.instance_reading(&record.value).await?;
                self.feed_if_new(claim, &record, &reading).await
            }
            Condemned::Instance(runner) => {
                let limits = self.limits_of(&runner).await?;
                let now = self.now().await?;
                self.adopt(claim, *runner, limits, now).await
            }
            Condemned::Double(instance) => {
                tracing::warn!(runner = instance.runner.as_str(), id = %instance.id, "a second instance is deleted");
                self.ask_backend("delete", backend.delete(&instance.id)).await
            }
            Condemned::Registration(_) => Ok(()),
        }
    }

    // --- a scope at GitHub ---------------------------------------------------------------------------

    pub(super) async fn sweep_scope(&self, claim: &ClaimToken, scope: &Scope) -> Result<Work, TaskError> {
        self.inner.catalogue.forget();
        if !self.scopes().await?.contains(scope) {
            return Ok(Work::Done);
        }
        let filter = RunnerFilter::Scope(scope.clone());
        let before = self.records(&filter).await?;
        let begun = self.now().await?;
        let listing = self
            .within(LISTING_TIMEOUT, "runners", self.github().runners(scope))
            .await?
            .map_err(|error| TaskError::outside(&error, error.retry))?;
        let after = self.records(&filter).await?;

        let ours: Vec<(RunnerName, &RegisteredRunner)> =
            listing.iter().filter_map(|listed| Some((self.our_registration(listed)?, listed))).collect();
        let busy = ours.iter().filter(|(_, listed)| listed.busy).filter_map(|(name, _)| after.get(name));
        self.ask_for_unheard_jobs(busy.map(|record| &record.value)).await?;
        let mut condemned = Vec::new();
        for (name, listed) in &ours {
            let reading = read_registration(Some(listed));
            match after.get(name) {
                Some(record) => {
                    let event = Event::Registration { reading, begun };
                    self.feed_if_new(claim, record, &event).await?;
                }
                None if recordless_registration(reading) == RegistrationVerdict::Suspect => {
                    condemned.push(Condemned::Registration(name.clone()));
                }
                None => {}
            }
        }
        let listed: std::collections::BTreeSet<&RunnerName> = ours.iter().map(|(name, _)| name).collect();
        for record in unchanged(&before, &after).filter(|record| !listed.contains(&record.value.name)) {
            self.missing_registration(claim, record).await?;
        }
        let unrecorded = ours.iter().filter(|(name, _)| !after.contains_key(name)).count();
        if self.within_reason(&scope.to_string(), condemned.len(), after.len() + unrecorded) {
            self.suspect_registrations(scope, condemned).await?;
        }
        self.ask_for_old_jobs(scope, begun).await?;
        self.see_that_each_is_looked_at(&after).await?;
        self.reconcile_all(scope).await?;
        self.next_sweep().await
    }

    /// Asks GitHub for the longest waiting jobs of the groups of runners that have a job, or had one, of which
    /// we did not hear: it must be among them. As long as it counts as waiting, a runner would be made for it
    /// in vain.
    async fn ask_for_unheard_jobs(&self, runners: impl Iterator<Item = &Runner>) -> Result<(), TaskError> {
        let mut unheard: BTreeMap<&GroupName, usize> = BTreeMap::new();
        for runner in runners.filter(|runner| has_no_job_yet(&runner.state)) {
            *unheard.entry(&runner.group).or_default() += 1;
        }
        for (group, mut left) in unheard {
            let filter = JobFilter::Queued(group.clone());
            for job in self.store().jobs(&filter, &Page::first(left + JOBS_ASKED)).await? {
                if left == 0 {
                    break;
                }
                left -= usize::from(self.ask_for_job(&job.value.reference()).await?);
            }
        }
        Ok(())
    }

    /// Queues again what each runner waits for. Almost always it waits already and nothing changes; where it
    /// does not, for whatever reason, the runner would hold its slot for ever.
    async fn see_that_each_is_looked_at(&self, records: &Records) -> Result<(), TaskError> {
        const BATCH: usize = 200;
        let now = self.now().await?;
        let mut tasks = Vec::new();
        for record in records.values() {
            let limits = self.limits_of(&record.value).await?;
            // Whoever holds it is done or gone by then.
            let held = later(now, self.parts().settings.lease);
            tasks.push(wake_task(&record.value, &limits, now).or_else(|| held_task(&record.value, held)));
        }
        for batch in tasks.into_iter().flatten().collect::<Vec<_>>().chunks(BATCH) {
            self.queue().push(batch.to_vec()).await?;
        }
        Ok(())
    }

    /// Has every group of a scope compared with what it should have, whatever events were missed.
    async fn reconcile_all(&self, scope: &Scope) -> Result<(), TaskError> {
        let groups = self.listed_groups().await?;
        let of_scope = groups.iter().filter(|group| group.spec.scope == *scope);
        let tasks = of_scope.map(|group| NewTask::now(Task::Reconcile { group: group.spec.name.clone() }));
        Ok(self.queue().push(tasks.collect()).await?)
    }

    /// Asks GitHub for the jobs of a scope that have waited longest: one whose start and end were never told
    /// would count as demand for ever.
    async fn ask_for_old_jobs(&self, scope: &Scope, now: Timestamp) -> Result<(), TaskError> {
        let groups = self.listed_groups().await?;
        for group in groups.iter().filter(|group| group.spec.scope == *scope) {
            let filter = JobFilter::Queued(group.spec.name.clone());
            for job in self.store().jobs(&filter, &Page::first(JOBS_ASKED)).await? {
                if later(job.value.recorded_at, JOB_AGE) <= now {
                    self.ask_for_job(&job.value.reference()).await?;
                }
            }
        }
        Ok(())
    }

    /// A registration that bears our mark: the deployment's name and the owner's label.
    fn our_registration(&self, listed: &RegisteredRunner) -> Option<RunnerName> {
        let owner = &self.parts().owner;
        let label = Label::new(owner.label()).ok()?;
        let marked = listed.labels.iter().any(|own| *own == label);
        (marked && RunnerName::is_of(&listed.name, &owner.deployment))
            .then(|| RunnerName::new(&*listed.name).ok())?
    }

    /// A record that the listing lacks: asked for by itself. An idle one that GitHub knows no more is to go;
    /// a busy one may have ended its job without our hearing of it.
    async fn missing_registration(
        &self,
        claim: &ClaimToken,
        record: &Versioned<Runner>,
    ) -> Result<(), TaskError> {
        let runner = &record.value;
        let job = match &runner.state {
            RunnerState::Idle { .. } => None,
            RunnerState::Busy { job: Some(job) } => Some(job),
            RunnerState::Busy { job: None }
            | RunnerState::Requested
            | RunnerState::Creating { .. }
            | RunnerState::Booting
            | RunnerState::Retiring { .. } => return Ok(()),
        };
        let (reading, failed) = self.registration_reading(&runner.scope, runner).await?;
        let absent = matches!(&reading, Event::Registration { reading: RegistrationReading::Absent, .. });
        match (job, failed) {
            (_, Some(failed)) => {
                tracing::warn!(runner = runner.name.as_str(), %failed, "GitHub did not say whether it is registered");
                Ok(())
            }
            (None, None) => self.feed_if_new(claim, record, &reading).await,
            (Some(job), None) if absent => self.ask_for_job(job).await.map(drop),
            (Some(_), None) => Ok(()),
        }
    }

    /// Reads a job at GitHub and takes in what is said, as if a webhook had; tells whether it was news.
    async fn ask_for_job(&self, job: &JobRef) -> Result<bool, TaskError> {
        let limit = self.parts().settings.call_timeout;
        match timeout(&*self.parts().clock, limit, self.github().job(&job.repository, job.id)).await {
            Ok(Ok(Some(seen))) => {
                let operation = OperationId::new(format!("{}:swept", self.operation()));
                Ok(self.take_in(&operation, &seen).await? == Taken::Recorded)
            }
            Ok(Ok(None)) => Ok(false),
            Ok(Err(error)) => {
                tracing::warn!(%job, %error, "GitHub did not say how the job fares");
                Ok(false)
            }
            Err(error) => {
                tracing::warn!(%job, %error, "GitHub did not say how the job fares");
                Ok(false)
            }
        }
    }

    async fn suspect_registrations(&self, scope: &Scope, condemned: Vec<Condemned>) -> Result<(), TaskError> {
        let at = later(self.now().await?, Limits::READING_GAP);
        let tasks: Vec<NewTask> = condemned
            .into_iter()
            .filter_map(|one| match one {
                Condemned::Registration(runner) => Some(Task::Forget { scope: scope.clone(), runner }),
                Condemned::Missing(_) | Condemned::Instance(_) | Condemned::Double(_) => None,
            })
            .map(|task| NewTask::at(task, at))
            .collect();
        if !tasks.is_empty() {
            self.queue().push(tasks).await?;
        }
        Ok(())
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

const fn has_ended(instance: &Instance) -> bool {
    match instance.state {
        InstanceState::Stopped | InstanceState::Failed(..) | InstanceState::Gone => true,
        InstanceState::Pending | InstanceState::Running => false,
    }
}

/// The task of a runner that a worker should hold now.
fn held_task(runner: &Runner, at: Timestamp) -> Option<NewTask> {
    let (name, backend) = (runner.name.clone(), runner.backend.clone());
    matches!(runner.state, RunnerState::Creating { .. })
        .then(|| NewTask::at(Task::Provision { runner: name, backend }, at))
}

/// The records that were the same before and after a listing.
fn unchanged<'a>(before: &'a Records, after: &'a Records) -> impl Iterator<Item = &'a Versioned<Runner>> {
    after.values().filter(|record| {
        before.get(&record.value.name).is_some_and(|earlier| earlier.version == record.version)
    })
}

/// The records that should have an instance and whose instance the listing lacks.
fn missing_instances<'a>(
    before: &'a Records,
    after: &'a Records,
    listing: &[Instance],
) -> Vec<&'a Versioned<Runner>> {
    let listed: std::collections::BTreeSet<&RunnerName> =
        listing.iter().map(|instance| &instance.runner).collect();
    unchanged(before, after)
        .filter(|record| match record.value.state {
            RunnerState::Booting | RunnerState::Idle { .. } | RunnerState::Busy { .. } => true,
            // Those that are on their way in or out are looked at by tasks of their own.
            RunnerState::Requested | RunnerState::Creating { .. } | RunnerState::Retiring { .. } => false,
        })
        .filter(|record| !listed.contains(&record.value.name))
        .collect()
}
