//! Webhooks that did not get through, and that GitHub delivers again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runner_manager_backends::fake::Behaviour;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{FoundHook, HookPlace, HookRecord, Scope};
use runner_manager_core::manager::{Account, Settings};
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::testing::simulated::SimulatorTransport;
use runner_manager_core::testing::simulator::{
    AppHook, AppSettings, Effect, FaultKind, JobSpec, RequestFault,
};

use crate::world::{SECRET, WEBHOOK_URL, World, name, spec};
use crate::{HOUR, MINUTE, all_run, linux};

/// How often the log is read.
const INTERVAL: Duration = Duration::from_mins(2);

/// Only what is redelivered tells of jobs: they are listed too seldom.
fn leading_to(settings: &mut Settings, url: &str) {
    settings.webhook_url = Some(url.to_owned());
    settings.redeliver_interval = Some(INTERVAL);
    settings.recover_interval = HOUR;
}

/// A world whose manager has failed webhooks redelivered, and knows of lost ones by nothing else.
async fn redelivering(max: u32) -> World {
    let mut world = World::new(vec![linux(0, max)], Behaviour::default()).await;
    world.restart_with(|settings| leading_to(settings, WEBHOOK_URL)).await;
    // Now the first listing of jobs is over.
    world.pass(MINUTE).await;
    world
}

fn redelivered(world: &World) -> u64 {
    world.github().books().webhooks.redelivered
}

/// How often GitHub was asked for each delivery.
fn by_delivery(world: &World) -> BTreeMap<String, u64> {
    world.github().books().redeliveries.clone()
}

fn requests(world: &World, route: &str) -> u64 {
    world.github().books().requests.get(route).copied().unwrap_or_default()
}

async fn hook(world: &World) -> HookRecord {
    let hooks = world.manager.hooks().await.unwrap();
    let is_scope = |hook: &&HookRecord| matches!(hook.place, HookPlace::Scope(_));
    hooks.iter().find(is_scope).cloned().unwrap()
}

#[tokio::test]
async fn webhooks_that_failed_are_redelivered_once() {
    let mut world = redelivering(10).await;
    world.deliver = |_| false;
    world.queue(&spec(&["large"]), 5);
    world.pass(Duration::from_secs(10)).await;
    world.deliver = |_| true;
    // The receiver is tried with one, and then takes the others.
    all_run(&mut world, 5, 2 * INTERVAL).await;
    world.check(10);
    assert_eq!(world.books().total.created, 5);
    world.pass(HOUR).await;
    assert_eq!(by_delivery(&world).into_values().collect::<Vec<_>>(), [1; 5]);
    let counted = world.manager.statistics().snapshot().redeliveries;
    assert_eq!((counted["asked"], counted["taken"], counted.len()), (5, 5, 2), "{counted:?}");
    assert!(hook(&world).await.failed.is_empty());
}

#[tokio::test]
async fn what_somebody_redelivered_is_left_alone() {
    let mut world = redelivering(10).await;
    world.deliver = |_| false;
    world.queue(&spec(&["large"]), 2);
    world.pass(Duration::from_secs(10)).await;
    let now = world.clock.now();
    assert_eq!(world.github().redeliver_failed(now), 2, "a person clicks");
    world.pass(HOUR).await;
    assert_eq!(redelivered(&world), 2);
    assert_eq!(world.manager.statistics().snapshot().redeliveries.get("asked"), None);
}

#[tokio::test]
async fn a_receiver_that_is_down_costs_a_try_a_minute() {
    let mut world = redelivering(50).await;
    world.deliver = |_| false;
    world.queue(&spec(&["large"]), 40);
    world.pass(20 * MINUTE).await;
    assert!((5..=25).contains(&redelivered(&world)), "{}", redelivered(&world));
    world.deliver = |_| true;
    let given_up = redelivered(&world);
    world.pass(10 * MINUTE).await;
    let counted = world.manager.statistics().snapshot().redeliveries;
    assert_eq!((counted["asked"], counted["failed"] + counted["taken"]), (40, 40), "{counted:?}");
    assert!(counted["failed"] <= given_up, "{counted:?}");
}

