//! Cases of what is claimed, by whom, in which order and when.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{join, join_all};

use super::super::storage::{StorageSubject, backend_name, reconcile, runner_name, scope};
use crate::queue::{Claim, Lane, NewTask, Priority, Task};

fn groups(claims: &[Claim]) -> Vec<String> {
    claims.iter().map(|claim| claim.token.key.replace("reconcile:", "")).collect()
}

/// Claims on the lane of decisions, waiting up to `units` for a task.
async fn wait(on: &StorageSubject, most: usize, units: u32) -> Vec<Claim> {
    on.queue.claim(&Lane::control(), most, usize::MAX, on.unit * 50, on.unit * units).await.unwrap()
}

pub(super) async fn a_task_is_claimed_once(on: StorageSubject) {
    let tasks: Vec<_> = (0..10).map(|at| NewTask::now(reconcile(&format!("g{at}")))).collect();
    on.queue.push(tasks).await.unwrap();
    let task = reconcile("a");
    let claims: Vec<Claim> =
        join_all((0..30).map(|_| on.claim(&task, 1))).await.into_iter().flatten().collect();
    let keys: BTreeSet<_> = claims.iter().map(|claim| &claim.token.key).collect();
    let tokens: BTreeSet<_> = claims.iter().map(|claim| claim.token.number).collect();
    assert_eq!((claims.len(), keys.len(), tokens.len()), (10, 10, 10));
}

pub(super) async fn equal_keys_collapse(on: StorageSubject) {
    let (soon, late) = (on.in_units(2).await, on.in_units(8).await);
    for new in [
        NewTask::at(reconcile("a"), late).priority(Priority::High),
        NewTask::at(reconcile("a"), soon).priority(Priority::Low),
        NewTask::at(reconcile("a"), late),
        NewTask::at(reconcile("b"), soon),
    ] {
        on.push(new).await;
    }
    assert!(on.claim(&reconcile("a"), 9).await.is_empty());
    on.pass(2).await;
    assert_eq!(
        groups(&on.claim(&reconcile("a"), 9).await),
        ["a", "b"],
        "the earlier time, the higher priority"
    );
    on.pass(7).await;
    assert!(on.claim(&reconcile("a"), 9).await.is_empty(), "one task was kept of each key");
}

pub(super) async fn a_claimed_key_is_not_collapsed_into(on: StorageSubject) {
    on.push(NewTask::now(reconcile("a"))).await;
    let claim = on.claim_one(&reconcile("a")).await;
    on.push(NewTask::now(reconcile("a"))).await;
    on.push(NewTask::now(reconcile("a")).priority(Priority::High)).await;
    on.push(NewTask::now(reconcile("b"))).await;
    on.queue.ack(&claim.token).await.unwrap();
    let claims = on.claim(&reconcile("a"), 9).await;
    assert_eq!(groups(&claims), ["a", "b"]);
    assert_eq!(claims[0].attempt, 1, "it is another task");
    assert!(claims[0].token > claim.token);
}

pub(super) async fn one_claim_per_key(on: StorageSubject) {
    on.push(NewTask::now(reconcile("a")).priority(Priority::Low)).await;
    let claim = on.claim_one(&reconcile("a")).await;
    on.push(NewTask::now(reconcile("a")).priority(Priority::High)).await;
    let claims = join_all((0..5).map(|_| async { on.claim(&reconcile("a"), 5).await })).await;
    assert!(claims.into_iter().all(|claims| claims.is_empty()));
    on.push(NewTask::now(reconcile("b"))).await;
    on.queue.release(&claim.token).await.unwrap();
    assert_eq!(
        groups(&on.claim(&reconcile("a"), 5).await),
        ["a", "b"],
        "both have become one, of the higher priority"
    );
}

pub(super) async fn a_delay_is_kept(on: StorageSubject) {
    let due = on.in_units(5).await;
    on.push(NewTask::at(reconcile("a"), due)).await;
    assert!(on.claim(&reconcile("a"), 1).await.is_empty());
    on.pass(3).await;
    assert!(on.claim(&reconcile("a"), 1).await.is_empty());
    on.pass(3).await;
    let claim = on.claim_one(&reconcile("a")).await;
    assert!(claim.waited >= on.unit && claim.waited < on.unit * 3, "{:?}", claim.waited);
}

