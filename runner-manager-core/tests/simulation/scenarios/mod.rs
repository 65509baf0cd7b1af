//! The pains that operators of such managers report, each as a story by its name.
//!
//! | pain | story, or why there is none |
//! | --- | --- |
//! | 1 a job waits for ever after its webhook was lost | [`demand`]: `a_job_whose_queued_webhook_is_lost_still_runs` |
//! | 2 a runner is taken by another job with the same labels | [`demand`]: `a_runner_taken_by_another_job_is_made_up_for` |
//! | 3 scale-in kills a running job | [`machines`]: `a_busy_runner_is_not_killed_by_a_failed_reading`, `a_busy_runner_is_not_killed_while_github_calls_it_idle` |
//! | 4 orphans cost money | [`machines`]: `machines_that_no_record_explains_are_removed`, `a_machine_whose_record_was_lost_finishes_its_job` |
//! | 5 no capacity, and then silence | [`machines`]: `a_full_cloud_is_named_as_the_reason_and_asked_again` |
//! | 6 the retries end while the job still waits | [`demand`]: `a_job_outlasts_hours_of_failures` |
//! | 7 the machine starts, but its agent never registers | [`machines`]: `a_machine_whose_agent_never_registers_is_replaced` |
//! | 8 the budget of calls is spent | [`github`]: `a_spent_budget_is_waited_for` |
//! | 9 cancelled jobs leave idle runners | [`demand`]: `jobs_cancelled_while_queued_leave_no_idle_runners` |
//! | 10 a failed look before the launch drops jobs | [`github`]: `failed_looks_at_github_drop_no_job` |
//! | 11 a JIT config is good for minutes only | [`github`]: `a_registration_that_expired_before_its_machine_came_up_is_replaced` |
//! | 12 a used JIT config is replayed | [`machines`]: `a_jit_config_is_used_once` |
//! | 13 409 after a lost reply | [`github`]: `a_registration_whose_answer_was_lost_is_replaced` |
//! | 14 offline ghosts pile up | [`github`]: `registrations_of_dead_machines_are_removed` |
//! | 15 jobs given to dead machines | [`machines`]: `a_machine_that_dies_with_a_job_frees_its_slot` |
//! | 16 after an outage demand is counted wrong | [`github`]: `after_an_outage_of_github_everything_is_counted_anew` |
//! | 17 records stuck in creating or deleting | [`machines`]: `nothing_stays_stuck_while_the_cloud_refuses` |
//! | 18 doubled deliveries make extra runners | [`demand`]: `doubled_webhooks_make_no_more_runners`, `an_end_that_is_told_again_cancels_no_rerun` |
//! | 19 events in the wrong order | [`demand`]: `webhooks_in_any_order_end_the_same` |
//! | 20 labels that do not match | [`demand`]: `labels_are_compared_without_case_and_implied` |
//! | 21 races make too many | [`demand`]: `four_replicas_never_make_an_eleventh_machine` |
//! | 22 spot machines are reclaimed | [`machines`]: `a_reclaimed_machine_frees_its_slot_and_its_job_runs_again` |
//! | 23 the runner's version is refused | none: no runner binary is simulated. What follows, an agent that never comes up, is pain 7 |
//! | 24 several replicas misbehave | [`demand`]: `three_replicas_share_the_work_and_one_may_freeze` |
//! | 25 a silent policy of GitHub | [`github`]: `a_group_that_github_refuses_is_named_as_the_reason` |

mod demand;
mod github;
mod machines;

use std::time::Duration;

use runner_manager_core::store::{JobFilter, Page};
use runner_manager_core::testing::simulator::JobSpec;

use super::plan::{Plan, quiet};
use super::run::{panics, within_runtime};
use super::shared::{Promise, Violation};
use super::world::World;

pub(crate) const MINUTE: Duration = Duration::from_mins(1);
pub(crate) const HOUR: Duration = Duration::from_hours(1);

type Told = Result<(), Violation>;

/// One replica with one group `linux` of label `large`.
fn linux(min_idle: u32, max: u32) -> Plan {
    quiet("linux", "large", min_idle, max)
}

/// A job of so many seconds.
pub(crate) fn job(labels: &[&str], seconds: u64) -> JobSpec {
    JobSpec::new("acme/app", labels.iter().copied()).seconds(seconds)
}

/// Tells a story in a world, and then lets it come to its end: every job has run and nothing is left.
#[track_caller]
pub(crate) fn play(plan: Plan, story: impl AsyncFnOnce(&mut World) -> Told) {
    within_runtime(async {
        let before = panics();
        let mut world = World::new(plan, true).await;
        let mut told = story(&mut world).await;
        if told.is_ok() {
            world.be_quiet();
            told = world.come_to_the_end().await;
        }
        if let Err(violation) = told {
            panic!("{violation}");
        }
        assert_eq!(panics(), before, "something panicked");
    });
}

impl World {
    fn completed(&self) -> u64 {
        self.shared.github().books().jobs.completed
    }

    fn in_progress(&self) -> u64 {
        self.shared.github().books().jobs.in_progress
    }

    /// How many instances of ours were ever made.
    fn made(&self) -> usize {
        let owner = &self.shared.owner;
        self.books().lives.iter().filter(|life| life.owner == *owner).count()
    }

    /// How many instances of ours there are.
    fn alive(&self) -> usize {
        let owner = &self.shared.owner;
        self.books().lives.iter().filter(|life| life.owner == *owner && life.gone_at.is_none()).count()
    }

    pub(crate) async fn until_all_run(&mut self, limit: Duration) -> Told {
        let total = self.shared.github().books().jobs.total;
        self.until(Promise::EveryJob, "all jobs have run", limit, |world| world.completed() == total).await
    }

    pub(crate) async fn until_running(&mut self, count: u64) -> Told {
        let running = |world: &Self| world.in_progress() == count;
        self.until(Promise::EveryJob, "the jobs run", 10 * MINUTE, running).await
    }

    /// Why the first job waits, as people are told.
    pub(crate) async fn reason(&self) -> String {
        let jobs = self.operator.jobs(&JobFilter::All, &Page::first(100)).await.unwrap();
        let reasons = jobs.into_iter().filter_map(|status| status.reason);
        reasons.map(|reason| reason.to_string()).next().unwrap_or_default()
    }
}
