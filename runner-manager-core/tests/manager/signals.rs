//! What machines say of their jobs, beside what GitHub says, or does not.

use std::time::Duration;

use jiff::SignedDuration;
use runner_manager_backends::fake::Behaviour;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{
    Conclusion, DeliveryId, JobId, JobMoment, JobObservation, JobReport, JobSignal, JobState, Labels, RunId,
    Runner, RunnerName, RunnerState,
};
use runner_manager_core::flaws::{Flaw, turn_on};
use runner_manager_core::manager::Taken;
use runner_manager_core::store::{JobFilter, Page, RunnerFilter};
use runner_manager_core::testing::simulator::{Job, JobSpec, LyingBusy};

use crate::world::{World, spec};
use crate::{HOUR, MINUTE, linux};

/// A world whose machines speak after a second, and in which no webhook tells that a job began.
async fn speaking(min_idle: u32, max: u32) -> World {
    let mut world = World::new(vec![linux(min_idle, max)], Behaviour::default()).await;
    world.signals = Some(SignedDuration::from_secs(1));
    world.deliver = |action| action != "in_progress";
    world
}

async fn runners(world: &World) -> Vec<Runner> {
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(1_000)).await.unwrap();
    runners.into_iter().map(|runner| runner.value).collect()
}

async fn jobs(world: &World) -> Vec<JobState> {
    let jobs = world.manager.jobs(&JobFilter::All, &Page::first(1_000)).await.unwrap();
    jobs.into_iter().map(|status| status.job.state).collect()
}

fn running(count: u64) -> impl Fn(&World) -> bool {
    move |world| world.github().books().jobs.in_progress == count
}

fn runner_of(job: &Job) -> RunnerName {
    RunnerName::new(&*job.runner.as_ref().unwrap().name).unwrap()
}

/// What the machine of a job's runner says as it begins.
fn begins(job: &Job) -> JobSignal {
    JobSignal {
        runner: runner_of(job),
        repository: job.repository.parse().unwrap(),
        run: RunId(job.run.0),
        attempt: 1,
        key: "build".to_owned(),
        moment: JobMoment::Begins,
    }
}

/// What GitHub says of a job.
fn said(job: &Job, report: JobReport) -> JobObservation {
    JobObservation {
        id: JobId(job.id.0),
        run: RunId(job.run.0),
        attempt: 1,
        repository: job.repository.parse().unwrap(),
        enterprise: None,
        public: false,
        name: job.name.clone(),
        workflow: Some(job.workflow_name.clone()),
        labels: Labels::parse(job.labels.iter().map(String::as_str)).unwrap(),
        created_at: job.created_at,
        report,
    }
}

/// Jobs that all are part of one run.
fn queue_matrix(world: &World, job: &JobSpec, count: usize) {
    let now = world.clock.now();
    let mut job = job.clone();
    for number in 0..count {
        job.name = format!("build ({number})");
        let queued = world.github().queue_job(&job, now).unwrap();
        job.run = world.github().job(queued).map(|queued| queued.run);
    }
}

#[tokio::test]
async fn a_job_that_a_machine_tells_of_waits_no_more_and_makes_no_runner_in_vain() {
    let mut world = speaking(0, 50).await;
    world.queue(&spec(&["large"]).seconds(1_200), 10);
    queue_matrix(&world, &spec(&["large"]).seconds(1_200), 10);
    world.until("all run", 2 * MINUTE, running(20)).await;
    world.pass(MINUTE).await;
    let presumed = |state: &JobState| matches!(state, JobState::Presumed { .. });
    assert!(jobs(&world).await.iter().all(presumed), "{:#?}", jobs(&world).await);
    let is_busy = |runner: &Runner| runner.state == RunnerState::Busy { job: None };
    assert!(runners(&world).await.iter().all(is_busy));
    assert_eq!(world.books().total.created, 20);
    // GitHub is asked which job each has.
    world.pass(15 * MINUTE).await;
    let known = |state: &JobState| matches!(state, JobState::InProgress { .. });
    assert!(jobs(&world).await.iter().all(known), "{:#?}", jobs(&world).await);
    world.until("all have run", HOUR, |world| world.completed() == 20).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(20);
    assert_eq!(world.books().total.created, 20, "as many machines as jobs");
}

