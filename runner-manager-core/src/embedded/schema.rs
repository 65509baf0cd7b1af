//! Which tables there are, what their records look like, and where each index entry stands.
//!
//! Records are JSON. An index has no data of its own: its key says where the record stands in an order, and
//! its value is the record's key. Several indexes share a table, each under a byte of its own, because a
//! commit costs the more the more tables it touches.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::Key;
use crate::domain::{BackendName, GroupName, HookPlace, JobId, JobState, Phase, Runner, Scope, WorkflowJob};
use crate::queue::{Priority, Task};
use crate::store::{Version, Versioned};

/// The version of this schema. One that is greater is refused, one that is smaller would be brought up.
pub(super) const VERSION: u64 = 1;

/// The row of [`Table::Meta`] with the schema's version, 8 bytes, the highest first.
pub(super) const SCHEMA_ROW: &[u8] = b"schema";

/// The row of [`Table::Meta`] with the number that is given out next, 8 bytes, the highest first. Versions,
/// claims and places in the queue are numbered from it, so that no number comes twice.
pub(super) const NUMBER_ROW: &[u8] = b"number";

/// The row of [`Table::Meta`] with the deployment's record.
pub(super) const DEPLOYMENT_ROW: &[u8] = b"deployment";

/// The row of [`Table::Meta`] with the life of the storage that is trusted, 8 bytes, the highest first. The
/// first life is trusted without: a file does not forget what it acknowledged, and is missed when it is gone.
pub(super) const TRUSTED_ROW: &[u8] = b"trusted";

/// The rows of [`Table::Meta`] with what is known of hooks. No other row's key begins with its byte.
pub(super) fn hooks() -> Key {
    Key::of(Tag::HOOK)
}

/// The row of [`Table::Meta`] with what is known of a place's hook.
pub(super) fn hook_key(place: &HookPlace) -> Key {
    hooks().last(&place.key())
}

/// The tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// What the storage knows of itself.
    Meta,
    /// Groups by name.
    Groups,
    /// Each group's counters by its name; none where all are 0.
    Counts,
    /// Runners by name.
    Runners,
    /// Indexes of the runners.
    RunnersBy,
    /// Jobs by number.
    Jobs,
    /// Indexes of the jobs.
    JobsBy,
    /// Jobs that are completed, by the time of that.
    Finished,
    /// Runners that are gone, by the time of that.
    Ended,
    /// Answers to writes, by their operation.
    Operations,
    /// Operations by time.
    OperationsBy,
    /// What waits and what is held, by the task's key.
    Tasks,
    /// Indexes of the tasks.
    TasksBy,
    /// Tasks that were given up, by key.
    Dead,
    /// Tasks that were given up, by time.
    DeadBy,
}

impl Table {
    /// All tables, each at the place that its number names.
    pub(super) const ALL: [Self; 15] = [
        Self::Meta,
        Self::Groups,
        Self::Counts,
        Self::Runners,
        Self::RunnersBy,
        Self::Jobs,
        Self::JobsBy,
        Self::Finished,
        Self::Ended,
        Self::Operations,
        Self::OperationsBy,
        Self::Tasks,
        Self::TasksBy,
        Self::Dead,
        Self::DeadBy,
    ];

    /// The table's name in the file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Groups => "groups",
            Self::Counts => "counts",
            Self::Runners => "runners",
            Self::RunnersBy => "runners_by",
            Self::Jobs => "jobs",
            Self::JobsBy => "jobs_by",
            Self::Finished => "finished",
            Self::Ended => "ended",
            Self::Operations => "operations",
            Self::OperationsBy => "operations_by",
            Self::Tasks => "tasks",
            Self::TasksBy => "tasks_by",
            Self::Dead => "dead",
            Self::DeadBy => "dead_by",
        }
    }

    /// The table's place in [`Table::ALL`].
    pub(super) const fn place(self) -> usize {
        self as usize
    }
}

/// The first byte of each index's keys.
#[derive(Debug)]
pub(super) struct Tag;

impl Tag {
    const GROUP: u8 = b'g';
    const PHASE: u8 = b'p';
    const BACKEND: u8 = b'b';
    const SCOPE: u8 = b's';
    const RECORDED: u8 = b'r';
    const QUEUED: u8 = b'q';
    const UNSERVED: u8 = b'u';
    const HOOK: u8 = b'h';
    /// Tasks that wait.
    pub(super) const WAITING: u8 = b'w';
    /// Tasks that are held.
    pub(super) const HELD: u8 = b'h';
}

/// A record with its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored<T> {
    /// The version.
    pub(super) version: u64,
    /// The record.
    pub(super) value: T,
}

impl<T> From<Stored<T>> for Versioned<T> {
    fn from(stored: Stored<T>) -> Self {
        Self { value: stored.value, version: Version(stored.version) }
    }
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answered {
    /// When.
    pub(super) at: Timestamp,
    /// The version of each record after it.
    pub(super) versions: Vec<Option<Version>>,
}

/// What the queue knows of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The task.
    pub(super) task: Task,
    /// Set while the task waits. While it is also held, this is what was pushed meanwhile.
    pub(super) waiting: Option<Waiting>,
    /// Set while the task is held.
    pub(super) held: Option<Held>,
}

