//! The reference's queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::domain::later;
use runner_manager_core::queue::{
    Claim, ClaimToken, DeadTask, Lane, LaneStatistics, NewTask, Priority, QueueStatistics, Task,
};

/// One wait of a task.
#[derive(Debug, Clone, Copy)]
struct Wait {
    due: Timestamp,
    /// Not brought forward to before this.
    floor: Option<Timestamp>,
    priority: Priority,
    /// Its place among those that are due at the same time.
    place: u64,
    attempts: u32,
}

impl Wait {
    /// One in the place of two.
    fn joined(self, other: Self) -> Self {
        let floor = [self.floor, other.floor].into_iter().flatten().max();
        let due = self.due.min(other.due);
        Self {
            due: floor.map_or(due, |floor| floor.max(due)),
            floor,
            priority: self.priority.max(other.priority),
            place: self.place.min(other.place),
            attempts: self.attempts.max(other.attempts),
        }
    }
}

#[derive(Debug, Clone)]
struct Hold {
    number: u64,
    until: Timestamp,
    from: Wait,
}

/// What is known of a key.
#[derive(Debug, Clone)]
struct Entry {
    task: Task,
    waits: Option<Wait>,
    held: Option<Hold>,
}

/// How a hold ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Ack,
    Release,
    Retry(Timestamp),
    Bury,
}

/// The reference's queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    entries: BTreeMap<String, Entry>,
    pub(crate) dead: Vec<DeadTask>,
    places: u64,
    /// Lanes from which nobody has claimed since the process began anew that has the storage for itself.
    orphaned: BTreeSet<Lane>,
}

impl Queue {
    pub(crate) fn push(&mut self, new: NewTask, now: Timestamp) {
        self.places += 1;
        let wait = Wait {
            due: new.not_before.unwrap_or(now).max(now),
            floor: None,
            priority: new.priority,
            place: self.places,
            attempts: 0,
        };
        self.dead.retain(|dead| dead.task.key() != new.task.key());
        let entry = self.entries.entry(new.task.key());
        let entry = entry.or_insert(Entry { task: new.task, waits: None, held: None });
        entry.waits = Some(entry.waits.map_or(wait, |waits| waits.joined(wait)));
    }

    /// Puts back what is held no longer.
    pub(crate) fn end_leases(&mut self, now: Timestamp) {
        for entry in self.entries.values_mut() {
            if let Some(hold) = entry.held.take_if(|hold| hold.until <= now) {
                entry.put_back(&hold, hold.until);
            }
        }
    }

    /// Whoever held something is gone: it is put back with the next claim from its lane.
    pub(crate) fn orphan(&mut self) {
        self.orphaned = self.entries.values().map(|entry| entry.task.lane()).collect();
    }

    fn held_in(&self, lane: &Lane) -> usize {
        self.entries.values().filter(|entry| entry.task.lane() == *lane && entry.held.is_some()).count()
    }

    /// Claims tasks. `name` names each claim.
    pub(crate) fn claim(
        &mut self,
        lane: &Lane,
        (most, bound): (usize, usize),
        lease: Duration,
        now: Timestamp,
        mut name: impl FnMut() -> u64,
    ) -> Vec<Claim> {
        self.end_leases(now);
        if self.orphaned.remove(lane) {
            for entry in self.entries.values_mut().filter(|entry| entry.task.lane() == *lane) {
                if let Some(hold) = entry.held.take() {
                    entry.put_back(&hold, now);
                }
            }
        }
        let room = bound.saturating_sub(self.held_in(lane));
        let is_due =
            |entry: &&mut Entry| entry.task.lane() == *lane && entry.held.is_none() && entry.due() <= now;
        let mut due: Vec<&mut Entry> = self.entries.values_mut().filter(is_due).collect();
        due.sort_by_key(|entry| entry.waits.map(|wait| (Reverse(wait.priority), wait.due, wait.place)));
        let taken = due.into_iter().take(most.min(room));
        taken.map(|entry| entry.take(name(), later(now, lease), now)).collect()
    }

