//! The fake cloud: a small cloud as a deterministic state machine.
//!
//! It has no clock and waits for nothing: the time comes in with each call, and everything that is due by
//! then has happened. Random numbers come from a seed. How it is talked to is in [`http`](super::http).

mod due;
mod making;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::backend::{BackendErrorKind, Bootstrap};
use runner_manager_core::domain::{GroupName, Instance, InstanceId, InstanceState, Owner, RunnerName};
use runner_manager_core::random::{Random, SeededRandom};

use self::due::Due;
use super::behaviour::{Behaviour, Ending, Fault, Operation, Script};
use super::books::Books;
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
    /// What is gone, by the time at which it is forgotten.
    remembered: BTreeMap<(Timestamp, u64), InstanceId>,
    sequence: u64,
    script: BTreeMap<Operation, VecDeque<Option<Fault>>>,
    started: BTreeMap<u64, StartedInstance>,
    starts: u64,
    taken: u64,
    stopped: Vec<InstanceId>,
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
            remembered: BTreeMap::new(),
            sequence: 0,
            script: BTreeMap::new(),
            started: BTreeMap::new(),
            starts: 0,
            taken: 0,
            stopped: Vec::new(),
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

    /// The instances that ran and, since this was last called, ceased to. One may be told twice.
    pub fn take_stopped(&mut self, now: Timestamp) -> Vec<InstanceId> {
        self.advance(now);
        std::mem::take(&mut self.stopped)
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

    /// When the next thing happens by itself that anybody could see; none where nothing is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.keys().next().map(|(at, _)| *at)
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
}
