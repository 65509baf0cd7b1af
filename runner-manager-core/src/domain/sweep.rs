//! What sweeps found and left as it is, and what an operator said to that.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{InstanceId, RunnerName, Source};

/// One thing that a sweep would do something about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The record of a runner whose instance is missing: it is to be ended once that was seen twice.
    Missing(RunnerName),
    /// An instance with neither a record nor a registration: it is to be removed after a second look.
    Orphan(RunnerName, InstanceId),
    /// A second instance of a runner: it is to be deleted.
    Double(RunnerName, InstanceId),
    /// A registration without a record: it is to be removed if a second look finds no instance either.
    Registration(RunnerName),
    /// An instance without a record that is registered: it is to be given one.
    Adoption(RunnerName, InstanceId),
    /// A runner that is to go for what the listing says of it: stopped, failed, or gone at GitHub.
    Leaving(RunnerName),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(runner) => write!(f, "end {runner}, whose instance is missing"),
            Self::Orphan(runner, id) => write!(f, "remove instance {id} of {runner}, which has no record"),
            Self::Double(runner, id) => write!(f, "delete the second instance {id} of {runner}"),
            Self::Registration(runner) => write!(f, "forget the registration {runner}, which has no record"),
            Self::Adoption(runner, id) => {
                write!(f, "adopt instance {id} of {runner}, which has no record but is registered")
            }
            Self::Leaving(runner) => write!(f, "let {runner} go"),
        }
    }
}

/// Why a sweep left things as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithheldBecause {
    /// It would have condemned too much of what it looked at: it stopped, and an operator is asked.
    TooMuch,
    /// Sweeps only say what they would do.
    DryRun,
}

/// What the last sweep of something found and left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// What was listed.
    pub source: Source,
    /// Why nothing was done.
    pub because: WithheldBecause,
    /// Since when sweeps of it leave something for that reason, by the store's time.
    pub since: Timestamp,
    /// How many things it found.
    pub count: usize,
    /// How many it looked at.
    pub looked_at: usize,
    /// The things it found, at most [`Withheld::MOST_NAMED`] of them.
    pub findings: BTreeSet<Finding>,
}

impl Withheld {
    /// How many findings are kept by name. What is beyond is found again by the next sweep.
    pub const MOST_NAMED: usize = 1_000;

    /// What tells these findings from any others of the same source: eight characters, for people to repeat.
    pub fn mark(&self) -> String {
        let text = serde_json::to_vec(&(&self.source, self.count, &self.findings));
        let text = text.expect("findings are plain data, which always serializes");
        hex::encode(&Sha256::digest(&text)[..4])
    }
}

/// An operator said that what a sweep stopped at may be dealt with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoOn {
    /// What was listed.
    pub source: Source,
    /// Who said so: the name of a token.
    pub by: String,
    /// When, by the store's time.
    pub at: Timestamp,
    /// How many findings were named.
    pub count: usize,
    /// Those of them that the sweeps since then have all found again. One that is found no more is dealt with,
    /// and condemned anew only by another word of an operator.
    pub left: BTreeSet<Finding>,
}
