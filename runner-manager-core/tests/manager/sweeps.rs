//! The sweeps: what they find, when they stop, and what an operator says to that.
//!
//! | case | test |
//! | --- | --- |
//! | a registration with neither a record nor an instance (an offline ghost) | `an_offline_ghost_is_forgotten_and_a_foreign_one_is_not` |
//! | a registration that never came up | `a_registration_that_never_came_up_goes_with_its_instance`; `main`: `a_machine_that_never_registers_is_replaced_and_its_placement_backs_off` |
//! | an idle runner that is too old | `an_idle_runner_that_is_too_old_is_renewed_and_a_busy_one_is_not` |
//! | an instance without a record, registered | `an_idle_machine_without_a_record_is_adopted_and_used`; `main`: `a_forgotten_instance_that_runs_a_job_is_adopted` |
//! | an instance without a record, not registered | `main`: `what_no_record_explains_is_removed_and_what_is_foreign_is_not` |
//! | a second instance of a runner | `main`: `a_double_that_cannot_be_deleted_keeps_nobody_from_being_looked_at` |
//! | a record without an instance | `a_record_whose_machine_vanished_ends_within_two_sweeps` |
//! | a group that is configured no more | `what_is_left_of_a_group_that_is_gone_is_found`; `main`: `a_group_that_is_configured_no_more_drains_and_goes` |
//! | a page or an entry is missing | `a_listing_with_a_page_missing_is_no_reading`, `an_entry_that_github_leaves_out_is_asked_for_by_itself` |
//! | too much at once | `a_sweep_stops_and_goes_on_with_what_the_operator_named_and_nothing_else`, `registrations_go_at_an_operators_word`, `machines_that_are_missing_end_at_one_word`, `a_loss_of_the_store_takes_an_operators_word_back`; `main`: `a_sweep_that_would_condemn_too_much_stops` |
//! | over replicas | `a_word_said_to_one_replica_holds_for_all` |
//! | a dry run | `a_dry_run_says_what_it_would_do_and_does_nothing_of_it`, `a_dry_run_adopts_what_max_rests_on_after_a_loss` |

use std::time::Duration;

use runner_manager_backends::fake::{Behaviour, Ending, Fault, Life, Operation};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{
    BackendName, DeploymentName, EndedRunner, Finding, GitHubGroupId, Label, Labels, Owner, Phase,
    RetireReason, RunnerGroup, RunnerName, Scope, Secret, Source, Withheld, WithheldBecause,
};
use runner_manager_core::github::JitRequest;
use runner_manager_core::manager::{DeploymentStatus, GoOnError};
use runner_manager_core::policy::sweeps::GoOnRefusal;
use runner_manager_core::store::{Page, RunnerFilter};
use runner_manager_core::testing::simulator::{Effect, RequestFault};

use crate::world::{World, backend, group, spec};
use crate::{HOUR, MINUTE, all_run, foreign_instance, linux};

/// How often everything is listed.
const SWEEP: Duration = Duration::from_mins(5);

fn cloud() -> Source {
    Source::Instances(backend())
}

fn acme() -> Source {
    Source::Runners(scope())
}

fn scope() -> Scope {
    Scope::organization("acme").unwrap()
}

async fn deployment(world: &World) -> DeploymentStatus {
    world.manager.deployment().await.unwrap()
}

/// What the last sweep of something left.
async fn withheld(world: &World, source: &Source) -> Option<Withheld> {
    deployment(world).await.withheld.into_iter().find(|withheld| withheld.source == *source)
}

/// Registers a runner at GitHub that nobody has a record of, as a deployment with this owner would.
async fn ghost(world: &World, owner: &Owner, runner: &str) {
    let own = [Label::new(owner.label()).unwrap(), Label::new("large").unwrap()];
    let request = JitRequest {
        scope: scope(),
        name: RunnerName::new(runner).unwrap(),
        group: GitHubGroupId(1),
        labels: Labels::from_iter(own),
    };
    world.account().github.create_jit_config(&request).await.unwrap();
}

fn stranger() -> Owner {
    Owner::new(DeploymentName::new("rm").unwrap(), &Secret::new("another key"))
}

fn registrations(world: &World) -> Vec<String> {
    let mut names: Vec<String> = world.github().runners().map(|runner| runner.name.clone()).collect();
    names.sort();
    names
}

