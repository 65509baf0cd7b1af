//! The names that we give: of the deployment, of groups, of backends and of runners.
//!
//! They end up in GitHub's runner list, in host names and in the tags of five clouds, so one narrow
//! alphabet serves all of them: lower-case letters, digits and `-`, a letter first, no `-` last.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a {what} cannot be empty")]
    Empty {
        /// Which kind of name was asked for.
        what: &'static str,
    },
    /// The text is longer than the kind of name may be.
    #[error("{what} `{name}` has {length} characters, at most {max} are allowed")]
    TooLong {
        /// Which kind of name was asked for.
        what: &'static str,
        /// The text.
        name: String,
        /// Its length in characters.
        length: usize,
        /// The longest that is allowed.
        max: usize,
    },
    /// The text has a character outside the alphabet, or at a place where it must not stand.
    #[error(
        "{what} `{name}` may only have lower-case letters, digits and `-`, begin with a letter and not end with `-`"
    )]
    Alphabet {
        /// Which kind of name was asked for.
        what: &'static str,
        /// The text.
        name: String,
    },
}

fn check(what: &'static str, max: usize, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    let length = name.chars().count();
    if length > max {
        return Err(NameError::TooLong { what, name: name.to_owned(), length, max });
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if begins && !name.ends_with('-') && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(NameError::Alphabet { what, name: name.to_owned() })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The longest that such a name may be, in characters.
            pub const MAX_LENGTH: usize = $max;

            /// Checks a text and takes it as a name.
            ///
            /// # Errors
            /// [`NameError`] when the text is empty, too long, or has a character outside the alphabet.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check($what, $max, &name)?;
                Ok(Self(name))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name! {
    /// The `name` of a deployment: half of the owner mark on all that it makes, and the beginning of its
    /// runners' names.
    DeploymentName, "deployment name", 24
}

name! {
    /// The name of a runner group.
    GroupName, "group name", 32
}

name! {
    /// The name that the configuration gives to a backend, such as `eu`.
    BackendName, "backend name", 32
}

name! {
    /// The name that the configuration gives to a connection to GitHub. Default `default`.
    ConnectionName, "connection name", 32
}

impl Default for ConnectionName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl ConnectionName {
    /// What people are told of GitHub by this connection: its name, unless it is the default one.
    pub fn of_github(&self) -> String {
        if *self == Self::default() { "GitHub".to_owned() } else { format!("GitHub (connection {self})") }
    }
}

name! {
    /// The name of a runner: `<deployment>-<group>-<suffix>`, never used twice.
    ///
    /// It is the runner's name at GitHub and its instance's name at the backend, which is why it may have
    /// at most 63 characters (a DNS label).
    RunnerName, "runner name", 63
}

impl RunnerName {
    /// How many characters the suffix has.
    pub const SUFFIX_LENGTH: usize = 13;

    /// The name of a new runner of a group. `entropy` makes it unique: 64 random bits, written as thirteen
    /// characters of `a-z2-7`.
    ///
    /// # Errors
    /// [`NameError::TooLong`] when deployment and group together leave no room for the suffix. The
    /// configuration is refused for it, so that it does not happen later.
    pub fn compose(deployment: &DeploymentName, group: &GroupName, entropy: u64) -> Result<Self, NameError> {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let suffix: String = (0..Self::SUFFIX_LENGTH)
            .map(|at| char::from(ALPHABET[((entropy >> (5 * at)) & 31) as usize]))
            .collect();
        Self::new(format!("{deployment}-{group}-{suffix}"))
    }

    /// Whether a runner's name, as GitHub or a backend tells it, begins as those of this deployment do.
    pub fn is_of(name: &str, deployment: &DeploymentName) -> bool {
        name.strip_prefix(deployment.as_str()).is_some_and(|rest| rest.starts_with('-'))
            && Self::new(name).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{DeploymentName, GroupName, NameError, RunnerName};

    #[test]
    fn refuses_what_some_cloud_would_refuse() {
        for bad in ["", "A", "1a", "-a", "a-", "a_b", "a b", "ä", "a.b"] {
            assert!(GroupName::new(bad).is_err(), "{bad:?} was taken");
        }
        assert!(GroupName::new("linux-large2").is_ok());
        assert!(matches!(
            GroupName::new("a".repeat(33)),
            Err(NameError::TooLong { length: 33, max: 32, .. })
        ));
    }

    #[test]
    fn composes_names_that_differ_with_the_entropy() {
        let (deployment, group) = (DeploymentName::new("acme").unwrap(), GroupName::new("linux").unwrap());
        let one = RunnerName::compose(&deployment, &group, 0).unwrap();
        let two = RunnerName::compose(&deployment, &group, u64::MAX).unwrap();
        assert_eq!(one.as_str(), "acme-linux-aaaaaaaaaaaaa");
        assert_ne!(one, two);
        assert!(RunnerName::is_of(two.as_str(), &deployment));
        assert!(!RunnerName::is_of("acmelinux", &deployment));
        assert!(!RunnerName::is_of("other-linux-aaaaaaaaaaaaa", &deployment));
    }

    #[test]
    fn serde_refuses_what_the_constructor_refuses() {
        assert!(serde_json::from_str::<RunnerName>("\"Not OK\"").is_err());
        let name: RunnerName = serde_json::from_str("\"acme-x-1\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"acme-x-1\"");
    }
}
