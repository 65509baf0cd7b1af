//! `groups`, `runners`, `jobs`, `why`: what there is.

use std::process::ExitCode;

use clap::Args;

use super::{Remote, show};
use crate::output;
use crate::view::{FailedRunner, Group, Job, Listing, Loss, Runner};

/// Which part of a list is asked for.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    remote: Remote,
    /// How many at most, 1 to 500.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Those after this one: the `next` of the page before.
    #[arg(long)]
    after: Option<String>,
}

/// Which job is asked about.
#[derive(Debug, Args)]
pub(crate) struct WhyOptions {
    #[command(flatten)]
    remote: Remote,
    /// GitHub's number of the job: the last one in its address.
    job: u64,
}

/// Lists the groups.
///
/// # Errors
/// When the manager does not answer as it should.
pub(crate) async fn groups(options: &ListOptions) -> anyhow::Result<ExitCode> {
    let answer = options.remote.get(&["groups"], &[]).await?;
    show(&options.remote, answer, |groups: &Listing<Group>| output::line(&group_table(&groups.items)))
}

/// The groups under their heads.
pub(super) fn group_table(groups: &[Group]) -> String {
    let row = |group: &Group| {
        let bounds = format!("{}/{}", group.alive, group.max);
        let trouble = match (&group.draining, &group.blocked) {
            (Some(_), _) => "draining".to_owned(),
            (None, blocked) => blocked.clone().unwrap_or_default(),
        };
        let [queued, idle, busy] =
            [group.counts.queued, group.counts.idle, group.counts.busy].map(|n| n.to_string());
        [group.name.clone(), group.scope.clone(), bounds, queued, idle, busy, trouble]
    };
    let rows: Vec<_> = groups.iter().map(row).collect();
    output::render_table(["GROUP", "SCOPE", "RUNNERS", "QUEUED", "IDLE", "BUSY", "BLOCKED"], &rows)
}

/// Lists the runners.
///
/// # Errors
/// When the manager does not answer as it should.
pub(crate) async fn runners(options: &ListOptions) -> anyhow::Result<ExitCode> {
    let answer = options.remote.get(&["runners"], &options.query()).await?;
    show(&options.remote, answer, |runners: &Listing<Runner>| {
        let rows: Vec<_> = runners
            .items
            .iter()
            .map(|runner| {
                let since = format!("{:.0}", runner.since);
                [runner.name.clone(), runner.state.to_string(), since, runner.backend.clone(), runner.note()]
            })
            .collect();
        output::table(["RUNNER", "STATE", "SINCE", "BACKEND", "DETAIL"], &rows)?;
        more(runners.next.as_deref())
    })
}

/// Lists the jobs.
///
/// # Errors
/// When the manager does not answer as it should.
pub(crate) async fn jobs(options: &ListOptions) -> anyhow::Result<ExitCode> {
    let answer = options.remote.get(&["jobs"], &options.query()).await?;
    show(&options.remote, answer, |jobs: &Listing<Job>| {
        let rows: Vec<_> = jobs
            .items
            .iter()
            .map(|job| {
                let lost = job.lost.as_ref().map(Loss::sentence);
                let note = lost.or_else(|| job.waits.clone()).or_else(|| job.runner.clone());
                let note = note.unwrap_or_default();
                [job.id.to_string(), job.repository.clone(), job.name.clone(), job.state.clone(), note]
            })
            .collect();
        output::table(["JOB", "REPOSITORY", "NAME", "STATE", "RUNNER OR REASON"], &rows)?;
        more(jobs.next.as_deref())
    })
}

/// Tells why a job waits, or what became of it.
///
/// # Errors
/// When the manager does not answer as it should, or knows no such job.
pub(crate) async fn why(options: &WhyOptions) -> anyhow::Result<ExitCode> {
    let answer = options.remote.get(&["jobs", &options.job.to_string()], &[]).await?;
    show(&options.remote, answer, |job: &Job| {
        let what = match (&job.waits, &job.runner) {
            (Some(reason), _) => format!("waits since {:.0}: {reason}", job.since),
            (None, Some(runner)) => format!("{} on runner {runner}", job.state.replace('_', " ")),
            (None, None) => job.state.replace('_', " "),
        };
        let line = format!("job {} ({}) of {}: {what}", job.id, job.name, job.repository);
        output::line(&output::printable(&line))?;
        let lost = job.lost.as_ref().map(Loss::sentence);
        let error = job.error_sentence();
        let failed = job.failed_runners.iter().map(FailedRunner::sentence);
        for sentence in lost.into_iter().chain(error).chain(failed) {
            output::line(&output::printable(&sentence))?;
        }
        Ok(())
    })
}

impl ListOptions {
    fn query(&self) -> Vec<(&'static str, String)> {
        let after = self.after.clone().map(|after| ("after", after));
        std::iter::once(("limit", self.limit.to_string())).chain(after).collect()
    }
}

fn more(next: Option<&str>) -> std::io::Result<()> {
    match next {
        Some(next) => output::line(&format!("more: --after {next}")),
        None => Ok(()),
    }
}
