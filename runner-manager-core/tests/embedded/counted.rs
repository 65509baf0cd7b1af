//! What operations cost, counted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use futures_util::poll;
use jiff::Timestamp;
use runner_manager_core::clock::{SimulatedClock, SystemClock};
use runner_manager_core::embedded::{EmbeddedStorage, StorageStatistics};
use runner_manager_core::queue::{Claim, Lane, NewTask, TaskQueue};
use runner_manager_core::store::{Change, Store, StoreError};

use crate::records::{group_name, put_group, put_job, reconcile, runner, write};

const LEASE: Duration = Duration::from_mins(1);

/// What happened since `before`.
fn since(storage: &EmbeddedStorage, before: StorageStatistics) -> StorageStatistics {
    let now = storage.storage_statistics();
    StorageStatistics {
        operations: now.operations - before.operations,
        commits: now.commits - before.commits,
        entries: now.entries - before.entries,
    }
}

#[tokio::test]
async fn writes_that_come_together_share_commits() {
    let directory = tempfile::tempdir().unwrap();
    let storage = EmbeddedStorage::open(directory.path().join("storage"), Arc::new(SystemClock)).unwrap();
    let before = storage.storage_statistics();
    storage.apply(write("alone", vec![put_group("a", 5)])).await.unwrap();
    assert_eq!(since(&storage, before).commits, 1);
    let before = storage.storage_statistics();
    assert!(matches!(
        storage.apply(write("refused", vec![put_group("a", 5)])).await,
        Err(StoreError::Conflict { .. })
    ));
    assert_eq!(since(&storage, before).commits, 0, "what changes nothing needs no commit");
    let before = storage.storage_statistics();
    let all = (0..400).map(|id| storage.apply(write(&format!("together-{id}"), vec![put_job(id)])));
    let answers = join_all(all.collect::<Vec<_>>()).await;
    assert!(answers.iter().all(Result::is_ok));
    let done = since(&storage, before);
    assert_eq!(done.operations, 400);
    assert!(done.commits <= 100, "{} commits", done.commits);
}

/// What a look at a group, a reservation, a claim and its end touch, with so many runners beside.
async fn cost_beside(runners: u32) -> [u64; 4] {
    let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let storage = EmbeddedStorage::in_memory(clock);
    storage.apply(write("group", vec![put_group("a", 100_000)])).await.unwrap();
    for at in 0..runners {
        let reserve = Change::ReserveRunner { runner: runner(&format!("r{at}"), "a") };
        let mut write = write(&format!("reserve-{at}"), vec![reserve]);
        write.tasks = vec![reconcile(&format!("g{at}"))];
        storage.apply(write).await.unwrap();
    }
    let mut costs = [0; 4];
    let before = storage.storage_statistics();
    assert_eq!(storage.group(&group_name("a")).await.unwrap().unwrap().counts.requested, runners);
    costs[0] = since(&storage, before).entries;
    let before = storage.storage_statistics();
    let reserve = Change::ReserveRunner { runner: runner("another", "a") };
    storage.apply(write("another", vec![reserve])).await.unwrap();
    costs[1] = since(&storage, before).entries;
    let before = storage.storage_statistics();
    let claims = storage.claim(&Lane::control(), 1, usize::MAX, LEASE, Duration::ZERO).await.unwrap();
    costs[2] = since(&storage, before).entries;
    let before = storage.storage_statistics();
    storage.ack(&claims[0].token).await.unwrap();
    costs[3] = since(&storage, before).entries;
    costs
}

#[tokio::test]
async fn cost_does_not_grow_with_the_number_of_runners() {
    let few = cost_beside(10).await;
    assert_eq!(few, cost_beside(10_000).await);
    let most = [2, 21, 16, 3];
    assert!(few.iter().zip(most).all(|(cost, most)| (1..=most).contains(cost)), "{few:?}");
}

/// What a claim and its end touch on a lane of which so many may be held, and all but one are.
async fn cost_of_the_last_place(bound: usize, tasks: u32) -> [u64; 2] {
    let storage = EmbeddedStorage::in_memory(Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH)));
    storage.push((0..tasks).map(|at| reconcile(&format!("g{at}"))).collect()).await.unwrap();
    let claim =
        async |most| storage.claim(&Lane::control(), most, bound, LEASE, Duration::ZERO).await.unwrap();
    assert_eq!(claim(bound - 1).await.len(), bound - 1);
    let before = storage.storage_statistics();
    let claims = claim(9).await;
    let claimed = since(&storage, before).entries;
    assert_eq!(claims.len(), 1);
    let before = storage.storage_statistics();
    storage.ack(&claims[0].token).await.unwrap();
    [claimed, since(&storage, before).entries]
}

