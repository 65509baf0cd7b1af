//! The settings of the aws backend and of its placements.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use runner_manager_core::backend::{PlacementSettings, SettingsFault};
use runner_manager_core::domain::{Arch, Os};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bootstrap::{Scripts, StartConfig};
use crate::settings::{OneOrMany, RateConfig, SecretSource, fault, read};

/// The instances that a page of a list may have, as EC2 allows.
const PAGE_SIZES: std::ops::RangeInclusive<u16> = 5..=1000;

/// The settings of a backend of kind `aws`: one region of one account.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The region. Default what the environment, the profile or the machine's own metadata says.
    pub region: Option<String>,
    /// The profile of the shared configuration files to take region and credentials from. Default what
    /// `AWS_PROFILE` says, or `default`.
    pub profile: Option<String>,
    /// An access key, in place of what the AWS SDK finds by itself: environment, profile, single sign-on, web
    /// identity, container or machine role.
    pub access_key: Option<AccessKeyConfig>,
    /// A role to act as, with the credentials that were found. Default none.
    pub assume_role: Option<AssumeRoleConfig>,
    /// Where services are, if not at their usual addresses: VPC endpoints, or a simulator.
    pub endpoints: EndpointsConfig,
    /// How long a service may take for one answer, signing in included. Default 30 s.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How long after a request whose answer was lost its instance may still appear. Only after this does an
    /// instance that nobody sees count as one that was not made. Default 2 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub settle: Duration,
    /// How many instances may be started in any period, over all replicas and over all backends of this account and
    /// region. Default 3 in 2 s: EC2's bucket for it has five tokens, and gets two a second.
    pub create_rate: RateConfig,
    /// How many instances may be ended in any period, likewise. Default 40 in 10 s: EC2's bucket for it has a hundred
    /// tokens, and gets five a second.
    pub delete_rate: RateConfig,
    /// How many instances a page of a list has, from 5 to 1000. Default 1000.
    pub page_size: u16,
}

/// Of a bucket of 5 tokens that gets 2 a second, 3 calls in any 2 s leave a quarter of what flows in to whoever else works
/// in the account, and find a token also where one call takes up to a second longer to reach EC2 than another and tokens
/// come by the whole second: after n periods no more than 3 (n + 1) calls have arrived, and 5 + 2 (2 n - 1) tokens were
/// there. <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>
const CREATE_RATE: RateConfig = RateConfig { calls: 3, per: Duration::from_secs(2) };

/// Likewise of 100 tokens and 5 a second: 40 (n + 1) calls, and 100 + 5 (10 n - 1) tokens.
const DELETE_RATE: RateConfig = RateConfig { calls: 40, per: Duration::from_secs(10) };

impl Default for Settings {
    fn default() -> Self {
        Self {
            region: None,
            profile: None,
            access_key: None,
            assume_role: None,
            endpoints: EndpointsConfig::default(),
            timeout: Duration::from_secs(30),
            settle: Duration::from_mins(2),
            create_rate: CREATE_RATE,
            delete_rate: DELETE_RATE,
            page_size: *PAGE_SIZES.end(),
        }
    }
}

/// An access key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessKeyConfig {
    /// Its id. Required.
    #[schemars(with = "String")]
    pub id: Option<String>,
    /// Its secret: a text, `{env: NAME}` or `{file: PATH}`. Required.
    #[schemars(with = "SecretSource")]
    pub secret: Option<SecretSource>,
    /// The session token that goes with a temporary key.
    pub session_token: Option<SecretSource>,
}

/// A role to act as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AssumeRoleConfig {
    /// The role's ARN. Required.
    #[schemars(with = "String")]
    pub role_arn: Option<String>,
    /// The external id that the role asks for.
    pub external_id: Option<String>,
    /// What the session is called in `CloudTrail`. Default `runner-manager`.
    pub session_name: Option<String>,
}

/// Addresses of services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointsConfig {
    /// Where EC2 is.
    pub ec2: Option<String>,
    /// Where Systems Manager is, which knows parameters.
    pub ssm: Option<String>,
    /// Where the service is that gives out roles.
    pub sts: Option<String>,
    /// Where Service Quotas is, which `check --online` alone asks.
    pub servicequotas: Option<String>,
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
        if let Some(key) = &self.access_key {
            if key.id.as_deref().unwrap_or_default().is_empty() {
                faults.push(fault(["access_key", "id"], "is missing: the access key's id"));
            }
            if key.secret.is_none() {
                faults
                    .push(fault(["access_key", "secret"], "is missing: a text, {env: NAME} or {file: PATH}"));
            }
        }
        if let Some(role) = &self.assume_role
            && !role.role_arn.as_deref().unwrap_or_default().starts_with("arn:")
        {
            faults.push(fault(["assume_role", "role_arn"], "is missing: arn:aws:iam::ACCOUNT:role/NAME"));
        }
        let addresses = &self.endpoints;
        for (key, address) in [
            ("ec2", &addresses.ec2),
            ("ssm", &addresses.ssm),
            ("sts", &addresses.sts),
            ("servicequotas", &addresses.servicequotas),
        ] {
            let Some(address) = address else { continue };
            if !address.starts_with("https://") && !address.starts_with("http://") {
                faults
                    .push(fault(["endpoints", key], format!("`{address}` is not an http or https address")));
            }
        }
        if self.timeout.is_zero() {
            faults.push(fault(["timeout"], "must be longer than 0"));
        }
        faults.extend(self.create_rate.faults("create_rate"));
        faults.extend(self.delete_rate.faults("delete_rate"));
        if !PAGE_SIZES.contains(&self.page_size) {
            faults.push(fault(["page_size"], "must be from 5 to 1000, as EC2 wants it"));
        }
        faults
    }
}

