//! The gcp backend: settings; the fake of GCE, checked against Google's own description, with a proxy before it that gives
//! the answers that it cannot; and Google's own Python client, which looks at what we made.

mod credentials;
mod faults;
mod gcplocal;
mod google;
mod no_token;
mod peer;
mod played;
mod requests;

use std::collections::BTreeMap;
use std::sync::Arc;

use runner_manager_core::backend::{
    Backend, BackendKind, Bootstrap, ConnectContext, InstanceSpec, SettingsFault,
};
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::{
    BackendName, DeploymentName, GroupName, Owner, Placement, RunnerName, Secret,
};
use runner_manager_core::testing::conformance::{backend_kind, run};
use serde_json::{Value, json};

use super::GcpKind;

fn placement(settings: &Value) -> Placement {
    let settings = GcpKind::new().placements(settings).unwrap().remove(0);
    Placement::new(BackendName::new("eu").unwrap(), settings.description, settings.settings)
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
        tags: BTreeMap::from([("Cost-Center".to_owned(), "ci/linux".to_owned())]),
        bootstrap: Bootstrap::Direct { jit_config: Secret::new("a-jit-config") },
    }
}

async fn connect(settings: &Value) -> Arc<dyn Backend> {
    let context = ConnectContext { name: BackendName::new("eu").unwrap(), clock: Arc::new(SystemClock) };
    GcpKind::new().connect(settings, context).await.unwrap()
}

#[tokio::test]
async fn kind_conforms() {
    run(backend_kind::cases(), &[], || async {
        backend_kind::Subject {
            kind: Arc::new(GcpKind::new()),
            backend: json!({
                "project": "acme-ci", "network_project": "acme-network", "credentials": {"file": "key.json"},
                "impersonate": "runners@acme-ci.iam.gserviceaccount.com", "endpoint": "https://psc",
            }),
            placement: json!({
                "machine_types": ["a", "b"], "zones": ["x-1", "y-1"], "image": "family/runner", "spot": true,
                "disk": {"size_gib": 20}, "accelerators": [{"type": "nvidia-tesla-t4"}],
            }),
            expanded: [("a", "x-1"), ("a", "y-1"), ("b", "x-1"), ("b", "y-1")]
                .map(|(kind, zone)| json!({"machine_types": kind, "zones": zone, "spot": true}))
                .into(),
            faulty_backend: (
                json!({"porject": "p", "timeout": 5, "credentials": 1, "page_size": "x"}),
                vec!["credentials", "page_size", "porject", "timeout"],
            ),
            faulty_placement: (
                json!({
                    "zones": ["a", 1], "image": 5, "zone": "x", "disk": {"size_gib": "x"},
                    "accelerators": [{"type": "t", "count": 300}], "start": {"runner_usr": "x"},
                }),
                vec!["zones.1", "image", "zone", "disk.size_gib", "accelerators.0.count", "start.runner_usr"],
            ),
        }
    })
    .await;
}

fn paths(faults: Vec<SettingsFault>) -> Vec<String> {
    faults.into_iter().map(|fault| fault.path.join(".")).collect()
}

#[test]
fn what_serde_takes_but_gce_would_not_is_refused() {
    let faults = |settings| paths(GcpKind::new().check(&settings).unwrap_err());
    assert_eq!(faults(json!({})), ["project"]);
    let wrong = json!({
        "project": "a/b", "network_project": "", "impersonate": "me", "endpoint": "ftp://x", "timeout": "0s",
        "page_size": 501,
    });
    assert_eq!(
        faults(wrong),
        ["project", "network_project", "impersonate", "endpoint", "timeout", "page_size"]
    );
    let faults = |settings| paths(GcpKind::new().placements(&settings).unwrap_err());
    assert_eq!(faults(json!({})), ["zones", "machine_types", "image"]);
    assert_eq!(faults(json!({"instance_template": "t"})), ["zones"]);
    let wrong = json!({
        "zones": "Z", "machine_types": "a/b", "image": "debian-cloud/debian-12", "network": "../x", "subnet": "a/b",
        "instance_template": "projects/p/x", "spot": true, "on_host_maintenance": "migrate", "accelerators":
        [{"type": "t", "count": 0}], "max_run_duration": "5m", "disk": {"size_gib": 0}, "metadata": {"user-data": "x"},
        "os": "windows", "start_with": "user-data", "arch": "arm", "start_timeout": "0s", "start": {"heartbeat": "1h"},
    });
    assert_eq!(
        faults(wrong),
        [
            "zones",
            "machine_types",
            "image",
            "network",
            "subnet",
            "instance_template",
            "on_host_maintenance",
            "accelerators",
            "disk.size_gib",
            "metadata.user-data",
            "start_with",
            "arch",
            "start_timeout",
            "start.heartbeat"
        ]
    );
    let good = json!({"zones": "z", "machine_types": "t", "image": "i"});
    for (key, value) in [
        ("max_run_duration", json!("10m")),
        ("max_run_duration", json!("20s")),
        ("max_run_duration", json!("2881h")),
    ] {
        let mut settings = good.clone();
        settings[key] = value;
        assert_eq!(faults(settings), [key]);
    }
    let disk_of_template = json!({"zones": "z", "instance_template": "t", "disk": {"size_gib": 8}});
    assert_eq!(faults(disk_of_template), ["disk"]);
}

#[test]
fn placements_are_told_apart() {
    let expand = |settings| GcpKind::new().placements(&settings).unwrap();
    let spot = expand(json!({"machine_types": "t", "image": "family/runner", "zones": "z", "spot": true}));
    assert_eq!(spot[0].description, "t spot, runner in z");
    let template =
        expand(json!({"instance_template": "projects/p/global/instanceTemplates/t", "zones": ["a", "b"]}));
    assert_eq!(template[1].description, "t in b");
}
