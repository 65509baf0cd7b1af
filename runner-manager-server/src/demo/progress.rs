//! What a person sees while the demo runs: one line that is redrawn on a terminal, and elsewhere a line whenever
//! something changed.

use std::io::{self, IsTerminal};
use std::time::Duration;

use runner_manager_core::testing::simulator::JobCounts;

use crate::output;
use crate::summary::Summary;

/// The least time between two lines.
const SPACING: Duration = Duration::from_millis(500);

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// The jobs, by GitHub's books.
    pub(super) jobs: JobCounts,
    /// The registrations that are there, by GitHub's books.
    pub(super) registered: u64,
    /// The instances of each group that are there, and its max.
    pub(super) groups: Vec<(String, u64, u32)>,
}

impl Standing {
    /// Whether all jobs have ended, and nothing is left of their runners.
    pub(super) fn is_done(&self) -> bool {
        let JobCounts { total, completed, .. } = self.jobs;
        completed == total && self.registered == 0 && self.groups.iter().all(|(_, alive, _)| *alive == 0)
    }
}

/// Shows how it stands.
#[derive(Debug)]
pub(super) enum Progress {
    /// Not at all.
    Silent,
    /// On a terminal.
    Redrawn,
    /// A line for each change, but not too many: what the last one said, and when.
    Lines { said: String, at: Option<Duration> },
}

impl Progress {
    /// What suits standard output.
    pub(super) fn new(silent: bool) -> Self {
        match (silent, io::stdout().is_terminal()) {
            (true, _) => Self::Silent,
            (false, true) => Self::Redrawn,
            (false, false) => Self::Lines { said: String::new(), at: None },
        }
    }

    /// Tells one thing that happened.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn say(&self, text: &str) -> io::Result<()> {
        match self {
            Self::Silent => Ok(()),
            Self::Redrawn => output::line(&format!("\r\u{1b}[K{text}")),
            Self::Lines { .. } => output::line(text),
        }
    }

    /// Shows how it stands now.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn show(&mut self, now: &Standing, after: Duration) -> io::Result<()> {
        let told = describe(now);
        let line = || format!("{:7.1} s  {told}", after.as_secs_f64());
        match self {
            Self::Silent => Ok(()),
            Self::Redrawn => output::redraw(&line()),
            Self::Lines { said, at } => {
                let is_soon = at.is_some_and(|at| after < at + SPACING) && !now.is_done();
                if *said == told || is_soon {
                    return Ok(());
                }
                output::line(&line())?;
                (*said, *at) = (told, Some(after));
                Ok(())
            }
        }
    }
}

fn describe(standing: &Standing) -> String {
    let Standing { jobs, groups, .. } = standing;
    let groups = groups.iter().map(|(name, alive, max)| format!("{name} {alive}/{max}"));
    format!(
        "jobs: {} queued, {} running, {} of {} done   runners: {}",
        jobs.queued,
        jobs.in_progress,
        jobs.completed,
        jobs.total,
        groups.collect::<Vec<_>>().join(", ")
    )
}

/// What came of it, for people.
pub(super) fn describe_summary(summary: &Summary) -> String {
    let Summary { jobs, runners, webhook_to_create_ms: times, seconds } = summary;
    let mut lines = vec![
        String::new(),
        format!("{} jobs queued, {} completed, {} lost", jobs.queued, jobs.completed, jobs.lost),
        format!(
            "{} runners created, {} deleted, {} left behind, at most {} at once",
            runners.created, runners.deleted, runners.leaked, runners.max_alive
        ),
    ];
    lines.extend(runners.groups.iter().map(|(name, group)| {
        format!("  {name}: {} created, at most {} at once, max {}", group.created, group.max_alive, group.max)
    }));
    lines.push(format!(
        "from webhook to instance: {:.0} ms for half of the jobs, {:.0} ms for 99 %, {:.0} ms at most",
        times.p50, times.p99, times.max
    ));
    lines.push(format!("{seconds:.1} s in all"));
    lines.extend(summary.faults().into_iter().map(|fault| format!("FAILED: {fault}")));
    lines.join("\n")
}