/// A group that gives its machines a long time to come up.
fn patient(max: u32) -> RunnerGroup {
    let mut group = linux(0, max);
    group.limits.start_timeout = 5 * HOUR;
    group
}

/// The machines that live.
fn machines(world: &World) -> Vec<Life> {
    let lives = world.books().lives.into_iter();
    lives.filter(|life| life.gone_at.is_none() && life.ended.is_none()).collect()
}

fn vanish(world: &World, count: usize) {
    let now = world.clock.now();
    for life in machines(world).into_iter().take(count) {
        world.cloud().end(&life.id, Ending::Vanished, now);
    }
}

async fn phases(world: &World) -> Vec<Phase> {
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(100)).await.unwrap();
    runners.iter().map(|runner| runner.value.phase()).collect()
}

/// Ten machines that no record explains, old enough to be judged, and a sweep that stopped at them.
async fn a_stop() -> (World, Withheld) {
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    world.broken_image = true;
    for n in 0..10 {
        foreign_instance(&world, world.owner.clone(), &format!("rm-linux-lost{n}")).await;
    }
    world.pass(20 * MINUTE).await;
    let stop = withheld(&world, &cloud()).await.expect("the sweep stops at ten of ten");
    (world, stop)
}

#[tokio::test]
async fn an_offline_ghost_is_forgotten_and_a_foreign_one_is_not() {
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    ghost(&world, &world.owner, "rm-linux-ghost").await;
    ghost(&world, &stranger(), "rm-linux-theirs").await;
    world.pass(2 * SWEEP).await;
    assert_eq!(registrations(&world), ["rm-linux-theirs"]);
    // One whose machine may still come up is left: the machine is what is judged.
    ghost(&world, &world.owner, "rm-linux-coming").await;
    world.broken_image = true;
    foreign_instance(&world, world.owner.clone(), "rm-linux-coming").await;
    world.pass(SWEEP).await;
    assert_eq!(registrations(&world), ["rm-linux-coming", "rm-linux-theirs"]);
}

#[tokio::test]
async fn a_registration_that_never_came_up_goes_with_its_instance() {
    let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    world.broken_image = true;
    world.queue(&spec(&["large"]), 1);
    world.until("it is made", MINUTE, |world| world.books().total.created == 1).await;
    let first = registrations(&world);
    world.pass(9 * MINUTE).await;
    assert_eq!(registrations(&world), first, "it has the time of start_timeout");
    world.pass(SWEEP).await;
    assert!(!registrations(&world).contains(&first[0]), "{first:?}");
    assert!(world.books().lives[0].gone_at.is_some());
    let ended = world.manager.ended_runners(10).await.unwrap();
    assert!(ended.iter().any(|ended| ended.name.as_str() == first[0]), "{ended:?}");
}

#[tokio::test]
async fn an_idle_runner_that_is_too_old_is_renewed_and_a_busy_one_is_not() {
    let mut aging = linux(1, 3);
    aging.limits.max_idle_age = HOUR;
    let mut world = World::new(vec![aging], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(3 * 3_600), 1);
    world.until("one runs and one waits", SWEEP, |world| world.github().runners().count() == 2).await;
    let idle = machines(&world)[1].id.clone();
    world.pass(90 * MINUTE).await;
    let now = machines(&world);
    assert!(now.iter().all(|life| life.id != idle), "the idle one is another one");
    assert_eq!((now.len(), world.completed()), (2, 0), "the busy one is the same");
    let ended = world.manager.ended_runners(10).await.unwrap();
    assert!(ended.iter().all(|ended| ended.why == RetireReason::TooOld), "{ended:?}");
    world.check(3);
}

#[tokio::test]
async fn an_idle_machine_without_a_record_is_adopted_and_used() {
    let mut world = World::new(vec![linux(1, 5)], Behaviour::default()).await;
    world.until("one waits", MINUTE, |world| world.github().runners().count() == 1).await;
    world.crash().await;
    world.storage =
        std::sync::Arc::new(runner_manager_core::embedded::EmbeddedStorage::in_memory(world.clock.clone()));
    world.start();
    world.pass(MINUTE).await;
    assert!(phases(&world).await.contains(&Phase::Idle), "{:?}", phases(&world).await);
    assert_eq!(world.manager.statistics().snapshot().adopted, 1);
    world.queue(&spec(&["large"]), 1);
    world.until("it runs", MINUTE, |world| world.completed() == 1).await;
    world.check(2);
}

