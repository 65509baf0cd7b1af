//! Cases of what the store says of its own word: its lives, and what was lost with one.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::storage::{StorageSubject, ended, group, job, queued, reconcile, runner, runner_name};
use super::writes::is_conflict;
use crate::domain::{
    BackendName, Deployment, Digest, Doubt, Finding, GoOn, Incarnation, InstanceId, JobId, Replica,
    ReplicaId, RunnerName, Source, Withheld, WithheldBecause,
};
use crate::queue::{ClaimToken, NewTask};
use crate::store::{Change, Expected, StoreError, Version};

fn is_untrusted<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Untrusted))
}

fn trust(incarnation: &Incarnation) -> Change {
    Change::Trust { incarnation: incarnation.clone() }
}

fn withheld(now: Timestamp) -> Withheld {
    let runner = RunnerName::new("acme-linux-1").expect("the name is right");
    Withheld {
        source: Source::Instances(BackendName::new("cloud").expect("the name is right")),
        because: WithheldBecause::TooMuch,
        since: now,
        count: 2,
        looked_at: 7,
        findings: [Finding::Missing(runner.clone()), Finding::Orphan(runner, InstanceId::new("i-1"))].into(),
    }
}

/// A deployment's record with something in each of its parts.
async fn deployment(on: &StorageSubject) -> Deployment {
    let now = on.now().await;
    let replica = Replica {
        configuration: Digest::new("two"),
        backends: std::collections::BTreeSet::new(),
        seen_at: now,
    };
    Deployment {
        configuration: Some(Digest::new("two")),
        revision: 2,
        superseded: vec![Digest::new("one")],
        replicas: BTreeMap::from([(ReplicaId::new("replica"), replica)]),
        doubt: Some(Doubt {
            incarnation: Incarnation::new("a life"),
            since: now,
            taken_in: [Source::Runners(super::super::storage::scope("acme"))].into(),
        }),
        withheld: vec![withheld(now)],
        go_ons: vec![GoOn {
            source: withheld(now).source,
            by: "ops".to_owned(),
            at: now,
            count: 2,
            left: withheld(now).findings,
        }],
    }
}

pub(super) async fn trust_is_said_of_a_life(on: StorageSubject) {
    let view = on.deployment().await;
    assert!(view.trusted && view.record.is_none(), "{view:?}");
    assert_eq!(
        on.try_apply(trust(&view.incarnation)).await.unwrap().versions,
        [None],
        "it may be said again"
    );
    let other = trust(&Incarnation::new("another life"));
    assert!(is_conflict(&on.try_apply(other.clone()).await));
    let with_it = Change::PutJob { job: job(1, queued(None), 1), expected: Expected::Absent };
    assert!(is_conflict(&on.store.apply(on.write(vec![with_it, other])).await));
    assert!(on.store.job(JobId(1)).await.unwrap().is_none());
    assert_eq!(on.deployment().await, view, "what is refused changes nothing");

    let put = |record: &Deployment, expected| Change::PutDeployment { record: record.clone(), expected };
    let (first, second) = (deployment(&on).await, Deployment::new());
    assert!(is_conflict(&on.try_apply(put(&first, Expected::Version(Version(u64::MAX)))).await));
    let old = on.apply(put(&first, Expected::Absent)).await;
    let record = on.deployment().await.record.unwrap();
    assert_eq!((record.value, record.version), (first.clone(), old));
    assert!(is_conflict(&on.try_apply(put(&second, Expected::Absent)).await));
    let new = on.apply(put(&second, Expected::Version(old))).await;
    assert!(new > old);
    assert!(is_conflict(&on.try_apply(put(&first, Expected::Version(old))).await));
    let twice = vec![put(&first, Expected::Version(new)), put(&first, Expected::Version(new))];
    assert!(is_conflict(&on.store.apply(on.write(twice)).await), "a record is named once");
    let view = on.deployment().await;
    let record = view.record.unwrap();
    assert_eq!((record.value, record.version, view.trusted), (second, new, true));
}

pub(super) async fn the_untrusted_is_not_relied_on(on: StorageSubject) {
    let mut relied =
        on.write(vec![Change::PutJob { job: job(1, queued(None), 1), expected: Expected::Absent }]);
    relied.on_trust = true;
    on.store.apply(relied).await.unwrap();
    let before = on.deployment().await.incarnation;
    on.loss.begin_another_life().await;
    assert!(on.store.job(JobId(1)).await.unwrap().is_some(), "nothing was lost with that life");
    let after = nothing_is_relied_on(&on, &before, "a").await;
    on.loss.lose_everything().await;
    assert!(on.store.job(JobId(1)).await.unwrap().is_none(), "everything was lost");
    nothing_is_relied_on(&on, &after, "b").await;
}

