//! The command `demo`: the whole system on this machine, with nothing needed.
//!
//! A simulated GitHub sends real webhooks over HTTP to the real routes, the real manager asks for runners by the
//! real adapters, and the fake cloud, or containers on the local Docker engine, run simulated agents. What came
//! of it is counted from GitHub's and the backend's own books ([`summary`](crate::summary)), never from the manager's.

mod docker;
mod hosting;
mod plan;
mod progress;
mod site;
mod system;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::random::{Random, SystemRandom};
use tokio_util::sync::CancellationToken;

use self::hosting::Hosting;
use self::progress::{Progress, describe_summary};
use self::system::System;
use crate::output;
use crate::summary::Summary;

/// How often it is looked whether all is done.
const LOOK: Duration = Duration::from_millis(100);
/// How long a demo may take beyond what its jobs must.
const PATIENCE: Duration = Duration::from_mins(10);

/// `demo`: the whole system on this machine, nothing needed.
///
/// A simulated GitHub queues jobs, the manager makes runners for them, and a page shows it live. Nothing outside
/// this machine is asked for anything.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// How many jobs are queued.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) jobs: u32,
    /// How long each job runs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=3600), value_name = "S")]
    pub(crate) job_seconds: u64,
    /// Where the runners are.
    #[arg(long, value_enum, default_value_t = BackendChoice::Fake)]
    pub(crate) backend: BackendChoice,
    /// The port of the live page on 127.0.0.1; 0 is any that is free.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// End when all jobs are completed and all instances gone, with 0 if all is well and 1 if not. Otherwise
    /// the page stays until Ctrl-C.
    #[arg(long)]
    pub(crate) exit_when_done: bool,
    /// Print one summary object at the end, and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the demo's runners are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendChoice {
    /// In a fake cloud in this process.
    Fake,
    /// In containers on the local Docker engine.
    Docker,
}

/// How the watch over a demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    Done,
    TooLate,
    Stopped,
}

/// Runs the command.
///
/// # Errors
/// When the system cannot be put together, as without a Docker engine.
pub(crate) async fn run(args: DemoArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let mut progress = Progress::new(args.json);
    let hosting = Arc::new(Hosting::prepare(args.backend, &hex_secret()[..12], &progress).await?);
    let mut system = match System::start(&args, &hosting).await {
        Ok(system) => system,
        Err(error) => {
            hosting.clear().await?;
            return Err(error);
        }
    };
    progress.say(&format!("{}\nlive page: {}", system.describe(&args), system.page))?;
    let watched = drive(&args, &mut system, &mut progress, &stop).await;
    let summary = system.summary();
    let told = tell(&args, &summary, &progress);
    if watched.as_ref().is_ok_and(|watched| *watched == Watched::Done) && !args.exit_when_done {
        progress.say(&format!("\nThe page stays at {} until Ctrl-C.", system.page))?;
        stop.cancelled().await;
    }
    system.stop().await;
    hosting.clear().await?;
    told?;
    match watched? {
        Watched::Done if summary.is_good() => Ok(ExitCode::SUCCESS),
        Watched::Done | Watched::Stopped => Ok(ExitCode::FAILURE),
        Watched::TooLate => {
            tracing::error!("the demo took too long and was ended");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Queues the jobs, and watches until all is done.
async fn drive(
    args: &DemoArgs,
    system: &mut System,
    progress: &mut Progress,
    stop: &CancellationToken,
) -> anyhow::Result<Watched> {
    let began = SystemClock.now();
    system.queue_jobs(args)?;
    let limit = PATIENCE + system.shortest(args);
    loop {
        let standing = system.standing();
        let after = SystemClock.now().duration_since(began).try_into().unwrap_or(Duration::ZERO);
        progress.show(&standing, after)?;
        if standing.is_done() {
            return Ok(Watched::Done);
        }
        if after > limit {
            return Ok(Watched::TooLate);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(Watched::Stopped),
            ended = system.part_ended() => bail!("a part of the demo ended before its time: {ended}"),
            () = SystemClock.sleep(LOOK) => {}
        }
    }
}

fn tell(args: &DemoArgs, summary: &Summary, progress: &Progress) -> anyhow::Result<()> {
    if args.json {
        return output::json(summary);
    }
    Ok(progress.say(&describe_summary(summary))?)
}

/// 128 random bits in hex.
fn hex_secret() -> String {
    format!("{:016x}{:016x}", SystemRandom.next_u64(), SystemRandom.next_u64())
}
