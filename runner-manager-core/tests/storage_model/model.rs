//! The reference: what a storage has to answer, in plain maps, where all that is counted or ordered is counted
//! and ordered anew each time.
//!
//! Versions, claims, permits and lives have names of its own, which each storage's numbers are held against.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use runner_manager_core::domain::{
    Deployment, EndedRunner, GroupName, HookRecord, Incarnation, JobId, JobState, Runner, RunnerName,
    WorkflowJob,
};
use runner_manager_core::store::{
    Change, Expected, GroupCounts, GroupRecord, JobFilter, Page, RunnerFilter, Version, Write,
};

use crate::budget::Accounts;
use crate::queue::{End, Queue};

/// Why a write is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    Conflict,
    AtMax { alive: u32, max: u32 },
    Closed,
    Untrusted,
    LostClaim,
}

impl Refusal {
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::AtMax { .. } => "at max",
            Self::Closed => "closed",
            Self::Untrusted => "untrusted",
            Self::LostClaim => "lost claim",
        }
    }
}

/// A record with the name of its version.
type Named<T> = (T, Version);

/// What is recorded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    pub(crate) groups: BTreeMap<GroupName, Named<GroupRecord>>,
    pub(crate) runners: BTreeMap<RunnerName, Named<Runner>>,
    pub(crate) jobs: BTreeMap<JobId, Named<WorkflowJob>>,
    pub(crate) ended: Vec<EndedRunner>,
    pub(crate) hooks: BTreeMap<String, Named<HookRecord>>,
    pub(crate) deployment: Option<Named<Deployment>>,
    pub(crate) trusted_life: u64,
}

/// All that a storage forgets when it loses everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) records: Records,
    pub(crate) queue: Queue,
    answers: BTreeMap<String, Vec<Option<Version>>>,
}

/// The reference.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) now: Timestamp,
    pub(crate) held: Held,
    pub(crate) accounts: Accounts,
    pub(crate) life: u64,
    /// The last name that was given.
    names: u64,
}

impl Model {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { now, held: Held::default(), accounts: Accounts::default(), life: 0, names: 0 }
    }

    pub(crate) fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    pub(crate) fn incarnation(life: u64) -> Incarnation {
        Incarnation::new(format!("life-{life}"))
    }

    pub(crate) const fn is_trusted(&self) -> bool {
        self.held.records.trusted_life == self.life
    }

    /// Begins another life with what is left.
    pub(crate) fn lose(&mut self, left: Held) {
        self.held = left;
        self.life += 1;
    }

    /// The versions after a write, and whether it is a repeat; or all that speaks against it.
    pub(crate) fn apply(&mut self, write: &Write) -> Result<(Vec<Option<Version>>, bool), Vec<Refusal>> {
        self.held.queue.end_leases(self.now);
        if let Some(versions) = self.held.answers.get(write.operation.as_str()) {
            return Ok((versions.clone(), true));
        }
        let lost = write.claim.as_ref().is_some_and(|token| !self.held.queue.is_held(token));
        let mut refusals: Vec<Refusal> = lost.then_some(Refusal::LostClaim).into_iter().collect();
        refusals.extend((write.on_trust && !self.is_trusted()).then_some(Refusal::Untrusted));
        if !refusals.is_empty() {
            return Err(refusals);
        }
        let mut records = self.held.records.clone();
        let (mut versions, mut names) = (Vec::new(), BTreeSet::new());
        for change in &write.changes {
            let mut refusals = records.refusals(change, self.life);
            if !names.insert(named(change)) {
                refusals.push(Refusal::Conflict);
            }
            if !refusals.is_empty() {
                return Err(refusals);
            }
            let version = Version(self.name());
            versions.push(records.make(change, version, self.life));
        }
        self.held.records = records;
        for task in &write.tasks {
            self.held.queue.push(task.clone(), self.now);
        }
        if let Some(token) = write.claim.as_ref().filter(|_| write.ends_claim) {
            self.held.queue.end(token, End::Ack, "", self.now);
        }
        self.held.answers.insert(write.operation.as_str().to_owned(), versions.clone());
        Ok((versions, false))
    }
}

