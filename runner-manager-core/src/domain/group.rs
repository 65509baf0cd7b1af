//! Runner groups: the specifications that runners are made from.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{BackendName, ConnectionName, GitHubGroup, GroupName, Label, Labels, Repository, Scope};

/// The operating system of a group's instances: also one of its labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Os {
    /// Linux; label `linux`.
    #[default]
    Linux,
    /// Windows; label `windows`.
    Windows,
    /// macOS; label `macos`.
    MacOs,
}

impl Os {
    /// The label that stands for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
            Self::MacOs => "macos",
        }
    }
}

/// The processor of a group's instances: also one of its labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86; label `x64`.
    #[default]
    X64,
    /// 64-bit ARM; label `arm64`.
    Arm64,
    /// 32-bit ARM; label `arm`.
    Arm,
}

impl Arch {
    /// The label that stands for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Arm64 => "arm64",
            Self::Arm => "arm",
        }
    }
}

/// Which of several groups that serve a job equally well takes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balance {
    /// The first in the configuration, until it is at its `max`.
    #[default]
    Pack,
    /// All of them in turn.
    Spread,
}

/// How many runners a group keeps: `min_idle <= max`, `max >= 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawBounds")]
pub struct Bounds {
    min_idle: u32,
    max: u32,
}

#[derive(Deserialize)]
struct RawBounds {
    min_idle: u32,
    max: u32,
}

/// Why two numbers are not the bounds of a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// `max` is 0.
    #[error("max must be at least 1; to stop a group, drain it")]
    Zero,
    /// `min_idle` is above `max`.
    #[error("min_idle {min_idle} is above max {max}")]
    Order {
        /// How many idle runners were asked for.
        min_idle: u32,
        /// How many runners there may be.
        max: u32,
    },
}

impl Bounds {
    /// The `max` of a group that does not name one.
    pub const DEFAULT_MAX: u32 = 20;

    /// Checks two numbers and takes them as bounds.
    ///
    /// # Errors
    /// [`BoundsError`] when `max` is 0 or `min_idle` is above it.
    pub const fn new(min_idle: u32, max: u32) -> Result<Self, BoundsError> {
        if max == 0 {
            Err(BoundsError::Zero)
        } else if min_idle > max {
            Err(BoundsError::Order { min_idle, max })
        } else {
            Ok(Self { min_idle, max })
        }
    }

    /// How many runners are kept beyond what waiting jobs need.
    pub const fn min_idle(self) -> u32 {
        self.min_idle
    }

    /// How many runners there may be at any moment, in whatever state.
    pub const fn max(self) -> u32 {
        self.max
    }
}

impl TryFrom<RawBounds> for Bounds {
    type Error = BoundsError;

    fn try_from(raw: RawBounds) -> Result<Self, BoundsError> {
        Self::new(raw.min_idle, raw.max)
    }
}

/// How long things may take in a group. Each is a setting of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// From the `create` call until the runner is registered and online; then it is replaced. Default 10 min.
    #[serde(with = "friendly")]
    pub start_timeout: Duration,
    /// How long a runner that no job needs may stay idle. Default 5 min.
    #[serde(with = "friendly")]
    pub idle_timeout: Duration,
    /// How old an idle runner may become before another takes its place. Default 12 h.
    #[serde(with = "friendly")]
    pub max_idle_age: Duration,
    /// How long a job may run before its runner is taken away. Default none: it may run for ever.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub max_job_time: Option<Duration>,
    /// How long a retirement may take before it is shown as stuck (it goes on all the same). Default 15 min.
    #[serde(with = "friendly")]
    pub retire_timeout: Duration,
    /// How long an idle runner's instance is kept after GitHub accepted the removal of its registration, so
    /// that a job assigned at the last moment shows itself. Default 30 s.
    #[serde(with = "friendly")]
    pub removal_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start_timeout: Duration::from_mins(10),
            idle_timeout: Duration::from_mins(5),
            max_idle_age: Duration::from_hours(12),
            max_job_time: None,
            retire_timeout: Duration::from_mins(15),
            removal_grace: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The least time between the two readings at GitHub that let an idle runner go: 60 s.
    pub const READING_GAP: Duration = Duration::from_mins(1);
    /// The least age of a registration at the first of those readings: 2 min. GitHub has been seen to call a
    /// runner not busy for a minute after its job began.
    pub const READING_AGE: Duration = Duration::from_mins(2);
}

/// Names one placement of a group across restarts and edits of its other placements: the backend's name and
/// a digest of the settings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlacementKey(String);

