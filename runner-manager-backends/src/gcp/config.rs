//! The settings of the gcp backend and of its placements.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::{
    optional as friendly_option, required as friendly,
};
use runner_manager_core::backend::{PlacementSettings, SettingsFault};
use runner_manager_core::domain::{Arch, Os};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::names::{is_name, is_path, is_project, last};
use crate::bootstrap::{Scripts, StartConfig};
use crate::settings::{OneOrMany, SecretSource, fault, read};

/// The instances that a page of a list may have, as Compute allows.
const PAGE_SIZES: std::ops::RangeInclusive<u16> = 1..=500;

/// How long Compute lets a run be limited to. <https://cloud.google.com/compute/docs/instances/limit-vm-runtime>
const MOST_RUN: Duration = Duration::from_hours(120 * 24);

/// The keys of metadata that the backend writes itself.
const OWN_METADATA: [&str; 3] = ["startup-script", "user-data", "windows-startup-script-ps1"];

/// The settings of a backend of kind `gcp`: one project.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The id of the project in which instances are made. Required.
    #[schemars(with = "String")]
    pub project: Option<String>,
    /// The project that networks and subnets are of, where it is another one: the host project of a Shared VPC.
    /// Default the same.
    pub network_project: Option<String>,
    /// The JSON of credentials, in place of the application default ones: a service account's key, a
    /// workload's federation, an impersonation, or those of a person. A text, `{env: NAME}` or `{file: PATH}`.
    pub credentials: Option<SecretSource>,
    /// The e-mail address of a service account to act as, with the credentials that were found. Default none.
    pub impersonate: Option<String>,
    /// Where Compute is, if not at its usual address: a private endpoint, or a simulator.
    pub endpoint: Option<String>,
    /// How long a call may take, signing in included; and how long a new instance's operation is followed. Default
    /// 30 s.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How long after a request whose answer was lost its instance may still appear. Only after this does an
    /// instance that nobody sees count as one that was not made. Default 2 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub settle: Duration,
    /// How many instances a page of a list has, from 1 to 500. Default 500.
    pub page_size: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            project: None,
            network_project: None,
            credentials: None,
            impersonate: None,
            endpoint: None,
            timeout: Duration::from_secs(30),
            settle: Duration::from_mins(2),
            page_size: *PAGE_SIZES.end(),
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
        let faults = settings.faults();
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }

    fn faults(&self) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        match &self.project {
            None => faults.push(fault(["project"], "is missing: the id of the project")),
            Some(project) if !is_project(project) => {
                faults.push(fault(["project"], format!("`{project}` is not a project's id")));
            }
            Some(_) => {}
        }
        if let Some(project) = &self.network_project
            && !is_project(project)
        {
            faults.push(fault(["network_project"], format!("`{project}` is not a project's id")));
        }
        if let Some(account) = &self.impersonate
            && !account.contains('@')
        {
            let message = format!("`{account}` is not the e-mail address of a service account");
            faults.push(fault(["impersonate"], message));
        }
        if let Some(address) = &self.endpoint
            && !address.starts_with("https://")
            && !address.starts_with("http://")
        {
            faults.push(fault(["endpoint"], format!("`{address}` is not an http or https address")));
        }
        if self.timeout.is_zero() {
            faults.push(fault(["timeout"], "must be longer than 0"));
        }
        if !PAGE_SIZES.contains(&self.page_size) {
            faults.push(fault(["page_size"], "must be from 1 to 500, as Compute wants it"));
        }
        faults
    }
}

