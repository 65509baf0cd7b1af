//! The checker: holds the promises against what truly happens, by the books of GitHub and of the cloud and by
//! what went through the wrappers. It never asks the manager.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runner_manager_backends::fake::{Books, Life};
use runner_manager_core::backend::InstanceSpec;
use runner_manager_core::domain::{GroupName, JobId, Owner, RunnerName, later};
use runner_manager_core::github::RegisteredRunner;
use runner_manager_core::queue::{ClaimToken, Lane};
use runner_manager_core::store::{Change, GroupView, Write};
use runner_manager_core::testing::simulator;

use super::github_groups::GroupsChecker;
use super::ledger::Ledger;
use super::limits::LimitsChecker;
use super::redeliveries::Redeliveries;
use super::shared::{Promise, Violation};

/// Promise 1: how far apart two readings must be, and how long after a runner came online the first counts.
const READING_GAP: SignedDuration = SignedDuration::from_secs(60);
const READING_AGE: SignedDuration = SignedDuration::from_secs(120);

/// How long a removal that was decided may be on its way.
const MEANWHILE: SignedDuration = SignedDuration::from_secs(15);

/// What GitHub said of one runner.
#[derive(Debug, Clone, Default)]
struct Readings {
    online_since: Option<Timestamp>,
    /// The first reading that says "not busy", old enough to count, with no sign of a job since.
    first_not_busy: Option<Timestamp>,
    last_not_busy: Option<Timestamp>,
    /// When it was last said to be offline.
    offline_at: Option<Timestamp>,
}

/// A registration that GitHub removed because somebody of us asked.
#[derive(Debug, Clone)]
pub(crate) struct Removed {
    pub(crate) name: String,
    pub(crate) online: bool,
    pub(crate) job: Option<simulator::JobId>,
    pub(crate) ours: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Checker {
    violation: Option<Violation>,
    readings: BTreeMap<String, Readings>,
    /// Runners that `create` was called for.
    asked: BTreeSet<RunnerName>,
    /// The greatest `max` that each group ever had.
    greatest_max: BTreeMap<GroupName, u32>,
    /// Instances that no record explains for a reason that the promises allow: the store lost it, or a process
    /// that was thawed sent its `create` late.
    excused: BTreeSet<RunnerName>,
    /// Jobs that were acknowledged, with how far they had come.
    acknowledged: BTreeMap<JobId, u8>,
    /// How many wait in a claim, by lane, with how many tasks may be held.
    waiters: BTreeMap<Lane, (usize, usize)>,
    /// Jobs that we had run again, by their run and name.
    ran_again: BTreeSet<(simulator::RunId, String)>,
    secrets: Vec<String>,
    /// Running jobs that were killed within what promise 1 calls best effort.
    pub(crate) best_effort: u64,
    seen_violations: usize,
    pub(crate) limits: LimitsChecker,
    pub(crate) redeliveries: Redeliveries,
    pub(crate) groups: GroupsChecker,
}

impl Checker {
    pub(crate) fn new(secrets: &[&str]) -> Self {
        let secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
        Self { secrets, ..Self::default() }
    }

    pub(crate) const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Notes a broken promise; the first one counts.
    pub(crate) fn broken(&mut self, promise: Promise, what: impl Into<String>) {
        self.violation.get_or_insert_with(|| Violation { promise, what: what.into() });
    }

    // Promise 1.

    /// An agent connected.
    pub(crate) fn online(&mut self, runner: &str, now: Timestamp) {
        self.readings.entry(runner.to_owned()).or_default().online_since = Some(now);
    }

    /// GitHub told of a runner.
    pub(crate) fn read(&mut self, found: &RegisteredRunner, begun: Timestamp) {
        let readings = self.readings.entry(found.name.clone()).or_default();
        if found.busy {
            (readings.first_not_busy, readings.last_not_busy) = (None, None);
            return;
        }
        if !found.online {
            readings.offline_at = Some(begun);
        }
        if readings.online_since.is_some_and(|since| begun >= since + READING_AGE) {
            readings.first_not_busy.get_or_insert(begun);
            readings.last_not_busy = Some(begun);
        }
    }

    /// A webhook told that a job began on a runner, and it was acknowledged.
    pub(crate) fn heard_of_start(&mut self, runner: &str) {
        if let Some(readings) = self.readings.get_mut(runner) {
            (readings.first_not_busy, readings.last_not_busy) = (None, None);
        }
    }

