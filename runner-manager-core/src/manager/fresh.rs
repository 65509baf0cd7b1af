//! Runners that this process has reserved a moment ago, with their group: the task that brings one up most often comes
//! to the same process at once, and need not read them again.
//!
//! Nothing here is needed to be right. What is in hand is compared with the store by the write that follows, and a process
//! that remembers nothing reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::{Runner, RunnerName, later};
use crate::store::{GroupView, Versioned};

/// How long they are remembered: not much longer than it would take to read them. What a group has learned of its
/// placements meanwhile would be missed.
const MAX_AGE: Duration = Duration::from_millis(20);

/// A runner as it was reserved, and its group as it was found.
#[derive(Debug, Clone)]
pub(super) struct Reserved {
    pub(super) runner: Versioned<Runner>,
    pub(super) group: Arc<GroupView>,
}

/// Runners that were reserved a moment ago.
#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<BTreeMap<RunnerName, (Timestamp, Reserved)>>);

impl Fresh {
    /// Remembers runners, and forgets those that nobody came for.
    pub(super) fn note(&self, reserved: impl IntoIterator<Item = Reserved>, now: Timestamp) {
        let mut known = self.lock();
        known.retain(|_, (at, _)| is_fresh(*at, now));
        known.extend(reserved.into_iter().map(|one| (one.runner.value.name.clone(), (now, one))));
    }

    /// A runner that is remembered, once.
    pub(super) fn take(&self, name: &RunnerName, now: Timestamp) -> Option<Reserved> {
        let (at, reserved) = self.lock().remove(name)?;
        is_fresh(at, now).then_some(reserved)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunnerName, (Timestamp, Reserved)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A clock that was set back makes nothing fresh again.
fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    at <= now && now < later(at, MAX_AGE)
}
