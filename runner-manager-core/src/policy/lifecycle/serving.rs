//! While there is an instance: `Booting`, `Idle` and `Busy`.

use std::time::Duration;

use jiff::Timestamp;

use super::machine;
use super::{ASKED_FOR, Change, Event, InstanceReading, MachineWord, RegistrationReading, start_deadline};
use crate::domain::{
    InstanceState, JobRef, Leaving, Limits, RetireReason, RetireStep, Runner, RunnerState, later,
};
use crate::flaws::{Flaw, is_on};

/// The instance exists; its runner has yet to come online.
pub(super) fn booting(runner: &Runner, event: &Event, limits: &Limits, now: Timestamp) -> Change {
    match event {
        Event::JobStarted { job } => Change::State(RunnerState::Busy { job: Some(job.clone()) }),
        Event::JobSignalled { .. } => Change::State(RunnerState::Busy { job: None }),
        Event::JobCompleted { job } => completed(job),
        Event::Registration { reading, .. } => match reading {
            RegistrationReading::Present { busy: true, .. } => Change::State(RunnerState::Busy { job: None }),
            RegistrationReading::Present { online: true, busy: false } => {
                Change::State(RunnerState::Idle { leaving: None })
            }
            RegistrationReading::Present { online: false, busy: false }
            | RegistrationReading::Absent
            | RegistrationReading::Unknown => Change::Nothing,
        },
        Event::Instance { reading, begun } => instance(runner, reading, *begun),
        Event::OperatorRetire { force: true } => {
            Change::retire(RetireReason::Operator { force: true }, RetireStep::Delete)
        }
        // It may be online, and have a job, since it was last looked at: it goes as an idle one does.
        Event::OperatorRetire { force: false } => {
            leave(runner, None, RetireReason::Operator { force: false }, now)
        }
        Event::RegistrationFailed { detail, .. } => Change::retire(
            RetireReason::RegistrationFailed { detail: detail.clone() },
            RetireStep::Deregister,
        ),
        Event::Machine(MachineWord::Listens) => stay(),
        Event::Machine(MachineWord::Ends { failed, detail }) => machine::ends(*failed, detail),
        Event::Tick if now >= start_deadline(runner, limits) => {
            Change::retire(RetireReason::StartTimeout, RetireStep::Deregister)
        }
        Event::Tick
        | Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::Machine(
            MachineWord::Said { .. }
            | MachineWord::ConfigAsked { .. }
            | MachineWord::ConfigMade { .. }
            | MachineWord::ConfigLost { .. },
        )
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::EvidenceLost => Change::Nothing,
    }
}

/// Registered and waiting. It goes only after two readings at GitHub; see promise 1.
pub(super) fn idle(
    runner: &Runner,
    leaving: Option<&Leaving>,
    event: &Event,
    limits: &Limits,
    now: Timestamp,
) -> Change {
    match event {
        Event::JobStarted { job } => Change::State(RunnerState::Busy { job: Some(job.clone()) }),
        Event::JobSignalled { .. } => Change::State(RunnerState::Busy { job: None }),
        Event::JobCompleted { job } => completed(job),
        Event::Registration { reading, begun } => idle_reading(runner, leaving, *reading, *begun, now),
        Event::Instance { reading, begun } => instance(runner, reading, *begun),
        Event::Unneeded => leave(runner, leaving, RetireReason::Surplus, now),
        Event::Needed => match leaving {
            Some(Leaving { reason: RetireReason::Surplus, .. }) => stay(),
            Some(_) | None => Change::Nothing,
        },
        Event::OperatorRetire { force: true } => {
            Change::retire(RetireReason::Operator { force: true }, RetireStep::Delete)
        }
        Event::OperatorRetire { force: false } => {
            let reason = RetireReason::Operator { force: false };
            let leaving = match leaving {
                Some(leaving) => Leaving { reason, ..leaving.clone() },
                None => to_go(runner, reason, now),
            };
            Change::State(RunnerState::Idle { leaving: Some(leaving) })
        }
        Event::EvidenceLost => match leaving {
            Some(leaving) => no_reading(leaving),
            None => Change::Nothing,
        },
        Event::Tick if now >= later(runner.since, limits.max_idle_age) => {
            leave(runner, leaving, RetireReason::TooOld, now)
        }
        // It was asked, or it ends by itself: no job can come to it any more.
        Event::Machine(MachineWord::Ends { failed, detail }) => match leaving {
            Some(leaving) => Change::retire(leaving.reason.clone(), RetireStep::Deregister),
            None => machine::ends(*failed, detail),
        },
        Event::Tick
        | Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Machine(
            MachineWord::Said { .. }
            | MachineWord::Listens
            | MachineWord::ConfigAsked { .. }
            | MachineWord::ConfigMade { .. }
            | MachineWord::ConfigLost { .. },
        )
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. } => Change::Nothing,
    }
}

fn leave(runner: &Runner, leaving: Option<&Leaving>, reason: RetireReason, now: Timestamp) -> Change {
    match leaving {
        Some(_) => Change::Nothing,
        None => Change::State(RunnerState::Idle { leaving: Some(to_go(runner, reason, now)) }),
    }
}

/// It is to go. Its machine knows best whether it may: where it can be asked, it is.
fn to_go(runner: &Runner, reason: RetireReason, now: Timestamp) -> Leaving {
    let asked_until = runner.machine.can_be_asked().then(|| later(now, ASKED_FOR));
    Leaving { reason, not_busy_at: None, asked_until }
}

