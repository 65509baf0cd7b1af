//! All that is outside of a manager, in one process: the command `outside`.
//!
//! A simulated GitHub and a fake cloud, as `github-simulator` and `fake-cloud` serve them, but the agents on the
//! cloud's machines talk to GitHub within the process. So ten thousand of them hold no connections, and a load is
//! held up by the manager before it is by what plays GitHub.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use runner_manager_backends::fake::Behaviour;
use runner_manager_core::clock::SystemClock;
use runner_manager_core::testing::simulator::Settings;
use tokio_util::sync::CancellationToken;

use crate::agent::Link;
use crate::fake_cloud::{CallingArgs, ServedCloud, read_behaviour};
use crate::github_face::{AT_ONCE, SimulatedGitHub, read_settings};
use crate::http_face::{Face, listen, serve};
use crate::output;

/// `outside`: prints `listening on http://127.0.0.1:PORT` of GitHub, and then of the cloud.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutsideArgs {
    /// The settings of GitHub, as for `github-simulator`; it is reached where it listens.
    #[arg(long, value_name = "JSON", value_parser = read_settings, default_value = "{}")]
    settings: Box<Settings>,
    /// How the cloud behaves, as for `fake-cloud`.
    #[arg(long, value_name = "JSON", value_parser = read_behaviour, default_value = "{}")]
    behaviour: Box<Behaviour>,
    /// How many webhooks are on their way at once, each on a connection of its own.
    #[arg(long, default_value_t = AT_ONCE)]
    webhooks_at_once: usize,
    #[command(flatten)]
    calling: CallingArgs,
}

/// Runs the command until `stop`.
///
/// # Errors
/// When a port cannot be had, or nothing can be printed.
pub(crate) async fn run(args: OutsideArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let (github_listener, address) = listen(0).await?;
    let github_url = format!("http://{address}");
    let settings = Settings { base_url: github_url.clone(), ..*args.settings };
    let github = SimulatedGitHub::new(settings, Arc::new(SystemClock));
    let (cloud_listener, address) = listen(0).await?;
    let cloud = ServedCloud::new(*args.behaviour, args.calling, Arc::new(SystemClock))?;
    output::line(&format!("listening on {github_url}\nlistening on http://{address}"))
        .context("the addresses could not be printed")?;
    let agents = Arc::clone(&github) as Arc<dyn Link>;
    tokio::join!(
        serve(github_listener, Arc::clone(&github) as Arc<dyn Face>, stop.clone()),
        serve(cloud_listener, Arc::clone(&cloud) as Arc<dyn Face>, stop.clone()),
        cloud.play_machines(agents, stop.clone()),
        github.deliver(args.webhooks_at_once, stop),
    );
    Ok(ExitCode::SUCCESS)
}
