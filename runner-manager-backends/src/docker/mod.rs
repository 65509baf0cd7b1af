//! The docker backend: instances are containers of a Docker Engine, on this machine or behind an address.
//!
//! It makes, finds, lists and removes containers, and pulls images. It keeps nothing of its own: the engine
//! is the only record, by the containers' names and labels. It leaves alone whatever does not bear our
//! labels, and networks, volumes with names, and images once they are there.

mod client;
mod config;
mod convert;
mod engine;
mod errors;
mod images;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use runner_manager_core::backend::{
    Backend, BackendError, BackendErrorKind, BackendKind, ConnectContext, PlacementSettings, SettingsFault,
};
use schemars::{Schema, schema_for};
use serde_json::Value;

pub use self::client::DockerBackend;
use self::config::Host;
pub use self::config::{Bytes, PlacementConfig, Pull, Settings};
use crate::settings::refused;

const _: () = assert!(
    log::STATIC_MAX_LEVEL as usize <= log::LevelFilter::Info as usize,
    "bollard logs whole requests below level info, and they bear JIT configs: `log` is built without those levels"
);

/// The kind `docker`.
///
/// ```
/// use runner_manager_backends::docker::DockerKind;
/// use runner_manager_core::backend::BackendKind;
///
/// let placement = serde_json::json!({"image": ["runner:2", "runner:1"], "memory": "4GiB"});
/// let placements = DockerKind::new().placements(&placement).unwrap();
/// assert_eq!(placements[1].description, "runner:1");
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct DockerKind;

impl DockerKind {
    /// The kind.
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl BackendKind for DockerKind {
    fn kind(&self) -> &'static str {
        "docker"
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
        let host = settings.host.clone().or_else(|| std::env::var("DOCKER_HOST").ok());
        let host = Host::parse(host.as_deref().unwrap_or(Host::DEFAULT))
            .map_err(|detail| BackendError::new(BackendErrorKind::InvalidConfig, "connect", detail))?;
        Ok(Arc::new(DockerBackend::new(host, &settings, context.clock)))
    }
}
