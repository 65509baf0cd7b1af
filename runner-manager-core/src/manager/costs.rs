//! What the steps of a manager cost, counted: reads and writes of the store, and how much is read and written. On the hot
//! path it is the same with ten runners and with a hundred thousand, and a sweep costs each runner the same.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{ConnectedBackend, Connections, Manager, Parts, Settings, Storage};
use crate::backend::MockBackend;
use crate::clock::SimulatedClock;
use crate::domain::{
    BackendName, DeliveryId, DeploymentName, EndedRunner, GroupName, HookPlace, HookRecord, Instance,
    InstanceId, InstanceState, JobId, JobReport, OperationId, Owner, Runner, RunnerName, RunnerState, Secret,
    WorkflowJob,
};
use crate::embedded::EmbeddedStorage;
use crate::policy::samples::{at, group, record, runner, seen};
use crate::queue::{Claim, Lane, Task, TaskQueue};
use crate::random::SeededRandom;
use crate::store::{
    Applied, Change, DeploymentView, Expected, GroupView, JobFilter, Page, RunnerFilter, Store, StoreError,
    Versioned, Write,
};

const GROUP: &str = "linux";

/// What was asked of a store, and how much that was, as it prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cost {
    operations: usize,
    bytes: usize,
}

/// A store that counts.
#[derive(Debug)]
struct Counted {
    inner: Arc<EmbeddedStorage>,
    cost: Mutex<Cost>,
}

impl Counted {
    fn note<T: Debug>(&self, read: T) -> T {
        let mut cost = self.cost.lock().unwrap();
        cost.operations += 1;
        cost.bytes += format!("{read:?}").len();
        read
    }

    /// What was asked since this was last called.
    fn take(&self) -> Cost {
        std::mem::take(&mut self.cost.lock().unwrap())
    }
}

