//! A runner's life: what follows from an event.
//!
//! [`step`] is total: any event has an answer in any state. It takes the record as it is
//! and gives the record that is to be saved, so that no half-changed one exists. [`wake`] says when a runner must be
//! looked at again although nothing happens: every state but one has such a time. The exception is `Busy`
//! without `max_job_time`, which waits for the job's end, for the instance's end, or for an operator.
//!
//! Promises 1 and 5 are kept here: what is busy is retired only when its job completed, its instance is
//! gone, an operator forces it, or its `max_job_time` ran out; `create` is asked for once.

#![allow(clippy::match_same_arms, reason = "in a table two rows may well say the same")]

mod machine;
mod retiring;
mod serving;
mod starting;
#[cfg(test)]
mod tests;
mod trouble;
mod trust;

use std::time::Duration;

use jiff::Timestamp;

pub use machine::{MOST_MINTS, MachineWord, NoConfig, may_mint};
pub use retiring::{is_given_up_unseen, is_too_early_to_count};
pub use trust::relies_on_the_store;

use crate::domain::{
    CreateStep, GitHubRunnerId, InstanceFailure, InstanceId, InstanceState, JobRef, Leaving, Limits, Phase,
    RetireReason, RetireStep, Runner, RunnerState, later,
};

/// What one look at GitHub said about a runner's registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationReading {
    /// The look failed, or was not complete. It says nothing.
    Unknown,
    /// There is no registration.
    Absent,
    /// There is one.
    Present {
        /// Whether the runner is connected.
        online: bool,
        /// Whether GitHub calls it busy.
        busy: bool,
    },
}

/// What one complete look at a backend said about a runner's instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceReading {
    /// There is no instance, or what is left of it is [`InstanceState::Gone`].
    Absent {
        /// How long after a `create` an instance may still appear.
        settle: Duration,
        /// How long one that an answer has named may still be missing.
        lag: Duration,
    },
    /// There is one.
    Present {
        /// The instance.
        id: InstanceId,
        /// What it is doing.
        state: InstanceState,
    },
}

/// Something that happened to a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A worker begins to bring it up.
    Started,
    /// A worker begins to bring it up, and its machine is to ask for its JIT config: the backend is about to be asked.
    StartedToCallBack,
    /// GitHub gave a JIT config; the backend is about to be asked.
    Registered {
        /// GitHub's number of the registration.
        id: GitHubRunnerId,
    },
    /// GitHub refused to register it, for good.
    RegistrationFailed {
        /// What GitHub said.
        detail: String,
        /// Whether another runner of its group would fare no better.
        of_group: bool,
    },
    /// The backend accepted to create its instance.
    Created {
        /// The instance.
        id: InstanceId,
    },
    /// The backend refused, and made nothing.
    CreateFailed {
        /// What kind of refusal.
        kind: InstanceFailure,
        /// What the backend said.
        detail: String,
        /// When the backend wants to be asked again, if it said so.
        retry_after: Option<Duration>,
    },
    /// The backend's answer was lost, or the worker that asked was.
    CreateUnclear {
        /// What is known of why.
        detail: String,
    },
    /// A look at the backend, begun at a time.
    Instance {
        /// What it said.
        reading: InstanceReading,
        /// When it was begun, by the store's time.
        begun: Timestamp,
    },
    /// A look at GitHub, begun at a time.
    Registration {
        /// What it said.
        reading: RegistrationReading,
        /// When it was begun, by the store's time.
        begun: Timestamp,
    },
    /// It was told to run a job.
    JobStarted {
        /// The job.
        job: JobRef,
    },
    /// Its machine says that it has a job. Which one, GitHub has yet to tell.
    JobSignalled {
        /// The job that it presumably is.
        presumed: Option<JobRef>,
        /// What it said, in words.
        said: Option<String>,
    },
    /// Its machine said something else.
    Machine(MachineWord),
    /// A job that it ran has ended.
    JobCompleted {
        /// The job.
        job: JobRef,
    },
    /// No job needs it.
    Unneeded,
    /// A job needs it after all.
    Needed,
    /// An operator wants it gone.
    OperatorRetire {
        /// Whether a running job may be killed for it.
        force: bool,
    },
    /// Time has passed: see which deadlines are over.
    Tick,
    /// GitHub removed the registration, or had none.
    Deregistered,
    /// GitHub refused to remove the registration, because the runner runs a job.
    DeregisterRefused,
    /// The backend accepted to delete the instance.
    DeleteAccepted,
    /// What is done for it failed, and is tried again.
    Troubled {
        /// What was said.
        detail: String,
    },
    /// The store lost what it last acknowledged: what was gathered before to take a runner away counts no
    /// more.
    EvidenceLost,
}

