//! Jobs of which webhooks told nothing, or not all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::SignedDuration;
use runner_manager_backends::fake::Behaviour;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{JobState, OpenRuns, RunnerState};
use runner_manager_core::manager::Account;
use runner_manager_core::rest::{As, RestGitHub, Transport, TransportError};
use runner_manager_core::store::{JobFilter, Page, RunnerFilter};
use runner_manager_core::testing::simulated::SimulatorTransport;
use runner_manager_core::testing::simulator::{Effect, JobSpec, RequestFault};

use crate::world::{World, spec};
use crate::{HOUR, MINUTE, all_run, linux};

/// Recovery runs every five minutes, and so does the sweep.
const INTERVAL: Duration = Duration::from_mins(5);

/// A world in which no webhook arrives.
async fn deaf(max: u32) -> World {
    let mut world = World::new(vec![linux(0, max)], Behaviour::default()).await;
    world.deliver = |_| false;
    world
}

async fn recorded(world: &World) -> Vec<JobState> {
    let jobs = world.manager.jobs(&JobFilter::All, &Page::first(5_000)).await.unwrap();
    jobs.into_iter().map(|status| status.job.state).collect()
}

fn requests(world: &World, route: &str) -> u64 {
    world.github().books().requests.get(route).copied().unwrap_or_default()
}

#[tokio::test]
async fn lost_webhooks_of_a_jobs_end_are_found_out() {
    let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    world.deliver = |action| action == "queued";
    world.queue(&spec(&["large"]), 3);
    all_run(&mut world, 3, 2 * HOUR).await;
    world.check(1);
}

#[tokio::test]
async fn jobs_that_began_unheard_make_no_runner_in_vain() {
    for seconds in [30, 1200] {
        let mut world = World::new(vec![linux(0, 100)], Behaviour::default()).await;
        world.deliver = |action| action == "queued";
        world.queue(&spec(&["large"]).seconds(seconds), 10);
        all_run(&mut world, 10, 2 * HOUR).await;
        world.pass(10 * MINUTE).await;
        world.check(10);
        assert_eq!(world.books().total.created, 10, "jobs of {seconds} s");
        let jobs = world.manager.jobs(&JobFilter::All, &Page::first(20)).await.unwrap();
        assert!(jobs.iter().all(|status| status.job.is_completed()), "every end is on record");
    }
}

#[tokio::test]
async fn without_any_webhook_all_jobs_run_within_two_intervals() {
    let mut world = deaf(20).await;
    world.pass(MINUTE).await;
    world.queue(&spec(&["large"]), 20);
    all_run(&mut world, 20, 2 * INTERVAL).await;
    world.check(20);
    assert_eq!(world.books().total.created, 20);
    world.pass(2 * INTERVAL).await;
    let states = recorded(&world).await;
    assert!(states.len() == 20 && states.iter().all(|state| matches!(state, JobState::Completed { .. })));
}

#[tokio::test]
async fn jobs_that_were_queued_while_no_manager_ran_are_found_at_once() {
    let mut world = deaf(10).await;
    world.pass(MINUTE).await;
    world.stop().await;
    world.queue(&spec(&["large"]), 10);
    world.pass(INTERVAL).await;
    world.start();
    all_run(&mut world, 10, 2 * MINUTE).await;
    world.check(10);
}

#[tokio::test]
async fn a_run_in_progress_may_have_further_queued_jobs() {
    let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
    let now = world.clock.now();
    let first = world.github().queue_job(&spec(&["large"]).seconds(7_200), now).unwrap();
    world.until("it runs", MINUTE, |world| world.github().books().jobs.in_progress == 1).await;
    world.deliver = |_| false;
    let run = world.github().job(first).unwrap().run;
    world.queue(&spec(&["large"]).in_run(run), 5);
    world.until("the others run", 2 * INTERVAL, |world| world.completed() == 5).await;
    world.check(6);
}

