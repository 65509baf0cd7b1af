//! One write to the store: every change is checked first, and then all are made.

use std::collections::{BTreeMap, BTreeSet};

use super::key::Key;
use super::prune;
use super::queue;
use super::read;
use super::schema::{
    Answered, DEPLOYMENT_ROW, Stored, TRUSTED_ROW, Table, finished_key, hook_key, job_key, job_keys,
    runner_keys,
};
use super::step::Step;
use super::tables::load;
use crate::domain::{
    Deployment, EndedRunner, GroupName, HookPlace, HookRecord, Incarnation, Runner, RunnerName, WorkflowJob,
};
use crate::flaws::{Flaw, is_on};
use crate::store::{
    Applied, Change, Expected, GroupCounts, GroupRecord, Retention, StoreError, Version, Write,
};

/// Does one atomic step.
pub(super) fn apply(step: &mut Step<'_>, retention: &Retention, write: Write) -> Result<Applied, StoreError> {
    let operation = write.operation.as_str();
    if let Some(answered) = load::<Answered>(step, Table::Operations, operation.as_bytes())? {
        return Ok(Applied { versions: answered.versions, repeated: true });
    }
    if let Some(token) = write.claim.as_ref().filter(|_| !is_on(Flaw::CompareVersionsOnly)) {
        queue::held(step, token)?;
    }
    if write.on_trust {
        trusted(step)?;
    }
    let mut plan = Plan::default();
    for change in write.changes {
        plan.add(step, change)?;
    }
    let pruned = plan.effects.len();
    let versions = plan.execute(step)?;
    for task in write.tasks {
        queue::push(step, task)?;
    }
    if let Some(token) = write.claim.as_ref().filter(|_| write.ends_claim) {
        queue::ack(step, token)?;
    }
    remember(step, operation, &versions)?;
    prune::history(step, retention, pruned)?;
    Ok(Applied { versions, repeated: false })
}

fn trusted(step: &Step<'_>) -> Result<(), StoreError> {
    if read::is_trusted(step, step.incarnation)? { Ok(()) } else { Err(StoreError::Untrusted) }
}

fn remember(step: &mut Step<'_>, operation: &str, versions: &[Option<Version>]) -> Result<(), StoreError> {
    let answered = Answered { at: step.now, versions: versions.to_vec() };
    step.put(Table::Operations, operation.as_bytes(), &answered)?;
    let by_time = Key::new().time(step.now).last(operation);
    step.put_bytes(Table::OperationsBy, by_time.bytes(), operation.as_bytes())
}