/// The settings of a placement on a backend of kind `gcp`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// The zone, or a list in the order in which they are tried. Required.
    #[schemars(with = "OneOrMany")]
    pub zones: Option<OneOrMany>,
    /// The machine type, or a list in the order in which they are tried. Required where no instance template has it.
    pub machine_types: Option<OneOrMany>,
    /// The image: the name of one of the project's, `family/NAME` for the newest of a family, or a path such as
    /// `projects/debian-cloud/global/images/family/debian-12`. Required where no instance template has it.
    pub image: Option<String>,
    /// The boot disk, where it is not to be as the image has it.
    pub disk: Option<DiskConfig>,
    /// The network, by name or path. Default `default`, or as the subnet or the instance template says.
    pub network: Option<String>,
    /// The subnet, by its name in the zone's region, or path. Default the network's.
    pub subnet: Option<String>,
    /// Whether the instance gets an external IPv4 address. Without one it needs Cloud NAT to reach GitHub. Default
    /// true, or as the instance template says.
    pub external_ip: Option<bool>,
    /// Network tags, for firewall rules. Default none, or those of the instance template.
    pub network_tags: Vec<String>,
    /// The service account that jobs act as in Google Cloud. Default none, or that of the instance template.
    pub service_account: Option<ServiceAccountConfig>,
    /// More metadata. Default none. Where there are any, they take the place of all the instance template's.
    pub metadata: BTreeMap<String, String>,
    /// What hands the start script over on Linux: `startup-script`, which Google's guest agent runs, or
    /// `user-data`, which cloud-init runs. Default `startup-script`.
    pub start_with: StartWith,
    /// Whether it is a Spot instance, which Google may end at any time. Default false.
    pub spot: bool,
    /// After how long Google ends the instance, whatever it does: from 30 s to 2880 h (120 days). It kills running jobs, so that
    /// it must be longer than all of the group's deadlines together, `max_job_time` included. Default never.
    #[serde(with = "friendly_option")]
    #[schemars(with = "Option<String>")]
    pub max_run_duration: Option<Duration>,
    /// What happens when the machine below has to be repaired: `migrate` or `terminate`. Default `migrate`; for Spot
    /// instances and those with accelerators `terminate`, the only way for them.
    pub on_host_maintenance: Option<Maintenance>,
    /// Accelerators, such as GPUs. Default none.
    pub accelerators: Vec<AcceleratorConfig>,
    /// The oldest kind of processor, such as `Intel Ice Lake`. Default any that the machine type has.
    pub min_cpu_platform: Option<String>,
    /// Shielded VM. Default as the image has it.
    pub shielded: Option<ShieldedConfig>,
    /// An instance template that everything else is put on top of, by name or path.
    pub instance_template: Option<String>,
    /// The group's operating system, for the start script: `linux` or `windows`. Default `linux`.
    #[schemars(with = "String")]
    pub os: Os,
    /// The group's processor, for the start script: `x64` or `arm64`. Default `x64`.
    #[schemars(with = "String")]
    pub arch: Arch,
    /// How the runner is started: see docs/bootstrap.md.
    pub start: StartConfig,
    /// After how long without a registered runner the instance powers itself off. Default 10 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub start_timeout: Duration,
}

/// A boot disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// Its size in GiB. Default the image's.
    pub size_gib: Option<u32>,
    /// Its type, such as `pd-balanced`. Default what Compute takes for the machine type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The path of the Cloud KMS key that encrypts it. Default one of Google's.
    pub kms_key: Option<String>,
}

/// The service account of instances.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountConfig {
    /// Its e-mail address, or `default`.
    pub email: String,
    /// What of Google Cloud it may be used for, beside what IAM allows it: addresses, or the last part of one. Default
    /// `cloud-platform`, which is all.
    #[serde(default = "all_scopes")]
    pub scopes: Vec<String>,
}

fn all_scopes() -> Vec<String> {
    vec!["cloud-platform".to_owned()]
}

/// What hands the start script over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StartWith {
    /// Google's guest agent.
    #[default]
    StartupScript,
    /// cloud-init.
    UserData,
}

/// What happens when the machine below has to be repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Maintenance {
    /// The instance goes on elsewhere.
    Migrate,
    /// It ends.
    Terminate,
}

/// Accelerators of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceleratorConfig {
    /// Their type, such as `nvidia-tesla-t4`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many. Default 1.
    #[serde(default = "one")]
    pub count: u8,
}

const fn one() -> u8 {
    1
}

