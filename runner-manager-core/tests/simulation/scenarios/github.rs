//! GitHub that refuses, forgets, or does not answer.

use jiff::SignedDuration;
use runner_manager_backends::fake::Ending;
use runner_manager_core::testing::simulator::{Effect, RequestFault};

use super::{HOUR, MINUTE, job, linux, play};
use crate::world::World;

fn answers(status: u16, retry_after: Option<u32>) -> RequestFault {
    RequestFault::always(Effect::Answer { status, retry_after })
}

fn requests(world: &World) -> u64 {
    world.shared.github().books().requests.values().sum()
}

#[test]
fn a_spent_budget_is_waited_for() {
    play(linux(0, 10), async |world| {
        world.pass(MINUTE).await?;
        let until = world.now() + SignedDuration::from_mins(10);
        world.shared.github().faults_mut().requests.push(answers(429, Some(600)).until(until));
        world.queue(&job(&["large"], 30), 5, false);
        let before = requests(world);
        world.pass(9 * MINUTE).await?;
        let asked = requests(world) - before;
        assert!(asked <= 30, "GitHub was asked {asked} times although it wanted to be left alone");
        world.until_all_run(HOUR).await
    });
}

#[test]
fn failed_looks_at_github_drop_no_job() {
    play(linux(0, 10), async |world| {
        for status in [403, 404, 502] {
            let fault = answers(status, None).on("GET", "/");
            world.shared.github().faults_mut().requests.push(fault.with_probability(0.5));
        }
        world.queue(&job(&["large"], 300), 8, false);
        world.until_all_run(HOUR).await?;
        assert_eq!(world.made(), 8);
        Ok(())
    });
}

#[test]
fn a_registration_that_expired_before_its_machine_came_up_is_replaced() {
    let mut plan = linux(0, 10);
    plan.cloud.boot_time = 5 * MINUTE;
    plan.unused_registration = Some(SignedDuration::from_mins(2));
    play(plan, async |world| {
        world.queue(&job(&["large"], 30), 1, false);
        world.pass(8 * MINUTE).await?;
        assert_eq!(world.completed(), 0, "its registration is gone before it comes up");
        world.change_cloud(|cloud| cloud.boot_time = MINUTE);
        world.until_all_run(HOUR).await
    });
}

#[test]
fn a_registration_whose_answer_was_lost_is_replaced() {
    play(linux(0, 10), async |world| {
        let until = world.now() + SignedDuration::from_mins(1);
        let lost =
            RequestFault::always(Effect::LoseReply).on("POST", "/orgs/*/actions/runners/generate-jitconfig");
        world.shared.github().faults_mut().requests.push(lost.until(until));
        world.queue(&job(&["large"], 30), 3, false);
        world.until_all_run(15 * MINUTE).await?;
        world.pass(15 * MINUTE).await?;
        let left: Vec<String> = world.left().collect();
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn registrations_of_dead_machines_are_removed() {
    play(linux(3, 10), async |world| {
        world.pass(10 * MINUTE).await?;
        for life in world.books().lives {
            if life.owner == world.shared.owner {
                let now = world.now();
                world.shared.cloud().end(&life.id, Ending::Vanished, now);
            }
        }
        world.pass(20 * MINUTE).await?;
        let registrations = world.left().filter(|left| left.starts_with("registration")).count();
        assert_eq!((registrations, world.alive()), (3, 3), "those that took their places, and no ghosts");
        Ok(())
    });
}

#[test]
fn after_an_outage_of_github_everything_is_counted_anew() {
    let mut plan = linux(0, 20);
    plan.skews = vec![0, 60_000];
    play(plan, async |world| {
        world.queue(&job(&["large"], 240), 6, false);
        world.until_running(6).await?;
        world.pass(MINUTE).await?;
        world.webhooks.lost = 100;
        world.shared.github().faults_mut().requests.push(answers(502, None));
        world.pass(5 * MINUTE).await?;
        world.queue(&job(&["large"], 60), 6, false);
        world.pass(5 * MINUTE).await?;
        world.webhooks.lost = 0;
        world.shared.github().faults_mut().requests.clear();
        world.until_all_run(30 * MINUTE).await?;
        world.pass(10 * MINUTE).await?;
        let counts = world.operator.groups().await.unwrap()[0].counts;
        assert_eq!((counts.queued, counts.busy), (0, 0), "{counts:?}");
        assert!(world.made() <= 12, "{} machines for 12 jobs", world.made());
        Ok(())
    });
}

#[test]
fn a_group_that_github_refuses_is_named_as_the_reason() {
    let mut plan = linux(0, 10);
    plan.groups[0].github_group.name = "Nowhere".to_owned();
    play(plan, async |world| {
        world.queue(&job(&["large"], 30), 1, false);
        world.pass(5 * MINUTE).await?;
        let reason = world.reason().await;
        assert!(reason.contains("`Nowhere` does not exist in organization:acme"), "{reason}");
        // Somebody mends the configuration.
        world.plan.groups[0].github_group.name = "Default".to_owned();
        Ok(())
    });
}
