//! The Runner Manager server.

mod agent;
mod demo;
mod fake_cloud;
mod github_face;
mod http_face;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
#[command(name = "runner-manager", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A simulated GitHub
    GithubSimulator(github_face::GitHubSimulatorArgs),
    /// A fake cloud
    FakeCloud(fake_cloud::FakeCloudArgs),
    /// The whole system on this machine
    Demo(demo::DemoArgs),
    /// A simulated agent
    #[command(hide = true)]
    SimulatedAgent(agent::SimulatedAgentArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let stop = CancellationToken::new();
    let mut set = tokio::task::JoinSet::new();
    let stopping = stop.clone();
    set.spawn(async move {
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
        tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = term.recv() => {} }
        stopping.cancel();
    });
    match cli.command {
        Command::GithubSimulator(args) => github_face::run(args, stop).await,
        Command::FakeCloud(args) => fake_cloud::run(args, stop).await,
        Command::Demo(args) => demo::run(args, stop).await,
        Command::SimulatedAgent(args) => agent::run(args, stop).await,
    }
}
