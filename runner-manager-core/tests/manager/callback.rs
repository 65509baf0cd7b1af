//! Machines that call back: registered when they ask, heard, and asked to leave.

use std::time::Duration;

use jiff::SignedDuration;
use runner_manager_backends::fake::Behaviour;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{
    GitHubRunnerId, JobId, Leaving, RetireReason, Runner, RunnerName, RunnerState, Scope, Secret, TokenKey,
};
use runner_manager_core::manager::{Caller, Denied, Pulse, Reply};
use runner_manager_core::store::{Page, RunnerFilter, Version};
use runner_manager_core::testing::simulator::{DurationRange, Effect, Faults, RequestFault};
use tokio::task::JoinSet;

use crate::machine::Habits;
use crate::world::{World, group, spec};
use crate::{HOUR, MINUTE, linux};

/// A world whose machines call back, after half a minute of booting.
async fn calling(min_idle: u32, max: u32, habits: Habits) -> World {
    let behaviour = Behaviour { callback: true, boot_time: Duration::from_secs(30), ..Behaviour::default() };
    let mut world = World::new(vec![linux(min_idle, max)], behaviour).await;
    world.machine = habits;
    world
}

async fn runners(world: &World) -> Vec<Runner> {
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(100)).await.unwrap();
    runners.into_iter().map(|runner| runner.value).collect()
}

async fn version(world: &World) -> Version {
    world.manager.runners(&RunnerFilter::All, &Page::first(1)).await.unwrap()[0].version
}

fn registered(world: &World) -> u64 {
    world.github().books().runners.registered
}

fn is_online(world: &World) -> bool {
    world.github().runners().any(|runner| runner.session.is_some())
}

/// How often GitHub was asked for one runner or for its removal.
fn looks(world: &World) -> u64 {
    let requests = world.github().books().requests.clone();
    let of_one = |route: &str| route.contains("/actions/runners/{") && !route.starts_with("POST");
    requests.iter().filter(|(route, _)| of_one(route)).map(|(_, count)| count).sum()
}

pub(crate) fn caller(world: &World, runner: &RunnerName) -> Caller {
    let token = TokenKey::new(Secret::new("a secret key")).token(runner);
    world.manager.caller(runner.as_str(), token.expose()).expect("it is the runner's token")
}

/// Each answer of GitHub takes ten seconds from here on.
fn slow_github(world: &World) {
    let ten = SignedDuration::from_secs(10);
    let slow = Effect::Delay(DurationRange { min: ten, max: ten });
    world.github().set_faults(Faults { requests: vec![RequestFault::always(slow)], ..Faults::default() });
}

/// A runner whose machine boots and never says anything: what it would say, the test says.
async fn mute(max: u32) -> (World, Caller) {
    let mut world = calling(0, max, Habits::default()).await;
    world.broken_image = true;
    world.queue(&spec(&["large"]), 1);
    world.pass(MINUTE).await;
    let runner = runners(&world).await.remove(0);
    assert_eq!(runner.state, RunnerState::Booting);
    let caller = caller(&world, &runner.name);
    (world, caller)
}

