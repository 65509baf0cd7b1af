//! The settings of the vsphere backend and of its placements.

use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use reqwest::{Certificate, Url};
use runner_manager_core::backend::{PlacementSettings, SettingsFault};
use runner_manager_core::domain::{Arch, Os};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::tls::Thumbprint;
use super::transport::Trust;
use crate::bootstrap::{Scripts, StartConfig};
use crate::settings::{OneOrMany, SecretSource, fault, read};

/// The settings of a backend of kind `vsphere`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The vCenter: `https://vcenter.example.com`, or with the path of its SDK, which is `/sdk` by default.
    /// `http` is taken only for this machine. Required.
    #[schemars(with = "String")]
    pub url: Option<String>,
    /// Who signs in, such as `runner-manager@vsphere.local`. Required.
    #[schemars(with = "String")]
    pub username: Option<String>,
    /// The password: a text, `{env: NAME}` or `{file: PATH}`. Required.
    #[schemars(with = "SecretSource")]
    pub password: Option<SecretSource>,
    /// A file of certificates in PEM: vCenter's must be signed by one of them. Default: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The SHA-256 thumbprint of vCenter's certificate: no other is trusted, whoever signed it.
    pub thumbprint: Option<String>,
    /// Trust whatever answers. Whoever is in between reads the password. Default false.
    pub insecure: bool,
    /// The datacenter, by its path in the inventory. Default: the only one.
    pub datacenter: Option<String>,
    /// The folder for the machines, by its path below the datacenter's. Keep it for this deployment alone: all
    /// that is in it is looked through. Default: the datacenter's own folder of machines.
    pub folder: Option<String>,
    /// Whether the tags of an instance, and what its runner does, are written to custom attributes too, which
    /// are made where they are missing. Default false.
    pub custom_attributes: bool,
    /// How long vCenter may take for one answer. Default 30 s, at least 2 s.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How long a clone may take until its machine runs. Only after this does a machine that nobody sees count as
    /// one that was not made, and one that is off as one that ended. Default 10 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub clone_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: None,
            username: None,
            password: None,
            ca_file: None,
            thumbprint: None,
            insecure: false,
            datacenter: None,
            folder: None,
            custom_attributes: false,
            timeout: Duration::from_secs(30),
            clone_timeout: Duration::from_mins(10),
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
        match self.url.as_deref().map(parse_url) {
            None => faults.push(fault(["url"], "is missing: where the vCenter is")),
            Some(Err(why)) => faults.push(fault(["url"], why)),
            Some(Ok(_)) => {}
        }
        if self.username.as_deref().unwrap_or_default().is_empty() {
            faults.push(fault(["username"], "is missing: who signs in at the vCenter"));
        }
        if self.password.is_none() {
            faults.push(fault(["password"], "is missing: a text, {env: NAME} or {file: PATH}"));
        }
        if let Some(Err(why)) = self.thumbprint.as_deref().map(Thumbprint::parse) {
            faults.push(fault(["thumbprint"], why));
        }
        if self.ca_file.is_some() && self.thumbprint.is_some() {
            faults.push(fault(["ca_file"], "cannot stand beside thumbprint, which alone decides"));
        }
        if self.insecure && (self.ca_file.is_some() || self.thumbprint.is_some()) {
            faults.push(fault(["insecure"], "trusts everybody: take it out, or ca_file and thumbprint"));
        }
        if self.timeout < Duration::from_secs(2) {
            faults.push(fault(
                ["timeout"],
                "must be at least 2s, because vCenter is asked to wait for changes",
            ));
        }
        if self.clone_timeout.is_zero() {
            faults.push(fault(["clone_timeout"], "must be longer than 0"));
        }
        faults
    }

    /// The address of the SDK, and whom to believe that it is the vCenter.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) fn connection(&self) -> Result<(Url, Trust), String> {
        let url = parse_url(self.url.as_deref().unwrap_or_default())?;
        let trust = match (&self.ca_file, &self.thumbprint) {
            _ if self.insecure => Trust::Anybody,
            (None, None) => Trust::System,
            (_, Some(thumbprint)) => Trust::Certificate(Thumbprint::parse(thumbprint)?),
            (Some(file), None) => {
                let shown = file.display();
                let pem = std::fs::read(file).map_err(|error| format!("ca_file {shown}: {error}"))?;
                let authorities = Certificate::from_pem_bundle(&pem).unwrap_or_default();
                if authorities.is_empty() {
                    return Err(format!("ca_file {shown} has no certificate in PEM in it"));
                }
                Trust::Authorities(authorities)
            }
        };
        Ok((url, trust))
    }
}

/// Reads where a vCenter is.
fn parse_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
    let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match url.scheme() {
        "https" => {}
        "http" if local => {}
        "http" => return Err(format!("`{text}` would send the password in clear: use https")),
        _ => return Err(format!("`{text}` is no https URL")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password, which have settings of their own".to_owned());
    }
    if url.path() == "/" {
        url.set_path("/sdk");
    }
    Ok(url)
}

/// When a machine counts as running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// As soon as it is powered on.
    #[default]
    PoweredOn,
    /// When VMware Tools in it say that they run.
    Tools,
    /// When VMware Tools in it tell an address.
    Address,
}

