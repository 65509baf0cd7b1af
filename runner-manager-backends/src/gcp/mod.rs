//! The gcp backend: instances are VM instances of Compute Engine, of one project.
//!
//! It makes, finds, lists and removes instances over Compute's REST API, and follows the operations that this starts. It
//! keeps nothing of its own: Compute is the only record, by the marks in the instances' labels. It leaves alone whatever
//! does not bear our marks, and images, networks and templates.
//!
//! Requests and answers have the types of Google's SDK, and tokens come from it. The way to the service is our own: the
//! SDK's reads answers of any length, and repeats calls by itself. Whether another try is worth it is the manager's affair,
//! who counts calls for all replicas. Each request for an instance bears a request id that follows from the runner's name
//! all the same, so that one that is sent twice on its way makes one instance.
//!
//! | file | owns |
//! | --- | --- |
//! | `config`, `names` | the settings, and what their names stand for at Google |
//! | `credentials` | who asks |
//! | `connection` | one call of the API, and its answer within bounds |
//! | `errors` | what refusals and failures mean |
//! | `labels` | how any text becomes a label, and back |
//! | `request`, `instance` | what an instance is made from, and what is told of it |
//! | `operations` | operations to their end |
//! | `check` | what of a placement is missing |
//! | `client` | the backend itself |

mod check;
mod client;
mod config;
mod connection;
mod credentials;
mod errors;
mod instance;
mod labels;
mod names;
mod operations;
mod request;
#[cfg(test)]
mod tests;
mod unsaid;

use std::sync::Arc;

use async_trait::async_trait;
use runner_manager_core::backend::{
    Backend, BackendError, BackendErrorKind, BackendKind, ConnectContext, PlacementSettings, SettingsFault,
};
use schemars::{Schema, schema_for};
use serde_json::Value;

pub use self::client::GcpBackend;
pub use self::config::{
    AcceleratorConfig, DiskConfig, Maintenance, PlacementConfig, ServiceAccountConfig, Settings,
    ShieldedConfig, StartWith,
};
use self::connection::Connection;
use crate::settings::refused;

/// The kind `gcp`.
///
/// ```
/// use runner_manager_backends::gcp::GcpKind;
/// use runner_manager_core::backend::BackendKind;
///
/// let placement = serde_json::json!({
///     "zones": ["europe-west1-b", "europe-west1-c"], "machine_types": "e2-standard-4", "spot": true,
///     "image": "projects/debian-cloud/global/images/family/debian-12",
/// });
/// let placements = GcpKind::new().placements(&placement).unwrap();
/// assert_eq!(placements[1].description, "e2-standard-4 spot, debian-12 in europe-west1-c");
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct GcpKind;

impl GcpKind {
    /// The kind.
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl BackendKind for GcpKind {
    fn kind(&self) -> &'static str {
        "gcp"
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
        let settings = Settings::read(settings).map_err(|faults| refused("connect", &faults))?;
        let connection = Connection::new(&settings, context.clock)
            .map_err(|why| BackendError::new(BackendErrorKind::InvalidConfig, "connect", why))?;
        Ok(Arc::new(GcpBackend::new(connection, &settings)))
    }
}
