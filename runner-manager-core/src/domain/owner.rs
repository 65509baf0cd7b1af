//! The owner mark: how a deployment knows its own things in a cloud that others share.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{DeploymentName, GroupName, RunnerName, Secret};

/// The first 64 bits of a hash of a deployment's `secret_key`, in hexadecimal: tells two deployments of one
/// name apart without telling the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of a key.
    pub fn of(secret_key: &Secret) -> Self {
        let digest = Sha256::new()
            .chain_update(b"runner-manager owner fingerprint\0")
            .chain_update(secret_key.expose().as_bytes())
            .finalize();
        Self(hex::encode(&digest[..8]))
    }

    /// The fingerprint as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who made a thing: a deployment, known by its name and the fingerprint of its key.
///
/// It stands as tags on every instance ([`Owner::tags`]) and, by the runner name's beginning and a reserved
/// label ([`Owner::label`]), on every registration at GitHub. What does not bear it is never touched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The deployment's name.
    pub deployment: DeploymentName,
    /// The fingerprint of its key.
    pub fingerprint: Fingerprint,
}

/// What the owner's tags on an instance say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerTags {
    /// Whose the instance is.
    pub owner: Owner,
    /// The runner that it was made for.
    pub runner: RunnerName,
    /// The group of that runner.
    pub group: GroupName,
}

impl Owner {
    /// The tag that bears the deployment's name.
    pub const DEPLOYMENT_TAG: &'static str = "runner-manager-deployment";
    /// The tag that bears the fingerprint.
    pub const FINGERPRINT_TAG: &'static str = "runner-manager-owner";
    /// The tag that bears the runner's name.
    pub const RUNNER_TAG: &'static str = "runner-manager-runner";
    /// The tag that bears the group's name.
    pub const GROUP_TAG: &'static str = "runner-manager-group";

    /// The owner of all that a deployment makes.
    pub fn new(deployment: DeploymentName, secret_key: &Secret) -> Self {
        Self { deployment, fingerprint: Fingerprint::of(secret_key) }
    }

    /// The label that every registration of this owner bears beside its group's labels.
    pub fn label(&self) -> String {
        format!("runner-manager-{}", self.fingerprint.as_str())
    }

    /// The tags that an instance bears from its first moment.
    pub fn tags(&self, runner: &RunnerName, group: &GroupName) -> BTreeMap<String, String> {
        [
            (Self::DEPLOYMENT_TAG, self.deployment.as_str()),
            (Self::FINGERPRINT_TAG, self.fingerprint.as_str()),
            (Self::RUNNER_TAG, runner.as_str()),
            (Self::GROUP_TAG, group.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Reads the tags of an instance back; `None` where they are not those of a Runner Manager.
    pub fn read_tags<'a>(tag: impl Fn(&str) -> Option<&'a str>) -> Option<OwnerTags> {
        Some(OwnerTags {
            owner: Self {
                deployment: DeploymentName::new(tag(Self::DEPLOYMENT_TAG)?).ok()?,
                fingerprint: Fingerprint(tag(Self::FINGERPRINT_TAG)?.to_owned()),
            },
            runner: RunnerName::new(tag(Self::RUNNER_TAG)?).ok()?,
            group: GroupName::new(tag(Self::GROUP_TAG)?).ok()?,
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.deployment, self.fingerprint.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Owner;
    use crate::domain::{DeploymentName, GroupName, RunnerName, Secret};

    #[test]
    fn tags_read_back() {
        let owner = Owner::new(DeploymentName::new("acme").unwrap(), &Secret::new("key"));
        let (runner, group) = (RunnerName::new("acme-x-1").unwrap(), GroupName::new("x").unwrap());
        let tags = owner.tags(&runner, &group);
        let read = Owner::read_tags(|key| tags.get(key).map(String::as_str)).unwrap();
        assert_eq!((read.owner, read.runner, read.group), (owner, runner, group));
        assert!(Owner::read_tags(|_| None).is_none());
    }

    #[test]
    fn another_key_is_another_owner() {
        let name = DeploymentName::new("acme").unwrap();
        assert_ne!(Owner::new(name.clone(), &Secret::new("a")), Owner::new(name, &Secret::new("b")));
    }
}