    fn holder(&mut self, token: &ClaimToken) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&token.key)?;
        entry.held.as_ref().is_some_and(|hold| hold.number == token.number).then_some(entry)
    }

    pub(crate) fn is_held(&self, token: &ClaimToken) -> bool {
        self.clone().holder(token).is_some()
    }

    pub(crate) fn extend(
        &mut self,
        token: &ClaimToken,
        lease: Duration,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.end_leases(now);
        let hold = self.holder(token)?.held.as_mut()?;
        hold.until = later(now, lease);
        Some(hold.until)
    }

    /// Ends a hold; tells whether it was held.
    pub(crate) fn end(&mut self, token: &ClaimToken, how: End, reason: &str, now: Timestamp) -> bool {
        self.end_leases(now);
        let Some(entry) = self.holder(token) else { return false };
        let Some(hold) = entry.held.take() else { return false };
        let attempts = hold.from.attempts + 1;
        match how {
            End::Release => entry.join(hold.from),
            End::Retry(when) => {
                let due = when.max(now);
                entry.join(Wait { due, floor: Some(due), attempts, ..hold.from });
            }
            End::Bury if entry.waits.is_none() => {
                let task = entry.task.clone();
                self.dead.push(DeadTask { task, reason: reason.to_owned(), at: now, attempts });
            }
            End::Ack | End::Bury => {}
        }
        self.entries.retain(|_, entry| entry.waits.is_some() || entry.held.is_some());
        true
    }

    pub(crate) fn revive(&mut self, key: &str, now: Timestamp) -> bool {
        let Some(dead) = self.dead.iter().find(|dead| dead.task.key() == key) else { return false };
        self.push(NewTask::now(dead.task.clone()), now);
        true
    }

    pub(crate) fn statistics(&self, now: Timestamp) -> QueueStatistics {
        let mut queue = self.clone();
        queue.end_leases(now);
        let lanes: BTreeSet<Lane> = queue.entries.values().map(|entry| entry.task.lane()).collect();
        let lanes = lanes.into_iter().map(|lane| queue.lane_statistics(lane, now)).collect();
        QueueStatistics { lanes, dead: queue.dead.len() as u64 }
    }

    fn lane_statistics(&self, lane: Lane, now: Timestamp) -> LaneStatistics {
        let entries = || self.entries.values().filter(|entry| entry.task.lane() == lane);
        let waits = || entries().filter_map(|entry| entry.waits.map(|wait| (entry.held.is_some(), wait.due)));
        let is_due = |(is_behind, due): &(bool, Timestamp)| !is_behind && *due <= now;
        LaneStatistics {
            due: waits().filter(is_due).count() as u64,
            delayed: waits().filter(|wait| !is_due(wait)).count() as u64,
            claimed: entries().filter(|entry| entry.held.is_some()).count() as u64,
            oldest_due: waits().filter(is_due).map(|(_, due)| due).min(),
            lane,
        }
    }
}

impl Entry {
    fn due(&self) -> Timestamp {
        self.waits.map_or(Timestamp::MAX, |wait| wait.due)
    }

    fn join(&mut self, back: Wait) {
        self.waits = Some(self.waits.map_or(back, |pushed| back.joined(pushed)));
    }

    /// A hold ended without a word.
    fn put_back(&mut self, hold: &Hold, due: Timestamp) {
        self.join(Wait { due, floor: None, attempts: hold.from.attempts + 1, ..hold.from });
    }

    fn take(&mut self, number: u64, until: Timestamp, now: Timestamp) -> Claim {
        let from = self.waits.take().unwrap();
        self.held = Some(Hold { number, until, from });
        Claim {
            token: ClaimToken { key: self.task.key(), number },
            task: self.task.clone(),
            attempt: from.attempts + 1,
            until,
            waited: now.duration_since(from.due).try_into().unwrap(),
        }
    }
}
