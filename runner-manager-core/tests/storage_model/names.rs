//! What a storage calls what the reference has names for.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use runner_manager_core::budget::Permit;
use runner_manager_core::domain::Incarnation;
use runner_manager_core::queue::ClaimToken;
use runner_manager_core::store::{Change, Expected, Version, Versioned, Write};

use crate::operations::Times;

/// A difference between a storage and the reference.
pub(crate) type Difference = String;

/// Says where both differ, if they do.
pub(crate) fn same<T: PartialEq + Debug>(what: &str, expected: &T, found: &T) -> Result<(), Difference> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what}\n  should be {expected:?}\n  but is    {found:?}"))
}

/// The storage's numbers by the reference's.
#[derive(Debug)]
pub(crate) struct Names {
    times: Times,
    versions: BTreeMap<Version, Version>,
    /// The greatest version of each record.
    greatest: BTreeMap<String, Version>,
    claims: BTreeMap<ClaimToken, ClaimToken>,
    greatest_claim: u64,
    pub(crate) permits: BTreeMap<u64, Permit>,
    pub(crate) lives: Vec<Incarnation>,
}

impl Names {
    pub(crate) fn new(times: Times, life: Incarnation) -> Self {
        Self {
            times,
            versions: BTreeMap::new(),
            greatest: BTreeMap::new(),
            claims: BTreeMap::new(),
            greatest_claim: 0,
            permits: BTreeMap::new(),
            lives: vec![life],
        }
    }

    /// The storage's version for one of the reference's. One that was never given is what it is.
    pub(crate) fn version(&self, name: Version) -> Version {
        self.versions.get(&name).copied().unwrap_or(name)
    }

    pub(crate) fn token(&self, name: &ClaimToken) -> ClaimToken {
        self.claims.get(name).unwrap_or(name).clone()
    }

    pub(crate) fn versioned<T>(&self, (value, version): (T, Version)) -> Versioned<T> {
        Versioned { value, version: self.version(version) }
    }

    /// A time that the storage told, as the reference has it where it may be that.
    pub(crate) fn time(&self, expected: Timestamp, found: Timestamp) -> Timestamp {
        const NEAR: i64 = 300;
        let is_near = found.duration_since(expected).abs().as_secs() < NEAR;
        if self.times == Times::ClearCut && is_near { expected } else { found }
    }

    /// Takes the version that a write was answered for a record.
    pub(crate) fn learn(&mut self, record: &str, name: Version, found: Version) -> Result<(), Difference> {
        if let Some(known) = self.versions.get(&name) {
            return same(&format!("the version of {record} in the first answer"), known, &found);
        }
        let greatest = self.greatest.insert(record.to_owned(), found);
        if greatest.is_some_and(|greatest| greatest >= found) {
            return Err(format!("{record} has version {found:?} after {greatest:?}"));
        }
        self.versions.insert(name, found);
        Ok(())
    }

    /// Takes the tokens of one call's claims.
    pub(crate) fn learn_claims(
        &mut self,
        claims: impl Iterator<Item = (ClaimToken, ClaimToken)>,
    ) -> Result<(), Difference> {
        let mut numbers = Vec::new();
        for (name, found) in claims {
            numbers.push(found.number);
            self.claims.insert(name, found);
        }
        numbers.sort_unstable();
        for number in numbers {
            if number <= self.greatest_claim {
                return Err(format!("claim number {number} was given after {}", self.greatest_claim));
            }
            self.greatest_claim = number;
        }
        Ok(())
    }

    /// A write of the reference as the storage is to be asked for it.
    pub(crate) fn write(&self, write: &Write) -> Write {
        let mut write = write.clone();
        write.claim = write.claim.map(|token| self.token(&token));
        for change in &mut write.changes {
            match change {
                Change::PutGroup { expected, .. }
                | Change::PutJob { expected, .. }
                | Change::PutHook { expected, .. }
                | Change::PutDeployment { expected, .. } => {
                    if let Expected::Version(version) = expected {
                        *version = self.version(*version);
                    }
                }
                Change::RemoveGroup { expected, .. }
                | Change::RemoveHook { expected, .. }
                | Change::PutRunner { expected, .. }
                | Change::EndRunner { expected, .. } => *expected = self.version(*expected),
                Change::Trust { incarnation } => {
                    let life = incarnation.as_str().strip_prefix("life-").and_then(|life| life.parse().ok());
                    let known = life.and_then(|life: usize| self.lives.get(life));
                    *incarnation = known.unwrap_or(incarnation).clone();
                }
                Change::ReserveRunner { .. } | Change::AdoptRunner { .. } => {}
            }
        }
        write
    }
}
