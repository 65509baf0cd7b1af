//! A store that loses what it acknowledged: a second of it, or all.

use std::time::Duration;

use runner_manager_backends::fake::{Behaviour, Fault, Operation};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{Phase, RunnerState};
use runner_manager_core::store::{JobFilter, Page, RunnerFilter, Store};

use crate::world::{World, backend, group, name, spec};
use crate::{HOUR, MINUTE, all_run, linux};

/// How long a call may take: listings that count are begun no earlier after the store was found anew.
const CALL_TIMEOUT: Duration = Duration::from_secs(40);

async fn phases(world: &World) -> Vec<Phase> {
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(500)).await.unwrap();
    let mut phases: Vec<Phase> = runners.iter().map(|runner| runner.value.phase()).collect();
    phases.sort();
    phases
}

async fn trusted(world: &World) -> bool {
    world.storage.deployment().await.unwrap().trusted
}

/// Lets the world go on until the store is relied on again.
async fn until_trusted(world: &mut World) {
    for _ in 0..100_000 {
        if trusted(world).await {
            return;
        }
        world.step().await;
    }
    panic!("the store is never relied on again: {:?}", world.manager.deployment().await);
}

#[tokio::test]
async fn a_new_storage_is_born_trusted() {
    let world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    let status = world.manager.deployment().await.unwrap();
    assert!(status.trusted && status.doubt.is_none() && !status.config_drift);
    assert_eq!((status.revision, status.replicas.len()), (1, 1));
}

