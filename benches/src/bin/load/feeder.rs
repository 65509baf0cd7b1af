//! The jobs: queued at GitHub as fast as asked for, and waited for.

use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use runner_manager_core::clock::{Clock, SystemClock};

use crate::args::Load;
use crate::site::{Site, Standing};

/// The most jobs that are queued by one request.
const BATCH: u32 = 50;
/// How often it is looked how far things are.
const LOOK: Duration = Duration::from_millis(250);
/// How long nothing at all may happen before what is missing counts as missing. Sweeps find out every five minutes
/// what events do not tell, such as that an idle runner is too much.
const STANDSTILL: Duration = Duration::from_mins(6);

/// Queues all jobs at the load's rate, in turn over groups and repositories.
///
/// # Errors
/// When GitHub does not take them.
pub(crate) async fn queue(load: &Load, site: &Site) -> anyhow::Result<()> {
    let groups: Vec<&String> = site.groups.keys().collect();
    let repositories: Vec<String> = site.repositories().collect();
    let began = SystemClock.now();
    let mut queued = 0;
    let mut turn = 0;
    while queued < load.jobs {
        let due = due(load, since(began)).min(load.jobs);
        if due <= queued {
            let next = Duration::from_secs_f64(f64::from(queued) / load.rate);
            SystemClock.sleep(next.saturating_sub(since(began))).await;
            continue;
        }
        let count = (due - queued).min(BATCH);
        let (group, repository) = (turn % groups.len(), turn / groups.len() % repositories.len());
        site.queue(&repositories[repository], groups[group], count, load.job_seconds()).await?;
        queued += count;
        turn += 1;
    }
    Ok(())
}

/// How many jobs are to be queued by a time after the beginning.
fn due(load: &Load, after: Duration) -> u32 {
    if load.rate == 0.0 {
        return load.jobs;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is cut to the jobs there are"
    )]
    let due = (after.as_secs_f64() * load.rate) as u32;
    due.saturating_add(1)
}

fn since(began: Timestamp) -> Duration {
    SystemClock.now().duration_since(began).try_into().unwrap_or(Duration::ZERO)
}

/// Waits until the manager makes runners, and the groups' idle ones are there; and until they are known to be, where they are to be watched.
///
/// # Errors
/// When they do not come.
pub(crate) async fn wait_for_idle(load: &Load, site: &Site) -> anyhow::Result<()> {
    let wanted: u64 = site.groups.values().map(|bounds| u64::from(bounds.min_idle())).sum();
    let arrived = until_still(async || {
        let Standing { store_trusted, alive, ready, idle } = site.standing().await?;
        let arrived = if load.idle().is_zero() { ready } else { idle };
        Ok((store_trusted && arrived == wanted && alive == wanted, vec![alive, ready, idle]))
    });
    if !arrived.await? {
        bail!("the idle runners do not come: {:?} of {wanted}", site.standing().await?);
    }
    Ok(())
}

/// Waits until each webhook was answered; and, unless that is all that is measured, until all jobs have ended and
/// nothing but idle runners is left. What has not come after a long standstill is missing.
///
/// # Errors
/// When a part does not answer.
pub(crate) async fn wait_for_the_end(load: &Load, site: &Site) -> anyhow::Result<()> {
    let kept: u64 = site.groups.values().map(|bounds| u64::from(bounds.min_idle())).sum();
    until_still(async || {
        let books = site.github().await.context("GitHub is asked how it stands")?;
        let (jobs, webhooks) = (books.jobs, books.webhooks);
        let answered = webhooks.accepted + webhooks.refused;
        let all_answered = jobs.total == u64::from(load.jobs) && answered == webhooks.events;
        if load.webhooks_only {
            return Ok((all_answered, vec![jobs.total, answered]));
        }
        let Standing { alive, ready, .. } = site.standing().await?;
        let done = all_answered && jobs.completed == jobs.total && books.runners.alive == kept;
        let seen = vec![jobs.total, answered, jobs.completed, books.runners.alive, alive, ready];
        Ok((done && alive == kept && ready == kept, seen))
    })
    .await
    .map(drop)
}

/// Looks until all is done; false where what is seen has not changed for long.
async fn until_still(look: impl AsyncFn() -> anyhow::Result<(bool, Vec<u64>)>) -> anyhow::Result<bool> {
    let mut seen = Vec::new();
    let mut changed = SystemClock.now();
    loop {
        let (done, now) = look().await?;
        if done {
            return Ok(true);
        }
        if now != seen {
            (seen, changed) = (now, SystemClock.now());
        }
        if since(changed) > STANDSTILL {
            return Ok(false);
        }
        SystemClock.sleep(LOOK).await;
    }
}