#[tokio::test]
async fn jobs_that_wait_for_an_approval_make_no_runner() {
    let mut world = deaf(10).await;
    let now = world.clock.now();
    let job = world.github().queue_job(&spec(&["large"]).waiting(), now).unwrap();
    world.pass(2 * INTERVAL).await;
    assert_eq!((world.books().total.created, recorded(&world).await.len()), (0, 0));
    let now = world.clock.now();
    world.github().release_job(job, now).unwrap();
    all_run(&mut world, 1, 2 * INTERVAL).await;
}

/// Answers what concerns workflow runs as it did when it was told to remember.
#[derive(Debug)]
struct Stale {
    inner: SimulatorTransport,
    remembers: AtomicBool,
    repeats: AtomicBool,
    answers: Mutex<std::collections::BTreeMap<String, http::Response<Bytes>>>,
}

#[async_trait]
impl Transport for Stale {
    async fn send(
        &self,
        who: As<'_>,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, TransportError> {
        let key = request.uri().to_string();
        let concerned = key.contains("/actions/runs");
        if concerned && self.repeats.load(Ordering::SeqCst) {
            return Ok(self.answers.lock().unwrap().get(&key).cloned().expect("it was asked for before"));
        }
        let answer = self.inner.send(who, request).await?;
        if concerned && self.remembers.load(Ordering::SeqCst) {
            self.answers.lock().unwrap().insert(key, answer.clone());
        }
        Ok(answer)
    }

    fn account(&self, who: As<'_>) -> String {
        self.inner.account(who)
    }
}

#[tokio::test]
async fn a_stale_listing_brings_no_job_back() {
    let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
    world.stop().await;
    let stale = Arc::new(Stale {
        inner: SimulatorTransport::new(world.github.clone(), world.clock.clone()),
        remembers: AtomicBool::new(true),
        repeats: AtomicBool::new(false),
        answers: Mutex::default(),
    });
    let github = Arc::new(RestGitHub::new(stale.clone(), world.clock.clone()));
    world.adjust = Box::new(move |parts| parts.github = Account::new(github.clone()).into());
    world.deliver = |action| action != "queued";
    world.queue(&spec(&["large"]), 5);
    world.start();
    world.until("all run", MINUTE, |world| world.github().books().jobs.in_progress == 5).await;
    stale.remembers.store(false, Ordering::SeqCst);
    all_run(&mut world, 5, MINUTE).await;
    stale.repeats.store(true, Ordering::SeqCst);
    let before = requests(&world, "GET /orgs/{org}/repos");
    world.pass(3 * INTERVAL).await;
    assert!(requests(&world, "GET /orgs/{org}/repos") >= before + 3, "the listing was asked for");
    assert_eq!(world.books().total.created, 5);
    let states = recorded(&world).await;
    assert!(states.len() == 5 && states.iter().all(|state| matches!(state, JobState::Completed { .. })));
}

#[tokio::test]
async fn only_what_concerns_us_is_recorded() {
    let mut world = deaf(10).await;
    let others = || JobSpec::new("other/app", ["large"]).seconds(30);
    world.queue(&others(), 3);
    world.queue(&spec(&["ubuntu-latest"]), 3);
    world.pass(4 * MINUTE).await;
    assert_eq!(recorded(&world).await.len(), 0, "GitHub's own runners may be about to take them");
    world.pass(INTERVAL).await;
    let jobs = world.manager.jobs(&JobFilter::Unserved, &Page::first(10)).await.unwrap();
    assert_eq!(jobs.len(), 3);
    let reason = jobs[0].reason.as_ref().unwrap().to_string();
    assert_eq!(reason, "no group offers label ubuntu-latest");
    assert_eq!(world.books().total.created, 0);
    // They end without a word, and are asked for since the listing has them no more.
    let now = world.clock.now();
    for status in jobs {
        let run = world.github().job(simulator_id(&status.job)).unwrap().run;
        world.github().cancel_run(run, now).unwrap();
    }
    world.pass(2 * INTERVAL).await;
    assert!(recorded(&world).await.iter().all(|state| matches!(state, JobState::Completed { .. })));
}