/// Machines tell of the jobs of a run in the other order than they were queued in, and so each of them is presumed to
/// have another one's.
#[tokio::test]
async fn who_began_a_matrix_in_another_order_is_put_right_by_github() {
    let mut world = speaking(0, 50).await;
    world.signals = None;
    queue_matrix(&world, &spec(&["large"]).seconds(300), 10);
    world.until("all run", 3 * MINUTE, running(10)).await;
    let truly: Vec<Job> = world.github().jobs().cloned().collect();
    for job in truly.iter().rev() {
        assert_eq!(world.manager.hear_of_a_job(&begins(job)).await.unwrap(), Taken::Recorded);
    }
    let presumed = |state: &JobState| matches!(state, JobState::Presumed { .. });
    assert!(jobs(&world).await.iter().all(presumed), "{:#?}", jobs(&world).await);
    for job in &truly {
        let report = JobReport::InProgress { runner: runner_of(job).to_string(), runner_id: None };
        let delivery = DeliveryId::new(format!("late {}", job.id));
        assert_eq!(world.manager.observe(&delivery, &said(job, report)).await.unwrap(), Taken::Recorded);
        world.pass(Duration::from_secs(1)).await;
    }
    for runner in runners(&world).await {
        let RunnerState::Busy { job: Some(job) } = &runner.state else { panic!("{runner:#?}") };
        let truly = truly.iter().find(|truly| truly.id.0 == job.id.0).unwrap();
        assert_eq!(runner_of(truly), runner.name);
    }
    world.until("all have run", HOUR, |world| world.completed() == 10).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(10);
    assert_eq!(world.books().total.created, 10, "as many machines as jobs");
}

/// Of two jobs of a run the older one begins and nothing is heard of it; so the one on record is taken for it,
/// although it waits.
async fn wrongly_presumed() -> World {
    let mut world = speaking(1, 3).await;
    world.until("one is idle", 2 * MINUTE, |world| world.github().books().runners.alive == 1).await;
    world.manager.configure(vec![linux(0, 3)]).await.unwrap();
    world.pass(Duration::from_secs(10)).await;
    let now = world.clock.now();
    world.deliver = |_| false;
    let first = world.github().queue_job(&spec(&["large"]).seconds(3_600), now).unwrap();
    let run = world.github().job(first).unwrap().run;
    world.step().await;
    world.deliver = |action| action == "queued";
    world.signals = Some(SignedDuration::from_secs(3));
    world.queue(&spec(&["large"]).seconds(30).in_run(run), 1);
    world.pass(Duration::from_secs(10)).await;
    let presumed = |state: &JobState| matches!(state, JobState::Presumed { .. });
    assert!(jobs(&world).await.iter().all(presumed), "{:#?}", jobs(&world).await);
    assert!(running(1)(&world), "{:?}", world.github().books().jobs);
    world
}

async fn both_run(mut world: World, other_within: Duration) {
    world.until("the other one has run", other_within, |world| world.completed() == 1).await;
    world.until("both have run", 2 * HOUR, |world| world.completed() == 2).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(3);
    assert_eq!(world.books().total.created, 2);
}

#[tokio::test]
async fn a_job_that_was_wrongly_presumed_to_have_begun_is_found_in_githubs_lists() {
    both_run(wrongly_presumed().await, 12 * MINUTE).await;
}

#[tokio::test]
async fn a_job_that_was_wrongly_presumed_to_have_begun_waits_again_as_github_names_the_right_one() {
    let world = wrongly_presumed().await;
    let first = world.github().jobs().next().unwrap().clone();
    let report = JobReport::InProgress { runner: runner_of(&first).to_string(), runner_id: None };
    let told = world.manager.observe(&DeliveryId::new("late"), &said(&first, report)).await;
    assert_eq!(told.unwrap(), Taken::Recorded);
    both_run(world, MINUTE).await;
}

#[tokio::test]
async fn a_cancelled_job_that_was_presumed_to_run_ends_no_runner() {
    let mut world = speaking(0, 2).await;
    world.deliver = |action| action != "in_progress" && action != "completed";
    queue_matrix(&world, &spec(&["large"]).seconds(1_200), 2);
    world.until("both run", 2 * MINUTE, running(2)).await;
    world.pass(2 * MINUTE).await;
    let presumed = |state: &JobState| matches!(state, JobState::Presumed { .. });
    assert!(jobs(&world).await.iter().all(presumed), "{:#?}", jobs(&world).await);
    // A word of GitHub's that one was cancelled before it had a runner.
    let job = world.github().jobs().next().unwrap().clone();
    let report = JobReport::Completed { conclusion: Conclusion::Cancelled, runner: None, ended_at: None };
    let told = world.manager.observe(&DeliveryId::new("late"), &said(&job, report)).await;
    assert_eq!(told.unwrap(), Taken::Recorded);
    let is_busy = |runner: &Runner| matches!(runner.state, RunnerState::Busy { .. });
    assert!(runners(&world).await.iter().all(is_busy), "{:#?}", runners(&world).await);
    world.until("both have run", HOUR, |world| world.completed() == 2).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(2);
}

