//! The manager in a world that is whole but for the sockets: what goes right, what goes wrong, and what
//! must hold all the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end there")]

mod budgets;
mod callback;
mod connections;
mod costs;
mod doubt;
mod drift;
mod fleet;
mod github_groups;
mod lies;
mod loss;
mod machine;
mod passing_on;
mod reasons;
#[path = "../support/reconcile.rs"]
mod reconcile;
mod recover;
mod redeliver;
mod signals;
mod sweeps;
mod throttle;
mod world;

use std::time::Duration;

use runner_manager_backends::fake::{Behaviour, Ending, Fault, Operation, Rule};
use runner_manager_core::backend::{Backend, BackendErrorKind, Bootstrap, InstanceSpec};
use runner_manager_core::domain::{
    DeploymentName, Limits, Owner, RetireReason, RunnerName, RunnerState, Secret,
};
use runner_manager_core::manager::Retirement;
use runner_manager_core::store::{JobFilter, Page, RunnerFilter};
use world::{World, group, name, spec};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

fn linux(min_idle: u32, max: u32) -> runner_manager_core::domain::RunnerGroup {
    group("linux", &["large"], min_idle, max, &["zone-a"])
}

fn error(kind: BackendErrorKind) -> Fault {
    Fault::Error { kind, retry_after: None }
}

async fn all_run(world: &mut World, jobs: u64, limit: Duration) {
    world.until("every job has run", limit, |world| world.completed() == jobs).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
}

#[tokio::test]
async fn a_queued_job_gets_a_machine_runs_and_the_machine_goes_away() {
    let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
    world.queue(&spec(&["self-hosted", "Large"]), 1);
    all_run(&mut world, 1, 2 * MINUTE).await;
    world.check(1);
    let ended = world.manager.ended_runners(10).await.unwrap();
    assert!(matches!(ended[0].why, RetireReason::JobCompleted { .. }));
    // The registration of an ephemeral runner goes by itself: GitHub is asked for one thing only.
    let requests = world.github().books().requests.clone();
    let writes: u64 = requests
        .iter()
        .filter(|(route, _)| route.starts_with("POST") || route.starts_with("DELETE"))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(writes, 1, "{requests:?}");
}

#[tokio::test]
async fn fifty_jobs_at_max_ten_never_make_an_eleventh_instance() {
    let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
    world.queue(&spec(&["large"]), 50);
    all_run(&mut world, 50, 10 * MINUTE).await;
    world.check(10);
    assert_eq!(world.books().total.created, 50);
}

#[tokio::test]
async fn slow_deletions_hold_their_slots() {
    let behaviour = Behaviour { delete_time: Duration::from_secs(45), ..Behaviour::default() };
    let mut world = World::new(vec![linux(0, 3)], behaviour).await;
    world.queue(&spec(&["large"]), 12);
    all_run(&mut world, 12, HOUR).await;
    world.check(3);
}

#[tokio::test]
async fn a_full_placement_hands_over_to_the_next_one() {
    let zones = [("zone-a".to_owned(), Some(2)), ("zone-b".to_owned(), None)].into();
    let behaviour = Behaviour { zones, ..Behaviour::default() };
    let groups = vec![group("linux", &["large"], 0, 10, &["zone-a", "zone-b"])];
    let mut world = World::new(groups, behaviour).await;
    world.queue(&spec(&["large"]), 8);
    all_run(&mut world, 8, 5 * MINUTE).await;
    world.check(10);
    let zones: Vec<String> = world.books().lives.iter().map(|life| life.zone.clone()).collect();
    assert!(zones.iter().filter(|zone| *zone == "zone-b").count() >= 6, "{zones:?}");
}

