//! Does a sequence on a storage and on the reference, and holds each answer against the other.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use runner_manager_core::budget::{Permission, Permit};
use runner_manager_core::domain::{Incarnation, OperationId, later};
use runner_manager_core::manager::Storage;
use runner_manager_core::queue::{Claim, ClaimToken, Lane, NewTask};
use runner_manager_core::store::{Change, Expected, Page, StoreError, Version, Write};

use crate::compare;
use crate::model::{Held, Model, Refusal, named};
use crate::names::{Difference, Names, same};
use crate::operations::{self, Changes, Expect, Operation, Push, Times};
use crate::queue::End;
use crate::records;
use crate::subject::Subject;

/// A version that no record ever has.
const FOREIGN: Version = Version(u64::MAX);

/// How long a lease is that is to run out, and how long that is waited for.
const SHORT: Duration = Duration::from_millis(20);

/// What sequences came across, counted.
#[derive(Debug, Default)]
pub(crate) struct Met(RefCell<BTreeMap<&'static str, u64>>);

impl Met {
    fn add(&self, what: &'static str, how_often: usize) {
        *self.0.borrow_mut().entry(what).or_default() += how_often as u64;
    }

    /// What of these was never met.
    pub(crate) fn lacks<'w>(&self, all: &[&'w str]) -> Vec<&'w str> {
        let met = self.0.borrow();
        all.iter().copied().filter(|what| met.get(what).is_none_or(|count| *count == 0)).collect()
    }
}

/// What sequences of any times have to come across.
pub(crate) const TO_BE_MET: [&str; 18] = [
    "conflict",
    "at max",
    "closed",
    "lost claim",
    "write",
    "write of several changes",
    "write under a claim",
    "write that ends its claim",
    "repeat",
    "claim",
    "claim of a key again",
    "lane at its bound",
    "hold ended",
    "dead task",
    "revived",
    "call granted",
    "call that waits for a rate",
    "call that waits for another",
];

/// A sequence at work.
#[derive(Debug)]
struct Drive<'s> {
    subject: &'s mut dyn Subject,
    met: &'s Met,
    storage: Storage,
    model: Model,
    names: Names,
    noted: Option<Held>,
    writes: Vec<OperationId>,
    claims: Vec<ClaimToken>,
    permits: Vec<Permit>,
    /// All versions that a record ever had.
    versions: BTreeMap<String, Vec<Version>>,
}

/// Does a sequence, and tells the first difference. Everything is compared after every so many operations, and
/// at the end.
pub(crate) async fn run(
    subject: &mut dyn Subject,
    met: &Met,
    every: usize,
    operations: &[Operation],
) -> Result<(), Difference> {
    let storage = subject.storage();
    let now = storage.store.now().await.unwrap();
    let view = storage.store.deployment().await.unwrap();
    same("whether a subject is trusted", &true, &view.trusted)?;
    let names = Names::new(subject.times(), view.incarnation);
    let mut drive = Drive {
        subject,
        met,
        storage,
        model: Model::new(now),
        names,
        noted: None,
        writes: Vec::new(),
        claims: Vec::new(),
        permits: Vec::new(),
        versions: BTreeMap::new(),
    };
    for group in 0..2 {
        let open = Changes::PutGroup { group, max: 2, drains: false, expect: Expect::Absent };
        drive.apply(None, None, false, &[open], &[]).await?;
    }
    for (at, operation) in operations.iter().enumerate() {
        let told = async {
            drive.step(operation).await?;
            if (at + 1) % every == 0 || at + 1 == operations.len() { drive.compare().await } else { Ok(()) }
        };
        told.await.map_err(|difference| format!("after operation {}: {difference}", at + 1))?;
    }
    Ok(())
}

/// What was given so long ago; none where that is before the begin.
fn back<T: Clone>(given: &[T], back: usize) -> Option<T> {
    given.iter().rev().nth(back).cloned()
}

