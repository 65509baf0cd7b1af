//! Jobs on instances, from the webhook to the end, and over `kill -9` at the worst moments of an instance's making.

use std::time::Duration;

use crate::fault_proxy::Harm;
use crate::world::{Peer, World};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_on_instances_and_nothing_is_left() {
    let Some(peer) = Peer::find().await else { return };
    let world = World::start(peer).await;
    world.queue(5, 2).await;
    world.until("a job runs", async || world.books().await.jobs.in_progress > 0).await;
    let instances = world.instances();
    assert!((1..=3).contains(&instances.len()), "{instances:#?}");
    assert!(instances.iter().all(|instance| instance["labels"]["runner-manager-group"] == "small"));
    world.finish(5).await;
}

/// Compute made the instance, and the manager dies before it hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_create_and_its_record_makes_one_instance() {
    let Some(peer) = Peer::find().await else { return };
    let mut world = World::start(peer).await;
    world.harm(vec![("held reply", Harm::HoldReply(Duration::from_secs(30)))]);
    world.queue(1, 15).await;
    world.until("Compute has the instance", async || world.instances().len() == 1).await;
    let asked = world.runners().await;
    assert!(asked.len() == 1 && asked[0]["instance"].is_null(), "it is on record already: {asked:#?}");
    world.kill();
    let made = world.instances()[0]["id"].clone();
    world.restart();
    world.until("its job runs", async || world.books().await.jobs.in_progress > 0).await;
    let instances = world.instances();
    assert_eq!(instances.iter().map(|instance| &instance["id"]).collect::<Vec<_>>(), [&made], "made twice");
    world.finish(1).await;
    assert_eq!(world.harmed("held reply"), 1);
}

/// The reply is lost on its way, and the manager dies while it looks for the instance.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_and_a_kill_make_one_instance() {
    let Some(peer) = Peer::find().await else { return };
    let mut world = World::start(peer).await;
    world.harm(vec![("lost reply", Harm::LoseReply)]);
    world.queue(1, 2).await;
    world.until("the reply was lost", async || world.harmed("lost reply") == 1).await;
    world.kill();
    let instances = world.instances();
    assert_eq!(instances.len(), 1, "{instances:#?}");
    world.restart();
    world.finish(1).await;
}

/// The request never came to Compute: after `settle` another runner takes the place.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_lost_is_replaced() {
    let Some(peer) = Peer::find().await else { return };
    let mut world = World::start(peer).await;
    world.harm(vec![("lost request", Harm::Refuse)]);
    world.queue(1, 2).await;
    world.until("the request was lost", async || world.harmed("lost request") == 1).await;
    world.kill();
    world.restart();
    world.finish(1).await;
}
