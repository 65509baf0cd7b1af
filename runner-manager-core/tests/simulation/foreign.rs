//! What is not ours, and stands right beside: instances of others, one of them of a deployment of the same
//! name, and registrations that bear our prefix or no mark at all.

use runner_manager_backends::fake::FakeBackend;
use runner_manager_core::backend::{Backend, Bootstrap, InstanceSpec};
use runner_manager_core::domain::{DeploymentName, GitHubGroupId, Labels, Owner, RunnerName, Scope, Secret};
use runner_manager_core::github::{GitHub, JitRequest};
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::testing::simulated::SimulatorTransport;
use runner_manager_core::testing::simulator::Faults;

use super::groups;
use super::shared::Shared;

const INSTANCES: [&str; 3] = ["rm-linux-theirs", "rm-gpu-theirs", "other-linux-1"];
const REGISTRATIONS: [&str; 2] = ["rm-linux-unmarked", "somebody-else"];

/// Puts them there.
pub(crate) async fn put(shared: &Shared) {
    // As if it had been there for long: before anything goes wrong and by a way of its own.
    let behaviour = shared.cloud().behaviour().clone();
    shared.cloud().set_behaviour(runner_manager_backends::fake::Behaviour::default());
    let backend = FakeBackend::in_process(shared.cloud.clone(), shared.clock.clone());
    for name in INSTANCES {
        let deployment = name.split('-').next().unwrap_or_default();
        let owner = Owner::new(DeploymentName::new(deployment).unwrap(), &Secret::new("another key"));
        let spec = InstanceSpec {
            runner: RunnerName::new(name).unwrap(),
            group: groups::name("theirs"),
            owner,
            placement: groups::group("theirs", &["x"], 0, 1, &["zone-a"]).placements[0].clone(),
            tags: [].into(),
            bootstrap: Bootstrap::Direct { jit_config: Secret::new("nothing that GitHub knows") },
        };
        backend.create(&spec).await.unwrap();
    }
    // Machines without any agent of ours.
    let now = shared.now();
    let _ = shared.cloud().take_started(now);
    shared.cloud().set_behaviour(behaviour);
    let faults = shared.github().faults().clone();
    shared.github().set_faults(Faults::default());
    let transport = SimulatorTransport::new(shared.github.clone(), shared.clock.clone());
    let github = RestGitHub::new(std::sync::Arc::new(transport), shared.clock.clone());
    for name in REGISTRATIONS {
        let request = JitRequest {
            scope: Scope::organization("acme").unwrap(),
            name: RunnerName::new(name).unwrap(),
            group: GitHubGroupId::DEFAULT,
            labels: Labels::parse(["nothing"]).unwrap(),
        };
        github.create_jit_config(&request).await.unwrap();
    }
    shared.github().set_faults(faults);
}

/// What is missing of them. Registrations that nobody uses are removed by GitHub itself after a time.
pub(crate) fn missing(shared: &Shared, registrations_stay: bool) -> Vec<&'static str> {
    let now = shared.now();
    let mut cloud = shared.cloud();
    let lives = &cloud.books(now).lives;
    let is_there =
        |name: &str| lives.iter().any(|life| life.runner.as_str() == name && life.gone_at.is_none());
    let github = shared.github();
    let is_registered = |name: &str| github.runners().any(|runner| runner.name == name);
    let instances = INSTANCES.into_iter().filter(|name| !is_there(name));
    instances
        .chain(REGISTRATIONS.into_iter().filter(|name| registrations_stay && !is_registered(name)))
        .collect()
}
