//! The docker backend: conversions, an engine that is played (for answers that a real one cannot be made to
//! give), and the conformance suite on the real engine of this machine.

mod convert;
mod played;
mod real;
mod registry;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runner_manager_core::backend::{Backend, BackendKind, Bootstrap, ConnectContext, InstanceSpec};
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::{
    BackendName, DeploymentName, GroupName, Owner, Placement, RunnerName, Secret,
};
use runner_manager_core::testing::conformance::{backend_kind, run};
use serde_json::{Value, json};

use super::DockerKind;

fn owner(key: &str) -> Owner {
    Owner::new(DeploymentName::new("docker-tests").unwrap(), &Secret::new(key))
}

fn placement(settings: &Value) -> Placement {
    let settings = DockerKind::new().placements(settings).unwrap().remove(0);
    Placement::new(BackendName::new("local").unwrap(), settings.description, settings.settings)
}

fn spec(name: &str, settings: &Value) -> InstanceSpec {
    InstanceSpec {
        runner: RunnerName::new(name).unwrap(),
        group: GroupName::new("linux").unwrap(),
        owner: owner("key"),
        placement: placement(settings),
        tags: BTreeMap::from([("cost-center".to_owned(), "ci".to_owned())]),
        bootstrap: Bootstrap::Direct { jit_config: Secret::new("a-jit-config") },
    }
}

async fn connect(settings: &Value) -> Arc<dyn Backend> {
    let context = ConnectContext { name: BackendName::new("local").unwrap(), clock: Arc::new(SystemClock) };
    DockerKind::new().connect(settings, context).await.unwrap()
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn kind_conforms() {
    run(backend_kind::cases(), &[], || async {
        backend_kind::Subject {
            kind: Arc::new(DockerKind::new()),
            backend: json!({"host": "unix:///run/engine.sock", "timeout": "5s"}),
            placement: json!({"image": ["a:1", "b"], "memory": "2GiB", "cpus": 1.5, "network": "host"}),
            expanded: vec![json!({"image": "a:1", "memory": "2GiB"}), json!({"image": "b", "memory": "2GiB"})],
            faulty_backend: (json!({"hots": "x", "timeout": 5, "settle": []}), vec!["hots", "settle", "timeout"]),
            faulty_placement: (
                json!({"image": ["a", 1], "memroy": "1g", "pull": "sometimes", "memory": "1.5x", "env": {"A": 1}}),
                vec!["env.A", "image.1", "memory", "memroy", "pull"],
            ),
        }
    })
    .await;
}

#[test]
fn what_serde_takes_but_the_engine_would_not_is_refused() {
    let paths = |faults: Vec<runner_manager_core::backend::SettingsFault>| -> Vec<String> {
        faults.into_iter().map(|fault| fault.path.join(".")).collect()
    };
    let placement = json!({
        "cpus": 0, "memory": "1m", "volumes": ["/a:/b", "a"], "extra_hosts": ["x"],
        "env": {"actions_runner_input_jitconfig": "x"},
    });
    let faults = DockerKind::new().placements(&placement).unwrap_err();
    assert_eq!(
        paths(faults),
        ["cpus", "memory", "env.actions_runner_input_jitconfig", "volumes.1", "extra_hosts.0"]
    );
    let faults = DockerKind::new().check(&json!({"host": "ssh://x", "timeout": "0s"})).unwrap_err();
    assert_eq!(paths(faults), ["host", "timeout"]);
}