#[tokio::test]
async fn a_record_whose_machine_vanished_ends_within_two_sweeps() {
    let mut world = World::new(vec![patient(2)], Behaviour::default()).await;
    world.broken_image = true;
    world.queue(&spec(&["large"]), 2);
    world.until("two are made", MINUTE, |world| world.books().total.created == 2).await;
    world.pass(Duration::from_secs(5)).await;
    let lost = machines(&world)[0].runner.clone();
    vanish(&world, 1);
    world.broken_image = false;
    world.pass(2 * SWEEP + MINUTE).await;
    let ended = world.manager.ended_runners(10).await.unwrap();
    let gone = |ended: &EndedRunner| ended.name == lost && ended.why == RetireReason::InstanceGone;
    assert!(ended.iter().any(gone), "{ended:?}");
    world.check(2);
    world
        .until("another runs the job in its slot", HOUR, |world| world.github().books().jobs.completed >= 1)
        .await;
    world.check(2);
}

#[tokio::test]
async fn what_is_left_of_a_group_that_is_gone_is_found() {
    let mut world =
        World::new(vec![group("heir", &["other"], 0, 5, &["zone-a"])], Behaviour::default()).await;
    world.broken_image = true;
    // Of a group `linux` that the configuration does not have.
    foreign_instance(&world, world.owner.clone(), "rm-linux-left").await;
    ghost(&world, &world.owner, "rm-linux-ghost").await;
    world.pass(25 * MINUTE).await;
    assert!(world.is_clean(), "{:?} {:?}", machines(&world), registrations(&world));
    let ended = world.manager.ended_runners(10).await.unwrap();
    assert_eq!(ended[0].why, RetireReason::Orphan);
}

#[tokio::test]
async fn a_listing_with_a_page_missing_is_no_reading() {
    let behaviour = Behaviour { page_size: 2, ..Behaviour::default() };
    let mut world = World::new(vec![linux(0, 5)], behaviour).await;
    world.queue(&spec(&["large"]).seconds(3_600), 5);
    world.until("all run", MINUTE, |world| world.github().books().jobs.in_progress == 5).await;
    for _ in 0..8 {
        world.cloud().inject(Operation::List, Some(Fault::MissingPage));
    }
    let gets = world.books().calls(Operation::Get);
    world.pass(2 * SWEEP).await;
    assert_eq!(phases(&world).await, [Phase::Busy; 5]);
    assert_eq!(
        world.books().calls(Operation::Get),
        gets,
        "nobody is looked for on the word of such a listing"
    );
    let failed = world.manager.statistics().snapshot().tasks;
    assert!(failed.get(&("sweep_backend", "failed")).is_some_and(|failed| *failed > 0), "{failed:?}");
    assert!(withheld(&world, &cloud()).await.is_none());
    all_run(&mut world, 5, 2 * HOUR).await;
    world.check(5);
}

#[tokio::test]
async fn an_entry_that_github_leaves_out_is_asked_for_by_itself() {
    let mut world = World::new(vec![linux(4, 9)], Behaviour::default()).await;
    world.until("four wait", MINUTE, |world| world.github().runners().count() == 4).await;
    world.pass(SWEEP).await;
    let holes = RequestFault::always(Effect::SkipEntries).on("GET", "/orgs/acme/actions/runners");
    world.github().faults_mut().requests.push(holes);
    let before: Vec<_> = machines(&world).into_iter().map(|life| life.id).collect();
    world.pass(4 * SWEEP).await;
    let after: Vec<_> = machines(&world).into_iter().map(|life| life.id).collect();
    assert_eq!(after, before);
    assert_eq!(phases(&world).await, [Phase::Idle; 4]);
}

