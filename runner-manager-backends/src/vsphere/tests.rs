//! The vsphere backend: settings; a vCenter that is played, for answers that none can be made to give; vcsim, which
//! others wrote, with a proxy before it that does harm; and VMware's own client, which looks at what we made.

mod faults;
mod played;
mod requests;
mod vcsim;

use std::collections::BTreeMap;
use std::sync::Arc;

use runner_manager_core::backend::{Backend, BackendKind, Bootstrap, ConnectContext, InstanceSpec};
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::{
    BackendName, DeploymentName, GroupName, Owner, Placement, RunnerName, Secret,
};
use runner_manager_core::testing::conformance::{backend_kind, run};
use serde_json::{Value, json};

use super::VsphereKind;

fn placement(settings: &Value) -> Placement {
    let settings = VsphereKind::new().placements(settings).unwrap().remove(0);
    Placement::new(BackendName::new("vc").unwrap(), settings.description, settings.settings)
}

fn owner(deployment: &str, key: &str) -> Owner {
    Owner::new(DeploymentName::new(deployment).unwrap(), &Secret::new(key))
}

fn spec(owner: Owner, name: &str, settings: &Value) -> InstanceSpec {
    InstanceSpec {
        runner: RunnerName::new(name).unwrap(),
        group: GroupName::new("linux").unwrap(),
        owner,
        placement: placement(settings),
        tags: BTreeMap::from([("cost-center".to_owned(), "ci".to_owned())]),
        bootstrap: Bootstrap::Direct { jit_config: Secret::new("a-jit-config") },
    }
}

/// A backend with these settings beside those that every one needs.
async fn connect(url: &str, others: &Value) -> Arc<dyn Backend> {
    let mut settings = json!({"url": url, "username": "peer", "password": "peer"});
    settings.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
    let context = ConnectContext { name: BackendName::new("vc").unwrap(), clock: Arc::new(SystemClock) };
    VsphereKind::new().connect(&settings, context).await.unwrap()
}

#[tokio::test]
async fn kind_conforms() {
    run(backend_kind::cases(), &[], || async {
        backend_kind::Subject {
            kind: Arc::new(VsphereKind::new()),
            backend: json!({"url": "https://vc", "username": "u", "password": {"env": "P"}, "timeout": "5s"}),
            placement: json!({"template": "t", "cluster": ["a", "b"], "datastore": ["x", "y"], "cpus": 2}),
            expanded: [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
                .map(|(cluster, datastore)| json!({"cluster": cluster, "datastore": datastore, "cpus": 2}))
                .into(),
            faulty_backend: (
                json!({"url": "https://vc", "username": 1, "password": [], "timeout": 5, "insceure": true}),
                vec!["insceure", "password", "timeout", "username"],
            ),
            faulty_placement: (
                json!({"template": "t", "cluster": ["a", 1], "cpus": "x", "ready": "soon", "memroy": 4, "start": {"runner_usr": "x"}}),
                vec!["cluster.1", "cpus", "memroy", "ready", "start.runner_usr"],
            ),
        }
    })
    .await;
}

#[test]
fn what_serde_takes_but_vcenter_would_not_is_refused() {
    let paths = |faults: Vec<runner_manager_core::backend::SettingsFault>| -> Vec<String> {
        faults.into_iter().map(|fault| fault.path.join(".")).collect()
    };
    let faults = |settings| paths(VsphereKind::new().check(&settings).unwrap_err());
    assert_eq!(faults(json!({})), ["url", "username", "password"]);
    let wrong = json!({
        "url": "http://vc.example.com", "username": "u", "password": "p", "thumbprint": "00", "ca_file": "x",
        "insecure": true, "timeout": "1s", "clone_timeout": "0s",
    });
    assert_eq!(faults(wrong), ["url", "thumbprint", "ca_file", "insecure", "timeout", "clone_timeout"]);
    let faults = |settings| paths(VsphereKind::new().placements(&settings).unwrap_err());
    assert_eq!(faults(json!({})), ["template", "cluster"]);
    let wrong = json!({
        "template": "t", "cluster": "c", "cpus": 0, "memory_mib": 1001, "snapshot": "s", "disk_gib": 10,
        "arch": "arm", "start_timeout": "0s", "start": {"heartbeat": "1h"},
    });
    assert_eq!(faults(wrong), ["cpus", "memory_mib", "disk_gib", "arch", "start_timeout", "start.heartbeat"]);
}
