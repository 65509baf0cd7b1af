//! What is known of GitHub's hooks that lead here, and of the deliveries that failed.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ConnectionName, DeliveryId, Scope};

/// Whose hook is meant. One place has at most one hook that leads here.
///
/// As text: `organization:acme`, `repository:acme/app`, `app:github/0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPlace {
    /// An organization or a repository.
    Scope(Scope),
    /// The App that an account works as: it has one hook for all that it is installed on.
    App {
        /// The connection of the account.
        connection: ConnectionName,
        /// Which of the connection's accounts, from 0.
        account: usize,
    },
}

impl HookPlace {
    /// The text by which a place is known: the same for all ways to write it.
    pub fn key(&self) -> String {
        self.to_string().to_ascii_lowercase()
    }
}

impl fmt::Display for HookPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope(scope) => scope.fmt(f),
            Self::App { connection, account } => write!(f, "app:{connection}/{account}"),
        }
    }
}

/// What is known of the hook of a place, and of the log of its deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRecord {
    /// Whose hook it is.
    pub place: HookPlace,
    /// What was last found; none before anybody looked.
    pub found: Option<FoundHook>,
    /// The address that it was last looked for by.
    pub url: Option<String>,
    /// When the hook was last looked for, by the store's time.
    pub sought_at: Option<Timestamp>,
    /// When its log was last read, by the store's time.
    pub read_at: Option<Timestamp>,
    /// Up to which entry the log was read, by GitHub's time.
    pub read_to: Option<Timestamp>,
    /// Deliveries that failed and are to be asked for again, or were a short time ago.
    pub failed: BTreeMap<DeliveryId, FailedDelivery>,
    /// When a webhook was last given up that did not get through, by the store's time, or until when the log was not
    /// read: only a listing of jobs tells now what was told until then.
    pub given_up_at: Option<Timestamp>,
    /// Why the hook or its log cannot be read, in words; none where it can.
    pub trouble: Option<String>,
}

impl HookRecord {
    /// A place of which nothing is known.
    pub const fn new(place: HookPlace) -> Self {
        Self {
            place,
            found: None,
            url: None,
            sought_at: None,
            read_at: None,
            read_to: None,
            failed: BTreeMap::new(),
            given_up_at: None,
            trouble: None,
        }
    }
}

/// What was found where a hook was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundHook {
    /// None that leads here.
    Absent,
    /// One that leads here, by GitHub's number.
    Numbered(u64),
    /// The App's, which leads here.
    OfTheApp,
}

/// A delivery that failed, by GitHub's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedDelivery {
    /// GitHub's number of the attempt that failed.
    pub attempt: u64,
    /// When it failed, by GitHub's time.
    pub failed_at: Timestamp,
    /// What was done about it.
    pub redelivery: Redelivery,
}

/// What was done about a delivery that failed. It is written down before GitHub is asked, so that nobody asks twice
/// who does not have to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redelivery {
    /// Nothing yet.
    Due,
    /// GitHub is being asked, or was, and the answer is not known.
    Asking {
        /// Since when, by the store's time.
        since: Timestamp,
        /// Whether it had been asked before, too, without an answer that is known.
        again: bool,
    },
    /// GitHub was asked and took it on.
    Asked {
        /// When, by the store's time.
        at: Timestamp,
    },
    /// It is over: the outcome is known, or nothing more can be done.
    Over,
}

#[cfg(test)]
mod tests {
    use super::HookPlace;
    use crate::domain::{ConnectionName, Scope};

    #[test]
    fn a_place_is_the_same_however_it_is_written() {
        let place = |repository: &str| HookPlace::Scope(Scope::Repository(repository.parse().unwrap()));
        assert_eq!(place("Acme/App").key(), "repository:acme/app");
        assert_eq!(place("Acme/App").key(), place("acme/app").key());
        let app = HookPlace::App { connection: ConnectionName::default(), account: 1 };
        assert_eq!(app.key(), "app:default/1");
    }
}
