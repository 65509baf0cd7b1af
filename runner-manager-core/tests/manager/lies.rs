//! A GitHub that lies about who is busy, and whose lists have holes, over a long day on which jobs begin just when
//! runners are about to go.
//!
//! Many jobs are queued and cancelled again while their machines come up, and so there are runners that nobody needs any
//! more: while they are taken away, others begin on them. For a minute after its start GitHub calls
//! every runner idle that runs a job, one in a hundred for twelve minutes, and accepts its removal. The webhooks that
//! would tell better are often lost. By GitHub's own books no running job may be killed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::SignedDuration;
use runner_manager_backends::fake::Behaviour;
use runner_manager_core::clock::Clock;
use runner_manager_core::manager::Account;
use runner_manager_core::random::{Random, SeededRandom};
use runner_manager_core::rest::{As, RestGitHub, Transport, TransportError};
use runner_manager_core::testing::simulated::{SharedSimulator, SimulatorTransport};
use runner_manager_core::testing::simulator::{
    Effect, FaultKind, JobId, JobSpec, LyingBusy, RequestFault, RunnerId, WebhookFaults,
};

use crate::world::{World, change_account};
use crate::{HOUR, linux};

const JOBS: u64 = 5_000;

/// How long the word of a machine is on its way: long, but within the grace after a removal.
const WORD: SignedDuration = SignedDuration::from_secs(20);

/// How many of a round are queued at once and cancelled, and how many come one by one.
const AT_ONCE: u64 = 70;
const ONE_BY_ONE: u64 = 30;

const MAX: u32 = 200;

/// Sees what GitHub answers when it is asked for one runner, and counts when that would cost somebody a job: it is
/// called not busy while it runs one.
#[derive(Debug)]
struct Witness {
    inner: SimulatorTransport,
    github: SharedSimulator,
    deceived: Arc<AtomicU64>,
}

