//! The settings of the docker backend and of its placements.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use runner_manager_core::backend::{PlacementSettings, SettingsFault};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::settings::{OneOrMany, fault, read};

/// The variable by which a container gets its JIT config. The actions runner reads each variable that begins
/// with `ACTIONS_RUNNER_INPUT_` as an argument, and takes it out of its environment before a job begins
/// (`CommandSettings.cs` of actions/runner).
pub(super) const JIT_CONFIG_VARIABLE: &str = "ACTIONS_RUNNER_INPUT_JITCONFIG";

/// The settings of a backend of kind `docker`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The engine: `unix:///path/to/socket`, or `tcp://host:port` without TLS. Default: the environment
    /// variable `DOCKER_HOST`, or the local socket `unix:///var/run/docker.sock`.
    pub host: Option<String>,
    /// How long the engine may take for one answer. Default 30 s.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How long an image may take to be pulled. Default 10 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub pull_timeout: Duration,
    /// How long after a `create` without an answer a container may still appear. Default 30 s.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub settle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: None,
            timeout: Duration::from_secs(30),
            pull_timeout: Duration::from_mins(10),
            settle: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Reads and checks settings.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(settings: &Value) -> Result<Self, Vec<SettingsFault>> {
        let settings: Self = read(settings)?;
        let mut faults = Vec::new();
        if let Some(host) = &settings.host
            && let Err(error) = Host::parse(host)
        {
            faults.push(fault(["host"], error));
        }
        for (key, duration) in [("timeout", settings.timeout), ("pull_timeout", settings.pull_timeout)] {
            if duration.is_zero() {
                faults.push(fault([key], "must be longer than 0"));
            }
        }
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }
}

/// Where an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Unix(String),
    Tcp(String),
}

impl Host {
    /// Where engines are found that nobody moved.
    pub(super) const DEFAULT: &str = "unix:///var/run/docker.sock";

    pub(super) fn parse(host: &str) -> Result<Self, String> {
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(host.to_owned())),
            Some(("tcp" | "http", address)) if address.contains(':') => Ok(Self::Tcp(host.to_owned())),
            _ => Err(format!("`{host}` is neither unix:///path/to/socket nor tcp://host:port (without TLS)")),
        }
    }
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pull {
    /// When the engine does not have it.
    #[default]
    Missing,
    /// Never: it must be there.
    Never,
    /// Before each container.
    Always,
}

/// The settings of a placement on a backend of kind `docker`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// The image, or a list of images in the order in which they are tried. Default
    /// `ghcr.io/actions/actions-runner:latest`.
    pub image: OneOrMany,
    /// When the image is pulled. Default `missing`.
    pub pull: Pull,
    /// The command that starts the runner; an empty list is the image's own. Default
    /// `[/home/runner/run.sh]`.
    pub command: Vec<String>,
    /// Another entrypoint than the image's. Default the image's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Environment variables; they are not kept secret. Default none.
    pub env: BTreeMap<String, String>,
    /// The user that the command runs as. Default the image's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How many CPUs a container may use, such as `2` or `0.5`. Default no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// How much memory a container may use, such as `4GiB` or `512m`; swap is not added to it. Default no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// The network: `bridge`, `host`, `none` or the name of one. Default the engine's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Volumes and host paths: `volume-or-path:path-in-container[:ro]`. Default none.
    pub volumes: Vec<String>,
    /// Further lines for `/etc/hosts`: `name:address`. Default none.
    pub extra_hosts: Vec<String>,
    /// Whether the container may do all that the host's root may, as Docker in Docker needs. Default false.
    pub privileged: bool,
    /// Another runtime than the engine's, such as `sysbox-runc`. Default the engine's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            image: "ghcr.io/actions/actions-runner:latest".into(),
            pull: Pull::default(),
            command: vec!["/home/runner/run.sh".to_owned()],
            entrypoint: None,
            env: BTreeMap::new(),
            user: None,
            cpus: None,
            memory: None,
            network: None,
            volumes: Vec::new(),
            extra_hosts: Vec::new(),
            privileged: false,
            runtime: None,
        }
    }
}

