//! The fake cloud: a small cloud as a deterministic state machine.
//!
//! It has no clock and waits for nothing: the time comes in with each call, and everything that is due by
//! then has happened. Random numbers come from a seed. How it is talked to is in [`http`](super::http).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::backend::{BackendErrorKind, Bootstrap};
use runner_manager_core::domain::{GroupName, Instance, InstanceId, InstanceState, Owner, RunnerName, later};
use runner_manager_core::random::{Random, SeededRandom};

use super::behaviour::{Behaviour, Ending, Fault, Operation, Script};
use super::books::{Books, Life};
use super::record::Record;

/// How long the cloud remembers an instance that is gone, so that a stale answer can still show it.
const MEMORY: Duration = Duration::from_mins(10);

/// An instance that began to run: whoever plays its agent starts it now.
#[derive(Debug, Clone)]
pub struct StartedInstance {
    /// How many instances began to run before it, plus one.
    pub sequence: u64,
    /// The instance.
    pub id: InstanceId,
    /// Its runner.
    pub runner: RunnerName,
    /// The runner's group.
    pub group: GroupName,
    /// When it began to run.
    pub at: Timestamp,
    /// What it was told to do.
    pub bootstrap: Bootstrap,
}

/// Why the cloud refused a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Refusal {
    /// What kind of refusal.
    pub kind: BackendErrorKind,
    /// When the cloud asks to be called again.
    pub retry_after: Option<Duration>,
    /// For people.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(kind: BackendErrorKind, message: impl Into<String>) -> Self {
        Self { kind, retry_after: None, message: message.into() }
    }
}

/// What an instance is to be made from.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) owner: Owner,
    pub(super) runner: RunnerName,
    pub(super) group: GroupName,
    pub(super) zone: String,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) bootstrap: Bootstrap,
}

/// Which instances a list or a look-up is about.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    Owner(Owner),
    Name(RunnerName),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Appears,
    Runs,
    Ends,
    IsGone,
    IsForgotten,
}

/// A small cloud.
///
/// ```
/// use jiff::Timestamp;
/// use runner_manager_backends::fake::{Behaviour, FakeCloud, Fault, Operation};
///
/// let mut cloud = FakeCloud::new(Behaviour::default());
/// cloud.inject(Operation::Create, Some(Fault::LostReply));
/// assert_eq!(cloud.books(Timestamp::UNIX_EPOCH).total.alive, 0);
/// ```
#[derive(Debug)]
pub struct FakeCloud {
    behaviour: Behaviour,
    random: SeededRandom,
    now: Timestamp,
    records: BTreeMap<InstanceId, Record>,
    names: BTreeMap<RunnerName, Vec<InstanceId>>,
    asked: BTreeMap<RunnerName, (u32, u32)>,
    room: BTreeMap<String, u32>,
    due: BTreeMap<(Timestamp, u64), (InstanceId, Due)>,
    sequence: u64,
    script: BTreeMap<Operation, VecDeque<Option<Fault>>>,
    started: BTreeMap<u64, StartedInstance>,
    starts: u64,
    taken: u64,
    books: Books,
}

impl FakeCloud {
    /// An empty cloud.
    pub fn new(behaviour: Behaviour) -> Self {
        Self {
            random: SeededRandom::new(behaviour.seed),
            behaviour,
            now: Timestamp::MIN,
            records: BTreeMap::new(),
            names: BTreeMap::new(),
            asked: BTreeMap::new(),
            room: BTreeMap::new(),
            due: BTreeMap::new(),
            sequence: 0,
            script: BTreeMap::new(),
            started: BTreeMap::new(),
            starts: 0,
            taken: 0,
            books: Books::default(),
        }
    }

    /// How it behaves.
    pub const fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// Behaves otherwise from now on. What it was asked before goes on as it was planned.
    pub fn set_behaviour(&mut self, behaviour: Behaviour) {
        if behaviour.seed != self.behaviour.seed {
            self.random = SeededRandom::new(behaviour.seed);
        }
        self.behaviour = behaviour;
    }

    /// Decides what becomes of the next call of an operation that is not yet decided: the fault, or nothing
    /// at all, whatever the chances. A fault that cannot happen to the operation does nothing.
    pub fn inject(&mut self, operation: Operation, fault: Option<Fault>) {
        self.script.entry(operation).or_default().push_back(fault);
    }

