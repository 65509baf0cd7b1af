//! Cases of single writes: what is refused, what is done, what is told.

use std::time::Duration;

use futures_util::future::join_all;

use super::super::storage::{
    StorageSubject, draining_group, ended, group, group_name, job, queued, reconcile, runner, runner_name,
};
use crate::domain::{Bounds, JobId, RunnerState};
use crate::queue::NewTask;
use crate::store::{Change, Expected, GroupCounts, StoreError, Version, Write};

pub(super) fn is_conflict<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Conflict { .. }))
}

pub(super) async fn a_write_is_read(on: StorageSubject) {
    let version = on.open_group("a", 2).await;
    let view = on.store.group(&group_name("a")).await.unwrap().unwrap();
    assert_eq!((view.record.value, view.record.version), (group("a", 2), version));
    let version = on.apply(Change::ReserveRunner { runner: runner("r", "a") }).await;
    let read = on.store.runner(&runner_name("r")).await.unwrap().unwrap();
    assert_eq!((read.value, read.version), (runner("r", "a"), version));
    let waiting = job(7, queued(Some("a")), 1);
    let version = on.apply(Change::PutJob { job: waiting.clone(), expected: Expected::Absent }).await;
    let read = on.store.job(JobId(7)).await.unwrap().unwrap();
    assert_eq!((read.value, read.version), (waiting, version));
    assert_eq!(on.store.groups().await.unwrap().len(), 1);
    assert!(on.store.group(&group_name("b")).await.unwrap().is_none());
    assert!(on.store.runner(&runner_name("s")).await.unwrap().is_none());
    assert!(on.store.job(JobId(8)).await.unwrap().is_none());
}

pub(super) async fn a_write_is_whole(on: StorageSubject) {
    on.open_group("a", 1).await;
    let before = on.counts("a").await;
    let mut write = on.write(vec![
        Change::PutJob { job: job(1, queued(Some("a")), 1), expected: Expected::Absent },
        Change::ReserveRunner { runner: runner("r", "a") },
        Change::ReserveRunner { runner: runner("s", "a") },
    ]);
    write.tasks.push(NewTask::now(reconcile("a")));
    let answer = on.store.apply(write).await;
    assert!(matches!(answer, Err(StoreError::AtMax { alive: 1, max: 1, .. })), "{answer:?}");
    assert!(on.store.job(JobId(1)).await.unwrap().is_none());
    assert!(on.store.runner(&runner_name("r")).await.unwrap().is_none());
    assert_eq!(on.counts("a").await, before);
    assert!(on.claim(&reconcile("a"), 1).await.is_empty());
}

pub(super) async fn tasks_come_with_their_write(on: StorageSubject) {
    let change = Change::PutGroup { record: group("a", 1), expected: Expected::Absent };
    let mut write = on.write(vec![change]);
    let due = on.in_units(5).await;
    write.tasks = vec![NewTask::now(reconcile("a")), NewTask::at(reconcile("b"), due)];
    on.store.apply(write).await.unwrap();
    let claims = on.claim(&reconcile("a"), 10).await;
    let mut claimed: Vec<_> = claims.into_iter().map(|claim| claim.task).collect();
    // On a machine that is busy, so much time may have passed by itself.
    if claimed.len() > 1 {
        assert!(on.now().await >= due, "{claimed:?}");
    } else {
        on.pass(5).await;
        claimed.push(on.claim_one(&reconcile("b")).await.task);
    }
    assert_eq!(claimed, [reconcile("a"), reconcile("b")]);
}

