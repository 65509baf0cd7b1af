//! `kill -9` while idle runners that no job needs are taken away: before and after the first of two readings at
//! GitHub, and in the grace. The waits between them are promises and have no setting, so this takes three minutes.

use std::time::Duration;

use crate::world::{Seen, World};

const IDLE: usize = 2;
/// The age of a registration at the first reading, and the time between the two.
const READINGS: Duration = Duration::from_mins(2 + 1);
const GRACE: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn idle_runners_go_in_order_over_kills_at_each_step() {
    let mut world = World::start(5, "min_idle: 2, idle_timeout: 0s, removal_grace: 5s,").await;
    world.wait("there are some", |seen| seen.in_state("booting") + seen.in_state("idle") == IDLE).await;
    world.wait_online(IDLE).await;
    // The sweep at the start sees that they are online; nobody needs them any more then.
    world.kill();
    world.configure("idle_timeout: 0s, removal_grace: 5s,");
    world.restart();
    world.wait("they are to go", |seen| seen.said("to go: no job needs it") == IDLE).await;
    world.kill();
    world.restart();
    let reading = "GET /orgs/{org}/actions/runners/{id}";
    let has_read = |seen: &Seen| seen.github.requests.contains_key(reading);
    world.wait_within(LONG, "the first reading", has_read).await;
    world.kill();
    world.restart();
    let grace = "kept a moment for a job assigned at the last one";
    let seen = world.wait_within(LONG, "they are in the grace", |seen| seen.said(grace) == IDLE).await;
    assert_eq!((seen.github.runners.alive, seen.cloud.total.alive), (0, IDLE as u64));
    world.kill();
    world.restart();
    let seen = world.finish(0).await;
    assert_eq!(seen.cloud.total.created, IDLE as u64);
    for life in &seen.cloud.lives {
        let lasted = life.deleted_at.unwrap().duration_since(life.ran_at.unwrap());
        assert!(lasted >= (READINGS + GRACE).try_into().unwrap(), "{lasted} are too short: {life:?}");
    }
}
