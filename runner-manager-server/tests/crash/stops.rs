//! The orderly end, and a second manager on the same store.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::output;
use crate::world::World;

/// A stop waits up to 20 s for what is under way.
const BOUND: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_mid_work_ends_it_in_order_and_the_next_carries_on() {
    let mut world = World::start(10, "").await;
    world.cloud_behaves(json!({"create_latency": "1s", "call_latency": "100ms"})).await;
    world.queue(25, 1).await;
    world
        .wait("some are asked for, and some have jobs", |seen| {
            seen.in_state("busy") + seen.in_state("retiring") > 0
                && seen.said("the backend is being asked") > 0
        })
        .await;
    let asked = Instant::now();
    world.stop();
    let seconds = asked.elapsed();
    assert!(seconds < BOUND, "{seconds:?}");
    eprintln!("sigterm: ended after {:.1} s", seconds.as_secs_f64());
    world.restart();
    assert_eq!(world.finish(25).await.cloud.total.created, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_manager_on_the_same_store_is_refused_and_does_no_harm() {
    let mut world = World::start(3, "").await;
    world.queue(6, 1).await;
    world.wait("it works", |seen| seen.in_state("busy") > 0).await;
    let config = world.folder.path().join("config.yaml");
    let second = output(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stdout.is_empty(), "it did not listen");
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(told.contains("store.redb") && told.contains("in use"), "{told}");
    let log = world.manager().log();
    assert!(!log.contains("\"ERROR\""), "{log}");
    assert_eq!(world.finish(6).await.cloud.total.created, 6);
}
