//! The periodic health checks: one listing of a backend or of a scope at GitHub, compared with the records.
//!
//! Records are read before and after the listing. *Recordless* is judged against the second reading; a
//! missing instance or registration counts only if its record has not changed meanwhile, and only after it
//! was asked for by itself, so that a hole in a list costs nobody a machine.
//!
//! What a sweep would condemn is weighed as a whole before anything is done about it: too much, or a dry run,
//! and it is only written down ([`verdict`]).

mod instances;
mod jobs;
mod registrations;
mod verdict;

use std::collections::BTreeMap;

use jiff::Timestamp;

pub use verdict::GoOnError;

use super::Manager;
use super::advance::{consequences, wake_task};
use super::doubt::Begun;
use super::worker::{TaskError, Work};
use crate::domain::{Finding, Runner, RunnerName, RunnerState, Source, later};
use crate::policy::lifecycle::Event;
use crate::queue::{ClaimToken, NewTask, Task};
use crate::store::{RunnerFilter, StoreError, Versioned, all_runners};

type Records = BTreeMap<RunnerName, Versioned<Runner>>;

impl Manager {
    async fn records(&self, filter: &RunnerFilter) -> Result<Records, StoreError> {
        let all = all_runners(self.store(), filter).await?;
        Ok(all.into_iter().map(|runner| (runner.value.name.clone(), runner)).collect())
    }

    /// The listing was compared with the records: it is taken in, and made again later.
    async fn swept(&self, claim: &ClaimToken, source: &Source, begun: &Begun) -> Result<Work, TaskError> {
        self.taken_in(claim, source, begun).await?;
        self.sweep_again(source).await
    }

    async fn sweep_again(&self, source: &Source) -> Result<Work, TaskError> {
        Ok(Work::AgainAt(self.list_again_at(source, self.parts().settings.sweep_interval).await?))
    }

    /// Feeds an event only where it changes something, by the record at hand: most of a sweep changes
    /// nothing, and costs no more than the listing then. In a dry run what would take the runner away is told
    /// instead.
    async fn feed_if_new(
        &self,
        claim: &ClaimToken,
        record: &Versioned<Runner>,
        event: &Event,
    ) -> Result<Option<Finding>, TaskError> {
        let limits = self.limits_of(&record.value).await?;
        let now = self.now().await?;
        let Some(consequences) = consequences(record, event, &limits, now) else { return Ok(None) };
        if self.sweeps_are_dry() && begins_to_leave(&record.value, consequences.after.as_deref()) {
            return Ok(Some(Finding::Leaving(record.value.name.clone())));
        }
        match self.feed(Some(claim), &record.value.name, event).await {
            // Nobody is taken away on the word of a store that is doubted, and the sweep goes on: it is what ends
            // the doubt.
            Err(StoreError::Untrusted) => {}
            outcome => drop(outcome?),
        }
        Ok(None)
    }

    /// As [`see_that_each_is_looked_at`](Self::see_that_each_is_looked_at), for all runners.
    pub(super) async fn see_that_all_are_looked_at(&self) -> Result<(), StoreError> {
        let all = self.records(&RunnerFilter::All).await?;
        self.see_that_each_is_looked_at(&all).await
    }

    /// Queues again what each runner waits for. Almost always it waits already and nothing changes; where it
    /// does not, for whatever reason, the runner would hold its slot for ever.
    async fn see_that_each_is_looked_at(&self, records: &Records) -> Result<(), StoreError> {
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
}

/// Whether a runner that was to stay is on its way out, or gone.
fn begins_to_leave(before: &Runner, after: Option<&Runner>) -> bool {
    !before.state.is_leaving() && after.is_none_or(|after| after.state.is_leaving())
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
