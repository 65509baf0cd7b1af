//! The settings of the fake backend and of its placements.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use runner_manager_core::backend::{PlacementSettings, SettingsFault};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::behaviour::Behaviour;
use crate::bootstrap::StartConfig;
use crate::settings::{OneOrMany, fault, read};

/// The settings of a backend of kind `fake`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where a fake cloud is served (`runner-manager fake-cloud`). Default: one in this process, that ends
    /// with it.
    pub url: Option<String>,
    /// How long to wait for an answer of the cloud at `url`. Default 10 s.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How the cloud behaves. One at `url` behaves as it was started: of these, `unique_names`, `settle`, `lag`
    /// and `callback` must then say what that is, and no other can stand here.
    pub behaviour: Behaviour,
}

impl Default for Settings {
    fn default() -> Self {
        Self { url: None, timeout: Duration::from_secs(10), behaviour: Behaviour::default() }
    }
}

impl Settings {
    /// Reads and checks settings.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(settings: &Value) -> Result<Self, Vec<SettingsFault>> {
        let settings: Self = read(settings)?;
        let faults = settings.faults();
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }

    fn faults(&self) -> Vec<SettingsFault> {
        let mut faults = self.behaviour.faults();
        for fault in &mut faults {
            fault.path.insert(0, "behaviour".to_owned());
        }
        if self.timeout.is_zero() {
            faults.push(fault(["timeout"], "must be longer than 0"));
        }
        let Some(url) = &self.url else { return faults };
        match reqwest::Url::parse(url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
            _ => faults.push(fault(["url"], format!("`{url}` is not an http or https URL"))),
        }
        let Behaviour { unique_names, settle, lag, callback, .. } = self.behaviour;
        if self.behaviour != (Behaviour { unique_names, settle, lag, callback, ..Behaviour::default() }) {
            let message = "the cloud at `url` behaves as it was started: only unique_names, settle, lag and callback can stand here";
            faults.push(fault(["behaviour"], message));
        }
        faults
    }
}

/// The settings of a placement on a backend of kind `fake`, as a user writes them.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// The zone, or a list of zones in the order in which they are tried. Default `zone-a`.
    pub zones: OneOrMany,
    /// The instance type, or a list of them: each is tried in every zone before the next. Default `small`.
    pub instance_types: OneOrMany,
    /// The image. Default `image-1`.
    pub image: String,
    /// How the runner is started where machines call the manager: see docs/bootstrap.md.
    pub start: StartConfig,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            zones: "zone-a".into(),
            instance_types: "small".into(),
            image: "image-1".to_owned(),
            start: StartConfig::default(),
        }
    }
}

/// One full set of instance settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    #[serde(rename = "zones")]
    pub(super) zone: String,
    #[serde(rename = "instance_types")]
    pub(super) instance_type: String,
    pub(super) image: String,
    /// A start that is not the usual one, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<Value>,
}

/// Expands the lists of a placement's settings: types first, and each in every zone.
pub(super) fn placements(settings: &Value) -> Result<Vec<PlacementSettings>, Vec<SettingsFault>> {
    let config: PlacementConfig = read(settings)?;
    let start = settings.get("start").cloned();
    let types = config.instance_types.values().iter();
    let pairs = types.flat_map(|kind| config.zones.values().iter().map(move |zone| (kind, zone)));
    Ok(pairs
        .map(|(kind, zone)| {
            let place = Place {
                zone: zone.clone(),
                instance_type: kind.clone(),
                image: config.image.clone(),
                start: start.clone(),
            };
            PlacementSettings {
                description: format!("{kind} in {zone}"),
                settings: serde_json::to_value(place).expect("a place is texts and what was JSON before"),
            }
        })
        .collect())
}