#[tokio::test]
async fn a_blocked_group_says_why_and_recovers() {
    let zones = [("zone-a".to_owned(), Some(0))].into();
    let mut world = World::new(vec![linux(0, 10)], Behaviour { zones, ..Behaviour::default() }).await;
    world.queue(&spec(&["large"]), 3);
    world.pass(10 * MINUTE).await;
    let jobs = world.manager.jobs(&JobFilter::All, &Page::first(10)).await.unwrap();
    let reason = jobs[0].reason.as_ref().unwrap().to_string();
    assert!(
        reason.contains("placement small in zone-a of cloud") && reason.contains("NoCapacity"),
        "{reason}"
    );
    let calls = world.books().calls(Operation::Create);
    assert!(calls < 20, "a full placement was asked {calls} times in ten minutes");
    world.cloud().set_behaviour(Behaviour::default());
    all_run(&mut world, 3, 30 * MINUTE).await;
    world.check(10);
}

#[tokio::test]
async fn a_lost_answer_to_create_is_looked_up_and_adopted() {
    let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
    world.cloud().inject(Operation::Create, Some(Fault::LostReply));
    world.queue(&spec(&["large"]), 2);
    all_run(&mut world, 2, 10 * MINUTE).await;
    world.check(2);
    assert_eq!(world.books().total.created, 2);
}

#[tokio::test]
async fn a_request_to_create_that_was_lost_is_made_up_for_by_another_runner() {
    let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
    world.cloud().inject(Operation::Create, Some(error(BackendErrorKind::Unclear)));
    world.queue(&spec(&["large"]), 1);
    all_run(&mut world, 1, 10 * MINUTE).await;
    world.check(1);
    let ended = world.manager.ended_runners(10).await.unwrap();
    assert!(ended.iter().any(|ended| ended.why == RetireReason::NeverCreated), "{ended:?}");
}

#[tokio::test]
async fn a_create_that_lands_late_is_adopted() {
    let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
    world.cloud().inject(Operation::Create, Some(Fault::Late(Duration::from_secs(20))));
    world.queue(&spec(&["large"]), 1);
    all_run(&mut world, 1, 10 * MINUTE).await;
    world.check(1);
    assert_eq!(world.books().total.created, 1);
}

#[tokio::test]
async fn a_machine_that_never_registers_is_replaced_and_its_placement_backs_off() {
    let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
    world.broken_image = true;
    world.queue(&spec(&["large"]), 1);
    world.pass(2 * HOUR).await;
    let made = world.books().total.created;
    assert!((3..=12).contains(&made), "{made} machines in two hours");
    world.broken_image = false;
    all_run(&mut world, 1, HOUR).await;
    world.check(10);
}

#[tokio::test]
async fn machines_that_end_before_they_register_open_the_breaker() {
    let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    world.broken_image = true;
    let rule = |how| Rule {
        operation: Operation::Create,
        chance: 1.0,
        fault: Fault::Dies { after: Duration::from_secs(1), how },
    };
    let behaviour = Behaviour { faults: vec![rule(Ending::Stopped)], ..Behaviour::default() };
    world.cloud().set_behaviour(behaviour);
    world.queue(&spec(&["large"]), 1);
    world.pass(HOUR).await;
    let health = world.manager.groups().await.unwrap()[0].record.placements.values().next().cloned().unwrap();
    assert!(health.is_open() && health.last.detail.contains("instance stopped"), "{health:?}");
    world.broken_image = false;
    world.cloud().set_behaviour(Behaviour::default());
    all_run(&mut world, 1, HOUR).await;
    assert!(world.manager.groups().await.unwrap()[0].record.placements.is_empty());
}

#[tokio::test]
async fn wrong_credentials_hold_no_slot() {
    use runner_manager_core::testing::simulator::{Effect, RequestFault};
    let mut world = World::new(vec![linux(0, 2)], Behaviour::default()).await;
    let fault = RequestFault::always(Effect::Answer { status: 401, retry_after: None });
    world.github().faults_mut().requests.push(fault);
    world.queue(&spec(&["large"]), 2);
    world.pass(10 * MINUTE).await;
    let groups = world.manager.groups().await.unwrap();
    assert_eq!(groups[0].counts.alive(), 0, "{:?}", groups[0].counts);
    let jobs = world.manager.jobs(&JobFilter::All, &Page::first(1)).await.unwrap();
    let reason = jobs[0].reason.as_ref().unwrap().to_string();
    assert!(reason.contains("registering at GitHub fails") && reason.contains("Unauthenticated"), "{reason}");
    world.github().faults_mut().requests.clear();
    all_run(&mut world, 2, 30 * MINUTE).await;
    world.check(2);
}

