//! What an instance is made from: a specification becomes one request for one instance.
//!
//! Owner, group and runner stand in it as labels, so that they are there with the instance.
//! <https://cloud.google.com/compute/docs/reference/rest/v1/instances/insert>

use std::collections::BTreeMap;

use google_cloud_compute_v1::model::{
    AcceleratorConfig, AccessConfig, AttachedDisk, AttachedDiskInitializeParams, CustomerEncryptionKey,
    Duration, Instance, Metadata, NetworkInterface, Scheduling, ServiceAccount, ShieldedInstanceConfig, Tags,
    access_config, metadata, scheduling,
};
use runner_manager_core::backend::{BackendError, Bootstrap, InstanceSpec};
use runner_manager_core::domain::{Os, Secret};
use sha2::{Digest, Sha256};

use super::config::{Maintenance, PlacementConfig, StartWith};
use super::connection::Connection;
use super::labels;
use super::names;
use crate::bootstrap::{self, Cloud};

/// What short names of scopes are short for.
const SCOPES: &str = "https://www.googleapis.com/auth/";

/// How much of a JIT config, or of a token, is enough to know it by.
const BEGINNING: usize = 8;

/// The network of a project that nobody changed.
const DEFAULT_NETWORK: &str = "default";

/// The start script.
///
/// # Errors
/// Where the instance cannot be told what to do.
pub(super) fn script(spec: &InstanceSpec, config: &PlacementConfig) -> Result<Secret, BackendError> {
    bootstrap::user_data(config.scripts(), Cloud::Gcp, spec)
}

/// What an answer that repeats the script would have in it: its first line, and the beginning of the secret.
pub(super) fn beginnings<'a>(spec: &'a InstanceSpec, script: &'a Secret) -> Vec<&'a str> {
    let first = script.expose().lines().map(str::trim).find(|line| !line.is_empty());
    let secret = match &spec.bootstrap {
        Bootstrap::Direct { jit_config } => jit_config.expose().get(..BEGINNING),
        Bootstrap::Callback { token, .. } => token.expose().get(..BEGINNING),
        _ => None,
    };
    first.into_iter().chain(secret).collect()
}

