//! What must be listed before a store that may have lost something is relied on again.
//!
//! Promise 6: until complete listings of all backends and all scopes have been taken in, nothing is created and
//! nothing removed on the store's word. A listing counts if it was begun late enough: whatever was still being
//! made on the lost word has appeared by then.
//!
//! Jobs are asked for as well, but nothing waits for that: whether a runner is busy GitHub says of the runner,
//! and a job that is found late is late, not lost. A repository with thousands of runs takes long to list.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::{BackendName, Doubt, Runner, RunnerGroup, RunnerState, Source, later};

/// From when on a listing counts that is begun. `call_timeout` is how long a call may take that was under way
/// when the store was lost, `settle` how long after it a thing may still appear in listings.
pub fn counts_from(doubt: &Doubt, call_timeout: Duration, settle: Duration) -> Timestamp {
    later(later(doubt.since, call_timeout), settle)
}

/// All that must be listed: the backends of this replica and of those that live, those that groups and runners
/// name, and the scopes of groups and runners.
pub fn required<'a>(
    backends: impl IntoIterator<Item = &'a BackendName>,
    groups: impl IntoIterator<Item = &'a RunnerGroup>,
    runners: impl IntoIterator<Item = &'a Runner>,
) -> BTreeSet<Source> {
    let mut required: BTreeSet<Source> = backends.into_iter().cloned().map(Source::Instances).collect();
    for group in groups {
        required.insert(Source::Runners(group.scope.clone()));
        let places = group.placements.iter().map(|placement| &placement.backend);
        required.extend(places.cloned().map(Source::Instances));
    }
    for runner in runners {
        required.insert(Source::Instances(runner.backend.clone()));
        required.insert(Source::Runners(runner.scope.clone()));
    }
    required
}

/// Whether a runner has anything on record that was gathered to take it away, which counts no more after a
/// loss.
pub const fn has_evidence(runner: &Runner) -> bool {
    let gathered = match &runner.state {
        RunnerState::Idle { leaving: Some(leaving) } => leaving.not_busy_at.is_some(),
        RunnerState::Retiring { .. } => true,
        RunnerState::Requested
        | RunnerState::Creating { .. }
        | RunnerState::Booting
        | RunnerState::Idle { leaving: None }
        | RunnerState::Busy { .. } => false,
    };
    gathered || runner.missing_since.is_some()
}

/// How far the listing has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// When the doubt began.
    pub since: Timestamp,
    /// How many listings are needed.
    pub required: usize,
    /// What has yet to be listed.
    pub missing: BTreeSet<Source>,
}

impl Progress {
    /// How far a doubt has come, of all that is required.
    pub fn of(doubt: &Doubt, required: &BTreeSet<Source>) -> Self {
        Self {
            since: doubt.since,
            required: required.len(),
            missing: required.difference(&doubt.taken_in).cloned().collect(),
        }
    }

    /// How many listings were taken in.
    pub fn taken_in(&self) -> usize {
        self.required - self.missing.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Progress, counts_from, has_evidence, required};
    use crate::domain::{BackendName, Doubt, Incarnation, PlacementKey, RunnerState, Scope, Source};
    use crate::policy::samples::{at, group, record, runner};

    fn doubt(taken_in: &[Source]) -> Doubt {
        Doubt {
            incarnation: Incarnation::new("two"),
            since: at(0),
            taken_in: taken_in.iter().cloned().collect(),
        }
    }

    #[test]
    fn what_was_under_way_has_appeared_when_a_listing_counts() {
        let from = counts_from(&doubt(&[]), Duration::from_secs(40), Duration::from_secs(30));
        assert_eq!(from, at(70));
    }

    #[test]
    fn everything_that_may_hide_something_is_listed() {
        let (own, other) = (BackendName::new("own").unwrap(), BackendName::new("other").unwrap());
        let acme = || Scope::organization("acme").unwrap();
        let spec = group("linux", &[], 0, 2);
        let mut stranded = runner(&record(spec.clone()), PlacementKey::unknown());
        stranded.backend = other.clone();
        stranded.scope = Scope::organization("elsewhere").unwrap();
        let all = required([&own], [&spec], [&stranded]);
        let expected = [
            Source::Instances(own),
            Source::Instances(other),
            Source::Instances(spec.placements[0].backend.clone()),
            Source::Runners(acme()),
            Source::Runners(stranded.scope.clone()),
        ];
        assert_eq!(all, expected.into());
        let progress = Progress::of(&doubt(&[Source::Runners(acme())]), &all);
        assert_eq!((progress.taken_in(), progress.required, progress.missing.len()), (1, 5, 4));
    }

    #[test]
    fn a_runner_that_only_works_has_no_evidence_against_it() {
        let mut runner = runner(&record(group("linux", &[], 0, 2)), PlacementKey::unknown());
        runner.state = RunnerState::Busy { job: None };
        assert!(!has_evidence(&runner));
        runner.missing_since = Some(at(0));
        assert!(has_evidence(&runner));
    }
}
