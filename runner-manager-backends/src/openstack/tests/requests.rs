//! Requests against what the services publish of them: what the peer has no service for is checked here, too. The
//! schemas are those of the services' own packages, which `scripts/peers/openstack/schema.py` asks.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::super::config::PlacementConfig;
use super::super::leftovers::{floating_ip_request, port_request};
use super::super::request::{Place, server, user_data};
use super::peer::Peer;
use super::{owner, spec};

const NETWORK: &str = "11111111-1111-1111-1111-111111111111";
const IMAGE: &str = "22222222-2222-2222-2222-222222222222";
const GROUP: &str = "33333333-3333-3333-3333-333333333333";
const PORT: &str = "44444444-4444-4444-4444-444444444444";

fn place() -> Place {
    Place {
        flavor: "f1".to_owned(),
        image: IMAGE.to_owned(),
        networks: vec![NETWORK.to_owned()],
        ..Place::default()
    }
}

/// The request for a server of a placement, by a microversion.
fn request(settings: &Value, place: &Place, microversion: u32) -> Value {
    let spec = spec(owner("acme", "key"), "acme-linux-1", settings);
    let config = PlacementConfig::read(&spec.placement.settings).unwrap();
    let data = user_data(&spec, &config).unwrap();
    server(&spec, &config, place, &data, microversion).unwrap()
}

fn plain() -> Value {
    json!({"flavor": "f", "image": "i"})
}

fn everything() -> Value {
    json!({
        "flavor": "f", "image": "i", "networks": ["n", "m"], "availability_zone": "nova", "config_drive": true,
        "volume": {"size_gib": 40, "type": "ssd"}, "security_groups": ["runners"], "key_pair": "people",
        "server_group": "spread", "floating_network": "outside",
    })
}

#[test]
fn a_server_bears_its_marks_from_the_first_moment() {
    let body = request(&plain(), &place(), 69);
    let server = &body["server"];
    let fingerprint = owner("acme", "key").fingerprint;
    assert_eq!(
        server["metadata"],
        json!({
            "cost-center": "ci", "runner-manager-deployment": "acme", "runner-manager-owner": fingerprint,
            "runner-manager-runner": "acme-linux-1", "runner-manager-group": "linux",
        })
    );
    let tags =
        ["deployment=acme".to_owned(), format!("owner={}", fingerprint.as_str()), "group=linux".to_owned()];
    assert_eq!(server["tags"], json!(tags.map(|tag| format!("runner-manager-{tag}"))));
    assert_eq!((&server["imageRef"], &server["networks"]), (&json!(IMAGE), &json!([{"uuid": NETWORK}])));
    assert!(server.get("block_device_mapping_v2").is_none() && body.get("os:scheduler_hints").is_none());
}

#[test]
fn an_old_nova_is_not_asked_for_what_it_does_not_know() {
    let nowhere = Place { networks: Vec::new(), ..place() };
    for (microversion, tags, networks) in
        [(1, false, None), (37, false, Some("auto")), (52, true, Some("auto"))]
    {
        let body = request(&plain(), &nowhere, microversion);
        assert_eq!(body["server"].get("tags").is_some(), tags, "2.{microversion}");
        assert_eq!(body["server"]["networks"].as_str(), networks, "2.{microversion}");
    }
    let spec = spec(owner("acme", "key"), "acme-linux-1", &everything());
    let config = PlacementConfig::read(&spec.placement.settings).unwrap();
    let why = server(&spec, &config, &place(), "", 66).unwrap_err().to_string();
    assert!(why.contains("take volume.type out"), "{why}");
}

#[test]
fn what_is_asked_for_is_in_the_request() {
    let whole = Place {
        networks: vec![NETWORK.to_owned(), GROUP.to_owned()],
        server_group: Some(GROUP.to_owned()),
        port: Some(PORT.to_owned()),
        ..place()
    };
    let body = request(&everything(), &whole, 69);
    let server = &body["server"];
    assert_eq!(
        server["block_device_mapping_v2"],
        json!([{
            "boot_index": 0, "uuid": IMAGE, "source_type": "image", "destination_type": "volume", "volume_size": 40,
            "delete_on_termination": true, "volume_type": "ssd",
        }])
    );
    assert!(server.get("imageRef").is_none());
    assert_eq!(server["networks"], json!([{"port": PORT}, {"uuid": GROUP}]));
    assert_eq!((&server["config_drive"], &server["key_name"]), (&json!(true), &json!("people")));
    assert_eq!(server["security_groups"], json!([{"name": "runners"}]));
    assert_eq!(server["availability_zone"], "nova");
    assert_eq!(server["metadata"]["runner-manager-with"], "address+volume");
    assert_eq!(body["os:scheduler_hints"], json!({"group": GROUP}));
}

/// Of each kind of request by each schema that Nova has for it, and of Neutron's.
#[test]
fn the_services_own_schemas_take_them() {
    let Some(peer) = Peer::find() else { return };
    let spec = spec(owner("acme", "key"), "acme-linux-1", &everything());
    let nowhere = Place { networks: Vec::new(), ..place() };
    let whole = Place { server_group: Some(GROUP.to_owned()), port: Some(PORT.to_owned()), ..place() };
    let mut untyped = everything();
    untyped["volume"] = json!({"size_gib": 40});
    let mut requests = Vec::new();
    for (schema, microversion) in [
        ("create_v20", 1),
        ("create_v219", 26),
        ("create_v237", 37),
        ("create_v252", 52),
        ("create_v263", 63),
    ] {
        for body in [
            request(&plain(), &place(), microversion),
            request(&plain(), &nowhere, microversion),
            request(&untyped, &whole, microversion),
        ] {
            requests.push((format!("servers.{schema}"), body));
        }
    }
    requests.push(("servers.create_v267".to_owned(), request(&everything(), &whole, 69)));
    let metadata = json!({"metadata": {"runner-manager-phase": "busy", "runner-manager-job": "5"}});
    requests.push(("server_metadata.create".to_owned(), metadata));
    requests.push(("neutron.ports".to_owned(), port_request(&spec, NETWORK, &[GROUP.to_owned()])));
    requests.push(("neutron.floatingips".to_owned(), floating_ip_request(&spec, NETWORK, PORT)));
    for ((schema, body), wrong) in requests.iter().zip(checked(&peer, &requests)) {
        assert_eq!(wrong, Value::Null, "{schema} refuses {body}");
    }
    // It would tell.
    let mut strange = request(&everything(), &whole, 69);
    strange["server"]["block_device_mapping_v2"][0]["volume_size"] = json!("large");
    let mut address = floating_ip_request(&spec, NETWORK, PORT);
    address["floatingip"]["prot_id"] = json!(PORT);
    let wrong = [("servers.create_v267".to_owned(), strange), ("neutron.floatingips".to_owned(), address)];
    assert!(checked(&peer, &wrong).iter().all(Value::is_string));
}

fn checked(peer: &Peer, requests: &[(String, Value)]) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/peers/openstack/schema.py");
    let requests: Vec<Value> =
        requests.iter().map(|(schema, body)| json!({"schema": schema, "body": body})).collect();
    let mut child = Command::new(&peer.python)
        .args(["-B", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(json!(requests).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
