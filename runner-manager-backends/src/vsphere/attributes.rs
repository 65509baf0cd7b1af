//! Custom attributes: what people and bills sort machines by. Nothing of ours reads them.

use std::collections::BTreeMap;

use super::api;
use super::errors::Failure;
use super::properties::read;
use super::session::Session;
use super::xml::Reference;

/// Writes attributes onto a machine; those that vCenter does not have yet are made.
pub(super) async fn write(
    session: &Session,
    machine: &Reference,
    values: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let manager = session.service("customFieldsManager").await?;
    let known = read(session, &manager, &["field"]).await?;
    for (name, value) in values {
        let definition = known.get("field").and_then(|fields| {
            fields.children("CustomFieldDef").find(|field| {
                let of = field.text_of("managedObjectType");
                field.text_of("name") == Some(name) && matches!(of, None | Some("" | "VirtualMachine"))
            })
        });
        let key = match definition.and_then(|definition| definition.text_of("key")) {
            Some(key) => key.to_owned(),
            None => api::add_attribute(session, name).await?,
        };
        api::set_attribute(session, machine, &key, value).await?;
    }
    Ok(())
}
