//! What kind of load, on what.

use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use runner_manager_core::domain::Bounds;

/// Puts load on real `runner-manager serve` processes, and measures them from the outside.
///
/// A simulated GitHub sends signed webhooks over HTTP, a fake cloud makes machines whose agents run the jobs, and
/// what is told is counted from their books, never from the manager's. All of it runs on this machine, on the
/// loopback interface, and ends with this command. docs/performance.md says what the figures mean.
#[derive(Debug, Clone, Parser)]
#[command(name = "load", max_term_width = 100)]
pub(crate) struct Load {
    /// Where the manager keeps its state.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    pub(crate) store: Store,
    /// A Redis to use, redis://HOST:PORT[/DATABASE], instead of one of this command's own. What other
    /// deployments ask of it meanwhile is counted, too.
    #[arg(long, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// How often this command's own Redis writes its append-only file to disk.
    #[arg(long, value_enum, default_value_t = Fsync::Everysec, conflicts_with = "redis_url")]
    pub(crate) appendfsync: Fsync,
    /// How many processes; several need Redis. GitHub's webhooks go to them in turn, by repository.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) replicas: u32,
    /// How many jobs are queued.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) jobs: u32,
    /// How many jobs are queued in a second; 0 is all at once.
    #[arg(long, default_value_t = 0.0, value_name = "PER_S")]
    pub(crate) rate: f64,
    /// How long each job runs.
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub(crate) job_seconds: u64,
    /// How many runner groups share the jobs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) groups: u32,
    /// The most runners of one group. Default: enough for all jobs at once.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max: Option<u32>,
    /// How many idle runners all groups together keep. The jobs come when they are there.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) runners_at_start: u32,
    /// How long to only watch, before the first job comes. Idle runners are watched once a sweep has found them
    /// online: that can take five minutes.
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub(crate) idle_seconds: u64,
    /// Measures how webhooks are taken in, and nothing after: each group is at its max of one runner, whose job
    /// lasts, and the end is when each webhook was answered.
    #[arg(long, conflicts_with_all = ["max", "runners_at_start", "job_seconds"])]
    pub(crate) webhooks_only: bool,
    /// How many webhooks GitHub has on their way at once, each on a connection of its own.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) connections: u32,
    /// How long each answer of GitHub's API takes.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) github_latency: u64,
    /// How long the cloud takes for each `create`.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) create_latency: u64,
    /// The backend's `concurrency`: how many of its runners are worked on at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) backend_concurrency: u32,
    /// Has machines call the manager: for their JIT config, with what they have to tell, and with heartbeats.
    #[arg(long)]
    pub(crate) callback: bool,
    /// How long between two heartbeats of a machine.
    #[arg(
        long,
        default_value_t = 60,
        value_name = "S",
        requires = "callback",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) heartbeat: u64,
    /// What the manager logs, into a file.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub(crate) log_level: String,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the manager keeps its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    /// In a file.
    Embedded,
    /// In a Redis.
    Redis,
}

/// `appendfsync` of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fsync {
    /// Once a second.
    Everysec,
    /// Before each answer.
    Always,
}

/// How long the job of a group lasts that is to stay at its max.
const NO_END_IN_SIGHT: u64 = 3600;

impl Load {
    /// Looks for what cannot be meant.
    ///
    /// # Errors
    /// What that is.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.store == Store::Redis || self.replicas == 1, "several replicas need --store redis");
        ensure!(
            self.store == Store::Redis || self.redis_url.is_none(),
            "--redis-url is of use with --store redis alone"
        );
        ensure!(self.rate.is_finite() && self.rate >= 0.0, "--rate is a number from 0 up");
        self.bounds(0).map(drop)
    }

    /// The names of the groups, each of which is the label of its jobs, too.
    pub(crate) fn groups(&self) -> impl Iterator<Item = String> {
        (0..self.groups).map(|group| format!("group-{group}"))
    }

    /// How many runners a group keeps: of the idle ones each group has its share.
    ///
    /// # Errors
    /// When its max is below its share.
    pub(crate) fn bounds(&self, group: u32) -> anyhow::Result<Bounds> {
        if self.webhooks_only {
            return Ok(Bounds::new(1, 1)?);
        }
        let idle =
            self.runners_at_start / self.groups + u32::from(group < self.runners_at_start % self.groups);
        Ok(Bounds::new(idle, self.max.unwrap_or((self.jobs + idle).max(1)))?)
    }

    /// How long each job runs.
    pub(crate) fn job_seconds(&self) -> u64 {
        if self.webhooks_only { NO_END_IN_SIGHT } else { self.job_seconds }
    }

    /// How long only to watch.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }
}