/// The count of readings begins anew.
fn no_reading(leaving: &Leaving) -> Change {
    match leaving.not_busy_at {
        Some(_) => Change::State(RunnerState::Idle {
            leaving: Some(Leaving { not_busy_at: None, ..leaving.clone() }),
        }),
        None => Change::Nothing,
    }
}

const fn stay() -> Change {
    Change::State(RunnerState::Idle { leaving: None })
}

/// What GitHub says of an idle runner. Busy at once makes it busy; anything less than a complete "not busy"
/// begins the count of readings anew.
fn idle_reading(
    runner: &Runner,
    leaving: Option<&Leaving>,
    reading: RegistrationReading,
    begun: Timestamp,
    now: Timestamp,
) -> Change {
    match (reading, leaving) {
        (RegistrationReading::Present { busy: true, .. }, _) => {
            Change::State(RunnerState::Busy { job: None })
        }
        (RegistrationReading::Unknown, Some(leaving)) => no_reading(leaving),
        (RegistrationReading::Unknown, None) => Change::Nothing,
        (RegistrationReading::Present { online: true, busy: false }, None) => Change::Nothing,
        (
            RegistrationReading::Present { online: true, busy: false },
            Some(Leaving { reason: RetireReason::Offline | RetireReason::RegistrationGone, .. }),
        ) => stay(),
        (RegistrationReading::Present { online: false, busy: false }, None) => {
            not_busy(runner, &lost_to_github(RetireReason::Offline), begun, now)
        }
        (RegistrationReading::Absent, None) => {
            not_busy(runner, &lost_to_github(RetireReason::RegistrationGone), begun, now)
        }
        (RegistrationReading::Present { busy: false, .. } | RegistrationReading::Absent, Some(leaving)) => {
            not_busy(runner, leaving, begun, now)
        }
    }
}

/// GitHub gives it no job any more, whatever its machine says: that is not waited for.
const fn lost_to_github(reason: RetireReason) -> Leaving {
    Leaving { reason, not_busy_at: None, asked_until: None }
}

/// Counts a complete reading that called the runner not busy: the first counts no earlier than 2 min after
/// it came online, the second at least 60 s after the first. What GitHub said, it said at some time between
/// the begin and the end of a reading, so the gap is from the first one's end to the second one's begin.
fn not_busy(runner: &Runner, leaving: &Leaving, begun: Timestamp, now: Timestamp) -> Change {
    if leaving.asked_until.is_some_and(|until| begun < until) {
        return Change::Nothing;
    }
    let settled = later(runner.online_at.unwrap_or(runner.since), Limits::READING_AGE);
    let not_busy_at = match leaving.not_busy_at {
        Some(first) if begun >= later(first, Limits::READING_GAP) => {
            return Change::retire(leaving.reason.clone(), RetireStep::Deregister);
        }
        Some(first) => Some(first),
        None if begun >= settled && is_on(Flaw::RetireOnOneReading) => {
            return Change::retire(leaving.reason.clone(), RetireStep::Deregister);
        }
        None => (begun >= settled).then_some(now),
    };
    Change::State(RunnerState::Idle { leaving: Some(Leaving { not_busy_at, ..leaving.clone() }) })
}

/// It runs a job. Nothing that GitHub says of its registration ends that.
pub(super) fn busy(
    runner: &Runner,
    running: Option<&JobRef>,
    event: &Event,
    limits: &Limits,
    now: Timestamp,
) -> Change {
    match event {
        Event::JobStarted { job } if running.is_none() => {
            Change::State(RunnerState::Busy { job: Some(job.clone()) })
        }
        Event::JobCompleted { job } if running.is_none_or(|running| running.id == job.id) => completed(job),
        Event::Instance { reading, begun } => instance(runner, reading, *begun),
        Event::OperatorRetire { force: true } => {
            Change::retire(RetireReason::Operator { force: true }, RetireStep::Delete)
        }
        Event::Tick if limits.max_job_time.is_some_and(|limit| now >= later(runner.since, limit)) => {
            Change::retire(RetireReason::JobTimeout { job: running.cloned() }, RetireStep::Delete)
        }
        Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::JobCompleted { .. }
        | Event::OperatorRetire { force: false }
        | Event::Tick
        | Event::Started
        | Event::StartedToCallBack
        | Event::Machine(_)
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Registration { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::EvidenceLost => Change::Nothing,
    }
}

fn completed(job: &JobRef) -> Change {
    Change::retire(RetireReason::JobCompleted { job: job.clone() }, RetireStep::Delete)
}

/// What a backend says of the instance. One that ended is retired at once; a missing one counts only when a
/// second reading, begun past the settle time, lacks it too.
fn instance(runner: &Runner, reading: &InstanceReading, begun: Timestamp) -> Change {
    match reading {
        InstanceReading::Present { state, .. } => match state {
            InstanceState::Pending | InstanceState::Running => Change::Nothing,
            InstanceState::Stopped => Change::retire(RetireReason::InstanceStopped, RetireStep::Delete),
            InstanceState::Failed(kind, detail) => Change::retire(
                RetireReason::InstanceFailed { kind: *kind, detail: detail.clone() },
                RetireStep::Delete,
            ),
            InstanceState::Gone => Change::End(RetireReason::InstanceGone),
        },
        InstanceReading::Absent { settle, .. } => missing(runner, *settle, begun),
    }
}

fn missing(runner: &Runner, settle: Duration, begun: Timestamp) -> Change {
    match runner.missing_since {
        Some(first) if begun >= later(first, settle.max(Duration::from_secs(1))) => {
            Change::End(RetireReason::InstanceGone)
        }
        Some(_) => Change::Nothing,
        None if begun >= later(runner.since, settle) => Change::Missing(begun),
        None => Change::Nothing,
    }
}
