//! Replicas whose files differ: one configuration holds, and nobody takes turns.

use std::time::Duration;

use runner_manager_backends::fake::{Behaviour, Operation};
use runner_manager_core::domain::{Deployment, RunnerGroup, Source};
use runner_manager_core::manager::{Configured, Manager};
use runner_manager_core::store::Store;

use crate::world::{World, backend, group, name, spec};
use crate::{MINUTE, all_run, linux};

async fn max_of(world: &World) -> u32 {
    world.storage.group(&name("linux")).await.unwrap().unwrap().record.value.spec.bounds.max()
}

async fn drifts(manager: &Manager) -> bool {
    manager.deployment().await.unwrap().config_drift
}

#[tokio::test]
async fn a_replica_with_the_same_file_writes_no_group() {
    let mut world = World::new(vec![linux(0, 4)], Behaviour::default()).await;
    world.pass(MINUTE).await;
    let before = world.storage.group(&name("linux")).await.unwrap().unwrap();
    let second = world.replica(vec![linux(0, 4)]).await;
    world.pass(MINUTE).await;
    assert_eq!(second.configured, Configured::Current);
    assert_eq!(world.storage.group(&name("linux")).await.unwrap().unwrap().record, before.record);
    let status = second.manager.deployment().await.unwrap();
    assert_eq!((status.revision, status.replicas.len(), status.config_drift), (1, 2, false));
}

#[tokio::test]
async fn a_rolling_restart_applies_the_new_file_once() {
    let (old, new) = (vec![linux(0, 4)], vec![linux(0, 6)]);
    let mut world = World::new(old.clone(), Behaviour::default()).await;
    let second = world.replica(new.clone()).await;
    assert_eq!(second.configured, Configured::Applied);
    world.pass(MINUTE).await;
    assert!(drifts(&world.manager).await && !drifts(&second.manager).await);
    assert_eq!(max_of(&world).await, 6);
    let shown = second.manager.deployment().await.unwrap().replicas;
    assert_eq!(shown.iter().filter(|replica| replica.config_drift).count(), 1);

    // One that comes back with the old file does not bring it back.
    let third = world.replica(old).await;
    assert_eq!(third.configured, Configured::Drift);
    world.pass(2 * MINUTE).await;
    assert!(drifts(&third.manager).await);
    assert_eq!(max_of(&world).await, 6);
    // It works by the store's groups all the same.
    third.stop(&mut world).await;
    world.stop().await;
    world.groups = new.clone();
    world.start();
    world.pass(MINUTE).await;
    let status = world.manager.deployment().await.unwrap();
    assert_eq!((status.revision, status.config_drift), (2, false));
    assert_eq!(status.configuration, Some(Deployment::fingerprint(&new)));
    assert_eq!(status.replicas.len(), 2, "who stopped in order is not remembered: {:?}", status.replicas);
    world.queue(&spec(&["large"]), 12);
    all_run(&mut world, 12, 30 * MINUTE).await;
    world.check(6);
}

#[tokio::test]
async fn a_roll_back_holds_once_nobody_has_the_newer_file() {
    let (old, new) = (vec![linux(0, 4)], vec![linux(0, 6)]);
    let mut world = World::new(old.clone(), Behaviour::default()).await;
    world.pass(MINUTE).await;
    let second = world.replica(new.clone()).await;
    let third = world.replica(new).await;
    assert_eq!((second.configured, third.configured), (Configured::Applied, Configured::Current));
    second.stop(&mut world).await;
    let second = world.replica(old.clone()).await;
    assert_eq!(second.configured, Configured::Drift);
    // The last one that has the newer file dies without a word, and its successor starts at once.
    third.kill();
    let third = world.replica(old).await;
    assert_eq!(third.configured, Configured::Drift, "it may still run");
    world.pass(Duration::from_secs(40)).await;
    assert_eq!(max_of(&world).await, 4, "it turned out not to");
    for manager in [&world.manager, &second.manager, &third.manager] {
        assert!(!drifts(manager).await);
    }
    assert_eq!(third.manager.deployment().await.unwrap().revision, 3);
}

