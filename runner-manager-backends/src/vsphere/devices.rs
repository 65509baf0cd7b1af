//! The template's devices that a clone gets otherwise: its first network card, its first disk.
//!
//! A device is changed by sending it whole, as vCenter told it, with one part replaced. So nothing that it
//! needs is lost, of whatever kind the device is.

use super::errors::Failure;
use super::properties::{Object, read};
use super::session::Session;
use super::xml::{Element, Reference};

/// The first device of the template that has a child of a name, which is what tells their kinds apart.
fn first<'a>(template: &'a Object, with: &'a str) -> Option<&'a Element> {
    let devices = template.get("config.hardware.device")?;
    devices.children("VirtualDevice").find(|device| device.child(with).is_some())
}

/// The first network card, on another network. Only network cards have an `addressType`.
/// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.vm.device.VirtualEthernetCard.html>
pub(super) fn connected(template: &Object, backing: Element) -> Result<Element, Failure> {
    let card = first(template, "addressType").ok_or_else(|| {
        Failure::Unfit("the template has no network card to connect to another network".to_owned())
    })?;
    // An address of its own: the template's would be there twice.
    let card = card.clone().replacing(backing).without("macAddress");
    Ok(card.replacing(Element::value("addressType", "generated")))
}

/// The first disk, with a larger size. Only disks have a `capacityInKB`.
/// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.vm.device.VirtualDisk.html>
pub(super) fn grown(template: &Object, gib: u32) -> Result<Element, Failure> {
    let disk = first(template, "capacityInKB")
        .ok_or_else(|| Failure::Unfit("the template has no disk that could grow".to_owned()))?;
    let wanted = u64::from(gib) << 20;
    let had: u64 = disk.text_of("capacityInKB").and_then(|size| size.parse().ok()).unwrap_or_default();
    if wanted < had {
        let had = had.div_ceil(1 << 20);
        return Err(Failure::Unfit(format!(
            "the template's disk has {had} GiB, and cannot shrink to {gib} GiB"
        )));
    }
    // The size in bytes would win if it were sent too.
    let disk = disk.clone().without("capacityInBytes");
    Ok(disk.replacing(Element::value("capacityInKB", wanted)))
}

/// What connects a card to a network, by the network's type.
/// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.vm.device.VirtualDevice.BackingInfo.html>
pub(super) async fn backing(session: &Session, network: &Reference) -> Result<Element, Failure> {
    let lacking = || Failure::Unfit("vCenter does not tell how to connect to the network".to_owned());
    match network.kind.as_str() {
        "DistributedVirtualPortgroup" => {
            let group = read(session, network, &["key", "config.distributedVirtualSwitch"]).await?;
            let switch = group.reference("config.distributedVirtualSwitch").ok_or_else(lacking)?;
            let switch = read(session, &switch, &["uuid"]).await?;
            let port = Element::new("port")
                .with(Element::value("switchUuid", switch.text("uuid").ok_or_else(lacking)?))
                .with(Element::value("portgroupKey", group.text("key").ok_or_else(lacking)?));
            let kind = "VirtualEthernetCardDistributedVirtualPortBackingInfo";
            Ok(Element::new("backing").of_kind(kind).with(port))
        }
        "OpaqueNetwork" => {
            let told = read(session, network, &["summary"]).await?;
            let summary = told.get("summary").ok_or_else(lacking)?;
            let text = |name| summary.text_of(name).ok_or_else(lacking);
            Ok(Element::new("backing")
                .of_kind("VirtualEthernetCardOpaqueNetworkBackingInfo")
                .with(Element::value("opaqueNetworkId", text("opaqueNetworkId")?))
                .with(Element::value("opaqueNetworkType", text("opaqueNetworkType")?)))
        }
        _ => {
            let told = read(session, network, &["name"]).await?;
            Ok(Element::new("backing")
                .of_kind("VirtualEthernetCardNetworkBackingInfo")
                .with(Element::value("deviceName", told.text("name").ok_or_else(lacking)?))
                .with(network.element("network")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{connected, grown};
    use crate::vsphere::properties::Object;
    use crate::vsphere::xml::Element;

    /// A template with these devices, as vCenter tells of one.
    fn template(devices: &str) -> Object {
        let content = format!(
            "<objects xmlns:xsi=\"i\"><obj type=\"VirtualMachine\">vm-1</obj><propSet><name>config.hardware.device</name>\
             <val>{devices}</val></propSet></objects>"
        );
        Object::read(&Element::read(&content).unwrap()).unwrap()
    }

    const CONTROLLER: &str =
        "<VirtualDevice xsi:type=\"VirtualLsiLogicController\"><key>1000</key></VirtualDevice>";

    #[test]
    fn a_card_keeps_all_but_its_network_and_its_address() {
        let card = "<VirtualDevice xsi:type=\"VirtualVmxnet3\"><key>4000</key><backing xsi:type=\"A\"/><unitNumber>7</unitNumber>\
                    <addressType>manual</addressType><macAddress>00:50:56:00:00:01</macAddress></VirtualDevice>";
        let template = template(&format!("{CONTROLLER}{card}"));
        let changed = connected(&template, Element::new("backing").of_kind("B")).unwrap();
        let mut written = String::new();
        changed.write(&mut written);
        assert_eq!(
            written,
            "<VirtualDevice xsi:type=\"VirtualVmxnet3\"><key>4000</key><backing xsi:type=\"B\"></backing>\
             <unitNumber>7</unitNumber><addressType>generated</addressType></VirtualDevice>"
        );
    }

    #[test]
    fn a_disk_grows_and_does_not_shrink() {
        let disk = "<VirtualDevice xsi:type=\"VirtualDisk\"><key>2000</key><capacityInKB>20971520</capacityInKB>\
                    <capacityInBytes>21474836480</capacityInBytes></VirtualDevice>";
        let template = template(&format!("{CONTROLLER}{disk}"));
        let changed = grown(&template, 50).unwrap();
        assert_eq!(changed.text_of("capacityInKB"), Some("52428800"));
        assert!(changed.child("capacityInBytes").is_none());
        assert!(grown(&template, 20).is_ok());
        assert!(grown(&template, 19).unwrap_err().to_string().contains("has 20 GiB"));
    }

    #[test]
    fn a_template_without_the_device_does_not_fit() {
        let bare = template(CONTROLLER);
        assert!(grown(&bare, 50).unwrap_err().to_string().contains("no disk"));
        assert!(
            connected(&bare, Element::new("backing")).unwrap_err().to_string().contains("no network card")
        );
    }
}