impl Ready {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::PoweredOn => "powered_on",
            Self::Tools => "tools",
            Self::Address => "address",
        }
    }

    /// Reads what [`as_str`](Self::as_str) wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::PoweredOn, Self::Tools, Self::Address].into_iter().find(|ready| ready.as_str() == text)
    }
}

/// The settings of a placement on a backend of kind `vsphere`. Paths are those of the inventory, below the
/// backend's datacenter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// The template or machine that is cloned, by its path below the datacenter's machines. Required.
    #[schemars(with = "String")]
    pub template: Option<String>,
    /// The snapshot of the template to clone from, by its name: a linked clone, which is made in seconds and
    /// shares the template's disks. Default: a full clone of the template as it is.
    pub snapshot: Option<String>,
    /// The cluster or host, by its path below the datacenter's hosts, or a list in the order in which they are
    /// tried. Required.
    #[schemars(with = "OneOrMany")]
    pub cluster: Option<OneOrMany>,
    /// The resource pool, by its path below the cluster's own. Default the cluster's own.
    pub resource_pool: Option<String>,
    /// The datastore, or the cluster of datastores, of which vCenter recommends one; by its path below the
    /// datacenter's datastores, or a list in the order in which they are tried. Default the template's.
    pub datastore: Option<OneOrMany>,
    /// The network of the first network card, by its path below the datacenter's networks. Default the
    /// template's.
    pub network: Option<String>,
    /// How many CPUs. Default as many as the template has.
    pub cpus: Option<u32>,
    /// Memory in MiB, a multiple of 4. Default as much as the template has.
    pub memory_mib: Option<u32>,
    /// The size of the first disk in GiB; not with `snapshot`, whose disks cannot grow. Default the template's.
    pub disk_gib: Option<u32>,
    /// When a machine counts as running. Default `powered_on`.
    pub ready: Ready,
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

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            template: None,
            snapshot: None,
            cluster: None,
            resource_pool: None,
            datastore: None,
            network: None,
            cpus: None,
            memory_mib: None,
            disk_gib: None,
            ready: Ready::default(),
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
        if self.template.as_deref().unwrap_or_default().is_empty() {
            faults.push(fault(["template"], "is missing: the template that is cloned"));
        }
        if self.cluster.is_none() {
            faults.push(fault(["cluster"], "is missing: the cluster or host that the machines run on"));
        }
        if self.cpus == Some(0) {
            faults.push(fault(["cpus"], "must be at least 1"));
        }
        if self.memory_mib.is_some_and(|memory| memory == 0 || memory % 4 != 0) {
            faults.push(fault(["memory_mib"], "must be a multiple of 4"));
        }
        match (self.disk_gib, &self.snapshot) {
            (Some(0), _) => faults.push(fault(["disk_gib"], "must be at least 1")),
            (Some(_), Some(_)) => {
                faults.push(fault(
                    ["disk_gib"],
                    "cannot stand beside snapshot: the disks of a linked clone cannot grow",
                ));
            }
            _ => {}
        }
        if self.arch == Arch::Arm {
            faults.push(fault(["arch"], "ESXi has no processors of this kind: x64 or arm64"));
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

    pub(super) fn template(&self) -> &str {
        self.template.as_deref().unwrap_or_default()
    }

    /// The one cluster of a placement that has been expanded.
    pub(super) fn cluster(&self) -> &str {
        first(self.cluster.as_ref()).unwrap_or_default()
    }

    /// The one datastore of a placement that has been expanded.
    pub(super) fn datastore(&self) -> Option<&str> {
        first(self.datastore.as_ref())
    }
}

fn first(values: Option<&OneOrMany>) -> Option<&str> {
    values.and_then(|values| values.values().first()).map(String::as_str)
}

/// Expands the clusters and, for each, the datastores of a placement's settings, in order.
pub(super) fn placements(settings: &Value) -> Result<Vec<PlacementSettings>, Vec<SettingsFault>> {
    let config = PlacementConfig::read(settings)?;
    let clusters = config.cluster.as_ref().map(OneOrMany::values).unwrap_or_default();
    let datastores: Vec<Option<&String>> = match &config.datastore {
        Some(datastores) => datastores.values().iter().map(Some).collect(),
        None => vec![None],
    };
    let mut expanded = Vec::new();
    for cluster in clusters {
        for datastore in &datastores {
            let mut one = settings.clone();
            one["cluster"] = json!(cluster);
            if let Some(datastore) = datastore {
                one["datastore"] = json!(datastore);
            }
            let place = datastore.map(|datastore| format!(", {datastore}")).unwrap_or_default();
            let description = format!("{} in {cluster}{place}", config.template());
            expanded.push(PlacementSettings { description, settings: one });
        }
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::parse_url;

    #[test]
    fn a_vcenter_is_asked_over_https() {
        assert_eq!(parse_url("https://vc.example.com").unwrap().as_str(), "https://vc.example.com/sdk");
        assert_eq!(parse_url("https://vc:8443/other").unwrap().as_str(), "https://vc:8443/other");
        assert!(parse_url("http://127.0.0.1:1").is_ok());
        for wrong in ["vc.example.com", "http://vc.example.com", "ftp://vc", "https://a:b@vc", ""] {
            assert!(parse_url(wrong).is_err(), "{wrong}");
        }
    }
}
