//! The public face: both traits, over the engine.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::engine::{Engine, Shared};
use super::file::{DataFile, Open};
use super::memory::Memory;
use super::open::OpenError;
#[cfg(feature = "testing")]
use super::schema::{NUMBER_ROW, Table};
use super::step::Step;
use super::tally::StorageStatistics;
use super::writer::Writer;
use super::{apply, open, queue, read, statistics};
use crate::baton::Baton;
use crate::budget::{Bound, BudgetKey, Budgets, Permission, Permit};
use crate::clock::Clock;
use crate::domain::{
    EndedRunner, GroupName, HookPlace, HookRecord, JobId, Runner, RunnerName, WorkflowJob, later,
};
use crate::queue::{Claim, ClaimToken, DeadTask, Lane, NewTask, QueueStatistics, TaskQueue};
use crate::store::{
    Applied, DeploymentView, GroupView, JobFilter, Page, Retention, RunnerFilter, Store, StoreError,
    Versioned, Write,
};

/// A storage in this process: the one for a single manager, for tests and for simulations.
///
/// ```
/// use std::sync::Arc;
/// use runner_manager_core::clock::SystemClock;
/// use runner_manager_core::embedded::EmbeddedStorage;
/// use runner_manager_core::queue::TaskQueue;
/// use runner_manager_core::store::Store;
///
/// let storage = Arc::new(EmbeddedStorage::in_memory(Arc::new(SystemClock)));
/// let store: Arc<dyn Store> = storage.clone();
/// let queue: Arc<dyn TaskQueue> = storage;
/// ```
#[derive(Debug)]
pub struct EmbeddedStorage {
    engine: Engine,
    shared: Arc<Shared>,
    retention: Retention,
}

impl EmbeddedStorage {
    /// An empty storage in memory. It needs no thread and no runtime: every operation is done when it is
    /// first polled.
    pub fn in_memory(clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared::new(clock));
        let engine = Engine::Memory(Mutex::new(Memory::new()));
        Self { engine, shared, retention: Retention::default() }
    }

    /// A storage in a file, which is made where there is none. It has a thread of its own that writes, and
    /// ends with the storage.
    ///
    /// # Errors
    /// [`OpenError`]: the file is in use, not ours, damaged, or out of reach. It was not changed then.
    pub fn open(path: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let path = path.into();
        let failed = path.clone();
        Self::over(Box::new(move || open::open(&path)), clock, &failed)
    }

    /// A storage over a file that is opened in a way of its own.
    pub(super) fn over(open: Open, clock: Arc<dyn Clock>, path: &Path) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::of_file(clock));
        let file = Arc::new(DataFile::new(open)?);
        let writer = Writer::start(Arc::clone(&file), Arc::clone(&shared))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { engine: Engine::File(file, writer), shared, retention: Retention::default() })
    }

    /// The same storage with another memory for what is over.
    #[must_use]
    pub const fn with_retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// What a storage in memory holds at this moment; none for one in a file.
    #[cfg(feature = "testing")]
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.engine.memory().map(|memory| Snapshot(memory.clone()))
    }

    /// Makes a storage in memory lose what it has acknowledged since a snapshot, or all it has, and begin
    /// another life: what a server does that is started anew without having written everything down. One in a
    /// file loses nothing.
    ///
    /// What was asked of those outside stays counted. Numbers go on, too: a server's follow the time, and its
    /// loss takes some; here the clock may stand still meanwhile.
    #[cfg(feature = "testing")]
    pub fn lose(&self, all_since: Option<Snapshot>) {
        let Some(mut memory) = self.engine.memory() else { return };
        let mut left = all_since.map_or_else(Memory::new, |snapshot| snapshot.0);
        left.take_over(Table::Meta, NUMBER_ROW, &memory);
        *memory = left;
        self.shared.incarnation.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        drop(memory);
        self.shared.lanes.wake_all();
    }

    /// What the storage has done since it was opened.
    pub fn storage_statistics(&self) -> StorageStatistics {
        self.shared.tally.statistics()
    }
}

/// All that a storage in memory held at a moment.
#[cfg(feature = "testing")]
#[derive(Debug, Clone)]
pub struct Snapshot(Memory);

#[cfg(feature = "testing")]
impl Snapshot {
    /// Whether some bytes stand in any record, in clear.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.0.contains(bytes)
    }
}

