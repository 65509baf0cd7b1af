//! Cases of how many tasks of a lane are held at a time.

use std::time::Duration;

use futures_util::future::{join, join_all};

use super::super::storage::{StorageSubject, reconcile, scope};
use crate::queue::{Claim, Lane, NewTask, Task};

/// Claims at most so many while less than `bound` are held, waiting up to `units` for that.
async fn claim(on: &StorageSubject, most: usize, bound: usize, units: u32) -> Vec<Claim> {
    on.queue.claim(&Lane::control(), most, bound, on.unit * 50, on.unit * units).await.unwrap()
}

async fn held(on: &StorageSubject) -> u64 {
    let statistics = on.queue.statistics().await.unwrap();
    statistics.lanes.iter().find(|lane| lane.lane == Lane::control()).map_or(0, |lane| lane.claimed)
}

pub(super) async fn a_lane_is_held_within_its_bound(on: StorageSubject) {
    let tasks = (0..30).map(|at| NewTask::now(reconcile(&format!("g{at}"))));
    on.queue.push(tasks.collect()).await.unwrap();
    on.push(NewTask::now(Task::SweepScope { scope: scope("acme") })).await;
    let mut claims = claim(&on, 9, 2, 0).await;
    assert_eq!(claims.len(), 2, "no more than the bound at once");
    assert!(claim(&on, 9, 2, 0).await.is_empty(), "whoever holds them");
    assert!(claim(&on, 9, 1, 0).await.is_empty(), "more are held than that");
    assert!(claim(&on, 9, 0, 0).await.is_empty());
    let more = join_all((0..20).map(|_| claim(&on, 1, 7, 0))).await;
    claims.extend(more.into_iter().flatten());
    assert_eq!((claims.len(), held(&on).await), (7, 7), "exactly as many as there is room for");
    let sweeps = on.queue.claim(&Lane::sweeps(), 9, 1, on.unit * 50, Duration::ZERO).await.unwrap();
    assert_eq!(sweeps.len(), 1, "another lane has a bound of its own");
    an_end_wakes(&on, claims).await;
    a_lease_that_runs_out_makes_room(&on).await;
    each_end_makes_room_for_one(&on).await;
}

/// However a hold ends, one who waits for that gets a task, and one task only.
async fn an_end_wakes(on: &StorageSubject, mut claims: Vec<Claim>) {
    let bound = claims.len();
    for way in 0..4 {
        let token = claims.remove(0).token;
        let end = async {
            match way {
                0 => on.queue.ack(&token).await,
                1 => on.queue.release(&token).await,
                2 => on.queue.retry(&token, on.in_units(50).await, "not yet").await,
                _ => on.queue.bury(&token, "it is broken").await,
            }
        };
        let (claimed, ended) = join(claim(on, 9, bound, 20), end).await;
        ended.unwrap();
        assert_eq!(claimed.len(), 1, "after end {way}");
        claims.extend(claimed);
        assert!(claim(on, 9, bound, 0).await.is_empty());
    }
    for claim in claims {
        on.queue.ack(&claim.token).await.unwrap();
    }
    assert_eq!(held(on).await, 0);
}

async fn a_lease_that_runs_out_makes_room(on: &StorageSubject) {
    let lost = on.queue.claim(&Lane::control(), 1, 1, on.unit * 3, Duration::ZERO).await.unwrap();
    assert!(claim(on, 1, 1, 0).await.is_empty());
    let (claimed, ()) = join(claim(on, 1, 1, 20), on.pass(3)).await;
    assert_eq!((lost.len(), claimed.len()), (1, 1));
    assert!(on.queue.ack(&lost[0].token).await.is_err(), "its lease is over");
    on.queue.ack(&claimed[0].token).await.unwrap();
}

/// Of many who wait for room, each gets it in turn.
async fn each_end_makes_room_for_one(on: &StorageSubject) {
    let first = claim(on, 9, 2, 0).await;
    assert_eq!(first.len(), 2);
    let work = async || {
        let claims = claim(on, 1, 2, 20).await;
        assert_eq!(claims.len(), 1, "there is a task for everybody");
        assert!(held(on).await <= 2);
        on.queue.ack(&claims[0].token).await.unwrap();
    };
    let end = async {
        for claim in first {
            on.queue.ack(&claim.token).await.unwrap();
        }
    };
    join(join_all((0..8).map(|_| work())), end).await;
    assert_eq!(held(on).await, 0);
}
