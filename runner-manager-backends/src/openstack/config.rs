//! The settings of the openstack backend and of its placements.

use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use runner_manager_core::backend::{PlacementSettings, SettingsFault};
use runner_manager_core::domain::{Arch, Os};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bootstrap::{Scripts, StartConfig};
use crate::settings::{OneOrMany, SecretSource, fault, read};

/// The settings of a backend of kind `openstack`: one project in one region of one cloud.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The cloud, by its name in `clouds.yaml`. Default what the environment names in `OS_CLOUD`; without that,
    /// the environment's other variables (`OS_AUTH_URL`, ...) tell who signs in where.
    pub cloud: Option<String>,
    /// The `clouds.yaml` to read. Default what `OS_CLIENT_CONFIG_FILE` names, or the first that is found in the
    /// working folder, in `~/.config/openstack` and in `/etc/openstack`.
    pub clouds_file: Option<PathBuf>,
    /// Who signs in where, in place of `cloud`.
    pub auth: Option<AuthConfig>,
    /// The region. Default what `clouds.yaml` or the environment says, or the only one.
    pub region: Option<String>,
    /// Which endpoints are asked. Default what `clouds.yaml` or the environment says, or `public`.
    pub interface: Option<Interface>,
    /// A file of certificates in PEM: those of the cloud's services must be signed by one of them. Default what
    /// `clouds.yaml` or the environment says, or whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// How long a service may take for one answer. Default 30 s.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How long after a request whose answer was lost its server may still appear. Only after this does a server
    /// that nobody sees count as one that was not made. Default 2 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub settle: Duration,
    /// How long the deletion of a server may take until it is told as stuck. Default 10 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub delete_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cloud: None,
            clouds_file: None,
            auth: None,
            region: None,
            interface: None,
            ca_file: None,
            timeout: Duration::from_secs(30),
            settle: Duration::from_mins(2),
            delete_timeout: Duration::from_mins(10),
        }
    }
}

/// Which of a service's endpoints are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interface {
    /// Those for everybody.
    Public,
    /// Those for who is inside the cloud's own network.
    Internal,
    /// Those for administrators.
    Admin,
}

impl Interface {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

/// Who signs in where: with a password into a project, or with an application credential, which knows its
/// project. The keys are those of `clouds.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Where Keystone is: `https://keystone.example.com/v3`. Required.
    #[schemars(with = "String")]
    pub auth_url: Option<String>,
    /// The user's name.
    pub username: Option<String>,
    /// The user's id, in place of the name.
    pub user_id: Option<String>,
    /// The name of the user's domain. Default the domain whose id is `default`.
    pub user_domain_name: Option<String>,
    /// The id of the user's domain.
    pub user_domain_id: Option<String>,
    /// The user's password: a text, `{env: NAME}` or `{file: PATH}`.
    #[serde(skip_serializing)]
    pub password: Option<SecretSource>,
    /// The project's name.
    pub project_name: Option<String>,
    /// The project's id, in place of the name.
    pub project_id: Option<String>,
    /// The name of the project's domain. Default the user's domain.
    pub project_domain_name: Option<String>,
    /// The id of the project's domain.
    pub project_domain_id: Option<String>,
    /// The application credential's id.
    pub application_credential_id: Option<String>,
    /// The application credential's name, in place of the id; then the user must be given, too.
    pub application_credential_name: Option<String>,
    /// The application credential's secret: a text, `{env: NAME}` or `{file: PATH}`.
    #[serde(skip_serializing)]
    pub application_credential_secret: Option<SecretSource>,
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
        let mut faults = Vec::new();
        if let Some(auth) = &self.auth {
            faults.extend(auth.faults());
            if self.cloud.is_some() {
                faults.push(fault(["cloud"], "cannot stand beside auth, which says the same"));
            }
            if self.clouds_file.is_some() {
                faults.push(fault(["clouds_file"], "is not read where there is auth: take one of them out"));
            }
        }
        for (key, time) in [("timeout", self.timeout), ("delete_timeout", self.delete_timeout)] {
            if time.is_zero() {
                faults.push(fault([key], "must be longer than 0"));
            }
        }
        faults
    }
}

impl AuthConfig {
    fn faults(&self) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        let mut need = |there: bool, key: &str, what: &str| {
            if !there {
                faults.push(fault(["auth", key], format!("is missing: {what}")));
            }
        };
        let credential =
            self.application_credential_id.is_some() || self.application_credential_name.is_some();
        let user = self.username.is_some() || self.user_id.is_some();
        need(self.auth_url.is_some(), "auth_url", "where Keystone is");
        if credential {
            let secret = "application_credential_secret";
            need(self.application_credential_secret.is_some(), secret, "the application credential's secret");
            let named = user || self.application_credential_id.is_some();
            need(named, "username", "whose the application credential of this name is");
        } else {
            need(user, "username", "who signs in; or application_credential_id");
            need(self.password.is_some(), "password", "a text, {env: NAME} or {file: PATH}");
            let project = self.project_name.is_some() || self.project_id.is_some();
            need(project, "project_name", "the project of the instances");
        }
        faults
    }
}

