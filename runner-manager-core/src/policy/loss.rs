//! Jobs whose machine was lost under them: what counts as a loss, and when such a job is run again.
//!
//! GitHub learns that a machine is lost only when its agent has been silent for some ten minutes, and ends the job
//! as failed then. A job that failed by itself ended *before* its machine did; that is how the two are told apart.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::{
    Conclusion, JobObservation, JobState, Loss, Rerun, RetireReason, Runner, RunnerState, WorkflowJob,
    bounded, later,
};

/// After how many refusals no more is asked for a re-run: GitHub may call a run unfinished for a while after its
/// last job ended.
pub const MOST_REFUSALS: u32 = 3;

/// How long after a refusal, or while other jobs of the run go on, GitHub is asked again.
pub const ASKED_EVERY: Duration = Duration::from_mins(2);

/// How long after the end of a job it may be run again: nobody wants it after that.
pub const RERUN_WITHIN: Duration = Duration::from_hours(24);

/// How long a lost job is followed that GitHub does not end.
pub const FOLLOWED_FOR: Duration = Duration::from_hours(24);

/// How many bytes of a backend's words are kept.
const LONGEST_WORDS: usize = 500;

/// That a runner's machine is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// When that was first seen.
    pub at: Timestamp,
    /// What became of the machine.
    pub why: String,
}

/// What the end of a runner says of its machine: nothing where it was taken away by us.
pub fn of_end(runner: &Runner, why: &RetireReason, now: Timestamp) -> Option<Lost> {
    match why {
        RetireReason::InstanceGone | RetireReason::InstanceStopped | RetireReason::InstanceFailed { .. } => {
            let why = bounded(&why.to_string(), LONGEST_WORDS);
            Some(Lost { at: runner.missing_since.unwrap_or(now), why })
        }
        RetireReason::JobCompleted { .. }
        | RetireReason::Surplus
        | RetireReason::TooOld
        | RetireReason::StartTimeout
        | RetireReason::JobTimeout { .. }
        | RetireReason::RegistrationFailed { .. }
        | RetireReason::RegistrationGone
        | RetireReason::CreateFailed { .. }
        | RetireReason::NeverCreated
        | RetireReason::Offline
        | RetireReason::Orphan
        | RetireReason::MachineEnded { .. }
        | RetireReason::Operator { .. } => None,
    }
}

/// What a runner's record says of its machine: that it has ended, or that a complete reading lacked it.
pub fn of_record(runner: &Runner) -> Option<Lost> {
    match &runner.state {
        RunnerState::Retiring { why, .. } => of_end(runner, why, runner.since),
        RunnerState::Busy { .. } => {
            runner.missing_since.and_then(|since| of_end(runner, &RetireReason::InstanceGone, since))
        }
        RunnerState::Requested
        | RunnerState::Creating { .. }
        | RunnerState::Booting
        | RunnerState::Idle { .. } => None,
    }
}

/// The record of a job whose runner lost its machine; nothing where the runner does not run it, or that is on
/// record.
pub fn mark(job: &WorkflowJob, runner: &Runner, lost: Lost, rerun_on_loss: bool) -> Option<WorkflowJob> {
    let runs_on = match &job.state {
        JobState::InProgress { runner, .. } => runner,
        // That it is presumed to have it does not say that it had.
        JobState::Waiting
        | JobState::Queued { .. }
        | JobState::Presumed { .. }
        | JobState::Completed { .. } => return None,
    };
    if job.lost.is_some() || *runs_on != runner.name.as_str() {
        return None;
    }
    let rerun = if rerun_on_loss { Rerun::WANTED } else { Rerun::Unwanted };
    let record = Loss { at: lost.at, runner: runner.name.clone(), why: lost.why, rerun };
    Some(WorkflowJob { lost: Some(Box::new(record)), ..job.clone() })
}

/// Whether a loss stands now that the job has ended: not where it did what it should, and not where it ended
/// before its machine did.
pub fn stands(loss: &Loss, conclusion: Conclusion, ended_at: Option<Timestamp>) -> bool {
    match conclusion {
        Conclusion::Success | Conclusion::Skipped | Conclusion::Neutral | Conclusion::ActionRequired => false,
        Conclusion::Failure | Conclusion::Cancelled | Conclusion::TimedOut | Conclusion::Other => {
            ended_at.is_none_or(|ended_at| ended_at >= loss.at)
        }
    }
}