#[tokio::test]
async fn what_is_delivered_late_brings_no_job_back() {
    let mut world = redelivering(10).await;
    let seldom = |settings: &mut Settings| {
        leading_to(settings, WEBHOOK_URL);
        settings.redeliver_interval = Some(10 * MINUTE);
        settings.recover_interval = Duration::from_secs(30);
    };
    world.restart_with(seldom).await;
    world.pass(MINUTE).await;
    world.deliver = |action| action != "queued";
    world.queue(&spec(&["large"]), 5);
    all_run(&mut world, 5, 5 * MINUTE).await;
    world.deliver = |_| true;
    world.pass(HOUR).await;
    assert_eq!(redelivered(&world), 5);
    assert_eq!(world.books().total.created, 5, "no runner for a job that has ended");
    world.check(10);
}

#[tokio::test]
async fn what_may_not_be_read_is_shown_and_stops_nobody() {
    let mut world = redelivering(10).await;
    world.stop().await;
    for path in ["/orgs/*/hooks", "/orgs/*/hooks/*/deliveries"] {
        let refusal = RequestFault::always(Effect::Answer { status: 404, retry_after: None });
        world.github().faults_mut().requests = vec![refusal.on("GET", path)];
        world.start();
        world.deliver = |_| false;
        world.queue(&spec(&["large"]), 2);
        world.pass(HOUR + 5 * MINUTE).await;
        let trouble = hook(&world).await.trouble.unwrap();
        assert!(trouble.contains("admin:org_hook") && trouble.contains("status 404"), "{trouble}");
        let asked = requests(&world, "GET /orgs/{org}/hooks");
        world.pass(2 * HOUR).await;
        assert!(requests(&world, "GET /orgs/{org}/hooks") <= asked + 3, "it is asked seldom");
        world.stop().await;
    }
    world.github().faults_mut().requests.clear();
    world.start();
    world.deliver = |_| true;
    all_run(&mut world, 4, HOUR).await;
    world.pass(HOUR).await;
    let hook = hook(&world).await;
    assert_eq!(hook.trouble, None);
    assert!(matches!(hook.found, Some(FoundHook::Numbered(_))));
}

#[tokio::test]
async fn a_quiet_log_costs_next_to_nothing() {
    let mut world = redelivering(10).await;
    world.queue(&spec(&["large"]), 1);
    all_run(&mut world, 1, 5 * MINUTE).await;
    world.pass(10 * MINUTE).await;
    let log = "GET /orgs/{org}/hooks/{id}/deliveries";
    let free = |world: &World| world.github().books().statuses.get(&304).copied().unwrap_or_default();
    let (asked, unchanged) = (requests(&world, log), free(&world));
    world.pass(HOUR).await;
    let (asked, unchanged) = (requests(&world, log) - asked, free(&world) - unchanged);
    assert!((25..=31).contains(&asked), "every two minutes, not {asked} times");
    assert!(unchanged >= asked - 1, "{unchanged} of {asked} were free");
}

#[tokio::test]
async fn a_crash_around_a_redelivery_asks_at_most_once_more() {
    for steps in 0..12 {
        let mut world = redelivering(10).await;
        world.deliver = |_| false;
        world.queue(&spec(&["large"]), 1);
        world.pass(Duration::from_secs(10)).await;
        world.deliver = |_| true;
        world.until("GitHub is asked", 2 * INTERVAL, |world| redelivered(world) == 1).await;
        for _ in 0..steps {
            world.step().await;
        }
        world.crash().await;
        world.start();
        all_run(&mut world, 1, 10 * MINUTE).await;
        world.pass(HOUR).await;
        assert_eq!(redelivered(&world), 1, "the log shows it, after {steps} steps");
        world.check(10);
    }
}

#[tokio::test]
async fn a_redelivery_whose_answer_is_lost_is_looked_up_in_the_log() {
    let mut world = redelivering(10).await;
    world.deliver = |_| false;
    world.queue(&spec(&["large"]), 3);
    world.pass(Duration::from_secs(10)).await;
    world.deliver = |_| true;
    let lost = RequestFault::always(Effect::LoseReply).on("POST", "/orgs/*/hooks/*/deliveries/*/attempts");
    world.github().faults_mut().requests.push(lost);
    all_run(&mut world, 3, 5 * INTERVAL).await;
    world.pass(HOUR).await;
    assert!(world.github().books().fault(FaultKind::LostReply) >= 3);
    assert_eq!(by_delivery(&world).into_values().collect::<Vec<_>>(), [1; 3]);
    let counted = world.manager.statistics().snapshot().redeliveries;
    assert_eq!((counted["unclear"], counted["taken"]), (3, 3), "{counted:?}");
}

