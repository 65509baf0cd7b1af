//! What is decided for every webhook and every task.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use runner_manager_benches::{NOW, QUEUED, group, job, labels, runner};
use runner_manager_core::domain::{
    Balance, Bounds, JobId, JobRef, Limits, Repository, RunnerGroup, RunnerState, Secret,
};
use runner_manager_core::policy::lifecycle::{Event, step};
use runner_manager_core::policy::matching::{Asked, candidates};
use runner_manager_core::policy::scaling::{Allowance, plan};
use runner_manager_core::store::GroupCounts;
use runner_manager_core::webhook::{parse, sign, verify};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50)
        .configure_from_args();
    matching(&mut criterion);
    scaling(&mut criterion);
    lifecycle(&mut criterion);
    webhook(&mut criterion);
    criterion.final_summary();
}

/// All groups are looked at; one serves the job.
fn matching(criterion: &mut Criterion) {
    let repository: Repository = "acme/app".parse().expect("it has an owner and a name");
    let mut benches = criterion.benchmark_group("matching");
    for count in [10, 100] {
        let groups: Vec<RunnerGroup> = (0..count).map(|number| group(number, 10)).collect();
        let wanted = labels(count / 2);
        let asked = Asked { job: JobId(1), repository: &repository, enterprise: None, labels: &wanted };
        assert_eq!(candidates(&groups, asked, Balance::Pack).len(), 1);
        benches.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| candidates(black_box(&groups), black_box(asked), Balance::Pack).len());
        });
    }
    benches.finish();
}

fn scaling(criterion: &mut Criterion) {
    let bounds = Bounds::new(5, 1_000).expect("5 is below 1,000");
    let counts = GroupCounts { queued: 300, booting: 40, idle: 3, busy: 200, ..GroupCounts::default() };
    criterion.bench_function("scaling", |bencher| {
        bencher.iter(|| plan(black_box(bounds), black_box(&counts), false, Allowance::Any));
    });
}

/// The event that most runners see: an idle one gets its job.
fn lifecycle(criterion: &mut Criterion) {
    let mut idle = runner(1);
    idle.state = RunnerState::Idle { leaving: None };
    let event = Event::JobStarted { job: JobRef { id: JobId(1), repository: job(1).repository } };
    criterion.bench_function("lifecycle", |bencher| {
        bencher.iter(|| step(black_box(&idle), black_box(&event), &Limits::default(), NOW));
    });
}

fn webhook(criterion: &mut Criterion) {
    let secrets = [Secret::new("a secret as long as those that openssl makes")];
    let signature = sign(&secrets[0], QUEUED);
    let mut benches = criterion.benchmark_group("webhook");
    benches.throughput(Throughput::Bytes(QUEUED.len() as u64));
    benches.bench_function("verify", |bencher| {
        bencher.iter(|| verify(&secrets, black_box(QUEUED), Some(&signature)).expect("it was just signed"));
    });
    benches.bench_function("parse", |bencher| {
        bencher.iter(|| parse("workflow_job", black_box(QUEUED)).expect("it is GitHub's own example"));
    });
    benches.finish();
}
