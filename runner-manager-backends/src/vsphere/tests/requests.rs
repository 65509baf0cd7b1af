//! What a machine is told: what comes to stand in its settings, and that the agents in it read that.

use std::collections::BTreeMap;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use runner_manager_core::backend::{BackendErrorKind, InstanceSpec};
use runner_manager_core::domain::Secret;
use serde_json::{Value, json};

use super::super::clone::{guest_info, user_data};
use super::super::config::PlacementConfig;
use super::{connect, owner, spec};
use crate::testing::calling::calling;
use crate::testing::fault_proxy::Proxy;

const NAME: &str = "acme-linux-1";

/// The specification of a machine with these settings beside those that must be.
fn asked(more: &Value) -> InstanceSpec {
    let mut settings = json!({"template": "t", "cluster": "c"});
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec(owner("acme", "key"), NAME, &settings)
}

fn script(spec: &InstanceSpec) -> Secret {
    user_data(spec, &PlacementConfig::read(&spec.placement.settings).unwrap()).unwrap()
}

#[test]
fn a_machine_is_told_what_its_mode_needs_and_no_more() {
    for (os, first) in [("linux", "#!/bin/bash\n"), ("windows", "#ps1_sysnative\n")] {
        let direct = asked(&json!({"os": os, "start": {"job_started": "echo hello"}}));
        let whole = script(&direct);
        assert!(whole.expose().starts_with(first), "{os}");
        assert!(whole.expose().contains("a-jit-config") && !whole.expose().contains("a-token"), "{os}");
        let short = script(&calling(&direct));
        assert!(short.expose().starts_with(first) && short.expose().contains("a-token"), "{os}");
        assert!(!short.expose().contains("hello"), "the hooks are fetched: {os}");
    }
}

#[tokio::test]
async fn a_machine_that_calls_fetches_the_whole_script() {
    let backend = connect("http://127.0.0.1:1", &json!({})).await;
    assert!(backend.capabilities().callback);
    let direct = asked(&json!({"start": {"job_started": "echo hello"}}));
    let fetched = backend.start_script(&calling(&direct)).unwrap();
    assert!(fetched.expose().contains("echo hello") && fetched.expose().contains("a-token"));
    assert!(!fetched.expose().contains("a-jit-config"));
}

/// vCenter is asked nothing, not even for a session.
#[tokio::test]
async fn what_tools_would_not_bring_to_the_machine_is_refused_before_anything_is_asked() {
    let proxy = Proxy::alone(|_| None).await;
    let backend = connect(&proxy.url, &json!({})).await;
    let large = asked(&json!({"start": {"job_started": "#".repeat(48 * 1024)}}));
    let error = backend.create(&large).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::InvalidConfig, "{error}");
    assert!(error.detail.contains("too large for Vsphere, which takes 64512"), "{error}");
    assert_eq!(proxy.counts(), BTreeMap::new());
    // What is fetched is not bound by it.
    assert!(script(&calling(&large)).expose().len() < 4096);
    assert!(backend.start_script(&calling(&large)).is_ok());
}

#[test]
fn the_keys_are_those_that_the_agents_read() {
    let spec = asked(&json!({}));
    let script = script(&spec);
    let told: BTreeMap<_, _> = guest_info(&spec.runner, &script).into();
    let keys = ["metadata", "metadata.encoding", "userdata", "userdata.encoding"];
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), keys.map(|key| format!("guestinfo.{key}")));
    assert_eq!(BASE64.decode(&told["guestinfo.userdata"]).unwrap(), script.expose().as_bytes());
    let metadata: Value =
        serde_json::from_slice(&BASE64.decode(&told["guestinfo.metadata"]).unwrap()).unwrap();
    assert_eq!(metadata, json!({"instance-id": NAME, "local-hostname": NAME}));
}

/// cloud-init's VMware source reads the same keys from its environment as from VMware Tools, which are not here.
#[test]
fn cloud_inits_vmware_source_reads_it() {
    const READER: &str = "
import json
from cloudinit.sources import DataSourceVMware as source
print(json.dumps([source.load_json_or_yaml(source.guestinfo_envvar('metadata')), source.guestinfo_envvar('userdata')]))
";
    if !crate::testing::has("cloud-init") {
        return;
    }
    for spec in [asked(&json!({})), calling(&asked(&json!({})))] {
        let script = script(&spec);
        let environment = guest_info(&spec.runner, &script)
            .map(|(key, value)| (format!("VMX_{}", key.to_uppercase().replace('.', "_")), value));
        let output =
            Command::new("/usr/bin/python3").args(["-c", READER]).envs(environment).output().unwrap();
        let read: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let metadata = json!({"instance-id": NAME, "local-hostname": NAME});
        assert_eq!(read, json!([metadata, script.expose()]));
    }
}