#[tokio::test]
async fn a_sweep_stops_and_goes_on_with_what_the_operator_named_and_nothing_else() {
    let (mut world, stop) = a_stop().await;
    assert_eq!((stop.because, stop.count, stop.looked_at), (WithheldBecause::TooMuch, 10, 10));
    assert!(stop.findings.iter().all(|finding| matches!(finding, Finding::Orphan(..))), "{stop:?}");
    world.pass(HOUR).await;
    let same = withheld(&world, &cloud()).await.unwrap();
    assert_eq!((same.mark(), same.since), (stop.mark(), stop.since), "it is the same stop");
    assert_eq!(machines(&world).len(), 10);

    // Another ten come to it: what the operator saw is not what there is.
    for n in 0..10 {
        foreign_instance(&world, world.owner.clone(), &format!("rm-linux-late{n}")).await;
    }
    world.pass(20 * MINUTE).await;
    let refused = world.manager.go_on(&cloud(), &stop.mark(), "ops").await.unwrap_err();
    let GoOnError::Refused(GoOnRefusal::Changed { now }) = refused else { panic!("{refused}") };
    assert_eq!((now.count, now.looked_at), (20, 20));
    let said = world.manager.go_on(&cloud(), &now.mark(), "ops").await.unwrap();
    assert_eq!((&*said.by, said.count), ("ops", 20));
    // Eight more come after the word was said.
    for n in 0..8 {
        foreign_instance(&world, world.owner.clone(), &format!("rm-linux-last{n}")).await;
    }
    world.pass(4 * SWEEP).await;
    let left: Vec<String> = machines(&world).into_iter().map(|life| life.runner.to_string()).collect();
    assert_eq!(left.len(), 8, "{left:?}");
    assert!(left.iter().all(|runner| runner.contains("last")), "{left:?}");
    let status = deployment(&world).await;
    assert_eq!(status.withheld.len(), 1, "the eight are another stop");
    assert_eq!((&*status.go_ons[0].by, status.go_ons[0].left.len()), ("ops", 0));
    let refused = world.manager.go_on(&cloud(), &now.mark(), "ops").await.unwrap_err();
    assert!(matches!(refused, GoOnError::Refused(GoOnRefusal::Changed { .. })), "said once: {refused}");
}

#[tokio::test]
async fn registrations_go_at_an_operators_word() {
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    for n in 0..9 {
        ghost(&world, &world.owner, &format!("rm-linux-ghost{n}")).await;
    }
    world.pass(2 * SWEEP).await;
    let stop = withheld(&world, &acme()).await.unwrap();
    assert_eq!((stop.count, registrations(&world).len()), (9, 9));
    let other = Source::Instances(BackendName::new("other").unwrap());
    let refused = world.manager.go_on(&other, &stop.mark(), "ops").await.unwrap_err();
    assert!(matches!(refused, GoOnError::Refused(GoOnRefusal::NotStopped(_))), "{refused}");
    world.manager.go_on(&acme(), &stop.mark(), "ops").await.unwrap();
    world.pass(2 * MINUTE).await;
    assert!(registrations(&world).is_empty(), "no sweep need be waited for: {:?}", registrations(&world));
    world.pass(SWEEP).await;
    assert!(withheld(&world, &acme()).await.is_none());
}

#[tokio::test]
async fn machines_that_are_missing_end_at_one_word() {
    let mut world = World::new(vec![patient(12)], Behaviour::default()).await;
    world.broken_image = true;
    world.queue(&spec(&["large"]), 12);
    world.until("all are made", MINUTE, |world| world.books().total.created == 12).await;
    world.pass(Duration::from_secs(5)).await;
    vanish(&world, 10);
    world.pass(2 * SWEEP).await;
    let stop = withheld(&world, &cloud()).await.unwrap();
    assert_eq!((stop.count, stop.looked_at), (10, 12));
    assert!(stop.findings.iter().all(|finding| matches!(finding, Finding::Missing(_))), "{stop:?}");
    assert_eq!(world.manager.ended_runners(20).await.unwrap().len(), 0);
    world.broken_image = false;
    world.manager.go_on(&cloud(), &stop.mark(), "ops").await.unwrap();
    // Each has to be found missing twice: one word is enough for both.
    world.pass(2 * SWEEP).await;
    let ended = world.manager.ended_runners(100).await.unwrap();
    let gone = ended.iter().filter(|ended| ended.why == RetireReason::InstanceGone).count();
    assert_eq!(gone, 10);
    world.until("the jobs run", HOUR, |world| world.completed() >= 10).await;
}

#[tokio::test]
async fn a_loss_of_the_store_takes_an_operators_word_back() {
    let (mut world, stop) = a_stop().await;
    world.manager.go_on(&cloud(), &stop.mark(), "ops").await.unwrap();
    let snapshot = world.storage.snapshot();
    world.storage.lose(snapshot);
    world.pass(Duration::from_secs(30)).await;
    let status = deployment(&world).await;
    assert!(!status.trusted && status.withheld.is_empty());
    assert!(status.go_ons[0].left.is_empty(), "{:?}", status.go_ons);
}

