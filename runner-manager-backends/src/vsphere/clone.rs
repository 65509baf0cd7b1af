//! What a machine is made from: a specification becomes the `VirtualMachineCloneSpec` of one call.
//!
//! Owner, group and runner stand in it, so that they are there with the machine.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use runner_manager_core::backend::{BackendError, BackendErrorKind, Bootstrap, InstanceSpec};

use super::config::{JIT_CONFIG, MOST_USER_DATA, PlacementConfig};
use super::marks;
use super::xml::{Element, Reference};

/// The user data of who brings none.
const START: &str = include_str!("start.sh");

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

/// The clone specification.
/// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.vm.CloneSpec.html>
///
/// # Errors
/// Where the instance cannot be told what to do.
pub(super) fn clone_spec(
    spec: &InstanceSpec,
    config: &PlacementConfig,
    place: &Place,
    now: Timestamp,
) -> Result<Element, BackendError> {
    let clone = Element::new("spec")
        .with(location(place))
        .with(Element::value("template", false))
        .with(machine(spec, config, place, now)?)
        .with(Element::value("powerOn", true))
        .with_all(place.snapshot.as_ref().map(|snapshot| snapshot.element("snapshot")));
    Ok(clone)
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
    place: &Place,
    now: Timestamp,
) -> Result<Element, BackendError> {
    let marks = marks::of(spec, config.ready, now);
    let changes = place.devices.iter().map(|device| {
        Element::new("deviceChange")
            .of_kind("VirtualDeviceConfigSpec")
            .with(Element::value("operation", "edit"))
            .with(device.clone().named("device"))
    });
    let options = marks.iter().map(|(key, value)| (key.as_str(), value.clone()));
    let options = options.chain(guest_info(spec, config)?).map(|(key, value)| {
        // The type of a value is anything, so it has to be said.
        Element::new("extraConfig")
            .of_kind("OptionValue")
            .with(Element::value("key", key))
            .with(Element::value("value", value).of_kind("string"))
    });
    Ok(Element::new("config")
        .with(Element::value("annotation", marks::annotation(&marks)))
        .with_all(config.cpus.map(|cpus| Element::value("numCPUs", cpus)))
        .with_all(config.memory_mib.map(|memory| Element::value("memoryMB", memory)))
        .with_all(changes)
        .with_all(options))
}

/// What cloud-init reads in the machine through VMware Tools.
/// <https://cloudinit.readthedocs.io/en/latest/reference/datasources/vmware.html>
fn guest_info(
    spec: &InstanceSpec,
    config: &PlacementConfig,
) -> Result<[(&'static str, String); 4], BackendError> {
    let refuse = |kind, detail: String| Err(BackendError::new(kind, "create", detail));
    let Bootstrap::Direct { jit_config } = &spec.bootstrap else {
        let detail = "the vsphere backend hands over JIT configs alone".to_owned();
        return refuse(BackendErrorKind::Unsupported, detail);
    };
    // It comes to stand in a script, so nothing but base64 must be in it.
    let jit_config = jit_config.expose();
    if !jit_config.chars().all(|c| c.is_ascii_alphanumeric() || "+/=_-".contains(c)) {
        let detail = "the JIT config is not base64, and cannot be put into user data".to_owned();
        return refuse(BackendErrorKind::InvalidConfig, detail);
    }
    let user_data = config.user_data.as_deref().unwrap_or(START).replace(JIT_CONFIG, jit_config);
    if user_data.len() > MOST_USER_DATA {
        let (length, most) = (user_data.len(), MOST_USER_DATA);
        let detail = format!("the user data has {length} bytes with the JIT config in it, more than {most}");
        return refuse(BackendErrorKind::InvalidConfig, detail);
    }
    let name = &spec.runner;
    let metadata = format!("{{\"instance-id\": \"{name}\", \"local-hostname\": \"{name}\"}}");
    Ok([
        ("guestinfo.metadata", BASE64.encode(metadata)),
        ("guestinfo.metadata.encoding", "base64".to_owned()),
        ("guestinfo.userdata", BASE64.encode(user_data)),
        ("guestinfo.userdata.encoding", "base64".to_owned()),
    ])
}
