//! What seeds found to be wrong, told as short stories, so that it stays right however plans change.

use runner_manager_core::domain::OperationId;
use runner_manager_core::store::{Change, Expected, Store, Write};
use runner_manager_core::testing::simulator::{Effect, LyingBusy, RequestFault};

use super::groups::group;
use super::plan::{Chances, Plan, quiet};
use super::run::run;
use super::scenarios::{HOUR, MINUTE, job, play};
use super::shared::Promise;
use super::world::World;

/// A plan in which something about one side goes wrong again and again.
fn with(side: usize, chances: Chances) -> Plan {
    let mut plan = quiet("linux", "large", 0, 5);
    plan.chances[side] = chances;
    plan
}

/// A reading that took long was dated by its begin: what it said stood less than a minute before what the second
/// one said. The checker holds every removal against that.
#[test]
fn two_readings_are_a_minute_apart_however_long_they_take() {
    let mut plan = with(3, Chances { slow: 500_000, ..Chances::default() });
    plan.groups[0].limits.idle_timeout = std::time::Duration::from_secs(20);
    play(plan, async |world| {
        let jobs = world.queue(&job(&["large"], 30), 5, false);
        world.pass(MINUTE / 6).await?;
        let now = world.now();
        for job in jobs {
            let run = world.shared.github().job(job).unwrap().run;
            let _ = world.shared.github().cancel_run(run, now);
        }
        world.pass(HOUR / 2).await
    });
}

/// A worker that did not get the store's time put its task back by its own clock. Where that is minutes ahead,
/// the task waited so long, and no push brought it forward.
#[test]
fn a_clock_that_is_ahead_delays_no_retry() {
    for seed in 0..12 {
        let mut plan = with(0, Chances { refuse: 50_000, lose: 50_000, ..Chances::default() });
        plan.seed = seed;
        plan.skews = vec![30 * 60 * 1_000];
        play(plan, async |world| {
            world.queue(&job(&["large"], 5), 3, false);
            world.until_all_run(20 * MINUTE).await
        });
    }
}

/// A registration was looked for and removed with leave for one call. The checker holds every call against its
/// leave.
#[test]
fn every_call_has_a_leave_of_its_own() {
    for seed in [34, 57] {
        assert_eq!(run(Plan::of(seed), false).violation, None, "seed {seed}");
    }
}

/// An operator's word took a booting runner out of GitHub at once, also where GitHub did not say whether it was
/// online by then: it ran a job of which no webhook told, and which GitHub denied.
#[test]
fn a_booting_runner_that_is_to_go_may_run_a_job_by_then() {
    let mut plan = quiet("linux", "large", 0, 5);
    plan.sweep_interval = 5 * MINUTE;
    let lasts = jiff::SignedDuration::from_secs(100);
    plan.github.lying_busy = vec![LyingBusy { probability: 1.0, lasts, spares: false }];
    play(plan, async |world| {
        world.webhooks.lost = 100;
        world.queue(&job(&["large"], 900), 1, false);
        world.until_running(1).await?;
        let runner =
            world.books().lives.iter().find(|life| life.owner == world.shared.owner).cloned().unwrap();
        let fails = RequestFault::always(Effect::Answer { status: 502, retry_after: None });
        world.shared.github().faults_mut().requests.push(fails);
        world.operator.retire(&runner.runner, false).await.unwrap();
        world.shared.github().faults_mut().requests.clear();
        world.until_all_run(HOUR).await?;
        assert_eq!(world.shared.github().books().jobs.lost, 0);
        Ok(())
    });
}

