//! What a machine is made from: a specification becomes the `VirtualMachineCloneSpec` of one call.
//!
//! Owner, group and runner stand in it, so that they are there with the machine.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use runner_manager_core::backend::{BackendError, InstanceSpec};
use runner_manager_core::domain::{RunnerName, Secret};

use super::config::PlacementConfig;
use super::marks;
use super::xml::{Element, Reference};
use crate::bootstrap::{self, Cloud};

/// The objects that a placement's names lead to.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) template: Reference,
    pub(super) folder: Reference,
    pub(super) pool: Reference,
    pub(super) datastore: Option<Reference>,
    pub(super) snapshot: Option<Reference>,
    /// The template's devices that are to be other ones in the clone.
    pub(super) devices: Vec<Element>,
}

/// The user data.
///
/// # Errors
/// Where the instance cannot be told what to do.
pub(super) fn user_data(spec: &InstanceSpec, config: &PlacementConfig) -> Result<Secret, BackendError> {
    bootstrap::user_data(config.scripts(), Cloud::Vsphere, spec)
}

/// The clone specification.
/// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.vm.CloneSpec.html>
pub(super) fn clone_spec(
    spec: &InstanceSpec,
    config: &PlacementConfig,
    user_data: &Secret,
    place: &Place,
    now: Timestamp,
) -> Element {
    Element::new("spec")
        .with(location(place))
        .with(Element::value("template", false))
        .with(machine(spec, config, user_data, place, now))
        .with(Element::value("powerOn", true))
        .with_all(place.snapshot.as_ref().map(|snapshot| snapshot.element("snapshot")))
}

/// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.vm.RelocateSpec.html>
fn location(place: &Place) -> Element {
    let linked = place.snapshot.as_ref().map(|_| Element::value("diskMoveType", "createNewChildDiskBacking"));
    Element::new("location")
        .with_all(place.datastore.as_ref().map(|datastore| datastore.element("datastore")))
        .with_all(linked)
        .with(place.pool.element("pool"))
}

/// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.vm.ConfigSpec.html>
fn machine(
    spec: &InstanceSpec,
    config: &PlacementConfig,
    user_data: &Secret,
    place: &Place,
    now: Timestamp,
) -> Element {
    let marks = marks::of(spec, config.ready, now);
    let changes = place.devices.iter().map(|device| {
        Element::new("deviceChange")
            .of_kind("VirtualDeviceConfigSpec")
            .with(Element::value("operation", "edit"))
            .with(device.clone().named("device"))
    });
    let options = marks.iter().map(|(key, value)| (key.as_str(), value.clone()));
    let options = options.chain(guest_info(&spec.runner, user_data)).map(|(key, value)| {
        // The type of a value is anything, so it has to be said.
        Element::new("extraConfig")
            .of_kind("OptionValue")
            .with(Element::value("key", key))
            .with(Element::value("value", value).of_kind("string"))
    });
    Element::new("config")
        .with(Element::value("annotation", marks::annotation(&marks)))
        .with_all(config.cpus.map(|cpus| Element::value("numCPUs", cpus)))
        .with_all(config.memory_mib.map(|memory| Element::value("memoryMB", memory)))
        .with_all(changes)
        .with_all(options)
}

/// What the agent in the machine reads through VMware Tools: cloud-init's VMware source, and cloudbase-init's
/// `VMwareGuestInfoService` on Windows, which know the same keys and encodings.
/// <https://cloudinit.readthedocs.io/en/latest/reference/datasources/vmware.html>,
/// <https://cloudbase-init.readthedocs.io/en/latest/services.html#vmware-guestinfo-service>
pub(super) fn guest_info(name: &RunnerName, user_data: &Secret) -> [(&'static str, String); 4] {
    let metadata = format!("{{\"instance-id\": \"{name}\", \"local-hostname\": \"{name}\"}}");
    [
        ("guestinfo.metadata", BASE64.encode(metadata)),
        ("guestinfo.metadata.encoding", "base64".to_owned()),
        ("guestinfo.userdata", BASE64.encode(user_data.expose())),
        ("guestinfo.userdata.encoding", "base64".to_owned()),
    ]
}