#[tokio::test]
async fn a_machine_that_dies_in_mid_job_frees_its_slot() {
    let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    let dies = Fault::Dies { after: Duration::from_secs(10), how: Ending::Vanished };
    world.cloud().inject(Operation::Create, Some(dies));
    world.queue(&spec(&["large"]), 2);
    world.until("both jobs are over", 2 * HOUR, |world| world.completed() == 2).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    let jobs = world.github().books().jobs;
    assert_eq!((jobs.succeeded, jobs.lost), (1, 1));
}

#[tokio::test]
async fn doubled_and_late_webhooks_make_no_more_runners() {
    let mut world = World::new(vec![linux(0, 100)], Behaviour::default()).await;
    {
        let mut github = world.github();
        github.faults_mut().webhooks.doubled = 0.5;
        github.faults_mut().webhooks.reordered = 0.5;
    }
    world.queue(&spec(&["large"]), 40);
    all_run(&mut world, 40, HOUR).await;
    world.check(40);
    assert!(world.books().total.created <= 40, "{} machines for 40 jobs", world.books().total.created);
}

#[tokio::test]
async fn idle_runners_are_kept_renewed_and_given_up_in_order() {
    let mut world = World::new(vec![linux(2, 10)], Behaviour::default()).await;
    world.until("two wait", MINUTE, |world| world.books().total.alive == 2).await;
    world.pass(30 * MINUTE).await;
    assert_eq!(world.books().total.created, 2, "idle runners that are wanted stay");
    world.pass(14 * HOUR).await;
    let books = world.books();
    assert!(books.total.created >= 4, "none was renewed after max_idle_age");
    assert!(books.total.max_alive <= 4 && books.total.alive >= 2, "{:?}", books.total);
    let mut smaller = linux(0, 10);
    smaller.limits.idle_timeout = MINUTE;
    world.manager.configure(vec![smaller]).await.unwrap();
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(4);
}

#[tokio::test]
async fn a_cancelled_job_leaves_an_idle_runner_that_goes_by_itself() {
    let mut world =
        World::new(vec![linux(0, 10)], Behaviour { boot_time: MINUTE, ..Behaviour::default() }).await;
    let now = runner_manager_core::clock::Clock::now(&*world.clock);
    let job = world.github().queue_job(&spec(&["large"]), now).unwrap();
    world.until("a machine is made", MINUTE, |world| world.books().total.created == 1).await;
    let run = world.github().job(job).unwrap().run;
    world.github().cancel_run(run, now).unwrap();
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(1);
}

#[tokio::test]
async fn a_stolen_runner_is_made_up_for() {
    let mut specific = group("gpu", &["large", "gpu"], 0, 5, &["zone-a"]);
    specific.order = 1;
    let mut world = World::new(vec![linux(0, 5), specific], Behaviour::default()).await;
    // The older job, of the less specific kind, may take the gpu runner first.
    world.queue(&spec(&["large", "gpu"]), 2);
    world.queue(&spec(&["large"]), 3);
    all_run(&mut world, 5, HOUR).await;
    world.check(10);
}