#[tokio::test]
async fn drift_from_long_ago_is_not_decided_anew() {
    let (old, new) = (vec![linux(0, 4)], vec![linux(0, 6)]);
    let mut world = World::new(old, Behaviour::default()).await;
    let second = world.replica(new).await;
    world.pass(5 * MINUTE).await;
    second.stop(&mut world).await;
    world.pass(5 * MINUTE).await;
    assert_eq!(max_of(&world).await, 6, "a file is applied at start and on reload only");
    assert!(drifts(&world.manager).await);
    world.manager.reconfigure(vec![linux(0, 4)]).await.unwrap();
    assert_eq!(max_of(&world).await, 4);
    assert!(!drifts(&world.manager).await);
}

#[tokio::test]
async fn of_two_files_the_one_that_held_comes_back_after_all_was_lost() {
    let (old, new) = (vec![linux(0, 4)], vec![linux(0, 6)]);
    let mut world = World::new(old, Behaviour::default()).await;
    let second = world.replica(new).await;
    world.pass(MINUTE).await;
    world.storage.lose(None);
    world.pass(5 * MINUTE).await;
    assert_eq!(max_of(&world).await, 6);
    assert!(drifts(&world.manager).await && !drifts(&second.manager).await);
    // Without anybody who has it, the other one is better than none.
    second.stop(&mut world).await;
    world.storage.lose(None);
    world.pass(5 * MINUTE).await;
    assert_eq!(max_of(&world).await, 4);
    assert!(!drifts(&world.manager).await);
}

#[tokio::test]
async fn a_replica_that_reaches_no_backend_leaves_the_work_to_the_other_one() {
    let mut world = World::new(vec![linux(2, 4)], Behaviour::default()).await;
    world.pass(MINUTE).await;
    assert_eq!(world.books().total.alive, 2);
    world.adjust = Box::new(|parts| parts.backends.clear());
    let second = world.replica(vec![linux(2, 4)]).await;
    assert_eq!(second.configured, Configured::Current, "others reach the backend that runners live on");
    world.queue(&spec(&["large"]), 8);
    world.until("all run", 30 * MINUTE, |world| world.completed() == 8).await;
    let listings = |world: &World| world.books().calls(Operation::List);
    let before = listings(&world);
    world.pass(60 * MINUTE).await;
    let made = listings(&world) - before;
    assert!((10..=14).contains(&made), "{made} listings in an hour");

    // It does not think that all was listed while a backend was not that it cannot reach.
    world.storage.lose(None);
    world.pass(Duration::from_secs(20)).await;
    let doubt = second.manager.deployment().await.unwrap().doubt.unwrap();
    assert!(doubt.missing.contains(&Source::Instances(backend())), "{doubt:?}");
    world.pass(3 * MINUTE).await;
    assert!(second.manager.deployment().await.unwrap().trusted);
    world.check(4);
    // Once the other one is gone, nobody could take the runners away.
    world.crash().await;
    world.pass(MINUTE).await;
    let third = Manager::new(world.parts());
    let refused = third.configure(vec![linux(2, 4)]).await.unwrap_err();
    assert!(refused.to_string().contains("backend cloud"), "{refused}");
}

#[tokio::test]
async fn two_replicas_that_start_at_once_do_not_mix_their_groups() {
    let many = |max| -> Vec<RunnerGroup> {
        (0..120).map(|number| group(&format!("g{number}"), &["large"], 0, max, &["zone-a"])).collect()
    };
    let world = World::new(vec![linux(0, 4)], Behaviour::default()).await;
    let managers = [101, 102].map(|seed| {
        let parts = runner_manager_core::manager::Parts {
            random: std::sync::Arc::new(runner_manager_core::random::SeededRandom::new(seed)),
            ..world.parts()
        };
        Manager::new(parts)
    });
    let (one, two) = tokio::join!(managers[0].configure(many(3)), managers[1].configure(many(7)));
    let outcomes = [one.unwrap(), two.unwrap()];
    assert!(outcomes.contains(&Configured::Applied), "{outcomes:?}");
    let groups = world.storage.groups().await.unwrap();
    let present = groups.iter().filter(|view| view.record.value.draining.is_none());
    let maxima: std::collections::BTreeSet<u32> =
        present.map(|view| view.record.value.spec.bounds.max()).collect();
    assert_eq!(maxima.len(), 1, "{maxima:?}");
}
