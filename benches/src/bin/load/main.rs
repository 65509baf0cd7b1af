//! The load driver: real `serve` processes under load, measured from the outside.
//!
//! ```text
//! cargo run --release -p runner-manager-benches --bin load -- --help
//! cargo run --release -p runner-manager-benches --bin load -- --store redis --replicas 2 --jobs 1000 --json
//! ```
//!
//! The processes that it starts are this program, too: one build makes all. What the figures mean stands in
//! docs/performance.md.

mod args;
mod feeder;
mod process;
mod redis;
#[path = "../../../../runner-manager-core/tests/support/redis_server.rs"]
mod redis_server;
mod report;
mod site;

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use runner_manager_core::clock::{Clock, SystemClock};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use self::args::Load;
use self::report::{Counted, Idle, Report};
use self::site::Site;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == process::PROGRAM).is_some() {
        return process::be_runner_manager(arguments);
    }
    let load = Load::parse();
    match Runtime::new().map_err(Into::into).and_then(|runtime| runtime.block_on(until_a_signal(&load))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the load, all of whose processes end when a signal cuts it short.
async fn until_a_signal(load: &Load) -> anyhow::Result<bool> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        told = run(load) => told,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    }
}

/// Whether all was as it should be.
async fn run(load: &Load) -> anyhow::Result<bool> {
    load.check()?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nobody installed another provider before");
    let site = Site::start(load).await?;
    feeder::wait_for_idle(load, &site).await?;
    let idle = watch_idle(load, &site).await?;
    let before = site.moment().await?;
    let began = SystemClock.now();
    feeder::queue(load, &site).await?;
    feeder::wait_for_the_end(load, &site).await?;
    let report = Report::of(&Counted {
        webhooks_only: load.webhooks_only,
        groups: site.groups.clone(),
        began,
        before,
        after: site.moment().await?,
        idle,
        jobs: site.jobs().await?,
        webhooks: site.webhooks().await?,
        cloud: site.cloud().await?,
    });
    drop(site);
    let told = if load.json { serde_json::to_string_pretty(&report)? } else { report.to_string() };
    writeln!(std::io::stdout(), "{told}")?;
    Ok(report.is_good())
}

async fn watch_idle(load: &Load, site: &Site) -> anyhow::Result<Option<Idle>> {
    if load.idle().is_zero() {
        return Ok(None);
    }
    let before = site.moment().await?;
    let began = SystemClock.now();
    SystemClock.sleep(load.idle()).await;
    let took = SystemClock.now().duration_since(began).try_into()?;
    Ok(Some(Idle::between(&before, &site.moment().await?, took)))
}