/// The settings of a placement on a backend of kind `openstack`. Flavors, images, networks and the like are given
/// by name or id.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// The flavor, or a list in the order in which they are tried. Required.
    #[schemars(with = "OneOrMany")]
    pub flavor: Option<OneOrMany>,
    /// The image. Required.
    #[schemars(with = "String")]
    pub image: Option<String>,
    /// The networks of the instance's network cards, in order. Default the only one of the project.
    pub networks: Vec<String>,
    /// The availability zone, or a list in the order in which they are tried. Default where the cloud likes.
    pub availability_zone: Option<OneOrMany>,
    /// A new volume to boot from, which goes with the instance. Default the flavor's own disk.
    pub volume: Option<VolumeConfig>,
    /// Whether user data come on a drive of the instance, too, for networks without a metadata service.
    /// Default false.
    pub config_drive: bool,
    /// Security groups. Default the project's `default`.
    pub security_groups: Vec<String>,
    /// The name of a key pair, for people who look into an instance. Default none.
    pub key_pair: Option<String>,
    /// A server group, which keeps instances apart or together. Default none.
    pub server_group: Option<String>,
    /// An outside network of which the instance gets a floating IP, on the first of its `networks`. Default none.
    pub floating_network: Option<String>,
    /// The group's operating system, for the start script: `linux` or `windows`. Default `linux`.
    #[schemars(with = "String")]
    pub os: Os,
    /// The group's processor, for the start script: `x64`, `arm64` or `arm`. Default `x64`.
    #[schemars(with = "String")]
    pub arch: Arch,
    /// How the runner is started: see docs/bootstrap.md.
    pub start: StartConfig,
    /// After how long without a registered runner the instance powers itself off. Default 10 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub start_timeout: Duration,
}

/// A volume to boot from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeConfig {
    /// Its size in GiB.
    pub size_gib: u32,
    /// Its type. Default the cloud's own.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            flavor: None,
            image: None,
            networks: Vec::new(),
            availability_zone: None,
            volume: None,
            config_drive: false,
            security_groups: Vec::new(),
            key_pair: None,
            server_group: None,
            floating_network: None,
            os: Os::Linux,
            arch: Arch::X64,
            start: StartConfig::default(),
            start_timeout: Duration::from_mins(10),
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
        if self.flavor.is_none() {
            faults.push(fault(["flavor"], "is missing: the flavor of the instances"));
        }
        if self.image.as_deref().unwrap_or_default().is_empty() {
            faults.push(fault(["image"], "is missing: the image of the instances"));
        }
        if self.volume.as_ref().is_some_and(|volume| volume.size_gib == 0) {
            faults.push(fault(["volume", "size_gib"], "must be at least 1"));
        }
        if self.floating_network.is_some() && self.networks.is_empty() {
            faults.push(fault(["networks"], "is missing: the first of them bears the floating IP"));
        }
        faults.extend(self.scripts().err().into_iter().flatten());
        faults
    }

    /// The start scripts.
    ///
    /// # Errors
    /// All faults of `start` and `start_timeout`.
    pub(super) fn scripts(&self) -> Result<Scripts, Vec<SettingsFault>> {
        Scripts::of_placement(&self.start, self.os, self.arch, self.start_timeout)
    }

    /// The one flavor of a placement that has been expanded.
    pub(super) fn flavor(&self) -> &str {
        first(self.flavor.as_ref()).unwrap_or_default()
    }

    pub(super) fn image(&self) -> &str {
        self.image.as_deref().unwrap_or_default()
    }

    /// The one zone of a placement that has been expanded.
    pub(super) fn zone(&self) -> Option<&str> {
        first(self.availability_zone.as_ref())
    }
}

fn first(values: Option<&OneOrMany>) -> Option<&str> {
    values.and_then(|values| values.values().first()).map(String::as_str)
}

/// Expands the flavors and, for each, the availability zones of a placement's settings, in order.
pub(super) fn placements(settings: &Value) -> Result<Vec<PlacementSettings>, Vec<SettingsFault>> {
    let config = PlacementConfig::read(settings)?;
    let flavors = config.flavor.as_ref().map(OneOrMany::values).unwrap_or_default();
    let zones: Vec<Option<&String>> = match &config.availability_zone {
        Some(zones) => zones.values().iter().map(Some).collect(),
        None => vec![None],
    };
    let mut expanded = Vec::new();
    for flavor in flavors {
        for zone in &zones {
            let mut one = settings.clone();
            one["flavor"] = json!(flavor);
            if let Some(zone) = zone {
                one["availability_zone"] = json!(zone);
            }
            let place = zone.map(|zone| format!(" in {zone}")).unwrap_or_default();
            let description = format!("{flavor}, {}{place}", config.image());
            expanded.push(PlacementSettings { description, settings: one });
        }
    }
    Ok(expanded)
}