/// The record that a change names.
pub(crate) fn named(change: &Change) -> String {
    match change {
        Change::PutGroup { record, .. } => format!("group {}", record.spec.name),
        Change::RemoveGroup { name, .. } => format!("group {name}"),
        Change::ReserveRunner { runner }
        | Change::AdoptRunner { runner }
        | Change::PutRunner { runner, .. } => format!("runner {}", runner.name),
        Change::EndRunner { ended, .. } => format!("runner {}", ended.name),
        Change::PutJob { job, .. } => format!("job {}", job.id),
        Change::PutHook { record, .. } => format!("hook of {}", record.place.key()),
        Change::RemoveHook { place, .. } => format!("hook of {}", place.key()),
        Change::PutDeployment { .. } => "the deployment".to_owned(),
        Change::Trust { .. } => "the life".to_owned(),
    }
}

fn is_as_expected<T>(found: Option<&Named<T>>, expected: Expected) -> bool {
    match expected {
        Expected::Absent => found.is_none(),
        Expected::Version(version) => found.is_some_and(|found| found.1 == version),
    }
}

impl Records {
    pub(crate) fn counts(&self, group: &GroupName) -> GroupCounts {
        let mut counts = GroupCounts::default();
        for (runner, _) in self.runners.values().filter(|(runner, _)| runner.group == *group) {
            *counts.of_mut(runner.phase()) += 1;
        }
        let queued = self.jobs.values().filter(|(job, _)| job.demand() == Some(group)).count();
        counts.queued = u32::try_from(queued).unwrap();
        counts
    }

    /// All that speaks against a change.
    fn refusals(&self, change: &Change, life: u64) -> Vec<Refusal> {
        let conflict = |is_allowed: bool| if is_allowed { Vec::new() } else { vec![Refusal::Conflict] };
        let runner = |name: &RunnerName, expected: Version| {
            is_as_expected(self.runners.get(name), Expected::Version(expected))
        };
        match change {
            Change::PutGroup { record, expected } => {
                conflict(is_as_expected(self.groups.get(&record.spec.name), *expected))
            }
            Change::RemoveGroup { name, expected } => {
                let is_empty = self.counts(name) == GroupCounts::default();
                let expected = Expected::Version(*expected);
                conflict(is_empty && is_as_expected(self.groups.get(name), expected))
            }
            Change::ReserveRunner { runner } => self.refusals_of_reservation(runner, life),
            Change::AdoptRunner { runner } => conflict(!self.runners.contains_key(&runner.name)),
            Change::PutRunner { runner: after, expected } => {
                let is_same = |before: &Named<Runner>| before.0.group == after.group;
                let stays = self.runners.get(&after.name).is_some_and(is_same);
                conflict(stays && runner(&after.name, *expected))
            }
            Change::EndRunner { ended, expected } => conflict(runner(&ended.name, *expected)),
            Change::PutJob { job, expected } => conflict(is_as_expected(self.jobs.get(&job.id), *expected)),
            Change::PutHook { record, expected } => {
                conflict(is_as_expected(self.hooks.get(&record.place.key()), *expected))
            }
            Change::RemoveHook { place, expected } => {
                conflict(is_as_expected(self.hooks.get(&place.key()), Expected::Version(*expected)))
            }
            Change::PutDeployment { expected, .. } => {
                conflict(is_as_expected(self.deployment.as_ref(), *expected))
            }
            Change::Trust { incarnation } => conflict(*incarnation == Model::incarnation(life)),
        }
    }