#[async_trait]
impl Transport for Witness {
    async fn send(
        &self,
        who: As<'_>,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, TransportError> {
        let of_one =
            request.uri().path().rsplit_once("/actions/runners/").and_then(|(_, id)| id.parse().ok());
        let is_read = request.method() == http::Method::GET;
        let answer = self.inner.send(who, request).await?;
        let body = || serde_json::from_slice::<serde_json::Value>(answer.body()).unwrap_or_default();
        if let (Some(id), true) = (of_one, is_read) {
            let has_job =
                self.github.lock().unwrap().runner(RunnerId(id)).is_some_and(|runner| runner.job.is_some());
            if has_job && answer.status().is_success() && body()["busy"] == false {
                self.deceived.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(answer)
    }

    fn account(&self, who: As<'_>) -> String {
        self.inner.account(who)
    }
}

/// How a day went, by the books of GitHub and of the cloud.
#[derive(Debug)]
struct Day {
    /// Jobs that ended because we took their runner away.
    killed: BTreeSet<JobId>,
    /// Of these, those of which GitHub had told that they began.
    killed_although_told: BTreeSet<JobId>,
    /// Jobs of whose runner GitHub lied.
    lies: u64,
    /// Answers with such a lie.
    lies_read: u64,
    /// Answers of one runner that was to go, and had a job.
    deceived: u64,
    /// Runners that GitHub let go although they had a job.
    let_go: u64,
    /// Entries that were missing in a list.
    holes: u64,
    /// Runners that went without a job.
    idle_gone: u64,
    cancelled: u64,
    webhooks_lost: u64,
}

/// What becomes of a day.
async fn day(signals: Option<SignedDuration>, spares: bool) -> Day {
    let mut group = linux(0, MAX);
    group.limits.idle_timeout = Duration::from_secs(30);
    let behaviour = Behaviour { boot_time: Duration::from_secs(45), ..Behaviour::default() };
    let mut world = World::new(Vec::new(), behaviour).await;
    world.stop().await;
    let deceived = Arc::new(AtomicU64::new(0));
    let (github, clock, seen) = (world.github.clone(), world.clock.clone(), deceived.clone());
    world.adjust = Box::new(move |parts| {
        let inner = SimulatorTransport::new(github.clone(), clock.clone());
        let witness = Witness { inner, github: github.clone(), deceived: seen.clone() };
        let rest = RestGitHub::new(Arc::new(witness), clock.clone());
        change_account(parts, |account| *account = Account::new(Arc::new(rest)));
    });
    world.groups = vec![group];
    world.start();
    world.signals = signals;
    let lie = |probability, lasts| LyingBusy { probability, lasts, spares };
    let holes = RequestFault::always(Effect::SkipEntries).on("GET", "/orgs/*/actions/runners");
    {
        let mut github = world.github();
        let faults = github.faults_mut();
        faults.lying_busy =
            vec![lie(1.0, SignedDuration::from_secs(60)), lie(0.01, SignedDuration::from_mins(12))];
        faults.requests.push(holes.with_probability(0.01));
        faults.webhooks = WebhookFaults { lost: 0.2, delayed: 0.3, ..WebhookFaults::default() };
    }
    queue_in_rounds(&mut world).await;
    world.until("all jobs are over", 2 * HOUR, |world| world.completed() == JOBS).await;
    world.until("nothing is left", 2 * HOUR, World::is_clean).await;
    account_for(&world, spares, deceived.load(Ordering::Relaxed))
}

/// Queues all jobs, round by round: so many at once that are cancelled while their machines come up, and then one after
/// the other, each of which begins at once on a machine that nobody needs any more.
async fn queue_in_rounds(world: &mut World) {
    let random = SeededRandom::new(11);
    let draw = |from: u64, to: u64| from + random.next_u64() % (to - from);
    let job = || JobSpec::new(&format!("acme/app-{}", draw(0, 5)), ["large"]).seconds(draw(60, 400));
    for _ in 0..JOBS / (AT_ONCE + ONE_BY_ONE) {
        let mut runs = Vec::new();
        for _ in 0..AT_ONCE {
            let now = world.clock.now();
            let mut github = world.github();
            let queued = github.queue_job(&job(), now).unwrap();
            runs.push(github.job(queued).unwrap().run);
        }
        world.pass(Duration::from_secs(40)).await;
        let now = world.clock.now();
        for run in runs {
            world.github().cancel_run(run, now).unwrap();
        }
        for _ in 0..ONE_BY_ONE {
            world.pass(Duration::from_millis(draw(3_000, 11_000))).await;
            world.queue(&job(), 1);
        }
        world.pass(Duration::from_secs(draw(90, 180))).await;
    }
}

fn account_for(world: &World, spares: bool, deceived: u64) -> Day {
    let (books, github) = (world.books(), world.github());
    let lost = github.jobs().filter(|job| job.lost);
    let gone_at = |runner: &str| {
        let life = books.lives.iter().find(|life| life.runner.as_str() == runner);
        life.and_then(|life| life.gone_at)
    };
    let (mut killed, mut killed_although_told) = (BTreeSet::new(), BTreeSet::new());
    for job in lost {
        killed.insert(job.id);
        let runner = job.runner.as_ref().map(|runner| runner.name.as_str()).unwrap_or_default();
        let died_at = if spares { gone_at(runner) } else { job.completed_at };
        if world.told.get(&job.id).is_some_and(|told| died_at.is_none_or(|died| *told < died)) {
            killed_although_told.insert(job.id);
        }
    }
    assert!(books.doubles.is_empty() && books.repeats.is_empty());
    assert!(books.total.max_alive <= u64::from(MAX), "{} machines at once", books.total.max_alive);
    assert!(github.books().runs_by_job.values().all(|runs| *runs == 1));
    let ran: BTreeSet<&str> =
        github.jobs().filter_map(|job| Some(job.runner.as_ref()?.name.as_str())).collect();
    Day {
        killed,
        killed_although_told,
        lies: github.books().fault(FaultKind::LyingBusy),
        lies_read: github.books().fault(FaultKind::LyingBusyRead),
        deceived,
        let_go: github.books().fault(FaultKind::LyingBusyDelete),
        holes: github.books().fault(FaultKind::SkippedEntry),
        idle_gone: books.lives.iter().filter(|life| !ran.contains(life.runner.as_str())).count() as u64,
        cancelled: github.books().jobs.cancelled,
        webhooks_lost: github.books().fault(FaultKind::WebhookLost),
    }
}

/// That the day was as bad as it was meant to be.
fn was_a_bad_day(day: &Day) {
    assert!(day.lies > 1_200 && day.lies_read > 200 && day.holes > 20, "{day:#?}");
    assert!(day.webhooks_lost > 1_500 && day.cancelled > 2_000 && day.idle_gone > 40, "{day:#?}");
    assert!(day.deceived > 0 && day.let_go > 0, "nobody was in danger: {day:#?}");
}

#[tokio::test]
async fn five_thousand_jobs_outlive_a_github_that_lies_where_machines_say_that_they_are_busy() {
    let day = day(Some(WORD), true).await;
    eprintln!("5,000 jobs, with the machines' word: {day:?}");
    was_a_bad_day(&day);
    assert_eq!(day.killed, BTreeSet::new());
}

/// Where machines say nothing, who begins between two readings of which GitHub tells nothing may be killed: so far the
/// promise goes, and no further.
#[tokio::test]
async fn where_machines_say_nothing_only_jobs_that_nobody_told_of_are_lost_to_a_lie() {
    let day = day(None, true).await;
    eprintln!("5,000 jobs, without the machines' word: {day:?}");
    was_a_bad_day(&day);
    assert_eq!(day.killed_although_told, BTreeSet::new(), "what GitHub told of is kept");
    let killed = day.killed.len() as u64;
    assert!(killed > 0, "the day was not as bad as it looked: {day:#?}");
    assert!(killed <= day.let_go, "GitHub has to let a runner go first: {day:#?}");
    assert!(killed <= day.deceived, "the second reading has to be a lie: {day:#?}");
}
