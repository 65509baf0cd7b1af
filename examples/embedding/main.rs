//! The manager inside a program of your own.
//!
//! ```text
//! cargo run -p runner-manager-examples --bin embedding
//! ```
//!
//! A manager is made of parts: a storage, GitHub, backends, a clock. Here the storage is in memory, GitHub is
//! the simulator and the cloud is a fake one, all in this process, so that it runs anywhere. A real program
//! differs in [`build`] alone: `octocrab::OctocrabTransport` in place of the simulator's, the backends of
//! its configuration, and a storage in a file.
//!
//! Module [`outside`] plays everything else: it queues the jobs, hands the webhooks over as an HTTP server
//! would, and is the agent on every machine.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod outside;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use runner_manager_backends::fake::{Behaviour, FakeBackend, FakeCloud};
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::{
    Arch, BackendName, Bounds, ConnectionName, DeploymentName, GitHubGroup, GroupName, Labels, Limits, Os,
    Owner, Placement, RunnerGroup, Scope, Secret,
};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::manager::{Account, ConnectedBackend, Manager, Parts, Settings};
use runner_manager_core::random::SystemRandom;
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::testing::simulated::{SharedSimulator, SimulatorTransport};
use runner_manager_core::testing::simulator::{self, Simulator};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use outside::Outside;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let github = Arc::new(Mutex::new(Simulator::new(simulator::Settings::default())));
    let boot_time = Duration::from_millis(300);
    let cloud = Arc::new(Mutex::new(FakeCloud::new(Behaviour { boot_time, ..Behaviour::default() })));

    // 1. Make the manager, tell it which groups there are, and let it run until it is told to stop.
    let manager = build(github.clone(), cloud.clone())?;
    manager.configure(vec![group()?]).await?;
    let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
    let (runs, until) = (manager.clone(), stop.clone());
    running.spawn(async move { runs.run(until).await });

    // 2. Jobs are queued at GitHub. Watch until each has run and every machine is gone.
    Outside::new(github, cloud, manager.clone()).run_jobs(5).await?;

    // 3. Stop in order: what is under way is finished or put back.
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended.context("the manager panicked")?;
    }

    // 4. What is over is remembered for a while.
    for runner in manager.ended_runners(10).await? {
        println!("{} ended: {}", runner.name, runner.why);
    }
    Ok(())
}

/// The parts, put together.
fn build(github: SharedSimulator, cloud: Arc<Mutex<FakeCloud>>) -> anyhow::Result<Manager> {
    let clock = Arc::new(SystemClock);
    // One storage is store, queue and budgets: a record and the tasks that follow from it are one atomic step.
    let storage = Arc::new(EmbeddedStorage::in_memory(clock.clone()));
    let transport = Arc::new(SimulatorTransport::new(github, clock.clone()));
    let backend = Arc::new(FakeBackend::in_process(cloud, clock.clone()));
    Ok(Manager::new(Parts {
        owner: Owner::new(DeploymentName::new("example")?, &Secret::new("keep this one secret")),
        storage: storage.into(),
        github: Account::new(Arc::new(RestGitHub::new(transport, clock.clone()))).into(),
        backends: BTreeMap::from([(cloud_name()?, ConnectedBackend::new(backend, 8))]),
        clock,
        random: Arc::new(SystemRandom),
        settings: Settings::default(),
    }))
}

fn cloud_name() -> anyhow::Result<BackendName> {
    Ok(BackendName::new("cloud")?)
}

/// At most three runners, for jobs of the organization `acme` with `runs-on: [self-hosted, large]`.
fn group() -> anyhow::Result<RunnerGroup> {
    let place = serde_json::json!({"zones": "zone-a", "instance_types": "large", "image": "image-1"});
    Ok(RunnerGroup {
        name: GroupName::new("linux-large")?,
        scope: Scope::organization("acme").context("`acme` is an organization's name")?,
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::parse(["large"])?,
        bounds: Bounds::new(0, 3)?,
        priority: 0,
        order: 0,
        tags: BTreeMap::new(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: vec![Placement::new(cloud_name()?, "large in zone-a", place)],
    })
}