#[tokio::test]
async fn a_drained_group_finishes_and_its_jobs_wait_with_a_reason_or_elsewhere() {
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(300), 2);
    world.until("both run", MINUTE, |world| world.github().books().jobs.in_progress == 2).await;
    assert!(world.manager.drain(&name("linux")).await.unwrap());
    world.queue(&spec(&["large"]), 1);
    world.pass(20 * MINUTE).await;
    assert_eq!(world.completed(), 2);
    assert_eq!(world.books().total.alive, 0);
    let jobs = world.manager.jobs(&JobFilter::Unserved, &Page::first(10)).await.unwrap();
    assert_eq!(jobs[0].reason.as_ref().unwrap().to_string(), "group linux is draining");
    assert!(world.manager.resume(&name("linux")).await.unwrap());
    world.until("it runs", 5 * MINUTE, |world| world.completed() == 3).await;
}

#[tokio::test]
async fn a_group_that_is_configured_no_more_drains_and_goes() {
    let mut world = World::new(vec![linux(1, 5)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(300), 1);
    world.until("it runs", MINUTE, |world| world.github().books().jobs.in_progress == 1).await;
    world.manager.configure(Vec::new()).await.unwrap();
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.pass(MINUTE).await;
    assert!(world.manager.groups().await.unwrap().is_empty());
    world.check(3);
}

#[tokio::test]
async fn a_job_that_nobody_serves_waits_with_a_reason_until_somebody_does() {
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    world.queue(&spec(&["gpu"]), 1);
    world.pass(MINUTE).await;
    let jobs = world.manager.jobs(&JobFilter::Unserved, &Page::first(10)).await.unwrap();
    assert_eq!(jobs[0].reason.as_ref().unwrap().to_string(), "no group offers label gpu");
    world.manager.configure(vec![group("gpu", &["gpu"], 0, 1, &["zone-a"])]).await.unwrap();
    all_run(&mut world, 1, 10 * MINUTE).await;
}

#[tokio::test]
async fn github_refusing_a_group_backs_off_with_its_words() {
    let mut missing = linux(0, 5);
    missing.github_group.name = "Nowhere".to_owned();
    let mut world = World::new(vec![missing], Behaviour::default()).await;
    world.queue(&spec(&["large"]), 2);
    world.pass(10 * MINUTE).await;
    assert_eq!(world.books().total.created, 0);
    let jobs = world.manager.jobs(&JobFilter::All, &Page::first(10)).await.unwrap();
    let reason = jobs[0].reason.as_ref().unwrap().to_string();
    assert!(reason.contains("runner group `Nowhere` does not exist"), "{reason}");
    let ended = world.manager.ended_runners(100).await.unwrap().len();
    assert!(ended < 20, "{ended} attempts in ten minutes");
    world.manager.configure(vec![linux(0, 5)]).await.unwrap();
    all_run(&mut world, 2, 30 * MINUTE).await;
    world.check(5);
}

#[tokio::test]
async fn two_blocked_groups_do_not_pass_the_same_jobs_back_and_forth() {
    let zones = [("zone-a".to_owned(), Some(0))].into();
    let groups = vec![linux(0, 5), group("other", &["large"], 0, 5, &["zone-a"])];
    let mut world = World::new(groups, Behaviour { zones, ..Behaviour::default() }).await;
    world.queue(&spec(&["large"]), 10);
    world.pass(10 * MINUTE).await;
    let tasks = world.manager.statistics().snapshot().tasks;
    let reconciled: u64 =
        tasks.iter().filter(|((kind, _), _)| *kind == "reconcile").map(|(_, count)| count).sum();
    assert!(reconciled < 400, "{reconciled} reconciles in ten minutes: {tasks:?}");
    world.cloud().set_behaviour(Behaviour::default());
    all_run(&mut world, 10, HOUR).await;
    world.check(10);
}

#[tokio::test]
async fn idle_runners_are_made_once_a_blocked_placement_opens_without_any_job() {
    let zones = [("zone-a".to_owned(), Some(0))].into();
    let mut world = World::new(vec![linux(2, 5)], Behaviour { zones, ..Behaviour::default() }).await;
    world.pass(2 * MINUTE).await;
    world.cloud().set_behaviour(Behaviour::default());
    world.until("two wait", 15 * MINUTE, |world| world.books().total.alive == 2).await;
}

#[tokio::test]
async fn a_group_that_goes_passes_its_waiting_jobs_on_and_vanishes() {
    let zones = [("zone-a".to_owned(), Some(0))].into();
    let mut world = World::new(vec![linux(0, 5)], Behaviour { zones, ..Behaviour::default() }).await;
    world.queue(&spec(&["large"]), 60);
    world.pass(MINUTE).await;
    world.manager.configure(vec![group("heir", &["large"], 0, 100, &["zone-b"])]).await.unwrap();
    world.cloud().set_behaviour(Behaviour::default());
    all_run(&mut world, 60, HOUR).await;
    world.pass(MINUTE).await;
    let left: Vec<_> = world.manager.groups().await.unwrap();
    assert_eq!(left.iter().map(|group| group.record.spec.name.as_str()).collect::<Vec<_>>(), ["heir"]);
}

#[tokio::test]
async fn a_task_that_got_lost_is_queued_again_by_a_sweep() {
    use runner_manager_core::queue::{Lane, TaskQueue};
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    world.crash().await;
    world.queue(&spec(&["large"]), 1);
    world.step().await;
    // Somebody takes the one task that the job's webhook queued, and loses it.
    let lane = Lane::control();
    for claim in world.storage.claim(&lane, 100, usize::MAX, MINUTE, Duration::ZERO).await.unwrap() {
        world.storage.ack(&claim.token).await.unwrap();
    }
    world.start();
    all_run(&mut world, 1, 15 * MINUTE).await;
}

#[tokio::test]
async fn a_double_that_cannot_be_deleted_keeps_nobody_from_being_looked_at() {
    let mut world =
        World::new(vec![linux(0, 5)], Behaviour { unique_names: false, ..Behaviour::default() }).await;
    world.queue(&spec(&["large"]).seconds(7_200), 2);
    world.until("both run", MINUTE, |world| world.github().books().jobs.in_progress == 2).await;
    world.pass(Duration::from_secs(5)).await;
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(5)).await.unwrap();
    let [doubled, lost] = [0, 1].map(|at| runners[at].value.clone());
    world.broken_image = true;
    foreign_instance(&world, world.owner.clone(), doubled.name.as_str()).await;
    let refuses =
        Rule { operation: Operation::Delete, chance: 1.0, fault: error(BackendErrorKind::Unavailable) };
    let behaviour = Behaviour { unique_names: false, faults: vec![refuses], ..Behaviour::default() };
    world.cloud().set_behaviour(behaviour);
    let now = runner_manager_core::clock::Clock::now(&*world.clock);
    world.cloud().end(lost.instance.as_ref().unwrap(), Ending::Vanished, now);
    world.pass(20 * MINUTE).await;
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(5)).await.unwrap();
    assert!(runners.iter().any(|runner| runner.value.name == doubled.name), "the busy one stays");
    assert!(runners.iter().all(|runner| runner.value.name != lost.name), "the lost one holds its slot");
}