    /// Follows a script.
    pub fn follow(&mut self, script: Script) {
        if let Some(behaviour) = script.behaviour {
            self.set_behaviour(behaviour);
        }
        for next in script.next {
            self.inject(next.operation, next.fault);
        }
    }

    /// The books as they are now.
    pub fn books(&mut self, now: Timestamp) -> &Books {
        self.advance(now);
        &self.books
    }

    /// The instances that began to run since this was last called, and still run.
    pub fn take_started(&mut self, now: Timestamp) -> Vec<StartedInstance> {
        let taken = self.taken;
        let started = self.started_after(taken, now);
        self.taken = self.starts;
        started
    }

    /// The instances that began to run after the one of a sequence number, and still run.
    pub fn started_after(&mut self, sequence: u64, now: Timestamp) -> Vec<StartedInstance> {
        self.advance(now);
        self.started
            .range(sequence.saturating_add(1)..)
            .map(|(_, started)| started.clone())
            .filter(|started| self.state(&started.id) == Some(InstanceState::Running))
            .collect()
    }

    /// Whether an instance runs now. An agent whose instance does not is dead.
    pub fn is_running(&mut self, id: &InstanceId, now: Timestamp) -> bool {
        self.advance(now);
        self.state(id) == Some(InstanceState::Running)
    }

    /// The agent of an instance powered it off.
    pub fn instance_ended(&mut self, id: &InstanceId, now: Timestamp) {
        self.end(id, Ending::Stopped, now);
    }

    /// Ends an instance in some way, as if by itself. One that is not there, or has ended before, is left as
    /// it is.
    pub fn end(&mut self, id: &InstanceId, how: Ending, now: Timestamp) {
        self.advance(now);
        let now = self.now;
        let Some(record) = self.records.get_mut(id) else { return };
        let ended = record.ending.is_some_and(|(at, _)| at <= now);
        if now >= record.appears_at && record.is_there(now) && !ended {
            record.ending = Some((now, how));
            self.plan(id.clone(), now, Due::Ends);
            self.advance(now);
        }
    }

