//! Workflow jobs: what GitHub tells of them, and our record of each.

use std::fmt;
use std::ops::Not;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GitHubRunnerId, GroupName, JobId, Labels, Loss, Repository, RunId, RunnerName};

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// It did what it should.
    Success,
    /// It failed.
    Failure,
    /// Somebody, or a newer run, cancelled it.
    Cancelled,
    /// Its condition was false.
    Skipped,
    /// It ran longer than its workflow allows.
    TimedOut,
    /// Neither good nor bad.
    Neutral,
    /// Somebody has to act.
    ActionRequired,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

impl Conclusion {
    /// GitHub's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
            Self::TimedOut => "timed_out",
            Self::Neutral => "neutral",
            Self::ActionRequired => "action_required",
            Self::Other => "other",
        }
    }
}

/// Names one job for people and for a runner that runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRef {
    /// GitHub's number.
    pub id: JobId,
    /// The repository that it belongs to.
    pub repository: Repository,
}

impl fmt::Display for JobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.id, self.repository)
    }
}

/// What one look at a job said: a webhook, or an answer of GitHub's API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobObservation {
    /// GitHub's number of the job.
    pub id: JobId,
    /// The run that it is part of.
    pub run: RunId,
    /// Which attempt of that run, from 1.
    pub attempt: u32,
    /// The repository.
    pub repository: Repository,
    /// The slug of the enterprise that the repository belongs to, where GitHub said so.
    pub enterprise: Option<String>,
    /// Whether the repository is public, where GitHub said so.
    #[serde(default)]
    pub public: bool,
    /// The job's name in its workflow.
    pub name: String,
    /// The workflow's name.
    pub workflow: Option<String>,
    /// What the job asks for.
    pub labels: Labels,
    /// When GitHub made the job.
    pub created_at: Timestamp,
    /// What was said.
    pub report: JobReport,
}

/// What was said of a job's progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum JobReport {
    /// It waits for a deployment protection rule: no runner is wanted yet.
    Waiting,
    /// It waits for a runner.
    Queued,
    /// A runner has it.
    InProgress {
        /// The runner's name, ours or not.
        runner: String,
        /// GitHub's number of the runner.
        runner_id: Option<GitHubRunnerId>,
    },
    /// It has ended.
    Completed {
        /// How.
        conclusion: Conclusion,
        /// The runner that had it; none where it ended before one took it.
        runner: Option<String>,
        /// When it ended, by GitHub's time, where GitHub said so.
        #[serde(default)]
        ended_at: Option<Timestamp>,
    },
}

impl JobReport {
    /// The runner that has or had the job, ours or not.
    pub fn into_runner(self) -> Option<String> {
        match self {
            Self::InProgress { runner, .. } => Some(runner),
            Self::Completed { runner, .. } => runner,
            Self::Waiting | Self::Queued => None,
        }
    }
}

/// What a machine's job hook says of the one job that its runner gets: GitHub's agent runs the hook as the job
/// begins, and once more as it ends.
///
/// This is the machine's word and not GitHub's, and jobs have the run of their machine. So it can keep a runner from
/// being taken away, and say which job presumably waits no more; it ends nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSignal {
    /// The runner that the machine was made for.
    pub runner: RunnerName,
    /// The job's repository (`GITHUB_REPOSITORY`).
    pub repository: Repository,
    /// The run that it is part of (`GITHUB_RUN_ID`).
    pub run: RunId,
    /// Which attempt of that run, from 1 (`GITHUB_RUN_ATTEMPT`).
    pub attempt: u32,
    /// The key that the job has in its workflow's file (`GITHUB_JOB`). Its name is made from that, unless it is
    /// given one. The hook does not know GitHub's number of the job.
    pub key: String,
    /// What happens.
    pub moment: JobMoment,
}

/// When a machine's job hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobMoment {
    /// Before the job's first step.
    Begins,
    /// After its last one. The agent has yet to tell GitHub.
    Ends,
}