#[tokio::test]
async fn a_bound_costs_as_much_as_may_be_held() {
    let few = cost_of_the_last_place(4, 10).await;
    assert_eq!(few, cost_of_the_last_place(4, 10_000).await);
    let many = cost_of_the_last_place(40, 100).await;
    assert!(many[0] <= few[0] + 36, "{many:?} beside {few:?}");
    assert_eq!(many[1], few[1], "an end costs the same on any lane");
}

#[tokio::test]
async fn one_task_wakes_one_of_those_who_wait() {
    let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let storage = EmbeddedStorage::in_memory(clock.clone());
    let (lane, hour) = (Lane::control(), Duration::from_hours(1));
    let waiting = join_all((0..50).map(|_| storage.claim(&lane, 1, usize::MAX, hour * 2, hour)));
    let before = storage.storage_statistics();
    let passing = async {
        assert_eq!(since(&storage, before).operations, 50, "each has looked once");
        storage.push(vec![reconcile("now")]).await.unwrap();
        let due = Timestamp::from_second(600).unwrap();
        storage.push(vec![NewTask { not_before: Some(due), ..reconcile("delayed") }]).await.unwrap();
        for _ in 0..59 {
            clock.advance(Duration::from_mins(1));
            tokio::task::yield_now().await;
        }
        let looks = since(&storage, before).operations - 52;
        assert!((2..=4).contains(&looks), "{looks} further looks for two tasks");
        clock.advance(hour);
    };
    let (claims, ()) = join(waiting, passing).await;
    let claims: Vec<Claim> = claims.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(claims.len(), 2);
}

#[tokio::test]
async fn one_end_wakes_one_of_those_who_wait_for_room() {
    let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let storage = EmbeddedStorage::in_memory(clock.clone());
    let (lane, hour) = (Lane::control(), Duration::from_hours(1));
    storage.push((0..90).map(|at| reconcile(&format!("g{at}"))).collect()).await.unwrap();
    let held = storage.claim(&lane, 9, 2, hour * 2, Duration::ZERO).await.unwrap();
    assert_eq!(held.len(), 2);
    let waiting = join_all((0..50).map(|_| storage.claim(&lane, 1, 2, hour * 2, hour)));
    let ending = async {
        for claim in &held {
            let before = storage.storage_statistics();
            storage.ack(&claim.token).await.unwrap();
            tokio::task::yield_now().await;
            let looks = since(&storage, before).operations - 1;
            assert_eq!(looks, 1, "an end makes room for one");
        }
        storage.push(vec![reconcile("more")]).await.unwrap();
        tokio::task::yield_now().await;
        clock.advance(hour);
    };
    let (claims, ()) = join(waiting, ending).await;
    let claims: Vec<Claim> = claims.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(claims.len(), 2, "no more than the bound");
}

#[tokio::test]
async fn who_was_woken_and_leaves_wakes_another() {
    let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let storage = EmbeddedStorage::in_memory(clock.clone());
    let (lane, hour) = (Lane::control(), Duration::from_hours(1));
    let wait = || Box::pin(storage.claim(&lane, 1, usize::MAX, hour, hour));
    let (mut leaves, mut stays) = (wait(), wait());
    assert!(poll!(&mut leaves).is_pending() && poll!(&mut stays).is_pending());
    storage.push(vec![reconcile("now")]).await.unwrap();
    drop(leaves);
    assert_eq!(stays.await.unwrap().len(), 1);
    let (mut keeps_time, mut stays) = (wait(), wait());
    assert!(poll!(&mut keeps_time).is_pending() && poll!(&mut stays).is_pending());
    let due = Timestamp::from_second(60).unwrap();
    storage.push(vec![NewTask { not_before: Some(due), ..reconcile("delayed") }]).await.unwrap();
    assert!(poll!(&mut keeps_time).is_pending() && poll!(&mut stays).is_pending());
    drop(keeps_time);
    assert!(poll!(&mut stays).is_pending());
    clock.advance(Duration::from_mins(1));
    assert_eq!(stays.await.unwrap().len(), 1);
}