/// What is next for a job that lost its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All is done.
    Nothing,
    /// GitHub is asked whether it has ended the job, and again at that time where it has not.
    SeeWhetherItEnded {
        /// When.
        again: Timestamp,
    },
    /// GitHub is asked to run it again.
    Rerun,
    /// It is not run again, for this reason.
    Refuse(String),
}

/// What is next for a job that lost its machine.
pub fn next(job: &WorkflowJob, now: Timestamp) -> Step {
    let Some(loss) = &job.lost else { return Step::Nothing };
    let is_wanted = match &loss.rerun {
        Rerun::Wanted { .. } => true,
        Rerun::Unwanted | Rerun::Done { .. } | Rerun::Refused { .. } => false,
    };
    match &job.state {
        JobState::Completed { .. } if !is_wanted => Step::Nothing,
        JobState::Completed { conclusion, at, .. } => match conclusion {
            Conclusion::Failure | Conclusion::Cancelled if now < later(*at, RERUN_WITHIN) => Step::Rerun,
            Conclusion::Failure | Conclusion::Cancelled => {
                let said = loss.rerun.last().map_or_else(String::new, |last| format!(": {}", last.detail));
                Step::Refuse(format!("it could not be run again within a day{said}"))
            }
            Conclusion::Success
            | Conclusion::Skipped
            | Conclusion::TimedOut
            | Conclusion::Neutral
            | Conclusion::ActionRequired
            | Conclusion::Other => Step::Refuse(format!("GitHub ended it as {}", conclusion.as_str())),
        },
        JobState::Waiting
        | JobState::Queued { .. }
        | JobState::Presumed { .. }
        | JobState::InProgress { .. } => {
            if now < later(loss.at, FOLLOWED_FOR) {
                Step::SeeWhetherItEnded { again: later(now, pause(loss.at, now)) }
            } else if is_wanted {
                Step::Refuse("GitHub has not ended it within a day".to_owned())
            } else {
                Step::Nothing
            }
        }
    }
}

/// The longer GitHub has not ended a job, the longer the pause: from 1 to 15 min.
fn pause(since: Timestamp, now: Timestamp) -> Duration {
    let spent = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    (spent / 4).clamp(Duration::from_mins(1), Duration::from_mins(15))
}

/// Whether one of a run's latest jobs is another run of a job, whoever asked for it.
pub fn is_rerun_of(seen: &JobObservation, job: &WorkflowJob) -> bool {
    seen.name == job.name && seen.attempt > job.attempt
}

#[cfg(test)]
mod tests {
    use super::{FOLLOWED_FOR, Lost, RERUN_WITHIN, Step, mark, next, of_end, of_record, stands};
    use crate::domain::{
        Conclusion, Failure, InstanceFailure, JobReport, Loss, Rerun, RetireReason, RetireStep, Runner,
        RunnerState, WorkflowJob, later,
    };
    use crate::policy::jobs::observe;
    use crate::policy::samples::{at, group_with_placements, runner, seen};

    fn busy() -> Runner {
        let group = group_with_placements(1);
        let key = group.spec.placements[0].key.clone();
        Runner { state: RunnerState::Busy { job: None }, ..runner(&group, key) }
    }

    fn running() -> WorkflowJob {
        let report = JobReport::InProgress { runner: busy().name.to_string(), runner_id: None };
        observe(None, &seen(report), None, None, at(0)).unwrap()
    }

    fn lost(rerun: bool) -> WorkflowJob {
        mark(&running(), &busy(), Lost { at: at(10), why: "gone".to_owned() }, rerun).unwrap()
    }

    fn ended(conclusion: Conclusion, ended_at: i64) -> JobReport {
        JobReport::Completed { conclusion, runner: None, ended_at: Some(at(ended_at)) }
    }

    fn after(job: &WorkflowJob, conclusion: Conclusion, ended_at: i64) -> WorkflowJob {
        observe(Some(job), &seen(ended(conclusion, ended_at)), None, None, at(1_000)).unwrap()
    }

