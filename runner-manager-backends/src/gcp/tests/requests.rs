//! What a request for an instance says, and what does not come as far as one.

use std::time::Duration;

use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::clock::SystemClock;
use serde_json::{Value, json};

use super::super::config::{PlacementConfig, Settings};
use super::super::connection::Connection;
use super::super::request;
use super::peer::IMAGE;
use super::{connect, owner, spec};

/// The request for an instance with these settings beside those that must be.
fn asked(more: &Value) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let settings = json!({"project": "p", "network_project": "host", "credentials": key("service_account")});
    let connection =
        Connection::new(&Settings::read(&settings).unwrap(), std::sync::Arc::new(SystemClock)).unwrap();
    let mut settings = json!({"zones": "europe-west1-b", "machine_types": "e2-standard-2", "image": IMAGE});
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let spec = spec(owner("acme", "key"), "acme-linux-1", &settings);
    let config = PlacementConfig::read(&settings).unwrap();
    let (marked, script) = (request::marked(&spec).unwrap(), request::script(&spec, &config).unwrap());
    serde_json::to_value(request::instance(&spec, &config, &connection, &marked, &script)).unwrap()
}

/// Credentials of a type, of nobody: they are looked at when a token is wanted.
fn key(kind: &str) -> String {
    json!({
        "type": kind, "client_email": "a@b.c", "private_key_id": "1", "private_key": "none", "client_id": "i",
        "client_secret": "hush-hush", "refresh_token": "r", "project_id": "p",
    })
    .to_string()
}

#[test]
fn what_is_not_said_is_left_to_compute() {
    let asked = asked(&json!({}));
    assert_eq!(asked["scheduling"], json!({"automaticRestart": false}));
    assert_eq!(asked["networkInterfaces"][0]["network"], "projects/host/global/networks/default");
    assert_eq!(asked["networkInterfaces"][0]["accessConfigs"][0]["type"], "ONE_TO_ONE_NAT");
    for absent in ["serviceAccounts", "shieldedInstanceConfig", "guestAccelerators", "tags", "minCpuPlatform"]
    {
        assert_eq!(asked.get(absent), None, "{absent}");
    }
    assert_eq!(asked["disks"][0]["initializeParams"].get("diskSizeGb"), None);
}

#[test]
fn each_setting_is_said() {
    let spot = asked(&json!({"spot": true}));
    assert_eq!(
        spot["scheduling"],
        json!({
            "automaticRestart": false, "provisioningModel": "SPOT", "instanceTerminationAction": "DELETE",
            "onHostMaintenance": "TERMINATE",
        })
    );
    let stays = asked(&json!({"on_host_maintenance": "migrate"}));
    assert_eq!(stays["scheduling"]["onHostMaintenance"], "MIGRATE");
    let fast = asked(&json!({"accelerators": [{"type": "nvidia-l4", "count": 2}]}));
    assert_eq!(fast["scheduling"]["onHostMaintenance"], "TERMINATE");
    assert_eq!(
        fast["guestAccelerators"][0]["acceleratorType"],
        "zones/europe-west1-b/acceleratorTypes/nvidia-l4"
    );
    let limited = asked(&json!({"max_run_duration": "48h"}));
    assert_eq!(limited["scheduling"]["maxRunDuration"]["seconds"], "172800");
    assert_eq!(limited["scheduling"]["instanceTerminationAction"], "DELETE");
    let card = &asked(
        &json!({"network": "ci", "subnet": "projects/x/regions/r/subnetworks/s", "external_ip": false}),
    )["networkInterfaces"][0];
    assert_eq!(
        *card,
        json!({"network": "projects/host/global/networks/ci", "subnetwork": "projects/x/regions/r/subnetworks/s"})
    );
    let account = json!({"email": "default", "scopes": ["compute.readonly", "https://x/y"]});
    let account = &asked(&json!({"service_account": account}))["serviceAccounts"][0];
    assert_eq!(account["scopes"], json!(["https://www.googleapis.com/auth/compute.readonly", "https://x/y"]));
}

#[test]
fn the_script_is_handed_over_as_the_image_wants_it() {
    let key = |more: Value| {
        let asked = asked(&more);
        let items = asked["metadata"]["items"].as_array().unwrap();
        let [item] = &items[..] else { panic!("{items:?}") };
        (item["key"].as_str().unwrap().to_owned(), item["value"].as_str().unwrap().to_owned())
    };
    let (startup, script) = key(json!({}));
    assert_eq!(startup, "startup-script");
    // It acts once, though it is run whenever the machine starts.
    assert!(script.starts_with("#!/bin/bash\n") && script.contains("the machine was restarted"));
    assert_eq!(key(json!({"start_with": "user-data"})).0, "user-data");
    let (windows, script) = key(json!({"os": "windows"}));
    assert!(windows == "windows-startup-script-ps1" && script.contains("the machine was restarted"));
}

#[test]
fn one_runner_in_one_zone_has_one_request_id() {
    let good = json!({"zones": "z", "machine_types": "t", "image": "i"});
    let id = |key: &str, name: &str, project: &str, zone: &str| {
        request::request_id(&spec(owner("acme", key), name, &good), project, zone)
    };
    let first = id("key", "acme-linux-1", "p", "z");
    assert_eq!(first, id("key", "acme-linux-1", "p", "z"));
    assert_eq!(first.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    assert_eq!(&first[14..15], "8");
    for other in [
        id("other", "acme-linux-1", "p", "z"),
        id("key", "acme-linux-2", "p", "z"),
        id("key", "acme-linux-1", "q", "z"),
        id("key", "acme-linux-1", "p", "y"),
    ] {
        assert_ne!(first, other);
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_are_refused_without_being_told() {
    let refused = async |credentials: Value| {
        let settings = Settings::read(&json!({"project": "p", "credentials": credentials})).unwrap();
        Connection::new(&settings, std::sync::Arc::new(SystemClock)).unwrap_err()
    };
    assert!(refused(json!("hush-hush")).await.contains("is not the JSON of credentials (line 1"));
    assert!(refused(json!("{}")).await.contains("have no known type"));
    assert!(refused(json!(key("external_account"))).await.contains("of type external_account"));
    assert!(refused(json!({"file": "/no/such"})).await.contains("/no/such"));
    for why in [refused(json!("hush-hush")).await, refused(json!(key("external_account"))).await] {
        assert!(!why.contains("hush"), "{why}");
    }
    // Whether a key is one shows when it is to sign something.
    let settings =
        json!({"project": "p", "credentials": key("service_account"), "endpoint": "http://127.0.0.1:1"});
    let backend = connect(&settings).await;
    let error = backend.list(&owner("acme", "key")).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unauthenticated, "{error}");
    assert!(!error.to_string().contains("hush"), "{error}");
}

#[tokio::test]
async fn a_tag_that_cannot_be_a_label_is_refused_before_anything_is_sent() {
    let settings =
        json!({"project": "p", "credentials": key("authorized_user"), "endpoint": "http://127.0.0.1:1"});
    let backend = connect(&settings).await;
    let mut spec = spec(
        owner("acme", "key"),
        "acme-linux-1",
        &json!({"zones": "z", "machine_types": "t", "image": "i"}),
    );
    spec.tags.insert("team".to_owned(), "T".repeat(40));
    let error = backend.create(&spec).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::InvalidConfig, "{error}");
    assert!(error.detail.contains("the tag team"), "{error}");
    assert!(backend.capabilities().unique_names && backend.capabilities().settle == Duration::from_mins(2));
}
