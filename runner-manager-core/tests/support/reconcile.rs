//! What one reconcile asks of its storage, as the manager asks it: for those who count or measure that alone.
//!
//! A test in `manager/costs.rs` holds that the manager asks this, and nothing else. Other crates take this file in by its
//! path.

use std::time::Duration;

use runner_manager_core::domain::{OperationId, Phase, Runner, later};
use runner_manager_core::manager::Storage;
use runner_manager_core::policy::scaling::{Allowance, Plan, plan};
use runner_manager_core::queue::{Claim, Lane, NewTask, Priority, Task};
use runner_manager_core::store::{Change, Page, RunnerFilter, StoreError, Write};

const LEASE: Duration = Duration::from_secs(90);

/// As many tasks as a worker claims at most, and as many records as one page of a reconcile has.
const CLAIMED: usize = 16;
const PAGE: usize = 50;

/// Reconciles the one group whose task is due: it makes `fresh` where it wants one, or has idle ones that it may come to
/// need no more. Whoever reconciles again has another one.
pub(crate) async fn reconcile(storage: &Storage, fresh: &Runner) -> Result<(), StoreError> {
    let Storage { store, queue, budgets: _ } = storage;
    let claims = queue.claim(&Lane::control(), CLAIMED, usize::MAX, LEASE, Duration::ZERO).await?;
    let [claim] = &claims[..] else { panic!("one task is due, and not {claims:?}") };
    let Task::Reconcile { group } = &claim.task else { panic!("it is no reconcile: {claim:?}") };
    let view = store.group(group).await?.expect("the group is on record");
    let now = store.now().await?;
    let spec = &view.record.value.spec;
    let plan = plan(spec.bounds, &view.counts, false, Allowance::Any);
    if plan == (Plan { create: 1, ..Plan::default() }) {
        return store.apply(reserve(claim, fresh)).await.map(drop);
    }
    assert_eq!((plan.create, plan.cancel, plan.overflow), (0, 0, 0), "{plan:?}");
    if plan.surplus_idle > 0 {
        let idle = RunnerFilter::Phase(group.clone(), Phase::Idle);
        let page = store.runners(&idle, &Page::first(PAGE.min(plan.surplus_idle as usize))).await?;
        let due = later(page[0].value.since, spec.limits.idle_timeout);
        assert!(
            due > now,
            "the first of them has been idle for too long: it was to go at {due}, and it is {now}"
        );
        queue.push(vec![NewTask::at(claim.task.clone(), due)]).await?;
    }
    queue.ack(&claim.token).await
}

fn reserve(claim: &Claim, runner: &Runner) -> Write {
    let provision = Task::Provision { runner: runner.name.clone(), backend: runner.backend.clone() };
    Write {
        operation: OperationId::new(format!("reserve:{}", runner.name)),
        claim: Some(claim.token.clone()),
        ends_claim: true,
        on_trust: false,
        changes: vec![Change::ReserveRunner { runner: runner.clone() }],
        tasks: vec![NewTask::now(provision).priority(Priority::High)],
    }
}
