//! Callback mode inside a program of your own: machines call your HTTP server, and it has the manager answer.
//!
//! ```text
//! cargo run -p runner-manager-examples --bin callback
//! ```
//!
//! In callback mode a machine's user data hold a token and no JIT config, and nothing is registered at GitHub before the
//! machine asks. It takes a [`Callback`] in the manager's settings, and an HTTP server that answers what stands in
//! module [`calls`]. Here no webhook comes: that a job runs the manager knows from the machine alone.
//!
//! That the machine is off afterwards, the next sweep finds.
//!
//! Module [`machine`] plays the machine; example `embedding` shows all that is left out here.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod calls;
mod machine;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use runner_manager_backends::fake::{Behaviour, FakeBackend, FakeCloud, StartedInstance};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{
    Arch, BackendName, Bounds, ConnectionName, DeploymentName, GitHubGroup, GroupName, Labels, Limits, Os,
    Owner, Placement, RunnerGroup, Scope, Secret, TokenKey,
};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::manager::{
    Account, Callback, CallbackAddress, ConnectedBackend, Manager, Parts, Settings,
};
use runner_manager_core::random::SystemRandom;
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::testing::simulated::{SharedSimulator, SimulatorTransport};
use runner_manager_core::testing::simulator::{self, JobSpec, Simulator};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use machine::{Machine, lock};

const PATIENCE: Duration = Duration::from_mins(1);
/// How often the cloud is listed. The usual five minutes are long for an example.
const SWEEP: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let github = Arc::new(Mutex::new(Simulator::new(simulator::Settings::default())));
    let cloud = Arc::new(Mutex::new(FakeCloud::new(calling())));
    let manager = build(github.clone(), cloud.clone())?;
    manager.configure(vec![group()?]).await?;
    let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
    let (runs, until) = (manager.clone(), stop.clone());
    running.spawn(async move { runs.run(until).await });

    lock(&github).queue_job(&JobSpec::new("acme/app", ["self-hosted", "large"]), SystemClock.now())?;
    let instance = first_machine(&cloud).await?;
    let machine = Machine { manager: &manager, github: &github, cloud: &cloud, instance };
    println!("a stranger is answered {}", machine.stranger().await?);
    machine.live().await?;
    for told in timeline(&manager).await? {
        println!("on record: {told}");
    }

    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended.context("the manager panicked")?;
    }
    Ok(())
}

/// A cloud whose machines can call.
fn calling() -> Behaviour {
    Behaviour { callback: true, ..Behaviour::default() }
}

/// The parts, put together as in example `embedding`, and what is there for callback mode.
fn build(github: SharedSimulator, cloud: Arc<Mutex<FakeCloud>>) -> anyhow::Result<Manager> {
    let clock = Arc::new(SystemClock);
    let storage = Arc::new(EmbeddedStorage::in_memory(clock.clone()));
    let transport = Arc::new(SimulatorTransport::new(github, clock.clone()));
    let backend = Arc::new(FakeBackend::in_process(cloud, clock.clone()));
    let secret_key = Secret::new("keep this one secret, and the same from run to run");
    let callback = Callback {
        key: TokenKey::new(secret_key.clone()),
        // Where your server is for machines, and the certificates that it shows them where their system knows it not.
        address: Some(CallbackAddress { url: "https://ci.example.com".to_owned(), ca: None }),
    };
    Ok(Manager::new(Parts {
        owner: Owner::new(DeploymentName::new("example")?, &secret_key),
        storage: storage.into(),
        github: Account::new(Arc::new(RestGitHub::new(transport, clock.clone()))).into(),
        backends: BTreeMap::from([(cloud_name()?, ConnectedBackend::new(backend, 8))]),
        clock,
        random: Arc::new(SystemRandom),
        settings: Settings { callback: Some(callback), sweep_interval: SWEEP, ..Settings::default() },
    }))
}

fn cloud_name() -> anyhow::Result<BackendName> {
    Ok(BackendName::new("cloud")?)
}

/// One that keeps a runner, whether a job waits or not.
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
        bounds: Bounds::new(1, 1)?,
        priority: 0,
        order: 0,
        tags: BTreeMap::new(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: vec![Placement::new(cloud_name()?, "large in zone-a", place)],
    })
}

async fn first_machine(cloud: &Mutex<FakeCloud>) -> anyhow::Result<StartedInstance> {
    let end = SystemClock.now() + PATIENCE;
    while SystemClock.now() < end {
        if let Some(started) = lock(cloud).take_started(SystemClock.now()).into_iter().next() {
            return Ok(started);
        }
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
    bail!("no machine was made within {PATIENCE:?}")
}

/// What the machine told, once its runner is over.
async fn timeline(manager: &Manager) -> anyhow::Result<Vec<String>> {
    let end = SystemClock.now() + PATIENCE;
    while SystemClock.now() < end {
        if let Some(runner) = manager.ended_runners(1).await?.into_iter().next() {
            return Ok(runner.timeline.into_iter().map(|told| told.what).collect());
        }
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
    bail!("its runner did not end within {PATIENCE:?}")
}