/// What a change that was checked does: it tells the record's version.
type Effect = Box<dyn FnOnce(&mut Step<'_>) -> Result<Option<Version>, StoreError>>;

/// The changes of a write that were checked so far, and how they leave what is counted.
#[derive(Default)]
struct Plan {
    effects: Vec<Effect>,
    named: BTreeSet<String>,
    groups: BTreeMap<GroupName, Option<GroupRecord>>,
    counts: BTreeMap<GroupName, GroupCounts>,
}

fn conflict(record: &str) -> StoreError {
    StoreError::Conflict { record: record.to_owned() }
}

/// Whether a record is what a write expects.
fn compare<T>(record: &str, found: Option<&Stored<T>>, expected: Expected) -> Result<(), StoreError> {
    let as_expected = match (found, expected) {
        (None, Expected::Absent) => true,
        (Some(stored), Expected::Version(version)) => stored.version == version.0,
        (Some(_), Expected::Absent) | (None, Expected::Version(_)) => false,
    };
    if as_expected { Ok(()) } else { Err(conflict(record)) }
}

impl Plan {
    /// Checks a change and notes what it does.
    fn add(&mut self, step: &Step<'_>, change: Change) -> Result<(), StoreError> {
        match change {
            Change::PutGroup { record, expected } => self.put_group(step, record, expected),
            Change::RemoveGroup { name, expected } => self.remove_group(step, name, expected),
            Change::ReserveRunner { runner } => self.reserve(step, runner),
            Change::AdoptRunner { runner } => self.new_runner(step, runner),
            Change::PutRunner { runner, expected } => self.put_runner(step, runner, expected),
            Change::EndRunner { ended, expected } => self.end_runner(step, ended, expected),
            Change::PutJob { job, expected } => self.put_job(step, job, expected),
            Change::PutHook { record, expected } => self.put_hook(step, record, expected),
            Change::RemoveHook { place, expected } => self.remove_hook(step, &place, expected),
            Change::PutDeployment { record, expected } => self.put_deployment(step, record, expected),
            Change::Trust { incarnation } => self.trust(step, &incarnation),
        }
    }

    /// Notes that a record is changed: by one change of a write at most.
    fn name(&mut self, record: String) -> Result<String, StoreError> {
        if self.named.insert(record.clone()) { Ok(record) } else { Err(conflict(&record)) }
    }

    fn counts(&mut self, step: &Step<'_>, group: &GroupName) -> Result<&mut GroupCounts, StoreError> {
        if !self.counts.contains_key(group) {
            self.counts.insert(group.clone(), read::counts(step, group)?);
        }
        Ok(self.counts.get_mut(group).expect("the entry was just made"))
    }

    fn group(&mut self, step: &Step<'_>, name: &GroupName) -> Result<Option<&GroupRecord>, StoreError> {
        if !self.groups.contains_key(name) {
            let found: Option<Stored<GroupRecord>> = load(step, Table::Groups, name.as_str().as_bytes())?;
            self.groups.insert(name.clone(), found.map(|stored| stored.value));
        }
        Ok(self.groups.get(name).and_then(Option::as_ref))
    }

    fn put_group(
        &mut self,
        step: &Step<'_>,
        record: GroupRecord,
        expected: Expected,
    ) -> Result<(), StoreError> {
        let name = record.spec.name.clone();
        let shown = self.name(format!("group {name}"))?;
        let found: Option<Stored<GroupRecord>> = load(step, Table::Groups, name.as_str().as_bytes())?;
        compare(&shown, found.as_ref(), expected)?;
        self.groups.insert(name.clone(), Some(record.clone()));
        self.effects.push(Box::new(move |step| write_group(step, &name, Some(record))));
        Ok(())
    }

    fn remove_group(
        &mut self,
        step: &Step<'_>,
        name: GroupName,
        expected: Version,
    ) -> Result<(), StoreError> {
        let shown = self.name(format!("group {name}"))?;
        let found: Option<Stored<GroupRecord>> = load(step, Table::Groups, name.as_str().as_bytes())?;
        compare(&shown, found.as_ref(), Expected::Version(expected))?;
        if *self.counts(step, &name)? != GroupCounts::default() {
            return Err(conflict(&shown));
        }
        self.groups.insert(name.clone(), None);
        self.effects.push(Box::new(move |step| write_group(step, &name, None)));
        Ok(())
    }

    fn put_hook(&mut self, step: &Step<'_>, value: HookRecord, expected: Expected) -> Result<(), StoreError> {
        let key = value.place.key();
        let shown = self.name(format!("hook of {key}"))?;
        compare(&shown, read::hook(step, &value.place)?.as_ref(), expected)?;
        self.effects.push(Box::new(move |step| {
            let version = step.number()?;
            step.put(Table::Meta, hook_key(&value.place).bytes(), &Stored { version, value })?;
            Ok(Some(Version(version)))
        }));
        Ok(())
    }

    fn remove_hook(
        &mut self,
        step: &Step<'_>,
        place: &HookPlace,
        expected: Version,
    ) -> Result<(), StoreError> {
        let shown = self.name(format!("hook of {}", place.key()))?;
        compare(&shown, read::hook(step, place)?.as_ref(), Expected::Version(expected))?;
        let key = hook_key(place);
        self.effects.push(Box::new(move |step| {
            step.remove(Table::Meta, key.bytes())?;
            Ok(None)
        }));
        Ok(())
    }

    fn put_deployment(
        &mut self,
        step: &Step<'_>,
        value: Deployment,
        expected: Expected,
    ) -> Result<(), StoreError> {
        let shown = self.name("the deployment".to_owned())?;
        compare(&shown, read::deployment(step)?.as_ref(), expected)?;
        self.effects.push(Box::new(move |step| {
            let version = step.number()?;
            step.put(Table::Meta, DEPLOYMENT_ROW, &Stored { version, value })?;
            Ok(Some(Version(version)))
        }));
        Ok(())
    }

    fn trust(&mut self, step: &Step<'_>, incarnation: &Incarnation) -> Result<(), StoreError> {
        let shown = self.name("the store's life".to_owned())?;
        if read::name_of(step.incarnation) != *incarnation {
            return Err(conflict(&shown));
        }
        self.effects.push(Box::new(|step| {
            step.put_bytes(Table::Meta, TRUSTED_ROW, &step.incarnation.to_be_bytes())?;
            Ok(None)
        }));
        Ok(())
    }

    fn reserve(&mut self, step: &Step<'_>, runner: Runner) -> Result<(), StoreError> {
        trusted(step)?;
        if read::runner(step, &runner.name)?.is_some() {
            return Err(conflict(&format!("runner {}", runner.name)));
        }
        let group = runner.group.clone();
        let max = match self.group(step, &group)? {
            Some(record) if record.draining.is_none() => record.spec.bounds.max(),
            Some(_) | None => return Err(StoreError::Closed { group }),
        };
        let alive = self.counts(step, &group)?.alive();
        if alive >= max && !is_on(Flaw::CountThenCreate) {
            return Err(StoreError::AtMax { group, alive, max });
        }
        self.new_runner(step, runner)
    }

    fn new_runner(&mut self, step: &Step<'_>, runner: Runner) -> Result<(), StoreError> {
        let shown = self.name(format!("runner {}", runner.name))?;
        compare(&shown, read::runner(step, &runner.name)?.as_ref(), Expected::Absent)?;
        *self.counts(step, &runner.group)?.of_mut(runner.phase()) += 1;
        self.effects.push(Box::new(move |step| write_runner(step, None, runner)));
        Ok(())
    }

    /// The runner as it is, if it is as expected.
    fn known_runner(
        &mut self,
        step: &Step<'_>,
        name: &RunnerName,
        expected: Version,
    ) -> Result<Runner, StoreError> {
        let shown = self.name(format!("runner {name}"))?;
        match read::runner(step, name)? {
            Some(stored) if stored.version == expected.0 => Ok(stored.value),
            Some(_) | None => Err(conflict(&shown)),
        }
    }

    fn put_runner(&mut self, step: &Step<'_>, after: Runner, expected: Version) -> Result<(), StoreError> {
        let before = self.known_runner(step, &after.name, expected)?;
        if before.group != after.group {
            return Err(conflict(&format!("the group of runner {}", after.name)));
        }
        let counts = self.counts(step, &after.group)?;
        decrement(counts.of_mut(before.phase()));
        *counts.of_mut(after.phase()) += 1;
        self.effects.push(Box::new(move |step| write_runner(step, Some(&before), after)));
        Ok(())
    }

    fn end_runner(
        &mut self,
        step: &Step<'_>,
        ended: EndedRunner,
        expected: Version,
    ) -> Result<(), StoreError> {
        let before = self.known_runner(step, &ended.name, expected)?;
        decrement(self.counts(step, &before.group)?.of_mut(before.phase()));
        self.effects.push(Box::new(move |step| end_runner(step, &before, &ended)));
        Ok(())
    }

    fn put_job(&mut self, step: &Step<'_>, after: WorkflowJob, expected: Expected) -> Result<(), StoreError> {
        let shown = self.name(format!("job {}", after.id))?;
        let found = read::job(step, after.id)?;
        compare(&shown, found.as_ref(), expected)?;
        let before = found.map(|stored| stored.value);
        if let Some(group) = before.as_ref().and_then(WorkflowJob::demand) {
            decrement(&mut self.counts(step, group)?.queued);
        }
        if let Some(group) = after.demand() {
            self.counts(step, group)?.queued += 1;
        }
        self.effects.push(Box::new(move |step| write_job(step, before.as_ref(), after)));
        Ok(())
    }

    /// Makes all changes and tells the records' versions.
    fn execute(self, step: &mut Step<'_>) -> Result<Vec<Option<Version>>, StoreError> {
        let versions: Vec<_> =
            self.effects.into_iter().map(|effect| effect(step)).collect::<Result<_, _>>()?;
        for (group, counts) in self.counts {
            let key = group.as_str().as_bytes();
            if counts == GroupCounts::default() {
                step.remove(Table::Counts, key)?;
            } else {
                step.put(Table::Counts, key, &counts)?;
            }
        }
        Ok(versions)
    }
}

fn decrement(count: &mut u32) {
    *count = count.checked_sub(1).expect("a record that is counted was counted");
}

fn write_group(
    step: &mut Step<'_>,
    name: &GroupName,
    after: Option<GroupRecord>,
) -> Result<Option<Version>, StoreError> {
    let key = name.as_str().as_bytes();
    let Some(value) = after else {
        step.remove(Table::Groups, key)?;
        return Ok(None);
    };
    let version = step.number()?;
    step.put(Table::Groups, key, &Stored { version, value })?;
    Ok(Some(Version(version)))
}

fn write_runner(
    step: &mut Step<'_>,
    before: Option<&Runner>,
    value: Runner,
) -> Result<Option<Version>, StoreError> {
    let name = value.name.clone();
    let key = name.as_str().as_bytes();
    let from = before.map(runner_keys).map(Vec::from).unwrap_or_default();
    step.move_entries(Table::RunnersBy, &from, &runner_keys(&value), key)?;
    let version = step.number()?;
    step.put(Table::Runners, key, &Stored { version, value })?;
    Ok(Some(Version(version)))
}

fn end_runner(
    step: &mut Step<'_>,
    before: &Runner,
    ended: &EndedRunner,
) -> Result<Option<Version>, StoreError> {
    let key = before.name.as_str().as_bytes();
    step.move_entries(Table::RunnersBy, &runner_keys(before), &[], key)?;
    step.remove(Table::Runners, key)?;
    let history = Key::new().time(ended.ended_at).last(ended.name.as_str());
    step.put(Table::Ended, history.bytes(), ended)?;
    Ok(None)
}

fn write_job(
    step: &mut Step<'_>,
    before: Option<&WorkflowJob>,
    value: WorkflowJob,
) -> Result<Option<Version>, StoreError> {
    let key = job_key(value.id);
    let from = before.map(job_keys).unwrap_or_default();
    step.move_entries(Table::JobsBy, &from, &job_keys(&value), key.bytes())?;
    let from: Vec<Key> = before.and_then(finished_key).into_iter().collect();
    let to: Vec<Key> = finished_key(&value).into_iter().collect();
    step.move_entries(Table::Finished, &from, &to, key.bytes())?;
    let version = step.number()?;
    step.put(Table::Jobs, key.bytes(), &Stored { version, value })?;
    Ok(Some(Version(version)))
}
