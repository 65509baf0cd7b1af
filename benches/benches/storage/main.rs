//! What a storage does for every webhook, every task and every call to the outside: in memory, in a file, and on a Redis.
//!
//! Each write leaves its record behind, so that a store grows while it is measured, as a real one does. The Redis is the
//! bench's own, with an append-only file. Where there is no `redis-server` that is said, and the others are measured.

#[path = "../../../runner-manager-core/tests/support/reconcile.rs"]
mod reconcile;
#[path = "../../../runner-manager-core/tests/support/redis_server.rs"]
mod redis_server;
mod sample;

use std::cell::LazyCell;
use std::time::Duration;

use criterion::{BatchSize, Bencher, BenchmarkId, Criterion};
use runner_manager_core::domain::RunnerState;
use tokio::runtime::{Builder, Runtime};

use self::sample::{Place, Sample};

/// The sizes of a group that are compared.
const SIZES: [u32; 2] = [100, 100_000];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
        .configure_from_args();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    for place in &Place::all() {
        by_themselves(&mut criterion, &runtime, place);
        for runners in SIZES {
            in_a_group(&mut criterion, &runtime, place, runners);
        }
    }
    criterion.final_summary();
}

/// Single operations. What a bench needs is made by it, so that one that is left out costs nothing.
fn by_themselves(criterion: &mut Criterion, runtime: &Runtime, place: &Place) {
    let mut bench = |name: &str, run: fn(&mut Bencher<'_>, &Sample<'_>)| {
        let sample = LazyCell::new(|| Sample::new(place, runtime));
        let mut benches = criterion.benchmark_group(name);
        benches.bench_function(place.name(), |bencher| run(bencher, &sample));
        benches.finish();
    };
    bench("record a job with its task", |bencher, sample| bencher.iter(|| sample.record()));
    bench("reserve a runner", |bencher, sample| bencher.iter(|| sample.reserve()));
    bench("claim and ack", |bencher, sample| {
        bencher.iter_batched(|| sample.reserve(), |()| sample.claim_and_ack(), BatchSize::SmallInput);
    });
    bench("take a permit and give it back", |bencher, sample| bencher.iter(|| sample.use_a_permit()));
}

/// What a reconcile reads, and whole ones: they must cost the same however many runners there are.
fn in_a_group(criterion: &mut Criterion, runtime: &Runtime, place: &Place, runners: u32) {
    let mut bench = |name: &str, run: &mut dyn FnMut(&mut Bencher<'_>)| {
        let mut benches = criterion.benchmark_group(name);
        benches.bench_function(BenchmarkId::new(place.name(), runners), run);
        benches.finish();
    };
    let busy = LazyCell::new(|| {
        let sample = Sample::with_runners(place, runtime, runners, &RunnerState::Busy { job: None });
        // It waits as long as the sample is there: what is made for it is ended before the next one is made.
        sample.record();
        sample
    });
    bench("group view", &mut |bencher| {
        // It is made before the time is taken.
        let busy = &*busy;
        bencher.iter(|| assert_eq!(busy.view().busy, runners));
    });
    bench("reconcile, making a runner", &mut |bencher| reconciles(bencher, &busy));
    drop(busy);
    let idle = RunnerState::Idle { leaving: None };
    let idle = LazyCell::new(|| Sample::with_runners(place, runtime, runners, &idle));
    bench("reconcile, looking at idle runners", &mut |bencher| reconciles(bencher, &idle));
}

fn reconciles(bencher: &mut Bencher<'_>, sample: &Sample<'_>) {
    bencher.iter_batched(|| sample.ask_for_a_reconcile(), |()| sample.reconcile(), BatchSize::PerIteration);
}
