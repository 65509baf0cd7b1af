//! Redeliveries of webhooks: GitHub is asked for each that failed once, and once more where nobody could know that it
//! had been asked.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use runner_manager_core::domain::{HookPlace, HookRecord, Redelivery};
use runner_manager_core::policy::redelivery::FIRST_LOOK;

/// What was asked of GitHub, by its own books, and what of that was written down. Deliveries are known by the id of
/// their event.
#[derive(Debug, Default)]
pub(crate) struct Redeliveries {
    asked: BTreeMap<String, u32>,
    /// Those that somebody wrote down to ask for.
    intended: BTreeSet<String>,
    /// Those of which the record says that they need no more.
    settled: BTreeSet<String>,
    /// Those of which twice nobody knew whether GitHub was asked.
    unclear: BTreeSet<String>,
    /// From when on each hook's log was read.
    read_since: BTreeMap<HookPlace, Timestamp>,
    store_was_lost: bool,
}

/// A redelivery that is allowed, and counted by itself.
type Admitted = Option<&'static str>;

impl Redeliveries {
    /// A hook's record was written.
    pub(crate) fn wrote(&mut self, record: &HookRecord) {
        if let Some(at) = record.read_at {
            self.read_since.entry(record.place.clone()).or_insert(at - FIRST_LOOK);
        }
        for (delivery, failed) in &record.failed {
            if failed.redelivery != Redelivery::Due {
                self.intended.insert(delivery.to_string());
            }
            match failed.redelivery {
                Redelivery::Asked { .. } | Redelivery::Over => {
                    self.settled.insert(delivery.to_string());
                }
                Redelivery::Asking { again: true, .. } => {
                    self.unclear.insert(delivery.to_string());
                }
                Redelivery::Due | Redelivery::Asking { again: false, .. } => {}
            }
        }
    }

    /// GitHub took a redelivery on, from somebody who holds the hook's task, or does no more.
    pub(crate) fn asked(&mut self, delivery: &str, holds: bool) -> Result<Admitted, String> {
        if !self.intended.contains(delivery) {
            let lost =
                Some("a redelivery that was under way when the store lost that it was to be asked for");
            let why = || format!("delivery {delivery} was asked for before that was written down");
            return if self.store_was_lost { Ok(lost) } else { Err(why()) };
        }
        let asked = self.asked.entry(delivery.to_owned()).or_default();
        *asked += 1;
        match *asked {
            1 => Ok(None),
            2 if !holds => Ok(Some("a redelivery that was asked for late, by a process that lost its hold")),
            2 if self.settled.contains(delivery) => {
                Err(format!("delivery {delivery} was asked for again although that was on record"))
            }
            2 if self.unclear.contains(delivery) => {
                Ok(Some("a redelivery that was asked for once more, since nobody knew"))
            }
            2 => Err(format!("delivery {delivery} was asked for again although nothing was unclear")),
            times => Err(format!("delivery {delivery} was asked for {times} times")),
        }
    }

    /// The store lost something: what was asked for may be part of it.
    pub(crate) fn store_was_lost(&mut self) {
        self.asked.clear();
        self.settled.clear();
        self.intended.clear();
        self.store_was_lost = true;
    }

    /// From when on somebody read the logs of all hooks: what failed before is left to the listing of jobs.
    pub(crate) fn read_since(&self) -> Timestamp {
        self.read_since.values().max().copied().unwrap_or(Timestamp::MIN)
    }

    /// Those of some that nobody asked for, and that somebody should have.
    pub(crate) fn forgotten<'d>(&self, neglected: impl Iterator<Item = &'d str>) -> Vec<&'d str> {
        neglected.filter(|delivery| !self.store_was_lost && !self.unclear.contains(*delivery)).collect()
    }
}
