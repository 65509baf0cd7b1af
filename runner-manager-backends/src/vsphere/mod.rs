//! The vsphere backend: instances are virtual machines of a VMware vCenter, cloned from a template.
//!
//! It clones, finds, lists and removes machines in one folder. It keeps nothing of its own: vCenter is the only
//! record, by the machines' names and the marks in their settings. It leaves alone whatever does not bear our
//! marks, and templates, networks and datastores.
//!
//! vCenter speaks SOAP: each call is an XML document that names an object and a method of it, with arguments in
//! the order of their definition. The client is our own, because it needs twenty calls out of two thousand:
//!
//! | file | owns |
//! | --- | --- |
//! | `xml` | the tree that documents are read into and written from, within limits |
//! | `tls`, `transport` | whom to trust; one request and its answer, within bounds |
//! | `session` | signing in, and again |
//! | `properties` | reading objects in pages, waiting for changes, following tasks |
//! | `api` | the other calls, each with its place in VMware's reference |
//! | `errors` | what faults mean |
//! | `inventory`, `devices` | names to objects; what of a template's devices changes |
//! | `clone`, `marks` | what a machine is made from, and what stands on it |
//! | `attributes` | custom attributes, for people |
//! | `client` | the backend itself |

mod api;
mod attributes;
mod client;
mod clone;
mod config;
mod devices;
mod errors;
mod inventory;
mod marks;
mod properties;
mod session;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod xml;

use std::sync::Arc;

use async_trait::async_trait;
use runner_manager_core::backend::{
    Backend, BackendError, BackendErrorKind, BackendKind, ConnectContext, PlacementSettings, SettingsFault,
};
use schemars::{Schema, schema_for};
use serde_json::Value;

pub use self::client::VsphereBackend;
pub use self::config::{PlacementConfig, Ready, Settings};
use self::session::{Credentials, Session};
use self::transport::Transport;
use crate::settings::refused;

/// The kind `vsphere`.
///
/// ```
/// use runner_manager_backends::vsphere::VsphereKind;
/// use runner_manager_core::backend::BackendKind;
///
/// let placement = serde_json::json!({"template": "ubuntu", "cluster": ["east", "west"]});
/// let placements = VsphereKind::new().placements(&placement).unwrap();
/// assert_eq!(placements[1].description, "ubuntu in west");
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct VsphereKind;

impl VsphereKind {
    /// The kind.
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl BackendKind for VsphereKind {
    fn kind(&self) -> &'static str {
        "vsphere"
    }

    fn backend_schema(&self) -> Schema {
        schema_for!(Settings)
    }

    fn placement_schema(&self) -> Schema {
        schema_for!(PlacementConfig)
    }

    fn check(&self, settings: &Value) -> Result<(), Vec<SettingsFault>> {
        Settings::read(settings).map(drop)
    }

    fn placements(&self, placement: &Value) -> Result<Vec<PlacementSettings>, Vec<SettingsFault>> {
        config::placements(placement)
    }

    async fn connect(
        &self,
        settings: &Value,
        context: ConnectContext,
    ) -> Result<Arc<dyn Backend>, BackendError> {
        let invalid = |detail: String| BackendError::new(BackendErrorKind::InvalidConfig, "connect", detail);
        let settings = Settings::read(settings).map_err(|faults| refused("connect", &faults))?;
        let (url, trust) = settings.connection().map_err(invalid)?;
        let (Some(username), Some(password)) = (settings.username.clone(), &settings.password) else {
            return Err(invalid("username and password are missing".to_owned()));
        };
        let password = password.resolve().map_err(|why| invalid(format!("password: {why}")))?;
        let transport = Transport::new(url, trust, settings.timeout, context.clock).map_err(invalid)?;
        let session = Session::new(transport, Credentials { username, password });
        Ok(Arc::new(VsphereBackend::new(session, &settings)))
    }
}
