//! One listing of a backend, compared with the records.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::super::Manager;
use super::super::advance::wake_task;
use super::super::doubt::Begun;
use super::super::worker::{TaskError, Work};
use super::{Records, unchanged};
use crate::backend::Backend;
use crate::domain::{
    BackendName, Finding, Instance, InstanceId, InstanceState, Leaving, Limits, Machine, PlacementKey,
    RetireReason, RetireStep, Runner, RunnerName, RunnerState, Source, later,
};
use crate::flaws::{Flaw, is_on};
use crate::policy::lifecycle::{Event, InstanceReading, RegistrationReading};
use crate::policy::orphans::{InstanceVerdict, recordless_instance};
use crate::queue::{ClaimToken, NewTask, Task};
use crate::store::{Change, RunnerFilter, StoreError, Versioned, Write};

/// What a sweep would condemn: it is looked at again before anything is done, and only if it is not too much.
#[derive(Debug)]
enum Condemned {
    /// A record whose instance is missing.
    Missing(Box<Versioned<Runner>>),
    /// An instance without a record and without a registration, with the record that it is to get.
    Instance(Instance, Box<Runner>),
    /// A second instance of a runner.
    Double(Instance),
}

impl Condemned {
    fn finding(&self) -> Finding {
        match self {
            Self::Missing(record) => Finding::Missing(record.value.name.clone()),
            Self::Instance(instance, _) => Finding::Orphan(instance.runner.clone(), instance.id.clone()),
            Self::Double(instance) => Finding::Double(instance.runner.clone(), instance.id.clone()),
        }
    }
}

/// What became of an instance that no record explains.
#[derive(Debug)]
enum Recordless {
    /// It is adopted, or gone, or too young to be judged.
    Settled,
    /// It is to be suspected, with this record.
    Condemned(Box<Runner>),
    /// It would be adopted, but for the dry run.
    Adoptable,
    /// GitHub did not say whether it is registered.
    Unknown,
}

impl Manager {
    pub(in crate::manager) async fn sweep_backend(
        &self,
        claim: &ClaimToken,
        name: &BackendName,
    ) -> Result<Work, TaskError> {
        let Some(backend) = self.backend(name).cloned() else {
            return self.leave_to_others(claim, name).await;
        };
        let filter = RunnerFilter::Backend(name.clone());
        let before = self.records(&filter).await?;
        let begun = self.begin_listing().await?;
        let owner = &self.parts().owner;
        let listing = self.list_backend(name, "list", backend.list(owner)).await?;
        let after = self.records(&filter).await?;

        let ended = listing.iter().filter(|instance| has_ended(instance));
        let ended = ended.filter_map(|instance| after.get(&instance.runner));
        self.ask_for_unheard_jobs(ended.map(|record| &record.value)).await?;
        let unrecorded = listing.iter().filter(|instance| !after.contains_key(&instance.runner)).count();
        let looked_at = after.len() + unrecorded;
        let (mut condemned, mut said, mut unknown) = (Vec::new(), BTreeSet::new(), 0);
        for instance in &listing {
            match after.get(&instance.runner) {
                Some(record) if is_double(&record.value, instance, &listing) => {
                    condemned.push(Condemned::Double(instance.clone()));
                }
                Some(record) => said.extend(self.compare(claim, record, instance, begun.at).await?),
                None => match self.recordless(claim, name, instance, &begun).await? {
                    Recordless::Condemned(runner) => {
                        condemned.push(Condemned::Instance(instance.clone(), runner));
                    }
                    Recordless::Adoptable => {
                        said.insert(Finding::Adoption(instance.runner.clone(), instance.id.clone()));
                    }
                    Recordless::Settled => {}
                    Recordless::Unknown => unknown += 1,
                },
            }
        }
        let before = if is_on(Flaw::ListBeforeReading) { after.clone() } else { before };
        let missing = missing_instances(&before, &after, &listing);
        condemned.extend(missing.into_iter().map(|record| Condemned::Missing(Box::new(record.clone()))));
        if !begun.trusted {
            // While the store is doubted nothing is condemned: its records may be older than the truth.
            condemned.clear();
        }
        let source = Source::Instances(name.clone());
        said.extend(condemned.iter().map(Condemned::finding));
        let allowed = self.weigh(claim, &source, said, looked_at).await?;
        for one in condemned.into_iter().filter(|one| allowed.contains(&one.finding())) {
            // One that cannot be dealt with must not keep the others from it; the next sweep finds it again.
            match self.condemn(claim, name, &*backend, one).await {
                Err(TaskError::Outside { reason, .. } | TaskError::NotNow { reason, .. }) => {
                    tracing::warn!(backend = name.as_str(), reason, "the sweep left something undone");
                }
                outcome => outcome?,
            }
        }
        self.see_that_each_is_looked_at(&after).await?;
        if unknown > 0 {
            tracing::warn!(
                backend = name.as_str(),
                unknown,
                "instances without a record that could not be judged"
            );
            return self.sweep_again(&source).await;
        }
        self.swept(claim, &source, &begun).await
    }

    /// A backend that this replica cannot reach is listed by one that can.
    async fn leave_to_others(&self, claim: &ClaimToken, name: &BackendName) -> Result<Work, TaskError> {
        if !self.reached_by_others().await?.contains(name) {
            self.nothing_to_weigh(claim, &Source::Instances(name.clone())).await?;
            return Ok(Work::Done);
        }
        Ok(Work::AgainAt(later(self.now().await?, self.parts().settings.heartbeat)))
    }

