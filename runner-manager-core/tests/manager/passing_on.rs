//! Jobs that a full group gives to another one.

use runner_manager_backends::fake::Behaviour;
use runner_manager_core::domain::OperationId;
use runner_manager_core::store::{
    Change, Draining, Expected, GroupRecord, JobFilter, Page, Versioned, Write,
};

use super::world::{World, group, name, spec};
use super::{HOUR, MINUTE, all_run, linux};

#[tokio::test]
async fn jobs_of_a_full_group_are_passed_on_to_the_next_fitting_one() {
    let mut wide = group("wide", &["large", "extra"], 0, 20, &["zone-a"]);
    wide.order = 1;
    let mut world = World::new(vec![linux(0, 2), wide], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(600), 10);
    world.until("all run at once", 5 * MINUTE, |world| world.github().books().jobs.in_progress == 10).await;
    all_run(&mut world, 10, HOUR).await;
    assert!(world.books().groups[&name("linux")].max_alive <= 2);
}

/// Another replica drains groups, just after this one has read that they take jobs.
async fn drain_elsewhere(world: &World, groups: &[&str]) {
    world.manager.jobs(&JobFilter::Unserved, &Page::first(1)).await.unwrap();
    let store = world.parts().storage.store;
    let mut changes = Vec::new();
    for group in groups {
        let Versioned { value, version } = store.group(&name(group)).await.unwrap().unwrap().record;
        let record = GroupRecord { draining: Some(Draining::Operator), ..value };
        changes.push(Change::PutGroup { record, expected: Expected::Version(version) });
    }
    let operation = OperationId::new("drain");
    let write =
        Write { operation, claim: None, ends_claim: false, on_trust: false, changes, tasks: Vec::new() };
    store.apply(write).await.unwrap();
}

async fn two_groups() -> World {
    let mut wide = group("wide", &["large", "extra"], 0, 20, &["zone-a"]);
    wide.order = 1;
    let mut world = World::new(vec![linux(0, 2), wide], Behaviour::default()).await;
    world.pass(MINUTE).await;
    world
}

#[tokio::test]
async fn jobs_of_a_full_group_are_not_passed_on_to_one_that_another_replica_has_drained() {
    let mut world = two_groups().await;
    drain_elsewhere(&world, &["wide"]).await;
    world.queue(&spec(&["large"]).seconds(600), 10);
    world.until("two run", 5 * MINUTE, |world| world.github().books().jobs.in_progress == 2).await;
    all_run(&mut world, 10, 2 * HOUR).await;
    assert!(!world.books().groups.contains_key(&name("wide")));
}

#[tokio::test]
async fn jobs_of_groups_that_another_replica_has_drained_wait_for_nobody() {
    let mut world = two_groups().await;
    drain_elsewhere(&world, &["linux", "wide"]).await;
    world.queue(&spec(&["large"]), 3);
    world.pass(MINUTE).await;
    let jobs = world.manager.jobs(&JobFilter::Unserved, &Page::first(10)).await.unwrap();
    assert_eq!(jobs.len(), 3);
    assert_eq!(world.books().total.created, 0);
}