/// The id of the request for a runner's instance: Compute makes one instance of all requests of one id. It takes UUIDs.
/// <https://cloud.google.com/compute/docs/reference/rest/v1/instances/insert#query-parameters>
pub(super) fn request_id(spec: &InstanceSpec, project: &str, zone: &str) -> String {
    let parts = [project, zone, spec.runner.as_str(), spec.owner.fingerprint.as_str()];
    let digest = Sha256::digest(parts.join("\n"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    // A UUID of version 8, whose other bits are anybody's: RFC 9562.
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex::encode(bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The labels of a runner's instance: the marks, and the user's tags.
///
/// # Errors
/// The tag that cannot be a label.
pub(super) fn marked(spec: &InstanceSpec) -> Result<BTreeMap<String, String>, String> {
    let marks = spec.owner.tags(&spec.runner, &spec.group);
    labels::of_tags(spec.tags.iter().chain(&marks))
}

/// The instance of a runner, as it is asked for.
pub(super) fn instance(
    spec: &InstanceSpec,
    config: &PlacementConfig,
    connection: &Connection,
    labels: &BTreeMap<String, String>,
    script: &Secret,
) -> Instance {
    let zone = config.zone();
    let mut instance = Instance::new()
        .set_name(spec.runner.as_str())
        .set_labels(labels)
        .set_metadata(metadata(config, script))
        .set_or_clear_machine_type(
            config.machine_type().map(|kind| format!("zones/{zone}/machineTypes/{kind}")),
        )
        .set_or_clear_min_cpu_platform(config.min_cpu_platform.clone())
        .set_scheduling(scheduling(config));
    if let Some(image) = &config.image {
        instance = instance.set_disks([disk(config, &names::image(&connection.project, image), labels)]);
    }
    if let Some(card) = card(config, connection) {
        instance = instance.set_network_interfaces([card]);
    }
    if !config.network_tags.is_empty() {
        instance = instance.set_tags(Tags::new().set_items(config.network_tags.clone()));
    }
    if let Some(account) = &config.service_account {
        let scopes = account
            .scopes
            .iter()
            .map(|scope| if scope.contains("://") { scope.clone() } else { format!("{SCOPES}{scope}") });
        instance = instance
            .set_service_accounts([ServiceAccount::new().set_email(&account.email).set_scopes(scopes)]);
    }
    if let Some(shielded) = &config.shielded {
        let shielded = ShieldedInstanceConfig::new()
            .set_or_clear_enable_secure_boot(shielded.secure_boot)
            .set_or_clear_enable_vtpm(shielded.vtpm)
            .set_or_clear_enable_integrity_monitoring(shielded.integrity_monitoring);
        instance = instance.set_shielded_instance_config(shielded);
    }
    instance.set_guest_accelerators(config.accelerators.iter().map(|one| {
        AcceleratorConfig::new()
            .set_accelerator_type(format!("zones/{zone}/acceleratorTypes/{}", one.kind))
            .set_accelerator_count(i32::from(one.count))
    }))
}

/// The script acts once, though Google's agent runs it whenever the machine starts: it keeps a mark, and powers a machine
/// off that it has started before.
fn metadata(config: &PlacementConfig, script: &Secret) -> Metadata {
    let key = match (config.os, config.start_with) {
        (Os::Windows, _) => "windows-startup-script-ps1",
        (_, StartWith::StartupScript) => "startup-script",
        (_, StartWith::UserData) => "user-data",
    };
    let own = (key, script.expose());
    let others = config.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let items = others.chain([own]).map(|(key, value)| metadata::Items::new().set_key(key).set_value(value));
    Metadata::new().set_items(items)
}

/// It is never started again by itself, nor kept when Google ends it: a runner is one attempt.
fn scheduling(config: &PlacementConfig) -> Scheduling {
    let ends = config.spot
        || !config.accelerators.is_empty()
        || config.on_host_maintenance == Some(Maintenance::Terminate);
    let maintenance = match (ends, config.on_host_maintenance) {
        (true, _) => Some(scheduling::OnHostMaintenance::Terminate),
        (false, Some(_)) => Some(scheduling::OnHostMaintenance::Migrate),
        (false, None) => None,
    };
    let mut scheduling =
        Scheduling::new().set_automatic_restart(false).set_or_clear_on_host_maintenance(maintenance);
    if config.spot {
        scheduling = scheduling.set_provisioning_model(scheduling::ProvisioningModel::Spot);
    }
    if let Some(limit) = config.max_run_duration {
        let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        scheduling = scheduling.set_max_run_duration(Duration::new().set_seconds(seconds));
    }
    if config.spot || config.max_run_duration.is_some() {
        scheduling =
            scheduling.set_instance_termination_action(scheduling::InstanceTerminationAction::Delete);
    }
    scheduling
}

fn disk(config: &PlacementConfig, image: &str, labels: &BTreeMap<String, String>) -> AttachedDisk {
    let wanted = config.disk.clone().unwrap_or_default();
    let kind = wanted.kind.map(|kind| format!("zones/{}/diskTypes/{kind}", config.zone()));
    let params = AttachedDiskInitializeParams::new()
        .set_source_image(image)
        .set_labels(labels)
        .set_or_clear_disk_size_gb(wanted.size_gib.map(i64::from))
        .set_or_clear_disk_type(kind);
    let key = wanted.kms_key.map(|key| CustomerEncryptionKey::new().set_kms_key_name(key));
    AttachedDisk::new()
        .set_boot(true)
        .set_auto_delete(true)
        .set_initialize_params(params)
        .set_or_clear_disk_encryption_key(key)
}

/// The network card; `None` where an instance template's is to stay as it is.
fn card(config: &PlacementConfig, connection: &Connection) -> Option<NetworkInterface> {
    let says = config.network.is_some() || config.subnet.is_some() || config.external_ip.is_some();
    if config.instance_template.is_some() && !says {
        return None;
    }
    let project = &connection.network_project;
    let subnet = config.subnet.as_deref().map(|subnet| names::subnet(project, config.zone(), subnet));
    // A subnet says which network it is of.
    let network = config.network.as_deref().or(subnet.is_none().then_some(DEFAULT_NETWORK));
    let mut card = NetworkInterface::new()
        .set_or_clear_network(network.map(|network| names::network(project, network)))
        .set_or_clear_subnetwork(subnet);
    if config.external_ip.unwrap_or(true) {
        let external =
            AccessConfig::new().set_name("External NAT").set_type(access_config::Type::OneToOneNat);
        card = card.set_access_configs([external]);
    }
    Some(card)
}