    fn refusals_of_reservation(&self, runner: &Runner, life: u64) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        if self.trusted_life != life {
            refusals.push(Refusal::Untrusted);
        }
        if self.runners.contains_key(&runner.name) {
            refusals.push(Refusal::Conflict);
        }
        let (alive, group) = (self.counts(&runner.group).alive(), self.groups.get(&runner.group));
        match group.filter(|(record, _)| record.draining.is_none()) {
            None => refusals.push(Refusal::Closed),
            Some((record, _)) if alive >= record.spec.bounds.max() => {
                refusals.push(Refusal::AtMax { alive, max: record.spec.bounds.max() });
            }
            Some(_) => {}
        }
        refusals
    }

    /// Makes a change that nothing speaks against, and tells the record's version.
    fn make(&mut self, change: &Change, version: Version, life: u64) -> Option<Version> {
        match change.clone() {
            Change::PutGroup { record, .. } => {
                self.groups.insert(record.spec.name.clone(), (record, version));
            }
            Change::RemoveGroup { name, .. } => {
                self.groups.remove(&name);
                return None;
            }
            Change::ReserveRunner { runner }
            | Change::AdoptRunner { runner }
            | Change::PutRunner { runner, .. } => {
                self.runners.insert(runner.name.clone(), (runner, version));
            }
            Change::EndRunner { ended, .. } => {
                self.runners.remove(&ended.name);
                self.ended.push(ended);
                return None;
            }
            Change::PutJob { job, .. } => {
                self.jobs.insert(job.id, (job, version));
            }
            Change::PutHook { record, .. } => {
                self.hooks.insert(record.place.key(), (record, version));
            }
            Change::RemoveHook { place, .. } => {
                self.hooks.remove(&place.key());
                return None;
            }
            Change::PutDeployment { record, .. } => self.deployment = Some((record, version)),
            Change::Trust { .. } => {
                self.trusted_life = life;
                return None;
            }
        }
        Some(version)
    }

    /// All runners that a filter selects, in its order.
    fn list_runners(&self, filter: &RunnerFilter) -> Vec<&Named<Runner>> {
        let is_listed = |runner: &Runner| match filter {
            RunnerFilter::All => true,
            RunnerFilter::Group(group) => runner.group == *group,
            RunnerFilter::Phase(group, phase) => runner.group == *group && runner.phase() == *phase,
            RunnerFilter::Backend(backend) => runner.backend == *backend,
            RunnerFilter::Scope(scope) => runner.scope.to_string().eq_ignore_ascii_case(&scope.to_string()),
        };
        let mut list: Vec<_> = self.runners.values().filter(|(runner, _)| is_listed(runner)).collect();
        list.sort_by_key(|(runner, _)| runner.name.clone());
        if matches!(filter, RunnerFilter::Phase(..)) {
            list.sort_by_key(|(runner, _)| runner.since);
        }
        list
    }

    pub(crate) fn runners(&self, filter: &RunnerFilter, page: &Page<RunnerName>) -> Vec<Named<Runner>> {
        let list = self.list_runners(filter);
        let begin = match (&page.after, filter) {
            (None, _) => 0,
            // The place of one that is not in the list any more is gone.
            (Some(after), RunnerFilter::Phase(..)) => {
                list.iter().position(|(runner, _)| runner.name == *after).map_or(0, |place| place + 1)
            }
            (Some(after), _) => list.iter().filter(|(runner, _)| runner.name <= *after).count(),
        };
        list.into_iter().skip(begin).take(page.limit).cloned().collect()
    }

    pub(crate) fn jobs(&self, filter: &JobFilter, page: &Page<JobId>) -> Vec<Named<WorkflowJob>> {
        let is_listed = |job: &WorkflowJob| match (filter, &job.state) {
            (JobFilter::All, _) => true,
            (JobFilter::Queued(group), JobState::Queued { group: Some(of) }) => of == group,
            (JobFilter::Unserved, JobState::Queued { group }) => group.is_none(),
            (JobFilter::Queued(_) | JobFilter::Unserved, _) => false,
        };
        // A job keeps its times, and so its place, wherever it is listed.
        let mut all: Vec<_> = self.jobs.values().collect();
        if *filter == JobFilter::All {
            all.sort_by_key(|(job, _)| std::cmp::Reverse((job.recorded_at, job.id)));
        } else {
            all.sort_by_key(|(job, _)| (job.created_at, job.id));
        }
        let after = page.after.and_then(|after| all.iter().position(|(job, _)| job.id == after));
        let rest = all.into_iter().skip(after.map_or(0, |place| place + 1));
        rest.filter(|(job, _)| is_listed(job)).take(page.limit).cloned().collect()
    }
}
