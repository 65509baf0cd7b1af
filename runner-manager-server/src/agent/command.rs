//! The command `simulated-agent`: one agent as a process.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::Secret;
use tokio_util::sync::CancellationToken;

use super::{Ending, HttpLink, Outside, live};

/// `simulated-agent`: plays the actions runner against the GitHub simulator that made the JIT config, for one
/// job. Ends with 0 after its job, also when it was asked to stop.
#[derive(Debug, Clone, Args)]
pub(crate) struct SimulatedAgentArgs {
    /// The JIT config, as the actions runner takes it.
    #[arg(
        long = "jitconfig",
        env = "ACTIONS_RUNNER_INPUT_JITCONFIG",
        hide_env_values = true,
        value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::new(text))
    )]
    pub(crate) jit_config: Secret,
}

/// Runs the command until its job has ended, or `stop`.
///
/// # Errors
/// When the agent was not let in, or GitHub cannot be reached.
pub(crate) async fn run(args: SimulatedAgentArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let link = HttpLink::of(&args.jit_config)?;
    let outside = Outside { stop, ..Outside::default() };
    let ending = live(&link, &SystemClock, &args.jit_config, &outside).await?;
    tracing::info!(?ending, "the agent ended");
    match ending {
        Ending::Refused(why) => bail!("the agent was refused: {why}"),
        Ending::Finished(_) | Ending::LetGo | Ending::Stopped | Ending::Died => Ok(ExitCode::SUCCESS),
    }
}
