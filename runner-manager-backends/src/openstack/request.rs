//! What a server is made from: a specification becomes the body of one request to Nova.
//!
//! Owner, group and runner stand in it, so that they are there with the server.
//! <https://docs.openstack.org/api-ref/compute/#create-server>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use runner_manager_core::backend::{BackendError, InstanceSpec};
use runner_manager_core::domain::Owner;
use serde_json::{Map, Value, json};

use super::config::{PlacementConfig, VolumeConfig};
use super::errors::Failure;
use super::server::{WITH, With};
use crate::bootstrap::{self, Cloud};

/// The microversion since which a request must say what the networks are, and may say `auto`.
const NETWORKS_ARE_SAID: u32 = 37;

/// The microversion since which tags can be given with a request.
const TAGS: u32 = 52;

/// The microversion since which the type of a new volume can be given.
const VOLUME_TYPES: u32 = 67;

/// The longest tag.
const MOST_OF_A_TAG: usize = 60;

/// The ids that a placement's names lead to.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) flavor: String,
    pub(super) image: String,
    pub(super) networks: Vec<String>,
    pub(super) server_group: Option<String>,
    /// A port of ours on the first network.
    pub(super) port: Option<String>,
}

/// The user data, in base64.
///
/// # Errors
/// Where the instance cannot be told what to do.
pub(super) fn user_data(spec: &InstanceSpec, config: &PlacementConfig) -> Result<String, BackendError> {
    Ok(BASE64.encode(bootstrap::user_data(config.scripts(), Cloud::OpenStack, spec)?.expose()))
}

/// The whole request.
///
/// # Errors
/// Where this Nova is too old for what the placement wants.
pub(super) fn server(
    spec: &InstanceSpec,
    config: &PlacementConfig,
    place: &Place,
    user_data: &str,
    microversion: u32,
) -> Result<Value, Failure> {
    let mut server = json!({
        "name": spec.runner.as_str(),
        "flavorRef": place.flavor,
        "metadata": metadata(spec, with(config)),
        "user_data": user_data,
        "config_drive": config.config_drive,
    });
    match &config.volume {
        None => server["imageRef"] = json!(place.image),
        Some(volume) => {
            server["block_device_mapping_v2"] = json!([boot_volume(volume, place, microversion)?]);
        }
    }
    if let Some(networks) = networks(place, microversion) {
        server["networks"] = networks;
    }
    if let Some(zone) = config.zone() {
        server["availability_zone"] = json!(zone);
    }
    if let Some(pair) = &config.key_pair {
        server["key_name"] = json!(pair);
    }
    if !config.security_groups.is_empty() {
        let groups: Vec<Value> = config.security_groups.iter().map(|name| json!({"name": name})).collect();
        server["security_groups"] = json!(groups);
    }
    if microversion >= TAGS {
        server["tags"] = json!(tags(spec));
    }
    let mut whole = json!({"server": server});
    if let Some(group) = &place.server_group {
        whole["os:scheduler_hints"] = json!({"group": group});
    }
    Ok(whole)
}

/// What goes with the servers of a placement.
pub(super) fn with(config: &PlacementConfig) -> With {
    With { address: config.floating_network.is_some(), volume: config.volume.is_some() }
}

fn metadata(spec: &InstanceSpec, with: With) -> Map<String, Value> {
    let marks = spec.owner.tags(&spec.runner, &spec.group);
    let mut items: Map<String, Value> =
        spec.tags.iter().chain(&marks).map(|(key, value)| (key.clone(), json!(value))).collect();
    if with != With::default() {
        items.insert(WITH.to_owned(), json!(with.words().join("+")));
    }
    items
}

/// Tags by which people and their tools find servers: <https://docs.openstack.org/api-ref/compute/#server-tags-servers-tags>.
fn tags(spec: &InstanceSpec) -> Vec<String> {
    let owner = &spec.owner;
    let tags = [
        (Owner::DEPLOYMENT_TAG, owner.deployment.as_str()),
        (Owner::FINGERPRINT_TAG, owner.fingerprint.as_str()),
        (Owner::GROUP_TAG, spec.group.as_str()),
    ];
    let tags = tags.map(|(key, value)| format!("{key}={value}"));
    tags.into_iter().filter(|tag| tag.len() <= MOST_OF_A_TAG).collect()
}

fn networks(place: &Place, microversion: u32) -> Option<Value> {
    let port = place.port.iter().map(|port| json!({"port": port}));
    let others = place.networks.iter().skip(port.len()).map(|network| json!({"uuid": network}));
    let cards: Vec<Value> = port.chain(others).collect();
    match cards.as_slice() {
        [] if microversion >= NETWORKS_ARE_SAID => Some(json!("auto")),
        [] => None,
        _ => Some(json!(cards)),
    }
}

/// A new volume from the image, which Nova deletes with the server.
fn boot_volume(volume: &VolumeConfig, place: &Place, microversion: u32) -> Result<Value, Failure> {
    let mut device = json!({
        "boot_index": 0,
        "uuid": place.image,
        "source_type": "image",
        "destination_type": "volume",
        "volume_size": volume.size_gib,
        "delete_on_termination": true,
    });
    if let Some(kind) = &volume.kind {
        if microversion < VOLUME_TYPES {
            let why = format!(
                "this Nova cannot choose the type of a volume (2.{microversion}, before 2.{VOLUME_TYPES}): take volume.type out"
            );
            return Err(Failure::Unfit(why));
        }
        device["volume_type"] = json!(kind);
    }
    Ok(device)
}
