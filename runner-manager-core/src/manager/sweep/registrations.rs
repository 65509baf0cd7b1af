//! One listing of a scope at GitHub, compared with the records.

use std::collections::BTreeSet;

use super::super::Manager;
use super::super::calls::Purpose;
use super::super::provision::read_registration;
use super::super::worker::{TaskError, Work};
use super::unchanged;
use crate::domain::{Finding, Label, Limits, Runner, RunnerName, RunnerState, Scope, Source, later};
use crate::github::RegisteredRunner;
use crate::policy::lifecycle::Event;
use crate::policy::orphans::{RegistrationVerdict, recordless_registration};
use crate::queue::{ClaimToken, NewTask, Task};
use crate::store::{RunnerFilter, Versioned};

impl Manager {
    pub(in crate::manager) async fn sweep_scope(
        &self,
        claim: &ClaimToken,
        scope: &Scope,
    ) -> Result<Work, TaskError> {
        self.inner.catalogue.forget();
        let (filter, source) = (RunnerFilter::Scope(scope.clone()), Source::Runners(scope.clone()));
        let before = self.records(&filter).await?;
        // Runners may outlive the last group of their scope.
        if before.is_empty() && !self.scopes().await?.contains(scope) {
            self.nothing_to_weigh(claim, &source).await?;
            return Ok(Work::Done);
        }
        let listing_begun = self.begin_listing().await?;
        let begun = listing_begun.at;
        let listing =
            self.list_github(Purpose::Sweep, scope, "runners", |github| github.runners(scope)).await?;
        let after = self.records(&filter).await?;

        let ours: Vec<(RunnerName, &RegisteredRunner)> =
            listing.iter().filter_map(|listed| Some((self.our_registration(listed)?, listed))).collect();
        let busy = ours.iter().filter(|(_, listed)| listed.busy).filter_map(|(name, _)| after.get(name));
        self.ask_for_unheard_jobs(busy.map(|record| &record.value)).await?;
        let mut findings = BTreeSet::new();
        for (name, listed) in &ours {
            let reading = read_registration(Some(listed));
            match after.get(name) {
                Some(record) => {
                    let event = Event::Registration { reading, begun };
                    findings.extend(self.feed_if_new(claim, record, &event).await?);
                }
                // While the store is doubted nothing is condemned: what has no record has most likely lost it.
                None if listing_begun.trusted
                    && recordless_registration(reading) == RegistrationVerdict::Suspect =>
                {
                    findings.insert(Finding::Registration(name.clone()));
                }
                None => {}
            }
        }
        let listed: BTreeSet<&RunnerName> = ours.iter().map(|(name, _)| name).collect();
        for record in unchanged(&before, &after).filter(|record| !listed.contains(&record.value.name)) {
            findings.extend(self.missing_registration(claim, record).await?);
        }
        let unrecorded = ours.iter().filter(|(name, _)| !after.contains_key(name)).count();
        let allowed = self.weigh(claim, &source, findings, after.len() + unrecorded).await?;
        self.suspect_registrations(scope, allowed).await?;
        self.see_that_each_is_looked_at(&after).await?;
        self.reconcile_all(scope).await?;
        self.swept(claim, &source, &listing_begun).await
    }

    /// Has every group of a scope compared with what it should have, whatever events were missed.
    async fn reconcile_all(&self, scope: &Scope) -> Result<(), TaskError> {
        let groups = self.listed_groups().await?;
        let of_scope = groups.iter().filter(|group| group.spec.scope == *scope);
        let tasks = of_scope.map(|group| NewTask::now(Task::Reconcile { group: group.spec.name.clone() }));
        // A job may have been left to nobody by what somebody knew of the groups a moment before they changed.
        Ok(self.queue().push(tasks.chain([NewTask::now(Task::SyncConfiguration)]).collect()).await?)
    }

    /// A registration that bears our mark: the deployment's name and the owner's label.
    fn our_registration(&self, listed: &RegisteredRunner) -> Option<RunnerName> {
        let owner = &self.parts().owner;
        let label = Label::new(owner.label()).ok()?;
        let marked = listed.labels.iter().any(|own| *own == label);
        (marked && RunnerName::is_of(&listed.name, &owner.deployment))
            .then(|| RunnerName::new(&*listed.name).ok())?
    }

    /// A record that the listing lacks. An idle one is asked for by itself: if GitHub knows it no more it is to go. A
    /// busy one may have ended its job without our hearing of it, which the job tells.
    async fn missing_registration(
        &self,
        claim: &ClaimToken,
        record: &Versioned<Runner>,
    ) -> Result<Option<Finding>, TaskError> {
        let runner = &record.value;
        match &runner.state {
            RunnerState::Idle { .. } => {}
            RunnerState::Busy { job: Some(job) } => {
                return self.ask_for_job(job).await.map(|_| None);
            }
            RunnerState::Busy { job: None }
            | RunnerState::Requested
            | RunnerState::Creating { .. }
            | RunnerState::Booting
            | RunnerState::Retiring { .. } => return Ok(None),
        }
        let (reading, failed) = self.registration_reading(&runner.scope, runner).await?;
        if let Some(failed) = failed {
            tracing::warn!(runner = runner.name.as_str(), %failed, "GitHub did not say whether it is registered");
            return Ok(None);
        }
        self.feed_if_new(claim, record, &reading).await
    }

    async fn suspect_registrations(
        &self,
        scope: &Scope,
        condemned: BTreeSet<Finding>,
    ) -> Result<(), TaskError> {
        let at = later(self.now().await?, Limits::READING_GAP);
        let forget = |finding| match finding {
            Finding::Registration(runner) => Some(Task::Forget { scope: scope.clone(), runner }),
            Finding::Missing(_)
            | Finding::Orphan(..)
            | Finding::Double(..)
            | Finding::Adoption(..)
            | Finding::Leaving(_) => None,
        };
        let tasks: Vec<NewTask> =
            condemned.into_iter().filter_map(forget).map(|task| NewTask::at(task, at)).collect();
        if !tasks.is_empty() {
            self.queue().push(tasks).await?;
        }
        Ok(())
    }
}