#[tokio::test]
async fn an_emptied_store_adopts_all_kills_nobody_and_makes_nothing_before_the_listings() {
    let mut world = World::new(vec![linux(5, 12)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(1500), 5);
    world
        .until("five run and five wait", 5 * MINUTE, |world| {
            let books = world.github().books().clone();
            books.jobs.in_progress == 5 && world.books().total.alive == 10
        })
        .await;
    // The idle ones are known for such by a sweep.
    world.pass(6 * MINUTE).await;
    let before = phases(&world).await;
    assert_eq!(before, [vec![Phase::Idle; 5], vec![Phase::Busy; 5]].concat());
    let created = world.books().total.created;

    let lost_at = world.clock.now();
    world.storage.lose(None);
    world.pass(Duration::from_secs(20)).await;
    assert_eq!(phases(&world).await, before, "all are adopted at once");
    // Those that wait take five of them.
    world.queue(&spec(&["large"]).seconds(900), 8);
    world.pass(Duration::from_secs(5)).await;
    assert_eq!(phases(&world).await, [Phase::Busy; 10]);
    let jobs = world.manager.jobs(&JobFilter::Queued(name("linux")), &Page::first(10)).await.unwrap();
    let reasons: Vec<String> =
        jobs.iter().filter_map(|job| job.reason.as_ref()).map(ToString::to_string).collect();
    assert!(
        reasons.iter().any(|reason| reason.contains("the store was started anew: 0 of 2 listings taken in")),
        "{reasons:?}"
    );
    assert_eq!(world.books().total.created, created, "nothing is made meanwhile");
    assert!(!trusted(&world).await);
    let doubt = world.manager.deployment().await.unwrap().doubt.unwrap();
    assert_eq!((doubt.required, doubt.taken_in()), (2, 0));

    until_trusted(&mut world).await;
    let waited = world.clock.now().duration_since(lost_at);
    assert!(waited >= CALL_TIMEOUT.try_into().unwrap(), "{waited}");
    assert!(waited <= (3 * MINUTE).try_into().unwrap(), "{waited}");
    // What came first: the listings, or what was made.
    let late = world.books().lives.into_iter().skip(usize::try_from(created).unwrap());
    for life in late {
        let waited = life.asked_at.duration_since(lost_at);
        assert!(waited >= CALL_TIMEOUT.try_into().unwrap(), "made {waited} after the loss");
    }
    world.manager.reconfigure(vec![linux(0, 12)]).await.unwrap();
    all_run(&mut world, 13, 2 * HOUR).await;
    world.check(12);
}

#[tokio::test]
async fn a_create_that_was_under_way_when_all_was_lost_lands_and_is_adopted() {
    let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    world.cloud().inject(Operation::Create, Some(Fault::Late(Duration::from_secs(55))));
    world.queue(&spec(&["large"]), 1);
    world.until("the backend is asked", MINUTE, |world| world.books().calls(Operation::Create) == 1).await;
    world.storage.lose(None);
    // The job waits, and counts for a group whose only slot is taken by what has yet to appear.
    until_trusted(&mut world).await;
    assert_eq!(world.books().calls(Operation::Create), 1);
    all_run(&mut world, 1, HOUR).await;
    world.check(1);
    assert_eq!(world.books().total.created, 1);
}

#[tokio::test]
async fn the_doubt_begins_anew_when_the_store_is_lost_again() {
    let mut world = World::new(vec![linux(0, 4)], Behaviour::default()).await;
    world.storage.lose(None);
    world.pass(Duration::from_secs(35)).await;
    let first = world.storage.deployment().await.unwrap().record.unwrap().value.doubt.unwrap();
    let snapshot = world.storage.snapshot();
    world.storage.lose(snapshot);
    world.pass(Duration::from_secs(15)).await;
    let second = world.storage.deployment().await.unwrap().record.unwrap().value.doubt.unwrap();
    assert!(second.incarnation != first.incarnation && second.since > first.since);
    assert!(second.taken_in.is_empty());
    world.queue(&spec(&["large"]), 4);
    until_trusted(&mut world).await;
    assert!(world.clock.now() >= second.since + jiff::SignedDuration::try_from(CALL_TIMEOUT).unwrap());
    all_run(&mut world, 4, HOUR).await;
    world.check(4);
}

#[tokio::test]
async fn periodic_tasks_come_back_and_go_on() {
    let mut world = World::new(vec![linux(0, 4)], Behaviour::default()).await;
    world.pass(MINUTE).await;
    world.storage.lose(None);
    until_trusted(&mut world).await;
    let listings = |world: &World| world.books().calls(Operation::List);
    let before = listings(&world);
    world.pass(HOUR).await;
    let after = listings(&world);
    assert!((10..=14).contains(&(after - before)), "{} listings in an hour", after - before);
}

/// Goes on for a number of steps, takes a snapshot, goes on for at most a second, and loses that second.
async fn lose_a_second(world: &mut World, steps: usize) {
    for _ in 0..steps {
        world.step().await;
    }
    let snapshot = world.storage.snapshot();
    world.pass(Duration::from_secs(1)).await;
    world.storage.lose(snapshot);
}

#[tokio::test]
async fn a_lost_second_at_any_moment_costs_no_job_and_makes_nothing_twice() {
    for steps in (0..44).step_by(2) {
        let behaviour = Behaviour { boot_time: Duration::from_secs(3), ..Behaviour::default() };
        let groups = vec![group("linux", &["large"], 0, 3, &["zone-a"])];
        let mut world = World::new(groups, behaviour).await;
        world.queue(&spec(&["large"]).seconds(20), 6);
        lose_a_second(&mut world, steps).await;
        until_trusted(&mut world).await;
        all_run(&mut world, 6, 3 * HOUR).await;
        world.check(3);
    }
}

#[tokio::test]
async fn readings_from_before_the_loss_take_no_runner_away() {
    let mut world = World::new(vec![linux(1, 1)], Behaviour::default()).await;
    world.until("it is made", 5 * MINUTE, |world| world.books().total.alive == 1).await;
    world.pass(5 * MINUTE).await;
    world.manager.reconfigure(vec![linux(0, 1)]).await.unwrap();
    // The first reading has called it not busy, and the second one is due.
    let mut read = false;
    for _ in 0..10_000 {
        let runners =
            world.manager.runners(&RunnerFilter::Backend(backend()), &Page::first(1)).await.unwrap();
        read = matches!(&runners[0].value.state, RunnerState::Idle { leaving: Some(leaving) }
            if leaving.not_busy_at.is_some());
        if read {
            break;
        }
        world.step().await;
    }
    assert!(read);
    let snapshot = world.storage.snapshot();
    // It gets a job of which nobody remembers anything.
    world.deliver = |_| false;
    world.queue(&spec(&["large"]).seconds(600), 1);
    world.until("it runs a job", MINUTE, |world| world.github().books().jobs.in_progress == 1).await;
    world.deliver = |_| true;
    world.storage.lose(snapshot);
    until_trusted(&mut world).await;
    assert_eq!(phases(&world).await, [Phase::Busy]);
    all_run(&mut world, 1, HOUR).await;
    world.check(1);
}

#[tokio::test]
async fn a_job_that_ends_while_the_store_is_doubted_takes_its_machine_along() {
    let mut world = World::new(vec![linux(0, 2)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(60), 2);
    world.until("both run", 2 * MINUTE, |world| world.github().books().jobs.in_progress == 2).await;
    let snapshot = world.storage.snapshot();
    world.storage.lose(snapshot);
    // What the outside says is true whatever was lost: the end of a job needs no trust.
    world.until("both are over", 2 * MINUTE, |world| world.completed() == 2).await;
    world.until("their machines are gone", 2 * MINUTE, World::is_clean).await;
    world.check(2);
}
