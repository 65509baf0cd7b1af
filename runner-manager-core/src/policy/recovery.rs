//! What becomes of a job that GitHub lists, or lists no more, whatever webhooks were lost.
//!
//! A listing tells of every open job of a repository, most of which are none of our business. So that the store
//! holds no more than it can get rid of again, a job that no webhook told of is recorded only where something
//! follows from it: it is demand, it shows why it waits, or a runner of ours has it.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::{JobObservation, JobReport, OpenRun, OpenRuns, WorkflowJob, later};

/// How long a job that no group serves has waited before a listing has it recorded. Until then it may be one
/// that GitHub's own runners are about to take.
pub const UNSERVED_AGE: Duration = Duration::from_mins(5);

/// How long a job that its repository's listing does not tell of, since there was none, waits before it is
/// asked for by itself.
pub const UNLISTED_AGE: Duration = Duration::from_mins(10);

/// How long GitHub keeps a job in the queue: then it cancels it.
pub const LONGEST_QUEUED: Duration = Duration::from_hours(24);

/// How long a repository of which nothing is heard counts as busy.
pub const BUSY_FOR: Duration = Duration::from_hours(1);

/// How often a repository is listed that is not busy, and how often all kinds of its open runs are.
pub const FULL_PERIOD: Duration = Duration::from_mins(30);

/// How old an open run is that a job on record explains before its jobs are listed: until then webhooks may be
/// on their way.
pub const WEBHOOKS_ARRIVE_WITHIN: Duration = Duration::from_mins(5);

/// How often a repository is listed, and its open runs are looked into, where the log of a hook vouches for its
/// webhooks: GitHub may have sent none at all.
pub const VOUCHED_PERIOD: Duration = Duration::from_mins(15);

/// For how long no log vouches for a repository of whose jobs one was found that no webhook had told of.
pub const DISTRUSTED_FOR: Duration = Duration::from_hours(1);

/// When a repository was listed last, and what was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Listed {
    /// When any of its open runs were last listed.
    pub at: Option<Timestamp>,
    /// When all kinds of them were.
    pub in_full: Option<Timestamp>,
    /// When there last were some.
    pub open: Option<Timestamp>,
    /// When a job was last found that no webhook had told of.
    pub unheard: Option<Timestamp>,
}

/// How a repository's open runs are to be listed now. `heard` is when a job of it was last recorded; `vouched` whether a
/// log vouches for its webhooks since the last listing.
pub fn listing_due(
    listed: &Listed,
    heard: Option<Timestamp>,
    vouched: bool,
    begun: Timestamp,
) -> Option<OpenRuns> {
    let since = |time: Option<Timestamp>, period| time.is_none_or(|time| later(time, period) <= begun);
    let is_idle = since(heard, BUSY_FOR) && since(listed.open, BUSY_FOR);
    let is_vouched_for = vouched && since(listed.unheard, DISTRUSTED_FOR);
    if since(listed.in_full, FULL_PERIOD) {
        Some(OpenRuns::All)
    } else if is_idle && !since(listed.at, FULL_PERIOD) || is_vouched_for && !since(listed.at, VOUCHED_PERIOD)
    {
        None
    } else {
        Some(OpenRuns::Moving)
    }
}

/// Whether the jobs of an open run are to be listed. A young one with a job on record that is open, too, is as
/// was to be expected.
///
/// One that nothing explains is looked into also where the webhook that tells of it will come by again: a runner may
/// have its job already, and once the job counts as waiting another one would be made for it.
pub fn is_looked_into(run: &OpenRun, explained: bool, vouched: bool, begun: Timestamp) -> bool {
    let left_for = if vouched { VOUCHED_PERIOD } else { WEBHOOKS_ARRIVE_WITHIN };
    !explained || later(run.created_at, left_for) <= begun
}

/// Whether a job that GitHub lists is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// As if a webhook had told of it.
    Wanted,
    /// The same, so that it can be said why it waits: nobody serves it.
    Unserved,
    /// It is none of our business, or not yet.
    Passed,
}