#[tokio::test]
async fn a_backend_with_runners_on_it_cannot_be_taken_out_of_the_configuration() {
    use runner_manager_core::manager::{ConfigureError, Manager, Parts};
    let mut world = World::new(vec![linux(1, 5)], Behaviour::default()).await;
    world.until("one waits", MINUTE, |world| world.books().total.alive == 1).await;
    let without = Manager::new(Parts { backends: [].into(), ..world.parts() });
    let refused = without.configure(Vec::new()).await.unwrap_err();
    assert!(matches!(refused, ConfigureError::BackendInUse { runners: 1, .. }), "{refused}");
    assert!(world.manager.groups().await.unwrap()[0].record.draining.is_none(), "nothing was changed");
}

#[tokio::test]
async fn a_rate_limit_at_github_does_not_hold_up_a_forced_retirement() {
    use runner_manager_core::testing::simulator::{Effect, RequestFault};
    let mut world = World::new(vec![linux(1, 5)], Behaviour::default()).await;
    world.until("one waits", MINUTE, |world| world.books().total.alive == 1).await;
    let name =
        world.manager.runners(&RunnerFilter::All, &Page::first(1)).await.unwrap()[0].value.name.clone();
    let retry_after = Some(3_000);
    let limited = RequestFault::always(Effect::Answer { status: 429, retry_after }).on("DELETE", "/orgs");
    world.github().faults_mut().requests.push(limited);
    // Sweeps see it online; two readings later GitHub is asked to let it go, and refuses for fifty minutes.
    world.pass(6 * MINUTE).await;
    world.manager.retire(&name, false).await.unwrap();
    world.pass(10 * MINUTE).await;
    let state = |runners: Vec<runner_manager_core::store::Versioned<runner_manager_core::domain::Runner>>| {
        runners.into_iter().find(|runner| runner.value.name == name).map(|runner| runner.value.state)
    };
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(5)).await.unwrap();
    assert!(matches!(state(runners), Some(RunnerState::Retiring { .. })), "it waits for GitHub");
    world.manager.retire(&name, true).await.unwrap();
    world.pass(Duration::from_secs(30)).await;
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(5)).await.unwrap();
    assert_eq!(state(runners), None, "the instance needs no word of GitHub to go");
}

