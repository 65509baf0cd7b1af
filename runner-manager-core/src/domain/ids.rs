//! Identifiers that others give: GitHub's numbers, the clouds' instance ids, and the marks by which a
//! repeated write is known.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// GitHub's number of a workflow job. A re-run makes jobs with new numbers.
    JobId
}

number! {
    /// GitHub's number of a workflow run.
    RunId
}

number! {
    /// GitHub's number of a registered runner.
    GitHubRunnerId
}

number! {
    /// GitHub's number of a runner group; 1 is `Default`, and the only one of a repository.
    GitHubGroupId
}

impl GitHubGroupId {
    /// The group `Default`, which every scope has.
    pub const DEFAULT: Self = Self(1);
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text! {
    /// How a backend finds an instance again: opaque to all but the backend, which writes into it whatever
    /// it needs (zone, region). It is never used for another instance later.
    InstanceId
}

text! {
    /// GitHub's name of one delivery of a webhook (`X-GitHub-Delivery`). A redelivery bears the same one.
    DeliveryId
}

text! {
    /// The name of one write to the store, so that the store knows a repeat of it.
    OperationId
}

text! {
    /// One running manager process. A restart has another one.
    ReplicaId
}

text! {
    /// A fingerprint of a configuration of groups: equal for equal groups, whatever file they came from.
    Digest
}

text! {
    /// One life of a store: another one after a restart, a failover or a loss of all data.
    Incarnation
}

impl From<&DeliveryId> for OperationId {
    fn from(delivery: &DeliveryId) -> Self {
        Self(format!("delivery:{delivery}"))
    }
}