fn simulator_id(
    job: &runner_manager_core::domain::WorkflowJob,
) -> runner_manager_core::testing::simulator::JobId {
    runner_manager_core::testing::simulator::JobId(job.id.0)
}

#[tokio::test]
async fn refusals_put_recovery_off_and_no_more() {
    let mut world = deaf(30).await;
    world.queue(&spec(&["large"]), 20);
    for repository in ["acme/web", "acme/api", "acme/docs"] {
        world.queue(&JobSpec::new(repository, ["large"]).seconds(30), 2);
    }
    let until = world.clock.now() + SignedDuration::from_mins(30);
    for (status, retry_after) in [(403, None), (429, Some(20)), (502, None)] {
        let fault = RequestFault::always(Effect::Answer { status, retry_after });
        let fault = fault.on("GET", "/repos").with_probability(0.2).until(until);
        world.github().faults_mut().requests.push(fault);
    }
    all_run(&mut world, 26, HOUR).await;
    world.check(30);
    assert_eq!(world.books().total.created, 26);
}

#[tokio::test]
async fn one_repository_that_does_not_answer_keeps_no_other_from_being_asked() {
    for status in [404, 403, 500] {
        let mut world = deaf(10).await;
        world.pass(MINUTE).await;
        let fault = RequestFault::always(Effect::Answer { status, retry_after: None });
        let path = "/repos/acme/bad/actions";
        world.github().faults_mut().requests.push(fault.on("GET", path));
        world.queue(&JobSpec::new("acme/bad", ["large"]).seconds(30), 1);
        for repository in ["acme/a", "acme/c"] {
            world.queue(&JobSpec::new(repository, ["large"]).seconds(30), 2);
        }
        let limit = if status == 403 { 6 * INTERVAL } else { 2 * INTERVAL };
        world.until("the others run", limit, |world| world.completed() == 4).await;
        world.github().faults_mut().requests.clear();
        all_run(&mut world, 5, 2 * INTERVAL).await;
    }
}

#[tokio::test]
async fn after_a_loss_of_the_store_running_jobs_are_known_again() {
    let mut world = World::new(vec![linux(0, 5)], Behaviour::default()).await;
    world.queue(&spec(&["large"]).seconds(3_600), 3);
    world.until("all run", MINUTE, |world| world.github().books().jobs.in_progress == 3).await;
    world.crash().await;
    world.storage = Arc::new(runner_manager_core::embedded::EmbeddedStorage::in_memory(world.clock.clone()));
    world.start();
    world.manager.configure(vec![linux(0, 5)]).await.unwrap();
    world.pass(2 * INTERVAL).await;
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(10)).await.unwrap();
    let busy = |runner: &RunnerState| matches!(runner, RunnerState::Busy { job: Some(_) });
    assert!(runners.len() == 3 && runners.iter().all(|runner| busy(&runner.value.state)), "{runners:#?}");
    assert_eq!(recorded(&world).await.len(), 3);
    all_run(&mut world, 3, 2 * HOUR).await;
    world.check(3);
}

#[tokio::test]
async fn one_run_adds_a_thousand_jobs_and_the_next_the_rest() {
    let mut world = deaf(1).await;
    world.pass(MINUTE).await;
    let now = world.clock.now();
    let first = world.github().queue_job(&spec(&["large"]).seconds(7_200), now).unwrap();
    let run = world.github().job(first).unwrap().run;
    world.queue(&spec(&["large"]).seconds(7_200).in_run(run), 1_019);
    world.pass(4 * MINUTE + Duration::from_secs(30)).await;
    assert_eq!(recorded(&world).await.len(), 1_000);
    world.pass(MINUTE + Duration::from_secs(30)).await;
    assert_eq!(recorded(&world).await.len(), 1_020);
    world.check(1);
}

