//! What a runner's machine said, and what it is still good for.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{OperationId, bounded};

/// What is known of a runner's machine by its own word. Empty in direct mode, where machines say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// How its last call for a JIT config fares; none before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mint: Option<Mint>,
    /// When it first said that its listener waits for jobs, by the store's time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listening_at: Option<Timestamp>,
    /// When it said that it ends, by the store's time: no listener and no job run on it from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// What it said and was given, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Told>,
}

/// A JIT config that is minted for a machine, or was. The config itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mint {
    /// Which start of the machine asked.
    pub boot: Boot,
    /// The call to GitHub, which is nobody else's.
    pub by: OperationId,
    /// Until when that may be under way.
    pub until: Timestamp,
    /// How many GitHub has given for this runner.
    pub made: u32,
}

/// One start of a machine's script: a digest of the random word that it made up, which is none of the store's business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Boot(String);

impl Boot {
    /// The start that has this word.
    pub fn of(word: &str) -> Self {
        Self(hex::encode(&Sha256::digest(word.as_bytes())[..8]))
    }
}

/// Something that a machine said, or was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When, by the store's time.
    pub at: Timestamp,
    /// What, in words.
    pub what: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.0}: {}", self.at, self.what)
    }
}

impl Told {
    /// How many bytes are kept of what was said at one time.
    pub const LONGEST: usize = 300;
}

impl Machine {
    /// How many entries are kept.
    pub const MOST_TOLD: usize = 32;

    /// How many of the first entries stay when there are more.
    const FIRST_TOLD: usize = 8;

    /// How many entries an equal one is looked for in: what is said again is not told again.
    const LOOKED_BACK: usize = 4;

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it can be asked to leave: it says heartbeats.
    pub const fn can_be_asked(&self) -> bool {
        self.listening_at.is_some() && self.ended_at.is_none()
    }

    /// Adds what was said, as much of it as is kept, unless it was just said.
    pub fn note(&mut self, what: &str, at: Timestamp) {
        let clean: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let what = bounded(clean.trim(), Told::LONGEST);
        if self.timeline.iter().rev().take(Self::LOOKED_BACK).any(|told| told.what == what) {
            return;
        }
        if self.timeline.len() >= Self::MOST_TOLD {
            self.timeline.remove(Self::FIRST_TOLD);
        }
        self.timeline.push(Told { at, what });
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Boot, Machine, Told};

    #[test]
    fn a_timeline_is_bounded_and_keeps_how_it_began() {
        let mut machine = Machine::default();
        for number in 0..100 {
            machine.note(&format!("step {number} \u{1b}[31m\n{}", "ä".repeat(1_000)), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(machine.timeline.len(), Machine::MOST_TOLD);
        assert!(machine.timeline.iter().all(|told| told.what.len() <= Told::LONGEST));
        assert!(machine.timeline.iter().all(|told| !told.what.contains(char::is_control)));
        assert!(machine.timeline[0].what.starts_with("step 0 "));
        assert!(machine.timeline[Machine::FIRST_TOLD].what.starts_with("step 76 "));
        assert!(machine.timeline[Machine::MOST_TOLD - 1].what.starts_with("step 99 "));
    }

    #[test]
    fn what_is_said_again_is_not_told_again() {
        let mut machine = Machine::default();
        machine.note("began", Timestamp::UNIX_EPOCH);
        let once = machine.clone();
        machine.note("began", Timestamp::MAX);
        assert_eq!(machine, once);
    }

    #[test]
    fn the_word_of_a_start_is_not_kept() {
        assert_ne!(Boot::of("a"), Boot::of("b"));
        assert!(!serde_json::to_string(&Boot::of("a-random-word")).unwrap().contains("random"));
    }
}
