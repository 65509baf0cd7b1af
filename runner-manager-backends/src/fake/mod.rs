//! The fake backend: a small cloud that is only imagined, for tests, demonstrations and the simulation.
//!
//! [`FakeCloud`] is the cloud, a deterministic state machine with a [`Behaviour`], scripted faults, and its
//! own [`Books`] of what was alive when. [`FakeBackend`] talks to one in its own process or behind a URL, by
//! the same requests. Nothing in here runs an agent: whoever embeds the cloud hears of each
//! [`StartedInstance`] and plays its agent.

mod behaviour;
mod books;
mod client;
mod cloud;
mod config;
mod http;
mod record;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use runner_manager_core::backend::{
    Backend, BackendError, BackendErrorKind, BackendKind, ConnectContext, PlacementSettings, SettingsFault,
};
use runner_manager_core::domain::BackendName;
use schemars::{Schema, schema_for};
use serde_json::Value;

pub use self::behaviour::{Behaviour, Ending, Fault, Operation, Rule, Script, Scripted};
pub use self::books::{Books, Count, Life};
pub use self::client::FakeBackend;
pub use self::cloud::{FakeCloud, Refusal, StartedInstance};
pub use self::config::{PlacementConfig, Settings};
pub use self::http::Answer;

/// The kind `fake`.
///
/// It holds a cloud for each backend without a `url`, so that whoever put the kind into the registry can
/// reach the clouds: their books, and the agents on their instances.
#[derive(Debug, Default)]
pub struct FakeKind {
    clouds: Mutex<BTreeMap<BackendName, Arc<Mutex<FakeCloud>>>>,
}

impl FakeKind {
    /// The kind, without any cloud yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The cloud of a backend in this process; an empty one is made where there was none. Connecting gives
    /// it the behaviour of the settings.
    pub fn cloud(&self, backend: &BackendName) -> Arc<Mutex<FakeCloud>> {
        let mut clouds = self.clouds.lock().unwrap_or_else(PoisonError::into_inner);
        let cloud = clouds.entry(backend.clone()).or_default();
        Arc::clone(cloud)
    }
}

impl Default for FakeCloud {
    fn default() -> Self {
        Self::new(Behaviour::default())
    }
}

#[async_trait]
impl BackendKind for FakeKind {
    fn kind(&self) -> &'static str {
        "fake"
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
        let settings = Settings::read(settings).map_err(|faults| {
            let told: Vec<String> =
                faults.iter().map(|fault| format!("{}: {}", fault.path.join("."), fault.message)).collect();
            BackendError::new(BackendErrorKind::InvalidConfig, "connect", told.join("; "))
        })?;
        let Settings { url, timeout, behaviour } = settings;
        if let Some(url) = url {
            return Ok(Arc::new(FakeBackend::http(&url, timeout, behaviour.capabilities())?));
        }
        let cloud = self.cloud(&context.name);
        cloud.lock().unwrap_or_else(PoisonError::into_inner).set_behaviour(behaviour);
        Ok(Arc::new(FakeBackend::in_process(cloud, context.clock)))
    }
}
