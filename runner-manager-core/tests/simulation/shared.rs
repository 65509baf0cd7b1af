//! What the wrappers, the checker and the world of one run share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::FutureExt;
use jiff::Timestamp;
use runner_manager_backends::fake::FakeCloud;
use runner_manager_core::clock::{Clock, SimulatedClock};
use runner_manager_core::domain::Owner;
use runner_manager_core::embedded::{EmbeddedStorage, Snapshot};
use runner_manager_core::store::Store;
use runner_manager_core::testing::simulated::SharedSimulator;
use runner_manager_core::testing::simulator::Simulator;

use super::checker::Checker;
use super::dice::Dice;
use super::ledger::Ledger;
use super::plan::AllChances;
use super::trace::{Trace, Who};

/// The promises of the product, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Promise {
    /// A running job is never killed.
    RunningJobs = 1,
    /// `max` is never exceeded.
    Max,
    /// Every job gets a runner, or a visible reason.
    EveryJob,
    /// Nothing of ours outlives its purpose, and nothing foreign is touched.
    NothingLeft,
    /// A runner has at most one instance.
    OneInstance,
    /// A crash loses nothing.
    NothingLost,
    /// Limits are respected.
    Limits,
    /// Secrets stay secret.
    Secrets,
}

/// A promise that was broken, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) promise: Promise,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "promise {} ({:?}) is broken: {}", self.promise as u8, self.promise, self.what)
    }
}

/// What changes while a run goes on. No lock of it is held over an `await`.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) trace: Trace,
    pub(crate) checker: Checker,
    pub(crate) ledger: Ledger,
    /// What goes wrong with calls, and until when.
    pub(crate) chances: AllChances,
    pub(crate) chaos: Dice,
    pub(crate) crashes_left: u32,
    pub(crate) freezes_left: u32,
    /// When the store last lost something.
    pub(crate) lost_at: Option<Timestamp>,
    /// Every fault that struck, by its kind.
    pub(crate) struck: BTreeMap<String, u64>,
    /// What was seen that is allowed, but should be rare: counted by itself.
    pub(crate) honest: BTreeMap<&'static str, u64>,
}

impl State {
    pub(crate) fn strike(&mut self, kind: impl Into<String>) {
        *self.struck.entry(kind.into()).or_default() += 1;
    }

    pub(crate) fn admit(&mut self, what: &'static str) {
        *self.honest.entry(what).or_default() += 1;
    }
}

/// What the store held at a moment, with what is known of its queue.
#[derive(Debug)]
pub(crate) struct Kept {
    snapshot: Snapshot,
    ledger: Ledger,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) github: SharedSimulator,
    pub(crate) cloud: Arc<Mutex<FakeCloud>>,
    pub(crate) storage: Arc<EmbeddedStorage>,
    pub(crate) owner: Owner,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(
        clock: Arc<SimulatedClock>,
        github: SharedSimulator,
        cloud: Arc<Mutex<FakeCloud>>,
        storage: Arc<EmbeddedStorage>,
        owner: Owner,
        state: State,
    ) -> Self {
        Self { clock, github, cloud, storage, owner, state: Mutex::new(state) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn github(&self) -> MutexGuard<'_, Simulator> {
        self.github.lock().unwrap()
    }

    pub(crate) fn cloud(&self) -> MutexGuard<'_, FakeCloud> {
        self.cloud.lock().unwrap()
    }

    pub(crate) fn note(&self, who: Who, what: &str, outcome: &str, detail: impl FnOnce() -> String) {
        let now = self.now();
        self.state().trace.note(now, who, what, outcome, detail);
    }

    pub(crate) fn keep_store(&self) -> Kept {
        let snapshot = self.storage.snapshot().expect("the storage is in memory");
        Kept { snapshot, ledger: self.state().ledger.clone() }
    }

    /// Has the store lose what came after what was kept, or all. What has no record for that is nobody's fault.
    pub(crate) fn lose_store(&self, kept: Option<Kept>) {
        let now = self.now();
        let (snapshot, ledger) = kept.map(|kept| (kept.snapshot, kept.ledger)).unzip();
        self.storage.lose(snapshot);
        let lives = self.cloud().books(now).lives.clone();
        let mut state = self.state();
        state.ledger = ledger.unwrap_or_default();
        state.lost_at = Some(now);
        state.checker.forget_acknowledged();
        state.checker.redeliveries.store_was_lost();
        for life in lives.iter().filter(|life| life.owner == self.owner && life.gone_at.is_none()) {
            let found = self.storage.runner(&life.runner).now_or_never();
            if found.expect("a storage in memory answers at once").unwrap().is_none() {
                state.checker.excuse(&life.runner);
            }
        }
    }

    /// The first broken promise.
    pub(crate) fn violation(&self) -> Option<Violation> {
        self.state().checker.violation().cloned()
    }
}