    /// GitHub removed a registration because we asked.
    pub(crate) fn removed(&mut self, removed: &Removed, violations: &[simulator::Violation], now: Timestamp) {
        let name = &removed.name;
        if !removed.ours {
            self.broken(Promise::NothingLeft, format!("the registration {name} is not ours and was removed"));
        }
        let killed = violations.len() > self.seen_violations;
        self.seen_violations = violations.len();
        let readings = self.readings.get(name).cloned().unwrap_or_default();
        let in_order = match (readings.first_not_busy, readings.last_not_busy) {
            (Some(first), Some(last)) => last.duration_since(first) >= READING_GAP,
            _ => false,
        };
        // It was last known to be offline, and came up since: nobody could know.
        let came_up_unseen = readings.online_since.is_some_and(|since| {
            readings.offline_at.is_some_and(|offline| offline + READING_AGE >= since)
                || now < since + READING_AGE
        });
        // GitHub removes a runner with a job only while it lies about it. Beside two readings in order one more case
        // is beyond anybody's knowledge: it was seen offline, and came up while it was being removed.
        let came_up_meanwhile = readings.online_since.is_some_and(|since| {
            readings.offline_at.is_some_and(|offline| offline <= since && offline + READING_GAP >= since)
                && now <= since + MEANWHILE
        });
        match removed.job {
            // Its machine is gone: nothing runs on it, whatever GitHub says of the job.
            Some(_) if !removed.online => {}
            Some(_) if killed && (in_order || came_up_meanwhile) => self.best_effort += 1,
            Some(job) if killed => {
                let what = format!(
                    "job {} ran on {name} when its registration was removed without two readings",
                    job.0
                );
                self.broken(Promise::RunningJobs, what);
            }
            Some(_) | None if removed.online && !in_order && !came_up_unseen => {
                let what =
                    format!("the runner {name} was online and removed without two readings: {readings:?}");
                self.broken(Promise::RunningJobs, what);
            }
            Some(_) | None => {}
        }
    }

    /// A `delete` is about to be sent.
    pub(crate) fn delete(&mut self, life: &Life, owner: &Owner, online: bool, job: Option<simulator::JobId>) {
        let runner = &life.runner;
        if life.owner != *owner {
            self.broken(
                Promise::NothingLeft,
                format!("the instance of {runner} is not ours and was deleted"),
            );
        }
        if let Some(job) = job {
            let what = format!("job {} runs on {runner}, whose instance was deleted", job.0);
            self.broken(Promise::RunningJobs, what);
        } else if online {
            let what = format!("{runner} is online at GitHub, and its instance was deleted");
            self.broken(Promise::RunningJobs, what);
        }
    }

    // Promises 2 and 5.

    /// A `create` is about to be sent.
    pub(crate) fn create(&mut self, spec: &InstanceSpec, held: bool, excused: bool, books: &Books) {
        let runner = &spec.runner;
        if !self.asked.insert(runner.clone()) {
            self.broken(Promise::OneInstance, format!("create was called again for {runner}"));
        }
        if !held && excused {
            self.excused.insert(runner.clone());
        } else if !held {
            self.broken(
                Promise::NothingLost,
                format!("create was called for {runner} without a hold on its task"),
            );
        }
        let others = books.lives.iter().filter(|life| {
            life.group == spec.group && life.gone_at.is_none() && !self.excused.contains(&life.runner)
        });
        let alive = others.count() + usize::from(!self.excused.contains(runner));
        let max = self.greatest_max.get(&spec.group).copied().unwrap_or_default() as usize;
        if alive > max {
            let what = format!(
                "group {} has {alive} instances, at most {max}, with the one of {runner}",
                spec.group
            );
            self.broken(Promise::Max, what);
        }
    }

    /// A write was accepted.
    pub(crate) fn wrote(
        &mut self,
        ledger: &Ledger,
        write: &Write,
        reserved_in: Option<&GroupView>,
        books: &Books,
        now: Timestamp,
    ) {
        if let Some(token) = &write.claim {
            self.used(ledger, token, "write", now);
        }
        for change in &write.changes {
            match change {
                Change::PutGroup { record, .. } => {
                    let max = record.spec.bounds.max();
                    let greatest = self.greatest_max.entry(record.spec.name.clone()).or_default();
                    *greatest = max.max(*greatest);
                }
                Change::AdoptRunner { runner } => {
                    self.excused.remove(&runner.name);
                }
                Change::EndRunner { ended, .. } => self.ended(&ended.name, books),
                Change::PutHook { record, .. } => self.redeliveries.wrote(record),
                _ => {}
            }
        }
        if let Some(view) = reserved_in {
            let (alive, max) = (view.counts.alive(), view.record.value.spec.bounds.max());
            if alive > max {
                let name = &view.record.value.spec.name;
                self.broken(Promise::Max, format!("a slot was reserved in group {name}: {alive} of {max}"));
            }
        }
    }