    /// What the listing says of an instance that has a record.
    async fn compare(
        &self,
        claim: &ClaimToken,
        record: &Versioned<Runner>,
        instance: &Instance,
        begun: Timestamp,
    ) -> Result<Option<Finding>, TaskError> {
        if let (RunnerState::Busy { job: Some(job) }, true) = (&record.value.state, has_ended(instance)) {
            // Most often the job ended first, and we did not hear of it. Nobody would ask any more.
            self.ask_for_job(job).await?;
        }
        let reading = InstanceReading::Present { id: instance.id.clone(), state: instance.state.clone() };
        self.feed_if_new(claim, record, &Event::Instance { reading, begun }).await
    }

    /// An instance that no record explains: adopted where it is registered, suspected where not.
    async fn recordless(
        &self,
        claim: &ClaimToken,
        backend: &BackendName,
        instance: &Instance,
        begun: &Begun,
    ) -> Result<Recordless, TaskError> {
        let found = match self.registration_anywhere(&instance.runner).await {
            Ok(found) => found,
            Err(TaskError::Store(error)) => return Err(error.into()),
            Err(unknown) => {
                tracing::warn!(runner = instance.runner.as_str(), %unknown, "an instance without a record");
                return Ok(Recordless::Unknown);
            }
        };
        let reading = found.as_ref().map_or(RegistrationReading::Absent, |(_, reading)| *reading);
        let groups = self.listed_groups().await?;
        let spec = groups.iter().map(|group| &group.spec).find(|spec| spec.name == instance.group);
        let limits = spec.map_or_else(Limits::default, |spec| spec.limits);
        let verdict = recordless_instance(instance, reading, limits.start_timeout, begun.at, begun.trusted);
        let InstanceVerdict::Adopt(mut state) = verdict else { return Ok(Recordless::Settled) };
        if let (RunnerState::Idle { leaving }, None) = (&mut state, spec) {
            // Of a group that is configured no more: nobody will ever need it.
            *leaving = Some(Leaving { reason: RetireReason::Surplus, not_busy_at: None, asked_until: None });
        }
        let any_scope = || groups.first().map(|group| group.spec.scope.clone());
        let scope =
            found.map(|(scope, _)| scope).or_else(|| spec.map(|spec| spec.scope.clone())).or_else(any_scope);
        let Some(scope) = scope else { return Ok(Recordless::Settled) };
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
            named_at: Some(now),
            missing_since: None,
            presumed: None,
            trouble: None,
            machine: Machine::default(),
            state,
        };
        if suspect {
            return Ok(Recordless::Condemned(Box::new(runner)));
        }
        // While the store is doubted `max` rests on that everything is adopted.
        if begun.trusted && self.sweeps_are_dry() {
            return Ok(Recordless::Adoptable);
        }
        self.adopt(claim, runner, limits, now).await?;
        Ok(Recordless::Settled)
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
            ends_claim: false,
            on_trust: false,
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
        name: &BackendName,
        backend: &dyn Backend,
        condemned: Condemned,
    ) -> Result<(), TaskError> {
        match condemned {
            Condemned::Missing(_) | Condemned::Double(_) if !self.begin_listing().await?.trusted => Ok(()),
            Condemned::Missing(record) => {
                if let (RunnerState::Busy { job: Some(job) }, Some(_)) =
                    (&record.value.state, record.value.missing_since)
                {
                    // Most often the job ended, and we did not hear of it.
                    self.ask_for_job(job).await?;
                }
                let reading = match self.instance_reading(&record.value).await? {
                    Event::Instance { begun, .. } if is_on(Flaw::ListBeforeReading) => {
                        gone(&record.value, begun)
                    }
                    reading => reading,
                };
                self.feed_if_new(claim, &record, &reading).await.map(drop)
            }
            Condemned::Instance(_, runner) => {
                let limits = self.limits_of(&runner).await?;
                let now = self.now().await?;
                self.adopt(claim, *runner, limits, now).await
            }
            Condemned::Double(instance) => {
                tracing::warn!(runner = instance.runner.as_str(), id = %instance.id, "a second instance is deleted");
                Ok(self.delete_instance(name, backend, &instance.id).await?)
            }
        }
    }
}

/// What the listing alone would say of an instance that it lacks.
fn gone(runner: &Runner, begun: Timestamp) -> Event {
    let id = runner.instance.clone().unwrap_or_else(|| InstanceId::new(""));
    Event::Instance { reading: InstanceReading::Present { id, state: InstanceState::Gone }, begun }
}

/// Whether a runner that has another instance, which is listed too, has this one beside.
fn is_double(runner: &Runner, instance: &Instance, listing: &[Instance]) -> bool {
    let is_listed = |known: &InstanceId| listing.iter().any(|other| other.id == *known);
    runner.instance.as_ref().is_some_and(|known| *known != instance.id && is_listed(known))
}

const fn has_ended(instance: &Instance) -> bool {
    match instance.state {
        InstanceState::Stopped | InstanceState::Failed(..) | InstanceState::Gone => true,
        InstanceState::Pending | InstanceState::Running => false,
    }
}

/// The records that should have an instance and whose instance the listing lacks.
fn missing_instances<'a>(
    before: &'a Records,
    after: &'a Records,
    listing: &[Instance],
) -> Vec<&'a Versioned<Runner>> {
    let listed: BTreeSet<&RunnerName> = listing.iter().map(|instance| &instance.runner).collect();
    unchanged(before, after)
        .filter(|record| match record.value.state {
            RunnerState::Booting | RunnerState::Idle { .. } | RunnerState::Busy { .. } => true,
            // Those that are on their way in or out are looked at by tasks of their own.
            RunnerState::Requested | RunnerState::Creating { .. } | RunnerState::Retiring { .. } => false,
        })
        .filter(|record| !listed.contains(&record.value.name))
        .collect()
}
