//! What is decided for every webhook and every task, in time.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use runner_manager_benches::pure::cases;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50)
        .configure_from_args();
    for mut case in cases() {
        let mut benches = criterion.benchmark_group("policy");
        if let Some(bytes) = case.bytes {
            benches.throughput(Throughput::Bytes(bytes));
        }
        benches.bench_function(case.name.clone(), |bencher| bencher.iter(|| case.run()));
        benches.finish();
    }
    criterion.final_summary();
}
