//! Jobs on machines, from the webhook to the end, and over `kill -9` at the worst moments of a machine's
//! making.
//!
//! The machines' runners wait at a gate until a case has seen what it wants to see.

use std::time::Duration;

use crate::cloud::Cloud;
use crate::fault_proxy::Harm;
use crate::world::{MAX, Mode, World};

/// Longer than any case lets the manager live.
const HELD: Duration = Duration::from_mins(5);

pub(crate) async fn jobs_run_on_machines_and_nothing_is_left<C: Cloud>() {
    let Some(world) = World::<C>::start().await else { return };
    world.queue(5, 2).await;
    world.until("as many machines as may be", async || world.machines().len() == MAX).await;
    assert!(world.machines().iter().all(|machine| machine.group == "small"));
    world.open_the_gate();
    world.finish(5).await;
}

/// Machines that fetch their script and their JIT config, and say how far they are.
pub(crate) async fn machines_that_call_run_their_jobs<C: Cloud>() {
    let Some(world) = World::<C>::start_in(Mode::Callback).await else { return };
    world.queue(2, 2).await;
    world
        .until("both machines say that their runner listens", async || {
            let runners = world.runners().await;
            let listens = |runner: &&serde_json::Value| runner["timeline"].to_string().contains("listen");
            runners.iter().filter(listens).count() == 2
        })
        .await;
    world.open_the_gate();
    world.finish(2).await;
}

/// The cloud made the machine, and the manager dies before it hears of it.
pub(crate) async fn killed_between_the_create_and_its_record_makes_one_machine<C: Cloud>() {
    let Some(mut world) = World::<C>::start().await else { return };
    world.harm("held reply", Harm::HoldReply(HELD));
    world.queue(1, 2).await;
    let made = world.machine_is_made().await;
    world.kill();
    world.restart();
    world.its_job_runs_on(&made).await;
    assert_eq!(world.harmed("held reply"), 1);
}

/// The request is still on its way when the manager dies, and arrives while the next one looks for the
/// machine.
pub(crate) async fn killed_before_the_request_arrives_makes_one_machine<C: Cloud>() {
    let Some(mut world) = World::<C>::start().await else { return };
    world.harm("late request", Harm::Delay(Duration::from_secs(4)));
    world.queue(1, 2).await;
    world.until("the request is on its way", async || world.harmed("late request") == 1).await;
    world.kill();
    world.restart();
    let made = world.one_machine().await;
    world.its_job_runs_on(&made).await;
}

/// The reply is lost on its way, and the manager dies while it looks for the machine.
pub(crate) async fn a_lost_reply_and_a_kill_make_one_machine<C: Cloud>() {
    let Some(mut world) = World::<C>::start().await else { return };
    world.harm("lost reply", Harm::LoseReply);
    world.queue(1, 2).await;
    world.until("the reply was lost", async || world.harmed("lost reply") == 1).await;
    world.kill();
    let made = world.one_machine().await;
    world.restart();
    world.its_job_runs_on(&made).await;
}

/// The request never came to the cloud: after `settle` another runner takes the place.
pub(crate) async fn a_request_that_was_lost_is_replaced<C: Cloud>() {
    let Some(mut world) = World::<C>::start().await else { return };
    world.harm("lost request", Harm::Refuse);
    world.queue(1, 2).await;
    world.until("the request was lost", async || world.harmed("lost request") == 1).await;
    world.kill();
    world.restart();
    world.open_the_gate();
    world.finish(1).await;
}

/// The jobs go on while nobody looks after their machines, and the next manager lets them.
pub(crate) async fn killed_while_jobs_run_ends_none<C: Cloud>() {
    let Some(mut world) = World::<C>::start().await else { return };
    world.queue(2, 10).await;
    world.open_the_gate();
    world.until("both jobs run", async || world.books().await.jobs.in_progress == 2).await;
    world.kill();
    world.restart();
    world.finish(2).await;
}

/// The cloud removed the machine, and the manager dies before it hears of it.
pub(crate) async fn killed_while_a_machine_is_removed_leaves_nothing<C: Cloud>() {
    let Some(mut world) = World::<C>::start().await else { return };
    world.harm_where(C::removes, "held removal", Harm::HoldReply(HELD));
    world.queue(1, 0).await;
    world.open_the_gate();
    world.until("the removal is held", async || world.harmed("held removal") == 1).await;
    world.kill();
    world.restart();
    world.finish(1).await;
}