/// What we know of a job that GitHub lists.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Whether the job is on record.
    pub job: bool,
    /// Whether the runner that has it is on record.
    pub runner: bool,
    /// Whether a group would serve it.
    pub served: bool,
}

/// Whether a job that GitHub listed is taken in.
///
/// One that is on record always is: what it says is held against the record, which only ever goes forward, so
/// that a listing which is older than the record has no say.
pub fn found(seen: &JobObservation, known: Known, begun: Timestamp) -> Found {
    if known.job {
        return Found::Wanted;
    }
    match &seen.report {
        JobReport::Queued if known.served => Found::Wanted,
        JobReport::Queued if later(seen.created_at, UNSERVED_AGE) <= begun => Found::Unserved,
        JobReport::InProgress { .. } if known.runner => Found::Wanted,
        // One that waits for an approval is listed as queued once it wants a runner.
        JobReport::Queued
        | JobReport::InProgress { .. }
        | JobReport::Waiting
        | JobReport::Completed { .. } => Found::Passed,
    }
}

/// How the repository of a job that waits was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Completely, and the job was not there.
    Without,
    /// Completely, and the job was there.
    With,
    /// It could not be, or was put off since a log vouches for it.
    Unknown,
    /// It was not asked for: the credentials see no such repository.
    None,
}

/// Whether a job that waits, by its record, is to be asked for by itself. Only what it says then counts.
pub fn is_in_doubt(job: &WorkflowJob, listing: Listing, begun: Timestamp) -> bool {
    match listing {
        Listing::Without => job.recorded_at < begun,
        Listing::With | Listing::Unknown => false,
        Listing::None => later(job.recorded_at, UNLISTED_AGE) <= begun,
    }
}

