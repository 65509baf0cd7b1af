//! Jobs that lose the machine under them: told apart from those that fail, and run again once where that is wanted.

use std::sync::Arc;
use std::time::Duration;

use runner_manager_backends::fake::{Behaviour, Ending};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{self, Rerun, RunnerGroup, WorkflowJob};
use runner_manager_core::flaws::{Flaw, turn_on};
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::store::{RunnerFilter, Store};
use runner_manager_core::testing::simulated::SimulatorTransport;
use runner_manager_core::testing::simulator::{
    Conclusion, Effect, Job, JobId, JobSpec, JobStatus, RequestFault,
};

use super::world::{APP, World, change_account, spec};
use super::{HOUR, MINUTE, linux};

const RERUN: &str = "/repos/*/*/actions/jobs/*/rerun";

fn long() -> JobSpec {
    spec(&["large"]).seconds(1_200)
}

fn with_rerun() -> RunnerGroup {
    RunnerGroup { rerun_on_loss: true, ..linux(0, 10) }
}

impl World {
    async fn until_running(&mut self, count: usize) {
        let running = |world: &Self| {
            let github = world.github();
            github.jobs().filter(|job| job.status == JobStatus::InProgress).count() == count
        };
        self.until("they run", HOUR, running).await;
    }

    /// The job that was queued as the `at`th.
    fn nth(&self, at: usize) -> Job {
        self.github().jobs().nth(at).unwrap().clone()
    }

    fn count(&self) -> usize {
        self.github().jobs().count()
    }

    async fn record(&self, at: usize) -> WorkflowJob {
        let id = self.nth(at).id;
        self.storage.job(domain::JobId(id.0)).await.unwrap().unwrap().value
    }

    /// The machine under a job ends.
    async fn end_machine_of(&self, at: usize, how: Ending) {
        let runner = self.nth(at).runner.unwrap().name;
        let page = runner_manager_core::store::Page::first(100);
        let runners = self.storage.runners(&RunnerFilter::All, &page).await.unwrap();
        let runner = runners.into_iter().find(|found| found.value.name.as_str() == runner).unwrap();
        let now = self.clock.now();
        self.cloud().end(runner.value.instance.as_ref().unwrap(), how, now);
    }

    fn ended(&self, at: usize, conclusion: Conclusion) -> bool {
        self.nth(at).conclusion == Some(conclusion)
    }

    /// Its manager works as an App that may not run jobs again.
    async fn as_an_app_that_only_reads_actions(&mut self) {
        let (github, clock) = (self.github.clone(), self.clock.clone());
        self.adjust = Box::new(move |parts| {
            let transport = SimulatorTransport::app(github.clone(), clock.clone(), APP);
            change_account(parts, |account| {
                account.github = Arc::new(RestGitHub::new(Arc::new(transport), clock.clone()));
            });
        });
        self.crash().await;
        self.start();
    }

    fn asked_for_a_rerun(&self) -> u64 {
        let github = self.github();
        let asked = github.books().requests.iter().filter(|(route, _)| route.ends_with("/rerun"));
        asked.map(|(_, count)| count).sum()
    }
}

#[tokio::test]
async fn a_lost_machine_is_told_apart_from_a_failed_job() {
    for how in [Ending::Reclaimed, Ending::Vanished, Ending::Stopped, Ending::Failed] {
        let mut world = World::new(vec![linux(0, 10)], Behaviour::default()).await;
        world.queue(&long(), 1);
        world.until_running(1).await;
        world.end_machine_of(0, how).await;
        world.pass(Duration::from_mins(11)).await;
        let lost = world.record(0).await.lost.unwrap_or_else(|| panic!("{how}: before GitHub knows"));
        assert_eq!(lost.rerun, Rerun::Unwanted);
        if how == Ending::Reclaimed {
            assert_eq!(lost.why, "its instance failed: the cloud took the instance back");
        }
        world.until("GitHub ends it", HOUR, |world| world.ended(0, Conclusion::Failure)).await;
        world.pass(5 * MINUTE).await;
        let job = world.record(0).await;
        assert!(job.is_completed());
        assert_eq!(job.lost, Some(lost), "{how}: the record keeps the loss");
        assert_eq!(world.manager.statistics().snapshot().jobs_lost, 1);
        assert_eq!((world.count(), world.asked_for_a_rerun()), (1, 0), "nobody wanted it to run again");
    }
}

#[tokio::test]
async fn a_job_that_fails_by_itself_is_not_lost_whatever_webhooks_do() {
    for deliver in [|_: &str| true, |action: &str| action != "completed"] {
        let mut world = World::new(vec![with_rerun()], Behaviour::default()).await;
        (world.conclusion, world.deliver) = (Conclusion::Failure, deliver);
        world.queue(&spec(&["large"]), 1);
        world.until("it fails", HOUR, |world| world.ended(0, Conclusion::Failure)).await;
        world.pass(20 * MINUTE).await;
        let job = world.record(0).await;
        assert!(job.is_completed());
        assert_eq!((job.lost, world.manager.statistics().snapshot().jobs_lost), (None, 0));
        assert_eq!((world.count(), world.asked_for_a_rerun()), (1, 0));
    }
}

