//! Which placement is tried next: back-off after a failure, and a breaker after several.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lifecycle::{Event, MachineWord};
use crate::domain::{
    Failure, InstanceFailure, Phase, Placement, PlacementKey, RetireReason, Runner, RunnerName, RunnerState,
    later,
};
use crate::retry::Backoff;
use crate::store::GroupRecord;

/// How many failures in a row open a placement's breaker.
pub const BREAKER_THRESHOLD: u32 = 3;

/// The pauses of a placement that failed.
pub const PLACEMENT_BACKOFF: Backoff =
    Backoff { base: Duration::from_secs(10), ceiling: Duration::from_mins(10) };

/// How long a probe may be under way before another may be sent.
const PROBE_PATIENCE: Duration = Duration::from_mins(15);

/// How something that failed fares: a placement, or a group's registering at GitHub. What works has no health
/// on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
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

impl Health {
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
///
/// While registering at GitHub fails, no placement helps: the group is blocked as a whole, and the first
/// placement is probed once that pause is over.
pub fn choose(group: &GroupRecord, now: Timestamp) -> Choice<'_> {
    let registration =
        group.registration.as_ref().map_or(Availability::Open, |health| health.availability(now));
    match registration {
        Availability::Open => first_available(group, now),
        Availability::Probe => match first_available(group, now) {
            Choice::Use(placement) | Choice::Probe(placement) => Choice::Probe(placement),
            Choice::Blocked { until } => Choice::Blocked { until },
        },
        Availability::SetBack { until } | Availability::Probing { until } => Choice::Blocked { until },
    }
}

fn first_available(group: &GroupRecord, now: Timestamp) -> Choice<'_> {
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

/// The record after a probe was sent: no second one is until it tells, or patience ends.
pub fn mark_probe(group: &mut GroupRecord, placement: &PlacementKey, runner: &RunnerName, now: Timestamp) {
    let probe = Some((runner.clone(), now));
    if let Some(health) = group.placements.get_mut(placement).filter(|health| now >= health.retry_at) {
        health.probe.clone_from(&probe);
    }
    if let Some(health) = group.registration.as_mut().filter(|health| now >= health.retry_at) {
        health.probe = probe;
    }
}

/// The health after another failure. `entropy` spreads the retries of those who failed
/// together.
pub fn after_failure(
    before: Option<&Health>,
    kind: InstanceFailure,
    detail: &str,
    now: Timestamp,
    entropy: u64,
) -> Health {
    // Runners that were under way together fail together: while the pause runs, that is one failure.
    if let Some(health) = before.filter(|health| now < health.retry_at) {
        return health.clone();
    }
    let failures = before.map_or(1, |health| health.failures.saturating_add(1));
    Health {
        failures,
        kind,
        last: Failure::new(detail, now),
        retry_at: later(now, PLACEMENT_BACKOFF.pause(failures, entropy)),
        probe: None,
    }
}

