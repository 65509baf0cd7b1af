//! All kinds side by side: what docs/backends/README.md says of them, and which way to their services they take.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use runner_manager_core::backend::{Backend, BackendKind, ConnectContext};
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::{BackendName, DeploymentName, Owner, Secret};
use serde_json::{Value, json};

use super::registry;
use crate::testing::fault_proxy::{Harm, Proxy};

/// The least that a backend of a kind can be told, with services that are nowhere.
fn settings(kind: &str) -> Value {
    match kind {
        "aws" => json!({
            "region": "eu-west-1", "access_key": {"id": "AKIA", "secret": "s"}, "endpoints": {"ec2": "http://ec2.invalid"},
        }),
        "gcp" => {
            let credentials = json!({
                "type": "authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "r",
                "token_uri": "http://token.invalid/token",
            });
            json!({"project": "acme-ci", "endpoint": "http://compute.invalid", "credentials": credentials.to_string()})
        }
        "openstack" => json!({"auth": {
            "auth_url": "http://keystone.invalid/v3", "username": "u", "password": "p", "project_name": "p",
        }}),
        // Only an address of this machine is taken without TLS.
        "vsphere" => json!({"url": "http://127.0.0.1:1", "username": "u", "password": "p"}),
        _ => json!({}),
    }
}

async fn connect(kind: &dyn BackendKind) -> Arc<dyn Backend> {
    let context = ConnectContext { name: BackendName::new("b").unwrap(), clock: Arc::new(SystemClock) };
    kind.connect(&settings(kind.kind()), context).await.unwrap()
}

fn told(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn shown(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds > 0 && seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

/// The table of what backends with the least settings say of themselves.
#[tokio::test]
async fn the_documentation_has_the_table_that_the_code_gives() {
    let heads = [
        "kind",
        "---",
        "callback mode",
        "start scripts: `start`",
        "Windows: `os`",
        "spot: `spot`",
        "its own limit on an instance's life: `max_run_duration`",
        "refuses a second instance of a name",
        "a lost `create` may still appear for",
        "a new instance may be missing from looks for",
        "`Backend::update` writes what a runner does onto its instance",
    ];
    let mut columns = vec![heads.map(str::to_owned)];
    for kind in registry().iter() {
        let can = connect(kind.as_ref()).await.capabilities();
        let schema = kind.placement_schema();
        let has = |key: &str| told(schema.as_value()["properties"].get(key).is_some());
        columns.push([
            format!("[`{0}`]({0}.md)", kind.kind()),
            "---".to_owned(),
            told(can.callback),
            has("start"),
            has("os"),
            has("spot"),
            has("max_run_duration"),
            told(can.unique_names),
            shown(can.settle),
            shown(can.lag),
            told(can.update),
        ]);
    }
    let row = |number: usize| {
        let cells: Vec<_> = columns.iter().map(|column| column[number].as_str()).collect();
        format!("| {} |", cells.join(" | "))
    };
    let table = (0..heads.len()).map(row).collect::<Vec<_>>().join("\n");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/backends/README.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&table), "docs/backends/README.md should have this table:\n{table}");
}

/// The variables are those of a process, so that another one asks: this test again, by itself.
#[tokio::test]
async fn services_are_asked_by_the_proxy_that_the_environment_names() {
    const MARK: &str = "RUNNER_MANAGER_ASKS_BY_A_PROXY";
    if std::env::var_os(MARK).is_some() {
        return ask_all().await;
    }
    let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let noted = Arc::clone(&asked);
    let proxy = Proxy::alone(move |seen| {
        noted.lock().unwrap().insert(seen.headers["host"].to_str().unwrap().to_owned());
        let token = br#"{"access_token": "t", "token_type": "Bearer", "expires_in": 3600}"#;
        Some(("answered", Harm::Answer { status: 200, body: Bytes::from_static(token) }))
    })
    .await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "tests::services_are_asked_by_the_proxy_that_the_environment_names"])
        .env(MARK, "1")
        .env("HTTP_PROXY", &proxy.url);
    for name in ["http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let hosts = ["127.0.0.1:1", "compute.invalid", "ec2.invalid", "keystone.invalid", "token.invalid"];
    assert_eq!(*asked.lock().unwrap(), BTreeSet::from(hosts.map(str::to_owned)));
}

/// What the played answers make of it is of no interest.
async fn ask_all() {
    let owner = Owner::new(DeploymentName::new("acme").unwrap(), &Secret::new("key"));
    for kind in ["aws", "gcp", "openstack", "vsphere"] {
        let backend = connect(registry().get(kind).unwrap().as_ref()).await;
        drop(backend.list(&owner).await);
    }
}
