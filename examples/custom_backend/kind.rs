//! What makes the rack pluggable: its word, its settings, and how to connect.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use runner_manager_backends::settings::{OneOrMany, fault, read};
use runner_manager_core::backend::{
    Backend, BackendError, BackendErrorKind, BackendKind, ConnectContext, PlacementSettings, SettingsFault,
};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::rack::{Machines, Rack};

/// The settings of a backend of kind `rack`. These comments become the descriptions in the schema.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// How many machines there are of each size. There must be one size at least.
    machines: BTreeMap<String, u32>,
}

impl Settings {
    /// `read` tells all that serde finds, each with its path. What serde cannot know is checked here.
    fn read(settings: &Value) -> Result<Self, Vec<SettingsFault>> {
        let settings: Self = read(settings)?;
        if settings.machines.is_empty() {
            return Err(vec![fault(
                ["machines"],
                "a rack without machines runs nothing: name one size at least",
            )]);
        }
        Ok(settings)
    }
}

/// The settings of a placement on a rack, as a user writes them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct PlacementConfig {
    /// The size of machine, or a list of sizes in the order in which they are tried. Default `small`.
    sizes: OneOrMany,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self { sizes: "small".into() }
    }
}

/// The kind `rack`.
#[derive(Debug)]
pub(crate) struct RackKind {
    machines: Machines,
}

impl RackKind {
    /// A kind whose backends all stand in front of the same machines, as those exist once in the world.
    pub(crate) const fn new(machines: Machines) -> Self {
        Self { machines }
    }
}

#[async_trait]
impl BackendKind for RackKind {
    fn kind(&self) -> &'static str {
        "rack"
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
        let config: PlacementConfig = read(placement)?;
        let one = |size: &String| PlacementSettings {
            description: format!("a {size} machine"),
            settings: json!({"sizes": size}),
        };
        Ok(config.sizes.values().iter().map(one).collect())
    }

    async fn connect(
        &self,
        settings: &Value,
        context: ConnectContext,
    ) -> Result<Arc<dyn Backend>, BackendError> {
        let settings = Settings::read(settings).map_err(|faults| {
            let told: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
            BackendError::new(BackendErrorKind::InvalidConfig, "connect", told.join("; "))
        })?;
        Ok(Arc::new(Rack::new(self.machines.clone(), settings.machines, context.clock)))
    }
}