    /// When the next thing happens by itself; none where nothing is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets everything happen that is due by `now`. A time before the last one counts as the last one.
    pub fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        while let Some(first) = self.due.first_entry().filter(|first| first.key().0 <= self.now) {
            let ((at, _), (id, due)) = first.remove_entry();
            self.happen(&id, due, at);
        }
    }

    /// What becomes of a call: its script first, then the chances.
    pub(super) fn roll(&mut self, operation: Operation) -> Option<Fault> {
        self.books.called(operation);
        let scripted = self.script.get_mut(&operation).and_then(VecDeque::pop_front);
        let fault = scripted.unwrap_or_else(|| self.roll_chances(operation));
        let fault = fault.filter(|fault| fault.fits(operation));
        if let Some(fault) = &fault {
            self.books.injected(operation, fault);
        }
        fault
    }

    fn roll_chances(&self, operation: Operation) -> Option<Fault> {
        let mut rules = self.behaviour.faults.iter().filter(|rule| rule.operation == operation);
        rules.find(|rule| self.draw() < rule.chance).map(|rule| rule.fault.clone())
    }

    /// A number from 0 to 1, without 1.
    fn draw(&self) -> f64 {
        let bits = u32::try_from(self.random.next_u64() >> 32).expect("the upper half of 64 bits has 32");
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    /// Makes an instance that appears after `late`, or finds the one that bears the name.
    pub(super) fn create(
        &mut self,
        order: Order,
        late: Duration,
        dies: Option<(Duration, Ending)>,
    ) -> Result<Instance, Refusal> {
        let asked = self.asked.entry(order.runner.clone()).or_default();
        asked.0 += 1;
        if asked.0 > 1 {
            self.books.repeats.insert(order.runner.clone(), asked.0 - 1);
        }
        if let Some(record) = self.by_name(&order.runner)
            && self.behaviour.unique_names
        {
            if record.owner != order.owner {
                let message = format!("the name {} is taken by another owner", order.runner);
                return Err(Refusal::new(BackendErrorKind::InvalidConfig, message));
            }
            // One that has yet to appear is told as it will be.
            let at = self.now.max(record.appears_at);
            return Ok(record
                .instance_at(at, Duration::ZERO)
                .expect("one that appeared and is not gone is told"));
        }
        self.make_room(&order.zone)?;
        Ok(self.make(order, late, dies))
    }

    fn make_room(&self, zone: &str) -> Result<(), Refusal> {
        let Some(room) = self.behaviour.zones.get(zone) else {
            return Err(Refusal::new(BackendErrorKind::NotFound, format!("there is no zone {zone}")));
        };
        let taken = self.room.get(zone).copied().unwrap_or(0);
        if room.is_some_and(|room| taken >= room) {
            let message = format!("zone {zone} is full: it has {taken} instances");
            return Err(Refusal::new(BackendErrorKind::NoCapacity, message));
        }
        let all: u32 = self.room.values().sum();
        match self.behaviour.quota {
            Some(quota) if all >= quota => {
                let message = format!("the quota of {quota} instances is used up");
                Err(Refusal::new(BackendErrorKind::QuotaExceeded, message))
            }
            _ => Ok(()),
        }
    }

    fn make(&mut self, order: Order, late: Duration, dies: Option<(Duration, Ending)>) -> Instance {
        let now = self.now;
        let appears_at = later(now, late);
        let boot = self.behaviour.boot_time + self.behaviour.boot_jitter.mul_f64(self.draw());
        let id = self.new_id();
        let record = Record {
            id: id.clone(),
            owner: order.owner,
            runner: order.runner,
            group: order.group,
            zone: order.zone,
            tags: order.tags,
            bootstrap: order.bootstrap,
            asked_at: now,
            appears_at,
            runs_at: later(appears_at, boot),
            ending: dies.map(|(after, how)| (later(appears_at, after), how)),
            deleted_at: None,
            gone_at: None,
            start: 0,
            life: self.books.lives.len(),
        };
        self.enter(&record);
        self.plan(id.clone(), appears_at, Due::Appears);
        self.plan(id.clone(), record.runs_at, Due::Runs);
        if let Some((at, _)) = record.ending {
            self.plan(id.clone(), at, Due::Ends);
        }
        let told = record.instance_at(now.max(appears_at), Duration::ZERO);
        self.records.insert(id, record);
        self.advance(now);
        told.expect("an instance that just appeared is told")
    }

    /// Enters a new instance into the books and takes its room.
    fn enter(&mut self, record: &Record) {
        *self.room.entry(record.zone.clone()).or_default() += 1;
        self.names.entry(record.runner.clone()).or_default().push(record.id.clone());
        let asked = self.asked.entry(record.runner.clone()).or_default();
        asked.1 += 1;
        if asked.1 > 1 {
            self.books.doubles.insert(record.runner.clone(), asked.1 - 1);
        }
        self.books.lives.push(Life {
            id: record.id.clone(),
            owner: record.owner.clone(),
            runner: record.runner.clone(),
            group: record.group.clone(),
            zone: record.zone.clone(),
            asked_at: record.asked_at,
            appeared_at: None,
            ran_at: None,
            ended: None,
            deleted_at: None,
            gone_at: None,
        });
    }

    /// The time stands in it so that a cloud that was started anew gives no id twice.
    fn new_id(&self) -> InstanceId {
        InstanceId::new(format!(
            "i-{:011x}-{:06}",
            self.now.as_millisecond().max(0),
            self.books.lives.len() + 1
        ))
    }

    /// Deletes an instance; one that is not there is left as it is.
    pub(super) fn delete(&mut self, id: &InstanceId) {
        let now = self.now;
        let Some(record) = self.records.get_mut(id) else { return };
        if now < record.appears_at || !record.is_there(now) || record.deleted_at.is_some() {
            return;
        }
        record.deleted_at = Some(now);
        let gone_at = later(now, self.behaviour.delete_time);
        record.gone_at = Some(gone_at);
        self.books.lives[record.life].deleted_at = Some(now);
        self.plan(id.clone(), gone_at, Due::IsGone);
        self.advance(now);
    }

    /// Writes tags onto an instance; false where it is not there.
    pub(super) fn tag(&mut self, id: &InstanceId, tags: BTreeMap<String, String>) -> bool {
        let now = self.now;
        let record =
            self.records.get_mut(id).filter(|record| now >= record.appears_at && record.is_there(now));
        record.is_some_and(|record| {
            record.tags.extend(tags);
            true
        })
    }

    /// The tags on an instance that is there.
    pub fn tags(&self, id: &InstanceId) -> Option<&BTreeMap<String, String>> {
        self.records.get(id).map(|record| &record.tags)
    }

    /// An instance as it was `ago`.
    pub(super) fn get(&self, id: &InstanceId, ago: Duration) -> Option<Instance> {
        self.records.get(id)?.instance_at(self.back(ago), self.behaviour.tell_gone)
    }

    /// Up to a page of instances as they were `ago`, with ids above `after`; and whether there are more.
    pub(super) fn page(
        &self,
        filter: &Filter,
        after: Option<&InstanceId>,
        ago: Duration,
    ) -> (Vec<Instance>, bool) {
        let at = self.back(ago);
        let size = self.behaviour.page_size.max(1);
        let mut page: Vec<Instance> = self
            .candidates(filter)
            .filter(|record| after.is_none_or(|after| record.id > *after))
            .filter_map(|record| record.instance_at(at, self.behaviour.tell_gone))
            .take(size.saturating_add(1))
            .collect();
        let more = page.len() > size;
        page.truncate(size);
        (page, more)
    }

    fn candidates<'a>(&'a self, filter: &'a Filter) -> Box<dyn Iterator<Item = &'a Record> + 'a> {
        match filter {
            Filter::Owner(owner) => {
                Box::new(self.records.values().filter(move |record| record.owner == *owner))
            }
            Filter::Name(name) => {
                let ids = self.names.get(name).into_iter().flatten();
                Box::new(ids.filter_map(|id| self.records.get(id)))
            }
        }
    }

    fn back(&self, ago: Duration) -> Timestamp {
        self.now.checked_sub(ago.min(MEMORY)).unwrap_or(Timestamp::MIN)
    }

    fn by_name(&self, name: &RunnerName) -> Option<&Record> {
        let ids = self.names.get(name)?;
        ids.iter().filter_map(|id| self.records.get(id)).find(|record| record.is_there(self.now))
    }

    fn state(&self, id: &InstanceId) -> Option<InstanceState> {
        self.records.get(id)?.state_at(self.now, Duration::ZERO)
    }

    fn plan(&mut self, id: InstanceId, at: Timestamp, due: Due) {
        self.sequence += 1;
        self.due.insert((at, self.sequence), (id, due));
    }

    fn happen(&mut self, id: &InstanceId, due: Due, at: Timestamp) {
        let Some(record) = self.records.get_mut(id) else { return };
        match due {
            Due::Appears => self.books.appeared(record.life, at),
            Due::Runs => {
                if record.state_at(at, Duration::ZERO) == Some(InstanceState::Running) {
                    self.starts += 1;
                    record.start = self.starts;
                    self.books.lives[record.life].ran_at = Some(at);
                    let started = StartedInstance {
                        sequence: self.starts,
                        id: record.id.clone(),
                        runner: record.runner.clone(),
                        group: record.group.clone(),
                        at,
                        bootstrap: record.bootstrap.clone(),
                    };
                    self.started.insert(self.starts, started);
                }
            }
            Due::Ends => self.end_now(id, at),
            Due::IsGone => self.be_gone(id, at),
            Due::IsForgotten => self.forget(id),
        }
    }

    /// Notes an end whose time has come, unless the instance was deleted or ended before.
    fn end_now(&mut self, id: &InstanceId, at: Timestamp) {
        let Some(record) = self.records.get_mut(id) else { return };
        let Some((planned, how)) = record.ending else { return };
        if planned != at || record.deleted_at.is_some() || record.gone_at.is_some() {
            return;
        }
        let life = &mut self.books.lives[record.life];
        if life.ended.is_some() {
            return;
        }
        life.ended = Some((at, how));
        if how == Ending::Vanished {
            record.gone_at = Some(at);
            self.be_gone(id, at);
        }
    }

    fn be_gone(&mut self, id: &InstanceId, at: Timestamp) {
        let Some(record) = self.records.get(id).filter(|record| record.gone_at == Some(at)) else { return };
        let started = record.start;
        self.books.gone(record.life, at);
        if let Some(room) = self.room.get_mut(&record.zone) {
            *room = room.saturating_sub(1);
        }
        let forgotten_at = later(at, MEMORY.saturating_add(self.behaviour.tell_gone));
        self.plan(id.clone(), forgotten_at, Due::IsForgotten);
        self.started.remove(&started);
    }

    fn forget(&mut self, id: &InstanceId) {
        let Some(record) = self.records.remove(id) else { return };
        if let Some(ids) = self.names.get_mut(&record.runner) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.names.remove(&record.runner);
            }
        }
    }
}
