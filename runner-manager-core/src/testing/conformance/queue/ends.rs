//! Cases of how a claim ends, and of what the queue tells of itself.

use std::time::Duration;

use super::super::storage::{StorageSubject, reconcile, scope};
use crate::queue::{Lane, LaneStatistics, NewTask, Priority, Task};
use crate::store::StoreError;

fn is_lost<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::LostClaim))
}

pub(super) async fn a_lease_runs_out(on: StorageSubject) {
    let task = reconcile("a");
    on.push(NewTask::now(task.clone())).await;
    let first = on.claim_one(&task).await;
    assert_eq!(first.attempt, 1);
    on.pass(8).await;
    assert!(on.claim(&task, 1).await.is_empty());
    on.pass(2).await;
    let second = on.claim_one(&task).await;
    assert_eq!((&second.task, second.attempt), (&task, 2));
    assert!(second.token > first.token && second.token.key == first.token.key);
    on.push(NewTask::now(task.clone())).await;
    on.pass(10).await;
    let third = on.claim(&task, 9).await;
    assert_eq!(third.len(), 1, "what was pushed meanwhile joins what comes back");
    assert_eq!(third[0].attempt, 3);
    on.queue.ack(&third[0].token).await.unwrap();
    on.push(NewTask::now(task.clone())).await;
    assert_eq!(on.claim_one(&task).await.attempt, 1, "it had succeeded");
}

pub(super) async fn a_lease_is_extended(on: StorageSubject) {
    let task = reconcile("a");
    on.push(NewTask::now(task.clone())).await;
    let claim = on.claim_one(&task).await;
    on.pass(7).await;
    let until = on.queue.extend(&claim.token, on.unit * 10).await.unwrap();
    assert!(until > claim.until);
    on.pass(7).await;
    assert!(on.claim(&task, 1).await.is_empty());
    on.queue.extend(&claim.token, on.unit * 2).await.unwrap();
    on.pass(2).await;
    assert!(is_lost(&on.queue.extend(&claim.token, on.unit).await), "it is lost, though nobody took it");
    let second = on.claim_one(&task).await;
    assert!(is_lost(&on.queue.extend(&claim.token, on.unit).await), "another holds it");
    on.queue.ack(&second.token).await.unwrap();
    assert!(is_lost(&on.queue.extend(&second.token, on.unit).await), "it is done");
}

pub(super) async fn ack_ends_a_task(on: StorageSubject) {
    let task = reconcile("a");
    on.push(NewTask::now(task.clone())).await;
    let claim = on.claim_one(&task).await;
    on.queue.ack(&claim.token).await.unwrap();
    on.pass(11).await;
    assert!(on.claim(&task, 1).await.is_empty());
    assert!(on.queue.statistics().await.unwrap().lanes.is_empty());
}

pub(super) async fn a_late_ack_is_refused(on: StorageSubject) {
    let task = reconcile("a");
    on.push(NewTask::now(task.clone())).await;
    let first = on.claim_one(&task).await;
    on.pass(10).await;
    for token in [first.token.clone(), crate::queue::ClaimToken { key: "none".to_owned(), number: 1 }] {
        assert!(is_lost(&on.queue.ack(&token).await));
        assert!(is_lost(&on.queue.retry(&token, on.now().await, "late").await));
        assert!(is_lost(&on.queue.release(&token).await));
        assert!(is_lost(&on.queue.bury(&token, "late").await));
    }
    let second = on.claim_one(&task).await;
    assert_eq!(second.attempt, 2);
    assert!(is_lost(&on.queue.ack(&first.token).await));
    on.queue.ack(&second.token).await.unwrap();
    assert!(is_lost(&on.queue.ack(&second.token).await));
    assert!(on.queue.dead(9).await.unwrap().is_empty());
}

pub(super) async fn retry_comes_back_later(on: StorageSubject) {
    let task = reconcile("a");
    on.push(NewTask::now(task.clone())).await;
    let claim = on.claim_one(&task).await;
    on.push(NewTask::now(task.clone())).await;
    on.queue.retry(&claim.token, on.in_units(5).await, "not yet").await.unwrap();
    on.push(NewTask::now(task.clone()).priority(Priority::High)).await;
    on.pass(3).await;
    assert!(on.claim(&task, 9).await.is_empty(), "a push does not bring it forward");
    on.pass(2).await;
    let claims = on.claim(&task, 9).await;
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].attempt, 2);
    on.queue.retry(&claims[0].token, on.now().await, "at once").await.unwrap();
    assert_eq!(on.claim_one(&task).await.attempt, 3);
}

pub(super) async fn release_comes_back_at_once(on: StorageSubject) {
    let task = reconcile("a");
    on.push(NewTask::now(task.clone())).await;
    for _ in 0..3 {
        let claim = on.claim_one(&task).await;
        assert_eq!(claim.attempt, 1);
        on.queue.release(&claim.token).await.unwrap();
        assert!(is_lost(&on.queue.ack(&claim.token).await));
    }
}

