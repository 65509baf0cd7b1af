//! Reasons: what people are told of a job that waits, and of the runners that failed behind it.

use std::time::Duration;

use runner_manager_backends::fake::{Behaviour, Ending, Fault, Operation, Rule};
use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{Failure, later};
use runner_manager_core::manager::{FailedRunner, JobExplanation, MOST_FAILED};
use runner_manager_core::store::{JobFilter, Page, RunnerFilter};
use runner_manager_core::testing::simulator::{Effect, RequestFault};

use super::world::{World, spec};
use super::{HOUR, MINUTE, all_run, error, linux};

const JIT: &str = "/orgs/*/actions/runners/generate-jitconfig";

/// Something that keeps jobs waiting, and what people must be told then.
struct Case {
    name: &'static str,
    /// Brings it about.
    begin: fn(&mut World),
    /// How many jobs there are: the last one waits.
    jobs: usize,
    /// For how long it goes on before people ask.
    lasts: Duration,
    /// For how much longer at most they ask again, where the reason comes and goes: between two tries a group is blocked,
    /// and while one is under way it has a runner that is starting.
    within: Duration,
    /// A part of the reason.
    reason: &'static str,
    /// Parts of the last error of its group, where that has one.
    last_error: Option<[&'static str; 2]>,
    /// Parts of what is told of a runner: what it is or why it ended, and the last error behind that.
    runner: (&'static str, Option<&'static str>),
}

fn always(world: &mut World, operation: Operation, fault: Fault) {
    let faults = vec![Rule { operation, chance: 1.0, fault }];
    world.cloud().set_behaviour(Behaviour { faults, ..Behaviour::default() });
}

fn refuse_to_register(world: &mut World, status: u16) {
    let fault = RequestFault {
        path: Some(JIT.to_owned()),
        ..RequestFault::always(Effect::Answer { status, retry_after: None })
    };
    world.github().faults_mut().requests.push(fault);
}

fn cases() -> Vec<Case> {
    let none = |name| Case {
        name,
        begin: |_| {},
        jobs: 1,
        lasts: 3 * MINUTE,
        within: Duration::ZERO,
        reason: "group linux is blocked: placement small in zone-a of cloud",
        last_error: None,
        runner: ("", None),
    };
    vec![
        Case {
            begin: |world| {
                let zones = [("zone-a".to_owned(), Some(0))].into();
                world.cloud().set_behaviour(Behaviour { zones, ..Behaviour::default() });
            },
            last_error: Some(["placement small in zone-a of cloud", "NoCapacity"]),
            runner: ("NoCapacity", None),
            ..none("a zone that is full")
        },
        Case {
            begin: |world| refuse_to_register(world, 401),
            reason: "group linux is blocked: registering at GitHub fails",
            last_error: Some(["registering at GitHub fails", "Unauthenticated"]),
            runner: ("registration failed", None),
            ..none("credentials that GitHub refuses")
        },
        Case {
            begin: |world| refuse_to_register(world, 502),
            reason: "a runner of group linux is starting",
            runner: ("creating", Some("502")),
            ..none("GitHub out of order")
        },
        Case {
            begin: |world| always(world, Operation::Create, error(BackendErrorKind::Unclear)),
            reason: "a runner of group linux is starting",
            runner: ("the answer to create was lost and no instance appeared", Some("Unclear")),
            ..none("a backend whose answers are lost")
        },
        Case {
            begin: |world| world.broken_image = true,
            lasts: 12 * MINUTE,
            reason: "a runner of group linux is starting",
            last_error: Some(["placement small in zone-a of cloud", "start_timeout"]),
            runner: ("not registered within start_timeout", None),
            ..none("machines that never register")
        },
        Case {
            begin: |world| {
                world.broken_image = true;
                let dies = Fault::Dies { after: Duration::from_secs(1), how: Ending::Stopped };
                always(world, Operation::Create, dies);
            },
            lasts: HOUR,
            within: 10 * MINUTE,
            last_error: Some(["placement small in zone-a of cloud", "instance stopped"]),
            runner: ("its instance stopped", None),
            ..none("machines that stop")
        },
        Case {
            begin: |world| always(world, Operation::Delete, error(BackendErrorKind::Unavailable)),
            jobs: 2,
            lasts: 10 * MINUTE,
            reason: "group linux is at max (1 runners)",
            runner: ("retiring", Some("Unavailable")),
            ..none("a machine that cannot be deleted")
        },
    ]
}

/// All that is told of the job that waits.
async fn explained(world: &World) -> JobExplanation {
    let jobs = world.manager.jobs(&JobFilter::All, &Page::first(10)).await.unwrap();
    let waits = jobs.into_iter().find(|status| status.reason.is_some()).expect("a job waits");
    let told = world.manager.job(waits.job.id).await.unwrap().unwrap();
    assert_eq!(told.status, waits, "the list says the same");
    told
}

fn reason_of(told: &JobExplanation) -> String {
    told.status.reason.as_ref().unwrap().to_string()
}

#[tokio::test]
async fn whatever_keeps_a_job_waiting_is_told_with_the_last_error_and_the_runners_that_failed() {
    for case in cases() {
        let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
        (case.begin)(&mut world);
        let asked_at = world.clock.now();
        world.queue(&spec(&["large"]), case.jobs);
        world.pass(case.lasts).await;
        let mut told = explained(&world).await;
        let given_up = later(world.clock.now(), case.within);
        while !reason_of(&told).contains(case.reason) && world.clock.now() < given_up {
            world.pass(MINUTE).await;
            told = explained(&world).await;
        }
        let reason = reason_of(&told);
        assert!(reason.contains(case.reason), "{}: {reason}", case.name);
        let is_recent = |failure: &Failure| failure.at > asked_at && failure.at <= world.clock.now();
        match (&told.status.last_error, case.last_error) {
            (Some(error), Some([what, said])) => {
                let fits = error.what.contains(what) && error.last.detail.contains(said);
                assert!(fits && is_recent(&error.last), "{}: {error:?}", case.name);
            }
            (error, expected) => assert_eq!(error.is_some(), expected.is_some(), "{}: {error:?}", case.name),
        }
        let (what, said) = case.runner;
        let fits = |runner: &FailedRunner| {
            let error = runner.last_error.as_ref();
            runner.what.contains(what)
                && said.is_none_or(|said| {
                    error.is_some_and(|error| error.detail.contains(said) && is_recent(error))
                })
        };
        assert!(told.failed_runners.iter().any(fits), "{}: {:?}", case.name, told.failed_runners);
        assert!(told.failed_runners.len() <= MOST_FAILED);
        world.github().faults_mut().requests.clear();
        world.cloud().set_behaviour(Behaviour::default());
        world.broken_image = false;
        all_run(&mut world, case.jobs as u64, 2 * HOUR).await;
        world.check(1);
    }
}

/// The runners of others, and those that failed before there was the job, explain nothing.
#[tokio::test]
async fn runners_that_failed_before_the_job_are_not_told_with_it() {
    let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    world.cloud().inject(Operation::Create, Some(error(BackendErrorKind::NoCapacity)));
    world.queue(&spec(&["large"]), 1);
    all_run(&mut world, 1, HOUR).await;
    let ended = world.manager.ended_runners(10).await.unwrap();
    assert!(ended.iter().any(|ended| ended.why.is_failure()), "{ended:?}");
    world.pass(MINUTE).await;
    refuse_to_register(&mut world, 502);
    world.queue(&spec(&["large"]), 1);
    world.pass(MINUTE).await;
    let told = explained(&world).await;
    assert_eq!(told.failed_runners.len(), 1, "{:?}", told.failed_runners);
    assert_eq!(told.failed_runners[0].ended_at, None);
}

#[tokio::test]
async fn a_runner_that_came_up_tells_no_trouble_of_before() {
    let mut world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    refuse_to_register(&mut world, 502);
    world.queue(&spec(&["large"]).seconds(600), 1);
    world.pass(5 * MINUTE).await;
    assert_eq!(explained(&world).await.failed_runners.len(), 1);
    world.github().faults_mut().requests.clear();
    world.until("it runs", HOUR, |world| world.github().books().jobs.in_progress == 1).await;
    world.pass(MINUTE).await;
    let runners = world.manager.runners(&RunnerFilter::All, &Page::first(10)).await.unwrap();
    assert_eq!((runners.len(), &runners[0].value.trouble), (1, &None));
}
