//! Which placement is tried next: back-off after a failure, and a breaker after several.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{Failure, InstanceFailure, Placement, RunnerName, later};
use crate::retry::Backoff;
use crate::store::GroupRecord;

/// How many failures in a row open a placement's breaker.
pub const BREAKER_THRESHOLD: u32 = 3;

/// The pauses of a placement that failed.
pub const PLACEMENT_BACKOFF: Backoff =
    Backoff { base: Duration::from_secs(10), ceiling: Duration::from_mins(10) };

/// How long a probe may be under way before another may be sent.
const PROBE_PATIENCE: Duration = Duration::from_mins(15);

/// How a placement that failed fares. One that works has no health on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementHealth {
    /// Failures in a row.
    pub failures: u32,
    /// What kind the last one was.
    pub kind: InstanceFailure,
    /// The last one.
    pub last: Failure,
    /// Not tried before this time.
    pub retry_at: Timestamp,
    /// The one runner that tries whether an open breaker can close, and since when.
    pub probe: Option<(RunnerName, Timestamp)>,
}

/// Whether a placement can be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Open,
    /// One runner may try it.
    Probe,
    /// Not before this time.
    SetBack {
        /// The time.
        until: Timestamp,
    },
    /// Its one runner is under way.
    Probing {
        /// When another may be sent even if that one tells nothing.
        until: Timestamp,
    },
}

impl PlacementHealth {
    /// Whether the breaker is open: several failures in a row, so that only one runner at a time tries.
    pub const fn is_open(&self) -> bool {
        self.failures >= BREAKER_THRESHOLD
    }

    /// Whether the placement can be tried.
    pub fn availability(&self, now: Timestamp) -> Availability {
        if now < self.retry_at {
            return Availability::SetBack { until: self.retry_at };
        }
        match &self.probe {
            Some((_, since)) if later(*since, PROBE_PATIENCE) > now => {
                Availability::Probing { until: later(*since, PROBE_PATIENCE) }
            }
            Some(_) | None => Availability::Probe,
        }
    }
}

/// Which placement of a group is tried next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice<'a> {
    /// This one, by as many runners as are wanted.
    Use(&'a Placement),
    /// This one, by one runner, to see whether it works again.
    Probe(&'a Placement),
    /// None before this time: the group is blocked.
    Blocked {
        /// The time.
        until: Timestamp,
    },
}

/// The first placement of the group that is not set back.
///
/// One that failed is tried again by one runner once its pause is over; while that one is under way, the
/// placements after it are used.
pub fn choose(group: &GroupRecord, now: Timestamp) -> Choice<'_> {
    let mut earliest: Option<Timestamp> = None;
    for placement in &group.spec.placements {
        let availability = group
            .placements
            .get(&placement.key)
            .map_or(Availability::Open, |health| health.availability(now));
        match availability {
            Availability::Open => return Choice::Use(placement),
            Availability::Probe => return Choice::Probe(placement),
            Availability::SetBack { until } | Availability::Probing { until } => {
                earliest = Some(earliest.map_or(until, |other| other.min(until)));
            }
        }
    }
    Choice::Blocked { until: earliest.unwrap_or(Timestamp::MAX) }
}

/// The health of a placement after another failure. `entropy` spreads the retries of those who failed
/// together.
pub fn after_failure(
    before: Option<&PlacementHealth>,
    kind: InstanceFailure,
    detail: &str,
    now: Timestamp,
    entropy: u64,
) -> PlacementHealth {
    // Runners that were under way together fail together: while the pause runs, that is one failure.
    let failures = match before {
        Some(health) if now < health.retry_at => health.failures,
        Some(health) => health.failures.saturating_add(1),
        None => 1,
    };
    let retry_at = match before {
        Some(health) if now < health.retry_at => health.retry_at,
        Some(_) | None => later(now, PLACEMENT_BACKOFF.pause(failures, entropy)),
    };
    PlacementHealth {
        failures,
        kind,
        last: Failure { detail: detail.to_owned(), at: now },
        retry_at,
        probe: None,
    }
}
