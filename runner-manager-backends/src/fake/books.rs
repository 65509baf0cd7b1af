//! A fake cloud's own books: what was alive when, by its own count and nobody else's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use runner_manager_core::domain::{GroupName, InstanceId, Owner, RunnerName};
use serde::{Deserialize, Serialize};

use super::behaviour::{Ending, Fault, Operation};

/// What a cloud counted since it began. An instance is alive from the moment it appears until it is gone,
/// stopped or not: that is what clouds bill or count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// All instances.
    pub total: Count,
    /// Those of each group.
    pub groups: BTreeMap<GroupName, Count>,
    /// Of each runner for which several instances were made: how many beyond the first.
    pub doubles: BTreeMap<RunnerName, u32>,
    /// Of each runner for which `create` was called several times: how often beyond the first.
    pub repeats: BTreeMap<RunnerName, u32>,
    /// How many calls there were, by operation.
    pub calls: BTreeMap<Operation, u64>,
    /// How many faults were injected, by operation and fault, such as `create: lost_reply`.
    pub faults: BTreeMap<String, u64>,
    /// The life of every instance, in the order in which they were asked for.
    pub lives: Vec<Life>,
}

/// How many instances there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How many were made.
    pub created: u64,
    /// How many there are now.
    pub alive: u64,
    /// The most that there were at one moment.
    pub max_alive: u64,
}

/// The life of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The instance.
    pub id: InstanceId,
    /// Whose it is.
    pub owner: Owner,
    /// The runner that it was made for.
    pub runner: RunnerName,
    /// Its group.
    pub group: GroupName,
    /// Its zone.
    pub zone: String,
    /// When `create` was called.
    pub asked_at: Timestamp,
    /// When it appeared.
    pub appeared_at: Option<Timestamp>,
    /// When it began to run.
    pub ran_at: Option<Timestamp>,
    /// When it ended by itself, and how.
    pub ended: Option<(Timestamp, Ending)>,
    /// When its deletion was first accepted.
    pub deleted_at: Option<Timestamp>,
    /// When it was gone.
    pub gone_at: Option<Timestamp>,
}

impl Life {
    /// Whether it was there at a time.
    pub fn alive_at(&self, at: Timestamp) -> bool {
        self.appeared_at.is_some_and(|appeared| appeared <= at) && self.gone_at.is_none_or(|gone| at < gone)
    }
}

impl Books {
    /// How many calls of an operation there were.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.calls.get(&operation).copied().unwrap_or(0)
    }

    /// How many instances a group has now.
    pub fn alive(&self, group: &GroupName) -> u64 {
        self.groups.get(group).map_or(0, |count| count.alive)
    }

    pub(super) fn called(&mut self, operation: Operation) {
        *self.calls.entry(operation).or_default() += 1;
    }

    pub(super) fn injected(&mut self, operation: Operation, fault: &Fault) {
        *self.faults.entry(format!("{operation}: {fault}")).or_default() += 1;
    }

    pub(super) fn appeared(&mut self, at: usize, now: Timestamp) {
        self.lives[at].appeared_at = Some(now);
        let group = self.lives[at].group.clone();
        for count in [&mut self.total, self.groups.entry(group).or_default()] {
            count.created += 1;
            count.alive += 1;
            count.max_alive = count.max_alive.max(count.alive);
        }
    }

    pub(super) fn gone(&mut self, at: usize, now: Timestamp) {
        self.lives[at].gone_at = Some(now);
        let group = self.lives[at].group.clone();
        for count in [&mut self.total, self.groups.entry(group).or_default()] {
            count.alive -= 1;
        }
    }
}
