//! The command line: what can be asked for, and which part does it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use runner_manager_core::config;

use crate::logging::LogOptions;
use crate::signals::until_stopped;
use crate::{agent, check, client, demo, fake_cloud, github_face, output, outside, serve, webhooks};

/// Keeps queued GitHub Actions jobs supplied with self-hosted runners.
#[derive(Debug, Parser)]
#[command(name = "runner-manager", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the manager and its HTTP server.
    Serve(ConfigFile),
    /// Reads a configuration and tells every fault; with --online asks whether it would work.
    Check(check::CheckOptions),
    /// Has GitHub's webhooks lead to a deployment, or tells whether they do.
    #[command(subcommand)]
    Webhooks(webhooks::WebhooksCommand),
    /// Helps to write a configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Tells how a running manager is, at a glance.
    Status(client::StatusOptions),
    /// Tells so again and again.
    Top(client::TopOptions),
    /// Lists the runner groups of a running manager.
    Groups(client::ListOptions),
    /// Lists the runners of a running manager.
    Runners(client::ListOptions),
    /// Lists the jobs of a running manager, those first heard of last first.
    Jobs(client::ListOptions),
    /// Tells why a job waits, or what became of it.
    Why(client::WhyOptions),
    /// Has a group make no new runners: idle ones go, busy ones finish.
    Drain(client::GroupOptions),
    /// Ends a drain.
    Resume(client::GroupOptions),
    /// Has a runner go: an idle one in order, a busy one only with --force, which kills its job.
    Retire(client::RetireOptions),
    /// Shows what sweeps left as it is, and has one go on that stopped.
    #[command(subcommand)]
    Sweep(client::SweepCommand),
    /// Shows the whole system on this machine: nothing else is needed.
    Demo(demo::DemoArgs),
    /// Serves a simulated GitHub, for tests.
    GithubSimulator(github_face::GitHubSimulatorArgs),
    /// Serves the instances of the fake backend, for tests over several processes.
    FakeCloud(fake_cloud::FakeCloudArgs),
    /// Serves a simulated GitHub and a fake cloud from one process, for loads.
    #[command(hide = true)]
    Outside(outside::OutsideArgs),
    /// Plays the runner of an instance of the demo.
    #[command(hide = true)]
    SimulatedAgent(agent::SimulatedAgentArgs),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigFile {
    /// The configuration: one YAML file.
    #[arg(long, value_name = "FILE", env = "RUNNER_MANAGER_CONFIG")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints the JSON Schema of the configuration.
    Schema,
    /// Prints a commented example.
    Example,
}

impl Cli {
    /// What is logged unless somebody says otherwise.
    pub(crate) const fn default_log_level(&self) -> &'static str {
        match self.command {
            Command::Demo(_) | Command::Top(_) => "warn",
            _ => "info",
        }
    }

    /// Does what was asked for.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(file) => until_stopped(|stop| serve::run(&file.config, stop)).await,
            Command::Demo(args) => until_stopped(|stop| demo::run(args, stop)).await,
            Command::GithubSimulator(args) => until_stopped(|stop| github_face::run(args, stop)).await,
            Command::FakeCloud(args) => until_stopped(|stop| fake_cloud::run(args, stop)).await,
            Command::Outside(args) => until_stopped(|stop| outside::run(args, stop)).await,
            Command::SimulatedAgent(args) => until_stopped(|stop| agent::run(args, stop)).await,
            Command::Check(options) => check::run(&options).await,
            Command::Webhooks(command) => webhooks::run(&command).await,
            Command::Config(ConfigCommand::Schema) => {
                output::json(&config::schema(&runner_manager_backends::registry()))?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Config(ConfigCommand::Example) => {
                output::line(config::example().trim_end())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Status(options) => client::status(&options).await,
            Command::Top(options) => until_stopped(async |stop| client::top(&options, stop).await).await,
            Command::Drain(options) => client::drain(&options).await,
            Command::Resume(options) => client::resume(&options).await,
            Command::Retire(options) => client::retire(&options).await,
            Command::Sweep(command) => client::sweep(&command).await,
            Command::Groups(options) => client::groups(&options).await,
            Command::Runners(options) => client::runners(&options).await,
            Command::Jobs(options) => client::jobs(&options).await,
            Command::Why(options) => client::why(&options).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        super::Cli::command().debug_assert();
    }
}
