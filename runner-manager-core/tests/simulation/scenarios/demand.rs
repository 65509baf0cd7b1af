//! Jobs that come, change and go, and how they are counted.

use std::time::Duration;

use runner_manager_backends::fake::{Behaviour, Fault, Operation, Rule};
use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::testing::simulator::WebhookFaults;

use super::{HOUR, MINUTE, job, linux, play};
use crate::groups::group;
use crate::plan::Plan;

#[test]
fn a_job_whose_queued_webhook_is_lost_still_runs() {
    play(linux(0, 10), async |world| {
        world.webhooks.lost = 100;
        world.queue(&job(&["large"], 30), 3, false);
        world.until_all_run(HOUR).await?;
        assert_eq!(world.made(), 3, "as many machines as jobs");
        Ok(())
    });
}

#[test]
fn a_runner_taken_by_another_job_is_made_up_for() {
    let mut plan = linux(0, 5);
    plan.groups.push(group("gpu", &["large", "gpu"], 0, 5, &["zone-a"]));
    play(plan, async |world| {
        // The older jobs, of the less specific kind, may take the gpu runners.
        world.queue(&job(&["large"], 300), 2, false);
        world.queue(&job(&["large", "gpu"], 30), 3, false);
        world.until_all_run(HOUR).await
    });
}

#[test]
fn a_job_outlasts_hours_of_failures() {
    play(linux(0, 10), async |world| {
        let refused = Fault::Error { kind: BackendErrorKind::PermissionDenied, retry_after: None };
        let rule = Rule { operation: Operation::Create, chance: 1.0, fault: refused };
        world.change_cloud(|cloud| cloud.faults = vec![rule]);
        world.queue(&job(&["large"], 30), 1, false);
        world.pass(6 * HOUR).await?;
        assert!(world.reason().await.contains("PermissionDenied"), "{}", world.reason().await);
        let asked = world.books().calls(Operation::Create);
        assert!(asked < 80, "the cloud was asked {asked} times in six hours");
        world.change_cloud(|cloud| cloud.faults.clear());
        world.until_all_run(HOUR).await
    });
}

#[test]
fn jobs_cancelled_while_queued_leave_no_idle_runners() {
    let mut plan = linux(0, 10);
    plan.cloud.boot_time = 2 * MINUTE;
    play(plan, async |world| {
        let jobs = world.queue(&job(&["large"], 30), 6, false);
        world.pass(MINUTE).await?;
        assert_eq!(world.alive(), 6);
        let now = world.now();
        for job in jobs {
            let run = world.shared.github().job(job).unwrap().run;
            world.shared.github().cancel_run(run, now).unwrap();
        }
        world.pass(15 * MINUTE).await?;
        assert_eq!(world.alive(), 0, "idle runners that no job needs go");
        Ok(())
    });
}

#[test]
fn doubled_webhooks_make_no_more_runners() {
    let mut plan = linux(0, 50);
    plan.skews = vec![0, 120_000, -120_000];
    plan.github.webhooks = WebhookFaults { doubled: 1.0, ..WebhookFaults::default() };
    play(plan, async |world| {
        world.queue(&job(&["large"], 30), 20, false);
        world.until_all_run(HOUR).await?;
        assert_eq!(world.made(), 20);
        Ok(())
    });
}

#[test]
fn an_end_that_is_told_again_cancels_no_rerun() {
    let mut plan = linux(0, 10);
    plan.github.webhooks = WebhookFaults { doubled: 1.0, delayed: 0.5, ..WebhookFaults::default() };
    play(plan, async |world| {
        let first = world.queue(&job(&["large"], 10), 1, false)[0];
        world.until_all_run(HOUR).await?;
        let now = world.now();
        world.shared.github().rerun_job(first, now).unwrap();
        world.until_all_run(5 * MINUTE).await
    });
}

#[test]
fn webhooks_in_any_order_end_the_same() {
    let mut plan = linux(0, 30);
    plan.github.webhooks =
        WebhookFaults { reordered: 1.0, delayed: 0.5, doubled: 0.3, ..WebhookFaults::default() };
    play(plan, async |world| {
        world.queue(&job(&["large"], 2), 15, false);
        world.until_all_run(HOUR).await?;
        world.pass(5 * MINUTE).await?;
        let groups = world.operator.groups().await.unwrap();
        assert_eq!(groups[0].counts.queued, 0, "no job is counted that does not wait");
        Ok(())
    });
}

#[test]
fn labels_are_compared_without_case_and_implied() {
    play(linux(0, 10), async |world| {
        world.queue(&job(&["self-hosted", "Linux", "X64", "LARGE"], 10), 1, false);
        world.queue(&job(&["linux"], 10), 1, false);
        world.until_all_run(10 * MINUTE).await
    });
}

/// Four replicas on one store, slow calls, and five hundred jobs at once.
fn crowd() -> Plan {
    let mut plan = linux(0, 10);
    plan.skews = vec![0, 200_000, -200_000, 60_000];
    plan.cloud = Behaviour {
        create_latency: Duration::from_secs(2),
        boot_time: Duration::from_secs(5),
        delete_time: Duration::from_secs(5),
        ..plan.cloud
    };
    for side in &mut plan.chances {
        side.slow = 200_000;
    }
    plan
}

#[test]
fn four_replicas_never_make_an_eleventh_machine() {
    play(crowd(), async |world| {
        world.queue(&job(&["large"], 5), 120, false);
        world.until_all_run(2 * HOUR).await?;
        let most = world.books().groups[&crate::groups::name("linux")].max_alive;
        assert!(most <= 10, "{most} machines at once");
        Ok(())
    });
}

#[test]
fn three_replicas_share_the_work_and_one_may_freeze() {
    let mut plan = crowd();
    plan.skews.truncate(3);
    play(plan, async |world| {
        world.queue(&job(&["large"], 20), 40, false);
        world.pass(20 * Duration::from_secs(1)).await?;
        world.replicas[1].freeze(3 * MINUTE);
        world.pass(MINUTE).await?;
        world.replicas[2].kill();
        world.until_all_run(HOUR).await?;
        assert!(world.made() <= 42, "{} machines for 40 jobs", world.made());
        Ok(())
    });
}