#[tokio::test]
async fn more_runs_than_one_search_lists_are_all_found() {
    let mut world = deaf(1).await;
    for _ in 0..3 {
        world.queue(&spec(&["large"]), 700);
        world.pass(Duration::from_secs(2)).await;
    }
    let github = world.account().github;
    let open = github.open_runs(&"acme/app".parse().unwrap(), OpenRuns::Moving).await.unwrap();
    assert_eq!(open.len(), 2_100);
}

#[tokio::test]
async fn a_job_that_github_shows_no_more_ends_after_a_day() {
    let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    // A day has very many heartbeats.
    world.adjust = Box::new(|parts| parts.settings.heartbeat = 10 * MINUTE);
    world.crash().await;
    world.start();
    world.queue(&spec(&["large"]).seconds(100_000), 1);
    world.until("it runs", MINUTE, |world| world.github().books().jobs.in_progress == 1).await;
    let now = world.clock.now();
    let job = world.github().queue_job(&spec(&["large"]), now).unwrap();
    world.pass(MINUTE).await;
    world.deliver = |_| false;
    let run = world.github().job(job).unwrap().run;
    let now = world.clock.now();
    world.github().cancel_run(run, now).unwrap();
    let fault = RequestFault::always(Effect::Answer { status: 404, retry_after: None });
    world.github().faults_mut().requests.push(fault.on("GET", "/repos/acme/app/actions/jobs"));
    world.pass(23 * HOUR).await;
    let waits =
        |states: &[JobState]| states.iter().filter(|state| matches!(state, JobState::Queued { .. })).count();
    assert_eq!(waits(&recorded(&world).await), 1, "it may only be hidden");
    world.pass(2 * HOUR).await;
    assert_eq!(waits(&recorded(&world).await), 0);
}

/// A job in each of so many repositories, of which none is left open.
fn quiet_repositories(world: &World, count: u64) {
    for at in 0..count {
        let now = world.clock.now();
        let job = world.github().queue_job(&JobSpec::new(&format!("acme/r{at}"), ["large"]), now).unwrap();
        let run = world.github().job(job).unwrap().run;
        world.github().cancel_run(run, now).unwrap();
    }
}

#[tokio::test]
async fn few_calls_that_are_left_are_left_to_others() {
    let mut world = deaf(10).await;
    world.pass(MINUTE).await;
    quiet_repositories(&world, 100);
    world.github().faults_mut().hourly_budget = Some(200);
    world.pass(20 * MINUTE).await;
    let asked = requests(&world, "GET /repos/{owner}/{repo}/actions/runs");
    assert!((100..=180).contains(&asked), "{asked} calls of two hundred");
    let refused = world.github().books().statuses.get(&403).copied().unwrap_or_default();
    assert_eq!(refused, 0, "the budget was spent to the end");
    world.queue(&JobSpec::new("acme/r50", ["large"]).seconds(30), 1);
    world.until("it has run", 24 * HOUR, |world| world.github().books().jobs.succeeded == 1).await;
}

/// What a recovery costs where nothing is open: two calls a repository whose jobs were heard of in the last
/// hour, and what is as it was costs nothing of the budget.
#[tokio::test]
async fn a_recovery_costs_two_calls_a_repository() {
    for (repositories, pages) in [(1, 1), (200, 2)] {
        let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
        quiet_repositories(&world, repositories);
        world.pass(2 * MINUTE).await;
        let count = |world: &World| {
            let routes = ["GET /orgs/{org}/repos", "GET /repos/{owner}/{repo}/actions/runs"];
            routes.map(|route| requests(world, route))
        };
        let before = count(&world);
        world.pass(INTERVAL).await;
        let after = count(&world);
        assert_eq!([after[0] - before[0], after[1] - before[1]], [pages, 2 * repositories]);
    }
}
