//! A company's day: many jobs over many repositories, with a GitHub that forgets, repeats itself, lies and fails.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use runner_manager_backends::fake::Behaviour;
use runner_manager_core::clock::Clock;
use runner_manager_core::random::{Random, SeededRandom};
use runner_manager_core::testing::simulator::{Effect, FaultKind, JobSpec, RequestFault, WebhookFaults};

use crate::world::{WEBHOOK_URL, World, spec};
use crate::{HOUR, MINUTE, linux};

/// How often GitHub is asked which jobs wait.
const INTERVAL: Duration = Duration::from_mins(5);

/// A job of one of ten repositories that runs for some minutes.
fn some_job(random: &dyn Random) -> JobSpec {
    let repository = format!("acme/app-{}", random.next_u64() % 10);
    JobSpec::new(&repository, ["large"]).seconds(30 + random.next_u64() % 270)
}

/// By GitHub's own books: no registration more than jobs that wait or run.
fn no_runner_more_than_demand(world: &World) {
    let github = world.github();
    let (runners, jobs) = (github.books().runners.alive, github.books().jobs);
    assert!(runners <= jobs.queued + jobs.in_progress, "{runners} runners for {jobs:?}");
}

/// Queues jobs one by one over a time.
async fn queue_over(world: &mut World, count: u32, time: Duration, check: impl Fn(&World)) {
    let random = SeededRandom::new(5);
    for _ in 0..count {
        world.queue(&some_job(&random), 1);
        let end = world.clock.now() + SignedDuration::try_from(time / count).unwrap();
        while world.clock.now() < end {
            world.step_until(end).await;
            check(world);
        }
    }
}

/// The reads that GitHub counts, by route: an answer that nothing has changed is not counted.
fn reads_by_route(world: &World) -> BTreeMap<String, u64> {
    let github = world.github();
    let books = github.books();
    let asked = books.requests.iter().filter(|(route, _)| route.starts_with("GET"));
    let free = |route: &str| books.unchanged.get(route).copied().unwrap_or_default();
    asked.map(|(route, count)| (route.clone(), count - free(route))).filter(|(_, count)| *count > 0).collect()
}

/// Holds the reads of each kind against what they may cost; all others together may cost 25. Tells what was asked.
fn expect_reads(world: &World, at_most: &[(&str, u64)]) -> String {
    let counted = reads_by_route(world);
    let all: u64 = counted.values().sum();
    let unchanged: u64 = world.github().books().unchanged.values().sum();
    let mut rest = all;
    for (kind, most) in at_most {
        let of_kind = counted.iter().filter(|(route, _)| route.ends_with(kind));
        let count: u64 = of_kind.map(|(_, count)| count).sum();
        assert!(count <= *most, "{count} reads of {kind}, at most {most}");
        rest -= count;
    }
    assert!(rest <= 25, "{rest} reads of other kinds: {counted:?}");
    format!("{} writes, {all} reads, {unchanged} more with 304: {counted:?}", writes(world))
}

fn writes(world: &World) -> u64 {
    let github = world.github();
    let asked = github.books().requests.iter().filter(|(route, _)| !route.starts_with("GET"));
    asked.map(|(_, count)| *count).sum()
}

/// What an hour with a thousand jobs costs: one write a job, and reads that hardly depend on them.
#[tokio::test]
async fn a_thousand_jobs_in_an_hour_cost_a_write_each_and_few_reads() {
    let mut world = World::new(vec![linux(0, 400)], Behaviour::default()).await;
    world.restart_with(|settings| settings.webhook_url = Some(WEBHOOK_URL.to_owned())).await;
    queue_over(&mut world, 1_000, HOUR, no_runner_more_than_demand).await;
    world.until("all have run", INTERVAL, |world| world.completed() == 1_000).await;
    assert_eq!(writes(&world), 1_000);
    let most = [("/deliveries", 75), ("/actions/runs", 95), ("/{id}/jobs", 48)];
    eprintln!("1,000 jobs in an hour: {}", expect_reads(&world, &most));
}

#[tokio::test]
async fn a_thousand_jobs_run_although_a_third_of_the_webhooks_is_lost() {
    let mut world = World::new(vec![linux(0, 400)], Behaviour::default()).await;
    world.github().faults_mut().webhooks =
        WebhookFaults { lost: 0.3, doubled: 0.2, delayed: 0.3, reordered: 0.5, ..WebhookFaults::default() };
    queue_over(&mut world, 1_000, HOUR, no_runner_more_than_demand).await;
    let done = |world: &World| {
        no_runner_more_than_demand(world);
        world.completed() == 1_000
    };
    world.until("all have run", 2 * INTERVAL, done).await;
    world.until("nothing is left", 2 * INTERVAL, World::is_clean).await;
    world.check(400);
    assert_eq!(world.books().total.created, 1_000, "no runner is made in vain");
    assert_eq!(writes(&world), 1_000);
    let most = [("/actions/runners", 30), ("/actions/runs", 320), ("/{id}/jobs", 225), ("/jobs/{id}", 650)];
    eprintln!("1,000 jobs, 30 % of the webhooks lost: {}", expect_reads(&world, &most));
    for kind in [FaultKind::WebhookLost, FaultKind::WebhookDoubled, FaultKind::WebhookReordered] {
        let struck = world.github().books().fault(kind);
        assert!(struck > 300, "{kind:?}: {struck}");
    }
}