/// Of a runner that nobody needs GitHub says for twelve minutes that it is idle, and tells nothing of the job that it
/// gets so long after the first of two readings; its machine's word takes ten seconds. How many jobs that costs.
async fn lost_beginning(after: Duration, flaw: Option<Flaw>) -> u64 {
    turn_on(flaw);
    let mut world = speaking(1, 3).await;
    world.signals = Some(SignedDuration::from_secs(10));
    let lie = LyingBusy { probability: 1.0, lasts: SignedDuration::from_mins(12), spares: true };
    world.github().faults_mut().lying_busy = vec![lie];
    world.until("one is idle", 2 * MINUTE, |world| world.github().books().runners.alive == 1).await;
    // The first sweep sees it, two minutes before a reading counts.
    world.pass(8 * MINUTE).await;
    let mut unneeded = linux(0, 3);
    unneeded.limits.idle_timeout = Duration::ZERO;
    world.manager.configure(vec![unneeded]).await.unwrap();
    world.deliver = |_| false;
    world.pass(after).await;
    world.queue(&spec(&["large"]).seconds(600), 1);
    world.until("it runs", MINUTE / 4, running(1)).await;
    world.until("it is over", HOUR, |world| world.completed() == 1).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    turn_on(None);
    world.github().books().jobs.lost
}

#[tokio::test]
async fn a_signal_keeps_a_runner_that_is_about_to_go_although_github_calls_it_idle() {
    let between_the_readings = MINUTE / 2;
    assert_eq!(lost_beginning(between_the_readings, None).await, 0);
    assert_eq!(
        lost_beginning(between_the_readings, Some(Flaw::IgnoreSignals)).await,
        1,
        "nothing else would"
    );
}

#[tokio::test]
async fn a_signal_keeps_the_machine_of_a_runner_that_github_has_removed() {
    let just_before_the_removal = Duration::from_secs(55);
    assert_eq!(lost_beginning(just_before_the_removal, None).await, 0);
    let without_grace = Some(Flaw::NoRemovalGrace);
    assert_eq!(lost_beginning(just_before_the_removal, without_grace).await, 1, "it comes within the grace");
}

#[tokio::test]
async fn what_a_machine_says_twice_late_or_of_a_stranger_changes_nothing() {
    let mut world = speaking(0, 3).await;
    world.deliver = |_| true;
    world.signals = None;
    world.queue(&spec(&["large"]).seconds(120), 1);
    world.until("it runs", 2 * MINUTE, running(1)).await;
    world.pass(Duration::from_secs(5)).await;
    let job = world.github().jobs().next().unwrap().clone();
    let (signal, run) = (begins(&job), job.run);
    // A job of the same run waits: it is not the one that began, for GitHub named that.
    world.queue(&spec(&["large"]).seconds(120).in_run(run), 1);
    world.pass(Duration::from_millis(1)).await;
    // The first time it stands in the runner's timeline, and nowhere else.
    for taken in [Taken::Recorded, Taken::NothingNew] {
        assert_eq!(world.manager.hear_of_a_job(&signal).await.unwrap(), taken);
    }
    let told: usize = runners(&world).await.iter().map(|runner| runner.machine.timeline.len()).sum();
    assert_eq!(told, 1);
    world.until("both have run", 10 * MINUTE, |world| world.completed() == 2).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.queue(&spec(&["large"]).seconds(120), 1);
    let run = world.github().jobs().last().unwrap().run;
    let late = JobSignal { run: RunId(run.0), moment: JobMoment::Ends, ..signal };
    world.pass(Duration::from_millis(1)).await;
    assert_eq!(world.manager.hear_of_a_job(&late).await.unwrap(), Taken::NothingNew, "it is gone");
    world.until("the last one has run", 10 * MINUTE, |world| world.completed() == 3).await;
    assert_eq!(world.manager.statistics().snapshot().signals, [("nothing_new", 2), ("recorded", 1)].into());
}
