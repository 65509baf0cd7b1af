//! Machines that fail, vanish, are forgotten, or never come up.

use std::time::Duration;

use jiff::SignedDuration;
use runner_manager_backends::fake::{Ending, Fault, Operation, Rule};
use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::testing::simulator::{ConnectRefusal, Effect, LyingBusy, RequestFault};

use super::{HOUR, MINUTE, Told, job, linux, play};
use crate::world::World;

fn error(kind: BackendErrorKind) -> Fault {
    Fault::Error { kind, retry_after: None }
}

/// The machine of the first runner ends.
fn end_the_first(world: &World, how: Ending) {
    let now = world.now();
    let life = world.books().lives.iter().find(|life| life.owner == world.shared.owner).cloned().unwrap();
    world.shared.cloud().end(&life.id, how, now);
}

#[test]
fn a_busy_runner_is_not_killed_by_a_failed_reading() {
    play(linux(0, 10), async |world| {
        world.queue(&job(&["large"], 1_800), 3, false);
        world.until_running(3).await?;
        for status in [403, 429, 502] {
            let fault = RequestFault::always(Effect::Answer { status, retry_after: None });
            world.shared.github().faults_mut().requests.push(fault.with_probability(0.4));
        }
        for operation in [Operation::Get, Operation::Find, Operation::List] {
            let rule = Rule { operation, chance: 0.5, fault: error(BackendErrorKind::Unavailable) };
            world.change_cloud(|cloud| cloud.faults.push(rule));
        }
        world.pass(20 * MINUTE).await?;
        assert_eq!((world.in_progress(), world.alive()), (3, 3));
        Ok(())
    });
}

#[test]
fn a_busy_runner_is_not_killed_while_github_calls_it_idle() {
    let mut plan = linux(2, 10);
    let lasts = SignedDuration::from_secs(170);
    plan.github.lying_busy = vec![LyingBusy { probability: 1.0, lasts, spares: false }];
    play(plan, async |world| {
        world.queue(&job(&["large"], 600), 4, false);
        world.until_running(4).await?;
        // What was wanted idle is wanted no more: the others are to go at once.
        let operator = world.operator.clone();
        let mut smaller = world.plan.groups.clone();
        smaller[0].bounds = runner_manager_core::domain::Bounds::new(0, 10).unwrap();
        smaller[0].limits.idle_timeout = Duration::from_secs(1);
        operator.reconfigure(smaller).await.unwrap();
        world.until_all_run(HOUR).await?;
        assert_eq!(world.shared.github().books().jobs.lost, 0);
        Ok(())
    });
}

#[test]
fn machines_that_no_record_explains_are_removed() {
    play(linux(0, 10), async |world| {
        world.agents.broken = 100;
        world.queue(&job(&["large"], 30), 3, false);
        world.pass(MINUTE).await?;
        assert_eq!(world.alive(), 3);
        world.shared.lose_store(None);
        world.agents.broken = 0;
        world.until_all_run(HOUR).await?;
        world.pass(30 * MINUTE).await?;
        assert_eq!(world.alive(), 0);
        Ok(())
    });
}

#[test]
fn a_machine_whose_record_was_lost_finishes_its_job() {
    play(linux(0, 10), async |world| {
        world.queue(&job(&["large"], 1_800), 4, false);
        world.until_running(4).await?;
        world.shared.lose_store(None);
        world.until_all_run(2 * HOUR).await?;
        assert_eq!(world.shared.github().books().jobs.lost, 0);
        assert_eq!(world.made(), 4, "no machine in vain");
        Ok(())
    });
}

#[test]
fn a_full_cloud_is_named_as_the_reason_and_asked_again() {
    play(linux(0, 10), async |world| {
        world.change_cloud(|cloud| cloud.zones.values_mut().for_each(|zone| *zone = Some(0)));
        world.queue(&job(&["large"], 30), 2, false);
        world.pass(10 * MINUTE).await?;
        let reason = world.reason().await;
        assert!(reason.contains("small in zone-a") && reason.contains("NoCapacity"), "{reason}");
        let asked = world.books().calls(Operation::Create);
        assert!(asked < 25, "the cloud was asked {asked} times in ten minutes");
        world.change_cloud(|cloud| cloud.zones.values_mut().for_each(|zone| *zone = None));
        world.until_all_run(30 * MINUTE).await
    });
}

#[test]
fn a_machine_whose_agent_never_registers_is_replaced() {
    play(linux(0, 10), async |world| {
        world.agents.broken = 100;
        world.queue(&job(&["large"], 30), 1, false);
        world.pass(HOUR).await?;
        let made = world.made();
        assert!((2..=8).contains(&made), "{made} machines in an hour");
        world.agents.broken = 0;
        world.until_all_run(HOUR).await
    });
}

#[test]
fn a_jit_config_is_used_once() {
    play(linux(0, 10), async |world| {
        world.queue(&job(&["large"], 600), 3, false);
        world.until_running(3).await?;
        end_the_first(world, Ending::Reclaimed);
        world.replicas[0].kill();
        world.until_all_run(HOUR).await?;
        let refused = world.shared.github().books().refusals.clone();
        assert_eq!(refused.get(&ConnectRefusal::AlreadyUsed), None, "{refused:?}");
        Ok(())
    });
}

#[test]
fn a_machine_that_dies_with_a_job_frees_its_slot() {
    play(linux(0, 1), async |world| {
        world.queue(&job(&["large"], 600), 1, false);
        world.until_running(1).await?;
        end_the_first(world, Ending::Vanished);
        world.queue(&job(&["large"], 30), 1, false);
        // The slot is free long before GitHub gives the lost job up.
        let second = |world: &World| world.made() == 2;
        world
            .until(crate::shared::Promise::EveryJob, "the second gets its machine", 8 * MINUTE, second)
            .await?;
        world.until_all_run(HOUR).await
    });
}

#[test]
fn nothing_stays_stuck_while_the_cloud_refuses() {
    play(linux(0, 3), async |world| {
        for operation in [Operation::Create, Operation::Delete] {
            let rule = Rule { operation, chance: 0.7, fault: error(BackendErrorKind::Unclear) };
            world.change_cloud(|cloud| cloud.faults.push(rule));
        }
        world.queue(&job(&["large"], 30), 4, false);
        world.until_all_run(3 * HOUR).await?;
        world
            .until(crate::shared::Promise::NothingLeft, "all are gone", HOUR, |world| world.alive() == 0)
            .await
    });
}

async fn is_reclaimed(world: &mut World) -> Told {
    let first = world.queue(&job(&["large"], 600), 1, false)[0];
    world.until_running(1).await?;
    end_the_first(world, Ending::Reclaimed);
    world.until_all_run(HOUR).await?;
    let now = world.now();
    world.shared.github().rerun_job(first, now).unwrap();
    world.until_all_run(HOUR).await?;
    assert_eq!((world.made(), world.shared.github().books().jobs.lost), (2, 1));
    Ok(())
}

#[test]
fn a_reclaimed_machine_frees_its_slot_and_its_job_runs_again() {
    play(linux(0, 1), is_reclaimed);
}
