//! What follows for a job's record from an observation.
//!
//! Observations come late, twice and in any order. By GitHub's word a job only ever goes forward (waiting, queued,
//! in progress, completed), so whatever the order, the end is the same.
//!
//! A machine's word that its job began comes in between. It does not name the job, so the likeliest one is *presumed*
//! to have begun. That is right in number, which is what demand is counted by; which one it was, GitHub tells. What
//! GitHub says always wins, and until then nothing is ended on the presumption.

use std::cmp::Reverse;
use std::time::Duration;

use jiff::Timestamp;

use super::loss::stands;
use super::matching::{Asked, serves};
use crate::domain::{
    GroupName, JobObservation, JobReport, JobSignal, JobState, RunnerGroup, WorkflowJob, later,
};

/// How long after a machine's word a look at GitHub must begin that says the job waits still: its lists may be
/// behind.
pub const LISTS_LAG: Duration = Duration::from_mins(1);

/// How far a job is: it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Waiting,
    Queued,
    Presumed,
    InProgress,
    Completed,
}

const fn rank_of_state(state: &JobState) -> Rank {
    match state {
        JobState::Waiting => Rank::Waiting,
        JobState::Queued { .. } => Rank::Queued,
        JobState::Presumed { .. } => Rank::Presumed,
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
/// `group` is the group that is to count the job while it waits. `read_at` is when the look at GitHub was begun that
/// said it; none for a webhook, which may be late.
pub fn observe(
    before: Option<&WorkflowJob>,
    seen: &JobObservation,
    group: Option<GroupName>,
    read_at: Option<Timestamp>,
    now: Timestamp,
) -> Option<WorkflowJob> {
    if let Some(job) = before
        && is_refuted(job, seen, read_at)
    {
        return Some(waits_again(job, group));
    }
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
                JobState::Waiting
                | JobState::Queued { .. }
                | JobState::Presumed { .. }
                | JobState::Completed { .. } => None,
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

/// Whether GitHub says, late enough to know, that a job waits which was presumed to have begun.
fn is_refuted(job: &WorkflowJob, seen: &JobObservation, read_at: Option<Timestamp>) -> bool {
    match (&job.state, &seen.report) {
        (JobState::Presumed { since, .. }, JobReport::Queued) => {
            read_at.is_some_and(|at| at >= later(*since, LISTS_LAG))
        }
        _ => false,
    }
}

/// A job that was presumed to have begun waits after all.
pub fn waits_again(job: &WorkflowJob, group: Option<GroupName>) -> WorkflowJob {
    WorkflowJob { state: JobState::Queued { group }, ..job.clone() }
}

/// Which of the jobs that wait presumably began, by a machine's word: one of the same run that its runner's group
/// serves. Of several the one whose name fits best, and then the oldest: GitHub hands them out in that order.
pub fn presumed<'j>(
    signal: &JobSignal,
    group: &RunnerGroup,
    waiting: impl IntoIterator<Item = &'j WorkflowJob>,
) -> Option<&'j WorkflowJob> {
    let may_be = |job: &&WorkflowJob| {
        let waits = matches!(job.state, JobState::Queued { .. });
        let of_run = job.run == signal.run && job.attempt == signal.attempt;
        let enterprise = job.enterprise.as_deref();
        let asked = Asked { job: job.id, repository: &job.repository, enterprise, labels: &job.labels };
        waits && of_run && job.repository == signal.repository && serves(group, asked)
    };
    let rank = |job: &&WorkflowJob| (Reverse(fits(&signal.key, &job.name)), job.created_at, job.id);
    waiting.into_iter().filter(may_be).min_by_key(rank)
}

/// Whether a job's name is made from a key: `build`, `build (linux, 1)`, or `caller / build` where a workflow is
/// called by another one. A job may also have been given any other name.
fn fits(key: &str, name: &str) -> bool {
    let own = name.rsplit(" / ").next().unwrap_or(name);
    own.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
}

/// A listing of jobs does not tell whether their repository is public: the webhook that comes behind it does.
fn learns_of_its_repository(job: &WorkflowJob, seen: &JobObservation) -> Option<WorkflowJob> {
    let waits = matches!(job.state, JobState::Waiting | JobState::Queued { .. } | JobState::Presumed { .. });
    (waits && seen.public && !job.public).then(|| WorkflowJob { public: true, ..job.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
    use proptest::prop_assert_eq;

    use super::{observe, presumed};
    use crate::domain::{
        Conclusion, JobId, JobMoment, JobObservation, JobReport, JobSignal, JobState, Labels, RunId,
        RunnerName, WorkflowJob,
    };
    use crate::policy::samples::{at, group, seen};

    fn in_progress() -> JobReport {
        JobReport::InProgress { runner: "r".to_owned(), runner_id: None }
    }

    fn completed() -> JobReport {
        JobReport::Completed { conclusion: Conclusion::Success, runner: Some("r".to_owned()), ended_at: None }
    }

    fn after(reports: &[JobReport]) -> Option<WorkflowJob> {
        reports.iter().fold(None, |before, report| {
            observe(before.as_ref(), &seen(report.clone()), None, None, at(5)).or(before)
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
        let told = observe(Some(&listed), &public(JobReport::Queued), None, None, at(6)).unwrap();
        assert_eq!(told, WorkflowJob { public: true, ..listed });
        assert_eq!(observe(Some(&told), &public(JobReport::Queued), None, None, at(7)), None);
        assert!(
            observe(Some(&told), &seen(in_progress()), None, None, at(7)).unwrap().public,
            "said once and for all"
        );
    }

    fn signal(run: u64, key: &str) -> JobSignal {
        JobSignal {
            runner: RunnerName::new("acme-linux-1").unwrap(),
            repository: "Acme/App".parse().unwrap(),
            run: RunId(run),
            attempt: 1,
            key: key.to_owned(),
            moment: JobMoment::Begins,
        }
    }

    fn named(id: u64, name: &str) -> WorkflowJob {
        let job = after(&[JobReport::Queued]).unwrap();
        WorkflowJob { id: JobId(id), name: name.to_owned(), created_at: at(100 - id.cast_signed()), ..job }
    }

    #[test]
    fn of_a_run_the_job_began_whose_name_fits_and_that_is_oldest() {
        let own = group("linux", &["large"], 0, 1);
        let jobs =
            [named(1, "lint"), named(2, "build (a)"), named(3, "build (b)"), named(4, "release / test")];
        let began = |signal: &JobSignal| presumed(signal, &own, &jobs).map(|job| job.id.0);
        assert_eq!(began(&signal(2, "build")), Some(3), "made first");
        assert_eq!(began(&signal(2, "lint")), Some(1));
        assert_eq!(began(&signal(2, "test")), Some(4), "of a called workflow");
        assert_eq!(began(&signal(2, "li")), Some(4), "none fits: whichever is oldest");
        assert_eq!(began(&signal(3, "build")), None, "of another run");
        assert_eq!(began(&JobSignal { attempt: 2, ..signal(2, "build") }), None);
        let jobs = jobs.map(|job| WorkflowJob { labels: Labels::parse(["gpu"]).unwrap(), ..job });
        assert_eq!(presumed(&signal(2, "lint"), &own, &jobs), None, "its runner cannot have it");
        let running = after(&[in_progress()]).unwrap();
        assert_eq!(presumed(&signal(2, "build"), &own, &[running]), None, "it does not wait");
    }

    fn presumption() -> WorkflowJob {
        let runner = RunnerName::new("acme-linux-1").unwrap();
        let job = after(&[JobReport::Queued]).unwrap();
        WorkflowJob { state: JobState::Presumed { runner, since: at(10) }, ..job }
    }

    #[test]
    fn what_github_says_of_a_presumed_job_wins() {
        let observed = |report, read_at| observe(Some(&presumption()), &seen(report), None, read_at, at(200));
        assert_eq!(observed(JobReport::Queued, None), None, "a webhook may be late");
        assert_eq!(observed(JobReport::Queued, Some(at(69))), None, "a listing may be behind");
        let waits = observed(JobReport::Queued, Some(at(70))).unwrap();
        assert_eq!(waits, after(&[JobReport::Queued]).unwrap());
        for read_at in [None, Some(at(70))] {
            let runs = observed(in_progress(), read_at).unwrap();
            assert!(matches!(runs.state, JobState::InProgress { runner, .. } if runner == "r"));
            let report =
                JobReport::Completed { conclusion: Conclusion::Cancelled, runner: None, ended_at: None };
            let ended = observed(report, read_at).unwrap();
            assert!(matches!(ended.state, JobState::Completed { runner: None, .. }), "it never began");
        }
    }

    #[test]
    fn a_presumed_job_counts_for_no_group() {
        assert_eq!(presumption().demand(), None);
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
