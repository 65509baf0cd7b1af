//! The storages that are measured, each with one group.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use runner_manager_benches::{backend, group, group_name, job, runner};
use runner_manager_core::budget::{Bound, BudgetKey, Permission, Quota, Rate};
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::{
    EndedRunner, GitHubRunnerId, InstanceId, OperationId, RetireReason, Runner, RunnerState,
};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::manager::Storage;
use runner_manager_core::queue::{Claim, ClaimToken, Lane, NewTask, Task};
use runner_manager_core::random::SystemRandom;
use runner_manager_core::redis::{RedisSettings, RedisStorage};
use runner_manager_core::store::{Change, Expected, GroupCounts, GroupRecord, Write};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::reconcile::reconcile;
use crate::redis_server::RedisServer;

const WORKS: &str = "a storage that nobody disturbs works";
const LEASE: Duration = Duration::from_mins(1);

/// Where a storage has what it holds.
#[derive(Debug)]
pub(crate) enum Place {
    Memory,
    File,
    Redis(RedisServer),
}

impl Place {
    /// All that this machine has.
    pub(crate) fn all() -> Vec<Self> {
        let redis = RedisServer::start(&["--appendonly", "yes"]).map(Self::Redis);
        [Self::Memory, Self::File].into_iter().chain(redis).collect()
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File => "file",
            Self::Redis(_) => "redis",
        }
    }

    /// An empty storage, and the folder in which it lies where it lies in one.
    fn open(&self, runtime: &Runtime) -> (Storage, Option<TempDir>) {
        let clock = Arc::new(SystemClock);
        match self {
            Self::Memory => (Arc::new(EmbeddedStorage::in_memory(clock)).into(), None),
            Self::File => {
                let folder = tempfile::tempdir().expect("a folder can be made");
                let storage = EmbeddedStorage::open(folder.path().join("storage"), clock).expect(WORKS);
                (Arc::new(storage).into(), Some(folder))
            }
            Self::Redis(server) => {
                server.ask(&["FLUSHALL"]);
                let settings = RedisSettings::new(&server.url(), "rm:{bench}").expect("it is a URL");
                let storage = RedisStorage::open(settings, clock, Arc::new(SystemRandom));
                (Arc::new(runtime.block_on(storage).expect(WORKS)).into(), None)
            }
        }
    }
}

/// A storage with group 0, and the numbers of what was written to it.
#[derive(Debug)]
pub(crate) struct Sample<'a> {
    storage: Storage,
    // Goes after the storage that lies in it.
    _folder: Option<TempDir>,
    runtime: &'a Runtime,
    last: Cell<u64>,
}

impl<'a> Sample<'a> {
    pub(crate) fn new(place: &Place, runtime: &'a Runtime) -> Self {
        let (storage, folder) = place.open(runtime);
        let sample = Self { storage, _folder: folder, runtime, last: Cell::new(0) };
        let incarnation = runtime.block_on(sample.storage.store.deployment()).expect(WORKS).incarnation;
        let record = GroupRecord {
            spec: group(0, u32::MAX),
            draining: None,
            placements: [].into(),
            registration: None,
            github: None,
        };
        let group = Change::PutGroup { record, expected: Expected::Absent };
        sample.write(None, vec![Change::Trust { incarnation }, group], None);
        sample
    }

    /// One whose group has so many runners in a state, with their instances, and since now.
    pub(crate) fn with_runners(
        place: &Place,
        runtime: &'a Runtime,
        runners: u32,
        state: &RunnerState,
    ) -> Self {
        const AT_ONCE: u32 = 500;
        let sample = Self::new(place, runtime);
        let now = runtime.block_on(sample.storage.store.now()).expect(WORKS);
        let adopt = |_| {
            let runner = Runner {
                since: now,
                registration: Some(GitHubRunnerId(123_456)),
                online_at: Some(now),
                instance: Some(InstanceId::new("eu-west-1a/i-0123456789abcdef0")),
                state: state.clone(),
                ..runner(sample.next())
            };
            Change::AdoptRunner { runner }
        };
        for first in (0..runners).step_by(AT_ONCE as usize) {
            sample.write(None, (first..runners.min(first + AT_ONCE)).map(adopt).collect(), None);
        }
        sample
    }

