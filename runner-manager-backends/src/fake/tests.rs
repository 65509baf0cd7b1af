//! The fake backend under the conformance suites, in process and over HTTP, and the cloud under its faults.

mod cloud;
mod conformance;
mod flaws;
mod over_http;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runner_manager_core::backend::{BackendKind, Bootstrap, InstanceSpec};
use runner_manager_core::clock::SimulatedClock;
use runner_manager_core::domain::{
    BackendName, DeploymentName, GroupName, Owner, Placement, RunnerName, Secret,
};
use serde_json::json;

use super::{Behaviour, FakeBackend, FakeCloud, FakeKind};

fn owner(key: &str) -> Owner {
    Owner::new(DeploymentName::new("acme").unwrap(), &Secret::new(key))
}

fn placement(zone: &str) -> Placement {
    let settings = FakeKind::new().placements(&json!({"zones": zone})).unwrap().remove(0);
    Placement::new(BackendName::new("fake").unwrap(), settings.description, settings.settings)
}

fn spec(name: &str) -> InstanceSpec {
    InstanceSpec {
        runner: RunnerName::new(name).unwrap(),
        group: GroupName::new("linux").unwrap(),
        owner: owner("key"),
        placement: placement("zone-a"),
        tags: BTreeMap::new(),
        bootstrap: Bootstrap::Direct { jit_config: Secret::new("a-jit-config") },
    }
}

/// A cloud, its backend in process, and the clock that both follow.
struct Lab {
    cloud: Arc<Mutex<FakeCloud>>,
    backend: FakeBackend,
    clock: Arc<SimulatedClock>,
}

impl Lab {
    fn new(behaviour: Behaviour) -> Self {
        let clock = Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
        let cloud = Arc::new(Mutex::new(FakeCloud::new(behaviour)));
        let backend = FakeBackend::in_process(Arc::clone(&cloud), clock.clone());
        Self { cloud, backend, clock }
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}
