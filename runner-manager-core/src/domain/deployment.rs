//! What the replicas of a deployment agree on: which groups are configured, who runs, and whether the store's
//! word may be relied on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{BackendName, Digest, GoOn, Incarnation, ReplicaId, RunnerGroup, Scope, Withheld};

/// The record that all replicas of a deployment share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Which groups are configured, by the digest of what was applied last. None before anything was.
    pub configuration: Option<Digest>,
    /// How often a configuration was applied.
    pub revision: u64,
    /// The configurations that were applied before, the last first, at most [`Deployment::MOST_SUPERSEDED`].
    pub superseded: Vec<Digest>,
    /// The replicas that were heard of.
    pub replicas: BTreeMap<ReplicaId, Replica>,
    /// Set while the store may have lost something that it had acknowledged.
    pub doubt: Option<Doubt>,
    /// What the last sweeps found and left as it is, at most one entry for a source.
    #[serde(default)]
    pub withheld: Vec<Withheld>,
    /// The words of operators by which sweeps went on, the last first, at most [`Deployment::MOST_GO_ONS`].
    #[serde(default)]
    pub go_ons: Vec<GoOn>,
}

impl Deployment {
    /// How many earlier configurations are remembered.
    pub const MOST_SUPERSEDED: usize = 20;
    /// How many words of operators are remembered.
    pub const MOST_GO_ONS: usize = 20;

    /// A deployment of which nothing is known.
    pub const fn new() -> Self {
        Self {
            configuration: None,
            revision: 0,
            superseded: Vec::new(),
            replicas: BTreeMap::new(),
            doubt: None,
            withheld: Vec::new(),
            go_ons: Vec::new(),
        }
    }

    /// The fingerprint of a configuration of groups, in their order.
    pub fn fingerprint(groups: &[RunnerGroup]) -> Digest {
        // The maps of a group are sorted, so equal groups give equal text.
        let text = serde_json::to_vec(groups).expect("a group is plain data, which always serializes");
        Digest::new(hex::encode(Sha256::digest(&text)))
    }
}

impl Default for Deployment {
    fn default() -> Self {
        Self::new()
    }
}

/// One running manager process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The digest of its own configuration: another one than the deployment's is *drift*.
    pub configuration: Digest,
    /// When it last said that it runs, by the store's time.
    pub seen_at: Timestamp,
    /// The backends that it can reach.
    #[serde(default)]
    pub backends: BTreeSet<BackendName>,
}

/// The store was started anew, emptied, or taken over by a copy: what it last acknowledged may be lost.
///
/// Until everything outside has been listed, nothing is created or removed on its word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// The store's life that is doubted.
    pub incarnation: Incarnation,
    /// When the doubt began, by the store's time. A listing counts if it was begun long enough after that:
    /// what was created on the lost word has appeared by then.
    pub since: Timestamp,
    /// What was listed completely since, and taken in.
    pub taken_in: BTreeSet<Source>,
}

/// Something outside that is listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The instances of a backend.
    Instances(BackendName),
    /// The runners that are registered in a scope.
    Runners(Scope),
}

/// Why a text names nothing that is listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither the name of a backend nor a scope such as organization:acme")]
pub struct SourceError(String);

impl Source {
    /// What people call it: the backend's name, or the scope.
    pub fn word(&self) -> String {
        match self {
            Self::Instances(backend) => backend.to_string(),
            Self::Runners(scope) => scope.to_string(),
        }
    }
}

impl FromStr for Source {
    type Err = SourceError;

    /// Reads what [`word`](Self::word) gives.
    fn from_str(text: &str) -> Result<Self, SourceError> {
        // No name of a backend has a colon, and every scope has one.
        let source = if text.contains(':') {
            Scope::try_from(text.to_owned()).ok().map(Self::Runners)
        } else {
            BackendName::new(text).ok().map(Self::Instances)
        };
        source.ok_or_else(|| SourceError(text.to_owned()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instances(backend) => write!(f, "instances of backend {backend}"),
            Self::Runners(scope) => write!(f, "runners of {scope}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Source;

    #[test]
    fn words_name_what_is_listed() {
        for word in ["eu", "organization:acme", "repository:acme/app", "enterprise:acme-inc"] {
            assert_eq!(word.parse::<Source>().unwrap().word(), word);
        }
        for wrong in ["", "organization:", "nowhere:acme", "Eu", "a b"] {
            assert!(wrong.parse::<Source>().is_err(), "{wrong:?} was taken");
        }
    }
}