pub(super) async fn bury_keeps_it_with_its_reason(on: StorageSubject) {
    for (group, reason) in [("a", "it is broken"), ("b", "it is gone")] {
        on.push(NewTask::now(reconcile(group))).await;
        let claim = on.claim_one(&reconcile(group)).await;
        on.queue.bury(&claim.token, reason).await.unwrap();
        on.pass(1).await;
    }
    let dead = on.queue.dead(9).await.unwrap();
    let told: Vec<_> =
        dead.iter().map(|dead| (dead.task.key(), dead.reason.as_str(), dead.attempts)).collect();
    let expected = [(reconcile("b").key(), "it is gone", 1), (reconcile("a").key(), "it is broken", 1)];
    assert_eq!(told, expected);
    assert!(dead[0].at > dead[1].at && dead[0].at <= on.now().await);
    assert_eq!(on.queue.dead(1).await.unwrap(), dead[..1]);
    on.pass(10).await;
    assert!(on.claim(&reconcile("a"), 9).await.is_empty());
    on.push(NewTask::now(reconcile("c"))).await;
    let claim = on.claim_one(&reconcile("c")).await;
    on.push(NewTask::now(reconcile("c"))).await;
    on.queue.bury(&claim.token, "once").await.unwrap();
    assert_eq!(on.queue.dead(9).await.unwrap().len(), 2, "what was pushed meanwhile goes on");
    assert_eq!(on.claim_one(&reconcile("c")).await.attempt, 1);
}

pub(super) async fn revive_brings_it_back(on: StorageSubject) {
    for group in ["a", "b"] {
        on.push(NewTask::now(reconcile(group))).await;
        let claim = on.claim_one(&reconcile(group)).await;
        on.queue.bury(&claim.token, "it is broken").await.unwrap();
    }
    assert!(!on.queue.revive("nothing").await.unwrap());
    assert!(on.queue.revive(&reconcile("a").key()).await.unwrap());
    assert!(!on.queue.revive(&reconcile("a").key()).await.unwrap());
    assert_eq!(on.claim_one(&reconcile("a")).await.attempt, 1, "it begins anew");
    on.push(NewTask::now(reconcile("b"))).await;
    assert!(on.queue.dead(9).await.unwrap().is_empty());
    assert_eq!(on.claim_one(&reconcile("b")).await.task, reconcile("b"));
}

pub(super) async fn dead_tasks_are_bounded(on: StorageSubject) {
    for at in 0..45 {
        let task = reconcile(&format!("g{at}"));
        on.push(NewTask::now(task.clone())).await;
        let claim = on.claim_one(&task).await;
        on.queue.bury(&claim.token, "it is broken").await.unwrap();
    }
    let dead = on.queue.dead(100).await.unwrap();
    assert!((20..45).contains(&dead.len()), "{} dead tasks are kept", dead.len());
    assert!(dead.iter().any(|dead| dead.task == reconcile("g44")));
    assert_eq!(on.queue.statistics().await.unwrap().dead, dead.len() as u64);
}

pub(super) async fn statistics_count(on: StorageSubject) {
    assert_eq!(on.queue.statistics().await.unwrap(), crate::queue::QueueStatistics::default());
    let begin = on.now().await;
    let late = on.in_units(20).await;
    on.push(NewTask::now(reconcile("buried")).priority(Priority::High)).await;
    let claim = on.claim_one(&reconcile("buried")).await;
    on.queue.bury(&claim.token, "it is broken").await.unwrap();
    on.push(NewTask::now(reconcile("held")).priority(Priority::High)).await;
    let held = on.claim_one(&reconcile("held")).await;
    on.push(NewTask::now(reconcile("oldest")).priority(Priority::Low)).await;
    on.pass(1).await;
    on.push(NewTask::now(reconcile("younger"))).await;
    on.push(NewTask::at(reconcile("delayed"), late)).await;
    on.push(NewTask::at(Task::SweepScope { scope: scope("acme") }, late)).await;
    let statistics = on.queue.statistics().await.unwrap();
    assert_eq!(statistics.dead, 1);
    let [control, sweeps] = &statistics.lanes[..] else { panic!("two lanes: {statistics:?}") };
    assert_eq!((control.due, control.delayed, control.claimed), (2, 1, 1));
    let oldest = control.oldest_due.expect("a task is due");
    assert!(oldest >= begin && oldest <= on.now().await && oldest < late);
    assert_eq!(
        *sweeps,
        LaneStatistics { lane: Lane::sweeps(), due: 0, delayed: 1, claimed: 0, oldest_due: None }
    );
    on.push(NewTask::now(reconcile("held"))).await;
    on.queue.extend(&held.token, on.unit).await.unwrap();
    let waits = on.queue.statistics().await.unwrap().lanes[0].delayed;
    assert_eq!(waits, 2, "what was pushed behind a claim waits for its end");
    on.pass(1).await;
    let control = on.queue.statistics().await.unwrap().lanes.remove(0);
    assert_eq!((control.due, control.claimed), (3, 0), "a lease that is over is a task that is due");
    let claims = on.queue.claim(&Lane::control(), 9, usize::MAX, on.unit, Duration::ZERO).await.unwrap();
    assert_eq!(claims.len(), 3);
}
