//! A store that may have lost what it acknowledged: what is listed until it is relied on again.
//!
//! The store itself refuses reservations, and writes that rest on its word, until trust was said of its present
//! life. This module knows when that may be: [`policy::doubt`](crate::policy::doubt) says what has to be listed
//! and from when on a listing counts, the deployment's record holds what was taken in, and every replica sees
//! the same there. What was gathered before to take runners away is forgotten before trust is said.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use super::advance::MOST_CONFLICTS;
use crate::domain::{Deployment, Doubt, Incarnation, Runner, RunnerGroup, Source, later};
use crate::policy::configuration::lives;
use crate::policy::doubt::{Progress, counts_from, has_evidence, required};
use crate::policy::lifecycle::Event;
use crate::queue::{ClaimToken, NewTask, Task};
use crate::store::{
    Change, DeploymentView, Expected, RunnerFilter, StoreError, Version, Versioned, Write, all_runners,
};

/// How long a listing that left something undone waits before it is made again.
const UNDONE_PAUSE: Duration = Duration::from_secs(15);

/// When a listing was begun, and what was thought of the store then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    /// When, by the store's time.
    pub(super) at: Timestamp,
    /// Whether the store was trusted.
    pub(super) trusted: bool,
    /// The store's life. Two lives need not agree about the time.
    incarnation: Incarnation,
}

/// The deployment's record while there is a doubt.
struct Doubted {
    record: Deployment,
    version: Version,
    doubt: Doubt,
}

impl Manager {
    /// Refuses to go on while the store is not trusted: what follows would be done on its word.
    pub(super) async fn rely_on_the_store(&self) -> Result<(), StoreError> {
        if self.store().deployment().await?.trusted { Ok(()) } else { Err(StoreError::Untrusted) }
    }

    /// To be called before anything is read that a listing is compared with.
    pub(super) async fn begin_listing(&self) -> Result<Begun, StoreError> {
        let view = self.store().deployment().await?;
        Ok(Begun { trusted: view.trusted, incarnation: view.incarnation, at: self.now().await? })
    }