#[async_trait]
impl Store for Counted {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.inner.now().await
    }

    async fn deployment(&self) -> Result<DeploymentView, StoreError> {
        self.note(self.inner.deployment().await)
    }

    async fn apply(&self, write: Write) -> Result<Applied, StoreError> {
        self.note(&write);
        self.inner.apply(write).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<GroupView>, StoreError> {
        self.note(self.inner.group(name).await)
    }

    async fn groups(&self) -> Result<Vec<GroupView>, StoreError> {
        self.note(self.inner.groups().await)
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Versioned<Runner>>, StoreError> {
        self.note(self.inner.runner(name).await)
    }

    async fn runners(
        &self,
        filter: &RunnerFilter,
        page: &Page<RunnerName>,
    ) -> Result<Vec<Versioned<Runner>>, StoreError> {
        self.note(self.inner.runners(filter, page).await)
    }

    async fn job(&self, id: JobId) -> Result<Option<Versioned<WorkflowJob>>, StoreError> {
        self.note(self.inner.job(id).await)
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        page: &Page<JobId>,
    ) -> Result<Vec<Versioned<WorkflowJob>>, StoreError> {
        self.note(self.inner.jobs(filter, page).await)
    }

    async fn hook(&self, place: &HookPlace) -> Result<Option<Versioned<HookRecord>>, StoreError> {
        self.note(self.inner.hook(place).await)
    }

    async fn hooks(&self) -> Result<Vec<Versioned<HookRecord>>, StoreError> {
        self.note(self.inner.hooks().await)
    }

    async fn ended_runners(&self, limit: usize) -> Result<Vec<EndedRunner>, StoreError> {
        self.note(self.inner.ended_runners(limit).await)
    }
}

fn backend() -> BackendName {
    BackendName::new("cloud").unwrap()
}

/// A busy runner, and the instance that it runs on.
fn busy(number: usize) -> (Runner, Instance) {
    let group = record(group(GROUP, &["linux"], 0, 1));
    let of_group = runner(&group, group.spec.placements[0].key.clone());
    let busy = Runner {
        name: RunnerName::new(format!("rm-{GROUP}-{number:08}")).unwrap(),
        requested_at: Timestamp::UNIX_EPOCH,
        online_at: Some(Timestamp::UNIX_EPOCH),
        instance: Some(InstanceId::new(format!("i-{number:08}"))),
        state: RunnerState::Busy { job: None },
        ..of_group
    };
    let instance = Instance {
        id: InstanceId::new(format!("i-{number:08}")),
        runner: busy.name.clone(),
        group: busy.group.clone(),
        state: InstanceState::Running,
        created_at: Timestamp::UNIX_EPOCH,
    };
    (busy, instance)
}

/// A manager with so many busy runners.
struct World {
    manager: Manager,
    storage: Arc<EmbeddedStorage>,
    store: Arc<Counted>,
}

impl World {
    async fn new(runners: usize) -> Self {
        let clock = Arc::new(SimulatedClock::new(at(0)));
        let storage = Arc::new(EmbeddedStorage::in_memory(clock.clone()));
        let store = Arc::new(Counted { inner: storage.clone(), cost: Mutex::default() });
        let instances: Vec<Instance> = (0..runners).map(|number| busy(number).1).collect();
        let mut cloud = MockBackend::new();
        cloud.expect_list().returning(move |_| Ok(instances.clone()));
        let cloud = ConnectedBackend::new(Arc::new(cloud), 1);
        let manager = Manager::new(Parts {
            owner: Owner::new(DeploymentName::new("rm").unwrap(), &Secret::new("a secret key")),
            storage: Storage { store: store.clone(), queue: storage.clone(), budgets: storage.clone() },
            github: Connections::new(),
            backends: [(backend(), cloud)].into(),
            clock,
            random: Arc::new(SeededRandom::new(1)),
            settings: Settings::default(),
        });
        let world = Self { manager, storage, store };
        world.fill(runners).await;
        world
    }

    async fn fill(&self, runners: usize) {
        let incarnation = self.storage.deployment().await.unwrap().incarnation;
        let spec = group(GROUP, &["linux"], 0, 200_000);
        let group = Change::PutGroup { record: record(spec), expected: Expected::Absent };
        self.write("begin", vec![Change::Trust { incarnation }, group]).await;
        let adopted: Vec<Change> =
            (0..runners).map(|number| Change::AdoptRunner { runner: busy(number).0 }).collect();
        for (number, changes) in adopted.chunks(500).enumerate() {
            self.write(&format!("adopt-{number}"), changes.to_vec()).await;
        }
    }

    async fn write(&self, operation: &str, changes: Vec<Change>) {
        let operation = OperationId::new(operation);
        let write = Write { operation, claim: None, on_trust: false, changes, tasks: Vec::new() };
        self.storage.apply(write).await.unwrap();
    }

    async fn claim(&self, lane: &Lane) -> Claim {
        let claims = self.storage.claim(lane, 1, usize::MAX, Duration::from_mins(1), Duration::ZERO).await;
        claims.unwrap().remove(0)
    }

    /// What a webhook costs, and the reconcile that follows from it, with the slot that is taken.
    async fn webhook_and_reconcile(&self) -> [Cost; 2] {
        self.store.take();
        let queued = seen(JobReport::Queued);
        self.manager.observe(&DeliveryId::new("delivery"), &queued).await.unwrap();
        let webhook = self.store.take();
        let claim = self.claim(&Lane::control()).await;
        let Task::Reconcile { group } = &claim.task else { panic!("{:?}", claim.task) };
        self.manager.reconcile(&claim.token, group).await.unwrap();
        [webhook, self.store.take()]
    }

    /// What a sweep of the backend costs that finds all well.
    async fn sweep(&self) -> Cost {
        let task = Task::SweepBackend { backend: backend() };
        self.storage.push(vec![crate::queue::NewTask::now(task)]).await.unwrap();
        let claim = self.claim(&Lane::sweeps()).await;
        self.store.take();
        self.manager.sweep_backend(&claim.token, &backend()).await.unwrap();
        self.store.take()
    }
}

#[tokio::test]
async fn the_hot_path_costs_the_same_with_ten_runners_and_a_hundred_thousand() {
    let few = World::new(10).await;
    let many = World::new(100_000).await;
    let (of_few, of_many) = (few.webhook_and_reconcile().await, many.webhook_and_reconcile().await);
    println!("webhook, reconcile: {of_few:?} with 10 runners, {of_many:?} with 100,000");
    assert_eq!(of_few.map(|cost| cost.operations), of_many.map(|cost| cost.operations));
    for (few, many) in of_few.into_iter().zip(of_many) {
        // The numbers of runners themselves are printed, too.
        assert!(many.bytes.abs_diff(few.bytes) <= 32, "{few:?} and {many:?}");
    }
    let (few, many) = (few.sweep().await, many.sweep().await);
    println!("sweep: {few:?} with 10 runners, {many:?} with 100,000");
    // All records are read twice, five hundred at a time.
    assert_eq!(many.operations - few.operations, 2 * 100_000 / 500);
    let by_runner = (many.bytes - few.bytes) / (100_000 - 10);
    assert!(by_runner <= few.bytes / 10, "{by_runner} bytes for each runner");
}