/// One that did not come online in time was taken out of GitHub without another look. While GitHub could not be
/// asked it came online after all, and ran a job of which no webhook told, and which GitHub denied.
#[test]
fn a_runner_that_comes_online_too_late_is_looked_at_before_it_is_removed() {
    let mut plan = quiet("linux", "large", 0, 1);
    plan.cloud.boot_time = 11 * MINUTE;
    plan.cloud.boot_jitter = std::time::Duration::ZERO;
    plan.sweep_interval = HOUR / 2;
    plan.github.lying_busy =
        vec![LyingBusy { probability: 1.0, lasts: jiff::SignedDuration::from_secs(240), spares: false }];
    assert_eq!(plan.groups[0].limits.start_timeout, 10 * MINUTE);
    play(plan, async |world| {
        world.webhooks.lost = 100;
        let refused_until = world.now() + jiff::SignedDuration::from_mins(13);
        let refuses = RequestFault::always(Effect::Answer { status: 502, retry_after: None });
        let refuses = refuses.on("DELETE", "/orgs/*/actions/runners").until(refused_until);
        world.shared.github().faults_mut().requests.push(refuses);
        world.queue(&job(&["large"], 900), 1, false);
        world.until_all_run(2 * HOUR).await?;
        assert_eq!(world.shared.github().books().jobs.lost, 0);
        Ok(())
    });
}

/// A worker that heard late that its instance was created found no record, took its runner for one that had
/// ended, and deleted the instance. But the store had lost the record, and the runner had a job.
#[test]
fn a_machine_whose_record_was_lost_is_not_deleted_by_who_created_it() {
    let mut plan = quiet("linux", "large", 0, 5);
    plan.skews = vec![0, 0];
    plan.cloud.create_latency = MINUTE / 30;
    play(plan, async |world| {
        world.queue(&job(&["large"], 900), 1, false);
        world.pass(MINUTE / 60).await?;
        // Whoever asked is frozen while the answer is on its way; the store forgets that anybody did.
        world.replicas.iter().for_each(|replica| replica.freeze(MINUTE / 2));
        world.until_running(1).await?;
        world.shared.lose_store(None);
        world.until_all_run(HOUR).await?;
        assert_eq!(world.shared.github().books().jobs.lost, 0);
        Ok(())
    });
}

/// A sweep ended at the first runner that it would have taken away while the store was doubted. Sweeps are what
/// ends the doubt, so it went on for ever.
#[test]
fn a_runner_that_is_to_go_keeps_no_doubt_alive() {
    let mut plan = quiet("linux", "large", 1, 5);
    plan.groups.push(group("gpu", &["gpu"], 0, 5, &["zone-a"]));
    play(plan, async |world| {
        world.pass(5 * MINUTE).await?;
        let runner =
            world.books().lives.iter().find(|life| life.owner == world.shared.owner).cloned().unwrap();
        world.operator.retire(&runner.runner, false).await.unwrap();
        // One reading called it not busy when the store loses something.
        let one_reading = |world: &World| {
            let lines = world.shared.state().trace.lines().to_vec();
            lines.iter().any(|line| line.contains("not_busy_at: Some"))
        };
        world.until(Promise::EveryJob, "one reading", 15 * MINUTE, one_reading).await?;
        world.pass(MINUTE / 2).await?;
        let kept = world.shared.keep_store();
        world.shared.lose_store(Some(kept));
        world.queue(&job(&["gpu"], 30), 2, false);
        world.until_all_run(20 * MINUTE).await
    });
}

/// A worker that was frozen left jobs to nobody by what it knew of the groups, after they had changed. Nothing
/// but another change looked at such jobs again.
#[test]
fn a_job_that_was_left_to_nobody_is_looked_at_again() {
    play(quiet("linux", "large", 0, 5), async |world| {
        world.pass(MINUTE).await?;
        let group = world.plan.groups[0].name.clone();
        world.operator.drain(&group).await.unwrap();
        world.pass(MINUTE / 6).await?;
        world.queue(&job(&["large"], 30), 1, false);
        world.pass(MINUTE / 6).await?;
        assert_eq!(world.reason().await, "group linux is draining");
        // The group is open again, and whoever left the job to nobody did not know.
        let mut view = world.shared.storage.group(&group).await.unwrap().unwrap();
        view.record.value.draining = None;
        let expected = Expected::Version(view.record.version);
        let write = Write {
            operation: OperationId::new("opened"),
            claim: None,
            ends_claim: false,
            on_trust: false,
            changes: vec![Change::PutGroup { record: view.record.value, expected }],
            tasks: Vec::new(),
        };
        world.shared.storage.apply(write).await.unwrap();
        world.until_all_run(10 * MINUTE).await
    });
}
