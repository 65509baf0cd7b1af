//! Jobs on servers, from the webhook to the end, and over `kill -9` at the worst moments of a server's making.

use std::time::Duration;

use crate::fault_proxy::Harm;
use crate::world::{Peer, World};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_on_servers_and_nothing_is_left() {
    let Some(peer) = Peer::find() else { return };
    let world = World::start(peer).await;
    world.queue(5, 2).await;
    world.until("a job runs", async || world.books().await.jobs.in_progress > 0).await;
    let servers = world.servers();
    assert!((1..=3).contains(&servers.len()), "{servers:#?}");
    assert!(servers.iter().all(|server| server["metadata"]["runner-manager-group"] == "small"));
    world.finish(5).await;
}

/// Nova made the server, and the manager dies before it hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_create_and_its_record_makes_one_server() {
    let Some(peer) = Peer::find() else { return };
    let mut world = World::start(peer).await;
    world.harm(vec![("held reply", Harm::HoldReply(Duration::from_secs(30)))]);
    world.queue(1, 15).await;
    world.until("Nova has the server", async || world.servers().len() == 1).await;
    let asked = world.runners().await;
    assert!(asked.len() == 1 && asked[0]["instance"].is_null(), "it is on record already: {asked:#?}");
    world.kill();
    let made = world.servers()[0]["id"].clone();
    world.restart();
    world.until("its job runs", async || world.books().await.jobs.in_progress > 0).await;
    let servers = world.servers();
    assert_eq!(servers.iter().map(|server| &server["id"]).collect::<Vec<_>>(), [&made], "made twice");
    world.finish(1).await;
    assert_eq!(world.harmed("held reply"), 1);
}

/// The reply is lost on its way, and the manager dies while it looks for the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_and_a_kill_make_one_server() {
    let Some(peer) = Peer::find() else { return };
    let mut world = World::start(peer).await;
    world.harm(vec![("lost reply", Harm::LoseReply)]);
    world.queue(1, 2).await;
    world.until("the reply was lost", async || world.harmed("lost reply") == 1).await;
    world.kill();
    let servers = world.servers();
    assert_eq!(servers.len(), 1, "{servers:#?}");
    world.restart();
    world.finish(1).await;
}

/// The request never came to Nova: after `settle` another runner takes the place.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_lost_is_replaced() {
    let Some(peer) = Peer::find() else { return };
    let mut world = World::start(peer).await;
    world.harm(vec![("lost request", Harm::Refuse)]);
    world.queue(1, 2).await;
    world.until("the request was lost", async || world.harmed("lost request") == 1).await;
    world.kill();
    world.restart();
    world.finish(1).await;
}