    /// A complete listing was compared with the records, and what it told was written down.
    pub(super) async fn taken_in(
        &self,
        claim: &ClaimToken,
        source: &Source,
        begun: &Begun,
    ) -> Result<(), StoreError> {
        for _ in 0..MOST_CONFLICTS {
            let Some(Doubted { mut record, version, mut doubt }) = self.doubted().await? else {
                return Ok(());
            };
            let late_enough =
                begun.incarnation == doubt.incarnation && begun.at >= self.counts_from(&doubt, source);
            if !late_enough || !doubt.taken_in.insert(source.clone()) {
                return Ok(());
            }
            record.doubt = Some(doubt);
            let change = Change::PutDeployment { record, expected: Expected::Version(version) };
            match self.write_down(Some(claim), vec![change], Vec::new()).await {
                Ok(()) => {
                    tracing::info!(%source, "listed and taken in, since the store was started anew");
                    return self.settle_doubt().await;
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict { record: "the deployment".to_owned() })
    }

    /// When a listing is to be made again: after the usual interval, or as soon as it counts where it has yet to
    /// be taken in.
    pub(super) async fn list_again_at(
        &self,
        source: &Source,
        interval: Duration,
    ) -> Result<Timestamp, StoreError> {
        let now = self.now().await?;
        let usual = later(now, interval);
        Ok(match self.doubted().await? {
            Some(Doubted { doubt, .. }) if !doubt.taken_in.contains(source) => {
                self.counts_from(&doubt, source).max(later(now, UNDONE_PAUSE)).min(usual)
            }
            Some(_) | None => usual,
        })
    }

    fn counts_from(&self, doubt: &Doubt, source: &Source) -> Timestamp {
        let settle = match source {
            Source::Instances(backend) => {
                self.backend(backend).map_or(Duration::ZERO, |backend| backend.capabilities().settle)
            }
            Source::Runners(_) => Duration::ZERO,
        };
        counts_from(doubt, self.parts().settings.call_timeout, settle)
    }

    /// The doubt about the store's present life; none where it is trusted, or where none was recorded yet.
    async fn doubted(&self) -> Result<Option<Doubted>, StoreError> {
        Ok(present(self.store().deployment().await?))
    }

    /// How far the listings have come; none where the store is trusted.
    pub(super) async fn doubt_progress(&self) -> Result<Option<Progress>, StoreError> {
        let Some(doubted) = self.doubted().await? else { return Ok(None) };
        let runners = all_runners(self.store(), &RunnerFilter::All).await?;
        let required = self.required(&doubted.record, &runners).await?;
        Ok(Some(Progress::of(&doubted.doubt, &required)))
    }

    async fn required(
        &self,
        record: &Deployment,
        runners: &[Versioned<Runner>],
    ) -> Result<BTreeSet<Source>, StoreError> {
        let now = self.now().await?;
        let living = record.replicas.values().filter(|replica| lives(replica, self.patience(), now));
        let backends = self.parts().backends.keys().chain(living.flat_map(|replica| &replica.backends));
        let groups: Vec<RunnerGroup> =
            self.store().groups().await?.into_iter().map(|view| view.record.value.spec).collect();
        Ok(required(backends, &groups, runners.iter().map(|runner| &runner.value)))
    }

    /// Says that the store is relied on again, once all that is required was taken in.
    pub(super) async fn settle_doubt(&self) -> Result<(), StoreError> {
        let Some(Doubted { record, doubt, .. }) = self.doubted().await? else { return Ok(()) };
        // Without groups nobody knows which scopes to list.
        if record.configuration.is_none() || !self.required(&record, &[]).await?.is_subset(&doubt.taken_in) {
            return Ok(());
        }
        let runners = all_runners(self.store(), &RunnerFilter::All).await?;
        if !self.required(&record, &runners).await?.is_subset(&doubt.taken_in) {
            return Ok(());
        }
        for runner in runners.iter().filter(|runner| has_evidence(&runner.value)) {
            self.feed(None, &runner.value.name, &Event::EvidenceLost).await?;
        }
        self.say_trust(&doubt).await
    }

    async fn say_trust(&self, settled: &Doubt) -> Result<(), StoreError> {
        for _ in 0..MOST_CONFLICTS {
            let Some(Doubted { mut record, version, doubt }) = self.doubted().await? else { return Ok(()) };
            if doubt.incarnation != settled.incarnation || doubt.since != settled.since {
                return Ok(());
            }
            record.doubt = None;
            let changes = vec![
                Change::Trust { incarnation: doubt.incarnation },
                Change::PutDeployment { record, expected: Expected::Version(version) },
            ];
            let groups = self.store().groups().await?;
            let names = groups.into_iter().map(|view| view.record.value.spec.name);
            let tasks = names.map(|group| NewTask::now(Task::Reconcile { group })).collect();
            match self.write_down(None, changes, tasks).await {
                Ok(()) => {
                    tracing::info!("all outside was listed: the store is relied on again");
                    return self.see_that_all_are_looked_at().await;
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict { record: "the deployment".to_owned() })
    }

    /// A write about the deployment.
    pub(super) async fn write_down(
        &self,
        claim: Option<&ClaimToken>,
        changes: Vec<Change>,
        tasks: Vec<NewTask>,
    ) -> Result<(), StoreError> {
        let claim = claim.cloned();
        let write =
            Write { operation: self.operation(), claim, ends_claim: false, on_trust: false, changes, tasks };
        self.apply(write).await.map(drop)
    }
}

/// The doubt that a view of the deployment tells of, where it is about the store's present life.
fn present(view: DeploymentView) -> Option<Doubted> {
    if view.trusted {
        return None;
    }
    let Versioned { value: record, version } = view.record?;
    let doubt = record.doubt.clone().filter(|doubt| doubt.incarnation == view.incarnation)?;
    Some(Doubted { record, version, doubt })
}
