//! Many jobs at once, and `kill -9` where it falls.

use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_webhooks_are_accepted_and_the_manager_is_killed_at_once() {
    let mut world = World::start(300, "").await;
    let mut accepted = world.door.accepted();
    world.queue(200, 1).await;
    accepted.wait_for(|accepted| accepted.queued == 200).await.unwrap();
    world.kill();
    let seen = world.look().await;
    assert!(seen.cloud.total.created < 200, "it had not finished: {:?}", seen.cloud.total);
    world.restart();
    let seen = world.finish(200).await;
    assert_eq!(seen.cloud.total.created, 200);
    assert_eq!(seen.github.webhooks.refused, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_killed_again_and_again() {
    const SEED: u64 = 0x5eed;
    const KILLS: u64 = 10;
    const FIRST_JOBS: u64 = 30;
    const JOBS_EACH: u64 = 12;
    let mut random = SEED;
    let mut world = World::start(40, "").await;
    world
        .cloud_behaves(json!({
            "create_latency": "100ms", "call_latency": "20ms", "boot_time": "100ms", "boot_jitter": "500ms",
            "delete_time": "300ms",
        }))
        .await;
    world.queue(FIRST_JOBS, 1).await;
    for _ in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let progress = world.look().await.progress() + 5 + (random >> 33) % 60;
        let seen = world.wait("it goes on", |seen| seen.progress() >= progress).await;
        assert!(seen.github.jobs.completed < seen.github.jobs.total, "there is work to be killed in");
        world.kill();
        world.queue(JOBS_EACH, 1).await;
        world.restart();
    }
    world.finish(FIRST_JOBS + KILLS * JOBS_EACH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_webhooks_at_once_make_no_more_than_ten_runners() {
    let world = World::start(10, "").await;
    world.cloud_behaves(json!({"boot_time": "200ms", "delete_time": "300ms"})).await;
    // GitHub sends up to 64 at a time.
    world.queue(50, 0).await;
    let seen = world.finish(50).await;
    assert_eq!((seen.cloud.total.created, seen.cloud.total.max_alive), (50, 10));
}