/// What a runner is after an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// As before: nothing need be saved.
    Unchanged,
    /// This record is to be saved.
    Changed(Box<Runner>),
    /// The record is to be removed and the slot freed.
    Ended {
        /// Why it was taken away.
        why: RetireReason,
    },
}

/// When a runner must be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// By a `Provision` task, not before this time.
    Provision(Timestamp),
    /// By a `Retire` task, not before this time.
    Retire(Timestamp),
    /// By the `Provision` task that brought it here: a worker holds it until the outcome is known, and it
    /// comes back when that worker is lost.
    Held,
}

/// What follows for a runner from an event.
pub fn step(runner: &Runner, event: &Event, limits: &Limits, now: Timestamp) -> Next {
    let change = match &runner.state {
        RunnerState::Requested => starting::requested(event, now),
        RunnerState::Creating { create } => starting::creating(runner, *create, event, limits, now),
        RunnerState::Booting => serving::booting(runner, event, limits, now),
        RunnerState::Idle { leaving } => serving::idle(runner, leaving.as_ref(), event, limits, now),
        RunnerState::Busy { job } => serving::busy(runner, job.as_ref(), event, limits, now),
        RunnerState::Retiring { why, retire } => retiring::retiring(runner, why, *retire, event, limits, now),
    };
    apply(runner, change, event, now)
}

/// What a state answers to an event: the new state, or nothing, with what the record learns beside.
#[derive(Debug)]
enum Change {
    Nothing,
    State(RunnerState),
    Retire(RetireReason, RetireStep),
    Missing(Timestamp),
    End(RetireReason),
}

impl Change {
    const fn retire(why: RetireReason, retire: RetireStep) -> Self {
        Self::Retire(why, retire)
    }
}

fn apply(before: &Runner, change: Change, event: &Event, now: Timestamp) -> Next {
    let mut runner = before.clone();
    learn(&mut runner, event, now);
    match change {
        Change::Nothing => {}
        Change::State(state) => runner.state = state,
        Change::Retire(why, retire) => runner.state = RunnerState::Retiring { why: why.bounded(), retire },
        Change::Missing(since) => runner.missing_since = Some(since),
        Change::End(why) => return Next::Ended { why: why.bounded() },
    }
    if runner.phase() != before.phase() {
        runner.since = now;
        if matches!(runner.phase(), Phase::Idle | Phase::Busy) {
            runner.trouble = None;
        }
    }
    if runner == *before { Next::Unchanged } else { Next::Changed(Box::new(runner)) }
}