/// As the contract has it: a third of the webhooks fails, a fifth comes twice, all are shuffled. Each job costs one
/// write and each redelivery one more.
#[tokio::test]
async fn a_thousand_jobs_run_although_a_third_of_the_webhooks_fails() {
    let mut world = World::new(vec![linux(0, 400)], Behaviour::default()).await;
    world.restart_with(|settings| settings.webhook_url = Some(WEBHOOK_URL.to_owned())).await;
    world.github().faults_mut().webhooks =
        WebhookFaults { failed: 0.3, doubled: 0.2, delayed: 0.3, reordered: 0.5, ..WebhookFaults::default() };
    queue_over(&mut world, 1_000, HOUR, no_runner_more_than_demand).await;
    let done = |world: &World| {
        no_runner_more_than_demand(world);
        world.completed() == 1_000
    };
    world.until("all have run", 2 * INTERVAL, done).await;
    world.until("nothing is left", 2 * INTERVAL, World::is_clean).await;
    world.check(400);
    assert_eq!(world.books().total.created, 1_000, "no runner is made in vain");
    let books = world.github().books().clone();
    let redelivered = books.webhooks.redelivered;
    assert!(redelivered > 500, "{redelivered}");
    assert!(books.redeliveries.values().all(|times| *times == 1), "each once");
    assert_eq!(writes(&world), 1_000 + redelivered);
    let runners = books.runners.max_alive;
    eprintln!("1,000 jobs, never a runner more than demand, {runners} at most; {redelivered} redeliveries");
    let most = [("/deliveries", 75), ("/actions/runs", 290), ("/{id}/jobs", 120), ("/jobs/{id}", 335)];
    eprintln!("1,000 jobs, 30 % of the webhooks failed: {}", expect_reads(&world, &most));
}

#[tokio::test]
async fn jobs_that_were_queued_while_no_manager_ran_are_served_within_an_interval() {
    let mut world = World::new(vec![linux(0, 300)], Behaviour::default()).await;
    world.stop().await;
    world.deliver = |_| false;
    queue_over(&mut world, 200, HOUR, |_| ()).await;
    world.start();
    let started = world.clock.now();
    world.until("all run", INTERVAL, |world| world.github().books().jobs.queued == 0).await;
    let served = world.clock.now().duration_since(started);
    eprintln!("200 jobs that were queued while no manager ran: all run {served:#} after its start");
    world.until("all have run", HOUR, |world| world.completed() == 200).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(200);
    assert_eq!(world.books().total.created, 200);
}

#[tokio::test]
async fn ten_minutes_of_refusals_retire_nobody() {
    let mut world = World::new(vec![linux(50, 200)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(1_200), 50);
    let ready = |world: &World| {
        let github = world.github();
        github.books().jobs.in_progress == 50 && github.books().runners.alive == 100
    };
    world.until("50 are busy and 50 idle", 5 * MINUTE, ready).await;
    world.pass(5 * MINUTE).await;
    let until = world.clock.now() + SignedDuration::from_mins(10);
    for (status, probability) in [(403, 0.33), (429, 0.5), (502, 1.0)] {
        let fault = RequestFault::always(Effect::Answer { status, retry_after: None });
        world.github().faults_mut().requests.push(fault.with_probability(probability).until(until));
    }
    // Now nobody needs the idle ones, and they are old enough to go.
    let mut unneeded = linux(0, 200);
    unneeded.limits.idle_timeout = MINUTE;
    world.manager.configure(vec![unneeded]).await.unwrap();
    while world.clock.now() < until {
        world.step_until(until).await;
        assert_eq!(
            (world.cloud().books(world.clock.now()).total.alive, world.github().books().runners.alive),
            (100, 100)
        );
    }
    let kinds = [FaultKind::Answer403, FaultKind::Answer429, FaultKind::AnswerError];
    let struck = kinds.map(|kind| world.github().books().fault(kind));
    assert!(struck.iter().all(|struck| *struck > 0), "{struck:?}");
    eprintln!(
        "ten minutes of 403, 429 and 5xx ({struck:?} of them): 50 busy and 50 idle runners, none retired"
    );
    world.until("all have run", HOUR, |world| world.completed() == 50).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(100);
    world.queue(&spec(&["large"]), 20);
    world.until("all is well", 5 * MINUTE, |world| world.completed() == 70).await;
}
