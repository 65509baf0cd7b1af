//! The groups as this process last read them, for matching jobs without reading the store each time.
//!
//! The store has the truth. A job that is matched by a list a few seconds old is put right by the next
//! reconcile of the group that it was counted for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use crate::domain::{GroupName, JobId, Labels, Repository, RunnerGroup, Scope, later};
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
pub(super) struct Catalogue(Mutex<Option<(Timestamp, Arc<[Listed]>)>>);

impl Catalogue {
    /// Has the next reader read the store.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn fresh(&self, now: Timestamp) -> Option<Arc<[Listed]>> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (read_at, groups) = cached.as_ref()?;
        (now < later(*read_at, MAX_AGE)).then(|| groups.clone())
    }
}

impl Manager {
    /// All groups, at most a few seconds old.
    pub(super) async fn listed_groups(&self) -> Result<Arc<[Listed]>, StoreError> {
        let now = self.parts().clock.now();
        if let Some(groups) = self.inner.catalogue.fresh(now) {
            return Ok(groups);
        }
        let groups: Arc<[Listed]> = self
            .store()
            .groups()
            .await?
            .into_iter()
            .map(|view| Listed { draining: view.record.value.draining, spec: view.record.value.spec })
            .collect();
        *self.inner.catalogue.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, groups.clone()));
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
    pub(super) fn serving(
        &self,
        groups: &[Listed],
        job: JobId,
        repository: &Repository,
        enterprise: Option<&str>,
        labels: &Labels,
    ) -> Vec<GroupName> {
        let open = groups.iter().filter(|group| group.draining.is_none()).map(|group| &group.spec);
        let asked = Asked { job, repository, enterprise, labels };
        candidates(open, asked, self.parts().settings.balance)
            .iter()
            .map(|group| group.name.clone())
            .collect()
    }
}