    /// A runner's slot was freed: its instance must be gone by then.
    fn ended(&mut self, runner: &RunnerName, books: &Books) {
        let mut left = books.lives.iter().filter(|life| life.runner == *runner && life.gone_at.is_none());
        if let Some(life) = left.next().filter(|_| !self.excused.contains(runner)) {
            let what = format!("the slot of {runner} was freed while its instance {} was there", life.id);
            self.broken(Promise::Max, what);
        }
    }

    /// What no record explains after the store lost something is nobody's fault.
    pub(crate) fn excuse(&mut self, runner: &RunnerName) {
        self.excused.insert(runner.clone());
    }

    // Promise 6.

    /// A token was accepted as the proof of a hold.
    pub(crate) fn used(&mut self, ledger: &Ledger, token: &ClaimToken, what: &str, now: Timestamp) {
        if !ledger.is_held(token, now) {
            let (key, number) = (&token.key, token.number);
            self.broken(
                Promise::NothingLost,
                format!("{what} of {key} was accepted under claim {number}, which is not held"),
            );
        }
    }

    /// A webhook was acknowledged.
    pub(crate) fn acknowledged(&mut self, job: JobId, rank: u8) {
        let known = self.acknowledged.entry(job).or_default();
        *known = rank.max(*known);
    }

    /// The jobs that were acknowledged, with how far they had come.
    pub(crate) const fn jobs(&self) -> &BTreeMap<JobId, u8> {
        &self.acknowledged
    }

    /// The store lost something: what was acknowledged, and what was run again, may be part of it.
    pub(crate) fn forget_acknowledged(&mut self) {
        self.acknowledged.clear();
        self.ran_again.clear();
    }

    /// GitHub runs a job again because somebody of us asked.
    pub(crate) fn ran_again(&mut self, run: simulator::RunId, name: &str) {
        if !self.ran_again.insert((run, name.to_owned())) {
            self.broken(Promise::NothingLost, format!("job {name} of run {run:?} was run again twice by us"));
        }
    }

    /// Somebody begins to wait in a claim, or does no more.
    pub(crate) fn waits(&mut self, lane: &Lane, bound: usize, begins: bool) {
        let (count, most) = self.waiters.entry(lane.clone()).or_default();
        if begins {
            (*count, *most) = (*count + 1, bound);
        } else {
            *count -= 1;
        }
    }

    /// Whoever waits for a task gets one that is due.
    pub(crate) fn nothing_is_withheld(&mut self, ledger: &Ledger, now: Timestamp) {
        let mut withheld = None;
        for (lane, (count, bound)) in &self.waiters {
            if *count > 0 && ledger.held_in(lane) < *bound {
                withheld = withheld.or_else(|| ledger.overdue(lane, now).map(str::to_owned));
            }
        }
        if let Some(key) = withheld {
            self.broken(
                Promise::EveryJob,
                format!("task {key} is due, and those who wait for it do not get it"),
            );
        }
    }

    // Promise 8.

    /// Something that nobody may ever see.
    pub(crate) fn secret(&mut self, text: &str) {
        // All JIT configs begin alike; a piece of the middle of each is its own.
        let middle = text.len() / 2;
        self.secrets.push(text[middle..(middle + 40).min(text.len())].to_owned());
    }

    pub(crate) fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// A text that people may see.
    pub(crate) fn shown(&mut self, text: &str) {
        if self.secrets.iter().any(|secret| text.contains(secret.as_str())) {
            self.broken(Promise::Secrets, "an error shows a secret".to_owned());
        }
    }
}

/// How long a job may wait for its group to look at it although it has room.
pub(crate) fn patience(lease: Duration, quiet: bool) -> Duration {
    if quiet { lease + Duration::from_mins(1) } else { lease * 3 + Duration::from_mins(4) }
}

/// Whether something began so long ago.
pub(crate) fn is_over(since: Timestamp, patience: Duration, now: Timestamp) -> bool {
    later(since, patience) <= now
}
