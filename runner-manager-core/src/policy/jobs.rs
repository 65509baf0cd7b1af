//! What follows for a job's record from an observation.
//!
//! Observations come late, twice and in any order. A job only ever goes forward (waiting, queued, in
//! progress, completed), so whatever the order, the end is the same.

use jiff::Timestamp;

use super::loss::stands;
use crate::domain::{GroupName, JobObservation, JobReport, JobState, WorkflowJob};

/// How far a job is: it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Waiting,
    Queued,
    InProgress,
    Completed,
}

const fn rank_of_state(state: &JobState) -> Rank {
    match state {
        JobState::Waiting => Rank::Waiting,
        JobState::Queued { .. } => Rank::Queued,
        JobState::InProgress { .. } => Rank::InProgress,
        JobState::Completed { .. } => Rank::Completed,
    }
}

const fn rank_of_report(report: &JobReport) -> Rank {
    match report {
        JobReport::Waiting => Rank::Waiting,
        JobReport::Queued => Rank::Queued,
        JobReport::InProgress { .. } => Rank::InProgress,
        JobReport::Completed { .. } => Rank::Completed,
    }
}

/// The record of a job after an observation; `None` where it says nothing new.
///
/// `group` is the group that is to count the job while it waits.
pub fn observe(
    before: Option<&WorkflowJob>,
    seen: &JobObservation,
    group: Option<GroupName>,
    now: Timestamp,
) -> Option<WorkflowJob> {
    if let Some(job) = before
        && rank_of_state(&job.state) >= rank_of_report(&seen.report)
    {
        return learns_of_its_repository(job, seen);
    }
    let state = match &seen.report {
        JobReport::Waiting => JobState::Waiting,
        JobReport::Queued => JobState::Queued { group },
        JobReport::InProgress { runner, .. } => JobState::InProgress { runner: runner.clone(), since: now },
        JobReport::Completed { conclusion, runner, .. } => {
            let known = before.and_then(|job| match &job.state {
                JobState::InProgress { runner, .. } => Some(runner.clone()),
                JobState::Waiting | JobState::Queued { .. } | JobState::Completed { .. } => None,
            });
            JobState::Completed { conclusion: *conclusion, runner: runner.clone().or(known), at: now }
        }
    };
    Some(WorkflowJob {
        id: seen.id,
        run: seen.run,
        attempt: seen.attempt,
        repository: seen.repository.clone(),
        enterprise: seen.enterprise.clone(),
        // Not everybody who tells of a job says it, so it is said once and for all.
        public: seen.public || before.is_some_and(|job| job.public),
        name: seen.name.clone(),
        workflow: seen.workflow.clone(),
        labels: seen.labels.clone(),
        created_at: seen.created_at,
        recorded_at: before.map_or(now, |job| job.recorded_at),
        state,
        lost: before.and_then(|job| job.lost.clone()).filter(|loss| match &seen.report {
            JobReport::Completed { conclusion, ended_at, .. } => stands(loss, *conclusion, *ended_at),
            JobReport::Waiting | JobReport::Queued | JobReport::InProgress { .. } => true,
        }),
    })
}

/// A listing of jobs does not tell whether their repository is public: the webhook that comes behind it does.
fn learns_of_its_repository(job: &WorkflowJob, seen: &JobObservation) -> Option<WorkflowJob> {
    let waits = matches!(job.state, JobState::Waiting | JobState::Queued { .. });
    (waits && seen.public && !job.public).then(|| WorkflowJob { public: true, ..job.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
    use proptest::prop_assert_eq;

    use super::observe;
    use crate::domain::{Conclusion, JobObservation, JobReport, JobState, WorkflowJob};
    use crate::policy::samples::{at, seen};

    fn in_progress() -> JobReport {
        JobReport::InProgress { runner: "r".to_owned(), runner_id: None }
    }

    fn completed() -> JobReport {
        JobReport::Completed { conclusion: Conclusion::Success, runner: Some("r".to_owned()), ended_at: None }
    }

    fn after(reports: &[JobReport]) -> Option<WorkflowJob> {
        reports.iter().fold(None, |before, report| {
            observe(before.as_ref(), &seen(report.clone()), None, at(5)).or(before)
        })
    }

    #[test]
    fn a_late_queued_does_not_revive_a_job() {
        let job = after(&[completed(), JobReport::Queued, in_progress()]).unwrap();
        assert!(job.is_completed());
    }

    #[test]
    fn a_completion_without_a_runner_keeps_the_one_we_know() {
        let lost = JobReport::Completed { conclusion: Conclusion::Failure, runner: None, ended_at: None };
        let job = after(&[in_progress(), lost]).unwrap();
        assert!(matches!(job.state, JobState::Completed { runner: Some(runner), .. } if runner == "r"));
    }

    #[test]
    fn that_a_repository_is_public_is_learned_from_whoever_says_so() {
        let public = |report| JobObservation { public: true, ..seen(report) };
        let listed = after(&[JobReport::Queued]).unwrap();
        let told = observe(Some(&listed), &public(JobReport::Queued), None, at(6)).unwrap();
        assert_eq!(told, WorkflowJob { public: true, ..listed });
        assert_eq!(observe(Some(&told), &public(JobReport::Queued), None, at(7)), None);
        assert!(
            observe(Some(&told), &seen(in_progress()), None, at(7)).unwrap().public,
            "said once and for all"
        );
    }

    fn any_report() -> impl Strategy<Value = JobReport> {
        prop_oneof![Just(JobReport::Waiting), Just(JobReport::Queued), Just(in_progress()), Just(completed())]
    }

    proptest! {
        #[test]
        fn order_and_repeats_do_not_matter_for_the_end(
            reports in proptest::collection::vec(any_report(), 1..8), by in 0..8_usize,
        ) {
            let mut turned = reports.clone();
            turned.rotate_left(by % reports.len());
            turned.extend(reports.clone());
            let state = |job: Option<WorkflowJob>| job.map(|job| job.state);
            prop_assert_eq!(state(after(&reports)), state(after(&turned)));
        }
    }
}
