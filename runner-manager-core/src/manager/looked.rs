//! What recoveries need not look at again at once: what this process has looked into, and what was heard of.
//!
//! Nothing here is needed to be right. A process that knows nothing looks into everything, at the cost of calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::domain::{JobState, OpenRuns, Repository, RunId, WorkflowJob};
use crate::policy::recovery::Listed;

/// What was heard of jobs lately, by the records.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When a job of a repository was last recorded.
    last: BTreeMap<Repository, Timestamp>,
    /// Runs with a job that has not ended.
    open: BTreeSet<RunId>,
    /// Jobs that presumably began: GitHub has yet to tell.
    pub(super) presumed: Vec<WorkflowJob>,
    /// The repositories of enterprises.
    of_enterprises: BTreeSet<(String, Repository)>,
}

impl Heard {
    pub(super) fn last(&self, repository: &Repository) -> Option<Timestamp> {
        self.last.get(repository).copied()
    }

    /// Whether a job on record is why a run is open.
    pub(super) fn explains(&self, run: RunId) -> bool {
        self.open.contains(&run)
    }

    /// GitHub does not list an enterprise's repositories: those count that jobs were heard of.
    pub(super) fn of_enterprise(&self, slug: &str) -> Vec<Repository> {
        let own = self.of_enterprises.iter().filter(|(named, _)| named.eq_ignore_ascii_case(slug));
        own.map(|(_, repository)| repository.clone()).collect()
    }
}

impl FromIterator<WorkflowJob> for Heard {
    fn from_iter<I: IntoIterator<Item = WorkflowJob>>(jobs: I) -> Self {
        let mut heard = Self::default();
        for job in jobs {
            let last = heard.last.entry(job.repository.clone()).or_insert(job.recorded_at);
            *last = (*last).max(job.recorded_at);
            match &job.state {
                JobState::Queued { .. } | JobState::InProgress { .. } => {
                    heard.open.insert(job.run);
                }
                JobState::Presumed { .. } => heard.presumed.push(job.clone()),
                JobState::Waiting | JobState::Completed { .. } => {}
            }
            if let Some(slug) = job.enterprise {
                heard.of_enterprises.insert((slug, job.repository));
            }
        }
        heard
    }
}

/// When this process listed the runs of repositories.
#[derive(Debug, Default)]
pub(super) struct Looked(Mutex<BTreeMap<Repository, Listed>>);

impl Looked {
    pub(super) fn listed(&self, repository: &Repository) -> Listed {
        self.lock().get(repository).copied().unwrap_or_default()
    }

    /// Notes that a repository's open runs were listed.
    pub(super) fn note(&self, repository: &Repository, which: OpenRuns, any_open: bool, begun: Timestamp) {
        let mut all = self.lock();
        let listed = all.entry(repository.clone()).or_default();
        listed.at = Some(begun);
        if which == OpenRuns::All {
            listed.in_full = Some(begun);
        }
        if any_open {
            listed.open = Some(begun);
        }
    }

    /// Notes that a listing found a job of a repository that no webhook had told of.
    pub(super) fn note_unheard(&self, repository: &Repository, begun: Timestamp) {
        self.lock().entry(repository.clone()).or_default().unheard = Some(begun);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Repository, Listed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
