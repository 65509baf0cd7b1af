//! Where operations run: at once on tables in memory, or by the writer of a file.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::budgets::Accounts;
use super::file::DataFile;
use super::memory::Memory;
use super::step::Step;
use super::tables::Read;
use super::tally::{Counted, Tally};
use super::wake::Lanes;
use super::writer::Writer;
use crate::clock::Clock;
use crate::store::StoreError;

/// What all operations of a storage share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The storage's time.
    pub(super) clock: Arc<dyn Clock>,
    /// Those who wait for tasks.
    pub(super) lanes: Lanes,
    /// What was asked of those outside.
    pub(super) budgets: Accounts,
    /// What was done.
    pub(super) tally: Tally,
    /// Which life of the storage this is. Only a simulated loss begins another one.
    pub(super) incarnation: AtomicU64,
    /// The lanes that were claimed from since a file was opened; none where holds cannot be older than the
    /// process.
    claimed_from: Option<Mutex<BTreeSet<String>>>,
}

impl Shared {
    /// What a storage in memory begins with.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            lanes: Lanes::default(),
            budgets: Accounts::default(),
            tally: Tally::default(),
            incarnation: AtomicU64::new(0),
            claimed_from: None,
        }
    }

    /// What a storage in a file begins with: tasks may be held by a process that has ended.
    pub(super) fn of_file(clock: Arc<dyn Clock>) -> Self {
        Self { claimed_from: Some(Mutex::default()), ..Self::new(clock) }
    }

    /// Which life of the storage this is.
    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// Whether this is the first claim from a lane since the file was opened. Nobody else has the file, so
    /// whoever holds a task of the lane then is gone.
    pub(super) fn is_first_claim(&self, lane: &str) -> bool {
        let insert = |lanes: &Mutex<BTreeSet<String>>| {
            lanes.lock().unwrap_or_else(PoisonError::into_inner).insert(lane.to_owned())
        };
        self.claimed_from.as_ref().is_some_and(insert)
    }
}

/// Where operations run.
#[derive(Debug)]
pub(super) enum Engine {
    /// At once, one after the other.
    Memory(Mutex<Memory>),
    /// By the one writer of a file; reads at once.
    File(Arc<DataFile>, Writer),
}

impl Engine {
    /// Runs an operation that may write. It is answered once what it changed is safe.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        shared: &Shared,
        operation: impl FnOnce(&mut Step<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Self::Memory(memory) => {
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                in_memory(&mut memory, shared, operation)
            }
            Self::File(_, writer) => writer.run(operation).await,
        }
    }

    /// The tables of a storage in memory.
    #[cfg(feature = "testing")]
    pub(super) fn memory(&self) -> Option<std::sync::MutexGuard<'_, Memory>> {
        match self {
            Self::Memory(memory) => Some(memory.lock().unwrap_or_else(PoisonError::into_inner)),
            Self::File(..) => None,
        }
    }

    /// Reads, and sees everything that was answered before.
    pub(super) fn read<T>(
        &self,
        shared: &Shared,
        read: impl FnOnce(&dyn Read) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self {
            Self::Memory(memory) => {
                let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                counted(&*memory, shared, read)
            }
            Self::File(file, _) => counted(&file.committed()?, shared, read),
        }
    }
}

fn in_memory<T>(
    memory: &mut Memory,
    shared: &Shared,
    operation: impl FnOnce(&mut Step<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut step = Step::new(memory, shared.clock.now(), shared.incarnation());
    let answer = operation(&mut step);
    shared.tally.operation(step.entries());
    if step.changed {
        shared.tally.commit();
    }
    shared.lanes.tell(&step.wakes);
    answer
}

fn counted<T>(
    tables: &dyn Read,
    shared: &Shared,
    read: impl FnOnce(&dyn Read) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let tables = Counted::new(tables);
    let answer = read(&tables);
    shared.tally.read(tables.entries());
    answer
}