#[tokio::test]
async fn a_runner_is_registered_when_its_machine_asks_and_not_before() {
    let mut world = calling(0, 10, Habits::default()).await;
    world.queue(&spec(&["large"]), 3);
    world.pass(Duration::from_secs(29)).await;
    assert_eq!((world.books().total.created, registered(&world)), (3, 0));
    world.until("all have run", 5 * MINUTE, |world| world.completed() == 3).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(10);
    assert_eq!(registered(&world), 3);
    let ended = world.manager.ended_runners(10).await.unwrap();
    assert_eq!(ended.len(), 3);
    for runner in ended {
        let told: Vec<&str> = runner.timeline.iter().map(|told| told.what.as_str()).collect();
        assert_eq!(
            told[..3],
            ["the script began", "asked for its JIT config", "GitHub registered it and gave JIT config 1"]
        );
        assert!(
            told[3..].iter().any(|told| told.starts_with("job ") && told.ends_with(" begins")),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn a_lost_answer_is_made_up_for_and_leaves_no_registration() {
    let mut world = calling(0, 10, Habits { lost: 2, ..Habits::default() }).await;
    world.queue(&spec(&["large"]), 1);
    world.until("it has run", 5 * MINUTE, |world| world.completed() == 1).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(1);
    assert_eq!((registered(&world), world.books().total.created), (3, 1));
}

#[tokio::test]
async fn who_never_gets_its_answer_is_refused_in_the_end_and_replaced() {
    let mut world = calling(0, 10, Habits { lost: 100, ..Habits::default() }).await;
    world.queue(&spec(&["large"]), 1);
    world.until("it was refused", 5 * MINUTE, |world| registered(world) >= 5).await;
    world.machine = Habits::default();
    world.until("it has run", HOUR, |world| world.completed() == 1).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(1);
}

#[tokio::test]
async fn a_token_opens_its_own_runner_alone() {
    let (world, caller) = mute(1).await;
    let token = TokenKey::new(Secret::new("a secret key")).token(caller.runner());
    let (name, token) = (caller.runner().as_str(), token.expose());
    assert!(world.manager.caller(name, token).is_some());
    for (name, token) in
        [("rm-linux-other", token), (name, ""), (name, &token[1..]), ("", token), ("../x", token)]
    {
        assert!(world.manager.caller(name, token).is_none(), "{name} {token}");
    }
}

#[tokio::test]
async fn calls_of_several_replicas_at_once_mint_one() {
    let (mut world, caller) = mute(1).await;
    let other = world.replica(vec![linux(0, 1)]).await;
    slow_github(&world);
    let mut calls = JoinSet::new();
    for manager in [world.manager.clone(), other.manager.clone(), world.manager.clone()] {
        let caller = caller.clone();
        calls.spawn(async move { manager.jit_config(&caller, "a word").await });
    }
    world.pass(MINUTE).await;
    let answers = calls.join_all().await;
    let given = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!((given, registered(&world)), (1, 1), "{answers:?}");
    let waits = |answer: &Result<Secret, Denied>| matches!(answer, Err(Denied::NotNow(_)));
    assert_eq!(answers.iter().filter(|answer| waits(answer)).count(), 2, "{answers:?}");
    assert_eq!(world.github().books().runners.alive, 1);
}

#[tokio::test]
async fn another_start_and_a_listener_that_was_seen_get_nothing() {
    let (mut world, caller) = mute(1).await;
    world.manager.jit_config(&caller, "a word").await.unwrap();
    let second = world.manager.jit_config(&caller, "another word").await;
    assert!(matches!(second, Err(Denied::Refused(_))), "{second:?}");
    world.manager.hear_of_listener(&caller).await.unwrap();
    let again = world.manager.jit_config(&caller, "a word").await;
    assert!(matches!(again, Err(Denied::Refused(_))), "{again:?}");
    assert_eq!(registered(&world), 1);
    assert!(matches!(runners(&world).await[0].state, RunnerState::Idle { leaving: None }));
    world.manager.retire(caller.runner(), true).await.unwrap();
    let retired = world.manager.jit_config(&caller, "a word").await;
    assert!(matches!(retired, Err(Denied::Gone)), "{retired:?}");
    world.until("it is gone", HOUR, World::is_clean).await;
    for gone in [
        world.manager.jit_config(&caller, "a word").await.map(drop),
        world.manager.hear_of_progress(&caller, "began").await,
        world.manager.hear_of_pulse(&caller, Pulse::Idle).await.map(drop),
        world.manager.start_script(&caller).await.map(drop),
    ] {
        assert!(matches!(gone, Err(Denied::Gone)), "{gone:?}");
    }
}

/// GitHub registers it, and the manager dies before it hears of that.
#[tokio::test]
async fn a_manager_that_dies_while_it_mints_leaves_nothing() {
    let (mut world, caller) = mute(1).await;
    slow_github(&world);
    let manager = world.manager.clone();
    let dying = caller.clone();
    let mut calls = JoinSet::new();
    calls.spawn(async move { manager.jit_config(&dying, "a word").await });
    world.until("GitHub has it", MINUTE, |world| registered(world) == 1).await;
    calls.abort_all();
    world.github().set_faults(Faults::default());
    world.crash().await;
    world.start();
    let soon = world.manager.jit_config(&caller, "a word").await;
    assert!(matches!(soon, Err(Denied::NotNow(_))), "{soon:?}");
    world.pass(Duration::from_secs(21)).await;
    world.manager.jit_config(&caller, "a word").await.unwrap();
    assert_eq!((registered(&world), world.github().books().runners.alive), (2, 1));
}

/// GitHub registers it, and before it says so the runner is retired: a machine with that config would run jobs that the
/// record does not know of.
#[tokio::test]
async fn who_is_retired_while_github_is_asked_gets_nothing_and_nothing_is_left() {
    for force in [false, true] {
        let (mut world, caller) = mute(1).await;
        slow_github(&world);
        let (manager, asking) = (world.manager.clone(), caller.clone());
        let mut calls = JoinSet::new();
        calls.spawn(async move { manager.jit_config(&asking, "a word").await });
        world.until("GitHub has it", MINUTE, |world| registered(world) == 1).await;
        // Its answer is on its way. All other answers come at once.
        world.github().set_faults(Faults::default());
        world.manager.retire(caller.runner(), force).await.unwrap();
        world.pass(Duration::from_secs(20)).await;
        let answer = calls.join_next().await.unwrap().unwrap();
        assert!(matches!(answer, Err(Denied::Gone | Denied::NotNow(_))), "forced {force}: {answer:?}");
        assert_eq!(world.github().books().runners.alive, 0, "forced {force}");
    }
}

#[tokio::test]
async fn a_group_that_github_does_not_have_makes_no_machine() {
    let mut spec_of_group = group("linux", &["large"], 0, 10, &["zone-a"]);
    spec_of_group.github_group.name = "Nowhere".to_owned();
    let behaviour = Behaviour { callback: true, ..Behaviour::default() };
    let mut world = World::new(vec![spec_of_group], behaviour).await;
    world.queue(&spec(&["large"]), 1);
    world.pass(5 * MINUTE).await;
    assert_eq!((world.books().total.created, registered(&world)), (0, 0));
    let ended = world.manager.ended_runners(10).await.unwrap();
    assert!(matches!(&ended[0].why, RetireReason::RegistrationFailed { .. }), "{ended:?}");
}

#[tokio::test]
async fn machines_that_fail_set_their_placement_back_and_say_why() {
    let mut world = calling(0, 10, Habits { broken: true, ..Habits::default() }).await;
    world.queue(&spec(&["large"]), 1);
    world.pass(20 * MINUTE).await;
    let made = world.books().total.created;
    assert!((2..15).contains(&made), "{made} machines in twenty minutes");
    let ended = world.manager.ended_runners(1).await.unwrap().remove(0);
    let told = "download: the runner cannot be had";
    assert_eq!(ended.why, RetireReason::MachineEnded { failed: true, detail: told.to_owned() });
    assert_eq!(ended.timeline.last().unwrap().what, format!("failed: {told}"));
    let job = world.github().jobs().next().unwrap().id.0;
    let why = world.manager.job(JobId(job)).await.unwrap().unwrap();
    assert!(why.status.reason.unwrap().to_string().contains(told));
    world.machine = Habits::default();
    world.until("it has run", HOUR, |world| world.completed() == 1).await;
}

#[tokio::test]
async fn an_idle_machine_is_asked_and_leaves_without_a_look_at_github() {
    let mut world = calling(1, 3, Habits::default()).await;
    world.until("it is online", 2 * MINUTE, is_online).await;
    world.pass(5 * MINUTE).await;
    let before = looks(&world);
    world.manager.configure(vec![linux(0, 3)]).await.unwrap();
    world.until("it is gone", 12 * MINUTE, World::is_clean).await;
    let ended = world.manager.ended_runners(1).await.unwrap().remove(0);
    assert_eq!(ended.why, RetireReason::Surplus);
    assert_eq!(looks(&world) - before, 1, "the removal alone: {:?}", world.github().books().requests);
}

#[tokio::test]
async fn a_machine_that_says_nothing_is_looked_at_from_outside() {
    let mut world = calling(1, 3, Habits { silent: true, ..Habits::default() }).await;
    world.until("it is online", 2 * MINUTE, is_online).await;
    // As if it had spoken once: it falls silent later.
    world.pass(5 * MINUTE).await;
    let runner = runners(&world).await.remove(0);
    world.manager.hear_of_listener(&caller(&world, &runner.name)).await.unwrap();
    world.manager.configure(vec![linux(0, 3)]).await.unwrap();
    world.manager.retire(&runner.name, false).await.unwrap();
    let leaving = runners(&world).await.remove(0);
    let RunnerState::Idle { leaving: Some(Leaving { asked_until: Some(until), .. }) } = leaving.state else {
        panic!("{leaving:?}");
    };
    world.step_until(until).await;
    world.pass(Duration::ZERO).await;
    assert!(!world.is_clean());
    world.until("it is gone", 12 * MINUTE, World::is_clean).await;
    assert!(world.clock.now() > until);
}

#[tokio::test]
async fn a_job_word_keeps_a_runner_that_is_to_go() {
    let mut world = calling(1, 3, Habits { silent: true, ..Habits::default() }).await;
    world.until("it is online", 2 * MINUTE, is_online).await;
    let runner = runners(&world).await.remove(0);
    let caller = caller(&world, &runner.name);
    world.manager.hear_of_listener(&caller).await.unwrap();
    world.manager.retire(&runner.name, false).await.unwrap();
    assert_eq!(world.manager.hear_of_pulse(&caller, Pulse::Idle).await.unwrap(), Reply::Leave);
    assert_eq!(world.manager.hear_of_pulse(&caller, Pulse::Busy).await.unwrap(), Reply::Stay);
    let is_busy = async |world: &World| {
        let runner = runners(world).await.into_iter().find(|other| other.name == runner.name);
        assert_eq!(runner.unwrap().state, RunnerState::Busy { job: None });
    };
    is_busy(&world).await;
    world.pass(30 * MINUTE).await;
    is_busy(&world).await;
    // Its last word does not end what it runs, by the record.
    world.manager.hear_of_end(&caller, true, "ended: who knows").await.unwrap();
    is_busy(&world).await;
}

#[tokio::test]
async fn a_listener_whose_registration_was_taken_is_replaced() {
    let mut world = calling(1, 3, Habits::default()).await;
    world.until("it is online", 2 * MINUTE, is_online).await;
    let taken = runners(&world).await.remove(0);
    let id = world.github().runners().next().unwrap().id;
    let scope = Scope::organization("acme").unwrap();
    world.account().github.remove_runner(&scope, GitHubRunnerId(id.0)).await.unwrap();
    let replaced = |world: &World| registered(world) == 2 && is_online(world);
    world.until("another one is online", 3 * MINUTE, replaced).await;
    let ended = world.manager.ended_runners(1).await.unwrap().remove(0);
    assert_eq!(ended.name, taken.name);
    assert!(ended.why.to_string().contains("listener-ended"), "{}", ended.why);
}

#[tokio::test]
async fn a_heartbeat_without_news_writes_nothing() {
    let mut world = calling(1, 3, Habits::default()).await;
    world.until("it is online", 2 * MINUTE, is_online).await;
    world.pass(MINUTE).await;
    let before = version(&world).await;
    world.pass(10 * MINUTE).await;
    assert_eq!(version(&world).await, before);
    let runner = runners(&world).await.remove(0);
    let caller = caller(&world, &runner.name);
    for _ in 0..100 {
        assert_eq!(world.manager.hear_of_pulse(&caller, Pulse::Idle).await.unwrap(), Reply::Stay);
    }
    assert_eq!(version(&world).await, before);
}