async fn foreign_instance(world: &World, owner: Owner, runner: &str) {
    let spec = InstanceSpec {
        runner: RunnerName::new(runner).unwrap(),
        group: name("linux"),
        owner,
        placement: linux(0, 1).placements[0].clone(),
        tags: [].into(),
        bootstrap: Bootstrap::Direct { jit_config: Secret::new("nothing that GitHub knows") },
    };
    let backend =
        runner_manager_backends::fake::FakeBackend::in_process(world.cloud.clone(), world.clock.clone());
    backend.create(&spec).await.unwrap();
}

#[tokio::test]
async fn what_no_record_explains_is_removed_and_what_is_foreign_is_not() {
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    world.broken_image = true;
    let stranger = Owner::new(DeploymentName::new("rm").unwrap(), &Secret::new("another key"));
    foreign_instance(&world, world.owner.clone(), "rm-linux-lost").await;
    foreign_instance(&world, stranger.clone(), "rm-linux-theirs").await;
    assert_eq!(Limits::default().start_timeout, 10 * MINUTE);
    world.pass(9 * MINUTE).await;
    assert_eq!(world.books().total.alive, 2, "it may still be starting");
    world.pass(12 * MINUTE).await;
    let books = world.books();
    assert_eq!(books.total.alive, 1);
    assert!(books.lives.iter().all(|life| (life.owner == stranger) == life.deleted_at.is_none()));
    let ended = world.manager.ended_runners(10).await.unwrap();
    assert_eq!(ended[0].why, RetireReason::Orphan);
}

#[tokio::test]
async fn a_forgotten_instance_that_runs_a_job_is_adopted() {
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(3_600), 1);
    world.until("it runs", MINUTE, |world| world.github().books().jobs.in_progress == 1).await;
    // The store forgets everything.
    world.crash().await;
    world.storage =
        std::sync::Arc::new(runner_manager_core::embedded::EmbeddedStorage::in_memory(world.clock.clone()));
    world.start();
    world.manager.configure(vec![linux(0, 5)]).await.unwrap();
    world.pass(20 * MINUTE).await;
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(10)).await.unwrap();
    assert!(matches!(runners[0].value.state, RunnerState::Busy { .. }), "{runners:?}");
    all_run(&mut world, 1, 2 * HOUR).await;
    world.check(1);
}

