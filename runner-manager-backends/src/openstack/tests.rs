//! The openstack backend: settings and `clouds.yaml`; services that are played, for answers that none can be made to
//! give; the real services (Keystone, Nova, Neutron, Glance, Placement), with a proxy before them that does harm; and
//! OpenStack's own client, which looks at what we made.

mod clouds;
mod faults;
mod peer;
mod played;
mod requests;
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;

use runner_manager_core::backend::{Backend, BackendKind, Bootstrap, ConnectContext, InstanceSpec};
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::{
    BackendName, DeploymentName, GroupName, Owner, Placement, RunnerName, Secret,
};
use runner_manager_core::testing::conformance::{backend_kind, run};
use serde_json::{Value, json};

use super::OpenStackKind;

fn placement(settings: &Value) -> Placement {
    let settings = OpenStackKind::new().placements(settings).unwrap().remove(0);
    Placement::new(BackendName::new("os").unwrap(), settings.description, settings.settings)
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

async fn connect(settings: &Value) -> Arc<dyn Backend> {
    let context = ConnectContext { name: BackendName::new("os").unwrap(), clock: Arc::new(SystemClock) };
    OpenStackKind::new().connect(settings, context).await.unwrap()
}

#[tokio::test]
async fn kind_conforms() {
    run(backend_kind::cases(), &[], || async {
        backend_kind::Subject {
            kind: Arc::new(OpenStackKind::new()),
            backend: json!({"cloud": "acme", "region": "r", "interface": "internal", "timeout": "5s"}),
            placement: json!({
                "flavor": ["a", "b"], "image": "i", "availability_zone": ["x", "y"], "networks": ["n"],
                "volume": {"size_gib": 20},
            }),
            expanded: [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
                .map(|(flavor, zone)| json!({"flavor": flavor, "availability_zone": zone, "networks": ["n"]}))
                .into(),
            faulty_backend: (
                json!({"cloud": "acme", "interface": "outer", "timeout": 5, "regoin": "r", "auth": {"password": 5}}),
                vec!["auth.password", "interface", "regoin", "timeout"],
            ),
            faulty_placement: (
                json!({
                    "flavor": ["a", 1], "image": "i", "networks": ["n", 2], "flavour": 4, "volume": {"size_gib": "x"},
                    "start": {"runner_usr": "x"},
                }),
                vec!["flavor.1", "networks.1", "flavour", "volume.size_gib", "start.runner_usr"],
            ),
        }
    })
    .await;
}

#[test]
fn what_serde_takes_but_openstack_would_not_is_refused() {
    let paths = |faults: Vec<runner_manager_core::backend::SettingsFault>| -> Vec<String> {
        faults.into_iter().map(|fault| fault.path.join(".")).collect()
    };
    let faults = |settings| paths(OpenStackKind::new().check(&settings).unwrap_err());
    let wrong =
        json!({"cloud": "c", "clouds_file": "f", "auth": {}, "timeout": "0s", "delete_timeout": "0s"});
    assert_eq!(
        faults(wrong),
        [
            "auth.auth_url",
            "auth.username",
            "auth.password",
            "auth.project_name",
            "cloud",
            "clouds_file",
            "timeout",
            "delete_timeout"
        ]
    );
    let named = json!({"auth": {"auth_url": "https://k", "application_credential_name": "n"}});
    assert_eq!(faults(named), ["auth.application_credential_secret", "auth.username"]);
    let faults = |settings| paths(OpenStackKind::new().placements(&settings).unwrap_err());
    assert_eq!(faults(json!({})), ["flavor", "image"]);
    let wrong = json!({
        "flavor": "f", "image": "i", "volume": {"size_gib": 0}, "floating_network": "out", "start_timeout": "0s",
        "start": {"runner_user": "Root!", "heartbeat": "1h"},
    });
    assert_eq!(
        faults(wrong),
        ["volume.size_gib", "networks", "start_timeout", "start.runner_user", "start.heartbeat"]
    );
    assert_eq!(faults(json!({"flavor": "f", "image": "i", "os": "macos"})), ["start"]);
}