/// What a group learns about its placements, and about registering, from what happened to one of its
/// runners; `None` where it learns nothing new.
///
/// `after` is the runner as it goes on, `None` where it ended. `entropy` spreads retries.
pub fn learn(
    group: &GroupRecord,
    before: &Runner,
    event: &Event,
    after: Option<&Runner>,
    now: Timestamp,
    entropy: u64,
) -> Option<GroupRecord> {
    let mut learned = group.clone();
    if group.spec.placement(&before.placement).is_some() {
        let key = &before.placement;
        let health = group.placements.get(key);
        match verdict(before, event, after) {
            // That an instance was accepted says nothing about whether its runner will register.
            Some(Verdict::Accepted)
                if health.is_some_and(|health| health.kind != InstanceFailure::NeverRegistered) =>
            {
                learned.placements.remove(key);
            }
            Some(Verdict::Registered) => {
                learned.placements.remove(key);
            }
            Some(Verdict::Failed(kind, detail)) => {
                let mut failed = after_failure(health, kind, &detail, now, entropy);
                if let Event::CreateFailed { retry_after: Some(pause), .. } = event {
                    failed.retry_at = failed.retry_at.max(later(now, *pause));
                }
                learned.placements.insert(key.clone(), failed);
            }
            Some(Verdict::Accepted) | None => {}
        }
    }
    match event {
        Event::Registered { .. } | Event::Machine(MachineWord::ConfigMade { .. }) => {
            learned.registration = None;
        }
        Event::RegistrationFailed { detail, of_group: true } => {
            let before = group.registration.as_ref();
            learned.registration = Some(after_failure(before, InstanceFailure::Other, detail, now, entropy));
        }
        Event::RegistrationFailed { of_group: false, .. }
        | Event::Started
        | Event::StartedToCallBack
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Instance { .. }
        | Event::Registration { .. }
        | Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::JobCompleted { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::OperatorRetire { .. }
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::Machine(
            MachineWord::Said { .. }
            | MachineWord::Listens
            | MachineWord::ConfigAsked { .. }
            | MachineWord::ConfigLost { .. }
            | MachineWord::Ends { .. },
        )
        | Event::EvidenceLost => {}
    }
    if after.is_none_or(|after| after.phase() == Phase::Retiring) {
        forget_probe(&mut learned, &before.name);
    }
    (learned != *group).then_some(learned)
}

/// Whether a group may learn anything from an event, by the runner alone: where not, [`learn`] learns nothing of any
/// group.
pub fn may_teach(before: &Runner, event: &Event, after: Option<&Runner>) -> bool {
    let is_of_registering = matches!(
        event,
        Event::Registered { .. }
            | Event::RegistrationFailed { of_group: true, .. }
            | Event::Machine(MachineWord::ConfigMade { .. })
    );
    let leaves = after.is_none_or(|after| after.phase() == Phase::Retiring);
    is_of_registering || leaves || verdict(before, event, after).is_some()
}

/// A probe that goes without having told anything makes room for another.
fn forget_probe(group: &mut GroupRecord, runner: &RunnerName) {
    for health in group.placements.values_mut().chain(&mut group.registration) {
        if health.probe.as_ref().is_some_and(|(probe, _)| probe == runner) {
            health.probe = None;
        }
    }
}

/// What an event says about the placement of the runner that it happened to.
enum Verdict {
    /// It takes instances.
    Accepted,
    /// Its instances come up.
    Registered,
    /// It does not, or they do not.
    Failed(InstanceFailure, String),
}

fn verdict(before: &Runner, event: &Event, after: Option<&Runner>) -> Option<Verdict> {
    match event {
        Event::Created { .. } => return Some(Verdict::Accepted),
        Event::CreateFailed { kind, detail, .. } => return Some(Verdict::Failed(*kind, detail.clone())),
        Event::JobCompleted { .. } => return Some(Verdict::Registered),
        Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Instance { .. }
        | Event::Registration { .. }
        | Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::OperatorRetire { .. }
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::Machine(_)
        | Event::EvidenceLost => {}
    }
    if before.online_at.is_some() {
        return None;
    }
    match after.map(|after| (&after.state, after.online_at)) {
        Some((_, Some(_))) => Some(Verdict::Registered),
        Some((RunnerState::Retiring { why, .. }, None)) => never_came_up(before, why),
        None if before.phase() == Phase::Booting => never_came_up(before, &RetireReason::InstanceGone),
        Some(_) | None => None,
    }
}

/// A machine that ended, or ran out of time, before its runner was ever online.
fn never_came_up(before: &Runner, why: &RetireReason) -> Option<Verdict> {
    // A machine that speaks is there, whatever its backend has said yet.
    let speaks = matches!(why, RetireReason::MachineEnded { .. }) && before.phase() == Phase::Creating;
    if before.phase() != Phase::Booting && !speaks {
        return None;
    }
    match why {
        RetireReason::InstanceFailed { kind, detail } => Some(Verdict::Failed(*kind, detail.clone())),
        RetireReason::StartTimeout
        | RetireReason::InstanceStopped
        | RetireReason::InstanceGone
        | RetireReason::MachineEnded { .. } => {
            Some(Verdict::Failed(InstanceFailure::NeverRegistered, why.to_string()))
        }
        RetireReason::JobCompleted { .. }
        | RetireReason::Surplus
        | RetireReason::TooOld
        | RetireReason::JobTimeout { .. }
        | RetireReason::RegistrationFailed { .. }
        | RetireReason::RegistrationGone
        | RetireReason::CreateFailed { .. }
        | RetireReason::NeverCreated
        | RetireReason::Offline
        | RetireReason::Orphan
        | RetireReason::Operator { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Availability, BREAKER_THRESHOLD, Choice, Health, after_failure, choose, learn, mark_probe};
    use crate::domain::{InstanceFailure, RunnerName, later};
    use crate::policy::lifecycle::Event;
    use crate::policy::samples::{at, group_with_placements, runner};
    use crate::store::GroupRecord;

    fn fail(before: Option<&Health>, now: Timestamp) -> Health {
        after_failure(before, InstanceFailure::NoCapacity, "no room", now, 0)
    }

    fn key(group: &GroupRecord, index: usize) -> crate::domain::PlacementKey {
        group.spec.placements[index].key.clone()
    }

    #[test]
    fn the_first_that_is_not_set_back_is_used() {
        let mut group = group_with_placements(2);
        assert_eq!(choose(&group, at(0)), Choice::Use(&group.spec.placements[0]));
        let first = key(&group, 0);
        group.placements.insert(first, fail(None, at(0)));
        assert_eq!(choose(&group, at(1)), Choice::Use(&group.spec.placements[1]));
    }

    #[test]
    fn a_set_back_placement_is_probed_by_one() {
        let mut group = group_with_placements(1);
        let health = fail(None, at(0));
        let over = health.retry_at;
        group.placements.insert(key(&group, 0), health);
        assert!(matches!(choose(&group, at(1)), Choice::Blocked { until } if until == over));
        assert!(matches!(choose(&group, over), Choice::Probe(_)));
        let first = key(&group, 0);
        mark_probe(&mut group, &first, &RunnerName::new("a-b-c").unwrap(), over);
        assert!(matches!(choose(&group, over), Choice::Blocked { .. }));
        let patience_over = later(over, super::PROBE_PATIENCE);
        assert!(matches!(choose(&group, patience_over), Choice::Probe(_)));
    }

    #[test]
    fn failures_of_one_moment_count_once_and_pauses_grow() {
        let first = fail(None, at(0));
        assert_eq!(fail(Some(&first), at(1)), first);
        let mut health = first;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let now = health.retry_at;
            health = fail(Some(&health), now);
            pauses.push(health.retry_at.duration_since(now));
        }
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
        assert!(health.failures >= BREAKER_THRESHOLD && health.is_open());
    }

    #[test]
    fn a_probe_that_goes_without_a_verdict_makes_room_for_another() {
        let mut group = group_with_placements(1);
        let health = fail(None, at(0));
        let over = health.retry_at;
        group.placements.insert(key(&group, 0), health);
        let first = key(&group, 0);
        let probe = runner(&group, first.clone());
        mark_probe(&mut group, &first, &probe.name, over);
        assert!(matches!(choose(&group, over), Choice::Blocked { .. }));
        let learned = learn(&group, &probe, &Event::Unneeded, None, over, 0).unwrap();
        assert!(matches!(choose(&learned, over), Choice::Probe(_)));
    }

    #[test]
    fn failing_registration_blocks_all_placements() {
        let mut group = group_with_placements(2);
        let health = fail(None, at(0));
        let over = health.retry_at;
        group.registration = Some(health);
        assert!(matches!(choose(&group, at(1)), Choice::Blocked { .. }));
        assert!(matches!(choose(&group, over), Choice::Probe(_)));
        let first = key(&group, 0);
        mark_probe(&mut group, &first, &RunnerName::new("a-b-c").unwrap(), over);
        assert_eq!(
            group.registration.as_ref().map(|health| health.availability(over)),
            Some(Availability::Probing { until: later(over, super::PROBE_PATIENCE) })
        );
    }
}