#[tokio::test]
async fn a_sweep_that_would_condemn_too_much_stops() {
    let mut world = World::new(vec![linux(0, 30)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(7_200), 20);
    world.until("all run", 5 * MINUTE, |world| world.github().books().jobs.in_progress == 20).await;
    world.cloud().set_behaviour(Behaviour::default());
    // A list that shows what was before any of them was made.
    for _ in 0..4 {
        world.cloud().inject(Operation::List, Some(Fault::Stale(9 * MINUTE)));
    }
    world.pass(8 * MINUTE).await;
    let held = world.manager.statistics().snapshot().sweeps_held;
    assert!(held.contains_key("backend cloud"), "{held:?}");
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(50)).await.unwrap();
    assert!(runners.iter().all(|runner| matches!(runner.value.state, RunnerState::Busy { .. })));
    all_run(&mut world, 20, 4 * HOUR).await;
    world.check(20);
}

#[tokio::test]
async fn an_operator_retires_an_idle_runner_in_order_and_a_busy_one_only_by_force() {
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(1_800), 1);
    world.until("it runs", MINUTE, |world| world.github().books().jobs.in_progress == 1).await;
    world.pass(Duration::from_secs(5)).await;
    let runner =
        world.manager.runners(&RunnerFilter::All, &Page::first(1)).await.unwrap()[0].value.name.clone();
    let refused = world.manager.retire(&runner, false).await.unwrap();
    assert!(matches!(refused, Retirement::Busy { job: Some(_) }), "{refused:?}");
    world.pass(10 * MINUTE).await;
    assert_eq!(world.books().total.alive, 1, "a running job was killed");
    assert_eq!(world.manager.retire(&runner, true).await.unwrap(), Retirement::Retiring);
    world.until("it is gone", 5 * MINUTE, |world| world.books().total.alive == 0).await;
    let nobody = RunnerName::new("rm-linux-none").unwrap();
    assert_eq!(world.manager.retire(&nobody, true).await.unwrap(), Retirement::Unknown);
}

#[tokio::test]
async fn a_stop_in_mid_work_loses_nothing() {
    let behaviour = Behaviour { create_latency: Duration::from_secs(30), ..Behaviour::default() };
    let mut world = World::new(vec![linux(0, 40)], behaviour).await;
    world.queue(&spec(&["large"]), 40);
    world.until("some are asked for", MINUTE, |world| world.books().calls(Operation::Create) > 10).await;
    world.stop().await;
    world.start();
    all_run(&mut world, 40, HOUR).await;
    world.check(40);
}

/// The process dies after any number of steps, again and again, and each time the next one carries on.
#[tokio::test]
async fn a_crash_at_any_step_loses_nothing_and_makes_nothing_twice() {
    let mut adopted = 0;
    for step in 0..60 {
        let behaviour = Behaviour {
            create_latency: Duration::from_secs(2),
            boot_time: Duration::from_secs(3),
            call_latency: Duration::from_millis(500),
            delete_time: Duration::from_secs(2),
            ..Behaviour::default()
        };
        let mut world = World::new(vec![linux(0, 6)], behaviour).await;
        world.queue(&spec(&["large"]), 8);
        for _ in 0..2 {
            for _ in 0..step {
                world.step().await;
            }
            world.crash().await;
            world.start();
        }
        all_run(&mut world, 8, 2 * HOUR).await;
        world.check(6);
        adopted += world.manager.statistics().snapshot().adopted;
    }
    assert_eq!(adopted, 0, "a crash left an instance without a record");
}

#[tokio::test]
async fn github_out_of_order_for_ten_minutes_costs_nobody_a_job() {
    use runner_manager_core::testing::simulator::{Effect, RequestFault};
    let mut world = World::new(vec![linux(5, 50)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(1_200), 10);
    world.until("all run", 5 * MINUTE, |world| world.github().books().jobs.in_progress == 10).await;
    let until = runner_manager_core::clock::Clock::now(&*world.clock) + jiff::SignedDuration::from_mins(10);
    for status in [403, 429, 502] {
        let fault = RequestFault::always(Effect::Answer { status, retry_after: None })
            .with_probability(0.4)
            .until(until);
        world.github().faults_mut().requests.push(fault);
    }
    world.queue(&spec(&["large"]), 20);
    world.until("all have run", 2 * HOUR, |world| world.completed() == 30).await;
    world.check(50);
}