pub(super) async fn versions_are_compared(on: StorageSubject) {
    let put_group = |expected| Change::PutGroup { record: group("a", 5), expected };
    let put_job = |expected| Change::PutJob { job: job(1, queued(None), 1), expected };
    let put_runner = |expected| Change::PutRunner { runner: runner("r", "a"), expected };
    let none = Version(u64::MAX);
    assert!(is_conflict(&on.try_apply(put_group(Expected::Version(none))).await));
    assert!(is_conflict(&on.try_apply(put_job(Expected::Version(none))).await));
    assert!(is_conflict(&on.try_apply(put_runner(none)).await));
    let old_group = on.apply(put_group(Expected::Absent)).await;
    let old_job = on.apply(put_job(Expected::Absent)).await;
    let old_runner = on.apply(Change::ReserveRunner { runner: runner("r", "a") }).await;
    assert!(is_conflict(&on.try_apply(put_group(Expected::Absent)).await));
    assert!(is_conflict(&on.try_apply(put_job(Expected::Absent)).await));
    assert!(on.apply(put_group(Expected::Version(old_group))).await > old_group);
    assert!(on.apply(put_job(Expected::Version(old_job))).await > old_job);
    assert!(on.apply(put_runner(old_runner)).await > old_runner);
    assert!(is_conflict(&on.try_apply(put_group(Expected::Version(old_group))).await));
    assert!(is_conflict(&on.try_apply(put_job(Expected::Version(old_job))).await));
    assert!(is_conflict(&on.try_apply(put_runner(old_runner)).await));
    let end = Change::EndRunner { ended: ended(&runner("r", "a"), on.now().await), expected: old_runner };
    assert!(is_conflict(&on.try_apply(end).await));
    let remove = Change::RemoveGroup { name: group_name("a"), expected: old_group };
    assert!(is_conflict(&on.try_apply(remove).await));
}

pub(super) async fn versions_never_return(on: StorageSubject) {
    on.open_group("b", 5).await;
    let (mut groups, mut runners) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let version = on.open_group("a", 5).await;
        let removed = on.try_apply(Change::RemoveGroup { name: group_name("a"), expected: version }).await;
        assert_eq!(removed.unwrap().versions, [None]);
        groups.push(version);
        let version = on.apply(Change::ReserveRunner { runner: runner("r", "b") }).await;
        let end = Change::EndRunner { ended: ended(&runner("r", "b"), on.now().await), expected: version };
        assert_eq!(on.try_apply(end).await.unwrap().versions, [None]);
        runners.push(version);
    }
    assert!(groups.is_sorted_by(|one, two| one < two), "{groups:?}");
    assert!(runners.is_sorted_by(|one, two| one < two), "{runners:?}");
}

pub(super) async fn a_record_is_named_once(on: StorageSubject) {
    on.open_group("a", 5).await;
    let version = on.apply(Change::ReserveRunner { runner: runner("r", "a") }).await;
    let put = Change::PutRunner { runner: runner("r", "a"), expected: version };
    assert!(is_conflict(&on.store.apply(on.write(vec![put.clone(), put])).await));
    let reserve = Change::ReserveRunner { runner: runner("s", "a") };
    assert!(is_conflict(&on.store.apply(on.write(vec![reserve.clone(), reserve])).await));
    let moved = Change::PutRunner { runner: runner("r", "b"), expected: version };
    assert!(is_conflict(&on.try_apply(moved).await));
}

pub(super) async fn a_slot_is_reserved_once(on: StorageSubject) {
    on.open_group("a", 5).await;
    let reserve = || on.try_apply(Change::ReserveRunner { runner: runner("r", "a") });
    let answers = join_all((0..8).map(|_| reserve())).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(answers.iter().filter(|answer| is_conflict(answer)).count(), 7);
    assert!(is_conflict(&on.try_apply(Change::AdoptRunner { runner: runner("r", "a") }).await));
    assert_eq!(on.counts("a").await, GroupCounts { requested: 1, ..GroupCounts::default() });
}

pub(super) async fn max_is_never_exceeded(on: StorageSubject) {
    on.open_group("a", 5).await;
    on.open_group("b", 3).await;
    let reserve = |group: &'static str, at: usize| {
        on.try_apply(Change::ReserveRunner { runner: runner(&format!("{group}-{at}"), group) })
    };
    let all = (0..20).flat_map(|at| [reserve("a", at), reserve("b", at)]);
    let answers = join_all(all).await;
    let at_max = |answer: &&Result<_, _>| matches!(answer, Err(StoreError::AtMax { .. }));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 8);
    assert_eq!(answers.iter().filter(at_max).count(), 32);
    assert_eq!((on.counts("a").await.alive(), on.counts("b").await.alive()), (5, 3));
}