pub(super) async fn higher_priorities_go_first(on: StorageSubject) {
    on.push(NewTask::now(reconcile("low")).priority(Priority::Low)).await;
    let later = on.in_units(2).await;
    on.push(NewTask::at(reconcile("later"), later)).await;
    on.push(NewTask::now(reconcile("first"))).await;
    on.pass(1).await;
    on.push(NewTask::now(reconcile("second"))).await;
    on.push(NewTask::now(reconcile("high")).priority(Priority::High)).await;
    on.pass(2).await;
    let mut order = groups(&on.claim(&reconcile("a"), 2).await);
    order.extend(groups(&on.claim(&reconcile("a"), 9).await));
    assert_eq!(order, ["high", "first", "second", "later", "low"]);
}

pub(super) async fn lanes_are_apart(on: StorageSubject) {
    let provision = |backend: &str| Task::Provision {
        runner: runner_name(&format!("on-{backend}")),
        backend: backend_name(backend),
    };
    let sweep = Task::SweepScope { scope: scope("acme") };
    let tasks = [provision("one"), reconcile("a"), sweep.clone(), provision("one-two")];
    on.queue.push(tasks.clone().map(NewTask::now).into()).await.unwrap();
    assert!(on.claim(&provision("other"), 9).await.is_empty());
    for task in tasks {
        let claims = on.claim(&task, 9).await;
        assert_eq!(claims.iter().map(|claim| &claim.task).collect::<Vec<_>>(), [&task]);
    }
}

pub(super) async fn a_claim_waits_for_a_task(on: StorageSubject) {
    let (claims, ()) = join(wait(&on, 1, 20), on.push(NewTask::now(reconcile("pushed")))).await;
    assert_eq!(groups(&claims), ["pushed"]);
    let other = Task::SweepScope { scope: scope("acme") };
    let due = on.in_units(3).await;
    let delayed = async {
        on.push(NewTask::now(other)).await;
        on.push(NewTask::at(reconcile("delayed"), due)).await;
        on.pass(3).await;
    };
    let (claims, ()) = join(wait(&on, 1, 20), delayed).await;
    assert_eq!(groups(&claims), ["delayed"]);
    assert!(on.now().await >= due);
    let (claims, ()) = join(wait(&on, 1, 2), on.pass(2)).await;
    assert!(claims.is_empty());
    let write = async {
        let mut write = on.write(Vec::new());
        write.tasks.push(NewTask::now(reconcile("written")));
        on.store.apply(write).await.unwrap();
    };
    let (claims, ()) = join(wait(&on, 1, 20), write).await;
    assert_eq!(groups(&claims), ["written"]);
    let (again, released) = join(wait(&on, 1, 20), on.queue.release(&claims[0].token)).await;
    released.unwrap();
    assert_eq!(groups(&again), ["written"]);
    let when = on.in_units(2).await;
    let retry = async {
        on.queue.retry(&again[0].token, when, "not yet").await.unwrap();
        on.pass(2).await;
    };
    let (claims, ()) = join(wait(&on, 1, 20), retry).await;
    assert_eq!(groups(&claims), ["written"]);
    waits_for_a_lease(&on).await;
}

/// A lease that runs out wakes those who wait, too.
async fn waits_for_a_lease(on: &StorageSubject) {
    on.push(NewTask::now(reconcile("lost"))).await;
    let lost = on.queue.claim(&Lane::control(), 1, usize::MAX, on.unit * 2, Duration::ZERO).await.unwrap();
    let (claims, ()) = join(wait(on, 1, 20), on.pass(2)).await;
    assert_eq!(groups(&claims), groups(&lost));
    assert_eq!(claims[0].attempt, 2);
}

pub(super) async fn all_who_wait_are_served(on: StorageSubject) {
    let push = async {
        let due = on.in_units(2).await;
        let now = (0..5).map(|at| NewTask::now(reconcile(&format!("now-{at}"))));
        let later = (0..5).map(|at| NewTask::at(reconcile(&format!("later-{at}")), due));
        on.queue.push(now.chain(later).collect()).await.unwrap();
        on.pass(2).await;
    };
    let (claims, ()) = join(join_all((0..10).map(|_| wait(&on, 1, 20))), push).await;
    let keys: BTreeSet<_> = claims.iter().flatten().map(|claim| &claim.token.key).collect();
    assert_eq!((claims.iter().flatten().count(), keys.len()), (10, 10));
}