#[tokio::test]
async fn a_hook_that_leads_elsewhere_is_left_alone() {
    let mut world = redelivering(10).await;
    world.restart_with(|settings| leading_to(settings, "http://elsewhere/webhook")).await;
    world.deliver = |_| false;
    world.queue(&spec(&["large"]), 2);
    world.pass(30 * MINUTE).await;
    assert_eq!(redelivered(&world), 0);
    assert_eq!(hook(&world).await.found, Some(FoundHook::Absent));
}

#[tokio::test]
async fn the_hook_of_an_app_is_read_once_for_all_scopes() {
    const APP: u64 = 77;
    let mut other = linux(0, 10);
    other.name = name("other");
    other.scope = Scope::organization("umbrella").unwrap();
    let mut world = World::new(vec![linux(0, 10), other], Behaviour::default()).await;
    world.stop().await;
    world.github().install_app(AppSettings {
        id: APP,
        hook: Some(AppHook { url: WEBHOOK_URL.to_owned(), secret: SECRET.to_owned() }),
        ..AppSettings::default()
    });
    let (github, clock) = (world.github.clone(), world.clock.clone());
    world.adjust = Box::new(move |parts| {
        let transport = Arc::new(SimulatorTransport::app(github.clone(), clock.clone(), APP));
        parts.github = Account::new(Arc::new(RestGitHub::new(transport, clock.clone()))).into();
        leading_to(&mut parts.settings, WEBHOOK_URL);
    });
    world.start();
    world.pass(3 * MINUTE).await;
    world.deliver = |_| false;
    world.queue(&JobSpec::new("umbrella/app", ["large"]).seconds(30), 2);
    world.pass(Duration::from_secs(10)).await;
    world.deliver = |_| true;
    all_run(&mut world, 2, 3 * INTERVAL).await;
    let before = world.clock.now();
    world.pass(HOUR).await;
    let minutes = world.clock.now().duration_since(before).as_mins();
    let log = requests(&world, "GET /app/hook/deliveries");
    assert!(log <= u64::try_from(minutes).unwrap(), "{log} readings of one log in {minutes} minutes");
    let logs_of_scopes = requests(&world, "GET /orgs/{org}/hooks/{id}/deliveries");
    assert!(logs_of_scopes <= 4, "{logs_of_scopes}");
    assert_eq!(by_delivery(&world).into_values().collect::<Vec<_>>(), [1; 2]);
}

#[tokio::test]
async fn it_can_be_switched_off() {
    for (url, interval) in [(None, Some(INTERVAL)), (Some(WEBHOOK_URL.to_owned()), None)] {
        let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
        let off = move |settings: &mut Settings| {
            settings.webhook_url.clone_from(&url);
            settings.redeliver_interval = interval;
        };
        world.restart_with(off).await;
        world.deliver = |_| false;
        world.queue(&spec(&["large"]), 2);
        world.pass(HOUR).await;
        assert_eq!((redelivered(&world), requests(&world, "GET /orgs/{org}/hooks")), (0, 0));
        assert!(world.manager.hooks().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_scope_that_is_configured_no_more_is_forgotten() {
    let mut world = redelivering(10).await;
    assert_eq!(world.manager.hooks().await.unwrap().len(), 1);
    let mut other = linux(0, 10);
    other.scope = Scope::organization("umbrella").unwrap();
    other.name = name("other");
    world.manager.reconfigure(vec![other]).await.unwrap();
    world.pass(30 * MINUTE).await;
    let hooks = world.manager.hooks().await.unwrap();
    let places: Vec<String> = hooks.iter().map(|hook| hook.place.to_string()).collect();
    assert_eq!(places, ["organization:umbrella"]);
}

/// While the log shows that all got through, jobs are listed less often; and as often as ever once one was found that
/// GitHub sent no webhook of.
#[tokio::test]
async fn what_github_kept_silent_about_is_found_by_the_listing_that_is_put_off() {
    let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
    world.restart_with(|settings| settings.webhook_url = Some(WEBHOOK_URL.to_owned())).await;
    world.queue(&spec(&["large"]), 1);
    all_run(&mut world, 1, 5 * MINUTE).await;
    world.pass(10 * MINUTE).await;
    let runs = "GET /repos/{owner}/{repo}/actions/runs";
    let before = requests(&world, runs);
    world.github().faults_mut().webhooks.lost = 1.0;
    world.queue(&spec(&["large"]), 1);
    all_run(&mut world, 2, 20 * MINUTE).await;
    assert!(requests(&world, runs) <= before + 7, "one listing of all kinds of runs at most, and one of two");
    world.queue(&spec(&["large"]), 1);
    all_run(&mut world, 3, 6 * MINUTE).await;
}