pub(super) async fn a_slot_is_freed_at_the_end(on: StorageSubject) {
    let version = on.open_group("a", 1).await;
    let mut kept = runner("r", "a");
    let mut last = on.apply(Change::ReserveRunner { runner: kept.clone() }).await;
    let other = || on.try_apply(Change::ReserveRunner { runner: runner("s", "a") });
    for state in [
        RunnerState::Booting,
        RunnerState::Idle { leaving: None },
        RunnerState::Busy { job: None },
        RunnerState::Retiring {
            why: crate::domain::RetireReason::Surplus,
            retire: crate::domain::RetireStep::Delete,
        },
    ] {
        kept.state = state;
        last = on.apply(Change::PutRunner { runner: kept.clone(), expected: last }).await;
        let answer = other().await;
        assert!(matches!(answer, Err(StoreError::AtMax { alive: 1, max: 1, .. })), "{answer:?}");
    }
    let end = Change::EndRunner { ended: ended(&kept, on.now().await), expected: last };
    on.try_apply(end).await.unwrap();
    assert!(on.store.runner(&kept.name).await.unwrap().is_none());
    other().await.unwrap();
    let mut wider = group("a", 1);
    wider.spec.bounds = Bounds::new(0, 2).unwrap();
    on.apply(Change::PutGroup { record: wider, expected: Expected::Version(version) }).await;
    on.apply(Change::ReserveRunner { runner: runner("t", "a") }).await;
}

pub(super) async fn a_draining_group_is_closed(on: StorageSubject) {
    let reserve = || on.try_apply(Change::ReserveRunner { runner: runner("r", "a") });
    assert!(matches!(reserve().await, Err(StoreError::Closed { .. })));
    let record = draining_group("a", 5);
    let version = on.apply(Change::PutGroup { record, expected: Expected::Absent }).await;
    assert!(matches!(reserve().await, Err(StoreError::Closed { .. })));
    let expected = Expected::Version(version);
    // A write that opens the group can reserve in it.
    let write = on.write(vec![
        Change::PutGroup { record: group("a", 5), expected },
        Change::ReserveRunner { runner: runner("r", "a") },
    ]);
    on.store.apply(write).await.unwrap();
    assert_eq!(on.counts("a").await.requested, 1);
}

pub(super) async fn a_group_in_use_stays(on: StorageSubject) {
    let expected = on.open_group("a", 5).await;
    let remove = || on.try_apply(Change::RemoveGroup { name: group_name("a"), expected });
    let version = on.apply(Change::ReserveRunner { runner: runner("r", "a") }).await;
    assert!(is_conflict(&remove().await));
    let end = Change::EndRunner { ended: ended(&runner("r", "a"), on.now().await), expected: version };
    on.try_apply(end).await.unwrap();
    let put = |state, expected| Change::PutJob { job: job(1, state, 1), expected };
    let version = on.apply(put(queued(Some("a")), Expected::Absent)).await;
    assert!(is_conflict(&remove().await));
    on.apply(put(queued(None), Expected::Version(version))).await;
    remove().await.unwrap();
    assert!(on.store.group(&group_name("a")).await.unwrap().is_none());
}

pub(super) async fn adoption_is_not_bounded(on: StorageSubject) {
    on.open_group("a", 1).await;
    on.apply(Change::ReserveRunner { runner: runner("r", "a") }).await;
    let mut adopted = runner("s", "a");
    adopted.state = RunnerState::Busy { job: None };
    on.apply(Change::AdoptRunner { runner: adopted }).await;
    assert_eq!(on.counts("a").await, GroupCounts { requested: 1, busy: 1, ..GroupCounts::default() });
    let answer = on.try_apply(Change::ReserveRunner { runner: runner("t", "a") }).await;
    assert!(matches!(answer, Err(StoreError::AtMax { alive: 2, max: 1, .. })), "{answer:?}");
}