#[tokio::test]
async fn a_word_said_to_one_replica_holds_for_all() {
    let (mut world, stop) = a_stop().await;
    let second = world.replica(vec![linux(0, 5)]).await;
    let seen = second.manager.deployment().await.unwrap().withheld;
    assert_eq!(seen[0].mark(), stop.mark());
    second.manager.go_on(&cloud(), &stop.mark(), "ops").await.unwrap();
    // Whoever sweeps next does it; here the one that was told runs no more.
    second.kill();
    world.pass(3 * SWEEP).await;
    assert!(machines(&world).is_empty());
    assert_eq!(deployment(&world).await.go_ons[0].by, "ops");
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_does_nothing_of_it() {
    let mut world = World::new(vec![linux(0, 9)], Behaviour::default()).await;
    world.manager.set_dry_sweeps(true).await.unwrap();
    world.queue(&spec(&["large"]).seconds(4 * 3_600), 3);
    world.until("all run", MINUTE, |world| world.github().books().jobs.in_progress == 3).await;
    world.pass(Duration::from_secs(5)).await;
    let lives = machines(&world);
    world.broken_image = true;
    foreign_instance(&world, world.owner.clone(), "rm-linux-lost").await;
    ghost(&world, &world.owner, "rm-linux-ghost").await;
    world.pass(8 * MINUTE).await;
    let now = world.clock.now();
    world.cloud().end(&lives[0].id, Ending::Stopped, now);
    world.cloud().end(&lives[1].id, Ending::Vanished, now);
    world.pass(8 * MINUTE).await;
    let (runners, created) = (phases(&world).await, world.books().total.created);
    let told = withheld(&world, &cloud()).await.unwrap();
    assert_eq!(told.because, WithheldBecause::DryRun);
    let lost = machines(&world).into_iter().find(|life| life.runner.as_str() == "rm-linux-lost").unwrap();
    let expected = [
        Finding::Missing(lives[1].runner.clone()),
        Finding::Orphan(lost.runner, lost.id),
        Finding::Leaving(lives[0].runner.clone()),
    ];
    assert_eq!(told.findings, expected.into());
    let at_github = withheld(&world, &acme()).await.unwrap();
    assert_eq!(
        at_github.findings,
        [Finding::Registration(RunnerName::new("rm-linux-ghost").unwrap())].into()
    );
    assert!(matches!(
        world.manager.go_on(&cloud(), &told.mark(), "ops").await.unwrap_err(),
        GoOnError::Refused(GoOnRefusal::DryRun(_))
    ));
    assert_eq!((runners, created), (vec![Phase::Busy; 3], 4));
    assert!(registrations(&world).contains(&"rm-linux-ghost".to_owned()));

    world.manager.set_dry_sweeps(false).await.unwrap();
    world.pass(2 * SWEEP + MINUTE).await;
    let left: Vec<_> = machines(&world).into_iter().map(|life| life.id).collect();
    assert_eq!(left, [lives[2].id.clone()], "all is done once it is none");
    assert_eq!(phases(&world).await, [Phase::Busy]);
    assert!(deployment(&world).await.withheld.is_empty());
    assert!(!registrations(&world).contains(&"rm-linux-ghost".to_owned()));
}

#[tokio::test]
async fn a_dry_run_adopts_what_max_rests_on_after_a_loss() {
    let mut world = World::new(vec![linux(0, 3)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(3_600), 3);
    world.until("all run", MINUTE, |world| world.github().books().jobs.in_progress == 3).await;
    world.manager.set_dry_sweeps(true).await.unwrap();
    world.storage.lose(None);
    world.queue(&spec(&["large"]), 3);
    world.pass(10 * MINUTE).await;
    assert!(deployment(&world).await.trusted);
    assert_eq!(phases(&world).await, [Phase::Busy; 3]);
    world.check(3);
    // Once the store is trusted it only says that it would.
    world.crash().await;
    world.adjust = Box::new(|parts| parts.settings.sweep_dry_run = true);
    world.storage =
        std::sync::Arc::new(runner_manager_core::embedded::EmbeddedStorage::in_memory(world.clock.clone()));
    world.start();
    world.pass(MINUTE).await;
    let told = withheld(&world, &cloud()).await.unwrap();
    assert_eq!(told.findings.iter().filter(|found| matches!(found, Finding::Adoption(..))).count(), 3);
    assert_eq!(world.manager.statistics().snapshot().adopted, 0);
}