/// Checks that the store's present life is another one than it was, and trusted only once that was said.
async fn nothing_is_relied_on(on: &StorageSubject, before: &Incarnation, group: &str) -> Incarnation {
    let view = on.deployment().await;
    assert!(!view.trusted && view.incarnation != *before, "{view:?}");
    let (reserved, adopted) = (format!("reserved-{group}"), format!("adopted-{group}"));
    on.open_group(group, 5).await;
    let adopt = Change::AdoptRunner { runner: runner(&adopted, group) };
    let expected = on.apply(adopt).await;
    let expected = on.apply(Change::PutRunner { runner: runner(&adopted, group), expected }).await;
    on.apply(Change::PutJob { job: job(2, queued(Some(group)), 1), expected: Expected::Absent }).await;

    let reserve = on.write(vec![Change::ReserveRunner { runner: runner(&reserved, group) }]);
    let now = on.now().await;
    let mut end = on.write(vec![Change::EndRunner { ended: ended(&runner(&adopted, group), now), expected }]);
    end.on_trust = true;
    let mut task = on.write(Vec::new());
    (task.on_trust, task.tasks) = (true, vec![NewTask::now(reconcile(group))]);
    let refused = [reserve, end, task];
    for stale in [before.clone(), Incarnation::new("another life")] {
        for write in &refused {
            let answer = on.store.apply(write.clone()).await;
            assert!(is_untrusted(&answer), "{answer:?} of {write:?}");
        }
        assert!(is_conflict(&on.try_apply(trust(&stale)).await), "{stale} is not the present life");
    }
    assert!(on.store.runner(&runner_name(&reserved)).await.unwrap().is_none());
    assert!(on.store.runner(&runner_name(&adopted)).await.unwrap().is_some());
    assert!(on.claim(&reconcile(group), 9).await.is_empty());
    assert_eq!(on.deployment().await, view, "nothing else makes it trusted");

    assert_eq!(on.trust().await, view.incarnation);
    assert!(on.deployment().await.trusted);
    for write in refused {
        assert!(!on.store.apply(write).await.unwrap().repeated, "a refused write is not remembered");
    }
    assert_eq!(on.counts(group).await.alive(), 1);
    let claim = on.claim_one(&reconcile(group)).await;
    on.queue.ack(&claim.token).await.unwrap();
    let Some(job) = on.store.job(JobId(2)).await.unwrap() else { panic!("the job was written") };
    let moved = Change::PutJob {
        job: super::super::storage::job(2, queued(None), 1),
        expected: Expected::Version(job.version),
    };
    on.apply(moved).await;
    view.incarnation
}

/// All kinds of numbers that the store gives, many in one write: the versions, and the token of a claim.
async fn numbers(on: &StorageSubject, round: u64) -> (Vec<Version>, ClaimToken) {
    let mut changes = vec![
        Change::PutGroup { record: group("a", 5), expected: Expected::Absent },
        Change::AdoptRunner { runner: runner("r", "a") },
        Change::PutDeployment { record: Deployment::new(), expected: Expected::Absent },
    ];
    let jobs = (0..40).map(|id| job(id, queued(None), round));
    changes.extend(jobs.map(|job| Change::PutJob { job, expected: Expected::Absent }));
    let mut write = on.write(changes);
    write.tasks = vec![NewTask::now(reconcile("a"))];
    let versions = on.store.apply(write).await.unwrap().versions;
    let claim = on.claim_one(&reconcile("a")).await;
    (versions.into_iter().map(|version| version.expect("the record exists")).collect(), claim.token)
}

pub(super) async fn numbers_outlive_a_loss(on: StorageSubject) {
    let (mut versions, mut token) = numbers(&on, 0).await;
    for round in 1..4 {
        on.loss.lose_everything().await;
        on.trust().await;
        let (new_versions, new_token) = numbers(&on, round).await;
        let greatest = versions.iter().max().expect("there are versions");
        assert!(new_versions.iter().all(|new| new > greatest), "{new_versions:?} after {greatest:?}");
        assert!(new_token.number > token.number, "{new_token:?} after {token:?}");

        let stale = Change::PutJob { job: job(1, queued(None), 9), expected: Expected::Version(versions[4]) };
        assert!(is_conflict(&on.try_apply(stale).await));
        let mut late = on.write(Vec::new());
        late.claim = Some(token.clone());
        assert!(matches!(on.store.apply(late).await, Err(StoreError::LostClaim)));
        assert!(matches!(on.queue.ack(&token).await, Err(StoreError::LostClaim)));
        (versions, token) = (new_versions, new_token);
    }
}
