//! One instance of a fake cloud: its times, from which its state at any moment follows.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::backend::Bootstrap;
use runner_manager_core::domain::{GroupName, Instance, InstanceId, InstanceState, Owner, RunnerName, later};

use super::behaviour::Ending;

/// What the cloud knows of one instance. Times may lie ahead: what is planned for them happens unless
/// something else comes first.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) id: InstanceId,
    pub(super) owner: Owner,
    pub(super) runner: RunnerName,
    pub(super) group: GroupName,
    pub(super) zone: String,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) bootstrap: Bootstrap,
    pub(super) asked_at: Timestamp,
    pub(super) appears_at: Timestamp,
    pub(super) runs_at: Timestamp,
    pub(super) ending: Option<(Timestamp, Ending)>,
    pub(super) deleted_at: Option<Timestamp>,
    pub(super) gone_at: Option<Timestamp>,
    /// The sequence number of its start; 0 before it.
    pub(super) start: u64,
    /// Its place in the books.
    pub(super) life: usize,
}

impl Record {
    /// What the cloud tells of it at a time; `None` where it tells nothing.
    pub(super) fn state_at(&self, at: Timestamp, tell_gone: Duration) -> Option<InstanceState> {
        let reached = |time: Option<Timestamp>| time.is_some_and(|time| time <= at);
        if at < self.appears_at {
            return None;
        }
        if let Some(gone_at) = self.gone_at.filter(|gone_at| *gone_at <= at) {
            return (at < later(gone_at, tell_gone)).then_some(InstanceState::Gone);
        }
        if reached(self.deleted_at) {
            return Some(InstanceState::Stopped);
        }
        if let Some((_, how)) = self.ending.filter(|(ends_at, _)| *ends_at <= at) {
            return how.state();
        }
        Some(if self.runs_at <= at { InstanceState::Running } else { InstanceState::Pending })
    }

    /// The instance as the cloud tells of it at a time.
    pub(super) fn instance_at(&self, at: Timestamp, tell_gone: Duration) -> Option<Instance> {
        Some(Instance {
            id: self.id.clone(),
            runner: self.runner.clone(),
            group: self.group.clone(),
            state: self.state_at(at, tell_gone)?,
            created_at: self.asked_at,
        })
    }

    /// Whether it takes room at a time: from the moment it was asked for until it is gone.
    pub(super) fn is_there(&self, now: Timestamp) -> bool {
        self.gone_at.is_none_or(|gone_at| now < gone_at)
    }
}
