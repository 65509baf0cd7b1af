//! The openstack backend: instances are servers of an OpenStack project.
//!
//! It makes, finds, lists and removes servers by Nova's API, and what goes with them: ports and floating IPs at
//! Neutron, volumes at Cinder. It keeps nothing of its own: the cloud is the only record, by the servers' names and the
//! marks in their metadata. It leaves alone whatever does not bear our marks, and images, networks and flavors.
//!
//! The client is our own, because a score of calls with plain JSON needs no more; see
//! docs/decisions/0009-openstack-client.md for the SDK that was tried.
//!
//! | file | owns |
//! | --- | --- |
//! | `cloud` | where a cloud is and who signs in: settings, `clouds.yaml`, environment |
//! | `transport` | one request and its answer, within bounds |
//! | `session`, `catalog` | signing in, and again; where the services are; microversions |
//! | `errors` | what refusals and faults mean |
//! | `api` | the calls that deal with servers, and lists in pages |
//! | `names` | names to ids; what of a placement is missing |
//! | `request`, `server` | what a server is made from, and what is told of it |
//! | `leftovers` | what goes with a server, and is removed after it |
//! | `client` | the backend itself |

mod api;
mod catalog;
mod client;
mod cloud;
mod config;
mod errors;
mod leftovers;
mod names;
mod request;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod transport;

use std::sync::Arc;

use async_trait::async_trait;
use runner_manager_core::backend::{
    Backend, BackendError, BackendErrorKind, BackendKind, ConnectContext, PlacementSettings, SettingsFault,
};
use schemars::{Schema, schema_for};
use serde_json::Value;

pub use self::client::OpenStackBackend;
use self::cloud::Cloud;
pub use self::config::{AuthConfig, Interface, PlacementConfig, Settings, VolumeConfig};
use self::session::Session;
use self::transport::Transport;
use crate::settings::refused;

/// The kind `openstack`.
///
/// ```
/// use runner_manager_backends::openstack::OpenStackKind;
/// use runner_manager_core::backend::BackendKind;
///
/// let placement = serde_json::json!({"flavor": ["c4.large", "c3.large"], "image": "ubuntu-24.04"});
/// let placements = OpenStackKind::new().placements(&placement).unwrap();
/// assert_eq!(placements[1].description, "c3.large, ubuntu-24.04");
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenStackKind;

impl OpenStackKind {
    /// The kind.
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl BackendKind for OpenStackKind {
    fn kind(&self) -> &'static str {
        "openstack"
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
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cloud = Cloud::find(&settings, &variable).map_err(invalid)?;
        let transport = Transport::new(&cloud, settings.timeout, context.clock).map_err(invalid)?;
        Ok(Arc::new(OpenStackBackend::new(Session::new(transport, cloud), &settings)))
    }
}
