//! The aws backend: settings; moto, which others wrote, with a proxy before it that gives the answers that it
//! cannot; and AWS' own Python client, which looks at what we made.

mod account;
mod faults;
mod peer;
mod played;
mod policy;
mod quotas;

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

use super::AwsKind;

fn placement(settings: &Value) -> Placement {
    let settings = AwsKind::new().placements(settings).unwrap().remove(0);
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
        tags: BTreeMap::from([("cost-center".to_owned(), "ci".to_owned())]),
        bootstrap: Bootstrap::Direct { jit_config: Secret::new("a-jit-config") },
    }
}

async fn connect(settings: &Value) -> Arc<dyn Backend> {
    let context = ConnectContext { name: BackendName::new("eu").unwrap(), clock: Arc::new(SystemClock) };
    AwsKind::new().connect(settings, context).await.unwrap()
}

#[tokio::test]
async fn kind_conforms() {
    run(backend_kind::cases(), &[], || async {
        backend_kind::Subject {
            kind: Arc::new(AwsKind::new()),
            backend: json!({
                "region": "eu-west-1", "profile": "ci", "assume_role": {"role_arn": "arn:aws:iam::1:role/r"},
                "access_key": {"id": "AKIA", "secret": {"env": "S"}}, "endpoints": {"ec2": "https://vpce"},
                "create_rate": {"calls": 5, "per": "1s"},
            }),
            placement: json!({
                "instance_types": ["a", "b"], "image": {"name": "runner-*"}, "subnets": ["x", "y"], "spot": true,
                "root_volume": {"size_gib": 20},
            }),
            expanded: [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
                .map(|(kind, subnet)| json!({"instance_types": kind, "subnets": subnet, "spot": true}))
                .into(),
            faulty_backend: (
                json!({
                    "regoin": "r", "timeout": 5, "endpoints": {"ec2": 1}, "page_size": "x",
                    "create_rate": {"calls": -1, "per": "2s"}, "delete_rate": {"calls": 5, "per": "2s", "burst": 9},
                }),
                vec![
                    "create_rate.calls",
                    "delete_rate.burst",
                    "endpoints.ec2",
                    "page_size",
                    "regoin",
                    "timeout",
                ],
            ),
            faulty_placement: (
                json!({
                    "instance_types": ["a", 1], "image": 5, "subnet": "x", "root_volume": {"size_gib": "x"},
                    "metadata_hop_limit": 300, "start": {"runner_usr": "x"},
                }),
                vec![
                    "instance_types.1",
                    "image",
                    "subnet",
                    "root_volume.size_gib",
                    "metadata_hop_limit",
                    "start.runner_usr",
                ],
            ),
        }
    })
    .await;
}

fn paths(faults: Vec<SettingsFault>) -> Vec<String> {
    faults.into_iter().map(|fault| fault.path.join(".")).collect()
}

#[test]
fn what_serde_takes_but_ec2_would_not_is_refused() {
    let faults = |settings| paths(AwsKind::new().check(&settings).unwrap_err());
    let wrong = json!({
        "access_key": {}, "assume_role": {"role_arn": "r"}, "endpoints": {"ssm": "ftp://x"}, "timeout": "0s",
        "create_rate": {"calls": 0, "per": "900ms"}, "delete_rate": {"calls": 20_001, "per": "61m"}, "page_size": 4,
    });
    assert_eq!(
        faults(wrong),
        [
            "access_key.id",
            "access_key.secret",
            "assume_role.role_arn",
            "endpoints.ssm",
            "timeout",
            "create_rate.calls",
            "create_rate.per",
            "delete_rate.calls",
            "delete_rate.per",
            "page_size"
        ]
    );
    let faults = |settings| paths(AwsKind::new().placements(&settings).unwrap_err());
    assert_eq!(faults(json!({})), ["instance_types", "image"]);
    assert_eq!(faults(json!({"launch_template": {}})), ["launch_template"]);
    let wrong = json!({
        "instance_types": "t", "image": "ubuntu", "spot_max_price": "1", "metadata_hop_limit": 0,
        "root_volume": {"size_gib": 0, "kms_key": "k"}, "start_timeout": "0s", "arch": "arm", "start": {"heartbeat": "1h"},
    });
    assert_eq!(
        faults(wrong),
        [
            "image",
            "spot_max_price",
            "metadata_hop_limit",
            "root_volume.size_gib",
            "root_volume.encrypted",
            "arch",
            "start_timeout",
            "start.heartbeat"
        ]
    );
    let of_template = json!({"launch_template": {"name": "t"}, "root_volume": {"size_gib": 8}});
    assert_eq!(faults(of_template), ["root_volume"]);
    let search = json!({"instance_types": "t", "image": {"name": "x", "owners": []}});
    assert_eq!(faults(search), ["image.owners"]);
}

#[test]
fn placements_are_told_apart() {
    let expand = |settings| AwsKind::new().placements(&settings).unwrap();
    let spot = expand(json!({"instance_types": "t", "image": "ssm:/x", "subnets": "s", "spot": true}));
    assert_eq!(spot[0].description, "t spot, ssm:/x in s");
    let template = expand(json!({"launch_template": {"name": "runners"}}));
    assert_eq!(template[0].description, "runners");
    assert_eq!(template[0].settings, json!({"launch_template": {"name": "runners"}}));
}