/// Shielded VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShieldedConfig {
    /// Whether only signed software boots. Default as the image has it.
    pub secure_boot: Option<bool>,
    /// Whether there is a virtual trusted platform module. Default as the image has it.
    pub vtpm: Option<bool>,
    /// Whether the boot is compared with the one before. Default as the image has it.
    pub integrity_monitoring: Option<bool>,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            zones: None,
            machine_types: None,
            image: None,
            disk: None,
            network: None,
            subnet: None,
            external_ip: None,
            network_tags: Vec::new(),
            service_account: None,
            metadata: BTreeMap::new(),
            start_with: StartWith::default(),
            spot: false,
            max_run_duration: None,
            on_host_maintenance: None,
            accelerators: Vec::new(),
            min_cpu_platform: None,
            shielded: None,
            instance_template: None,
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
        let mut faults = self.faults_of_names();
        faults.extend(self.faults_of_run());
        if let Some(disk) = &self.disk {
            if self.image.is_none() {
                faults.push(fault(
                    ["disk"],
                    "needs image: an instance template's disk cannot be changed in part",
                ));
            }
            if disk.size_gib == Some(0) {
                faults.push(fault(["disk", "size_gib"], "must be at least 1"));
            }
        }
        if let Some(key) = self.metadata.keys().find(|key| OWN_METADATA.contains(&key.as_str())) {
            faults.push(fault(["metadata", key.as_str()], "is the start script's: see start"));
        }
        if self.start_with == StartWith::UserData && self.os == Os::Windows {
            faults.push(fault(["start_with"], "user-data is for Linux: take it out"));
        }
        if self.arch == Arch::Arm {
            faults.push(fault(["arch"], "Compute has no processors of this kind: x64 or arm64"));
        }
        faults.extend(self.scripts().err().into_iter().flatten());
        faults
    }

    fn faults_of_names(&self) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        if self.zones.is_none() {
            faults.push(fault(["zones"], "is missing: the zone of the instances, or several"));
        }
        if self.instance_template.is_none() {
            let missing = "is missing, and there is no instance_template that has it";
            if self.machine_types.is_none() {
                faults.push(fault(["machine_types"], missing));
            }
            if self.image.is_none() {
                faults.push(fault(["image"], missing));
            }
        }
        for (key, names) in [("zones", &self.zones), ("machine_types", &self.machine_types)] {
            let wrong = choices(names.as_ref()).into_iter().flatten().find(|name| !is_name(name));
            faults.extend(wrong.map(|name| fault([key], format!("`{name}` is not a name"))));
        }
        for (key, text, forms) in [
            (
                "image",
                &self.image,
                &[&["global", "images", "*"][..], &["global", "images", "family", "*"][..]][..],
            ),
            ("network", &self.network, &[&["global", "networks", "*"][..]][..]),
            ("subnet", &self.subnet, &[&["regions", "*", "subnetworks", "*"][..]][..]),
            (
                "instance_template",
                &self.instance_template,
                &[&["global", "instanceTemplates", "*"][..], &["regions", "*", "instanceTemplates", "*"][..]]
                    [..],
            ),
        ] {
            let Some(text) = text else { continue };
            let family = (key == "image").then(|| text.strip_prefix("family/")).flatten();
            if !is_name(family.unwrap_or(text)) && !forms.iter().any(|steps| is_path(text, steps)) {
                let form = format!("projects/PROJECT/{}", forms[0].join("/").replace('*', "NAME"));
                faults.push(fault([key], format!("`{text}` is neither a name nor a path such as {form}")));
            }
        }
        faults
    }

    fn faults_of_run(&self) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        if self.on_host_maintenance == Some(Maintenance::Migrate) {
            if self.spot {
                faults.push(fault(["on_host_maintenance"], "Spot instances cannot migrate: terminate"));
            } else if !self.accelerators.is_empty() {
                let message = "instances with accelerators cannot migrate: terminate";
                faults.push(fault(["on_host_maintenance"], message));
            }
        }
        if self.accelerators.iter().any(|one| one.count == 0) {
            faults.push(fault(["accelerators"], "count must be at least 1"));
        }
        if let Some(limit) = self.max_run_duration {
            if !(Duration::from_secs(30)..=MOST_RUN).contains(&limit) {
                faults.push(fault(["max_run_duration"], "must be from 30 s to 2880 h (120 days)"));
            } else if limit <= self.start_timeout {
                faults.push(fault(
                    ["max_run_duration"],
                    "must be longer than start_timeout and the longest job",
                ));
            }
        }
        faults
    }

    /// The start scripts.
    ///
    /// # Errors
    /// All faults of `start` and `start_timeout`.
    pub(super) fn scripts(&self) -> Result<Scripts, Vec<SettingsFault>> {
        Scripts::of_placement(&self.start, self.os, self.arch, self.start_timeout)
    }

    /// The one zone of a placement that has been expanded.
    pub(super) fn zone(&self) -> &str {
        first(self.zones.as_ref()).unwrap_or_default()
    }

    /// The one machine type of a placement that has been expanded.
    pub(super) fn machine_type(&self) -> Option<&str> {
        first(self.machine_types.as_ref())
    }

    /// What Compute calls the group's processor.
    pub(super) const fn architecture(&self) -> &'static str {
        match self.arch {
            Arch::X64 | Arch::Arm => "X86_64",
            Arch::Arm64 => "ARM64",
        }
    }
}

fn first(values: Option<&OneOrMany>) -> Option<&str> {
    values.and_then(|values| values.values().first()).map(String::as_str)
}

/// Expands the machine types and, for each, the zones of a placement's settings, in order.
pub(super) fn placements(settings: &Value) -> Result<Vec<PlacementSettings>, Vec<SettingsFault>> {
    let config = PlacementConfig::read(settings)?;
    let mut expanded = Vec::new();
    for kind in choices(config.machine_types.as_ref()) {
        for zone in choices(config.zones.as_ref()) {
            let mut one = settings.clone();
            for (key, value) in [("machine_types", kind), ("zones", zone)] {
                if let Some(value) = value {
                    one[key] = json!(value);
                }
            }
            expanded.push(PlacementSettings { description: describe(&config, kind, zone), settings: one });
        }
    }
    Ok(expanded)
}

fn choices(values: Option<&OneOrMany>) -> Vec<Option<&str>> {
    values.map_or_else(|| vec![None], |values| values.values().iter().map(|one| Some(one.as_str())).collect())
}

fn describe(config: &PlacementConfig, kind: Option<&str>, zone: Option<&str>) -> String {
    let base = kind.or(config.instance_template.as_deref().map(last)).unwrap_or("instance");
    let market = if config.spot { " spot" } else { "" };
    let image = config.image.as_deref().map(|image| format!(", {}", last(image))).unwrap_or_default();
    format!("{base}{market}{image} in {}", zone.unwrap_or_default())
}