#[tokio::test]
async fn a_lost_job_is_run_again_once_it_and_its_run_have_ended() {
    for deliver in [|_: &str| true, |action: &str| action != "completed"] {
        let mut world = World::new(vec![with_rerun()], Behaviour::default()).await;
        world.deliver = deliver;
        let now = world.clock.now();
        let first = world.github().queue_job(&long(), now).unwrap();
        let run = world.nth(0).run;
        world.github().queue_job(&JobSpec { run: Some(run), name: "other".into(), ..long() }, now).unwrap();
        world.until_running(2).await;
        world.end_machine_of(0, Ending::Reclaimed).await;
        world.until("GitHub ends it", HOUR, |world| world.ended(0, Conclusion::Failure)).await;
        world.until("the other one ends", HOUR, |world| world.ended(1, Conclusion::Success)).await;
        assert_eq!(world.count(), 2, "not before its run has ended");
        world.until("it runs again", HOUR, |world| world.count() == 3).await;
        let again = world.nth(2);
        assert_eq!((again.run, again.attempt, &*again.name), (run, 2, &*world.nth(0).name));
        world.until("and ends well", HOUR, |world| world.ended(2, Conclusion::Success)).await;
        world.pass(HOUR).await;
        assert_eq!((world.count(), world.asked_for_a_rerun()), (3, 1), "once");
        let job = world.record(0).await;
        assert_eq!(job.id.0, first.0);
        assert!(matches!(job.lost.unwrap().rerun, Rerun::Done { .. }));
        assert_eq!(world.manager.statistics().snapshot().job_reruns["done"], 1);
    }
}

/// A world in which a job was lost, and its re-run, too, and some time has passed.
async fn lost_twice() -> World {
    let mut world = World::new(vec![with_rerun()], Behaviour::default()).await;
    world.queue(&long(), 1);
    for at in [0, 1] {
        world.until("there is one more", 2 * HOUR, |world| world.count() == at + 1).await;
        world.until_running(1).await;
        world.end_machine_of(at, Ending::Vanished).await;
        world.until("GitHub ends it", HOUR, |world| world.ended(at, Conclusion::Failure)).await;
    }
    world.pass(2 * HOUR).await;
    world
}

#[tokio::test]
async fn to_run_a_job_again_whatever_was_run_again_is_found() {
    turn_on(Some(Flaw::RerunAgain));
    let world = lost_twice().await;
    turn_on(None);
    assert!(world.count() > 2, "a bug on purpose, which the next test would find");
}

#[tokio::test]
async fn a_rerun_that_is_lost_too_is_not_run_again() {
    let world = lost_twice().await;
    assert_eq!((world.count(), world.asked_for_a_rerun()), (2, 1));
    let Rerun::Refused { why } = world.record(1).await.lost.unwrap().rerun else { panic!("not again") };
    assert!(why.detail.contains("run again already"), "{}", why.detail);
    assert_eq!(world.manager.statistics().snapshot().jobs_lost, 2);
}

#[tokio::test]
async fn an_answer_that_is_lost_or_a_crash_runs_it_again_once() {
    for (effect, crash) in [(Some(Effect::LoseReply), false), (Some(Effect::LoseReply), true), (None, true)] {
        let mut world = World::new(vec![with_rerun()], Behaviour::default()).await;
        world.queue(&long(), 1);
        world.until_running(1).await;
        world.end_machine_of(0, Ending::Reclaimed).await;
        // Before the call: whoever would make it dies first. After it: its answer is lost, or nobody is there.
        let before = effect.is_none();
        if let Some(effect) = effect {
            world.github().faults_mut().requests.push(RequestFault::always(effect).on("POST", RERUN));
        }
        world.until("GitHub ends it", HOUR, |world| world.ended(0, Conclusion::Failure)).await;
        if !before {
            world.until("it is asked for", HOUR, |world| world.asked_for_a_rerun() > 0).await;
        }
        if crash {
            world.crash().await;
            world.start();
        }
        world.github().faults_mut().requests.clear();
        world.until("it runs again", HOUR, |world| world.count() == 2).await;
        world.until("and ends", HOUR, |world| world.ended(1, Conclusion::Success)).await;
        world.pass(HOUR).await;
        assert_eq!(world.count(), 2, "once");
        assert!(matches!(world.record(0).await.lost.unwrap().rerun, Rerun::Done { .. }));
    }
}

#[tokio::test]
async fn a_refusal_is_kept_and_not_asked_for_for_ever() {
    for (status, calls) in [(404, 1), (422, 1), (403, 3)] {
        let mut world = World::new(vec![with_rerun()], Behaviour::default()).await;
        if status == 403 {
            // GitHub says the same of credentials that may not and of a run that has not ended.
            world.as_an_app_that_only_reads_actions().await;
        }
        world.queue(&long(), 1);
        world.until_running(1).await;
        world.end_machine_of(0, Ending::Reclaimed).await;
        let refuse = RequestFault::always(Effect::Answer { status, retry_after: None }).on("POST", RERUN);
        world.github().faults_mut().requests.extend((status != 403).then_some(refuse));
        world.until("GitHub ends it", HOUR, |world| world.ended(0, Conclusion::Failure)).await;
        world.pass(3 * HOUR).await;
        assert_eq!((world.count(), world.asked_for_a_rerun()), (1, calls), "{status}");
        let Rerun::Refused { why } = world.record(0).await.lost.unwrap().rerun else { panic!("{status}") };
        assert!(why.detail.contains("rerun_job"), "{status}: {}", why.detail);
        assert_eq!(world.manager.statistics().snapshot().job_reruns["refused"], 1);
    }
}

#[tokio::test]
async fn somebody_who_is_faster_counts_as_the_rerun() {
    let mut world = World::new(vec![with_rerun()], Behaviour::default()).await;
    world.queue(&long(), 1);
    world.until_running(1).await;
    world.end_machine_of(0, Ending::Reclaimed).await;
    world.until("GitHub ends it", HOUR, |world| world.ended(0, Conclusion::Failure)).await;
    let (id, now): (JobId, _) = (world.nth(0).id, world.clock.now());
    world.github().rerun_job(id, now).unwrap();
    world.pass(2 * HOUR).await;
    assert_eq!((world.count(), world.asked_for_a_rerun()), (2, 0));
}
