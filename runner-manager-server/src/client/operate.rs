//! `drain`, `resume`, `retire`, `sweep`: has a running manager do something.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Remote, read, show};
use crate::output;
use crate::view::{GoOn, Group, Retired, Sweeps, Withheld};

/// Which group is meant.
#[derive(Debug, Args)]
pub(crate) struct GroupOptions {
    #[command(flatten)]
    remote: Remote,
    /// The group.
    group: String,
}

/// Which runner is meant.
#[derive(Debug, Args)]
pub(crate) struct RetireOptions {
    #[command(flatten)]
    remote: Remote,
    /// The runner.
    runner: String,
    /// Also where it runs a job: that kills the job.
    #[arg(long)]
    force: bool,
}

/// What is asked about sweeps.
#[derive(Debug, Subcommand)]
pub(crate) enum SweepCommand {
    /// Shows the sweeps that stopped because they would condemn too much, and what dry runs would do.
    Show(SweepOptions),
    /// Has a sweep go on that stopped, with the findings that `show` names, once.
    GoOn(GoOnOptions),
}

/// Whom to ask.
#[derive(Debug, Args)]
pub(crate) struct SweepOptions {
    #[command(flatten)]
    remote: Remote,
}

/// Which sweep is to go on, and with what.
#[derive(Debug, Args)]
pub(crate) struct GoOnOptions {
    #[command(flatten)]
    remote: Remote,
    /// The backend, or the scope such as organization:acme.
    source: String,
    /// The mark of the findings that are meant. Without it, they are shown, and nothing is done.
    #[arg(long)]
    mark: Option<String>,
}

/// Has a group make no new runners.
///
/// # Errors
/// When the manager does not answer, knows no such group, or the token may not do that.
pub(crate) async fn drain(options: &GroupOptions) -> anyhow::Result<ExitCode> {
    change(options, "drain").await
}

/// Ends a drain.
///
/// # Errors
/// As [`drain`].
pub(crate) async fn resume(options: &GroupOptions) -> anyhow::Result<ExitCode> {
    change(options, "resume").await
}

async fn change(options: &GroupOptions, what: &str) -> anyhow::Result<ExitCode> {
    let answer = options.remote.post(&["groups", &options.group, what], &json!({})).await?;
    show(&options.remote, answer, |group: &Group| {
        let counts = &group.counts;
        let state = if group.draining.is_some() { "drains" } else { "makes runners" };
        output::line(&format!(
            "{} {state}: {} runners, {} of them busy; {} jobs wait for it",
            group.name, group.alive, counts.busy, counts.queued
        ))
    })
}

/// Has a runner go.
///
/// # Errors
/// When the manager does not answer, knows no such runner, or refuses.
pub(crate) async fn retire(options: &RetireOptions) -> anyhow::Result<ExitCode> {
    let request = json!({"force": options.force});
    let answer = options.remote.post(&["runners", &options.runner, "retire"], &request).await?;
    show(&options.remote, answer, |retired: &Retired| {
        output::line(&output::printable(&format!("{}: {}", retired.runner, retired.detail)))
    })
}

/// Shows what sweeps left, or has one go on.
///
/// # Errors
/// When the manager does not answer, or the sweep found something else by now.
pub(crate) async fn sweep(command: &SweepCommand) -> anyhow::Result<ExitCode> {
    match command {
        SweepCommand::Show(SweepOptions { remote }) => {
            let answer = remote.get(&["sweeps"], &[]).await?;
            show(remote, answer, |sweeps: &Sweeps| output::line(&output_of(sweeps)))
        }
        SweepCommand::GoOn(options) => go_on(options).await,
    }
}

async fn go_on(options: &GoOnOptions) -> anyhow::Result<ExitCode> {
    let Some(mark) = &options.mark else { return ask_for_the_mark(options).await };
    let request: Value = json!({"source": options.source, "mark": mark});
    let answer = options.remote.post(&["sweeps", "go-on"], &request).await?;
    show(&options.remote, answer, |said: &GoOn| {
        output::line(&format!(
            "the sweep of {} goes on with {}, at the word of {}",
            said.source, said.count, said.by
        ))
    })
}

/// Shows what it is about: nobody is to agree to what they have not seen.
async fn ask_for_the_mark(options: &GoOnOptions) -> anyhow::Result<ExitCode> {
    let sweeps: Sweeps = read(options.remote.get(&["sweeps"], &[]).await?)?;
    let Some(found) = sweeps.withheld.iter().find(|withheld| withheld.source == options.source) else {
        bail!("no sweep of {} has stopped", options.source);
    };
    bail!("{}\nto have it go on with these and no others, add --mark {}", paragraph(found), found.mark);
}

fn output_of(sweeps: &Sweeps) -> String {
    let mut parts: Vec<String> = sweeps.withheld.iter().map(paragraph).collect();
    if parts.is_empty() {
        parts.push("no sweep left anything".to_owned());
    }
    if sweeps.dry_run {
        parts.push("the sweeps of this replica only say what they would do (sweep_dry_run)".to_owned());
    }
    let said = |said: &GoOn| {
        let GoOn { source, by, at, count, left } = said;
        format!("{at:.0}: {by} had the sweep of {source} go on with {count}, of which {left} are left")
    };
    parts.extend(sweeps.go_ons.iter().map(said));
    parts.join("\n")
}

/// What one sweep left, each finding on a line.
fn paragraph(withheld: &Withheld) -> String {
    let Withheld { source, count, looked_at, since, mark, .. } = withheld;
    let mut lines =
        vec![format!("{source}: {count} of {looked_at}, since {since:.0}, mark {mark}; it would")];
    lines.extend(withheld.findings.iter().map(|finding| format!("  {}", output::printable(&finding.would))));
    let unnamed = count.saturating_sub(withheld.findings.len());
    if unnamed > 0 {
        lines.push(format!("  and {unnamed} more, which would be asked for again"));
    }
    lines.join("\n")
}