/// A task's wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    /// When the task is due.
    pub(super) due: Timestamp,
    /// A push cannot bring the task forward to before this time: it waits for another try.
    pub(super) floor: Option<Timestamp>,
    /// What is taken first.
    pub(super) priority: Priority,
    /// What is taken first of what is due at the same time.
    pub(super) sequence: u64,
    /// How often the task has been claimed since it last succeeded.
    pub(super) attempts: u32,
}

impl Waiting {
    /// One wait in the place of two of the same key.
    pub(super) fn merge(self, other: Self) -> Self {
        let floor = self.floor.max(other.floor);
        let due = self.due.min(other.due);
        Self {
            due: floor.map_or(due, |floor| due.max(floor)),
            floor,
            priority: self.priority.max(other.priority),
            sequence: self.sequence.min(other.sequence),
            attempts: self.attempts.max(other.attempts),
        }
    }
}

/// One worker's hold on a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// The claim's number.
    pub(super) number: u64,
    /// When the hold ends.
    pub(super) until: Timestamp,
    /// The wait that it ended.
    pub(super) from: Waiting,
}

/// Index of [`Table::RunnersBy`]: runners of a group, by name.
pub(super) fn runners_of(group: &GroupName) -> Key {
    Key::of(Tag::GROUP).text(group.as_str())
}

/// Index of [`Table::RunnersBy`]: runners of a group in a phase, those longest in it first.
pub(super) fn runners_in(group: &GroupName, phase: Phase) -> Key {
    Key::of(Tag::PHASE).text(group.as_str()).byte(phase as u8)
}

/// Index of [`Table::RunnersBy`]: runners on a backend, by name.
pub(super) fn runners_on(backend: &BackendName) -> Key {
    Key::of(Tag::BACKEND).text(backend.as_str())
}

/// Index of [`Table::RunnersBy`]: runners of a scope, by name.
pub(super) fn runners_under(scope: &Scope) -> Key {
    Key::of(Tag::SCOPE).text(&scope.to_string().to_ascii_lowercase())
}

/// All index keys of a runner.
pub(super) fn runner_keys(runner: &Runner) -> [Key; 4] {
    let name = runner.name.as_str();
    [
        runners_of(&runner.group).last(name),
        runners_in(&runner.group, runner.phase()).time(runner.since).last(name),
        runners_on(&runner.backend).last(name),
        runners_under(&runner.scope).last(name),
    ]
}

/// The key of a job in [`Table::Jobs`].
pub(super) fn job_key(id: JobId) -> Key {
    Key::new().number(id.0)
}

/// Index of [`Table::JobsBy`]: all jobs, by when they were first heard of.
pub(super) fn jobs_recorded() -> Key {
    Key::of(Tag::RECORDED)
}

/// Index of [`Table::JobsBy`]: jobs that wait and count for a group, by when they were made.
pub(super) fn jobs_queued(group: &GroupName) -> Key {
    Key::of(Tag::QUEUED).text(group.as_str())
}

/// Index of [`Table::JobsBy`]: jobs that wait and that no group serves, by when they were made.
pub(super) fn jobs_unserved() -> Key {
    Key::of(Tag::UNSERVED)
}

/// All index keys of a job.
pub(super) fn job_keys(job: &WorkflowJob) -> Vec<Key> {
    let mut keys = vec![jobs_recorded().time(job.recorded_at).number(job.id.0)];
    if let JobState::Queued { group } = &job.state {
        let list = group.as_ref().map_or_else(jobs_unserved, jobs_queued);
        keys.push(list.time(job.created_at).number(job.id.0));
    }
    keys
}

/// The key of a job in [`Table::Finished`]; none while it is not completed.
pub(super) fn finished_key(job: &WorkflowJob) -> Option<Key> {
    match &job.state {
        JobState::Completed { at, .. } => Some(Key::new().time(*at).number(job.id.0)),
        JobState::Waiting
        | JobState::Queued { .. }
        | JobState::Presumed { .. }
        | JobState::InProgress { .. } => None,
    }
}

/// Index of [`Table::TasksBy`]: tasks of a lane that wait with a priority, by when they are due.
pub(super) fn tasks_waiting(lane: &str, priority: Priority) -> Key {
    let rank = match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    };
    Key::of(Tag::WAITING).text(lane).byte(rank)
}

/// The index key of a task that waits.
pub(super) fn waiting_key(lane: &str, waiting: &Waiting) -> Key {
    tasks_waiting(lane, waiting.priority).time(waiting.due).number(waiting.sequence)
}

/// Index of [`Table::TasksBy`]: tasks of a lane that are held, by when the hold ends.
pub(super) fn tasks_held(lane: &str) -> Key {
    Key::of(Tag::HELD).text(lane)
}

/// The index key of a task that is held.
pub(super) fn held_key(lane: &str, held: &Held) -> Key {
    tasks_held(lane).time(held.until).number(held.number)
}
