//! The aws backend: instances are EC2 instances of one account in one region.
//!
//! It makes, finds, lists and removes instances with the AWS SDK, and finds images by name or by a parameter of
//! Systems Manager. It keeps nothing of its own but what spares calls: EC2 is the only record, by the marks in
//! the instances' tags. It leaves alone whatever does not bear our marks, and images, networks and templates.
//!
//! The SDK repeats nothing by itself: whether another try is worth it is the manager's affair, who counts calls for
//! all replicas. Each request for an instance bears the runner's name as its client token all the same, so that
//! one that is sent twice on its way makes one instance.
//!
//! | file | owns |
//! | --- | --- |
//! | `config` | the settings |
//! | `connection` | region, credentials and addresses, by the SDK's own rules |
//! | `account` | for whom EC2 counts calls |
//! | `errors` | what refusals and failures mean |
//! | `images` | which AMI a placement means |
//! | `request`, `instance` | what an instance is made from, and what is told of it |
//! | `reading` | looks at instances: in pages, and many in one call |
//! | `check`, `quotas` | what of a placement is missing, and for how many instances there is room |
//! | `client` | the backend itself |

mod account;
mod check;
mod client;
mod config;
mod connection;
mod errors;
mod images;
mod instance;
mod quotas;
mod reading;
mod request;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use runner_manager_core::backend::{
    Backend, BackendError, BackendErrorKind, BackendKind, ConnectContext, PlacementSettings, SettingsFault,
};
use schemars::{Schema, schema_for};
use serde_json::Value;

pub use self::client::AwsBackend;
pub use self::config::{
    AccessKeyConfig, AssumeRoleConfig, EndpointsConfig, ImageConfig, ImageSearch, LaunchTemplateConfig,
    PlacementConfig, Settings, VolumeConfig,
};
use self::connection::Connection;
use crate::settings::refused;

/// The kind `aws`.
///
/// ```
/// use runner_manager_backends::aws::AwsKind;
/// use runner_manager_core::backend::BackendKind;
///
/// let placement = serde_json::json!({
///     "instance_types": ["c7i.large", "c6i.large"], "image": "ami-1", "subnets": ["subnet-a"], "spot": true,
/// });
/// let placements = AwsKind::new().placements(&placement).unwrap();
/// assert_eq!(placements[1].description, "c6i.large spot, ami-1 in subnet-a");
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct AwsKind;

impl AwsKind {
    /// The kind.
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl BackendKind for AwsKind {
    fn kind(&self) -> &'static str {
        "aws"
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
        let connection = Connection::new(&settings)
            .await
            .map_err(|why| BackendError::new(BackendErrorKind::InvalidConfig, "connect", why))?;
        Ok(Arc::new(AwsBackend::new(connection, &settings, context.clock)))
    }
}