/// The settings of a placement on a backend of kind `aws`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// The instance type, or a list in the order in which they are tried. Required where no launch template
    /// has it.
    pub instance_types: Option<OneOrMany>,
    /// The image: an AMI's id; `ssm:NAME` of a Systems Manager parameter that holds one; or `{name: PATTERN,
    /// owners: [...]}`, of which the newest is taken. Required where no launch template has it.
    pub image: Option<ImageConfig>,
    /// The subnet, or a list in the order in which they are tried. Default one of the default VPC, or that of
    /// the launch template.
    pub subnets: Option<OneOrMany>,
    /// Security groups, by id. Default the VPC's default group, or those of the launch template.
    pub security_groups: Vec<String>,
    /// Whether the instance gets a public IPv4 address. Default as the subnet or the launch template says.
    pub public_ip: Option<bool>,
    /// Whether it is a spot instance. Default false.
    pub spot: bool,
    /// The most to pay for an hour of a spot instance, in dollars. Default the price on demand.
    pub spot_max_price: Option<String>,
    /// The instance profile, by name or ARN: what jobs may do in AWS. Default none.
    pub instance_profile: Option<String>,
    /// The name of a key pair, for people who look into an instance. Default none.
    pub key_pair: Option<String>,
    /// How many hops answers of the metadata service may take, from 1 to 64. Containers on the instance need 2.
    /// Default 1. The service answers to sessions (`IMDSv2`) alone.
    pub metadata_hop_limit: u8,
    /// The root volume, where it is not to be as the image has it.
    pub root_volume: Option<VolumeConfig>,
    /// A launch template that everything else is put on top of.
    pub launch_template: Option<LaunchTemplateConfig>,
    /// Whether the instance has hardware of its own (tenancy `dedicated`). Default false.
    pub dedicated: bool,
    /// The name of a placement group. Default none.
    pub placement_group: Option<String>,
    /// The group's operating system, for the start script: `linux` or `windows`. Default `linux`.
    #[schemars(with = "String")]
    pub os: Os,
    /// The group's processor, for the start script and for finding images: `x64` or `arm64`. Default `x64`.
    #[schemars(with = "String")]
    pub arch: Arch,
    /// How the runner is started: see docs/bootstrap.md.
    pub start: StartConfig,
    /// After how long without a registered runner the instance powers itself off. Default 10 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub start_timeout: Duration,
}

/// Which image it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected the id of an AMI, ssm:PARAMETER, or {name: PATTERN, owners: [...]}")]
pub enum ImageConfig {
    /// An AMI's id, or `ssm:` and the name of a parameter.
    Named(String),
    /// The newest of those that a search finds.
    Search(ImageSearch),
}

/// A search for images.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSearch {
    /// The image's name; `*` stands for anything.
    pub name: String,
    /// Whose images count: account ids, `self` or `amazon`. Default `self`.
    #[serde(default = "own_images")]
    pub owners: Vec<String>,
}

fn own_images() -> Vec<String> {
    vec!["self".to_owned()]
}

/// A root volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeConfig {
    /// Its size in GiB. Default the image's.
    pub size_gib: Option<u32>,
    /// Its type, such as `gp3`. Default the image's.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its operations a second, where the type lets them be chosen.
    pub iops: Option<u32>,
    /// Its throughput in MiB a second, where the type lets it be chosen.
    pub throughput: Option<u32>,
    /// Whether it is encrypted. Default as the image or the account says.
    pub encrypted: Option<bool>,
    /// The KMS key that encrypts it. Default the account's.
    pub kms_key: Option<String>,
}

