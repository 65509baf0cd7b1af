//! The groups as this process last read them, for matching jobs without reading the store each time.
//!
//! The store has the truth. A job that is matched by a list a few seconds old to a group that is drained, full
//! or gone meanwhile is passed on by that group's next reconcile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use crate::domain::{GroupName, RunnerGroup, Scope, WorkflowJob, later};
use crate::policy::matching::{Asked, candidates};
use crate::store::{Draining, StoreError};

/// How old the list may be.
const MAX_AGE: Duration = Duration::from_secs(5);

/// A group as it matters for matching.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) spec: RunnerGroup,
    pub(super) draining: Option<Draining>,
}

#[derive(Debug, Default)]
pub(super) struct Catalogue(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    groups: Option<(Timestamp, Arc<[Listed]>)>,
    /// How often it was forgotten: what was read before that is not kept.
    forgotten: u64,
}

impl Catalogue {
    /// Has the next reader read the store.
    pub(super) fn forget(&self) {
        let mut cached = self.lock();
        cached.groups = None;
        cached.forgotten += 1;
    }

    fn fresh(&self, now: Timestamp) -> Result<Arc<[Listed]>, u64> {
        let cached = self.lock();
        match &cached.groups {
            Some((read_at, groups)) if now < later(*read_at, MAX_AGE) => Ok(groups.clone()),
            Some(_) | None => Err(cached.forgotten),
        }
    }

    fn keep(&self, groups: &Arc<[Listed]>, read_at: Timestamp, forgotten: u64) {
        let mut cached = self.lock();
        if cached.forgotten == forgotten {
            cached.groups = Some((read_at, groups.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Manager {
    /// All groups, at most a few seconds old.
    pub(super) async fn listed_groups(&self) -> Result<Arc<[Listed]>, StoreError> {
        let now = self.parts().clock.now();
        let forgotten = match self.inner.catalogue.fresh(now) {
            Ok(groups) => return Ok(groups),
            Err(forgotten) => forgotten,
        };
        let groups: Arc<[Listed]> = self
            .store()
            .groups()
            .await?
            .into_iter()
            .map(|view| Listed { draining: view.record.value.draining, spec: view.record.value.spec })
            .collect();
        self.inner.catalogue.keep(&groups, now, forgotten);
        Ok(groups)
    }

    /// All scopes that groups register in.
    pub(super) async fn scopes(&self) -> Result<Vec<Scope>, StoreError> {
        let groups = self.listed_groups().await?;
        let mut scopes: Vec<Scope> = groups.iter().map(|group| group.spec.scope.clone()).collect();
        scopes.sort();
        scopes.dedup();
        Ok(scopes)
    }

    /// The groups that would serve a job, best first, without those that make no new runners.
    pub(super) fn serving(&self, groups: &[Listed], job: &WorkflowJob) -> Vec<GroupName> {
        let enterprise = job.enterprise.as_deref();
        self.serving_asked(
            groups,
            Asked { job: job.id, repository: &job.repository, enterprise, labels: &job.labels },
        )
    }

    /// As [`serving`](Self::serving), for a job that has no record yet.
    pub(super) fn serving_asked(&self, groups: &[Listed], asked: Asked<'_>) -> Vec<GroupName> {
        let open = groups.iter().filter(|group| group.draining.is_none()).map(|group| &group.spec);
        candidates(open, asked, self.parts().settings.balance)
            .iter()
            .map(|group| group.name.clone())
            .collect()
    }
}
