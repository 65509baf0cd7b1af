//! `kill -9` at each moment of a runner's life in turn, with more jobs than the group may have runners.

use runner_manager_backends::fake::Operation;
use runner_manager_core::testing::simulator::Removal;
use serde_json::json;

use crate::world::World;

/// How many runners there may be, and are at the moment of the kill.
const MAX: usize = 5;
const JOBS: u64 = 8;

async fn start() -> World {
    World::start(MAX as u64, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn github_holds_its_reply_with_the_jit_config_and_then_to_the_removal() {
    let mut world = start().await;
    world.github_holds(Some(("POST", "/orgs/*/actions/runners/generate-jitconfig")), 8).await;
    world.queue(JOBS, 1).await;
    let registering = "being registered at GitHub";
    world
        .wait("all are being registered", |seen| {
            seen.said(registering) == MAX && seen.github.runners.registered == MAX as u64
        })
        .await;
    world.kill();
    world.github_holds(Some(("DELETE", "/orgs/*/actions/runners/*")), 8).await;
    world.restart();
    // Their secrets are lost: they go, and others come.
    world
        .wait("their registrations are being removed", |seen| {
            seen.github.runners.removed.contains_key(&Removal::Deleted)
        })
        .await;
    world.kill();
    world.github_holds(None, 0).await;
    world.restart();
    let seen = world.finish(JOBS).await;
    assert_eq!(seen.cloud.total.created, JOBS);
    // The second kill may come while those who took their places are being registered.
    let (lost, most) = (seen.github.runners.registered - JOBS, 2 * MAX as u64);
    assert!((MAX as u64..=most).contains(&lost), "{lost} secrets were lost");
    assert_eq!(seen.github.runners.removed.get(&Removal::Deleted), Some(&lost));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_holds_its_reply_to_create() {
    let mut world = start().await;
    world.cloud_behaves(json!({"create_latency": "8s", "boot_time": "4s"})).await;
    world.queue(JOBS, 1).await;
    world
        .wait("all are asked for", |seen| {
            seen.said("the backend is being asked") == MAX
                && seen.cloud.calls(Operation::Create) == MAX as u64
        })
        .await;
    world.kill();
    world.cloud_behaves(json!({})).await;
    world.restart();
    assert_eq!(world.finish(JOBS).await.cloud.total.created, JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_never_answers_to_create() {
    let mut world = start().await;
    world.cloud_behaves(json!({"boot_time": "4s"})).await;
    world.cloud_fails("create", &json!({"no_answer": "8s"}), MAX).await;
    world.queue(JOBS, 1).await;
    world.wait("all are asked for", |seen| seen.fault("create: no_answer") == MAX as u64).await;
    world.kill();
    world.cloud_behaves(json!({})).await;
    world.restart();
    assert_eq!(world.finish(JOBS).await.cloud.total.created, JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_to_create_is_lost_and_the_instance_comes_late() {
    let mut world = start().await;
    world.cloud_fails("create", &json!({"late": "3s"}), MAX).await;
    world.queue(JOBS, 1).await;
    let looked_for = "its instance is being looked for";
    world.wait("one is looked for", |seen| seen.said(looked_for) > 0 && seen.cloud.total.created == 0).await;
    world.kill();
    world.restart();
    let seen = world.finish(JOBS).await;
    assert_eq!((seen.cloud.total.created, seen.fault("create: late")), (JOBS, MAX as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_to_create_is_lost_on_its_way() {
    let mut world = start().await;
    world.cloud_fails("create", &json!({"error": {"kind": "Unclear"}}), MAX).await;
    world.queue(JOBS, 1).await;
    let looked_for = "its instance is being looked for";
    world.wait("all are looked for", |seen| seen.said(looked_for) == MAX).await;
    world.kill();
    world.restart();
    // They are surely absent after the settle time, and others come.
    let seen = world.finish(JOBS).await;
    assert_eq!(seen.cloud.total.created, JOBS);
    assert_eq!(seen.cloud.calls(Operation::Create), JOBS + MAX as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instances_boot() {
    let mut world = start().await;
    world.cloud_behaves(json!({"boot_time": "4s"})).await;
    world.queue(JOBS, 1).await;
    world.wait("all boot", |seen| seen.in_state("booting") == MAX && seen.begun() == 0).await;
    world.kill();
    world.cloud_behaves(json!({})).await;
    world.restart();
    assert_eq!(world.finish(JOBS).await.cloud.total.created, JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runners_are_idle() {
    let mut world = World::start(MAX as u64, "min_idle: 5,").await;
    world.wait("there are all", |seen| seen.in_state("booting") + seen.in_state("idle") == MAX).await;
    world.wait_online(MAX).await;
    // The sweep at the start sees that they are online.
    world.kill();
    world.restart();
    world.wait("all are idle", |seen| seen.in_state("idle") == MAX).await;
    world.kill();
    // None of them is to be replaced.
    world.configure("");
    world.restart();
    world.queue(MAX as u64, 1).await;
    assert_eq!(world.finish(MAX as u64).await.cloud.total.created, MAX as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runners_are_busy() {
    let mut world = start().await;
    world.queue(JOBS, 5).await;
    world.wait("all are busy", |seen| seen.in_state("busy") == MAX && seen.said("job ") == MAX).await;
    world.kill();
    assert_eq!(world.look().await.github.jobs.in_progress, MAX as u64, "the jobs run on");
    world.restart();
    assert_eq!(world.finish(JOBS).await.cloud.total.created, JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_begin_and_nobody_hears_of_it() {
    let mut world = World::start(4 * MAX as u64, "").await;
    world.cloud_behaves(json!({"boot_time": "3s"})).await;
    world.queue(MAX as u64, 8).await;
    world.wait("all boot", |seen| seen.in_state("booting") == MAX && seen.begun() == 0).await;
    world.kill();
    world.door.closes();
    world.wait("their starts are told in vain", |seen| seen.github.webhooks.refused == MAX as u64).await;
    world.restart();
    // What runs is seen, and counts for a job that was waited for: nobody comes in vain.
    assert_eq!(world.finish(MAX as u64).await.cloud.total.created, MAX as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_begin_and_end_and_nobody_hears_of_it() {
    let mut world = World::start(4 * MAX as u64, "").await;
    world.cloud_behaves(json!({"boot_time": "3s"})).await;
    world.queue(MAX as u64, 0).await;
    world.wait("all boot", |seen| seen.in_state("booting") == MAX && seen.begun() == 0).await;
    world.kill();
    world.door.closes();
    let in_vain = 2 * MAX as u64;
    world.wait("all is told in vain", |seen| seen.github.webhooks.refused == in_vain).await;
    world.restart();
    assert_eq!(world.finish(MAX as u64).await.cloud.total.created, MAX as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_end_and_nobody_hears_of_it() {
    let mut world = start().await;
    world.queue(JOBS, 3).await;
    world.wait("all are busy", |seen| seen.said("job ") == MAX && seen.begun() == MAX).await;
    world.kill();
    world.door.closes();
    world.wait("their ends are told in vain", |seen| seen.github.webhooks.refused == MAX as u64).await;
    // The cloud is the first to say that something has ended.
    world.github_holds(Some(("GET", "/orgs/*/actions/runners")), 2).await;
    world.restart();
    assert_eq!(world.finish(JOBS).await.cloud.total.created, JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_holds_its_reply_to_delete() {
    let mut world = start().await;
    world.cloud_fails("delete", &json!({"no_answer": "8s"}), MAX).await;
    world.queue(JOBS, 1).await;
    let deleting = "its instance is being deleted";
    world.wait("all are being deleted", |seen| seen.said(deleting) == MAX).await;
    world.kill();
    world.restart();
    assert_eq!(world.finish(JOBS).await.cloud.total.created, JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deletion_is_under_way() {
    let mut world = start().await;
    world.cloud_behaves(json!({"delete_time": "5s"})).await;
    world.queue(JOBS, 1).await;
    let confirming = "waiting until its instance is gone";
    world
        .wait("all are being deleted", |seen| {
            seen.said(confirming) == MAX && seen.cloud.total.alive == MAX as u64
        })
        .await;
    world.kill();
    world.restart();
    let seen = world.finish(JOBS).await;
    assert_eq!((seen.cloud.total.created, seen.cloud.total.max_alive), (JOBS, MAX as u64));
}
