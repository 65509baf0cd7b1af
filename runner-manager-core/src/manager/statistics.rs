//! What the manager has done: counters for metrics and tests. Nothing is decided by them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Counters since the process began.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<StatisticsSnapshot>);

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StatisticsSnapshot {
    /// Observations of jobs, by what became of them: `recorded`, `nothing_new`, `repeated`.
    pub observations: BTreeMap<&'static str, u64>,
    /// What machines said of their jobs, by what became of it: `recorded`, `nothing_new`.
    pub signals: BTreeMap<&'static str, u64>,
    /// Tasks by kind and outcome: `done`, `later`, `failed`, `lost`, `released`, `buried`.
    pub tasks: BTreeMap<(&'static str, &'static str), u64>,
    /// `create` calls by outcome: `accepted`, `unclear`, or the error's kind.
    pub creates: BTreeMap<&'static str, u64>,
    /// Runners whose slot was freed.
    pub ended: u64,
    /// Jobs whose machine was lost under them.
    pub jobs_lost: u64,
    /// Re-runs of such jobs that were wanted, by what came of it: `done`, `refused`.
    pub job_reruns: BTreeMap<&'static str, u64>,
    /// Instances that were found without a record and adopted.
    pub adopted: u64,
    /// GitHub's runner groups that were not as configured, by what came of it: `created`, `mended`, `refused`.
    pub github_groups: BTreeMap<&'static str, u64>,
    /// Webhooks that failed and were asked for again, by what GitHub said (`asked`, `refused`, `not_made`, `unclear`)
    /// and by what came of it (`taken`, `failed`).
    pub redeliveries: BTreeMap<&'static str, u64>,
    /// Sweeps that stopped because they would have condemned too much, by backend or scope.
    pub sweeps_held: BTreeMap<String, u64>,
}

impl Statistics {
    /// The counters now.
    pub fn snapshot(&self) -> StatisticsSnapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut StatisticsSnapshot)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