    #[test]
    fn what_we_take_away_is_no_loss() {
        let failed = RetireReason::InstanceFailed { kind: InstanceFailure::Other, detail: "spot".to_owned() };
        let found = of_end(&busy(), &failed, at(5)).unwrap();
        assert_eq!((found.at, &*found.why), (at(5), "its instance failed: spot"));
        let missing = Runner { missing_since: Some(at(3)), ..busy() };
        assert_eq!(of_end(&missing, &RetireReason::InstanceGone, at(5)).unwrap().at, at(3), "seen first");
        for ours in [RetireReason::Operator { force: true }, RetireReason::JobTimeout { job: None }] {
            assert_eq!(of_end(&busy(), &ours, at(5)), None);
        }
    }

    #[test]
    fn a_record_tells_of_a_machine_that_has_ended_or_is_missing() {
        assert_eq!(of_record(&busy()), None);
        let missing = Runner { missing_since: Some(at(3)), ..busy() };
        assert_eq!(of_record(&missing).unwrap().at, at(3));
        let state = RunnerState::Retiring { why: RetireReason::InstanceStopped, retire: RetireStep::Delete };
        assert_eq!(of_record(&Runner { state, ..busy() }).unwrap().why, "its instance stopped");
    }

    #[test]
    fn a_job_is_lost_once_and_with_its_own_machine() {
        let again = Lost { at: at(11), why: String::new() };
        assert_eq!(mark(&lost(true), &busy(), again.clone(), true), None);
        let other = Runner { name: "acme-linux-2".parse().unwrap(), ..busy() };
        assert_eq!(mark(&running(), &other, again.clone(), true), None);
        let ended = after(&running(), Conclusion::Success, 20);
        assert_eq!(mark(&ended, &busy(), again, true), None);
    }

    #[test]
    fn what_ended_before_its_machine_failed_by_itself() {
        let loss = Loss { at: at(10), ..*lost(true).lost.unwrap() };
        let table = [
            (Conclusion::Failure, Some(at(9)), false),
            (Conclusion::Failure, Some(at(700)), true),
            (Conclusion::Cancelled, Some(at(700)), true),
            (Conclusion::Failure, None, true),
            (Conclusion::Success, None, false),
            (Conclusion::Skipped, Some(at(700)), false),
        ];
        for (conclusion, ended_at, expected) in table {
            assert_eq!(stands(&loss, conclusion, ended_at), expected, "{conclusion:?} {ended_at:?}");
        }
        assert!(after(&lost(true), Conclusion::Failure, 700).lost.is_some(), "the record keeps the loss");
        assert!(after(&lost(true), Conclusion::Failure, 9).lost.is_none());
    }

    #[test]
    fn a_lost_job_is_followed_and_run_again_once_it_has_ended() {
        assert_eq!(next(&running(), at(0)), Step::Nothing);
        assert_eq!(next(&lost(false), at(10)), Step::SeeWhetherItEnded { again: at(70) });
        let day = later(at(10), FOLLOWED_FOR);
        assert_eq!(next(&lost(false), day), Step::Nothing);
        assert!(matches!(next(&lost(true), day), Step::Refuse(why) if why.contains("not ended")));

        let failed = after(&lost(true), Conclusion::Failure, 700);
        assert_eq!(next(&failed, at(1_000)), Step::Rerun);
        let late = later(at(1_000), RERUN_WITHIN);
        assert!(matches!(next(&failed, late), Step::Refuse(why) if why.contains("within a day")));
        assert_eq!(next(&after(&lost(false), Conclusion::Failure, 700), at(1_000)), Step::Nothing);
        let timed_out = after(&lost(true), Conclusion::TimedOut, 700);
        assert!(matches!(next(&timed_out, at(1_000)), Step::Refuse(why) if why.contains("timed_out")));
    }

    #[test]
    fn what_is_settled_stays_so() {
        let why = Failure { detail: String::new(), at: at(0) };
        for rerun in [Rerun::Done { at: at(0) }, Rerun::Refused { why }, Rerun::Unwanted] {
            let mut job = after(&lost(true), Conclusion::Failure, 700);
            job.lost.as_mut().unwrap().rerun = rerun;
            assert_eq!(next(&job, at(1_000)), Step::Nothing);
        }
    }
}