#[async_trait]
impl Store for EmbeddedStorage {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.shared.clock.now())
    }

    async fn deployment(&self) -> Result<DeploymentView, StoreError> {
        self.engine.read(&self.shared, |tables| read::deployment_view(tables, self.shared.incarnation()))
    }

    async fn apply(&self, write: Write) -> Result<Applied, StoreError> {
        let retention = self.retention;
        self.engine.run(&self.shared, move |step| apply::apply(step, &retention, write)).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<GroupView>, StoreError> {
        self.engine.read(&self.shared, |tables| read::group(tables, name))
    }

    async fn groups(&self) -> Result<Vec<GroupView>, StoreError> {
        self.engine.read(&self.shared, read::groups)
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Versioned<Runner>>, StoreError> {
        let found = self.engine.read(&self.shared, |tables| read::runner(tables, name))?;
        Ok(found.map(Into::into))
    }

    async fn runners(
        &self,
        filter: &RunnerFilter,
        page: &Page<RunnerName>,
    ) -> Result<Vec<Versioned<Runner>>, StoreError> {
        self.engine.read(&self.shared, |tables| read::runners(tables, filter, page))
    }

    async fn job(&self, id: JobId) -> Result<Option<Versioned<WorkflowJob>>, StoreError> {
        let found = self.engine.read(&self.shared, |tables| read::job(tables, id))?;
        Ok(found.map(Into::into))
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        page: &Page<JobId>,
    ) -> Result<Vec<Versioned<WorkflowJob>>, StoreError> {
        self.engine.read(&self.shared, |tables| read::jobs(tables, filter, page))
    }

    async fn hook(&self, place: &HookPlace) -> Result<Option<Versioned<HookRecord>>, StoreError> {
        let found = self.engine.read(&self.shared, |tables| read::hook(tables, place))?;
        Ok(found.map(Into::into))
    }

    async fn hooks(&self) -> Result<Vec<Versioned<HookRecord>>, StoreError> {
        self.engine.read(&self.shared, read::hooks)
    }

    async fn ended_runners(&self, limit: usize) -> Result<Vec<EndedRunner>, StoreError> {
        self.engine.read(&self.shared, |tables| read::ended_runners(tables, limit))
    }
}

#[async_trait]
impl TaskQueue for EmbeddedStorage {
    async fn push(&self, tasks: Vec<NewTask>) -> Result<(), StoreError> {
        let push = |step: &mut Step<'_>| tasks.into_iter().try_for_each(|task| queue::push(step, task));
        self.engine.run(&self.shared, push).await
    }

    async fn claim(
        &self,
        lane: &Lane,
        most: usize,
        bound: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        let clock = &*self.shared.clock;
        let waiters = self.shared.lanes.of(lane.as_str());
        let end = later(clock.now(), wait);
        let mut baton = None;
        loop {
            let (lane, shared) = (lane.clone(), Arc::clone(&self.shared));
            let claim = move |step: &mut Step<'_>| {
                if shared.is_first_claim(lane.as_str()) {
                    queue::end_holds(step, lane.as_str())?;
                }
                queue::claim(step, &lane, most, bound, lease)
            };
            let claims = self.engine.run(&self.shared, claim).await?;
            if let Some(baton) = baton.take() {
                Baton::done(baton);
            }
            let left = Duration::try_from(end.duration_since(clock.now())).unwrap_or(Duration::ZERO);
            if !claims.is_empty() || most == 0 || left.is_zero() || !waiters.wait(clock, left).await {
                return Ok(claims);
            }
            baton = Some(waiters.baton());
        }
    }

    async fn extend(&self, token: &ClaimToken, lease: Duration) -> Result<Timestamp, StoreError> {
        let token = token.clone();
        self.engine.run(&self.shared, move |step| queue::extend(step, &token, lease)).await
    }

    async fn ack(&self, token: &ClaimToken) -> Result<(), StoreError> {
        let token = token.clone();
        self.engine.run(&self.shared, move |step| queue::ack(step, &token)).await
    }

    async fn retry(&self, token: &ClaimToken, when: Timestamp, reason: &str) -> Result<(), StoreError> {
        let (token, reason) = (token.clone(), reason.to_owned());
        self.engine.run(&self.shared, move |step| queue::retry(step, &token, when, &reason)).await
    }

    async fn release(&self, token: &ClaimToken) -> Result<(), StoreError> {
        let token = token.clone();
        self.engine.run(&self.shared, move |step| queue::release(step, &token)).await
    }

    async fn bury(&self, token: &ClaimToken, reason: &str) -> Result<(), StoreError> {
        let (token, reason, retention) = (token.clone(), reason.to_owned(), self.retention);
        self.engine.run(&self.shared, move |step| queue::bury(step, &retention, &token, &reason)).await
    }

    async fn dead(&self, limit: usize) -> Result<Vec<DeadTask>, StoreError> {
        self.engine.read(&self.shared, |tables| queue::dead(tables, limit))
    }

    async fn revive(&self, key: &str) -> Result<bool, StoreError> {
        let key = key.to_owned();
        self.engine.run(&self.shared, move |step| queue::revive(step, &key)).await
    }

    async fn statistics(&self) -> Result<QueueStatistics, StoreError> {
        let now = self.shared.clock.now();
        self.engine.read(&self.shared, |tables| statistics::statistics(tables, now))
    }
}

#[async_trait]
impl Budgets for EmbeddedStorage {
    async fn take(&self, bounds: &[Bound], lease: Duration) -> Result<Permission, StoreError> {
        Ok(self.shared.budgets.take(bounds, lease, self.shared.clock.now()))
    }

    async fn give_back(&self, permit: &Permit) -> Result<(), StoreError> {
        self.shared.budgets.give_back(permit);
        Ok(())
    }

    async fn pause(&self, key: &BudgetKey, until: Timestamp) -> Result<(), StoreError> {
        self.shared.budgets.pause(key, until);
        Ok(())
    }
}