    fn next(&self) -> u64 {
        self.last.update(|last| last + 1);
        self.last.get()
    }

    fn write(&self, claim: Option<ClaimToken>, changes: Vec<Change>, task: Option<Task>) {
        let write = Write {
            operation: OperationId::new(format!("{:032x}", self.next())),
            ends_claim: claim.is_some(),
            claim,
            on_trust: false,
            changes,
            tasks: task.into_iter().map(NewTask::now).collect(),
        };
        self.runtime.block_on(self.storage.store.apply(write)).expect(WORKS);
    }

    /// A job that is heard of first, with the task that follows.
    pub(crate) fn record(&self) {
        let change = Change::PutJob { job: job(self.next()), expected: Expected::Absent };
        self.write(None, vec![change], Some(Task::Reconcile { group: group_name(0) }));
    }

    /// A slot that is taken, with the task that brings the runner up.
    pub(crate) fn reserve(&self) {
        let runner = runner(self.next());
        let task = Task::Provision { runner: runner.name.clone(), backend: backend() };
        self.write(None, vec![Change::ReserveRunner { runner }], Some(task));
    }

    /// Two writes, on one of the tasks that wait in the lane.
    pub(crate) fn claim_and_ack(&self) {
        let [claim] = &self.claim_a_provision()[..] else { panic!("a task waits") };
        self.runtime.block_on(self.storage.queue.ack(&claim.token)).expect(WORKS);
    }

    fn claim_a_provision(&self) -> Vec<Claim> {
        let lane = Lane::backend(&backend());
        let claim = self.storage.queue.claim(&lane, 1, usize::MAX, LEASE, Duration::ZERO);
        self.runtime.block_on(claim).expect(WORKS)
    }

    /// The leave for a registration: of the account's calls some may be under way, and so many may be begun in a period
    /// that there is always one left.
    pub(crate) fn use_a_permit(&self) {
        let key = BudgetKey::github("acme");
        let rate = Rate { calls: Rate::MOST_CALLS, per: Duration::from_millis(10) };
        let bounds = [
            Bound { key: key.clone(), quota: Quota { concurrent: Some(100), rate: None } },
            Bound { key: key.part("registrations"), quota: Quota { concurrent: None, rate: Some(rate) } },
        ];
        let budgets = &self.storage.budgets;
        match self.runtime.block_on(budgets.take(&bounds, LEASE)).expect(WORKS) {
            Permission::Granted(permit) => {
                self.runtime.block_on(budgets.give_back(&permit)).expect(WORKS);
            }
            Permission::Wait { .. } => panic!("there is always one left"),
        }
    }

    /// The counters that every reconcile reads.
    pub(crate) fn view(&self) -> GroupCounts {
        let view = self.runtime.block_on(self.storage.store.group(&group_name(0))).expect(WORKS);
        view.expect("the group is on record").counts
    }

    /// Queues the task, after what the last one made has ended: the group is as it was before.
    pub(crate) fn ask_for_a_reconcile(&self) {
        for claim in self.claim_a_provision() {
            self.end(&claim);
        }
        let task = NewTask::now(Task::Reconcile { group: group_name(0) });
        self.runtime.block_on(self.storage.queue.push(vec![task])).expect(WORKS);
    }

    fn end(&self, claim: &Claim) {
        let Task::Provision { runner, .. } = &claim.task else { panic!("it provisions: {claim:?}") };
        let found = self.runtime.block_on(self.storage.store.runner(runner)).expect(WORKS);
        let found = found.expect("its record is there");
        let ended = EndedRunner {
            name: found.value.name,
            group: found.value.group,
            backend: found.value.backend,
            requested_at: found.value.requested_at,
            ended_at: found.value.requested_at,
            why: RetireReason::Surplus,
            trouble: None,
            timeline: Vec::new(),
        };
        let change = Change::EndRunner { ended, expected: found.version };
        self.write(Some(claim.token.clone()), vec![change], None);
    }

    /// The task that was asked for, from its claim to its end.
    pub(crate) fn reconcile(&self) {
        let fresh = runner(self.next());
        self.runtime.block_on(reconcile(&self.storage, &fresh)).expect(WORKS);
    }
}