impl PlacementConfig {
    /// Reads and checks settings.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(settings: &Value) -> Result<Self, Vec<SettingsFault>> {
        let config: Self = read(settings)?;
        let faults = config.faults();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    fn faults(&self) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        if self.cpus.is_some_and(|cpus| !(0.01..=4096.0).contains(&cpus)) {
            faults.push(fault(["cpus"], "must be a number from 0.01 to 4096"));
        }
        if self.memory.is_some_and(|memory| memory.0 < 6 << 20) {
            faults.push(fault(["memory"], "must be at least 6 MiB, which is the engine's minimum"));
        }
        for key in self.env.keys() {
            if key.is_empty() || key.contains('=') {
                faults.push(fault(["env", key], "is not a name of a variable"));
            }
            if key.eq_ignore_ascii_case(JIT_CONFIG_VARIABLE) {
                faults.push(fault(["env", key], "is how the runner gets its JIT config, and cannot be set"));
            }
        }
        for (at, volume) in self.volumes.iter().enumerate() {
            let parts: Vec<&str> = volume.split(':').collect();
            let right = matches!(parts.as_slice(), [from, to] | [from, to, _]
                if !from.is_empty() && to.starts_with('/'));
            if !right {
                let message = format!("`{volume}` is not volume-or-path:/path/in/container[:ro]");
                faults.push(fault(["volumes", &at.to_string()], message));
            }
        }
        for (at, host) in self.extra_hosts.iter().enumerate() {
            if !host.contains(':') {
                let message = format!("`{host}` is not name:address");
                faults.push(fault(["extra_hosts", &at.to_string()], message));
            }
        }
        faults
    }

    /// The one image of a placement that has been expanded.
    pub(super) fn image(&self) -> &str {
        &self.image.values()[0]
    }
}

/// Expands the images of a placement's settings, in order.
pub(super) fn placements(settings: &Value) -> Result<Vec<PlacementSettings>, Vec<SettingsFault>> {
    let config = PlacementConfig::read(settings)?;
    let expanded = config.image.values().iter().map(|image| {
        let one = PlacementConfig { image: image.as_str().into(), ..config.clone() };
        let settings = serde_json::to_value(one).expect("the settings are plain data with text keys");
        PlacementSettings { description: image.clone(), settings }
    });
    Ok(expanded.collect())
}

/// A number of bytes, written with a unit of powers of 1024: `512m`, `4GiB`, or without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Bytes {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return None,
        };
        // The engine counts in signed numbers.
        let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
        i64::try_from(bytes).is_ok().then_some(Self(bytes))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Value::deserialize(deserializer)?;
        let text = match &written {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{text}` is not a size such as 512m, 4GiB or a number of bytes"
            ))
        })
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": ["string", "integer"]})
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Host};

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes) in [("512m", 512 << 20), ("4GiB", 4 << 30), ("1000", 1000), ("2 kb", 2048)] {
            assert_eq!(Bytes::parse(text), Some(Bytes(bytes)), "{text}");
            assert_eq!(Bytes::parse(&Bytes(bytes).to_string()), Some(Bytes(bytes)));
        }
        for text in ["", "m", "-1", "1.5g", "4x", "99999999t"] {
            assert_eq!(Bytes::parse(text), None, "{text}");
        }
    }

    #[test]
    fn hosts_are_sockets_and_addresses() {
        assert_eq!(Host::parse(Host::DEFAULT), Ok(Host::Unix(Host::DEFAULT.to_owned())));
        assert_eq!(Host::parse("tcp://box:2375"), Ok(Host::Tcp("tcp://box:2375".to_owned())));
        for host in ["ssh://box", "https://box:2376", "/var/run/docker.sock", "unix://", "tcp://box"] {
            assert!(Host::parse(host).is_err(), "{host}");
        }
    }
}