pub(super) async fn a_lost_claim_is_refused(on: StorageSubject) {
    let task = reconcile("a");
    on.push(NewTask::now(task.clone())).await;
    let lane = task.lane();
    let first = on.queue.claim(&lane, 1, usize::MAX, on.unit * 2, Duration::ZERO).await.unwrap().remove(0);
    let under = |claim: &crate::queue::Claim, number: u64| {
        let change = Change::PutJob { job: job(number, queued(None), 1), expected: Expected::Absent };
        Write { claim: Some(claim.token.clone()), ..on.write(vec![change]) }
    };
    let held = under(&first, 1);
    on.store.apply(held.clone()).await.unwrap();
    on.pass(2).await;
    let lost = |answer| matches!(answer, Err(StoreError::LostClaim));
    assert!(lost(on.store.apply(under(&first, 2)).await), "the lease is over, though nobody took it");
    let second = on.claim_one(&task).await;
    assert!(lost(on.store.apply(under(&first, 2)).await), "another holds it");
    on.store.apply(under(&second, 3)).await.unwrap();
    on.queue.ack(&second.token).await.unwrap();
    assert!(lost(on.store.apply(under(&second, 2)).await), "it is done");
    assert!(on.store.job(JobId(2)).await.unwrap().is_none());
    assert!(on.store.apply(held).await.unwrap().repeated, "what was done under it stays answered");
}

pub(super) async fn a_write_ends_its_claim(on: StorageSubject) {
    let task = reconcile("a");
    on.push(NewTask::now(task.clone())).await;
    let claim = on.claim_one(&task).await;
    let last = |version: Expected| {
        let change = Change::PutJob { job: job(1, queued(None), 1), expected: version };
        Write { claim: Some(claim.token.clone()), ends_claim: true, ..on.write(vec![change]) }
    };
    let refused = on.store.apply(last(Expected::Version(Version(1)))).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    on.queue.extend(&claim.token, on.unit * 10).await.unwrap();
    let mut made = last(Expected::Absent);
    made.tasks = vec![NewTask::now(task.clone())];
    let first = on.store.apply(made.clone()).await.unwrap();
    let ended = on.queue.ack(&claim.token).await;
    assert!(matches!(ended, Err(StoreError::LostClaim)), "{ended:?}");
    let again = on.claim_one(&task).await;
    assert_eq!(again.attempt, 1, "what it queued is another task");
    let repeat = on.store.apply(made).await.unwrap();
    assert_eq!((repeat.repeated, repeat.versions), (true, first.versions));
    let only_ends = Write { claim: Some(again.token.clone()), ends_claim: true, ..on.write(Vec::new()) };
    on.store.apply(only_ends).await.unwrap();
    assert!(on.claim(&task, 1).await.is_empty(), "nothing is left of it");
    assert!(on.queue.statistics().await.unwrap().lanes.is_empty());
}

pub(super) async fn a_repeat_gets_the_first_answer(on: StorageSubject) {
    let change = Change::PutGroup { record: group("a", 1), expected: Expected::Absent };
    let mut write = on.write(vec![change]);
    write.tasks.push(NewTask::now(reconcile("a")));
    let first = on.store.apply(write.clone()).await.unwrap();
    assert!(!first.repeated);
    let claim = on.claim_one(&reconcile("a")).await;
    on.queue.ack(&claim.token).await.unwrap();
    let again = on.store.apply(write.clone()).await.unwrap();
    assert_eq!((&again.versions, again.repeated), (&first.versions, true));
    assert!(on.claim(&reconcile("a"), 1).await.is_empty());
    let record = on.store.group(&group_name("a")).await.unwrap().unwrap().record;
    assert_eq!(Some(record.version), first.versions[0]);
    let change = Change::PutJob { job: job(1, queued(None), 1), expected: Expected::Version(Version(1)) };
    let mut refused = on.write(vec![change]);
    assert!(is_conflict(&on.store.apply(refused.clone()).await));
    refused.changes = vec![Change::PutJob { job: job(1, queued(None), 1), expected: Expected::Absent }];
    assert!(!on.store.apply(refused.clone()).await.unwrap().repeated);
    let answers = join_all((0..5).map(|_| on.store.apply(refused.clone()))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().repeated));
}