impl PlacementKey {
    /// The key of an instance that was found without a record: nobody knows where it was to be made.
    pub fn unknown() -> Self {
        Self("unknown".to_owned())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlacementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One place to create an instance: a backend with one full set of instance settings.
///
/// Lists in the configuration (zones, types) have been expanded: a placement has one of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// What names it.
    pub key: PlacementKey,
    /// The backend that creates here.
    pub backend: BackendName,
    /// In a few words what sets it apart from the group's other placements, such as `c7i.large in eu-west-1a`.
    pub description: String,
    /// What the backend needs to know, in the backend's own form; checked by the backend's kind.
    pub settings: serde_json::Value,
}

impl Placement {
    /// A placement with the key that its backend and settings give.
    pub fn new(backend: BackendName, description: impl Into<String>, settings: serde_json::Value) -> Self {
        // `serde_json::Value` keeps its maps sorted, so equal settings give equal text.
        let digest = Sha256::digest(settings.to_string().as_bytes());
        let key = PlacementKey(format!("{backend}:{}", hex::encode(&digest[..6])));
        Self { key, backend, description: description.into(), settings }
    }
}

/// The specification that runners are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerGroup {
    /// The group's name.
    pub name: GroupName,
    /// Where its runners register.
    pub scope: Scope,
    /// The connection to GitHub that works on that scope.
    #[serde(default)]
    pub github: ConnectionName,
    /// GitHub's group that they register into.
    pub github_group: GitHubGroup,
    /// The operating system of its instances.
    pub os: Os,
    /// The processor of its instances.
    pub arch: Arch,
    /// The labels that the user gave it, without the implied ones.
    pub labels: Labels,
    /// How many runners it keeps.
    pub bounds: Bounds,
    /// Among groups that serve a job equally well the higher one takes it.
    pub priority: i32,
    /// Its place in the configuration, which decides where nothing else does.
    pub order: u32,
    /// The user's own tags, on every instance.
    pub tags: BTreeMap<String, String>,
    /// How long things may take.
    pub limits: Limits,
    /// Whether a job that lost its machine is run again at GitHub, once. Default false.
    #[serde(default)]
    pub rerun_on_loss: bool,
    /// Where its instances may be created, in the order in which the places are tried; never empty.
    pub placements: Vec<Placement>,
}

impl RunnerGroup {
    /// All labels that its runners offer: the user's own, `self-hosted`, the operating system's and the
    /// processor's. GitHub takes the labels sent with a JIT config as the whole set, so all must be sent.
    pub fn offered_labels(&self) -> Labels {
        let mut offered = self.labels.clone();
        for implied in self.implied_labels() {
            offered.insert(Label::new(implied).expect("the implied labels are labels"));
        }
        offered
    }

    /// Whether its runners offer all of these labels. Every webhook asks that of every group, so that nothing is made for it.
    pub fn offers(&self, asked: &Labels) -> bool {
        let implied = self.implied_labels();
        asked.iter().all(|label| implied.contains(&label.as_str()) || self.labels.contains(label))
    }

    const fn implied_labels(&self) -> [&'static str; 3] {
        ["self-hosted", self.os.label(), self.arch.label()]
    }

    /// The placement of a key, where the group still has it.
    pub fn placement(&self, key: &PlacementKey) -> Option<&Placement> {
        self.placements.iter().find(|placement| placement.key == *key)
    }

    /// Whether its runners can take jobs of `repository`.
    pub fn covers(&self, repository: &Repository, enterprise: Option<&str>) -> bool {
        self.scope.covers(repository, enterprise)
    }

    /// A digest of the whole specification: differs where anything differs.
    pub fn digest(&self) -> String {
        let text = serde_json::to_string(self).expect("a group is plain data, which always serializes");
        hex::encode(&Sha256::digest(text.as_bytes())[..12])
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounds, BoundsError, Limits, Placement};
    use crate::domain::BackendName;

    #[test]
    fn bounds_are_in_order() {
        assert_eq!(Bounds::new(0, 0), Err(BoundsError::Zero));
        assert_eq!(Bounds::new(3, 2), Err(BoundsError::Order { min_idle: 3, max: 2 }));
        assert!(serde_json::from_str::<Bounds>(r#"{"min_idle": 3, "max": 2}"#).is_err());
        assert_eq!(Bounds::new(2, 2).map(Bounds::max), Ok(2));
    }

    #[test]
    fn limits_read_back() {
        let text = serde_json::to_string(&Limits::default()).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), Limits::default());
        assert!(text.contains("\"start_timeout\":\"10m\""), "{text}");
    }

    #[test]
    fn the_key_of_a_placement_follows_its_settings() {
        let backend = || BackendName::new("eu").unwrap();
        let one = Placement::new(backend(), "a", serde_json::json!({"zone": "a", "type": "t"}));
        let same = Placement::new(backend(), "b", serde_json::json!({"type": "t", "zone": "a"}));
        let other = Placement::new(backend(), "a", serde_json::json!({"zone": "b", "type": "t"}));
        assert_eq!(one.key, same.key);
        assert_ne!(one.key, other.key);
    }
}
