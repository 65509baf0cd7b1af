//! `status` and `top`: how everything is, once or again and again.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use runner_manager_core::clock::{Clock, SystemClock};
use tokio_util::sync::CancellationToken;

use super::lists::group_table;
use super::{Remote, read, show};
use crate::output;
use crate::view::{Deployment, Queue, Status};

/// Whom to ask.
#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    remote: Remote,
}

/// Whom to ask, and how often.
#[derive(Debug, Args)]
pub(crate) struct TopOptions {
    #[command(flatten)]
    remote: Remote,
    /// How long to wait before asking again, in seconds, 1 to 3600.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Ends after so many looks. Without it, when it is stopped.
    #[arg(long)]
    count: Option<u64>,
}

/// Tells how everything is.
///
/// # Errors
/// When the manager does not answer as it should.
pub(crate) async fn status(options: &StatusOptions) -> anyhow::Result<ExitCode> {
    let answer = options.remote.get(&["status"], &[]).await?;
    show(&options.remote, answer, |status: &Status| output::line(&glance(status)))
}

/// Tells how everything is until `stop` is cancelled: on a terminal always in the same place, else one after the
/// other, with `--json` one object a line.
///
/// # Errors
/// When the manager does not answer at first, or answers something else; later a terminal shows that and goes on.
pub(crate) async fn top(options: &TopOptions, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let on_terminal = std::io::stdout().is_terminal() && !options.remote.json;
    let mut looks = 0;
    loop {
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
            answer = options.remote.get(&["status"], &[]) => answer,
        };
        match answer {
            Ok(answer) if options.remote.json => output::json_line(&answer)?,
            Ok(answer) if on_terminal => output::screen(&glance(&read(answer)?))?,
            Ok(answer) => output::line(&format!("{}\n", glance(&read(answer)?)))?,
            Err(error) if on_terminal && looks > 0 => {
                output::screen(&output::printable(&format!("{error:#}")))?;
            }
            Err(error) => return Err(error),
        }
        looks += 1;
        if options.count.is_some_and(|count| looks >= count) {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
            () = SystemClock.sleep(Duration::from_secs(options.interval)) => {}
        }
    }
}

/// All of it on one screen.
fn glance(status: &Status) -> String {
    let mut lines = vec![format!("{:.0}  {}", status.at, replicas(&status.deployment))];
    lines.push(queue(&status.queue));
    lines.extend(status.remarks.iter().map(|remark| format!("! {}", output::printable(remark))));
    lines.push(String::new());
    lines.push(group_table(&status.groups));
    let remarks = status.groups.iter().flat_map(|group| {
        group.github_group_remarks.iter().map(move |remark| format!("! {}: {remark}", group.name))
    });
    lines.extend(remarks.map(|remark| output::printable(&remark)));
    lines.join("\n")
}

fn replicas(deployment: &Deployment) -> String {
    let living = deployment.replicas.iter().filter(|replica| replica.lives).count();
    let word = if living == 1 { "replica" } else { "replicas" };
    format!("{living} {word}, configuration {}", deployment.revision)
}

fn queue(queue: &Queue) -> String {
    let of = |count: fn(&crate::view::Lane) -> u64| queue.lanes.values().map(count).sum::<u64>();
    let (due, claimed, delayed) = (of(|lane| lane.due), of(|lane| lane.claimed), of(|lane| lane.delayed));
    let dead = if queue.dead > 0 { format!(", {} given up", queue.dead) } else { String::new() };
    format!("tasks: {due} due, {claimed} under way, {delayed} for later{dead}")
}
