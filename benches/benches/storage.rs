//! What the embedded storage does for every webhook and every task, in memory.
//!
//! Each write leaves its record behind, so that a store grows while it is measured, as a real one does.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion};
use runner_manager_benches::{backend, group, group_name, job, runner};
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::OperationId;
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::queue::{Lane, NewTask, Task, TaskQueue};
use runner_manager_core::store::{Change, Expected, GroupRecord, Store, Write};
use tokio::runtime::{Builder, Runtime};

const WORKS: &str = "a storage in memory does not fail";
const LEASE: Duration = Duration::from_mins(1);

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
        .configure_from_args();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    webhook(&mut criterion, &runtime);
    reserve(&mut criterion, &runtime);
    claim_and_ack(&mut criterion, &runtime);
    group_view(&mut criterion, &runtime);
    criterion.final_summary();
}

/// A storage with group 0, and the numbers of the writes made to it.
struct Sample<'a> {
    storage: EmbeddedStorage,
    runtime: &'a Runtime,
    writes: u64,
}

impl<'a> Sample<'a> {
    fn new(runtime: &'a Runtime) -> Self {
        let storage = EmbeddedStorage::in_memory(Arc::new(SystemClock));
        let mut sample = Self { storage, runtime, writes: 0 };
        let spec = group(0, u32::MAX);
        let record =
            GroupRecord { spec, draining: None, placements: [].into(), registration: None, github: None };
        sample.write(|_| (Change::PutGroup { record, expected: Expected::Absent }, None));
        sample
    }

    fn write(&mut self, make: impl FnOnce(u64) -> (Change, Option<Task>)) {
        self.writes += 1;
        let (change, task) = make(self.writes);
        let operation = OperationId::new(format!("{:032x}", self.writes));
        let tasks = task.into_iter().map(NewTask::now).collect();
        let write = Write {
            operation,
            claim: None,
            ends_claim: false,
            on_trust: false,
            changes: vec![change],
            tasks,
        };
        self.runtime.block_on(self.storage.apply(write)).expect(WORKS);
    }

    fn reserve(&mut self) {
        self.write(|number| {
            let runner = runner(number);
            let task = Task::Provision { runner: runner.name.clone(), backend: backend() };
            (Change::ReserveRunner { runner }, Some(task))
        });
    }

    fn claim_and_ack(&self) {
        let lane = Lane::backend(&backend());
        let claim = self.storage.claim(&lane, 1, usize::MAX, LEASE, Duration::ZERO);
        let claims = self.runtime.block_on(claim).expect(WORKS);
        self.runtime.block_on(self.storage.ack(&claims[0].token)).expect(WORKS);
    }
}

/// A job that is heard of first, with the task that follows.
fn webhook(criterion: &mut Criterion, runtime: &Runtime) {
    let mut sample = Sample::new(runtime);
    criterion.bench_function("record a job", |bencher| {
        bencher.iter(|| {
            sample.write(|number| {
                let change = Change::PutJob { job: job(number), expected: Expected::Absent };
                (change, Some(Task::Reconcile { group: group_name(0) }))
            });
        });
    });
}

/// A slot that is taken, with the task that brings the runner up.
fn reserve(criterion: &mut Criterion, runtime: &Runtime) {
    let mut sample = Sample::new(runtime);
    criterion.bench_function("reserve a runner", |bencher| bencher.iter(|| sample.reserve()));
}

/// Two writes, on one of the tasks that wait in the lane.
fn claim_and_ack(criterion: &mut Criterion, runtime: &Runtime) {
    let mut sample = Sample::new(runtime);
    criterion.bench_function("claim and ack", |bencher| {
        // The task is queued outside what is measured. The cell is the one storage's, in both halves.
        let sample = std::cell::RefCell::new(&mut sample);
        bencher.iter_batched(
            || sample.borrow_mut().reserve(),
            |()| sample.borrow().claim_and_ack(),
            BatchSize::SmallInput,
        );
    });
}

/// What every reconcile reads: it must cost the same however many runners there are.
fn group_view(criterion: &mut Criterion, runtime: &Runtime) {
    let mut benches = criterion.benchmark_group("group view");
    let mut sample = Sample::new(runtime);
    for runners in [10_u32, 10_000] {
        while sample.writes <= u64::from(runners) {
            sample.reserve();
        }
        benches.bench_function(BenchmarkId::from_parameter(runners), |bencher| {
            bencher.iter(|| {
                let view = runtime.block_on(sample.storage.group(black_box(&group_name(0)))).expect(WORKS);
                assert_eq!(view.map(|view| view.counts.requested), Some(runners));
            });
        });
    }
    benches.finish();
}