/// What we know of a job's progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum JobState {
    /// It waits for a deployment protection rule.
    Waiting,
    /// It waits for a runner.
    Queued {
        /// The one group that it counts for; none where no group serves it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<GroupName>,
    },
    /// A runner of ours has it by that runner's own word, as far as can be told: it counts for no group, and
    /// GitHub's word is waited for.
    Presumed {
        /// The runner.
        runner: RunnerName,
        /// When it said so, by the store's time.
        since: Timestamp,
    },
    /// A runner has it.
    InProgress {
        /// The runner's name, ours or not.
        runner: String,
        /// Since when, by the store's time.
        since: Timestamp,
    },
    /// It has ended.
    Completed {
        /// How.
        conclusion: Conclusion,
        /// The runner that had it, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runner: Option<String>,
        /// When we heard of it, by the store's time.
        at: Timestamp,
    },
}

/// Our record of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowJob {
    /// GitHub's number of the job.
    pub id: JobId,
    /// The run that it is part of.
    pub run: RunId,
    /// Which attempt of that run, from 1.
    #[serde(default = "first_attempt", skip_serializing_if = "is_first_attempt")]
    pub attempt: u32,
    /// The repository.
    pub repository: Repository,
    /// The slug of the enterprise that the repository belongs to, where GitHub said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enterprise: Option<String>,
    /// Whether the repository is public, where GitHub said so.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub public: bool,
    /// The job's name in its workflow.
    pub name: String,
    /// The workflow's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// What the job asks for.
    pub labels: Labels,
    /// When GitHub made the job.
    pub created_at: Timestamp,
    /// When we first heard of it, by the store's time.
    pub recorded_at: Timestamp,
    /// What we know of its progress.
    pub state: JobState,
    /// That it lost the machine under it, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Box<Loss>>,
}

const fn first_attempt() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives fields by reference")]
const fn is_first_attempt(attempt: &u32) -> bool {
    *attempt == first_attempt()
}

impl WorkflowJob {
    /// Names the job.
    pub fn reference(&self) -> JobRef {
        JobRef { id: self.id, repository: self.repository.clone() }
    }

    /// The group that counts this job as demand, if it waits and a group serves it.
    pub const fn demand(&self) -> Option<&GroupName> {
        match &self.state {
            JobState::Queued { group } => group.as_ref(),
            JobState::Waiting
            | JobState::Presumed { .. }
            | JobState::InProgress { .. }
            | JobState::Completed { .. } => None,
        }
    }

    /// Whether the job has ended.
    pub const fn is_completed(&self) -> bool {
        matches!(self.state, JobState::Completed { .. })
    }
}

/// A workflow run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRun {
    /// GitHub's number.
    pub id: RunId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Which of the open runs of a repository are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenRuns {
    /// Those that wait for a runner or have begun: where a job is in the queue, its run is nearly always one.
    Moving,
    /// Those, too, that wait for something else.
    All,
}

#[cfg(test)]
mod tests {
    use super::{Conclusion, JobState, WorkflowJob};

    #[test]
    fn a_conclusion_that_is_new_to_us_is_taken() {
        assert_eq!(serde_json::from_str::<Conclusion>("\"stale\"").unwrap(), Conclusion::Other);
        assert_eq!(serde_json::from_str::<Conclusion>("\"timed_out\"").unwrap(), Conclusion::TimedOut);
    }

    #[test]
    fn a_record_leaves_out_what_is_absent_and_may_have_it() {
        let short = r#"{"id":7,"run":1,"repository":"acme/app","name":"build","labels":[],
            "created_at":"2026-11-24T12:00:00Z","recorded_at":"2026-11-24T12:00:01Z","state":{"status":"queued"}}"#;
        let long = short.replace("\"queued\"", "\"queued\",\"group\":null");
        let long = long.replace(
            "\"name\"",
            r#""attempt":1,"enterprise":null,"public":false,"workflow":null,"lost":null,"name""#,
        );
        let read = |text: &str| serde_json::from_str::<WorkflowJob>(text).unwrap();
        let job = read(&long);
        assert_eq!((job.attempt, &job.state), (1, &JobState::Queued { group: None }));
        assert_eq!(job, read(short));
        assert_eq!(serde_json::to_string(&job).unwrap(), short.replace("\n            ", ""));
        let other = short.replace("\"name\"", r#""attempt":2,"public":true,"name""#);
        let other = serde_json::to_value(read(&other)).unwrap();
        assert_eq!((&other["attempt"], &other["public"]), (&2.into(), &true.into()));
    }
}
