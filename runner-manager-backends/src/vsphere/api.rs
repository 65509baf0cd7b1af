//! The calls that the backend makes, each with its place in VMware's API reference, whose pages are at
//! `https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/` and are named here.
//!
//! The order of the elements of a call is that of its parameters there. What ends in `_Task` answers with a
//! task, which [`follow`](super::properties::follow) sees to its end.

use jiff::Timestamp;

use super::errors::Failure;
use super::session::Session;
use super::xml::{Element, Reference};

/// One answer that is a reference.
async fn reference(session: &Session, call: Element) -> Result<Option<Reference>, Failure> {
    Ok(session.call(&call).await?.first().and_then(Reference::read))
}

async fn task(session: &Session, call: Element) -> Result<Reference, Failure> {
    let task = reference(session, call).await?;
    task.ok_or_else(|| Failure::Broken("it names no task".to_owned()))
}

/// `vim.ServiceInstance.html#currentTime`: the time by vCenter's clock.
pub(super) async fn current_time(session: &Session) -> Result<Timestamp, Failure> {
    let instance = Reference::new("ServiceInstance", "ServiceInstance");
    let call = Element::new("CurrentTime").with(instance.element("_this"));
    let answer = session.call(&call).await?;
    let time = answer.first().and_then(|time| time.text().parse().ok());
    time.ok_or_else(|| Failure::Broken("it is no time".to_owned()))
}

/// `vim.SearchIndex.html#findByInventoryPath`: the object at a path such as `datacenter/vm/folder/name`.
pub(super) async fn find_by_path(session: &Session, path: &str) -> Result<Option<Reference>, Failure> {
    let index = session.service("searchIndex").await?;
    let call = Element::new("FindByInventoryPath")
        .with(index.element("_this"))
        .with(Element::value("inventoryPath", path));
    reference(session, call).await
}

/// `vim.SearchIndex.html#findChild`: what bears a name right in a folder.
pub(super) async fn find_child(
    session: &Session,
    folder: &Reference,
    name: &str,
) -> Result<Option<Reference>, Failure> {
    let index = session.service("searchIndex").await?;
    let call = Element::new("FindChild")
        .with(index.element("_this"))
        .with(folder.element("entity"))
        .with(Element::value("name", name));
    reference(session, call).await
}

/// `vim.VirtualMachine.html#clone`: the task whose result is the new machine.
pub(super) async fn clone(
    session: &Session,
    template: &Reference,
    folder: &Reference,
    name: &str,
    spec: Element,
) -> Result<Reference, Failure> {
    let call = Element::new("CloneVM_Task")
        .with(template.element("_this"))
        .with(folder.element("folder"))
        .with(Element::value("name", name))
        .with(spec);
    task(session, call).await
}

/// `vim.VirtualMachine.html#powerOff`: at once, without asking the guest.
pub(super) async fn power_off(session: &Session, machine: &Reference) -> Result<Reference, Failure> {
    task(session, Element::new("PowerOffVM_Task").with(machine.element("_this"))).await
}

/// `vim.ManagedEntity.html#destroy`: the machine, with all its files.
pub(super) async fn destroy(session: &Session, machine: &Reference) -> Result<Reference, Failure> {
    task(session, Element::new("Destroy_Task").with(machine.element("_this"))).await
}

/// `vim.StorageResourceManager.html#recommendDatastores`: the datastore of a cluster of them where vCenter
/// would put a clone. None where it recommends none.
pub(super) async fn recommend_datastore(
    session: &Session,
    pod: &Reference,
    template: &Reference,
    folder: &Reference,
    name: &str,
    spec: Element,
) -> Result<Option<Reference>, Failure> {
    let manager = session.service("storageResourceManager").await?;
    let storage = Element::new("storageSpec")
        .with(Element::value("type", "clone"))
        .with(template.element("vm"))
        .with(Element::new("podSelectionSpec").with(pod.element("storagePod")))
        .with(spec.named("cloneSpec"))
        .with(Element::value("cloneName", name))
        .with(folder.element("folder"));
    let call = Element::new("RecommendDatastores").with(manager.element("_this")).with(storage);
    let answer = session.call(&call).await?;
    let best = answer.first().and_then(|result| result.child("recommendations"));
    let action = best.and_then(|recommendation| recommendation.child("action"));
    Ok(action.and_then(|action| action.child("destination")).and_then(Reference::read))
}

/// `vim.CustomFieldsManager.html#addFieldDefinition`: the key of a new attribute of machines.
pub(super) async fn add_attribute(session: &Session, name: &str) -> Result<String, Failure> {
    let manager = session.service("customFieldsManager").await?;
    let call = Element::new("AddCustomFieldDef")
        .with(manager.element("_this"))
        .with(Element::value("name", name))
        .with(Element::value("moType", "VirtualMachine"));
    let answer = session.call(&call).await?;
    let key = answer.first().and_then(|definition| definition.text_of("key")).map(str::to_owned);
    key.ok_or_else(|| Failure::Broken("the new attribute has no key".to_owned()))
}

/// `vim.CustomFieldsManager.html#setField`: gives a machine a value of an attribute.
pub(super) async fn set_attribute(
    session: &Session,
    machine: &Reference,
    key: &str,
    value: &str,
) -> Result<(), Failure> {
    let manager = session.service("customFieldsManager").await?;
    let call = Element::new("SetField")
        .with(manager.element("_this"))
        .with(machine.element("entity"))
        .with(Element::value("key", key))
        .with(Element::value("value", value));
    session.call(&call).await.map(drop)
}