impl Drive<'_> {
    async fn compare(&self) -> Result<(), Difference> {
        compare::everything(&self.storage, &self.model, &self.names).await
    }

    async fn step(&mut self, operation: &Operation) -> Result<(), Difference> {
        if self.subject.times() == Times::ClearCut {
            // Some time passes with everything that is done.
            self.model.now = later(self.model.now, Duration::from_micros(1));
        } else {
            same("the time", &self.model.now, &self.storage.store.now().await.unwrap())?;
        }
        match operation {
            Operation::Apply { repeats, claim, ends_claim, on_trust, changes, tasks } => {
                let claim = claim.map(|claim| (self.token(claim), *ends_claim));
                self.apply(*repeats, claim, *on_trust, changes, tasks).await
            }
            Operation::Push(tasks) => {
                let tasks = self.tasks(tasks);
                for task in &tasks {
                    self.model.held.queue.push(task.clone(), self.model.now);
                }
                self.storage.queue.push(tasks).await.unwrap();
                Ok(())
            }
            Operation::Claim { lane, most, bound, lease } => {
                self.claim(&records::lane(*lane), *most, *bound, *lease).await
            }
            Operation::ClaimAndLose { lane, most, bound } => {
                self.claim(&records::lane(*lane), *most, *bound, SHORT).await?;
                self.pass(SHORT * 2).await
            }
            Operation::Extend { claim, lease } => self.extend(*claim, *lease).await,
            Operation::Ack(claim) => self.end(*claim, End::Ack).await,
            Operation::Release(claim) => self.end(*claim, End::Release).await,
            Operation::Bury(claim) => self.end(*claim, End::Bury).await,
            Operation::Retry { claim, seconds } => {
                let when = self.at(*seconds);
                self.end(*claim, End::Retry(when)).await
            }
            Operation::Revive(task) => {
                let dead = self.model.held.queue.dead.get(*task).map(|dead| dead.task.key());
                let key = dead.unwrap_or_else(|| records::task(*task).key());
                let expected = self.model.held.queue.revive(&key, self.model.now);
                self.met.add("revived", usize::from(expected));
                same("whether it was dead", &expected, &self.storage.queue.revive(&key).await.unwrap())
            }
            Operation::Take { call, calls, lease } => {
                for _ in 0..*calls {
                    self.take(*call, *lease).await?;
                }
                Ok(())
            }
            Operation::GiveBack(permit) => self.give_back(*permit).await,
            Operation::Pause { budget, seconds } => {
                let (key, until) = (records::budget(*budget, self.per()).key, self.at(*seconds));
                self.model.accounts.pause(&key, until);
                self.storage.budgets.pause(&key, until).await.unwrap();
                Ok(())
            }
            Operation::ListRunners { filter, after, limit } => {
                self.list_runners(*filter, *after, *limit).await
            }
            Operation::ListJobs { filter, after, limit } => self.list_jobs(*filter, *after, *limit).await,
            Operation::Pass(by) => self.pass(*by).await,
            Operation::Reopen | Operation::Remember | Operation::Lose => self.trouble(operation).await,
        }
    }

    fn at(&self, seconds: i64) -> jiff::Timestamp {
        self.model.now + jiff::SignedDuration::from_secs(seconds)
    }

    async fn pass(&mut self, by: Duration) -> Result<(), Difference> {
        self.model.now = later(self.model.now, by);
        self.subject.pass(by).await;
        Ok(())
    }

    async fn trouble(&mut self, trouble: &Operation) -> Result<(), Difference> {
        let happens = match trouble {
            Operation::Reopen => {
                // A file that is open cannot be opened.
                self.storage = crate::nothing();
                let happens = self.subject.reopen().await;
                self.storage = self.subject.storage();
                if happens {
                    self.met.add("opened again", 1);
                    self.model.held.queue.orphan();
                }
                happens
            }
            Operation::Remember => {
                if self.subject.remember().await {
                    self.noted = Some(self.model.held.clone());
                }
                return Ok(());
            }
            _ => {
                let happens = self.subject.lose().await;
                if happens {
                    self.met.add(if self.noted.is_some() { "lost something" } else { "lost all" }, 1);
                    self.model.lose(self.noted.take().unwrap_or_default());
                    let life = self.storage.store.deployment().await.unwrap().incarnation;
                    if self.names.lives.contains(&life) {
                        return Err(format!("{life} is not another life"));
                    }
                    self.names.lives.push(life);
                }
                happens
            }
        };
        if happens && self.subject.forgets_calls() {
            (self.model.accounts, self.permits) = Default::default();
            self.names.permits.clear();
        }
        Ok(())
    }

    fn tasks(&self, tasks: &[Push]) -> Vec<NewTask> {
        let task = |push: &Push| NewTask {
            task: records::task(push.task),
            not_before: push.seconds.map(|seconds| self.at(seconds)),
            priority: push.priority,
        };
        tasks.iter().map(task).collect()
    }

    // Claims.

    fn token(&self, claim: operations::Claim) -> ClaimToken {
        let foreign = || ClaimToken { key: records::task(0).key(), number: 1 };
        let is_held = |token: &&ClaimToken| self.model.held.queue.is_held(token);
        let given = match claim {
            operations::Claim::Held(back) => self.claims.iter().rev().filter(is_held).nth(back),
            operations::Claim::Any(back) => self.claims.iter().rev().nth(back),
        };
        given.cloned().unwrap_or_else(foreign)
    }

    async fn claim(
        &mut self,
        lane: &Lane,
        most: usize,
        bound: usize,
        lease: Duration,
    ) -> Result<(), Difference> {
        let model = &mut self.model;
        let mut names = (0..most).map(|_| model.name()).collect::<Vec<_>>().into_iter();
        let name = || names.next().unwrap();
        let expected = model.held.queue.claim(lane, (most, bound), lease, model.now, name);
        let found = self.storage.queue.claim(lane, most, bound, lease, Duration::ZERO).await.unwrap();
        let told: Vec<Claim> = found
            .iter()
            .enumerate()
            .map(|(at, found)| {
                expected.get(at).map_or_else(|| found.clone(), |expected| self.told(expected, found))
            })
            .collect();
        same("the claims", &expected, &told)?;
        self.met.add("claim", expected.len());
        self.met.add("claim of a key again", expected.iter().filter(|claim| claim.attempt > 1).count());
        let due = self.model.held.queue.statistics(self.model.now).lanes.into_iter();
        let is_due = due.filter(|statistics| statistics.lane == *lane).any(|lane| lane.due > 0);
        self.met.add("lane at its bound", usize::from(is_due && expected.len() < most));
        self.claims.extend(expected.iter().map(|claim| claim.token.clone()));
        let expected = expected.into_iter().map(|claim| claim.token);
        self.names.learn_claims(expected.zip(found.into_iter().map(|claim| claim.token)))
    }

    /// A claim with the reference's numbers, and with its times where they may be those.
    fn told(&self, expected: &Claim, found: &Claim) -> Claim {
        let mut told = found.clone();
        told.token.number = expected.token.number;
        told.until = self.names.time(expected.until, found.until);
        let waited =
            self.names.time(later(self.model.now, expected.waited), later(self.model.now, found.waited));
        told.waited = waited.duration_since(self.model.now).try_into().unwrap();
        told
    }

    async fn extend(&mut self, claim: operations::Claim, lease: Duration) -> Result<(), Difference> {
        let token = self.token(claim);
        let expected = self.model.held.queue.extend(&token, lease, self.model.now);
        let found = match self.storage.queue.extend(&self.names.token(&token), lease).await {
            Ok(until) => Some(expected.map_or(until, |expected| self.names.time(expected, until))),
            Err(StoreError::LostClaim) => None,
            Err(other) => return Err(format!("extending failed: {other}")),
        };
        same("how long it is held", &expected, &found)
    }

    async fn end(&mut self, claim: operations::Claim, how: End) -> Result<(), Difference> {
        let token = self.token(claim);
        let expected = self.model.held.queue.end(&token, how, "why", self.model.now);
        self.met.add("hold ended", usize::from(expected));
        self.met.add("dead task", self.model.held.queue.dead.len());
        let (queue, token) = (&self.storage.queue, self.names.token(&token));
        let answer = match how {
            End::Ack => queue.ack(&token).await,
            End::Release => queue.release(&token).await,
            End::Retry(when) => queue.retry(&token, when, "why").await,
            End::Bury => queue.bury(&token, "why").await,
        };
        match answer {
            Ok(()) => same("whether it was held", &expected, &true),
            Err(StoreError::LostClaim) => same("whether it was held", &expected, &false),
            Err(other) => Err(format!("{how:?} failed: {other}")),
        }
    }

    // Budgets.

    fn per(&self) -> Duration {
        match self.subject.times() {
            Times::Any => Duration::from_secs(10),
            Times::ClearCut => Duration::from_hours(1),
        }
    }

    async fn take(&mut self, call: usize, lease: Duration) -> Result<(), Difference> {
        let (bounds, number, now) = (records::bounds(call, self.per()), self.model.name(), self.model.now);
        let expected = self.model.accounts.take(&bounds, lease, now, number);
        let found = self.storage.budgets.take(&bounds, lease).await.unwrap();
        match (expected, found) {
            (Ok(permit), Permission::Granted(found)) => {
                let is_known = self.names.permits.values().any(|known| *known == found);
                if found.keys != permit.keys || (is_known && !found.keys.is_empty()) {
                    return Err(format!("{found:?} is not a permit of its own"));
                }
                self.names.permits.insert(number, found);
                self.permits.push(permit);
                self.met.add("call granted", 1);
                self.met.add("call of several budgets granted", usize::from(bounds.len() > 1));
                Ok(())
            }
            (Err(waits), Permission::Wait { until, bound }) => {
                let rated = waits.iter().any(|wait| wait.until.is_some());
                let crowded = waits.iter().any(|wait| wait.crowded);
                let partly = waits.iter().any(|wait| wait.end(now).is_none());
                self.met.add("call that waits for a rate", usize::from(rated));
                self.met.add("call that waits for another", usize::from(crowded));
                self.met.add("call that some of its budgets allow", usize::from(partly));
                let expected = waits.iter().filter_map(|wait| wait.end(now)).max().unwrap_or(now);
                same("when it is worth another try", &expected, &self.names.time(expected, until))?;
                // Two that end together are told apart by the moment at which the storage heard of them.
                let told = waits.get(bound).and_then(|wait| wait.end(now));
                let told = told.map(|told| self.names.time(expected, told));
                same("the end of what it is told to wait for", &Some(expected), &told)
            }
            (expected, found) => Err(format!("a call\n  should be {expected:?}\n  but is    {found:?}")),
        }
    }

    async fn give_back(&mut self, permit: usize) -> Result<(), Difference> {
        let Some(permit) = back(&self.permits, permit) else { return Ok(()) };
        self.model.accounts.give_back(&permit, self.model.now);
        self.storage.budgets.give_back(&self.names.permits[&permit.number]).await.unwrap();
        Ok(())
    }

    // Lists.

    async fn list_runners(
        &self,
        filter: usize,
        after: Option<usize>,
        limit: usize,
    ) -> Result<(), Difference> {
        let filters = records::runner_filters();
        let filter = &filters[filter % filters.len()];
        let page = Page { after: after.map(records::runner_name), limit };
        let listed = self.model.held.records.runners(filter, &page);
        let expected: Vec<_> = listed.into_iter().map(|named| self.names.versioned(named)).collect();
        let found = self.storage.store.runners(filter, &page).await.unwrap();
        same(&format!("{page:?} of the runners by {filter:?}"), &expected, &found)
    }

    async fn list_jobs(&self, filter: usize, after: Option<usize>, limit: usize) -> Result<(), Difference> {
        let filters = records::job_filters();
        let filter = &filters[filter % filters.len()];
        let page = Page { after: after.map(records::job_id), limit };
        let listed = self.model.held.records.jobs(filter, &page);
        let expected: Vec<_> = listed.into_iter().map(|named| self.names.versioned(named)).collect();
        let found = self.storage.store.jobs(filter, &page).await.unwrap();
        same(&format!("{page:?} of the jobs by {filter:?}"), &expected, &found)
    }

    // Writes.

    async fn apply(
        &mut self,
        repeats: Option<usize>,
        claim: Option<(ClaimToken, bool)>,
        on_trust: bool,
        changes: &[Changes],
        tasks: &[Push],
    ) -> Result<(), Difference> {
        let operation = repeats.and_then(|repeats| back(&self.writes, repeats)).unwrap_or_else(|| {
            let operation = OperationId::new(format!("operation-{}", self.writes.len()));
            self.writes.push(operation.clone());
            operation
        });
        let mut changes: Vec<Change> = changes.iter().map(|change| self.change(change)).collect();
        // Whether a slot can be taken on trust that is said in the same write is open.
        if changes.iter().any(|change| matches!(change, Change::Trust { .. })) {
            changes.retain(|change| !matches!(change, Change::ReserveRunner { .. }));
        }
        let tasks = self.tasks(tasks);
        let ends_claim = claim.as_ref().is_some_and(|(_, ends)| *ends);
        let claim = claim.map(|(token, _)| token);
        let write = Write { operation, claim, ends_claim, on_trust, changes, tasks };
        let asked = self.names.write(&write);
        match (self.model.apply(&write), self.storage.store.apply(asked).await) {
            (Ok((expected, repeated)), Ok(found)) => {
                same("whether it is a repeat", &repeated, &found.repeated)?;
                self.met.add(if repeated { "repeat" } else { "write" }, 1);
                if !repeated {
                    self.met.add("write of several changes", usize::from(write.changes.len() > 1));
                    self.met.add("write under a claim", usize::from(write.claim.is_some()));
                    self.met.add("write that ends its claim", usize::from(write.ends_claim));
                }
                same("how many versions there are", &expected.len(), &found.versions.len())?;
                let records = write.changes.iter().map(named).chain(std::iter::repeat("a record".to_owned()));
                for ((record, expected), found) in records.zip(expected).zip(found.versions) {
                    self.learn(&record, expected, found, repeated)?;
                }
                Ok(())
            }
            (Err(refusals), Err(error)) => match refusal(&error) {
                Some(found) if refusals.contains(&found) => {
                    self.met.add(found.word(), 1);
                    Ok(())
                }
                _ => {
                    Err(format!("a write\n  should be refused by one of {refusals:?}\n  but is by {error:?}"))
                }
            },
            (expected, found) => Err(format!("a write\n  should be {expected:?}\n  but is    {found:?}")),
        }
    }

    fn learn(
        &mut self,
        record: &str,
        expected: Option<Version>,
        found: Option<Version>,
        repeated: bool,
    ) -> Result<(), Difference> {
        let (Some(name), Some(found)) = (expected, found) else {
            return same(&format!("whether {record} is there"), &expected.is_some(), &found.is_some());
        };
        self.names.learn(record, name, found)?;
        if !repeated {
            self.versions.entry(record.to_owned()).or_default().push(name);
        }
        Ok(())
    }

    fn expected(&self, record: &str, present: Option<Version>, expect: Expect) -> Expected {
        let present = present.map_or(Expected::Absent, Expected::Version);
        let stale = || {
            let had = self.versions.get(record).map(Vec::as_slice).unwrap_or_default();
            had.iter().rev().map(|version| Expected::Version(*version)).find(|version| *version != present)
        };
        match expect {
            Expect::Right => present,
            Expect::Absent => Expected::Absent,
            Expect::Stale => stale().unwrap_or(Expected::Version(FOREIGN)),
            Expect::Foreign => Expected::Version(FOREIGN),
        }
    }

    /// The same for a change of a record that has to be there.
    fn expected_version(&self, record: &str, present: Option<Version>, expect: Expect) -> Version {
        match self.expected(record, present, expect) {
            Expected::Version(version) => version,
            Expected::Absent => FOREIGN,
        }
    }

    /// Mostly a runner that is there, or one that is not, as a change needs it.
    fn runner(&self, runner: usize, is_there: bool) -> usize {
        let has = |runner: &usize| {
            self.model.held.records.runners.contains_key(&records::runner_name(*runner)) == is_there
        };
        let fitting: Vec<usize> = (0..records::RUNNERS).filter(has).collect();
        if runner == 0 || fitting.is_empty() { runner } else { fitting[runner % fitting.len()] }
    }

    fn change(&self, change: &Changes) -> Change {
        let (records, now) = (&self.model.held.records, self.model.now);
        match *change {
            Changes::PutGroup { group, max, drains, expect } => {
                let record = records::group(group, max, drains);
                let present = records.groups.get(&record.spec.name).map(|named| named.1);
                let expected = self.expected(&format!("group {}", record.spec.name), present, expect);
                Change::PutGroup { record, expected }
            }
            Changes::RemoveGroup { group, expect } => {
                let name = records::group_name(group);
                let present = records.groups.get(&name).map(|named| named.1);
                let expected = self.expected_version(&format!("group {name}"), present, expect);
                Change::RemoveGroup { name, expected }
            }
            Changes::Reserve { runner, kind } => {
                let runner = self.runner(runner, false);
                Change::ReserveRunner { runner: records::runner(runner, kind, 0, now) }
            }
            Changes::Adopt { runner, kind, phase } => {
                let runner = self.runner(runner, false);
                Change::AdoptRunner { runner: records::runner(runner, kind, phase, now) }
            }
            Changes::PutRunner { runner, kind, moves, phase, expect } => {
                let mut runner = records::runner(self.runner(runner, true), kind, phase, now);
                let present = records.runners.get(&runner.name);
                if let Some((before, _)) = present.filter(|_| !moves) {
                    runner.group = before.group.clone();
                }
                let present = present.map(|named| named.1);
                let expected = self.expected_version(&format!("runner {}", runner.name), present, expect);
                Change::PutRunner { runner, expected }
            }
            Changes::EndRunner { runner, expect } => {
                let runner = records::runner(self.runner(runner, true), 0, 0, now);
                let present = records.runners.get(&runner.name).map(|named| named.1);
                let expected = self.expected_version(&format!("runner {}", runner.name), present, expect);
                Change::EndRunner { ended: records::ended(&runner, now), expected }
            }
            Changes::PutJob { job, state, expect } => {
                let job = records::job(job, state, now);
                let present = records.jobs.get(&job.id).map(|named| named.1);
                let expected = self.expected(&format!("job {}", job.id), present, expect);
                Change::PutJob { job, expected }
            }
            Changes::PutHook { hook, read, expect } => {
                let record = records::hook(hook, read, now);
                let key = record.place.key();
                let present = records.hooks.get(&key).map(|named| named.1);
                Change::PutHook {
                    record,
                    expected: self.expected(&format!("hook of {key}"), present, expect),
                }
            }
            Changes::RemoveHook { hook, expect } => {
                let place = records::hook_place(hook);
                let present = records.hooks.get(&place.key()).map(|named| named.1);
                let expected = self.expected_version(&format!("hook of {}", place.key()), present, expect);
                Change::RemoveHook { place, expected }
            }
            Changes::PutDeployment { revision, expect } => {
                let record = records::deployment(revision, now);
                let present = records.deployment.as_ref().map(|named| named.1);
                Change::PutDeployment { record, expected: self.expected("the deployment", present, expect) }
            }
            Changes::Trust { is_right } => {
                let life = Model::incarnation(self.model.life);
                let other = self.model.life.checked_sub(1).map(Model::incarnation);
                let other = other.unwrap_or_else(|| Incarnation::new("another life"));
                Change::Trust { incarnation: if is_right { life } else { other } }
            }
        }
    }
}

fn refusal(error: &StoreError) -> Option<Refusal> {
    Some(match error {
        StoreError::Conflict { .. } => Refusal::Conflict,
        StoreError::AtMax { alive, max, .. } => Refusal::AtMax { alive: *alive, max: *max },
        StoreError::Closed { .. } => Refusal::Closed,
        StoreError::Untrusted => Refusal::Untrusted,
        StoreError::LostClaim => Refusal::LostClaim,
        _ => return None,
    })
}