/// A launch template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaunchTemplateConfig {
    /// Its id.
    pub id: Option<String>,
    /// Its name, in place of the id.
    pub name: Option<String>,
    /// Its version: a number, `$Latest` or `$Default`. Default `$Default`.
    pub version: Option<String>,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            instance_types: None,
            image: None,
            subnets: None,
            security_groups: Vec::new(),
            public_ip: None,
            spot: false,
            spot_max_price: None,
            instance_profile: None,
            key_pair: None,
            metadata_hop_limit: 1,
            root_volume: None,
            launch_template: None,
            dedicated: false,
            placement_group: None,
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
        if let Some(template) = &self.launch_template {
            if template.id.is_some() == template.name.is_some() {
                faults.push(fault(["launch_template"], "give either id or name"));
            }
        } else {
            if self.instance_types.is_none() {
                faults.push(fault(
                    ["instance_types"],
                    "is missing: the types of the instances, or a launch template",
                ));
            }
            if self.image.is_none() {
                faults.push(fault(["image"], "is missing: the image of the instances, or a launch template"));
            }
        }
        faults.extend(self.image.as_ref().and_then(ImageConfig::fault));
        if self.spot_max_price.is_some() && !self.spot {
            faults.push(fault(["spot_max_price"], "is for spot instances: set spot, too"));
        }
        if !(1..=64).contains(&self.metadata_hop_limit) {
            faults.push(fault(["metadata_hop_limit"], "must be from 1 to 64"));
        }
        if let Some(volume) = &self.root_volume {
            if self.image.is_none() {
                faults.push(fault(["root_volume"], "needs image: it tells which volume is the root"));
            }
            if volume.size_gib == Some(0) {
                faults.push(fault(["root_volume", "size_gib"], "must be at least 1"));
            }
            if volume.kms_key.is_some() && volume.encrypted != Some(true) {
                faults.push(fault(["root_volume", "encrypted"], "must be true where a kms_key is given"));
            }
        }
        if self.arch == Arch::Arm {
            faults.push(fault(["arch"], "EC2 has no processors of this kind: x64 or arm64"));
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

    /// The one type of a placement that has been expanded.
    pub(super) fn instance_type(&self) -> Option<&str> {
        first(self.instance_types.as_ref())
    }

    /// The one subnet of a placement that has been expanded.
    pub(super) fn subnet(&self) -> Option<&str> {
        first(self.subnets.as_ref())
    }

    /// What EC2 calls the group's processor.
    pub(super) const fn architecture(&self) -> &'static str {
        match self.arch {
            Arch::X64 | Arch::Arm => "x86_64",
            Arch::Arm64 => "arm64",
        }
    }
}

impl ImageConfig {
    fn fault(&self) -> Option<SettingsFault> {
        match self {
            Self::Named(name) if name.starts_with("ami-") => None,
            Self::Named(name) if name.strip_prefix("ssm:").is_some_and(|name| !name.is_empty()) => None,
            Self::Named(name) => Some(fault(
                ["image"],
                format!("`{name}` is neither the id of an AMI (ami-...) nor ssm:PARAMETER"),
            )),
            Self::Search(search) if search.name.is_empty() => {
                Some(fault(["image", "name"], "must not be empty"))
            }
            Self::Search(search) if search.owners.is_empty() => {
                Some(fault(["image", "owners"], "must not be empty: anybody can give an image any name"))
            }
            Self::Search(_) => None,
        }
    }
}

impl std::fmt::Display for ImageConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Search(search) => f.write_str(&search.name),
        }
    }
}

fn first(values: Option<&OneOrMany>) -> Option<&str> {
    values.and_then(|values| values.values().first()).map(String::as_str)
}

/// Expands the types and, for each, the subnets of a placement's settings, in order.
pub(super) fn placements(settings: &Value) -> Result<Vec<PlacementSettings>, Vec<SettingsFault>> {
    let config = PlacementConfig::read(settings)?;
    let mut expanded = Vec::new();
    for kind in choices(config.instance_types.as_ref()) {
        for subnet in choices(config.subnets.as_ref()) {
            let mut one = settings.clone();
            for (key, value) in [("instance_types", kind), ("subnets", subnet)] {
                if let Some(value) = value {
                    one[key] = json!(value);
                }
            }
            expanded.push(PlacementSettings { description: describe(&config, kind, subnet), settings: one });
        }
    }
    Ok(expanded)
}

fn choices(values: Option<&OneOrMany>) -> Vec<Option<&str>> {
    values.map_or_else(|| vec![None], |values| values.values().iter().map(|one| Some(one.as_str())).collect())
}

fn describe(config: &PlacementConfig, kind: Option<&str>, subnet: Option<&str>) -> String {
    let template =
        config.launch_template.as_ref().and_then(|template| template.name.as_ref().or(template.id.as_ref()));
    let base = kind.or(template.map(String::as_str)).unwrap_or("instance");
    let market = if config.spot { " spot" } else { "" };
    let image = config.image.as_ref().map(|image| format!(", {image}")).unwrap_or_default();
    let place = subnet.map(|subnet| format!(" in {subnet}")).unwrap_or_default();
    format!("{base}{market}{image}{place}")
}
