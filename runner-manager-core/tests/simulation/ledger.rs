//! The queue's books as the wrappers saw them: who holds which task and until when, and what is due.
//!
//! Kept from the answers of the storage alone, so that the storage is held to its own word.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::domain::later;
use runner_manager_core::queue::{Claim, ClaimToken, Lane, NewTask};

/// One hold on a task.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    number: u64,
    /// Which replica got it.
    pub(crate) replica: usize,
    until: Timestamp,
    lane: Lane,
}

/// A task that waits: from when on, and no earlier than when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    at: Timestamp,
    floor: Option<Timestamp>,
}

impl Due {
    fn join(self, other: Self) -> Self {
        let floor = self.floor.max(other.floor);
        let at = self.at.min(other.at);
        Self { at: floor.map_or(at, |floor| at.max(floor)), floor }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    holds: BTreeMap<String, Hold>,
    waiting: BTreeMap<String, (Lane, Due)>,
    by_time: BTreeSet<(Timestamp, String)>,
    lanes: BTreeMap<Lane, usize>,
}

impl Ledger {
    pub(crate) fn pushed(&mut self, tasks: &[NewTask], now: Timestamp) {
        for task in tasks {
            let due = Due { at: task.not_before.map_or(now, |at| at.max(now)), floor: None };
            self.wait(task.task.key(), task.task.lane(), due);
        }
    }

    pub(crate) fn claimed(&mut self, replica: usize, claims: &[Claim]) {
        for claim in claims {
            let key = claim.token.key.clone();
            self.forget_waiting(&key);
            self.let_go(&key);
            let lane = claim.task.lane();
            *self.lanes.entry(lane.clone()).or_default() += 1;
            self.holds.insert(key, Hold { number: claim.token.number, replica, until: claim.until, lane });
        }
    }

    pub(crate) fn extended(&mut self, token: &ClaimToken, until: Timestamp) {
        if let Some(hold) = self.holds.get_mut(&token.key).filter(|hold| hold.number == token.number) {
            hold.until = until;
        }
    }

    /// A hold ended, and its task comes back, or does not.
    pub(crate) fn ended(&mut self, token: &ClaimToken, back: Option<(Timestamp, bool)>) {
        let Some(hold) = self.let_go(&token.key) else { return };
        if let Some((at, is_floor)) = back {
            let due = Due { at, floor: is_floor.then_some(at) };
            self.wait(token.key.clone(), hold.lane, due);
        }
    }

    /// Whether a token is the proof of a hold that is not over.
    pub(crate) fn is_held(&self, token: &ClaimToken, now: Timestamp) -> bool {
        self.holds.get(&token.key).is_some_and(|hold| hold.number == token.number && hold.until > now)
    }

    /// Whether a replica holds a key now.
    pub(crate) fn holds(&self, replica: usize, key: &str, now: Timestamp) -> bool {
        self.holds.get(key).is_some_and(|hold| hold.replica == replica && hold.until > now)
    }

    /// A task of a lane that was due before now and that nobody holds.
    pub(crate) fn overdue(&self, lane: &Lane, now: Timestamp) -> Option<&str> {
        let due = self.by_time.iter().take_while(|(at, _)| *at < now);
        due.map(|(_, key)| key.as_str()).find(|key| {
            self.waiting.get(*key).is_some_and(|(of, _)| of == lane) && !self.holds.contains_key(*key)
        })
    }

    /// How many tasks of a lane are held.
    pub(crate) fn held_in(&self, lane: &Lane) -> usize {
        self.lanes.get(lane).copied().unwrap_or_default()
    }

    /// Puts back what is held no longer because its lease is over.
    pub(crate) fn end_leases(&mut self, now: Timestamp) {
        let over = self.holds.iter().filter(|(_, hold)| hold.until <= now);
        let over: Vec<String> = over.map(|(key, _)| key.clone()).collect();
        for key in over {
            if let Some(hold) = self.let_go(&key) {
                self.wait(key, hold.lane, Due { at: hold.until.min(now), floor: None });
            }
        }
    }

    /// The longest that a task has been due and not been claimed.
    pub(crate) fn oldest(&self, now: Timestamp) -> Option<(&str, Duration)> {
        let (at, key) = self.by_time.first().filter(|(at, _)| later(*at, Duration::ZERO) < now)?;
        Some((key, Duration::try_from(now.duration_since(*at)).unwrap_or_default()))
    }

    fn wait(&mut self, key: String, lane: Lane, due: Due) {
        let due = match self.forget_waiting(&key) {
            Some(before) => before.join(due),
            None => due,
        };
        self.by_time.insert((due.at, key.clone()));
        self.waiting.insert(key, (lane, due));
    }

    fn forget_waiting(&mut self, key: &str) -> Option<Due> {
        let (_, due) = self.waiting.remove(key)?;
        self.by_time.remove(&(due.at, key.to_owned()));
        Some(due)
    }

    fn let_go(&mut self, key: &str) -> Option<Hold> {
        let hold = self.holds.remove(key)?;
        *self.lanes.entry(hold.lane.clone()).or_default() -= 1;
        Some(hold)
    }
}