/// Facts that an event tells whatever the state.
fn learn(runner: &mut Runner, event: &Event, now: Timestamp) {
    match event {
        Event::Registered { id } => runner.registration = Some(*id),
        Event::Created { id } => named(runner, id, now),
        Event::Instance { reading: InstanceReading::Present { id, state }, .. }
            if *state != InstanceState::Gone =>
        {
            named(runner, id, now);
        }
        Event::Registration { reading: RegistrationReading::Present { online: true, .. }, .. } => {
            seen_online(runner, now);
        }
        Event::JobSignalled { presumed, said } => {
            seen_online(runner, now);
            runner.presumed = presumed.clone().or(runner.presumed.take());
            if let Some(said) = said {
                runner.machine.note(said, now);
            }
        }
        Event::Machine(word) => machine::learn(runner, word, now),
        Event::JobStarted { .. } => {
            seen_online(runner, now);
            runner.presumed = None;
        }
        Event::JobCompleted { .. } => runner.presumed = None,
        Event::EvidenceLost => runner.missing_since = None,
        Event::Troubled { detail } | Event::CreateUnclear { detail } => trouble::note(runner, detail, now),
        Event::Started
        | Event::StartedToCallBack
        | Event::RegistrationFailed { .. }
        | Event::CreateFailed { .. }
        | Event::Instance { .. }
        | Event::Registration { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::OperatorRetire { .. }
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted => {}
    }
}

fn seen_online(runner: &mut Runner, now: Timestamp) {
    runner.online_at = runner.online_at.or(Some(now));
}

/// An answer of the backend named its instance.
fn named(runner: &mut Runner, id: &InstanceId, now: Timestamp) {
    if runner.instance.as_ref() != Some(id) {
        runner.instance = Some(id.clone());
        runner.named_at = Some(now);
    }
    runner.missing_since = None;
}

/// When a runner must be looked at again although nothing happens.
///
/// `None` for a `Busy` one without `max_job_time`.
pub fn wake(runner: &Runner, limits: &Limits, now: Timestamp) -> Option<Wake> {
    match &runner.state {
        RunnerState::Requested => Some(Wake::Provision(now)),
        RunnerState::Creating { .. } => Some(Wake::Held),
        RunnerState::Booting => Some(Wake::Provision(start_deadline(runner, limits))),
        RunnerState::Idle { leaving: None } => Some(Wake::Retire(later(runner.since, limits.max_idle_age))),
        RunnerState::Idle { leaving: Some(leaving) } => {
            Some(Wake::Retire(next_reading(runner, leaving, now)))
        }
        RunnerState::Busy { .. } => limits.max_job_time.map(|limit| Wake::Retire(later(runner.since, limit))),
        RunnerState::Retiring { retire, .. } => Some(Wake::Retire(retiring::next_try(runner, retire, now))),
    }
}

/// Until when a runner must have come online: `start_timeout` after its backend was asked, or told of its
/// instance. What GitHub took before that to register it is not counted.
pub fn start_deadline(runner: &Runner, limits: &Limits) -> Timestamp {
    let begun = match &runner.state {
        RunnerState::Creating { create: CreateStep::Asked { at, .. } } => *at,
        RunnerState::Requested
        | RunnerState::Creating { create: CreateStep::Registering }
        | RunnerState::Booting
        | RunnerState::Idle { .. }
        | RunnerState::Busy { .. }
        | RunnerState::Retiring { .. } => runner.since,
    };
    later(begun, limits.start_timeout)
}

/// Whether a runner's retirement takes longer than `retire_timeout`. It goes on all the same, and is shown.
pub fn is_overdue(runner: &Runner, limits: &Limits, now: Timestamp) -> bool {
    runner.phase() == Phase::Retiring && now >= later(runner.since, limits.retire_timeout)
}

/// Whether GitHub may still have the registration of a runner that was taken away for a reason.
///
/// GitHub itself removes that of an ephemeral runner whose job completed, and it was asked already where
/// that came first.
pub const fn may_leave_registration(why: &RetireReason) -> bool {
    match why {
        RetireReason::JobCompleted { .. }
        | RetireReason::Surplus
        | RetireReason::TooOld
        | RetireReason::StartTimeout
        | RetireReason::RegistrationGone
        | RetireReason::Offline
        | RetireReason::NeverCreated
        | RetireReason::Orphan
        | RetireReason::MachineEnded { .. }
        | RetireReason::Operator { force: false } => false,
        RetireReason::JobTimeout { .. }
        | RetireReason::RegistrationFailed { .. }
        | RetireReason::CreateFailed { .. }
        | RetireReason::InstanceGone
        | RetireReason::InstanceStopped
        | RetireReason::InstanceFailed { .. }
        | RetireReason::Operator { force: true } => true,
    }
}

/// How long a machine waits for the answer to its call for a JIT config: no call to GitHub for it takes longer.
pub const MINT_WITHIN: Duration = Duration::from_secs(20);

/// For how long the machine of an idle runner that is to go is asked itself before GitHub is: five heartbeats or more.
pub const ASKED_FOR: Duration = Duration::from_mins(5);

/// When the next reading of an idle runner that is to go may count.
fn next_reading(runner: &Runner, leaving: &Leaving, now: Timestamp) -> Timestamp {
    let settled = later(runner.online_at.unwrap_or(runner.since), Limits::READING_AGE);
    let apart = leaving.not_busy_at.map_or(now, |first| later(first, Limits::READING_GAP));
    settled.max(apart).max(leaving.asked_until.unwrap_or(now)).max(now)
}

/// A pause that grows with the time something has taken already, between 100 ms and one minute.
fn pause_after(since: Timestamp, now: Timestamp) -> Duration {
    let spent = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    (spent / 4).clamp(Duration::from_millis(100), Duration::from_mins(1))
}