/// Whether a job that GitHub knows no more can be taken for ended. A younger one may be hidden: GitHub gives
/// the same answer to credentials that may not see it.
pub fn has_surely_ended(job: &WorkflowJob, now: Timestamp) -> bool {
    later(job.recorded_at, LONGEST_QUEUED) <= now
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{DISTRUSTED_FOR, VOUCHED_PERIOD};
    use super::{Found, Known, LONGEST_QUEUED, Listing, UNLISTED_AGE, UNSERVED_AGE};
    use super::{Listed, WEBHOOKS_ARRIVE_WITHIN, is_looked_into, listing_due};
    use super::{found, has_surely_ended, is_in_doubt};
    use crate::domain::later;
    use crate::domain::{Conclusion, JobReport, JobState, OpenRun, OpenRuns, RunId, WorkflowJob};
    use crate::policy::jobs::observe;
    use crate::policy::samples::{at, seen};

    const NOTHING: Known = Known { job: false, runner: false, served: false };

    fn queued() -> WorkflowJob {
        let job = observe(None, &seen(JobReport::Queued), None, None, at(0)).unwrap();
        assert!(matches!(job.state, JobState::Queued { .. }));
        job
    }

    #[test]
    fn idle_repositories_and_rare_kinds_of_runs_are_listed_less_often() {
        let (minute, hour) = (60, 3_600);
        let listed = Listed { at: Some(at(hour)), in_full: Some(at(hour)), ..Listed::default() };
        let due = |listed, heard, begun| listing_due(&listed, heard, false, at(begun));
        assert_eq!(due(Listed::default(), None, 0), Some(OpenRuns::All), "what nobody looked at");
        assert_eq!(due(listed, None, hour + 5 * minute), None, "nothing is going on");
        assert_eq!(due(listed, Some(at(hour)), hour + 5 * minute), Some(OpenRuns::Moving));
        let open = Listed { open: Some(at(hour)), ..listed };
        assert_eq!(due(open, None, hour + 5 * minute), Some(OpenRuns::Moving));
        for heard in [None, Some(at(hour))] {
            assert_eq!(due(listed, heard, hour + 30 * minute), Some(OpenRuns::All));
        }
    }

    #[test]
    fn a_listing_is_put_off_where_a_log_vouches_and_for_no_longer_than_its_period() {
        let listed = Listed { at: Some(at(0)), in_full: Some(at(0)), ..Listed::default() };
        let due = |listed: &Listed, vouched, begun| listing_due(listed, Some(at(0)), vouched, begun);
        assert_eq!(due(&listed, false, at(300)), Some(OpenRuns::Moving));
        assert_eq!(due(&listed, true, at(300)), None);
        assert_eq!(due(&listed, true, later(at(0), VOUCHED_PERIOD)), Some(OpenRuns::Moving));
        assert_eq!(due(&Listed::default(), true, at(0)), Some(OpenRuns::All), "nobody looked at it");
        let surprised = Listed { unheard: Some(at(0)), ..listed };
        assert_eq!(due(&surprised, true, at(300)), Some(OpenRuns::Moving), "GitHub kept silent");
        let trusted = later(at(0), DISTRUSTED_FOR);
        let listed = Listed { at: Some(trusted), in_full: Some(trusted), ..surprised };
        assert_eq!(listing_due(&listed, Some(trusted), true, trusted), None);
    }

    #[test]
    fn a_young_run_that_a_job_on_record_explains_is_passed_over() {
        let run = OpenRun { id: RunId(1), created_at: at(0) };
        let into = |explained, vouched, begun| is_looked_into(&run, explained, vouched, begun);
        for vouched in [false, true] {
            assert!(into(false, vouched, at(1)), "its job may be missing");
            assert!(!into(true, vouched, at(1)));
        }
        let old = later(at(0), WEBHOOKS_ARRIVE_WITHIN);
        assert!(into(true, false, old), "another one may be");
        assert!(!into(true, true, old));
        assert!(into(true, true, later(at(0), VOUCHED_PERIOD)), "GitHub may have kept silent");
    }

    #[test]
    fn what_is_recorded_can_be_got_rid_of_again() {
        let running = JobReport::InProgress { runner: "r".to_owned(), runner_id: None };
        let ended = JobReport::Completed { conclusion: Conclusion::Success, runner: None, ended_at: None };
        let (served, runner) = (Known { served: true, ..NOTHING }, Known { runner: true, ..NOTHING });
        let table = [
            (JobReport::Queued, served, Found::Wanted),
            (JobReport::Queued, NOTHING, Found::Passed),
            (JobReport::Waiting, served, Found::Passed),
            (running.clone(), served, Found::Passed),
            (running.clone(), runner, Found::Wanted),
            (ended.clone(), runner, Found::Passed),
        ];
        for (report, known, expected) in table {
            assert_eq!(found(&seen(report.clone()), known, at(1)), expected, "{report:?} {known:?}");
            let on_record = Known { job: true, ..known };
            assert_eq!(found(&seen(report), on_record, at(1)), Found::Wanted);
        }
        let waited = later(at(0), UNSERVED_AGE);
        assert_eq!(found(&seen(JobReport::Queued), NOTHING, waited), Found::Unserved);
    }

    #[test]
    fn a_job_is_asked_for_where_a_listing_lacks_it() {
        let job = queued();
        assert!(is_in_doubt(&job, Listing::Without, at(1)));
        assert!(!is_in_doubt(&job, Listing::Without, at(0)), "the listing may have begun before the job");
        assert!(!is_in_doubt(&job, Listing::With, at(1_000_000)));
        assert!(!is_in_doubt(&job, Listing::Unknown, at(1_000_000)));
        assert!(!is_in_doubt(&job, Listing::None, at(1)));
        assert!(is_in_doubt(&job, Listing::None, later(at(0), UNLISTED_AGE)));
    }

    #[test]
    fn what_github_knows_no_more_ends_after_a_day() {
        let (job, day) = (queued(), later(at(0), LONGEST_QUEUED));
        assert!(has_surely_ended(&job, day));
        assert!(!has_surely_ended(&job, day - Duration::from_secs(1)));
    }
}
